package render_test

import (
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/routerd/render"
)

// What HAProxy said first of its machine it says again with every configuration, and its user's group may read the files.
func TestMachine(t *testing.T) {
	t.Parallel()
	for _, want := range []render.Machine{{Descriptors: 20_000, OldTLS: true}, {Descriptors: 1 << 20}} {
		o := options()
		o.Elsewhere, o.FileDescriptors, o.OldTLS = true, want.Descriptors, want.OldTLS
		r, err := render.New(o)
		if err != nil {
			t.Fatal(err)
		}
		described := false
		for _, f := range r.Dirty() {
			if f.Mode != 0o640 {
				t.Errorf("%s has mode %v", f.Path, f.Mode)
			}
			for line := range strings.Lines(string(f.Content)) {
				text, ok := strings.CutPrefix(line, "  description ")
				if !ok || f.Path != "haproxy.cfg" {
					continue
				}
				described = true
				if got := render.MachineOf(strings.TrimSpace(text), 7); got != want {
					t.Errorf("from %q: %+v, want %+v", text, got, want)
				}
			}
		}
		if !described {
			t.Error("haproxy.cfg does not say what the machine is like")
		}
	}
	for description, want := range map[string]render.Machine{
		"tsuji-first": {Descriptors: 7, OldTLS: true}, "tsuji-first-hybrid": {Descriptors: 7},
		"": {Descriptors: 7, OldTLS: true}, "somebody's": {Descriptors: 7, OldTLS: true}, "tsuji-files--1-hybrid": {Descriptors: 7},
	} {
		if got := render.MachineOf(description, 7); got != want {
			t.Errorf("from %q: %+v, want %+v", description, got, want)
		}
	}
	if first := string(render.First()); strings.Contains(first, "bind ") || !strings.Contains(first, "tsuji-first-hybrid") {
		t.Errorf("what HAProxy begins with: %s", first)
	}
}
