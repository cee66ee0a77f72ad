package snapshot

import (
	"bytes"
	"fmt"
	"testing"
)

// sizes are the sizes that the cost of one change must not depend on.
var sizes = []int{100, 10_000, 100_000}

func filled(n int) Snapshot {
	config, facts := Set{}.Edit(), Set{}.Edit()
	config.Put(NewItem("settings", nil))
	for i := range n / 2 {
		config.Put(NewItem(fmt.Sprintf("route/shop-%d/web", i), bytes.Repeat([]byte("r"), 300)))
		facts.Put(NewItem(fmt.Sprintf("endpoints/shop-%d/web/http", i), bytes.Repeat([]byte("e"), 300)))
	}
	return New(1, config.Set(), facts.Set())
}

func changes(n int) []Item {
	items := make([]Item, 1024)
	for i := range items {
		items[i] = NewItem(fmt.Sprintf("endpoints/shop-%d/web/http", i*7919%(n/2)), fmt.Appendf(nil, "changed %d", i))
	}
	return items
}

// One item changes; the digest is there afterwards.
func BenchmarkUpdate(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			facts, items := filled(n).Facts(), changes(n)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				facts = facts.With(items[i%len(items)])
			}
		})
	}
}

// The difference of two snapshots that one item tells apart.
func BenchmarkDiff(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			from, items := filled(n), changes(n)
			to := make([]Snapshot, len(items))
			for i := range to {
				to[i] = from.Apply(2, Delta{Put: items[i : i+1]})
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if d := Diff(from, to[i%len(to)]); len(d.Put) != 1 {
					b.Fatal(d)
				}
			}
		})
	}
}

// Everything at once, as a first sync brings it.
func BenchmarkBuild(b *testing.B) {
	items := filled(10_000).Sorted()
	b.ReportAllocs()
	for b.Loop() {
		Snapshot{}.Apply(1, Delta{Put: items})
	}
}
