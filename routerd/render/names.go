package render

import (
	"slices"
	"strings"
)

// IsRouting tells whether a map's values name backends.
func IsRouting(file string) bool { return slices.Contains(mapPaths, file) }

// Rename returns the value of a routing map with each name of a backend in it replaced by what actual
// returns for it. What is no route's backend stays: redirects, and what says that there is none.
func Rename(value string, actual func(backend string) string) string {
	parts := strings.Split(value, "|")
	for i, p := range parts {
		if strings.HasPrefix(p, "be_") {
			parts[i] = actual(p)
		}
	}
	return strings.Join(parts, "|")
}

// Backend returns a route's backend.
func (r *Renderer) Backend(name string) (Backend, bool) {
	rt := r.backends[name]
	if rt == nil {
		return Backend{}, false
	}
	return *rt.rendered, true
}

// Backends returns the names of all routes' backends, sorted. It costs as much as there are.
func (r *Renderer) Backends() []string { return slices.Clone(r.sortedBackends()) }

func (r *Renderer) sortedBackends() []string {
	if r.sorted == nil {
		r.sorted = sortedKeys(r.backends)
	}
	return r.sorted
}

// Routing returns the entries of the routing maps whose values name one of the backends, each once. It costs as much as
// there are keys below the backends' paths, however many backends that are.
func (r *Renderer) Routing(backends ...string) []Entry {
	wanted := make(map[string]bool, len(backends))
	claims := map[hostKey][]*claim{}
	for _, name := range backends {
		if rt := r.backends[name]; rt != nil {
			wanted[name] = true
			claims[rt.host] = append(claims[rt.host], rt.claim)
		}
	}
	var list []Entry
	for k, of := range claims {
		list = append(list, r.hosts[k].naming(wanted, of)...)
	}
	return list
}

// Owner returns the resource that a route's backend, or a file of certificates, comes from.
func (r *Renderer) Owner(name string) (resource string, ok bool) {
	if rt := r.backends[name]; rt != nil {
		return rt.resource, true
	}
	if name == defaultPairPath {
		name, ok = r.settings.GetDefaultCertificate(), r.hasPair(r.settings.GetDefaultCertificate())
		return name, ok
	}
	if c := r.paths[name]; c != nil {
		return c.resource, true
	}
	return "", false
}
