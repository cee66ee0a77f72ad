package render

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// state is the rendered form of a snapshot. What its maps point to is immutable.
type state struct {
	settings     *tsujiv1.Settings // never nil
	program      program           // the Settings, rendered
	routes       map[string]*route
	endpoints    map[string][]endpoint
	certificates map[string]*certificate
	hosts        map[hostKey]*host

	users   map[string]map[string]bool  // resource → the routes that refer to it
	under   map[string]map[hostKey]bool // domain → the exact hosts directly under it
	checked int                         // servers whose health is checked
}

func newState() state {
	return state{
		settings:     &tsujiv1.Settings{},
		routes:       map[string]*route{},
		endpoints:    map[string][]endpoint{},
		certificates: map[string]*certificate{},
		hosts:        map[hostKey]*host{},
		users:        map[string]map[string]bool{},
		under:        map[string]map[hostKey]bool{},
	}
}

// commit puts in place what was staged, and says what that changed. It cannot fail.
func (r *Renderer) commit(s *staged) Change {
	c := &changes{}
	r.generation++
	before, namesBefore := r.defaultPair()
	r.commitSettings(s, c)
	for _, name := range sortedKeys(s.certificates) {
		r.commitCertificate(name, s.certificates[name], c)
	}
	if after, names := r.defaultPair(); len(r.options.HTTPS) > 0 && !bytes.Equal(before, after) {
		c.Certificates = append(c.Certificates, FileChange{Path: defaultPairPath, Old: before, New: after})
		r.touch(defaultPairPath)
		if names != namesBefore {
			c.reload("default certificate", "is for other names")
			r.touch(crtListPath)
		}
	}
	for name, e := range s.endpoints {
		if e == nil {
			delete(r.endpoints, name)
			continue
		}
		r.endpoints[name] = e
	}
	touched := map[hostKey]bool{}
	for _, name := range sortedKeys(s.routes) {
		r.commitRoute(name, s.routes[name], touched, c)
	}
	r.commitHosts(touched, c)
	return c.finish()
}

func (r *Renderer) commitSettings(s *staged, c *changes) {
	if s.settings == nil {
		return
	}
	if !r.program.equal(s.program) || r.settings.GetHttp2() != s.settings.GetHttp2() {
		c.reload("settings", "changed")
		for _, p := range []string{configPath, crtListPath, page503Path, page404Path} {
			r.touch(p)
		}
	}
	r.settings, r.program = s.settings, s.program
}

func (r *Renderer) commitCertificate(name string, now *certificate, c *changes) {
	before := r.certificates[name]
	used := len(r.users[name]) > 0 || r.settings.GetClientTls() != nil && r.settings.GetClientTls().GetCa() == name
	for _, x := range []*certificate{before, now} {
		if x != nil {
			r.touch(x.path)
			delete(r.paths, x.path)
		}
	}
	if now != nil {
		r.paths[now.path] = now
	}
	if now == nil {
		delete(r.certificates, name)
	} else {
		r.certificates[name] = now
	}
	if before == nil && now == nil || !used {
		return
	}
	if len(r.options.HTTPS) == 0 && (before == nil || before.ca == nil) && (now == nil || now.ca == nil) {
		return // HAProxy reads no certificates with keys
	}
	switch {
	case before == nil, now == nil, before.path != now.path:
		c.reload("certificate "+name, "comes or goes")
		r.touch(crtListPath)
	case before.names != now.names:
		c.reload("certificate "+name, "is for other names")
		r.touch(crtListPath)
	case now.ca != nil && !bytes.Equal(before.ca, now.ca):
		c.CAs = append(c.CAs, FileChange{Path: now.path, Old: before.ca, New: now.ca})
	case now.pair != nil && !bytes.Equal(before.pair, now.pair):
		c.Certificates = append(c.Certificates, FileChange{Path: now.path, Old: before.pair, New: now.pair})
	}
}

func (r *Renderer) commitRoute(name string, now *route, touched map[hostKey]bool, c *changes) {
	before := r.routes[name]
	if before == nil && now == nil {
		return
	}
	r.refer(before, now)
	for _, x := range []*route{before, now} {
		if x == nil {
			continue
		}
		if before == nil || now == nil || before.spec != now.spec {
			touched[x.host] = true
		}
	}
	if now == nil {
		delete(r.routes, name)
	} else {
		r.routes[name] = now
	}
	if c.route(before, now) {
		r.touch(configPath)
	}
}

