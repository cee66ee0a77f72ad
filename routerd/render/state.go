package render

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// state is the rendered form of a snapshot. What its maps point to is immutable, but for hosts.
type state struct {
	settings     *tsujiv1.Settings // never nil
	program      program           // the Settings, rendered
	routes       map[string]*route
	endpoints    map[string][]endpoint
	certificates map[string]*certificate
	hosts        map[hostKey]*host

	backends map[string]*route // by the backend's name
	sorted   []string          // names of all backends; nil: to be sorted again
	profiles map[profile]int   // that are not common → routes of theirs; 0: remembered
	unused   int               // of profiles, those that are only remembered
	passed   bool              // there is, or was, a route that is passed through
	fresh    fresh
	caUsers  map[string]int // file of CA certificates → routes that verify with it
	lines    map[string]int // certificate with a key → lines of crt-list.txt

	users  map[string]map[string]bool  // resource → the routes that refer to it
	under  map[string]map[hostKey]bool // domain → the exact hosts directly under it
	checks checks
}

func newState() state {
	return state{
		settings:     &tsujiv1.Settings{},
		routes:       map[string]*route{},
		endpoints:    map[string][]endpoint{},
		certificates: map[string]*certificate{},
		hosts:        map[hostKey]*host{},
		backends:     map[string]*route{},
		profiles:     map[profile]int{},
		caUsers:      map[string]int{},
		lines:        map[string]int{},
		users:        map[string]map[string]bool{},
		under:        map[string]map[hostKey]bool{},
	}
}

// Commit puts in place what was staged last, and says what that changed. It cannot fail.
func (r *Renderer) Commit(s *Staged) Change {
	c := newChanges()
	r.generation++
	before := r.defaultPair()
	r.commitSettings(s, c)
	for _, name := range sortedKeys(s.certificates) {
		r.commitCertificate(name, s.certificates[name], c)
	}
	if after := r.defaultPair(); len(r.options.HTTPS) > 0 && !bytes.Equal(before, after) {
		c.Certificates = append(c.Certificates, FileChange{Path: defaultPairPath, Old: before, New: after})
		r.touch(defaultPairPath)
	}
	for name, e := range s.endpoints {
		if e == nil {
			delete(r.endpoints, name)
			continue
		}
		r.endpoints[name] = e
	}
	moves := map[hostKey][]move{}
	for _, name := range sortedKeys(s.routes) {
		r.commitRoute(name, s.routes[name], moves, c)
	}
	r.checks.left = s.leftOut
	r.checks.settle(s.rates)
	r.commitHosts(moves, c)
	r.commitLines(c)
	r.dropHosts(c)
	r.commitCAs(c)
	return c.finish()
}

func (r *Renderer) commitSettings(s *Staged, c *changes) {
	if s.program != nil {
		if r.program.text != s.program.text {
			r.touch(configPath)
		}
		for path, differs := range map[string]bool{
			page503Path: r.program.page503 != s.program.page503,
			page404Path: r.program.page404 != s.program.page404,
		} {
			if differs {
				r.touch(path)
			}
		}
		if r.program != *s.program {
			c.reload(tsujiv1.SettingsName, "changed")
			c.reloadFor(tsujiv1.SettingsName, "a program of its own")
		}
		r.program = *s.program
	}
	if s.settings != nil {
		r.settings = s.settings
	}
}

func (r *Renderer) commitCertificate(name string, now *certificate, c *changes) {
	before := r.certificates[name]
	if before == nil && now == nil {
		return
	}
	for _, x := range []*certificate{before, now} {
		for _, path := range x.paths() {
			r.touch(path)
			delete(r.paths, path)
		}
	}
	c.certificates[name] = before
	if now == nil {
		delete(r.certificates, name)
	} else {
		for _, path := range now.paths() {
			r.paths[path] = now
		}
		r.certificates[name] = now
	}
	if before.isPair() != now.isPair() { // the lines of crt-list.txt come or go
		for user := range r.users[name] {
			c.hosts[r.routes[user].host] = true
		}
	}
}

