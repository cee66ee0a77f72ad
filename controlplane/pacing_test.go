package controlplane

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// The next piece of a large change goes when every connected router has answered the one before, by an ack or a
// refusal; when one has, it goes half a second later whoever has not, and after five if none has; and what routers
// refuse goes at once.
func TestPiecesWaitForAnswers(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p, c := publishing(&now)
	small, large := snapshotOf(t, 1), snapshotOf(t, 3000)
	step := func(what string, moves bool) snapshot.Version {
		t.Helper()
		before, _, _ := p.board.Target(release.View{IngressController: "default"})
		p.publish(c, release.Target{Snapshot: large})
		after, _, _ := p.board.Target(release.View{IngressController: "default"})
		if moved := !after.Snapshot.Version().Equal(before.Snapshot.Version()); moved != moves {
			t.Fatalf("%s: another piece was published: %v", what, moved)
		}
		if after.Waiting == 0 || c.due.IsZero() || !p.again0(c).Equal(c.due) {
			t.Fatalf("%s: %d resources wait, to do something at %v", what, after.Waiting, p.again0(c))
		}
		return after.Snapshot.Version()
	}
	p.publish(c, release.Target{Snapshot: small})
	one := p.fleet.Connect(fleet.Router{IngressController: "default", Name: "one", HAProxyVersion: "3.4.7"}, now)
	two := p.fleet.Connect(fleet.Router{IngressController: "default", Name: "two", HAProxyVersion: "3.4.7"}, now)
	p.fleet.Connect(fleet.Router{IngressController: "other", Name: "three", HAProxyVersion: "2.6.12"}, now)

	for _, r := range []*fleet.Member{one, two} {
		r.Acked(small.Version(), now)
	}
	version := step("the first", true)
	answered := p.fleet.Changed()
	one.Acked(version, now)
	<-answered
	step("one has acked", false)
	two.Refused(&tsujiv1.Refusal{Version: version.String()}, now)
	version = step("the other has refused", true)
	one.Acked(version, now)
	now = now.Add(patienceWithRouters - 1)
	step("one has not answered", false)
	now = now.Add(1)
	step("nor has it by now", true)
	now = now.Add(patienceWithAll - 1)
	step("none has answered", false)
	now = now.Add(1)
	step("nor has any by now", true)
	c.quarantined = compile.Holds{Resources: map[string]compile.Hold{tsujiv1.RouteName("ns", "r2999"): {}}}
	step("something is refused", true)
	target, _, _ := p.board.Target(release.View{IngressController: "default"})
	if _, ok := target.Snapshot.Get(tsujiv1.RouteName("ns", "r2999")); !ok {
		t.Error("what is refused is not in the next piece")
	}
	one.Disconnected(now)
	two.Disconnected(now)
	p.publish(c, release.Target{Snapshot: large})
	if target, _, _ := p.board.Target(release.View{IngressController: "default"}); target.Waiting != 0 || !target.Snapshot.Version().Equal(large.Version()) || p.pacing() {
		t.Errorf("without routers %d resources wait", target.Waiting)
	}
}

// Little changes go at once, as long as those that routers have not answered are no more than a piece together: else
// they would be made in one go, and another's would wait for all of it.
func TestLittleChangesDoNotPileUp(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p, c := publishing(&now)
	p.publish(c, release.Target{Snapshot: snapshotOf(t, 1)})
	r := p.fleet.Connect(fleet.Router{IngressController: "default", Name: "one", HAProxyVersion: "3.4.7"}, now)
	r.Acked(c.pace.Published().Version(), now)
	follow := func() (published int) {
		for n := 1; n < 100; n++ {
			want := snapshotOf(t, 1+50*n)
			p.publish(c, release.Target{Snapshot: want})
			if !c.pace.Published().Version().Equal(want.Version()) {
				break
			}
			published++
		}
		return published
	}
	if n := follow(); n < 1 || n > 10 {
		t.Errorf("%d changes of 50 Routes were published before the first was answered", n)
	}
	if c.due.IsZero() {
		t.Error("the next one is never published if nobody answers")
	}
	r.Acked(c.pace.Published().Version(), now)
	before := c.pace.Published().Version()
	if p.publish(c, release.Target{Snapshot: snapshotOf(t, 51)}); c.pace.Published().Version().Equal(before) {
		t.Error("nothing was published when all was answered")
	}
}

