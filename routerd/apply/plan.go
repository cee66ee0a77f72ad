package apply

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

// planner turns a change into a plan. It reads what it is given, and changes none of it.
type planner struct {
	can     haproxy.Capabilities
	held    held
	routing func(backends ...string) []render.Entry // the entries that name routes' backends, each once, after the change
	now     time.Time

	release haproxy.Version
	buffer  int // bytes of a buffer of HAProxy's, which a command goes through
}

// plan is a change as commands, make before break; what HAProxy has when they are carried out; and what is
// different in held then. Names of backends in it are HAProxy's.
//
// In this order: files, options, servers, then routes, shift, gone, unset, lines. Where one of the first three fails
// nothing was sent anywhere yet that it should not be.
type plan struct {
	files   []haproxy.Op           // CA certificates, certificates, lines of the crt-list that come
	options []haproxy.Op           // entries of options that come or change
	servers []haproxy.Op           // backends that come, and servers
	routes  []haproxy.Op           // entries that send requests, and names
	shift   []haproxy.Op           // weights, and servers that go
	gone    []haproxy.Op           // entries that sent requests
	unset   []haproxy.Op           // entries of options that go, and what else is too much
	lines   []render.CrtListChange // lines of the crt-list that go
	added   int                    // backends that are added

	entries  map[haproxy.MapKey]string            // what maps then have for these keys; empty: nothing
	backends map[string]*render.Backend           // what backends then have besides what leaves
	prints   map[string][]haproxy.CertificateInfo // certificates and CA certificates, by path
	cas      map[string]bool                      // which of those paths are CA certificates'

	names           map[string]string // of routes' backends, as in held; empty: there is none, or it is its own
	leavingBackends map[string]*leavingBackend
	leavingServers  map[server]*leavingServer
	leavingFiles    map[string]*leavingFile
	revivedBackends []string
	revivedServers  []server
	revivedFiles    []string
	unsuspended     []server // by the route's backend
}

// impossible says that a release of HAProxy, or how it is used, does not allow a change at run time.
type impossible struct{ error }

func emptyPlan() *plan {
	return &plan{
		entries: map[haproxy.MapKey]string{}, backends: map[string]*render.Backend{}, prints: map[string][]haproxy.CertificateInfo{}, cas: map[string]bool{},
		names: map[string]string{}, leavingBackends: map[string]*leavingBackend{}, leavingServers: map[server]*leavingServer{}, leavingFiles: map[string]*leavingFile{},
	}
}

func newPlan(in planner, c render.Change) (*plan, error) {
	p := emptyPlan()
	if err := p.planFiles(in, c); err != nil {
		return nil, err
	}
	moved := map[string]bool{} // backends whose name in HAProxy is another than before
	for _, b := range c.Backends {
		if err := p.planBackend(in, b, moved); err != nil {
			return nil, fmt.Errorf("backend %s: %w", b.Name, err)
		}
	}
	for _, e := range c.Entries {
		p.entry(in, e)
	}
	for _, e := range in.routing(slices.Sorted(maps.Keys(moved))...) {
		if _, done := p.entries[haproxy.MapKey{File: e.File, Key: e.Key}]; !done {
			p.entry(in, render.EntryChange{File: e.File, Key: e.Key, Old: e.Value, New: e.Value})
		}
	}
	p.forgetSuspended(in, c.Backends)
	return p, nil
}