func (r *Renderer) commitRoute(name string, now *route, moves map[hostKey][]move, c *changes) {
	before := r.routes[name]
	if before == nil && now == nil {
		return
	}
	switch {
	case before == nil:
		moves[now.host] = append(moves[now.host], move{nil, now.claim})
	case now == nil:
		moves[before.host] = append(moves[before.host], move{before.claim, nil})
	case before.claim == now.claim:
	case before.host == now.host:
		moves[now.host] = append(moves[now.host], move{before.claim, now.claim})
	default:
		moves[before.host] = append(moves[before.host], move{before.claim, nil})
		moves[now.host] = append(moves[now.host], move{nil, now.claim})
	}
	r.forget(before, c)
	r.remember(now, c)
	if before == nil || now == nil || before.backend != now.backend {
		r.sorted = nil
	}
	if r.changeBackends(before, now, c) {
		r.touch(configPath)
	}
	r.changeEntries(before.data(), now.data(), c)
}

// forget takes a route out of all indexes.
func (r *Renderer) forget(rt *route, c *changes) {
	if rt == nil {
		return
	}
	for _, name := range rt.refers() {
		delete(r.users[name], rt.resource)
		if len(r.users[name]) == 0 {
			delete(r.users, name)
		}
	}
	r.checks.ask(rt.spec.GetNamespace(), rt.resource, -rt.asks())
	r.checks.slow(rt, -1)
	r.checks.inUse -= rt.checked()
	delete(r.routes, rt.resource)
	delete(r.backends, rt.backend)
	if n, added := r.profiles[rt.profile]; added {
		if r.profiles[rt.profile] = n - 1; n == 1 {
			r.unused++
		}
	}
	if rt.caFile != "" {
		c.useCA(rt.caFile, r.caUsers)
		r.caUsers[rt.caFile]--
	}
}

// remember puts a route into all indexes. What the program has not yet got for it is a reason to reload.
func (r *Renderer) remember(rt *route, c *changes) {
	if rt == nil {
		return
	}
	for _, name := range rt.refers() {
		if r.users[name] == nil {
			r.users[name] = map[string]bool{}
		}
		r.users[name][rt.resource] = true
	}
	r.checks.ask(rt.spec.GetNamespace(), rt.resource, rt.asks())
	r.checks.slow(rt, 1)
	r.checks.inUse += rt.checked()
	r.routes[rt.resource] = rt
	r.backends[rt.backend] = rt
	if _, added := r.profiles[rt.profile]; !added && !rt.profile.common(r.listsNames()) {
		r.addProfile(rt.profile)
		c.reload("profile "+rt.rendered.Profile, "new, for "+rt.title())
	}
	if r.fresh.profiles[rt.profile] {
		c.reloadFor(rt.resource, "header actions that read from the message")
	}
	if n, added := r.profiles[rt.profile]; added {
		if r.profiles[rt.profile] = n + 1; n == 0 {
			r.unused--
		}
	}
	if rt.passthrough() && !r.passed {
		r.passed, r.fresh.passed = true, true
		if len(r.options.HTTPS) > 0 {
			c.reload(rt.title(), "the first that is passed through")
			r.touch(configPath)
		}
	}
	if rt.passthrough() && r.fresh.passed && len(r.options.HTTPS) > 0 {
		c.reloadFor(rt.resource, "to be the first that is passed through")
	}
	if rt.caFile != "" {
		c.useCA(rt.caFile, r.caUsers)
		r.caUsers[rt.caFile]++
	}
}

// fresh is what of the program has come since HAProxy loaded it last.
type fresh struct {
	profiles map[profile]bool
	passed   bool
}

// Loaded says that HAProxy runs the files as they are rendered now.
func (r *Renderer) Loaded() { r.fresh = fresh{} }

