package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	routev1 "github.com/openshift/api/route/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/cluster/manifests"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/inspect"
	"github.com/tsuji-dev/tsuji/controlplane/quarantine"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

const objects = `
{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: good, namespace: shop}, spec: {host: good.example.com, to: {kind: Service, name: web}}}
---
{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: bad, namespace: shop}, spec: {host: bad_, to: {kind: Service, name: web}}}
---
{apiVersion: operator.openshift.io/v1, kind: IngressController, metadata: {name: default, namespace: openshift-ingress-operator},
 spec: {httpHeaders: {actions: {response: [{name: X Bad, action: {type: Set, set: {value: x}}}]}}}}
`

// Most Routes are refused by a router that has nothing yet: it serves the rest. What is left out for that is not a mishap
// that the guard mends by offering it again.
func TestTheGuardDoesNotBringBackWhatIsRefused(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	board, now := release.NewBoard(1), time.Unix(1, 0)
	p := &pipeline{
		board: board, quarantine: quarantine.New(), fleet: fleet.New(fleet.Config{}), log: log,
		inspect: inspect.New(inspect.Config{Board: board, Fleet: fleet.New(fleet.Config{}), Log: log, Now: time.Now}),
		compile: func(name string) *compile.Compiler { return compile.New(compile.Config{IngressController: name}) },
		now:     func() time.Time { return now },
		objects: map[cluster.Key]cluster.Change{}, controllers: map[string]*ingressController{defaultIngressController: {name: defaultIngressController}},
	}
	var changes []cluster.Change
	refusal := &tsujiv1.Refusal{Class: tsujiv1.RefusalClass_REFUSAL_CLASS_CONTENT}
	for n := range 40 {
		k := cluster.Key{Kind: cluster.Route, Namespace: fmt.Sprintf("ns%d", n%4), Name: fmt.Sprintf("r%d", n)}
		changes = append(changes, cluster.Change{Key: k, Object: &routev1.Route{
			ObjectMeta: metav1.ObjectMeta{Namespace: k.Namespace, Name: k.Name},
			Spec:       routev1.RouteSpec{Host: k.Name + ".example.com", To: routev1.RouteTargetReference{Kind: "Service", Name: "web"}},
		}})
		if n < 30 {
			refusal.Resources = append(refusal.Resources, &tsujiv1.RefusedResource{Resource: tsujiv1.RouteName(k.Namespace, k.Name)})
		}
	}
	p.handle(cluster.Batch{Changes: changes, Revision: 1})
	routes := func() (snapshot.Snapshot, int) {
		target, _, _ := board.Target(release.View{IngressController: "default"})
		return target.Snapshot, target.Snapshot.Config().Len() - 1
	}
	served, before := routes()
	p.quarantine.Connect("default", "r1", "3.4 v1").Refused(refusal, served, snapshot.Snapshot{}, now)
	p.handle(cluster.Batch{Revision: 1})
	if _, after := routes(); before != 40 || after != 10 {
		t.Errorf("%d Routes are served, %d before the refusal", after, before)
	}
}

// New Routes that are more than one compilation looks at are told of as waiting, and compiled by the next ones, which come by
// themselves.
func TestNewRoutesAreCompiledInTurns(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	board, now := release.NewBoard(1), time.Unix(1, 0)
	p := &pipeline{
		board: board, quarantine: quarantine.New(), fleet: fleet.New(fleet.Config{}), log: log,
		inspect: inspect.New(inspect.Config{Board: board, Fleet: fleet.New(fleet.Config{}), Log: log, Now: time.Now}),
		compile: func(string) *compile.Compiler { return compile.New(compile.Config{Most: 10}) },
		now:     func() time.Time { return now },
		objects: map[cluster.Key]cluster.Change{}, controllers: map[string]*ingressController{"default": {name: "default"}},
	}
	p.handle(cluster.Batch{Revision: 1})
	var changes []cluster.Change
	for n := range 35 {
		changes = append(changes, routeChange(n, fmt.Sprintf("r%d.example.com", n), "", "web"))
	}
	var seen []string
	for batch := (cluster.Batch{Changes: changes, Revision: 2}); len(seen) < 10; batch.Changes = nil {
		p.handle(batch)
		target, _, _ := board.Target(release.View{IngressController: "default"})
		seen = append(seen, fmt.Sprintf("%d, %d wait", target.Snapshot.Config().Len()-1, target.Waiting))
		if again := p.again(); again.IsZero() {
			break
		} else if !again.Equal(now) {
			t.Errorf("again at %v, want %v", again, now)
		}
	}
	if got, want := strings.Join(seen, "; "), "10, 25 wait; 20, 15 wait; 30, 5 wait; 35, 0 wait"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// What is said of a version, verdicts and faults, is there before the version is: who sees it served need not wait.
func TestWhatIsToldComesFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(objects), 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	source, err := manifests.NewDir(manifests.DirConfig{Path: dir, Log: log, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	board := release.NewBoard(1)
	inspection := inspect.New(inspect.Config{Board: board, Fleet: fleet.New(fleet.Config{}), Log: log, Now: time.Now})
	told := make(chan string, 64) // more than the clock is asked
	p := &pipeline{
		source: source, board: board, quarantine: quarantine.New(), inspect: inspection, fleet: fleet.New(fleet.Config{}), log: log,
		compile: func(name string) *compile.Compiler { return compile.New(compile.Config{IngressController: name}) },
		now: func() time.Time { // is asked, among others, right before the version is published
			s, err := inspection.GetStatus(t.Context(), &tsujiv1.GetStatusRequest{})
			told <- fmt.Sprintf("%d admitted, %d refused, %d faults, %d versions, %v", s.GetRoutesAdmitted(), s.GetRoutesRefused(), len(s.GetFaults()), len(s.GetSnapshots()), err)
			return time.Now()
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- source.Run(ctx) }()
	go func() { ended <- p.run(ctx) }()
	for {
		_, ok, published := board.Target(release.View{IngressController: "default"})
		if ok {
			break
		}
		<-published
	}
	cancel()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	close(told)
	var last string
	for said := range told {
		if strings.Contains(said, " 0 versions") {
			last = said
		}
	}
	if want := "1 admitted, 1 refused, 1 faults, 0 versions, <nil>"; last != want {
		t.Errorf("when the version came there were %s, want %s", last, want)
	}
}
