package apply_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// Who watches is told of files that are written, of reloads before and after, and of how they ended; a change at run time
// is none of these.
func TestHooks(t *testing.T) { haproxytest.Each(t, hooksStory) }

func hooksStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	var told []string
	var r *router
	r = w.router(options{idle: true, apply: func(c *apply.Config) {
		c.BeforeReload = func(ctx context.Context) {
			i, err := r.process.Processes(ctx)
			told = append(told, fmt.Sprintf("before, %d old workers, %v", len(i.Old), err))
		}
		c.OnReload = func(took time.Duration, err error) {
			if took <= 0 {
				t.Errorf("a reload took %v", took)
			}
			told = append(told, fmt.Sprintf("reloaded, failed %t", err != nil))
		}
		c.OnWrite = func(took time.Duration) {
			if took <= 0 {
				t.Errorf("writing took %v", took)
			}
			told = append(told, "written")
		}
	}})
	settings := func(on bool) *tsujiv1.Resource {
		return &tsujiv1.Resource{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{AbortOnClose: on}}}
	}
	one := serve(t, "one")
	expect := func(what string, want ...string) {
		t.Helper()
		if d := cmp.Diff(want, told); d != "" {
			t.Errorf("%s: want (-), got (+):\n%s", what, d)
		}
		told = nil
	}
	r.put(settings(false), edge("a"), endpoints("a", one, serve(t, "two")))
	expect("the first start", "written", "reloaded, failed false")
	r.put(settings(false), edge("a"), endpoints("a", one))
	expect("at run time")
	r.put(settings(true), edge("a"), endpoints("a", one))
	expect("a reload", "written", "before, 0 old workers, <nil>", "reloaded, failed false")
	weak, _ := certificate("a", true)
	if refusal := r.try(w.snapshot(settings(false), edge("a"), endpoints("a", one), weak)); refusal == nil {
		t.Fatal("HAProxy takes a weak certificate")
	}
	if len(told) < 2 || told[0] != "written" || told[1] != "reloaded, failed true" {
		t.Errorf("files that HAProxy refuses: %q", told)
	}
}
