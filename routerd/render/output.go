package render

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// Paths of the files, relative to HAProxy's working directory.
const (
	configPath      = "haproxy.cfg"
	crtListPath     = "crt-list.txt"
	defaultPairPath = "certs/_default.pem"
	page503Path     = "errors/503.http"
	page404Path     = "errors/404.http"

	mapHTTP          = "maps/http.map"           // host/path/ → backend, for plain HTTP
	mapHTTPWildcard  = "maps/http_wildcard.map"  //nolint:gosec // no credential: parent domain/path/ → backend|backend
	mapHTTPS         = "maps/https.map"          // host/path/ → backend, for TLS that ends here
	mapHTTPSWildcard = "maps/https_wildcard.map" // parent domain/path/ → backend
	mapTCP           = "maps/passthrough.map"    // server name → backend, for TLS that ends at the endpoint
	mapTCPWildcard   = "maps/passthrough_wildcard.map"
	mapReady         = "maps/ready.map" // ready → 1 or 0
	mapStamp         = "maps/stamp.map" // version → the version in force
)

// mapPaths are the maps that routes are looked up in.
var mapPaths = []string{mapHTTP, mapHTTPWildcard, mapHTTPS, mapHTTPSWildcard, mapTCP, mapTCPWildcard}

// output knows which files may differ from what is on disk.
type output struct {
	generation uint64                       // grows with every change
	touched    map[string]uint64            // path → generation of its last change
	written    map[string][sha256.Size]byte // path → digest of what is on disk
	paths      map[string]*certificate      // path → the certificate whose file it is
	ownDefault []byte                       // the router's own default certificate
	stamp      string
	unready    bool
	owners     []owner // of the lines of haproxy.cfg, in order
}

// owner says from which line on haproxy.cfg is a resource's.
type owner struct {
	line     int
	resource string
}

func newOutput() output {
	return output{
		touched: map[string]uint64{},
		written: map[string][sha256.Size]byte{},
		paths:   map[string]*certificate{},
	}
}

func (o *output) touch(path string) { o.touched[path] = o.generation }

// fixedPaths are the files that there are from the beginning.
func (r *Renderer) fixedPaths() []string {
	paths := append([]string{configPath, crtListPath, page503Path, page404Path, mapReady, mapStamp, defaultPairPath}, mapPaths...)
	if hasSuspects(r.options.version()) {
		paths = append(paths, mapSuspects)
	}
	return append(paths, optionMaps(r.options.version())...)
}

// SetStamp sets the version that maps/stamp.map tells.
func (r *Renderer) SetStamp(v snapshot.Version) {
	r.stamp = v.String()
	r.generation++
	r.touch(mapStamp)
}

// SetReady sets whether maps/ready.map says that the router is ready. It starts as ready.
func (r *Renderer) SetReady(ready bool) {
	r.unready = !ready
	r.generation++
	r.touch(mapReady)
}

// Dirty returns the files whose content is not what was last Written, in the order to write them: what
// haproxy.cfg refers to first, what is to be removed last. It costs as much as those files are large.
func (r *Renderer) Dirty() []File {
	var files []File
	for path := range r.touched {
		content, exists := r.content(path)
		digest, onDisk := r.written[path]
		switch {
		case exists && (!onDisk || digest != sha256.Sum256(content)):
			files = append(files, File{Path: path, Mode: r.options.fileMode(), Content: content, generation: r.generation})
		case !exists && onDisk:
			files = append(files, File{Path: path, Remove: true, generation: r.generation})
		default:
			delete(r.touched, path)
		}
	}
	rank := func(f File) int {
		switch {
		case f.Remove:
			return 3
		case f.Path == configPath:
			return 2
		case f.Path == crtListPath:
			return 1
		default:
			return 0
		}
	}
	slices.SortFunc(files, func(a, b File) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Path, b.Path))
	})
	return files
}

// Written says that these files, which Dirty returned, are on disk.
func (r *Renderer) Written(files []File) {
	for _, f := range files {
		if f.Remove {
			delete(r.written, f.Path)
		} else {
			r.written[f.Path] = sha256.Sum256(f.Content)
		}
		if r.touched[f.Path] <= f.generation {
			delete(r.touched, f.Path)
		}
	}
}

