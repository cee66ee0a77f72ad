package apply_test

import (
	"fmt"
	"testing"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// One endpoint moves: from the snapshot to the verified ack, and the same for a renewed certificate and, for
// comparison, a route that needs a reload.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		w := newWorld(b, haproxytest.Binary(b))
		r := w.router(options{})
		ends := []*tsujiv1.Endpoint{serve(b, "one"), serve(b, "two")}
		var resources []*tsujiv1.Resource
		for i := range n {
			name := fmt.Sprint("r", i)
			resources = append(resources, route(name), endpoints(name, ends...))
		}
		cert, _ := certificate("a", false)
		current := r.put(append(resources, edge("a"), cert)...)
		change := func(b *testing.B, items ...*tsujiv1.Resource) {
			var d snapshot.Delta
			for _, i := range items {
				item, err := tsujiv1.Encode(i)
				must(b, err)
				d.Put = append(d.Put, item)
			}
			next := current.Apply(current.Version().Revision+1, d)
			if refusal := r.Apply(b.Context(), next, d); refusal != nil {
				b.Fatal(refusal)
			}
			current = next
		}
		b.Run(fmt.Sprintf("endpoint/routes=%d", n), func(b *testing.B) {
			i := 0
			for b.Loop() {
				change(b, endpoints("r0", ends[i%2]))
				i++
			}
		})
		certs := make([]*tsujiv1.Resource, 2)
		for i := range certs {
			certs[i], _ = certificate("a", false)
		}
		b.Run(fmt.Sprintf("certificate/routes=%d", n), func(b *testing.B) {
			i := 0
			for b.Loop() {
				change(b, certs[i%2])
				i++
			}
		})
		b.Run(fmt.Sprintf("reload/routes=%d", n), func(b *testing.B) {
			i := 0
			for b.Loop() {
				change(b, route(fmt.Sprint("more", i), service("r0", 1)))
				i++
			}
		})
	}
}
