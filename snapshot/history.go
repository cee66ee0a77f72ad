package snapshot

import (
	"slices"
	"strings"
	"sync"
)

// History holds the snapshots that were added last, by version. It is safe for concurrent use.
type History struct {
	max int

	mu   sync.Mutex
	held []Snapshot // guarded by mu; the newest first, no two of equal version
}

// NewHistory makes a history that holds at most max snapshots; max is at least 1.
func NewHistory(limit int) *History { return &History{max: max(limit, 1)} }

// Add makes s the newest. If a snapshot of equal version is held already, that one becomes the newest
// instead and is returned: the revision that content was first known by stays.
func (h *History) Add(s Snapshot) Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := h.index(s.Version()); i >= 0 {
		s = h.held[i]
		h.held = slices.Delete(h.held, i, i+1)
	}
	h.held = slices.Insert(h.held, 0, s)
	if len(h.held) > h.max {
		h.held = slices.Delete(h.held, h.max, len(h.held))
	}
	return s
}

// Get returns the snapshot of an equal version. A version is known if both its parts are, though they may never have
// been held together: config and facts move apart from each other.
func (h *History) Get(v Version) (Snapshot, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := h.index(v); i >= 0 {
		return h.held[i], true
	}
	config := slices.IndexFunc(h.held, func(s Snapshot) bool { return s.Version().Config == v.Config })
	facts := slices.IndexFunc(h.held, func(s Snapshot) bool { return s.Version().Facts == v.Facts })
	if config < 0 || facts < 0 {
		return Snapshot{}, false
	}
	return New(v.Revision, h.held[config].config, h.held[facts].facts), true
}

// Find returns the snapshots whose printed version, long or short, begins with prefix.
func (h *History) Find(prefix string) []Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found []Snapshot
	for _, s := range h.held {
		v := s.Version()
		if strings.HasPrefix(v.String(), prefix) || strings.HasPrefix(v.Short(), prefix) {
			found = append(found, s)
		}
	}
	return found
}

// All returns what is held, the newest first.
func (h *History) All() []Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.held)
}

func (h *History) index(v Version) int {
	return slices.IndexFunc(h.held, func(s Snapshot) bool { return s.Version().Equal(v) })
}
