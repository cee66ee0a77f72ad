package snapshot

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// content is a set as a plain map: name to content. Few names and few contents, so that two drawn ones
// have much in common.
type content map[string]string

func drawContent(t *rapid.T, label string) content {
	name := rapid.Custom(func(t *rapid.T) string {
		if rapid.IntRange(0, 20).Draw(t, "settings") == 0 {
			return "settings"
		}
		kind := rapid.SampledFrom([]string{"route/", "endpoints/", "cert/"}).Draw(t, "kind")
		return kind + fmt.Sprint(rapid.IntRange(0, 40).Draw(t, "n"))
	})
	return rapid.MapOfN(name, rapid.SampledFrom([]string{"", "a", "b", "ab"}), 0, 60).Draw(t, label)
}

// snapshot puts the content together in the order of rapid's choice.
func (c content) snapshot(t *rapid.T, revision uint64) Snapshot {
	names := make([]string, 0, len(c))
	for n := range c {
		names = append(names, n)
	}
	slices.Sort(names)
	names = rapid.Permutation(names).Draw(t, "order")
	config, facts := Set{}, Set{}
	for _, n := range names {
		if i := NewItem(n, []byte(c[n])); PartOf(n) == Config {
			config = config.With(i)
		} else {
			facts = facts.With(i)
		}
	}
	return New(revision, config, facts)
}

func (c content) check(t *rapid.T, s Snapshot) {
	if s.Len() != len(c) {
		t.Fatalf("Len() = %d, want %d", s.Len(), len(c))
	}
	got := s.Sorted()
	if len(got) != len(c) {
		t.Fatalf("Sorted() has %d items, want %d", len(got), len(c))
	}
	for i, item := range got {
		if i > 0 && got[i-1].Name() >= item.Name() {
			t.Fatalf("Sorted() has %s before %s", got[i-1], item)
		}
		want, ok := c[item.Name()]
		if !ok || string(item.Encoded()) != want {
			t.Fatalf("%s holds %q, want %q (present: %v)", item.Name(), item.Encoded(), want, ok)
		}
		if found, ok := s.Get(item.Name()); !ok || found.Digest() != item.Digest() {
			t.Fatalf("Get(%q) = %v, %v", item.Name(), found, ok)
		}
	}
}

// What Diff finds, Apply puts in: the two ends have the same digests, lengths and items.
func TestApplyUndoesDiff(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		from, to := drawContent(t, "from"), drawContent(t, "to")
		a, b := from.snapshot(t, 1), to.snapshot(t, 2)
		from.check(t, a)
		to.check(t, b)
		got := a.Apply(2, Diff(a, b))
		if got.Version() != b.Version() {
			t.Fatalf("applied version %s, want %s", got.Version(), b.Version())
		}
		to.check(t, got)
		from.check(t, a) // and a is as it was
	})
}

// A difference holds what differs and nothing else, each name once, in order.
func TestDiffIsMinimal(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		from, to := drawContent(t, "from"), drawContent(t, "to")
		d := Diff(from.snapshot(t, 1), to.snapshot(t, 2))
		var put, removed []string
		for n, c := range to {
			if old, ok := from[n]; !ok || old != c {
				put = append(put, n)
			}
		}
		for n := range from {
			if _, ok := to[n]; !ok {
				removed = append(removed, n)
			}
		}
		slices.Sort(put)
		slices.Sort(removed)
		if got := names(d.Put); !slices.Equal(got, put) {
			t.Errorf("puts %q, want %q", got, put)
		}
		if !slices.Equal(d.Removed, removed) {
			t.Errorf("removes %q, want %q", d.Removed, removed)
		}
		if d.Empty() != (len(put)+len(removed) == 0) {
			t.Errorf("Empty() = %v", d.Empty())
		}
	})
}

// A digest depends on what is in a set: not on the order, nor on what was there on the way.
func TestDigestForgetsHistory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c, detour := drawContent(t, "content"), drawContent(t, "detour")
		direct := c.snapshot(t, 1)
		s := detour.snapshot(t, 1)
		if rapid.Bool().Draw(t, "by difference") {
			s = s.Apply(1, Diff(s, direct))
		} else { // one by one, each a set of its own
			config, facts := s.Config(), s.Facts()
			for n := range detour {
				if _, ok := c[n]; !ok {
					config, facts = config.Without(n), facts.Without(n)
				}
			}
			for _, i := range direct.Sorted() {
				if PartOf(i.Name()) == Config {
					config = config.With(i)
				} else {
					facts = facts.With(i)
				}
			}
			s = New(1, config, facts)
		}
		if s.Version() != direct.Version() {
			t.Fatalf("by a detour %s, directly %s", s.Version(), direct.Version())
		}
		a, b := slices.Collect(direct.Facts().All()), slices.Collect(s.Facts().All())
		if !slices.Equal(names(a), names(b)) {
			t.Fatalf("All() yields %q and %q for equal sets", names(a), names(b))
		}
	})
}