// NotLoaded says that HAProxy has not loaded the files since Loaded was said, and that whoever needed what had come to
// the program has been taken back: it is forgotten, for HAProxy does not have it.
func (r *Renderer) NotLoaded() {
	for p := range r.fresh.profiles {
		if n, added := r.profiles[p]; added && n == 0 {
			delete(r.profiles, p)
			r.unused--
		}
	}
	if r.fresh.passed {
		r.passed = false
	}
	if r.fresh.passed || len(r.fresh.profiles) > 0 {
		r.generation++
		r.touch(configPath)
	}
	r.fresh = fresh{}
}

// maxUnused is how many profiles that no route has any more are remembered.
const maxUnused = 64

// addProfile takes a profile into the program. That is a reload: those that are used no more may go with it, if
// there are many.
func (r *Renderer) addProfile(p profile) {
	if r.unused >= maxUnused {
		maps.DeleteFunc(r.profiles, func(_ profile, n int) bool { return n == 0 })
		r.unused = 0
	}
	r.profiles[p] = 0
	r.unused++
	if r.fresh.profiles == nil {
		r.fresh.profiles = map[profile]bool{}
	}
	r.fresh.profiles[p] = true
	r.touch(configPath)
}

// listsNames tells whether the Settings list header names.
func (r *Renderer) listsNames() bool { return len(r.settings.GetHeaders().GetCaseAdjustments()) > 0 }

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

// checked returns how many of the route's servers are checked.
func (r *route) checked() int {
	if r.unchecked {
		return 0
	}
	return r.asks()
}

// commitHosts makes claims come and go. Where a wildcard for passthrough comes or goes, so does what keeps it away from
// the exact hosts beside it.
func (r *Renderer) commitHosts(moves map[hostKey][]move, c *changes) {
	changed := func(e EntryChange) {
		c.Entries = append(c.Entries, e)
		r.touch(e.File)
	}
	keys := slices.SortedFunc(maps.Keys(moves), func(a, b hostKey) int {
		if a.wildcard != b.wildcard { // wildcards first: exact hosts depend on them
			if a.wildcard {
				return -1
			}
			return 1
		}
		return strings.Compare(a.name, b.name)
	})
	for _, k := range keys {
		h := r.hostOf(k)
		c.hosts[k] = true
		h.move(moves[k], changed)
		before := r.wildcardPassthrough(k.name)
		h.passThrough(r.wildcardPassthrough(k.parent()), changed)
		if !k.wildcard || r.wildcardPassthrough(k.name) == before {
			continue
		}
		for beside := range r.under[k.name] {
			if _, later := moves[beside]; !later {
				r.hosts[beside].passThrough(!before, changed)
			}
		}
	}
}

// hostOf returns a host, a new one if need be.
func (r *Renderer) hostOf(k hostKey) *host {
	h := r.hosts[k]
	if h != nil {
		return h
	}
	h = &host{hostKey: k}
	r.hosts[k] = h
	if parent := k.parent(); parent != "" {
		if r.under[parent] == nil {
			r.under[parent] = map[hostKey]bool{}
		}
		r.under[parent][k] = true
	}
	return h
}

// dropHosts drops those that nothing claims any more.
func (r *Renderer) dropHosts(c *changes) {
	for k := range c.hosts {
		if h := r.hosts[k]; h == nil || !h.empty() {
			continue
		}
		delete(r.hosts, k)
		delete(r.under[k.parent()], k)
		if len(r.under[k.parent()]) == 0 {
			delete(r.under, k.parent())
		}
	}
}

func (r *Renderer) wildcardPassthrough(domain string) bool {
	h := r.hosts[hostKey{name: domain, wildcard: true}]
	return domain != "" && h != nil && h.passthrough != ""
}

// defaultPair returns the certificate for hosts that have none: the one that the Settings name, and while
// that is not there the router's own.
func (r *Renderer) defaultPair() []byte {
	if c := r.certificates[r.settings.GetDefaultCertificate()]; c.isPair() {
		return c.pair
	}
	return r.ownDefault
}