// Recheck takes note of files that were written and are not there any more, because somebody has tidied up: they are dirty
// again.
func (r *Renderer) Recheck(there func(path string) bool) {
	for path := range r.written {
		if !there(path) {
			delete(r.written, path)
			r.touch(path)
		}
	}
}

// Has tells whether the file of this path belongs to what is rendered: another, of an earlier life, may go.
func (r *Renderer) Has(path string) bool {
	switch path {
	case defaultPairPath:
		return r.ownDefault != nil
	case page503Path:
		return r.program.page503 != ""
	case page404Path:
		return r.program.page404 != ""
	default:
		return r.paths[path] != nil || slices.Contains(r.fixedPaths(), path)
	}
}

// Locate returns the resource that a line of haproxy.cfg, as Dirty last made it, came from. Lines count
// from 1.
func (r *Renderer) Locate(line int) (resource string, ok bool) {
	i, found := slices.BinarySearchFunc(r.owners, line, func(o owner, line int) int { return cmp.Compare(o.line, line) })
	if !found {
		i--
	}
	if i < 0 || r.owners[i].resource == "" {
		return "", false
	}
	return r.owners[i].resource, true
}

// content returns a file's content.
func (r *Renderer) content(path string) ([]byte, bool) {
	switch path {
	case configPath:
		return r.config(), true
	case crtListPath:
		return r.crtList(), true
	case defaultPairPath:
		pair := r.defaultPair()
		return pair, pair != nil
	case page503Path:
		return []byte(r.program.page503), r.program.page503 != ""
	case page404Path:
		return []byte(r.program.page404), r.program.page404 != ""
	case mapSuspects:
		return nil, hasSuspects(r.options.version())
	case mapReady:
		if r.unready {
			return []byte("ready 0\n"), true
		}
		return []byte("ready 1\n"), true
	case mapStamp:
		return []byte("version " + cmp.Or(r.stamp, "none") + "\n"), true
	}
	if slices.Contains(mapPaths, path) {
		return r.mapFile(path), true
	}
	if slices.Contains(optionMaps(r.options.version()), path) {
		return r.optionFile(path), true
	}
	if c := r.paths[path]; c != nil {
		return c.content(path), true
	}
	return nil, false
}

// config writes haproxy.cfg: the program, then the routes' backends by name.
func (r *Renderer) config() []byte {
	var b bytes.Buffer
	r.owners = r.owners[:0]
	lines := 1
	add := func(resource, text string) {
		if n := len(r.owners); n == 0 || r.owners[n-1].resource != resource {
			r.owners = append(r.owners, owner{lines, resource})
		}
		b.WriteString(text)
		lines += strings.Count(text, "\n")
	}
	add(tsujiv1.SettingsName, r.program.head(r.maxConnections()))
	for _, p := range r.allProfiles() {
		add(p.owner, p.text(p.name, r.program, r.options.version()))
	}
	add(tsujiv1.SettingsName, r.program.rest(r.passed))
	for _, path := range sortedKeys(r.caUsers) { // read while HAProxy can: a server may come when it is in its jail
		add(tsujiv1.SettingsName, "  default-server ca-file "+path+"\n")
	}
	for _, name := range r.sortedBackends() {
		rt := r.backends[name]
		add(rt.resource, rt.rendered.head(rt.profile))
		for _, s := range rt.rendered.Servers {
			add(rt.resource, "  "+s.Line()+"\n")
		}
	}
	return b.Bytes()
}

// CheckCertificates returns a configuration that uses certificates as haproxy.cfg does, each by itself, and does nothing
// else; nil: none of these resources is one. Their files must be there.
func (r *Renderer) CheckCertificates(resources []string) []byte {
	var pairs, cas strings.Builder
	for i, name := range resources {
		switch c := r.certificates[name]; {
		case c == nil:
		case c.isPair() && r.lines[name] > 0:
			fmt.Fprintf(&pairs, "  bind unix@run/check%d.sock ssl crt %s\n", i, c.path)
		case r.caUsers[c.path] > 0:
			fmt.Fprintf(&cas, "  server s%d 127.0.0.1:9 ssl verify required ca-file %s\n", i, c.path)
		}
	}
	if pairs.Len()+cas.Len() == 0 {
		return nil
	}
	return []byte(r.program.head(r.maxConnections()) + "\nfrontend check from " + profileClient + "\n" + pairs.String() +
		"\nbackend check from " + profileOwn + "\n" + cas.String())
}

