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
				for _, e := range h.in(file, k) {
					if !yield(e.key, e.value) {
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
	if c := r.certificates[r.settings.GetClientTls().GetCa()]; c != nil && c.ca != nil && len(r.options.HTTPS) > 0 && !slices.Contains(paths, c.path) {
		paths = append(paths, c.path)
		slices.Sort(paths)
	}
	return paths
}

// CrtList returns the lines of crt-list.txt, as such that were added; false: HAProxy reads none.
func (r *Renderer) CrtList() (lines []CrtListChange, ok bool) {
	if len(r.options.HTTPS) == 0 {
		return nil, false
	}
	for k, h := range r.hosts {
		if name, ok := h.certificate(r.hasPair); ok {
			lines = append(lines, CrtListChange{Certificate: r.certificates[name].path, Filter: k.sni(), Added: true})
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
	if c == nil || path != c.path || c.isPair() && r.lines[c.resource] == 0 || !c.isPair() && !slices.Contains(r.CAs(), path) {
		return nil
	}
	return c.content(path)
}
