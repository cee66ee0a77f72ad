package main

import (
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// What a status says of Routes: how many there are, how many to look at, and that there are none at all.
func TestStatusOfRoutes(t *testing.T) {
	for _, c := range []struct {
		status *tsujiv1.GetStatusResponse
		want   string
	}{
		{&tsujiv1.GetStatusResponse{}, "0 admitted, 0 refused"},
		{&tsujiv1.GetStatusResponse{Synced: true}, "0 admitted, 0 refused: there are no Routes in the source, and nothing is served"},
		{&tsujiv1.GetStatusResponse{Synced: true, RoutesRefused: 1}, "0 admitted, 1 refused (tsuji routes --refused)"},
		{&tsujiv1.GetStatusResponse{Synced: true, RoutesAdmitted: 3, RoutesWarned: 2}, "3 admitted, 2 of them with warnings (tsuji routes --warned), 0 refused"},
		{
			&tsujiv1.GetStatusResponse{Synced: true, RoutesAdmitted: 3, RoutesWarned: 2, RoutesLastGood: 1},
			"3 admitted, 2 of them with warnings (tsuji routes --warned), 1 as they were last good, since something that they refer to is not, 0 refused",
		},
	} {
		var b strings.Builder
		g := &grid{tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)}
		statusTable(g, world{now: time.Now}, "server", c.status)
		if err := g.w.Flush(); err != nil {
			t.Fatal(err)
		}
		var got string
		for line := range strings.Lines(b.String()) {
			if rest, ok := strings.CutPrefix(line, "Routes "); ok {
				got = strings.TrimSpace(rest)
			}
		}
		if got != c.want {
			t.Errorf("%v:\n got %q\nwant %q", c.status, got, c.want)
		}
	}
}
