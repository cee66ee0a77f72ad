package snapshot

import (
	"fmt"
	"testing"
)

func numbered(revision uint64, content string) Snapshot {
	return New(revision, Set{}.With(NewItem("settings", []byte(content))), Set{})
}

// A history keeps the newest, forgets the oldest, and finds by version whatever the revision.
func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	h := NewHistory(3)
	for i := range uint64(5) {
		h.Add(numbered(i, fmt.Sprint(i)))
	}
	var held string
	for _, s := range h.All() {
		held += fmt.Sprint(s.Version().Revision, " ")
	}
	if held != "4 3 2 " {
		t.Errorf("holds revisions %s", held)
	}
	if _, ok := h.Get(numbered(1, "1").Version()); ok {
		t.Error("the second oldest is still there")
	}
	if s, ok := h.Get(numbered(99, "3").Version()); !ok || s.Version().Revision != 3 {
		t.Errorf("content of revision 3 was found as %d, %v", s.Version().Revision, ok)
	}
}

// Content that comes back becomes the newest, under the revision that it was first known by.
func TestHistoryKeepsFirstRevision(t *testing.T) {
	t.Parallel()
	h := NewHistory(3)
	h.Add(numbered(1, "a"))
	h.Add(numbered(2, "b"))
	if got := h.Add(numbered(3, "a")).Version().Revision; got != 1 {
		t.Errorf("added again as revision %d, want 1", got)
	}
	if all := h.All(); len(all) != 2 || all[0].Version().Revision != 1 || all[1].Version().Revision != 2 {
		t.Errorf("holds %d snapshots, the newest %s", len(all), all[0].Version().Short())
	}
}

// A version is known if both its parts are, though they were never held together.
func TestHistoryKnowsPartsApart(t *testing.T) {
	t.Parallel()
	of := func(config, facts string) Snapshot {
		return New(1, Set{}.With(NewItem("route/a/b", []byte(config))), Set{}.With(NewItem("endpoints/a/b/*", []byte(facts))))
	}
	h := NewHistory(3)
	h.Add(of("old", "old"))
	h.Add(of("new", "new"))
	for _, c := range []struct {
		config, facts string
		want          bool
	}{{"old", "new", true}, {"new", "old", true}, {"new", "new", true}, {"other", "new", false}, {"new", "other", false}} {
		want := of(c.config, c.facts)
		got, ok := h.Get(want.Version())
		if ok != c.want || ok && !got.Version().Equal(want.Version()) {
			t.Errorf("config %s with facts %s: found %t, %s", c.config, c.facts, ok, got.Version().Short())
		}
	}
}

// A version is found by the beginning of what is printed of it, in full or in short.
func TestHistoryFind(t *testing.T) {
	t.Parallel()
	h := NewHistory(0) // one at least
	v := h.Add(numbered(17, "a")).Version()
	for _, prefix := range []string{"", "17", "17-", v.Short(), v.String(), v.String()[:20]} {
		if got := h.Find(prefix); len(got) != 1 {
			t.Errorf("Find(%q) found %d", prefix, len(got))
		}
	}
	if got := h.Find("18"); len(got) != 0 {
		t.Errorf("Find(18) found %d", len(got))
	}
}
