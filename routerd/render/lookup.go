package render

import (
	"cmp"
	"slices"
	"strings"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// Lookup says which Route answers the requests for one host and path.
type Lookup struct {
	// HTTP answers over plain HTTP and HTTPS over TLS. Nil: no Route does, and the router answers with 503.
	HTTP, HTTPS *Claim

	// Claims are those on the host itself and then those on the wildcard above it, each the longest path first, and of
	// one path the exact one first.
	Claims []*Claim
}

// Claim is what a Route says of its host and path.
type Claim struct {
	Route       *tsujiv1.Route // not to be changed
	Path        string         // as it is looked up: a prefix of slashes only is "/"
	Covers      bool           // the path that was asked for is one of the claim's
	Plain       bool           // it is served over plain HTTP
	Redirect    uint32         // the code with which plain HTTP is redirected to HTTPS; 0: it is not
	Terminated  bool           // TLS ends at the router
	Passthrough bool           // TLS ends at the endpoint

	backend string
}

// Lookup reads the maps as the rules of HAProxy's frontends do (passTLS and httpRules write them). The host is in lower
// case, without port and final dot; the path begins with "/" and is as the client sends it.
func (r *Renderer) Lookup(name, path string) Lookup {
	exact := r.hosts[hostKey{name: name}]
	wildcard := r.hosts[hostKey{name: hostKey{name: name}.parent(), wildcard: true}]
	key := path + "/" + pathEnd
	find := func(value func(*entry) string) string {
		backend := exact.longest(key, value)
		above, last, _ := strings.Cut(wildcard.longest(key, value), "|")
		if backend == "" || backend == noRoute {
			backend = above
		}
		if backend == notPlain {
			backend = last
		}
		return backend
	}
	http := find(func(e *entry) string { return e.http })
	https := cmp.Or(exact.passedTo(), wildcard.passedTo())
	if r.backends[https] == nil {
		https = find(func(e *entry) string { return e.https })
	}

	var l Lookup
	var first *Claim // the most specific of those that cover the path
	for _, h := range []*host{exact, wildcard} {
		for _, c := range r.claims(h, key) {
			l.Claims = append(l.Claims, c)
			if first == nil && c.Covers {
				first = c
			}
			if c.backend == http {
				l.HTTP = c
			}
			if c.backend == https {
				l.HTTPS = c
			}
		}
	}
	if strings.HasPrefix(http, redirectPrefix) { // which only the first can have asked for
		l.HTTP = first
	}
	return l
}

// longest returns the value of the longest key that host and key begin with, as HAProxy's map_beg does; empty: there is
// none.
func (h *host) longest(key string, value func(*entry) string) string {
	if h == nil {
		return ""
	}
	for key = h.name + key; len(key) > len(h.name); key = key[:len(key)-1] {
		if i, found := h.find(key); found {
			if v := value(h.entries[i]); v != "" {
				return v
			}
		}
	}
	return ""
}

// passedTo returns the value of the host's entry in the map of TLS that is passed through; empty: there is none.
func (h *host) passedTo() string {
	if h == nil {
		return ""
	}
	return h.passthrough
}

// claims returns all claims on a host, in the order of Lookup. The key is as in paths.under.
func (r *Renderer) claims(h *host, key string) []*Claim {
	if h == nil {
		return nil
	}
	covers := map[*claim]bool{}
	for c := range h.paths.under(key, false) {
		covers[c] = true
	}
	var list []*claim
	for _, kind := range []map[string][]*claim{h.paths.prefixes, h.paths.exact} {
		for _, claims := range kind {
			list = append(list, claims...)
		}
	}
	slices.SortFunc(list, func(a, b *claim) int {
		if n := cmp.Compare(len(b.path), len(a.path)); n != 0 {
			return n
		}
		switch {
		case a.exact == b.exact:
			return compareClaims(a, b)
		case a.exact:
			return -1
		default:
			return 1
		}
	})
	claims := make([]*Claim, 0, len(list))
	for _, c := range list {
		rt := r.routes[c.resource]
		claims = append(claims, &Claim{
			Route: rt.spec, Path: c.path, Covers: covers[c],
			Plain: c.plain, Redirect: rt.redirect(), Terminated: c.terminated, Passthrough: c.passthrough,
			backend: c.backend,
		})
	}
	return claims
}