// planFiles plans certificates and CA certificates. What goes is left to the janitor: something that drains may use it.
func (p *plan) planFiles(in planner, c render.Change) error {
	for _, f := range c.CAs {
		if f.New == nil {
			p.leavingFiles[f.Path] = &leavingFile{ca: true, try: try{in.now, in.now.Add(gracePause)}}
			continue
		}
		prints, err := haproxy.Identify(f.New)
		if err != nil {
			return fmt.Errorf("CA certificates %s: %w", f.Path, err)
		}
		p.prints[f.Path], p.cas[f.Path] = prints, true
		if in.held.files[f.Path] != nil { // a path has one content for ever
			p.revivedFiles = append(p.revivedFiles, f.Path)
			continue
		}
		p.files = append(p.files, haproxy.NewCA(f.Path))
		if err := p.setCA(in, f.Path, f.New); err != nil {
			return err
		}
	}
	for _, f := range c.Certificates {
		if f.New == nil {
			p.leavingFiles[f.Path] = &leavingFile{
				content: sha256.Sum256(f.Old), unfit: in.unfit(render.FileChange{Path: f.Path, New: f.Old}, false),
				try: try{in.now, in.now.Add(janitorPause)},
			}
			continue
		}
		prints, err := haproxy.Identify(f.New)
		if err != nil {
			return fmt.Errorf("certificate %s: %w", f.Path, err)
		}
		p.prints[f.Path] = prints[:1]
		if in.held.files[f.Path] != nil {
			p.revivedFiles = append(p.revivedFiles, f.Path)
			if in.held.has(f) {
				continue
			}
		} else if f.Old == nil {
			p.files = append(p.files, haproxy.NewCertificate(f.Path))
		}
		if err := p.setCertificate(in, f.Path, f.New); err != nil {
			return err
		}
	}
	for _, l := range c.CrtList {
		if l.Added {
			p.files = append(p.files,
				haproxy.AddCrtList(crtList, haproxy.CrtListLine{Certificate: l.Certificate, Filter: l.Filter}))
		} else {
			p.lines = append(p.lines, l)
		}
	}
	return nil
}

// setCertificate plans that a certificate which HAProxy has, perhaps empty, gets its content.
func (p *plan) setCertificate(in planner, path string, content []byte) error {
	return p.set(in, path, content, haproxy.CommitCertificate(path), haproxy.SetCertificate(path, string(content)))
}

// setCA is setCertificate for a file of CA certificates.
func (p *plan) setCA(in planner, path string, content []byte) error {
	return p.set(in, path, content, haproxy.CommitCA(path),
		haproxy.SetCA(path, string(content), in.release, in.buffer)...)
}

// set plans to set a file's content. What HAProxy would not take is not sent: it would say so late, or not at all.
func (p *plan) set(in planner, path string, content []byte, commit haproxy.Op, ops ...haproxy.Op) error {
	if o, unfit := haproxy.Unfit(in.buffer, ops...); unfit {
		return &impossible{fmt.Errorf("%s has %d bytes, and %q does not fit HAProxy's buffer of %d", path, len(content),
			o, in.buffer)}
	}
	p.files = append(append(p.files, ops...), commit)
	return nil
}

// planBackend changes a route's backend where it is if that can be, takes one back that is leaving, or makes
// another beside it and leaves the old one to the janitor.
func (p *plan) planBackend(in planner, b render.BackendChange, moved map[string]bool) error {
	current := ""
	if b.Old != nil {
		current = in.held.name(b.Name)
	}
	if b.New == nil {
		p.leaveBackend(in, current, b.Old)
		p.rename(in, b.Name, "")
		return nil
	}
	if b.Old != nil && b.Old.Kind() == b.New.Kind() && in.fits(current, byName(b.Old.Servers), b.New) == nil {
		p.planServers(in, current, byName(b.Old.Servers), b.New)
		return nil
	}
	name := ""
	for _, l := range in.held.leaving(b.Name) {
		if was := in.held.backends[l]; was.profile == b.New.Kind() && in.fits(l, was.whole, b.New) == nil {
			name = l
			break
		}
	}
	switch {
	case name != "":
		p.revivedBackends = append(p.revivedBackends, name)
		p.planServers(in, name, in.held.backends[name].whole, b.New)
	case !in.can.DynamicBackends:
		if b.Old == nil {
			return &impossible{errors.New("it is new")}
		}
		if b.Old.Kind() != b.New.Kind() {
			return &impossible{fmt.Errorf("its profile or cookie becomes %s", b.New.Kind())}
		}
		return &impossible{in.fits(current, byName(b.Old.Servers), b.New)}
	default:
		name = in.held.free(b.Name, current)
		p.added++
		p.servers = append(p.servers, haproxy.AddBackend(name, b.New.Profile))
		p.planServers(in, name, nil, b.New)
	}
	if in.can.DynamicBackends {
		p.servers = append(p.servers, haproxy.PublishBackend(name))
	}
	if b.Old != nil {
		p.leaveBackend(in, current, b.Old)
	}
	p.rename(in, b.Name, name)
	moved[b.Name] = true
	return nil
}

