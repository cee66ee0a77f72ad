package render

import (
	"iter"
	"slices"
)

// What follows says what a HAProxy that runs should have, to compare it with what it has.

// Maps returns the maps of routes and of their options.
func (r *Renderer) Maps() []string { return slices.Concat(mapPaths, optionMaps(r.options.version())) }

// Entries yields the keys and values of one of the Maps, in no order; no key comes twice.
func (r *Renderer) Entries(file string) iter.Seq2[string, string] {
	if IsRouting(file) {
		return func(yield func(key, value string) bool) {
			wildcard := isWildcardMap(file)
			for k, h := range r.hosts {
				if k.wildcard != wildcard {
					continue
				}
				for _, e := range h.list(file) {
					if !yield(e.Key, e.Value) {
						return
					}
				}
			}
		}
	}
	return func(yield func(key, value string) bool) {
		for _, rt := range r.backends {
			for _, e := range rt.entries {
				if e.File == file && !yield(e.Key, e.Value) {
					return
				}
			}
		}
	}
}

// Ready tells what SetReady said last.
func (r *Renderer) Ready() bool { return !r.unready }

// Certificates returns the paths of the certificates with keys that are served, sorted; none without HTTPS.
func (r *Renderer) Certificates() []string {
	if len(r.options.HTTPS) == 0 {
		return nil
	}
	paths := make([]string, 1, len(r.lines)+1)
	paths[0] = defaultPairPath
	for name := range r.lines {
		paths = append(paths, r.certificates[name].path)
	}
	slices.Sort(paths)
	return paths
}

// CAs returns the paths of the CA certificates that are in use, of routes and of clients, sorted.
func (r *Renderer) CAs() []string {
	paths := sortedKeys(r.caUsers)
	if path := r.clientCA(); path != "" && r.caUsers[path] == 0 {
		paths = append(paths, path)
		slices.Sort(paths)
	}
	return paths
}

// clientCA returns the path of the CA certificates that clients are verified with; empty: none are.
func (r *Renderer) clientCA() string {
	c := r.certificates[r.settings.GetClientTls().GetCa()]
	if c == nil || c.ca == nil || len(r.options.HTTPS) == 0 {
		return ""
	}
	return c.path
}

// CrtList returns the lines of crt-list.txt, as such that were added; false: HAProxy reads none.
func (r *Renderer) CrtList() (lines []CrtListChange, ok bool) {
	if len(r.options.HTTPS) == 0 {
		return nil, false
	}
	for k, h := range r.hosts {
		if h.served != "" {
			lines = append(lines,
				CrtListChange{Certificate: r.certificates[h.served].path, Filter: k.sni(), Added: true})
		}
	}
	return lines, true
}

// InUse returns the content of a file that is among Certificates or CAs now; nil: it is not.
func (r *Renderer) InUse(path string) []byte {
	if path == defaultPairPath {
		return r.defaultPair()
	}
	c := r.paths[path]
	if c == nil || path != c.path || c.isPair() && r.lines[c.resource] == 0 || !c.isPair() && r.caUsers[path] == 0 && path != r.clientCA() {
		return nil
	}
	return c.content(path)
}