// What routers refuse goes at once where it can: a fact that many Routes need yet, which go in pieces, is no reason to
// wait for nobody's answers.
func TestWhatCannotGoAtOnceWaitsForAnswers(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p, c := publishing(&now)
	refused := tsujiv1.CertificateName("ns", tsujiv1.FromSecret, "tls")
	config, facts := snapshot.Set{}.Edit(), snapshot.Set{}.Edit()
	for i := range 3000 {
		r := &tsujiv1.Route{Namespace: "ns", Name: fmt.Sprint("r", i), Host: fmt.Sprintf("r%d.example.com", i), Path: "/"}
		r.Certificate = refused
		item, err := tsujiv1.Encode(&tsujiv1.Resource{
			Name: tsujiv1.RouteName("ns", r.GetName()), Kind: &tsujiv1.Resource_Route{Route: r},
		})
		if err != nil {
			t.Fatal(err)
		}
		config.Put(item)
	}
	item, err := tsujiv1.Encode(&tsujiv1.Resource{
		Name: refused, Kind: &tsujiv1.Resource_Certificate{Certificate: &tsujiv1.Certificate{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	facts.Put(item)
	p.publish(c, release.Target{Snapshot: snapshot.New(1, config.Set(), facts.Set())})
	r := p.fleet.Connect(fleet.Router{IngressController: "default", Name: "one", HAProxyVersion: "3.4.7"}, now)
	r.Acked(c.pace.Published().Version(), now)
	c.quarantined = compile.Holds{Resources: map[string]compile.Hold{refused: {}}}
	pieces := 0
	for {
		before := c.pace.Published().Version()
		p.publish(c, release.Target{})
		if c.pace.Published().Version().Equal(before) {
			t.Fatalf("piece %d does not come", pieces)
		}
		if pieces++; c.pace.Waiting() == 0 {
			break
		}
		before = c.pace.Published().Version()
		if p.publish(c, release.Target{}); !c.pace.Published().Version().Equal(before) {
			t.Fatal("the next piece does not wait for an answer")
		}
		r.Acked(before, now)
	}
	if pieces < 2 {
		t.Errorf("all went in %d pieces", pieces)
	}
}

// publishing returns what publishes for one IngressController, and it.
func publishing(now *time.Time) (*pipeline, *ingressController) {
	return &pipeline{
		board: release.NewBoard(8), fleet: fleet.New(fleet.Config{}),
		log: slog.New(slog.DiscardHandler), now: func() time.Time { return *now },
	}, &ingressController{name: "default"}
}

// again0 returns when there is something to do for one that has nothing else to wait for.
func (p *pipeline) again0(c *ingressController) time.Time {
	p.controllers = map[string]*ingressController{c.name: c}
	return p.again()
}

func snapshotOf(t *testing.T, routes int) snapshot.Snapshot {
	t.Helper()
	e := snapshot.Set{}.Edit()
	for i := range routes {
		item, err := tsujiv1.Encode(&tsujiv1.Resource{
			Name: tsujiv1.RouteName("ns", fmt.Sprintf("r%d", i)),
			Kind: &tsujiv1.Resource_Route{Route: &tsujiv1.Route{Namespace: "ns", Name: fmt.Sprintf("r%d", i), Host: fmt.Sprintf("r%d.example.com", i), Path: "/"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		e.Put(item)
	}
	return snapshot.New(1, e.Set(), snapshot.Set{})
}

// What an IngressController's routers do without a reload is what the least of them does.
func TestAbilityIsThatOfTheLeast(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		versions []string
		told     bool
		want     release.Ability
	}{
		{nil, false, release.Reloads},
		{[]string{"3.4.7-1~bpo"}, false, release.Routes},
		{[]string{"3.4.7"}, true, release.Facts},
		{[]string{"4.0.0", "3.5-dev1"}, false, release.Routes},
		{[]string{"3.4.7", "3.0.11"}, false, release.Facts},
		{[]string{"3.4.7", "2.6.12", "3.0.11"}, false, release.Reloads},
		{[]string{"3.4.7", ""}, false, release.Reloads},
	} {
		got := ability(fleet.Progress{Connected: len(c.versions), HAProxyVersions: c.versions, BackendsByReload: c.told})
		if got != c.want {
			t.Errorf("%q, told to reload %v: %v, want %v", c.versions, c.told, got, c.want)
		}
	}
}