// head returns the first lines of the backend's section.
func (b *Backend) head(p profile) string {
	if b.Cookie == "" {
		return "\nbackend " + b.Name + " from " + b.Profile + "\n"
	}
	p.cookie = false
	return "\nbackend " + b.Name + " from " + p.name() + "\n" + cookieLine(b.Cookie)
}

// ownedProfile is a profile and whose it is: the Settings', or that of a route that it was made for.
type ownedProfile struct {
	profile
	name, owner string
}

// allProfiles returns the common profiles and those that were added, by name.
func (r *Renderer) allProfiles() []ownedProfile {
	var list []ownedProfile
	for _, p := range commonProfiles(r.listsNames()) {
		list = append(list, ownedProfile{p, p.name(), tsujiv1.SettingsName})
	}
	owners := map[profile]string{}
	if len(r.profiles) > 0 {
		for _, rt := range r.routes {
			p := rt.profile
			p.cookie = false
			if o, known := owners[p]; !known || rt.resource < o {
				owners[p] = rt.resource
			}
		}
	}
	sections := map[string]bool{}
	for p := range r.profiles {
		if p.common(r.listsNames()) { // the Settings have become others
			continue
		}
		for _, cookie := range []bool{p.cookie, false} { // for run time, and for haproxy.cfg
			p.cookie = false
			owner := cmp.Or(owners[p], tsujiv1.SettingsName)
			p.cookie = cookie
			if name := p.name(); !sections[name] {
				sections[name] = true
				list = append(list, ownedProfile{p, name, owner})
			}
		}
	}
	slices.SortFunc(list, func(a, b ownedProfile) int { return cmp.Compare(a.name, b.name) })
	return list
}

// optionFile writes a map of options: by backend, and there by key.
func (r *Renderer) optionFile(path string) []byte {
	var b bytes.Buffer
	for _, name := range r.sortedBackends() {
		for _, e := range r.backends[name].entries {
			if e.File == path {
				b.WriteString(e.Key + " " + e.Value + "\n")
			}
		}
	}
	return b.Bytes()
}

// sortedHosts returns the hosts of one kind by name.
func (r *Renderer) sortedHosts(wildcard bool) []hostKey {
	keys := make([]hostKey, 0, len(r.hosts))
	for k := range r.hosts {
		if k.wildcard == wildcard {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b hostKey) int { return cmp.Compare(a.name, b.name) })
	return keys
}

func (r *Renderer) mapFile(path string) []byte {
	var b bytes.Buffer
	for _, k := range r.sortedHosts(isWildcardMap(path)) {
		for _, e := range r.hosts[k].list(path) {
			b.WriteString(e.Key + " " + e.Value + "\n")
		}
	}
	return b.Bytes()
}

// isWildcardMap tells whether a map that routes are looked up in is for wildcards.
func isWildcardMap(path string) bool {
	return path == mapHTTPWildcard || path == mapHTTPSWildcard || path == mapTCPWildcard
}

// hasPair tells whether there is a certificate of this name, with its key.
func (r *Renderer) hasPair(name string) bool { return r.certificates[name].isPair() }

// crtList writes the list of certificates and the hosts that they are for.
func (r *Renderer) crtList() []byte {
	var b bytes.Buffer
	if len(r.options.HTTPS) == 0 {
		return nil
	}
	for _, wildcard := range []bool{false, true} {
		for _, k := range r.sortedHosts(wildcard) {
			if name := r.hosts[k].served; name != "" {
				b.WriteString(r.certificates[name].path + " " + k.sni() + "\n")
			}
		}
	}
	return b.Bytes()
}
