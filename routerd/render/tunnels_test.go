package render_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// Whatever timeout a passthrough route asks for, there is a profile for it already, whose timeout is not shorter, and from a
// second on less than half as much longer.
func TestPassthroughTimeouts(t *testing.T) {
	t.Parallel()
	const longest = (1<<31 - 1) * time.Millisecond
	pass := simple("p", "p.example", "/", passthrough, none)
	r := renderer(t, options())
	apply(t, r, routeOf(pass))
	check := func(t rapid.TB, d time.Duration) {
		spec := simple("p", "p.example", "/", passthrough, none)
		spec.Timeouts = &tsujiv1.RouteTimeouts{Tunnel: durationpb.New(d)}
		c, err := r.Apply(delta(t, routeOf(spec)))
		if err != nil || len(c.Reload) > 0 {
			t.Fatalf("%s: %v, reload: %q", d, err, c.Reload)
		}
		b, _ := r.Backend("be_tcp:ns:p")
		ms, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(b.Profile, "tcp-source-tunnel-"), "ms"), 10, 64)
		if err != nil {
			t.Fatalf("%s: profile %s: %v", d, b.Profile, err)
		}
		got, asked := time.Duration(ms)*time.Millisecond, min(d, longest)
		if got < asked || d >= time.Second && got >= asked*3/2 || got > max(time.Second, asked*3/2) {
			t.Errorf("%s becomes %s", d, got)
		}
		if config := filesOf(r)["haproxy.cfg"]; !strings.Contains(config, "\ndefaults "+b.Profile+"\n") {
			t.Errorf("%s: haproxy.cfg has no profile %s", d, b.Profile)
		}
	}
	for _, d := range []time.Duration{1, time.Millisecond, time.Second - 1, time.Second, time.Second + 1, longest - 1, longest, longest + 1, 1<<63 - 1} {
		check(t, d)
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, time.Duration(rapid.Int64Range(1, int64(1)<<rapid.IntRange(1, 52).Draw(t, "bits")).Draw(t, "timeout")))
	})
}
