package release_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/release"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

var (
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	view  = release.View{IngressController: "default", Zone: "tok04"}
)

func target(revision uint64, content string, observed uint64) release.Target {
	return release.Target{
		Snapshot: snapshot.New(revision, snapshot.Set{}.With(snapshot.NewItem("settings", []byte(content))), snapshot.Set{}),
		Observed: &tsujiv1.Observed{Epoch: "e", Kinds: []*tsujiv1.ObservedKind{{Kind: "Route", Revision: observed}}},
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Who waits for a view learns of the first publication and of each that changes something, and is left
// alone by those that change nothing and by other IngressControllers.
func TestWhoWaitsLearnsOfChanges(t *testing.T) {
	b := release.NewBoard(4)
	_, ok, changed := b.Target(view)
	if ok {
		t.Fatal("a target before anything was published")
	}
	b.Publish("default", target(1, "a", 1), start)
	if !closed(changed) {
		t.Error("the first publication went unnoticed")
	}
	got, ok, changed := b.Target(view)
	if !ok || got.Snapshot.Version().Revision != 1 {
		t.Errorf("got %v, %v", got.Snapshot.Version(), ok)
	}
	b.Publish("default", target(2, "a", 1), start)
	b.Publish("internal", target(2, "z", 1), start)
	if closed(changed) {
		t.Error("woken by a publication that changes nothing")
	}
	b.Publish("default", target(3, "a", 2), start)
	if !closed(changed) {
		t.Error("what was observed moved on unnoticed")
	}
	got, _, changed = b.Target(view)
	if v := got.Snapshot.Version(); v.Revision != 1 {
		t.Errorf("equal content got the new revision %d", v.Revision)
	}
	b.Publish("default", target(4, "b", 2), start)
	if !closed(changed) {
		t.Error("new content went unnoticed")
	}
}

// Versions are held by content, the newest first, as many as the history allows.
func TestVersionsAreHeld(t *testing.T) {
	b := release.NewBoard(3)
	at := start
	for i, content := range []string{"a", "b", "c", "d", "b"} {
		b.Publish("default", target(uint64(i+1), content, 1), at)
		at = at.Add(time.Minute)
	}
	b.Publish("alpha", target(9, "z", 1), at)
	var got string
	for _, e := range b.List() {
		got += fmt.Sprintf("%s %d %s %t\n", e.IngressController, e.Snapshot.Version().Revision, e.Built.Sub(start), e.Current)
	}
	want := "alpha 9 5m0s true\n" +
		"default 2 1m0s true\n" +
		"default 4 3m0s false\n" +
		"default 3 2m0s false\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	a, c := target(77, "a", 1).Snapshot.Version(), target(77, "c", 1).Snapshot.Version()
	if _, ok := b.Lookup("default", a); ok {
		t.Error("the history holds more than it may")
	}
	if s, ok := b.Lookup("default", c); !ok || s.Version().Revision != 3 {
		t.Errorf("got %v, %v", s.Version(), ok)
	}
	if _, ok := b.Lookup("other", c); ok {
		t.Error("found under another IngressController")
	}
	if found := b.Find("default", "3-"); len(found) != 1 || b.Find("other", "") != nil {
		t.Errorf("found %d", len(found))
	}
}
