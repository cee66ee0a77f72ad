// Package sourcetest follows a source of objects in tests as the control plane does, and holds it to what it promises.
package sourcetest

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

// A Mirror is what someone who follows a source holds.
type Mirror struct {
	// Objects are those that there are, as they were handed out.
	Objects map[cluster.Key]metav1.Object
	// Faults are those of the last batch.
	Faults []cluster.Fault
	// Last is the last batch, and Synced whether the source was then.
	Last   cluster.Batch
	Synced bool
	// Came counts how often an object changed, and Batches those that were taken.
	Came    map[cluster.Key]int
	Batches int
	// Strict refuses a batch with changes whose revision does not grow.
	Strict bool
}

// Until takes batches until ok says so.
func (m *Mirror) Until(t testing.TB, s cluster.Source, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		changed := s.Changed()
		b, synced := s.Take()
		if m.Synced && !synced {
			t.Fatal("was synced, and is not any more")
		}
		if b.Observed.GetEpoch() == m.Last.Observed.GetEpoch() &&
			(b.Revision < m.Last.Revision || m.Strict && len(b.Changes) > 0 && b.Revision == m.Last.Revision) {
			t.Fatalf("revision %d after %d, with %d changes", b.Revision, m.Last.Revision, len(b.Changes))
		}
		if !slices.IsSortedFunc(b.Changes, func(a, b cluster.Change) int { return a.Key.Compare(b.Key) }) {
			t.Fatalf("changes are not sorted: %v", b.Changes)
		}
		m.Last, m.Synced, m.Faults = b, synced, b.Faults
		m.Batches++
		for _, c := range b.Changes {
			if m.Objects == nil {
				m.Objects, m.Came = map[cluster.Key]metav1.Object{}, map[cluster.Key]int{}
			}
			m.Came[c.Key]++
			if c.Object == nil {
				delete(m.Objects, c.Key)
			} else {
				m.Objects[c.Key] = c.Object
			}
		}
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s: not so after a minute; objects %v, faults %v", what, m.Objects, m.Faults)
		}
	}
}

// Synchronized tells whether the source was synced.
func (m *Mirror) Synchronized() bool { return m.Synced }

// FaultAt returns the fault at a place, empty if there is none.
func (m *Mirror) FaultAt(place string) string {
	for _, f := range m.Faults {
		if f.Place == place {
			return f.String()
		}
	}
	return ""
}
