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

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/inspect"
	"github.com/tsuji-dev/tsuji/controlplane/quarantine"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

const manifests = `
{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: good, namespace: shop}, spec: {host: good.example.com, to: {kind: Service, name: web}}}
---
{apiVersion: route.openshift.io/v1, kind: Route, metadata: {name: bad, namespace: shop}, spec: {host: bad_, to: {kind: Service, name: web}}}
---
{apiVersion: operator.openshift.io/v1, kind: IngressController, metadata: {name: default, namespace: openshift-ingress-operator},
 spec: {httpHeaders: {actions: {response: [{name: X Bad, action: {type: Set, set: {value: x}}}]}}}}
`

// What is said of a version, verdicts and faults, is there before the version is: who sees it served need not wait.
func TestWhatIsToldComesFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(manifests), 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	source, err := cluster.NewDir(cluster.DirConfig{Path: dir, Log: log, Now: time.Now})
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
