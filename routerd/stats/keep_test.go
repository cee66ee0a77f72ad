package stats

import (
	"os"
	"path/filepath"
	"testing"
)

// A table goes on from what another has kept: the same worker's counters are in its objects already; those of the worker before
// are carried if that one had nothing to add, and else everything begins anew. Series without an object are forgotten.
func TestKeep(t *testing.T) {
	t.Parallel()
	first, second := workerID{7, "100"}, workerID{7, "200"} // pids come again
	read := func(tb *table, values ...uint64) {
		tb.begin()
		for i, v := range values {
			r := &row{proxy: []byte("be_http:shop:" + string(rune('a'+i))), kind: backend}
			r.values[sessionsTotal], r.have = v, 1<<sessionsTotal
			tb.add(r)
		}
	}
	count := func(tb *table, route string) uint64 {
		s := tb.series[backend][`backend="http",namespace="shop",route="`+route+`"`]
		if s == nil {
			t.Fatalf("there is no series for route %s", route)
		}
		return s.now[sessionsTotal] + s.carried[sessionsTotal]
	}
	path := filepath.Join(t.TempDir(), "counters")
	old := newTable()
	read(old, 10, 1)
	old.commit(5)
	read(old, 4, 2) // another worker's
	old.commit(7)
	for _, c := range []struct {
		name   string
		whole  bool
		worker workerID
		want   uint64
	}{
		{"the same worker", false, first, 10 + 6},
		{"the same worker, after a reload that failed", true, first, 10 + 6},
		{"the next worker", true, second, 10 + 4 + 6},
		{"any other worker", false, second, 6},
	} {
		if err := old.keep(first, c.whole).save(path); err != nil {
			t.Fatal(err)
		}
		k, err := loadKept(path)
		if err != nil {
			t.Fatal(err)
		}
		now := newTable()
		read(now, 6)
		now.takeUp(k, c.worker)
		now.commit(7)
		if got := count(now, "a"); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
		if n := len(now.series[backend]); n != 1 {
			t.Errorf("%s: %d series, want 1", c.name, n)
		}
	}
	if err := os.WriteFile(path, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadKept(path); err == nil {
		t.Error("a broken file is read")
	}
}