// fits returns why a backend of HAProxy that has these servers in service cannot get the wanted ones by commands.
func (in planner) fits(name string, have map[string]render.Server, want *render.Backend) error {
	for _, s := range want.Servers {
		old, ok := have[s.Name]
		l := in.held.servers[name][s.Name]
		switch {
		case ok && !sameButWeight(old, s):
			return fmt.Errorf("server %s becomes another", s.Name)
		case ok:
		case l != nil && (l.was == nil || !sameButWeight(*l.was, s)):
			return fmt.Errorf("server %s comes back as another while the one that left still has connections", s.Name)
		case l == nil && !in.can.DynamicServers:
			return fmt.Errorf("server %s is new", s.Name)
		}
	}
	return nil
}

// planServers gives a backend of HAProxy that has these servers in service the wanted ones.
func (p *plan) planServers(in planner, name string, have map[string]render.Server, want *render.Backend) {
	p.backends[name] = want
	ids := in.ids(name, have)
	for _, s := range want.Servers {
		here := server{name, s.Name}
		suspended := in.held.suspended[server{want.Name, s.Name}]
		old, ok := have[s.Name]
		switch {
		case ok && old.Weight == s.Weight:
		case ok:
			p.shift = append(p.shift, haproxy.SetServerWeight(name, s.Name, s.Weight))
		case in.held.servers[name][s.Name] != nil:
			p.revivedServers = append(p.revivedServers, here)
			p.servers = append(p.servers, haproxy.SetServerWeight(name, s.Name, s.Weight))
			if !suspended {
				p.servers = append(p.servers, haproxy.SetServerState(name, s.Name, haproxy.Ready))
			}
		default:
			for ids[s.ID] {
				s.ID = render.NextServerID(s.ID) // until the next reload, and only hashing by id sees it
			}
			ids[s.ID] = true
			p.servers = append(p.servers, addServer(name, s, !suspended)...)
		}
	}
	wanted := byName(want.Servers)
	for _, s := range sortedKeys(have) {
		if _, ok := wanted[s]; ok {
			continue
		}
		was := have[s]
		p.leavingServers[server{name, s}] = &leavingServer{&was, in.firstTry()}
		p.shift = append(p.shift, haproxy.SetServerState(name, s, haproxy.Maint))
	}
}

// ids are those of the servers that a backend of HAProxy has, in service or on their way out.
func (in planner) ids(name string, have map[string]render.Server) map[uint32]bool {
	ids := make(map[uint32]bool, len(have))
	for _, s := range have {
		ids[s.ID] = true
	}
	for _, l := range in.held.servers[name] {
		if l.was != nil {
			ids[l.was.ID] = true
		}
	}
	return ids
}

// leaveBackend leaves a backend of HAProxy to the janitor: as it is, because there may be requests on their way
// there, which may need another server than the first.
func (p *plan) leaveBackend(in planner, name string, was *render.Backend) {
	due := in.now.Add(gracePause)
	if !in.can.DynamicBackends {
		due = in.now.Add(never)
	}
	p.leavingBackends[name] = &leavingBackend{profile: was.Kind(), whole: byName(was.Servers), try: try{in.now, due}}
}

// firstTry tells when to try to delete a server that has just left. Where servers are not added at run time
// (before HAProxy 3.0) they are not deleted either: its "del server" has crashed workers (haproxy#2298, #2323). The
// server stays in maintenance until the next reload, and can come back until then.
func (in planner) firstTry() try {
	if !in.can.DynamicServers {
		return try{in.now, in.now.Add(never)}
	}
	return try{in.now, in.now.Add(janitorPause)}
}

// rename notes that a route's backend has another name in HAProxy; empty: there will be none.
func (p *plan) rename(in planner, backend, to string) {
	if to == backend {
		to = ""
	}
	p.names[backend] = to
	p.change(render.EntryChange{File: stampMap, Key: nameKey + backend, Old: in.held.actual[backend], New: to},
		&p.routes, &p.gone)
}

