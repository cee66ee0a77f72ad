package render

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// hostKey is a host that routes share: an exact one, or for wildcards the parent domain.
type hostKey struct {
	name     string
	wildcard bool
}

// parent returns the domain whose wildcard would answer for the host; empty if there is none.
func (k hostKey) parent() string {
	if k.wildcard {
		return ""
	}
	_, parent, _ := strings.Cut(k.name, ".")
	return parent
}

// sni returns the host as a filter of a crt-list.
func (k hostKey) sni() string {
	if k.wildcard {
		return "*." + k.name
	}
	return k.name
}

func (k hostKey) String() string { return "host " + k.sni() }

// entry is one line of a map.
type entry struct{ key, value string }

// certLine says that a certificate is for a host. While there is no such certificate the line is left out,
// and the host is served with the default one: a Route may arrive before its Secret.
type certLine struct {
	certificate string // the resource's name
	host        hostKey
}

// host is what all routes of one host come to. It is immutable.
type host struct {
	routes      []string // the resources, sorted
	http, https []entry
	passthrough string // the backend, noRoute where a wildcard must not answer, or empty
	certs       []certLine
}

// What maps say besides names of backends. HAProxy has no backends of these names, so that a request that
// is left with one ends in the default backend.
const (
	noRoute  = "none"     // no route of this host: one of the wildcard may answer
	notPlain = "tls-only" // a route of this host, not served over plain HTTP; the wildcard's redirect does not count
)

// Lookups append pathEnd to "host/path/", and keys are prefixes that end in "/" or in pathEnd: the longest
// wins, only whole segments match, and a key that ends in pathEnd matches one path alone. No path has it.
const pathEnd = "#"

// redirectBackend names the backend that redirects to HTTPS.
func redirectBackend(code uint32) string { return fmt.Sprintf("redirect:%d", code) }

// makeHost computes what the routes of a host come to. underPassthrough: the parent domain has a
// passthrough route for all its hosts.
//
// OpenShift's router: over plain HTTP the most specific of all the host's routes decides whether to
// redirect; if it does not, the most specific of those that are served over plain HTTP answers. Over TLS
// the most specific of those that end TLS here answers. Where OpenShift's order of expressions by text
// differs from "the longest path", the longest path is meant.
func makeHost(k hostKey, routes map[string]*route, underPassthrough bool) *host {
	h := &host{routes: sortedKeys(routes)}
	all, tls := newPaths(), newPaths()
	for _, name := range h.routes {
		r := routes[name]
		all.put(r)
		if r.terminated() {
			tls.put(r)
		}
		if r.passthrough() && h.passthrough == "" {
			h.passthrough = r.backend
		}
		if r.terminated() && r.spec.GetCertificate() != "" {
			h.certs = append(h.certs, certLine{certificate: r.spec.GetCertificate(), host: k})
		}
	}
	if h.passthrough == "" && tls.len() > 0 && underPassthrough {
		h.passthrough = noRoute
	}
	answerHTTP := httpAnswer
	if k.wildcard {
		answerHTTP = wildcardHTTPAnswer
	}
	h.http = all.entries(k.name, answerHTTP)
	h.https = tls.entries(k.name, httpsAnswer)
	slices.SortFunc(h.certs, func(a, b certLine) int { return strings.Compare(a.certificate, b.certificate) })
	h.certs = slices.Compact(h.certs)
	return h
}

// paths are routes of one host, by their path.
type paths struct{ prefixes, exact map[string]*route }

func newPaths() paths { return paths{prefixes: map[string]*route{}, exact: map[string]*route{}} }

func (p paths) len() int { return len(p.prefixes) + len(p.exact) }

// put adds a route under its path. Two of one path cannot be admitted; the first by name stays.
func (p paths) put(r *route) {
	byPath := p.prefixes
	if r.spec.GetExact() {
		byPath = p.exact
	}
	if _, taken := byPath[r.path]; !taken {
		byPath[r.path] = r
	}
}

