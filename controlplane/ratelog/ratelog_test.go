package ratelog_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/ratelog"
)

// Who causes the same line again and again has some of them written, then one now and then with a count of those that
// were not. Nobody else's lines are fewer for it, and all together have a bound.
func TestAPeerCannotFillTheLog(t *testing.T) {
	var b strings.Builder
	now := time.Unix(1000, 0)
	l := ratelog.New(slog.New(slog.NewTextHandler(&b, nil)), func() time.Time { return now })
	lines := func(word string) int { return strings.Count(b.String(), word) }
	for range 1000 {
		l.Warn("mallory", "refused", "peer", "mallory")
	}
	l.Warn("alice", "refused", "peer", "alice")
	l.Error("mallory", "lost", "peer", "mallory")
	if lines("msg=refused peer=mallory") != 30 || lines("peer=alice") != 1 || lines("msg=lost") != 1 {
		t.Errorf("got\n%s", b.String())
	}
	now = now.Add(10 * time.Second)
	l.Warn("mallory", "refused", "peer", "mallory")
	l.Warn("mallory", "refused", "peer", "mallory")
	if lines("peer=mallory left_out=970") != 1 || lines("left_out") != 1 || lines("msg=refused peer=mallory") != 31 {
		t.Errorf("ten seconds later:\n%s", b.String())
	}
	for i := range 100_000 {
		l.Warn(fmt.Sprint(i), "refused")
	}
	if n := strings.Count(b.String(), "\n"); n > 300 {
		t.Errorf("%d lines", n)
	}
}
