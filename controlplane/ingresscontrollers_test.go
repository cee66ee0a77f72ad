package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/cluster/manifests"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/inspect"
	"github.com/tsuji-dev/tsuji/controlplane/quarantine"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// patience bounds every wait for a condition.
const patience = 30 * time.Second

// world is a pipeline that follows a directory, with what it tells others.
type world struct {
	t     *testing.T
	dir   string
	board *release.Board
	fleet *fleet.Fleet
	*inspect.Server
}

// follow runs a pipeline until the test ends.
func follow(t *testing.T, keep time.Duration) *world {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	w := &world{t: t, dir: t.TempDir(), board: release.NewBoard(4), fleet: fleet.New(fleet.Config{Keep: keep})}
	w.Server = inspect.New(inspect.Config{Board: w.board, Fleet: w.fleet, Log: log, Now: time.Now})
	source, err := manifests.NewDir(manifests.DirConfig{Path: w.dir, Log: log, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	p := &pipeline{
		source: source, board: w.board, quarantine: quarantine.New(), inspect: w.Server, fleet: w.fleet, keep: keep, now: time.Now, log: log, synced: w.SetSynced,
		compile: func(name string) *compile.Compiler { return compile.New(compile.Config{IngressController: name}) },
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- source.Run(ctx) }()
	go func() { ended <- p.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	return w
}

// write makes the file say what the documents do; empty: it is gone.
func (w *world) write(name string, docs ...string) {
	w.t.Helper()
	path := filepath.Join(w.dir, name+".yaml")
	if len(docs) == 0 {
		if err := os.Remove(path); err != nil {
			w.t.Fatal(err)
		}
		return
	}
	if err := os.WriteFile(path+".new", []byte(strings.Join(docs, "\n---\n")), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		w.t.Fatal(err)
	}
}

func routeOf(name, labels string) string {
	return fmt.Sprintf(`{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: %s, namespace: shop, labels: {%s}}, spec: {host: %[1]s.example.com, to: {kind: Service, name: web}}}`, name, labels)
}

func controllerOf(namespace, name, selects string) string {
	return fmt.Sprintf(`{apiVersion: operator.openshift.io/v1, kind: IngressController, metadata: {name: %s, namespace: %s}, spec: {routeSelector: {matchLabels: {%s}}}}`, name, namespace, selects)
}

// becomes waits until what an IngressController's routers should have, what is said of its Routes, and the first words of
// the faults are as wanted.
func (w *world) becomes(name, want string) {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		got, err := w.of(name)
		if err == nil && got == want {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: got %q (%v), want %q", name, got, err, want)
		}
		time.Sleep(5 * time.Millisecond) // between two looks at a condition
	}
}

func (w *world) of(name string) (string, error) {
	var served []string
	target, ok, _ := w.board.Target(release.View{IngressController: name})
	for i := range target.Snapshot.Config().All() {
		if route, is := strings.CutPrefix(i.Name(), "route/shop/"); is {
			served = append(served, route)
		}
	}
	if !ok {
		served = append(served, "nothing")
	}
	slices.Sort(served)
	verdicts, err := w.ListRoutes(w.t.Context(), &tsujiv1.ListRoutesRequest{IngressController: name})
	status, statusErr := w.GetStatus(w.t.Context(), &tsujiv1.GetStatusRequest{})
	var faults []string
	for _, f := range status.GetFaults() {
		said, _, _ := strings.Cut(f.GetMessage(), ";")
		faults = append(faults, f.GetPlace()+" "+said)
	}
	return fmt.Sprintf("%s, %d verdicts, %s", strings.Join(served, " "), len(verdicts.GetRoutes()), strings.Join(faults, " ")), errors.Join(err, statusErr)
}

// An IngressController that is deleted goes on by what it said last while there are routers of its own, and follows what
// its selector lets in; then nothing is left of it. One that comes back counts as it is then, wherever it is.
func TestDeletedIngressController(t *testing.T) {
	const keep = 50 * time.Millisecond
	const here, gone = "openshift-ingress-operator", "IngressController openshift-ingress-operator/internal it was deleted"
	for _, name := range []string{"internal", "default"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := follow(t, keep)
			gone := strings.ReplaceAll(gone, "internal", name)
			w.write("routes", routeOf("a", "in: yes-it-is"), routeOf("b", "in: no-it-is-not"))
			w.write("controller", controllerOf(here, name, "in: yes-it-is"))
			w.becomes(name, "a, 1 verdicts, ")
			router := w.fleet.Connect(fleet.Router{IngressController: name, Zone: "tok04", Name: "r"}, time.Now())

			w.write("controller")
			w.becomes(name, "a, 1 verdicts, "+gone)
			w.write("more", routeOf("c", "in: yes-it-is"), routeOf("d", "in: no-it-is-not"))
			w.becomes(name, "a c, 2 verdicts, "+gone)

			w.write("controller", controllerOf("elsewhere", name, "in: no-it-is-not"))
			w.becomes(name, "b d, 2 verdicts, ")

			w.write("controller")
			router.Disconnected(time.Now())
			w.becomes(name, "nothing, 0 verdicts, ")
			w.fleet.Connect(fleet.Router{IngressController: name, Zone: "tok04", Name: "r"}, time.Now())
			w.becomes(name, "nothing, 0 verdicts, IngressController "+name+" there is none, or it was deleted")
			w.write("controller", controllerOf(here, name, "in: yes-it-is"))
			w.becomes(name, "a c, 2 verdicts, ")
		})
	}
}

// Without any IngressController "default" is served all the same, and nothing else is.
func TestOnlyDefaultNeedsNoObject(t *testing.T) {
	t.Parallel()
	w := follow(t, 50*time.Millisecond)
	w.write("routes", routeOf("a", ""), routeOf("b", ""))
	w.becomes("default", "a b, 2 verdicts, ")
	for i := range 20 { // more than are told of
		w.fleet.Connect(fleet.Router{IngressController: fmt.Sprintf("other%02d", i), Zone: "tok04", Name: "r"}, time.Now())
	}
	if got, err := w.of("other00"); err != nil || strings.Count(got, "there is none") != 16 || !strings.HasPrefix(got, "nothing, 0 verdicts, IngressController other00 there is none") {
		t.Errorf("got %q, %v", got, err)
	}
}

// Zones are followed: where there is any, others are refused, and one that is gone is. Without any each is served.
func TestZonesAreFollowed(t *testing.T) {
	t.Parallel()
	w := follow(t, time.Hour)
	zone := func(name, spec string) string {
		return fmt.Sprintf("{apiVersion: tsuji.dev/v1alpha1, kind: Zone, metadata: {name: %s}, spec: {%s}}", name, spec)
	}
	becomes := func(want ...bool) {
		t.Helper()
		deadline := time.Now().Add(patience)
		for {
			var got []bool
			for _, v := range []string{"default/tok04", "internal/tok05", "default/tok05"} {
				ingressController, zone, _ := strings.Cut(v, "/")
				got = append(got, w.board.Refuses(release.View{IngressController: ingressController, Zone: zone}) == "")
			}
			if slices.Equal(got, want) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("served are %t, want %t", got, want)
			}
			time.Sleep(5 * time.Millisecond) // between two looks at a condition
		}
	}
	w.write("routes", routeOf("a", ""))
	w.becomes("default", "a, 1 verdicts, ")
	becomes(true, true, true)
	w.write("zones", zone("tok04", ""), zone("tok05", "ingressController: internal"))
	becomes(true, true, false)
	w.write("zones", zone("tok04", "order: 3"))
	becomes(true, false, false)
	w.write("zones")
	becomes(true, true, true)
}
