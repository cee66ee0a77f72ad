package render

import (
	"cmp"
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

// host is what all routes of one host come to, kept up to date: what a change costs depends on the change and on the
// keys below its paths, not on how many paths there are.
type host struct {
	hostKey
	paths       paths
	entries     []*entry // by key
	terminated  int      // claims where TLS ends here
	passing     []*claim // that are passed through, by name; the first counts
	passthrough string   // the backend, noRoute where a wildcard must not answer, or empty
	certs       []certUse
	served      string // the certificate that has the line in crt-list.txt; empty: none
}

// entry is a key of the host's maps: host/path/, or host/path/pathEnd for one path alone. Empty values: it is not in
// that map.
type entry struct{ key, http, https string }

// certUse is a certificate that claims on the host name, and how many do. They are by name.
type certUse struct {
	name   string
	claims int
}

// move is a claim that comes, goes, or becomes another one; nil: there is none.
type move struct{ before, now *claim }

// What maps say besides names of backends. HAProxy has no backends of these names, so that a request that
// is left with one ends in the default backend.
const (
	noRoute  = "none"     // no route of this host: one of the wildcard may answer
	notPlain = "tls-only" // a route of this host, not served over plain HTTP; the wildcard's redirect does not count
)

// Lookups append pathEnd to "host/path/", and keys are prefixes that end in "/" or in pathEnd: the longest
// wins, only whole segments match, and a key that ends in pathEnd matches one path alone. No path has it.
const pathEnd = "#"

const redirectPrefix = "redirect:"

// redirectBackend names the backend that redirects to HTTPS.
func redirectBackend(code uint32) string { return fmt.Sprintf("%s%d", redirectPrefix, code) }

// empty tells whether nothing claims the host any more.
func (h *host) empty() bool { return len(h.paths.prefixes)+len(h.paths.exact) == 0 }

// move makes claims come and go, and tells what that changes in the maps for HTTP and for TLS that ends here.
func (h *host) move(moves []move, changed func(EntryChange)) {
	certs := map[string]int{}
	var touched []*claim
	for _, m := range moves {
		if c := m.before; c != nil {
			h.paths.take(c)
			h.count(c, -1, certs)
			touched = append(touched, c)
		}
		if c := m.now; c != nil {
			h.paths.put(c)
			h.count(c, 1, certs)
			touched = append(touched, c)
		}
	}
	h.useCerts(certs)
	h.addKeys(touched)
	file, tlsFile, _ := h.files()
	gone := false
	for e := range h.reached(touched) {
		http, https := h.answers(e.key)
		for _, x := range []EntryChange{{file, e.key, e.http, http}, {tlsFile, e.key, e.https, https}} {
			if x.Old != x.New {
				changed(x)
			}
		}
		e.http, e.https = http, https
		gone = gone || http == "" && https == ""
	}
	if gone {
		h.entries = slices.DeleteFunc(h.entries, func(e *entry) bool { return e.http == "" && e.https == "" })
	}
}

// count takes a claim in, or out, of what is counted.
func (h *host) count(c *claim, n int, certs map[string]int) {
	if c.terminated {
		h.terminated += n
	}
	if c.certificate != "" {
		certs[c.certificate] += n
	}
	switch {
	case c.passthrough && n > 0:
		h.passing = insert(h.passing, []*claim{c}, compareClaims)
	case c.passthrough:
		h.passing = slices.DeleteFunc(h.passing, func(o *claim) bool { return o.resource == c.resource })
	}
}

// useCerts counts the claims that name certificates.
func (h *host) useCerts(more map[string]int) {
	byName := func(a, b certUse) int { return cmp.Compare(a.name, b.name) }
	var come []certUse
	gone := false
	for _, name := range sortedKeys(more) {
		use := certUse{name, more[name]}
		if use.claims == 0 {
			continue
		}
		if i, found := slices.BinarySearchFunc(h.certs, use, byName); found {
			h.certs[i].claims += use.claims
			gone = gone || h.certs[i].claims == 0
		} else {
			come = append(come, use)
		}
	}
	h.certs = insert(h.certs, come, byName)
	if gone {
		h.certs = slices.DeleteFunc(h.certs, func(u certUse) bool { return u.claims == 0 })
	}
}

// addKeys adds the keys that claims need, with no values yet.
func (h *host) addKeys(claims []*claim) {
	var missing []*entry
	for _, c := range claims {
		for _, key := range c.keys() {
			if _, found := h.find(h.name + key); !found && h.paths.claimed(key, false) {
				missing = append(missing, &entry{key: h.name + key})
			}
		}
	}
	slices.SortFunc(missing, compareKeys)
	missing = slices.CompactFunc(missing, func(a, b *entry) bool { return a.key == b.key })
	h.entries = insert(h.entries, missing, compareKeys)
}

func compareKeys(a, b *entry) int { return cmp.Compare(a.key, b.key) }

// find returns where a key is, or would be.
func (h *host) find(key string) (int, bool) {
	return slices.BinarySearchFunc(h.entries, key, func(e *entry, key string) int { return cmp.Compare(e.key, key) })
}

// reached yields the entries that may depend on claims, each once: for one path alone its own, for a prefix all that
// begin with it.
func (h *host) reached(claims []*claim) iter.Seq[*entry] {
	var keys []string
	for _, c := range claims {
		if c.exact {
			keys = append(keys, h.name+c.keys()[0])
		} else {
			keys = append(keys, h.name+c.below())
		}
	}
	slices.Sort(keys)
	return func(yield func(*entry) bool) {
		last := pathEnd // what begins with it was yielded
		for _, key := range keys {
			if strings.HasPrefix(key, last) {
				continue
			}
			last = key
			for i, _ := h.find(key); i < len(h.entries) && strings.HasPrefix(h.entries[i].key, key); i++ {
				if !yield(h.entries[i]) {
					return
				}
			}
		}
	}
}

// answers returns the values of a key; empty: it is not in that map.
func (h *host) answers(key string) (http, https string) {
	key = key[len(h.name):]
	answer := httpAnswer
	if h.wildcard {
		answer = wildcardHTTPAnswer
	}
	if h.paths.claimed(key, false) {
		http = answer(h.paths.under(key, false))
	}
	if h.paths.claimed(key, true) {
		https = httpsAnswer(h.paths.under(key, true))
	}
	return http, https
}

// passThrough decides again who has the TLS that does not end here, and tells what that changes. under: the parent
// domain has a passthrough route for all its hosts.
func (h *host) passThrough(under bool, changed func(EntryChange)) {
	before := h.passthrough
	switch {
	case len(h.passing) > 0:
		h.passthrough = h.passing[0].backend
	case h.terminated > 0 && under:
		h.passthrough = noRoute
	default:
		h.passthrough = ""
	}
	if h.passthrough != before {
		_, _, file := h.files()
		changed(EntryChange{file, h.name, before, h.passthrough})
	}
}

// naming returns the entries that name one of the wanted backends, which claims are of.
func (h *host) naming(wanted map[string]bool, claims []*claim) []Entry {
	named := func(value string) bool {
		one, other, _ := strings.Cut(value, "|")
		return wanted[one] || wanted[other]
	}
	http, https, tcp := h.files()
	var list []Entry
	for e := range h.reached(claims) {
		if named(e.http) {
			list = append(list, Entry{http, e.key, e.http})
		}
		if named(e.https) {
			list = append(list, Entry{https, e.key, e.https})
		}
	}
	if named(h.passthrough) {
		list = append(list, Entry{tcp, h.name, h.passthrough})
	}
	return list
}

// certificate returns the one certificate of the host's that is served: the first that is there. One, because of
// several lines for a name HAProxy takes the oldest, and that depends on what came first. While there is none the
// host is served with the default one: a Route may arrive before its Secret.
func (h *host) certificate(there func(name string) bool) string {
	for _, c := range h.certs {
		if there(c.name) {
			return c.name
		}
	}
	return ""
}

// files returns the maps that requests are looked up in: over plain HTTP, over TLS that ends here, and over TLS that is
// passed through.
func (k hostKey) files() (http, https, tcp string) {
	if k.wildcard {
		return mapHTTPWildcard, mapHTTPSWildcard, mapTCPWildcard
	}
	return mapHTTP, mapHTTPS, mapTCP
}

// list returns the host's entries in one of the maps that requests of its kind are looked up in, by key.
func (h *host) list(file string) []Entry {
	var list []Entry
	switch http, https, _ := h.files(); file {
	case http, https:
		for _, e := range h.entries {
			value := e.http
			if file == https {
				value = e.https
			}
			if value != "" {
				list = append(list, Entry{file, e.key, value})
			}
		}
	default:
		if h.passthrough != "" {
			list = []Entry{{file, h.name, h.passthrough}}
		}
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