// An editor leaves the set that it began from alone, whatever is done with it, and puts and removes in
// any order as a map would.
func TestEditorKeepsItsOrigin(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		model := content{}
		var sets []Set
		var models []content
		s := Set{}
		for range rapid.IntRange(1, 5).Draw(t, "rounds") {
			e := s.Edit()
			next := content{}
			for k, v := range model {
				next[k] = v
			}
			for range rapid.IntRange(0, 20).Draw(t, "changes") {
				n := fmt.Sprint("cert/", rapid.IntRange(0, 15).Draw(t, "name"))
				if rapid.Bool().Draw(t, "put") {
					v := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "content")
					e.Put(NewItem(n, []byte(v)))
					next[n] = v
				} else {
					e.Remove(n)
					delete(next, n)
				}
			}
			s, model = e.Set(), next
			sets, models = append(sets, s), append(models, model)
		}
		for i, set := range sets {
			models[i].check(t, New(1, Set{}, set))
			if fresh := models[i].snapshot(t, 1).Facts(); set.Digest() != fresh.Digest() {
				t.Fatalf("set %d was changed after it was published", i)
			}
		}
	})
}

// Sets.Apply and DiffSets agree with each other as those of snapshots do.
func TestSetApplyUndoesDiffSets(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawContent(t, "from").snapshot(t, 1).Facts(), drawContent(t, "to").snapshot(t, 1).Facts()
		if got := a.Apply(DiffSets(a, b)); got.Digest() != b.Digest() || got.Len() != b.Len() {
			t.Fatalf("got %s of %d items, want %s of %d", got.Digest(), got.Len(), b.Digest(), b.Len())
		}
	})
}

// Items that share a leaf are told apart: names are tried until three have the same path.
func TestLeafOfSeveral(t *testing.T) {
	t.Parallel()
	shared := map[[depth]byte][]string{}
	var found []string
	for n := 0; found == nil; n++ {
		name := fmt.Sprint("cert/", n)
		p := pathOf(name)
		if shared[p] = append(shared[p], name); len(shared[p]) == 3 {
			found = shared[p]
		}
	}
	s := Set{}
	for _, n := range found {
		s = s.With(NewItem(n, []byte(n)))
	}
	changed := s.With(NewItem(found[1], []byte("new"))).Without(found[0])
	d := DiffSets(s, changed)
	if !slices.Equal(names(d.Put), found[1:2]) || !slices.Equal(d.Removed, found[:1]) {
		t.Errorf("difference puts %v and removes %q", d.Put, d.Removed)
	}
	if back := changed.Apply(DiffSets(changed, s)); back.Digest() != s.Digest() {
		t.Error("there and back is somewhere else")
	}
	if empty := s.Without(found...); empty.Digest() != (Set{}).Digest() || empty.Len() != 0 {
		t.Error("a set that was emptied is not the empty set")
	}
}

// All can be left early.
func TestAllStops(t *testing.T) {
	t.Parallel()
	s := Set{}.With(NewItem("a", nil), NewItem("b", nil), NewItem("c", nil))
	seen := 0
	for range s.All() {
		if seen++; seen == 2 {
			break
		}
	}
	if seen != 2 {
		t.Errorf("saw %d items", seen)
	}
}

// Equal content under two names, and content moved between name and value, have different digests.
func TestDigestsSeparateNameAndContent(t *testing.T) {
	t.Parallel()
	seen := map[Digest]string{}
	for _, i := range []Item{NewItem("a", []byte("b")), NewItem("ab", nil), NewItem("", []byte("ab")), NewItem("a", nil)} {
		what := fmt.Sprintf("%q=%q", i.Name(), i.Encoded())
		if other, ok := seen[i.Digest()]; ok {
			t.Errorf("%s and %s have one digest", what, other)
		}
		seen[i.Digest()] = what
	}
	if i := (Item{}); i.Encoded() != nil {
		t.Error("the zero Item has content")
	}
}

// An item prints its name and digest, never its content: not under any verb, and not inside an
// unexported field of somebody's struct.
func TestItemHidesContent(t *testing.T) {
	t.Parallel()
	i := NewItem("cert/shop/route:web", []byte("SECRET"))
	type holder struct {
		item  Item
		items []Item
		byKey map[string]Item
	}
	h := holder{item: i, items: []Item{i}, byKey: map[string]Item{"x": i}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c"} {
		for what, value := range map[string]any{"item": i, "pointer": &i, "delta": Delta{Put: []Item{i}}, "holder": h, "pointer to holder": &h} {
			printed := fmt.Sprintf(verb, value)
			for _, secret := range []string{"SECRET", "83 69 67", "534543524554", "83, 69, 67", "0x53, 0x45", "SECRET"} {
				if strings.Contains(strings.ToUpper(printed), secret) {
					t.Errorf("%s of %s shows %s", verb, what, printed)
				}
			}
		}
	}
	if got, want := fmt.Sprint(i), "cert/shop/route:web@"+i.Digest().Short(); got != want {
		t.Errorf("prints %q, want %q", got, want)
	}
}

func names(items []Item) []string {
	var n []string
	for _, i := range items {
		n = append(n, i.Name())
	}
	return n
}
