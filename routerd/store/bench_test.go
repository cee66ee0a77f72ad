package store

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/tsuji-dev/tsuji/snapshot"
)

func filled(n int) snapshot.Snapshot {
	var d snapshot.Delta
	for i := range n / 2 {
		d.Put = append(d.Put,
			snapshot.NewItem(fmt.Sprintf("route/shop-%d/web", i), bytes.Repeat([]byte("r"), 300)),
			snapshot.NewItem(fmt.Sprintf("endpoints/shop-%d/web/http", i), bytes.Repeat([]byte("e"), 300)))
	}
	return snapshot.Snapshot{}.Apply(1, d)
}

// One change, as it is recorded before the ack; syncing comes later.
func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p, base := newPlace(b), filled(n)
			s := p.open()
			p.append(s, base)
			d := func(v string) snapshot.Delta {
				return snapshot.Delta{Put: []snapshot.Item{snapshot.NewItem("endpoints/shop-1/web/http", []byte(v))}}
			}
			to := [2]snapshot.Delta{d("a"), d("b")}
			next := [2]snapshot.Snapshot{base.Apply(2, to[0]), base.Apply(3, to[1])}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := s.Append(next[i%2], to[i%2]); err != nil {
					b.Fatal(err)
				}
			}
			p.close(s)
		})
	}
}

// A start with 10,000 resources: from a checkpoint, and from one with 1,000 changes since.
func BenchmarkOpen(b *testing.B) {
	for _, changes := range []int{0, 1000} {
		b.Run(fmt.Sprintf("10000+%d", changes), func(b *testing.B) {
			p, next := newPlace(b), filled(10_000)
			s := p.open()
			p.append(s, next)
			if err := s.compact(); err != nil {
				b.Fatal(err)
			}
			for i := range changes {
				next = put(next, fmt.Sprintf("endpoints/shop-%d/web/http=%d", i, i))
				p.append(s, next)
			}
			p.close(s)
			for b.Loop() {
				s := p.open()
				if held, ok := s.Snapshot(); !ok || held.Len() != 10_000 {
					b.Fatal(held.Len())
				}
				if err := s.closeFiles(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
