package apply

import (
	"crypto/sha256"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

// server names a server in HAProxy, or of a route's backend; which one, the place says.
type server struct{ backend, name string }

// held is how HAProxy differs from what the files of the snapshot in force would make it: what has another
// name there, what is on its way out, and what is taken out of service because it is dead. A start or reload
// from files leaves nothing of it.
type held struct {
	actual    map[string]string                    // a route's backend → what HAProxy calls it, where that is another name
	backends  map[string]*leavingBackend           // by HAProxy's name
	servers   map[string]map[string]*leavingServer // by HAProxy's name of the backend, and theirs
	files     map[string]*leavingFile              // by path
	suspended map[server]bool                      // by the route's backend
}

// leavingBackend is a backend that no request is sent to any more.
type leavingBackend struct {
	profile string                   // empty: it is of an earlier life, and not known
	whole   map[string]render.Server // servers that still take what is on its way there; nil: all are in maintenance
	try
}

// leavingServer is a server in maintenance that is to be deleted when its last connection has ended.
type leavingServer struct {
	was *render.Server // nil: it is of an earlier life, and not known
	try
}

// leavingFile is a certificate or a file of CA certificates that no route uses any more.
type leavingFile struct {
	ca      bool
	content [sha256.Size]byte // digest of a certificate and its key; zero: it is of an earlier life, and not known
	unfit   bool              // no command would bring that content back
	try
}

// try tells when to try to delete something.
type try struct{ since, due time.Time }

// later puts off a try that failed: the longer, the longer it has been going on.
func (t *try) later(now time.Time) {
	t.due = now.Add(min(max(janitorPause, now.Sub(t.since)/4), janitorMost))
}

func newHeld() held {
	return held{
		actual:    map[string]string{},
		backends:  map[string]*leavingBackend{},
		servers:   map[string]map[string]*leavingServer{},
		files:     map[string]*leavingFile{},
		suspended: map[server]bool{},
	}
}

// name returns what HAProxy calls a route's backend.
func (h held) name(backend string) string {
	if n, ok := h.actual[backend]; ok {
		return n
	}
	return backend
}

// free returns the first name for a route's backend that HAProxy does not have. current is its name now, or empty.
func (h held) free(backend, current string) string {
	for n := 1; ; n++ {
		name := render.Successor(backend, n)
		if h.backends[name] == nil && name != current {
			return name
		}
	}
}

// leaving returns the backends that are leaving and were this route's, by name.
func (h held) leaving(backend string) []string {
	var names []string
	// Their numbers are dense but for what has been deleted: few are passed over.
	for n, missed := 1, 0; missed < 8 && len(h.backends) > 0; n++ {
		if name := render.Successor(backend, n); h.backends[name] != nil {
			names = append(names, name)
		} else {
			missed++
		}
	}
	return names
}

// has tells whether HAProxy still has the content that a file gets again.
func (h held) has(f render.FileChange) bool {
	l := h.files[f.Path]
	return l != nil && (l.ca || l.content == sha256.Sum256(f.New)) // CA certificates of one path are the same for ever
}

// state returns the state that a server of a route's backend should have.
func (h held) state(s server) haproxy.State {
	if h.suspended[s] {
		return haproxy.Maint
	}
	return haproxy.Ready
}

func (h held) leave(s server, l *leavingServer) {
	if h.servers[s.backend] == nil {
		h.servers[s.backend] = map[string]*leavingServer{}
	}
	h.servers[s.backend][s.name] = l
}

func (h held) forget(s server) {
	delete(h.servers[s.backend], s.name)
	if len(h.servers[s.backend]) == 0 {
		delete(h.servers, s.backend)
	}
}

// countServers counts servers that are leaving, those of whole backends not.
func (h held) countServers() int {
	n := 0
	for _, of := range h.servers {
		n += len(of)
	}
	return n
}

// In HAProxy's memory names are kept beside the stamp, for a routerd that takes it over.
const nameKey = "be:"

// readNames takes the names out of the entries of the map that the stamp is in.
func readNames(entries []haproxy.MapEntry) map[string]string {
	names := map[string]string{}
	for _, e := range entries {
		if backend, ok := strings.CutPrefix(e.Key, nameKey); ok {
			names[backend] = e.Value
		}
	}
	return names
}

// byName returns servers by their names.
func byName(list []render.Server) map[string]render.Server {
	m := make(map[string]render.Server, len(list))
	for _, s := range list {
		m[s.Name] = s
	}
	return m
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
