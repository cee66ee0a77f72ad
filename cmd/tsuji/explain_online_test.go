package main

import (
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/inspect"
	"github.com/tsuji-dev/tsuji/controlplane/release"
)

// A control plane that serves the manifests explains as the manifests do, but for what only Routes themselves tell:
// where they stand.
func TestExplainOnline(t *testing.T) {
	enterManifests(t)
	board := release.NewBoard(4)
	now := func() time.Time { return epoch }
	inspection := inspect.New(inspect.Config{Board: board, Fleet: fleet.New(fleet.Config{}), Source: "dir:shop", Log: slog.New(slog.DiscardHandler), Now: now})
	c, err := compileFiles(t.Context(), world{now: now}, []string{"shop"}, "shop")
	if err != nil {
		t.Fatal(err)
	}
	inspection.Observe("shop", compile.Result{Verdicts: c.verdicts})
	board.Publish("shop", release.Target{Snapshot: c.snapshot}, epoch)
	server := grpc.NewServer()
	inspection.Register(server)
	address := serve(t, server)

	for _, request := range []string{"www.shop.example/cart/7", "www.shop.example", "pay.shop.example", "empty.shop.example", "shop.example"} {
		asked := func(how ...string) explanation {
			t.Helper()
			out, code := tsuji(t, nil, append([]string{"explain", request, "-o", "json", "--ingress-controller=shop"}, how...)...)
			var x explanation
			if err := json.Unmarshal([]byte(out), &x); err != nil || code != exitOK {
				t.Fatalf("%s: exit code %d, %v: %s", request, code, err, out)
			}
			for _, r := range x.Routes {
				r.Place = ""
			}
			for _, d := range x.Answers {
				d.Place = ""
			}
			return x
		}
		offline, online := asked("--files=shop"), asked("--insecure", "--server="+address)
		if d := cmp.Diff(offline, online); d != "" {
			t.Errorf("%s (-offline +online):\n%s", request, d)
		}
	}
}