// refer keeps the index of users, and counts servers that are checked.
func (r *Renderer) refer(before, now *route) {
	if before != nil {
		for _, name := range before.refers() {
			delete(r.users[name], before.resource)
			if len(r.users[name]) == 0 {
				delete(r.users, name)
			}
		}
		r.checked -= before.checked()
	}
	if now != nil {
		for _, name := range now.refers() {
			if r.users[name] == nil {
				r.users[name] = map[string]bool{}
			}
			r.users[name][now.resource] = true
		}
		r.checked += now.checked()
	}
}

// refers returns the resources that the route's servers and certificate depend on.
func (r *route) refers() []string {
	var names []string
	for _, b := range r.spec.GetBackends() {
		names = append(names, b.GetEndpoints())
	}
	if r.terminated() && r.spec.GetCertificate() != "" {
		names = append(names, r.spec.GetCertificate())
	}
	if r.verified() {
		names = append(names, r.spec.GetDestinationTls().GetCa())
	}
	return names
}

func (r *route) checked() int {
	n := 0
	for _, s := range r.servers {
		if s.Checked() {
			n++
		}
	}
	return n
}

// commitHosts computes again the hosts whose routes changed. Where a wildcard for passthrough comes or
// goes, so do the exact hosts beside it.
func (r *Renderer) commitHosts(touched map[hostKey]bool, c *changes) {
	routes := map[hostKey]map[string]*route{}
	for k := range touched {
		routes[k] = map[string]*route{}
		if h := r.hosts[k]; h != nil { // those that stay
			for _, name := range h.routes {
				if now := r.routes[name]; now != nil && now.host == k {
					routes[k][name] = now
				}
			}
		}
	}
	for name := range c.touchedRoutes {
		if now := r.routes[name]; now != nil && touched[now.host] {
			routes[now.host][name] = now
		}
	}
	keys := slices.SortedFunc(maps.Keys(touched), func(a, b hostKey) int {
		if a.wildcard != b.wildcard { // wildcards first: exact hosts depend on them
			if a.wildcard {
				return -1
			}
			return 1
		}
		return strings.Compare(a.name, b.name)
	})
	for _, k := range keys {
		before := r.hosts[k]
		r.commitHost(k, routes[k], c)
		if k.wildcard && r.wildcardPassthrough(k.name) != (before != nil && before.passthrough != "") {
			for sibling := range r.under[k.name] {
				if !touched[sibling] {
					r.commitHost(sibling, r.routesOf(sibling), c)
				}
			}
		}
	}
}

func (r *Renderer) commitHost(k hostKey, routes map[string]*route, c *changes) {
	before := r.hosts[k]
	parent := k.parent()
	var now *host
	if len(routes) == 0 {
		delete(r.hosts, k)
		delete(r.under[parent], k)
		if len(r.under[parent]) == 0 {
			delete(r.under, parent)
		}
	} else {
		now = makeHost(k, routes, r.wildcardPassthrough(parent))
		r.hosts[k] = now
		if parent != "" {
			if r.under[parent] == nil {
				r.under[parent] = map[hostKey]bool{}
			}
			r.under[parent][k] = true
		}
	}
	if !now.equal(before) {
		c.host(k, "requests go elsewhere")
		for _, p := range mapPaths {
			r.touch(p)
		}
	}
	if !slices.Equal(now.certLines(), before.certLines()) {
		c.host(k, "other certificates")
		r.touch(crtListPath)
	}
}

func (r *Renderer) routesOf(k hostKey) map[string]*route {
	routes := map[string]*route{}
	for _, name := range r.hosts[k].routes {
		routes[name] = r.routes[name]
	}
	return routes
}

func (h *host) certLines() []certLine {
	if h == nil {
		return nil
	}
	return h.certs
}

func (r *Renderer) wildcardPassthrough(domain string) bool {
	h := r.hosts[hostKey{name: domain, wildcard: true}]
	return domain != "" && h != nil && h.passthrough != ""
}

// defaultPair returns the certificate for hosts that have none: the one that the Settings name, and while
// that is not there the router's own.
func (r *Renderer) defaultPair() (pair []byte, names string) {
	if c := r.certificates[r.settings.GetDefaultCertificate()]; c != nil && c.pair != nil {
		return c.pair, c.names
	}
	return r.ownDefault, pairNames(r.ownDefault)
}
