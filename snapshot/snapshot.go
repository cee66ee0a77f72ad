// Package snapshot is an immutable, versioned set of named resources.
//
// It guarantees that equal content has the equal digest, whatever the order it was put together in and
// whatever was there before; that a changed set shares what did not change with the set it was made
// from; and that changing a set, taking its digest and finding the difference of any two sets cost in
// proportion to the changes and not to the size.
//
// Do not assume that the items of a set come in the order of their names: All yields the trie's order,
// which is the same for equal sets and means nothing else.
package snapshot

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Part is one half of a snapshot.
type Part int

// The two parts. Decisions are made about config; facts flow at once.
const (
	Config Part = iota // Settings and Routes
	Facts              // Endpoints and Certificates
)

// PartOf tells which part a resource of this name belongs to.
func PartOf(name string) Part {
	if name == "settings" || strings.HasPrefix(name, "route/") {
		return Config
	}
	return Facts
}

// A Snapshot is a config and the facts it was compiled with. The zero Snapshot is empty, at revision 0.
type Snapshot struct {
	revision uint64
	config   Set
	facts    Set
}

// New makes a snapshot. The revision is for people: it says when, and does not count when versions are
// compared.
func New(revision uint64, config, facts Set) Snapshot {
	return Snapshot{revision: revision, config: config, facts: facts}
}

// Version returns the snapshot's version.
func (s Snapshot) Version() Version {
	return Version{Revision: s.revision, Config: s.config.Digest(), Facts: s.facts.Digest()}
}

// Config returns the part that decisions are made about.
func (s Snapshot) Config() Set { return s.config }

// Facts returns the part that flows at once.
func (s Snapshot) Facts() Set { return s.facts }

// Len returns the number of resources.
func (s Snapshot) Len() int { return s.config.Len() + s.facts.Len() }

// Get returns the resource of this name.
func (s Snapshot) Get(name string) (Item, bool) {
	if PartOf(name) == Config {
		return s.config.Get(name)
	}
	return s.facts.Get(name)
}

// Sorted returns all resources in the order of their names. It costs as much as the snapshot is large.
func (s Snapshot) Sorted() []Item {
	items := make([]Item, 0, s.Len())
	for i := range s.config.All() {
		items = append(items, i)
	}
	for i := range s.facts.All() {
		items = append(items, i)
	}
	slices.SortFunc(items, func(a, b Item) int { return cmp.Compare(a.name, b.name) })
	return items
}

// Apply returns the snapshot that the difference leads to, at the given revision.
func (s Snapshot) Apply(revision uint64, d Delta) Snapshot {
	config, facts := s.config.Edit(), s.facts.Edit()
	editor := func(name string) *Editor {
		if PartOf(name) == Config {
			return config
		}
		return facts
	}
	for _, i := range d.Put {
		editor(i.name).Put(i)
	}
	for _, name := range d.Removed {
		editor(name).Remove(name)
	}
	return New(revision, config.Set(), facts.Set())
}

// Delta leads from one set, or snapshot, to another. Both lists are in the order of names.
type Delta struct {
	Put     []Item   // new or changed
	Removed []string // names
}

// Empty tells whether the delta changes nothing.
func (d Delta) Empty() bool { return len(d.Put) == 0 && len(d.Removed) == 0 }

// Diff returns what leads from one snapshot to the other.
func Diff(from, to Snapshot) Delta {
	config := DiffSets(from.config, to.config)
	facts := DiffSets(from.facts, to.facts)
	d := Delta{
		Put:     append(config.Put, facts.Put...),
		Removed: append(config.Removed, facts.Removed...),
	}
	d.sort()
	return d
}

func (d *Delta) sort() {
	slices.SortFunc(d.Put, func(a, b Item) int { return cmp.Compare(a.name, b.name) })
	slices.Sort(d.Removed)
}

// Version names a snapshot. A version is its two digests; the revision in front is for people, and
// replicas may print different ones for equal content. Never compare versions with ==: use Equal.
type Version struct {
	Revision uint64
	Config   Digest
	Facts    Digest
}

// Equal tells whether both name the same content.
func (v Version) Equal(o Version) bool { return v.Config == o.Config && v.Facts == o.Facts }

// IsZero tells whether this is no version at all. (An empty snapshot has a version that is not zero.)
func (v Version) IsZero() bool { return v == Version{} }

// String returns "<revision>-<config digest>+<facts digest>", which ParseVersion reads; the zero Version
// is the empty string.
func (v Version) String() string {
	if v.IsZero() {
		return ""
	}
	return fmt.Sprintf("%d-%s+%s", v.Revision, v.Config, v.Facts)
}

// Short returns String with the digests cut to 8 digits, for tables and logs.
func (v Version) Short() string {
	if v.IsZero() {
		return ""
	}
	return fmt.Sprintf("%d-%s+%s", v.Revision, v.Config.Short(), v.Facts.Short())
}

var errVersion = errors.New("want <revision>-<config digest>+<facts digest>, the digests of 64 hexadecimal digits")

// ParseVersion reads what String wrote. The empty string is the zero Version.
func ParseVersion(s string) (Version, error) {
	if s == "" {
		return Version{}, nil
	}
	fail := func() (Version, error) { return Version{}, fmt.Errorf("version %.200q: %w", s, errVersion) }
	rev, digests, ok := strings.Cut(s, "-")
	if !ok {
		return fail()
	}
	config, facts, ok := strings.Cut(digests, "+")
	if !ok {
		return fail()
	}
	var v Version
	var err error
	if v.Revision, err = strconv.ParseUint(rev, 10, 64); err != nil {
		return fail()
	}
	if v.Config, err = ParseDigest(config); err != nil {
		return fail()
	}
	if v.Facts, err = ParseDigest(facts); err != nil {
		return fail()
	}
	if v.String() != s { // +7, 007, upper-case digits
		return fail()
	}
	return v, nil
}