// forgetSuspended notes which servers that are suspended go with a change.
func (p *plan) forgetSuspended(in planner, changes []render.BackendChange) {
	if len(in.held.suspended) == 0 {
		return
	}
	wanted := map[string]map[string]render.Server{}
	for _, b := range changes {
		wanted[b.Name] = nil
		if b.New != nil {
			wanted[b.Name] = byName(b.New.Servers)
		}
	}
	for s := range in.held.suspended {
		servers, changed := wanted[s.backend]
		if _, ok := servers[s.name]; changed && !ok {
			p.unsuspended = append(p.unsuspended, s)
		}
	}
}

// entry plans an entry of a map of routing or options. That it is there before and after, and perhaps the same, means
// that backends in it may have other names.
func (p *plan) entry(in planner, e render.EntryChange) {
	into, out := &p.options, &p.unset
	if render.IsRouting(e.File) {
		into, out = &p.routes, &p.gone
		if e.New != "" {
			e.New = render.Rename(e.New, func(backend string) string { return p.name(in, backend) })
		}
	}
	p.change(e, into, out)
}

// name returns what HAProxy will call a route's backend.
func (p *plan) name(in planner, backend string) string {
	name, ok := p.names[backend]
	switch {
	case !ok:
		return in.held.name(backend)
	case name == "":
		return backend
	default:
		return name
	}
}

func (p *plan) change(e render.EntryChange, into, out *[]haproxy.Op) {
	switch {
	case e.Old == "" && e.New == "":
		return
	case e.Old == "":
		*into = append(*into, haproxy.AddMap(e.File, e.Key, e.New))
	case e.New == "":
		*out = append(*out, haproxy.DelMap(e.File, e.Key))
	default:
		*into = append(*into, haproxy.SetMap(e.File, e.Key, e.New))
	}
	p.entries[haproxy.MapKey{File: e.File, Key: e.Key}] = e.New
}

// make returns what comes, turn what sends requests there and takes away what is old.
func (p *plan) make() []haproxy.Op { return slices.Concat(p.files, p.options, p.servers) }

func (p *plan) turn() []haproxy.Op { return slices.Concat(p.routes, p.shift, p.gone, p.unset) }

// operations counts commands, those that read back included.
func (p *plan) operations() int {
	return len(p.files) + len(p.options) + len(p.servers) + len(p.routes) + len(p.shift) + len(p.gone) + len(p.unset) +
		len(p.lines) + len(p.entries) + len(p.backends) + len(p.prints)
}

// commit notes in held what is different now that the plan was carried out.
func (p *plan) commit(h held) {
	for _, b := range p.revivedBackends {
		delete(h.backends, b)
	}
	for _, s := range p.revivedServers {
		h.forget(s)
	}
	for _, f := range p.revivedFiles {
		delete(h.files, f)
	}
	for _, s := range p.unsuspended {
		delete(h.suspended, s)
	}
	maps.Copy(h.backends, p.leavingBackends)
	maps.Copy(h.files, p.leavingFiles)
	for s, l := range p.leavingServers {
		h.leave(s, l)
	}
	for backend, name := range p.names {
		if name == "" {
			delete(h.actual, backend)
		} else {
			h.actual[backend] = name
		}
	}
}

// addServer returns what adds a server, and with ready gives it traffic. It comes in maintenance, and unchecked.
// Setting the weight makes a backend that hashes take notice of it (haproxy#3413).
func addServer(backend string, s render.Server, ready bool) []haproxy.Op {
	words := strings.Fields(s.AddCommand(backend))
	ops := []haproxy.Op{
		haproxy.AddServer(backend, s.Name, words[3:]...),
		haproxy.SetServerWeight(backend, s.Name, s.Weight),
	}
	if s.Checked() {
		ops = append(ops, haproxy.EnableHealth(backend, s.Name))
	}
	if ready {
		ops = append(ops, haproxy.SetServerState(backend, s.Name, haproxy.Ready))
	}
	return ops
}

func sameButWeight(a, b render.Server) bool {
	b.Weight = a.Weight
	return a.Equal(b)
}
