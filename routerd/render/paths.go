package render

import (
	"cmp"
	"iter"
	"slices"
	"strings"
)

// claim is what a Route says of its host: which paths it answers, and how. It is immutable.
type claim struct {
	resource, backend string
	path              string // as route has it
	exact             bool
	redirect          string // the backend that answers plain HTTP with a redirect; empty: none does
	plain             bool   // it is served over plain HTTP
	terminated        bool   // TLS ends at the router
	passthrough       bool
	certificate       string // the resource's name; empty: none of its own
}

func newClaim(r *route) *claim {
	c := &claim{
		resource: r.resource, backend: r.backend, path: r.path, exact: r.spec.GetExact(),
		plain: r.plain(), terminated: r.terminated(), passthrough: r.passthrough(),
	}
	if code := r.redirect(); code != 0 {
		c.redirect = redirectBackend(code)
	}
	if c.terminated {
		c.certificate = r.spec.GetCertificate()
	}
	return c
}

// below returns what the key of a prefix has after the host.
func (c *claim) below() string { return strings.TrimSuffix(c.path, "/") + "/" }

// keys returns the keys that there are because of a claim, without the host: for a prefix what is below it; and for one
// path alone, which is an exact one, or for a prefix that ends in "/" the same without, which is not below it though
// its key is.
func (c *claim) keys() []string {
	switch {
	case c.exact:
		return []string{c.path + "/" + pathEnd}
	case c.path != "/" && strings.HasSuffix(c.path, "/"):
		return []string{c.below(), c.path + pathEnd}
	default:
		return []string{c.below()}
	}
}

// paths are the claims on one host by path, those that end a path and those that go on below it. Two of one path cannot
// be admitted; the first by name counts.
type paths struct{ prefixes, exact map[string][]*claim }

// put adds a claim, take takes one away.
func (p *paths) put(c *claim) {
	kind := &p.prefixes
	if c.exact {
		kind = &p.exact
	}
	if *kind == nil {
		*kind = map[string][]*claim{}
	}
	(*kind)[c.path] = insert((*kind)[c.path], []*claim{c}, compareClaims)
}

func (p *paths) take(c *claim) {
	kind := p.prefixes
	if c.exact {
		kind = p.exact
	}
	rest := slices.DeleteFunc(kind[c.path], func(o *claim) bool { return o.resource == c.resource })
	if kind[c.path] = rest; len(rest) == 0 {
		delete(kind, c.path)
	}
}

func compareClaims(a, b *claim) int { return cmp.Compare(a.resource, b.resource) }

// first returns the claim that counts: of those where TLS ends here, or of all. It may be nil.
func first(list []*claim, tls bool) *claim {
	for _, c := range list {
		if c.terminated || !tls {
			return c
		}
	}
	return nil
}

// claimed tells whether there is a key, given without the host.
func (p *paths) claimed(key string, tls bool) bool {
	alone, ok := strings.CutSuffix(key, "/"+pathEnd)
	if !ok {
		return first(p.prefixes[key], tls) != nil || first(p.prefixes[strings.TrimSuffix(key, "/")], tls) != nil
	}
	return first(p.exact[alone], tls) != nil || alone != "" && first(p.prefixes[strings.TrimSuffix(key, pathEnd)], tls) != nil
}

// under yields the claims that a key, given without the host, stands for: the longest path first, and one that ends
// there before those that go on.
//
// OpenShift's router: a path matches itself and what follows it after a "/"; one that ends in "/" matches
// what begins with it.
func (p *paths) under(key string, tls bool) iter.Seq[*claim] {
	return func(yield func(*claim) bool) {
		path, alone := strings.CutSuffix(key, "/"+pathEnd)
		if alone {
			if c := first(p.exact[path], tls); c != nil && !yield(c) {
				return
			}
		}
		for n := len(path); n > 0; n-- {
			if n < len(path) && path[n] != '/' && path[n-1] != '/' {
				continue
			}
			if c := first(p.prefixes[path[:n]], tls); c != nil && !yield(c) {
				return
			}
		}
	}
}

// httpAnswer says what answers plain HTTP on an exact host.
//
// OpenShift's router: the most specific of all the host's routes decides whether to redirect; if it does not, the most
// specific of those that are served over plain HTTP answers. Where OpenShift's order of expressions by text differs
// from "the longest path", the longest path is meant.
func httpAnswer(claims iter.Seq[*claim]) string {
	answer := noRoute
	for c := range claims {
		if c.redirect != "" && answer == noRoute {
			return c.redirect
		}
		if c.plain {
			return c.backend
		}
		answer = notPlain
	}
	return answer
}

// wildcardHTTPAnswer says what answers plain HTTP under a wildcard: first where the exact host has no route,
// then where it has one that is not served over plain HTTP.
func wildcardHTTPAnswer(claims iter.Seq[*claim]) string {
	plain := noRoute
	for c := range claims {
		if c.plain {
			plain = c.backend
			break
		}
	}
	answer := httpAnswer(claims)
	if answer == notPlain {
		answer = noRoute
	}
	return answer + "|" + plain
}

// httpsAnswer says what answers over TLS that ends here: the most specific.
func httpsAnswer(claims iter.Seq[*claim]) string {
	for c := range claims {
		return c.backend
	}
	return noRoute
}

// insert returns a sorted list with others in it, which are sorted too and not in it yet. Those that are there are
// moved as blocks: few cost as little as many do for each.
func insert[T any](list, come []T, compare func(a, b T) int) []T {
	if len(come) == 0 {
		return list
	}
	all := make([]T, 0, len(list)+len(come))
	for _, x := range come {
		n, _ := slices.BinarySearchFunc(list, x, compare)
		all = append(append(all, list[:n]...), x)
		list = list[n:]
	}
	return append(all, list...)
}