// entries returns the entries of a host: for each prefix what answers below it; and what answers one path alone,
// which is an exact one, or for a prefix that ends in "/" the same without, which is not below it though its key is.
func (p paths) entries(name string, answer func(routes iter.Seq[*route]) string) []entry {
	m := make(map[string]string, p.len())
	alone := func(path string) { m[name+path+"/"+pathEnd] = answer(p.at(path)) }
	for path := range p.prefixes {
		below := strings.TrimSuffix(path, "/") + "/"
		m[name+below] = answer(p.below(below))
		if path != "/" && strings.HasSuffix(path, "/") {
			alone(strings.TrimSuffix(path, "/"))
		}
	}
	for path := range p.exact {
		alone(path)
	}
	list := make([]entry, 0, len(m))
	for _, k := range sortedKeys(m) {
		list = append(list, entry{k, m[k]})
	}
	return list
}

// at yields the routes that a path matches, the longest first: the one that has exactly this path before those that
// have it as a prefix.
func (p paths) at(path string) iter.Seq[*route] {
	return func(yield func(*route) bool) {
		if r := p.exact[path]; r != nil && !yield(r) {
			return
		}
		p.below(path)(yield)
	}
}

// below yields the routes of whose prefixes a path is one or is below one, the longest first.
//
// OpenShift's router: a path matches itself and what follows it after a "/"; one that ends in "/" matches
// what begins with it.
func (p paths) below(path string) iter.Seq[*route] {
	return func(yield func(*route) bool) {
		for n := len(path); n > 0; n-- {
			if n < len(path) && path[n] != '/' && path[n-1] != '/' {
				continue
			}
			if r := p.prefixes[path[:n]]; r != nil && !yield(r) {
				return
			}
		}
	}
}

// httpAnswer says what answers plain HTTP on an exact host.
func httpAnswer(routes iter.Seq[*route]) string {
	answer := noRoute
	for r := range routes {
		if c := r.redirect(); c != 0 && answer == noRoute {
			return redirectBackend(c)
		}
		if r.plain() {
			return r.backend
		}
		answer = notPlain
	}
	return answer
}

// wildcardHTTPAnswer says what answers plain HTTP under a wildcard: first where the exact host has no route,
// then where it has one that is not served over plain HTTP.
func wildcardHTTPAnswer(routes iter.Seq[*route]) string {
	plain := noRoute
	for r := range routes {
		if r.plain() {
			plain = r.backend
			break
		}
	}
	first := httpAnswer(routes)
	if first == notPlain {
		first = noRoute
	}
	return first + "|" + plain
}

func httpsAnswer(routes iter.Seq[*route]) string {
	for r := range routes {
		return r.backend
	}
	return noRoute
}

// certificate returns the one certificate of the host's that is served: the first that is there. One, because of
// several lines for a name HAProxy takes the oldest, and that depends on what came first. The host may be nil.
func (h *host) certificate(there func(name string) bool) (name string, ok bool) {
	if h == nil {
		return "", false
	}
	for _, l := range h.certs {
		if there(l.certificate) {
			return l.certificate, true
		}
	}
	return "", false
}

// in returns the host's entries in one of the maps that requests of its kind are looked up in.
func (h *host) in(path string, k hostKey) []entry {
	switch path {
	case mapHTTP, mapHTTPWildcard:
		return h.http
	case mapHTTPS, mapHTTPSWildcard:
		return h.https
	}
	if h.passthrough == "" {
		return nil
	}
	return []entry{{k.name, h.passthrough}}
}

// lists are the host's entries in the maps that requests are looked up in, by file and key. The host may be nil.
func (h *host) lists(k hostKey) []Entry {
	if h == nil {
		return nil
	}
	httpFile, httpsFile, tcpFile := mapHTTP, mapHTTPS, mapTCP
	if k.wildcard {
		httpFile, httpsFile, tcpFile = mapHTTPWildcard, mapHTTPSWildcard, mapTCPWildcard
	}
	list := make([]Entry, 0, len(h.http)+len(h.https)+1)
	for _, e := range h.http {
		list = append(list, Entry{httpFile, e.key, e.value})
	}
	for _, e := range h.https {
		list = append(list, Entry{httpsFile, e.key, e.value})
	}
	if h.passthrough != "" {
		list = append(list, Entry{tcpFile, k.name, h.passthrough})
	}
	return list
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
