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

// Routing returns the entries of the routing maps whose value names the backend, by file and key. It costs as
// much as the backend's host has routes.
func (r *Renderer) Routing(backend string) []Entry {
	rt := r.backends[backend]
	if rt == nil {
		return nil
	}
	var list []Entry
	for _, e := range r.hosts[rt.host].lists(rt.host) {
		if slices.Contains(strings.Split(e.Value, "|"), backend) {
			list = append(list, e)
		}
	}
	return list
}
