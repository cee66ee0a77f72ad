package apply_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// Where a connection may have one more request after HAProxy has stopped listening, that request goes where the newest
// version says. A routerd that takes over from one that was killed meanwhile opens the ports again.
func TestDrainFollows(t *testing.T) { haproxytest.Each(t, drainFollowsStory) }

func drainFollowsStory(t *testing.T, binary string) {
	t.Parallel()
	for _, passed := range []bool{false, true} {
		t.Run(fmt.Sprint("passthrough=", passed), func(t *testing.T) {
			w := newWorld(t, binary)
			r := w.router(options{drain: time.Minute})
			cert, _ := certificate("a", false)
			fixed := []*tsujiv1.Resource{edge("a"), cert, {Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{IdleCloseOnResponse: true}}}}
			if passed {
				through := route("through")
				through.GetRoute().Termination = tsujiv1.Termination_TERMINATION_PASSTHROUGH
				fixed = append(fixed, through)
			}
			put := func(list ...*tsujiv1.Endpoint) snapshot.Snapshot {
				t.Helper()
				return r.put(append(fixed, endpoints("a", list...))...)
			}
			one, two, three := serve(t, "one"), serve(t, "two"), serve(t, "three")
			put(one, two)
			plain, encrypted, third := w.keep("http://"+w.http), w.keep("https://"+w.https), w.keep("http://"+w.http)
			for _, ask := range []func() string{plain, encrypted, third} {
				if got := ask(); got != "one" && got != "two" {
					t.Fatal(got)
				}
			}
			stopped := make(chan error, 1)
			go func() { stopped <- r.Stop(t.Context()) }()
			eventually(t, "it stops listening", w.deaf)
			current := put(two)
			if got := plain(); got != "two, the last" {
				t.Errorf("one more request, after an endpoint was withdrawn: %s", got)
			}
			if got := encrypted(); !strings.HasPrefix(got, "two") {
				t.Errorf("the same by TLS: %s", got)
			}
			if refusal := r.try(w.snapshot(edge("a"), cert, endpoints("a"))); !strings.Contains(refusal.GetMessage(), "stopping") {
				t.Errorf("what needs a reload: %v", refusal)
			}
			select {
			case err := <-stopped:
				t.Fatalf("a connection is left, and it has ended: %v", err)
			default:
			}
			if passed {
				want := "two, the last"
				if r.can.DynamicServers { // before, a new server is a reload
					put(three)
					want = "three, the last"
				}
				if got := third(); got != want {
					t.Errorf("after an endpoint moved: %s", got)
				}
				eventually(t, "a connection by TLS is closed with an answer", func() bool { return strings.HasSuffix(encrypted(), ", the last") })
				must(t, <-stopped)
				return
			}
			r.die()
			thaw := r.Freeze() // its Stop would end what the next one starts
			next := w.router(options{})
			t.Cleanup(func() { next.process.Kill(); thaw(); t.Log("its Stop, at last:", <-stopped) })
			must(t, next.Start(t.Context(), current))
			for range 100 {
				if got, err := w.tryGet("a.test"); got != "two" {
					t.Fatalf("taken over: %q, %v", got, err)
				}
			}
		})
	}
}
