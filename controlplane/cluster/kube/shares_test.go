package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/test/sourcetest"
)

// Who comes last waits for one turn of each of the other namespaces, however many wait there; who leaves takes none.
func TestTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newTurns()
		leave, left := context.WithCancel(t.Context())
		var hostile, victims, gone atomic.Int64
		wait := func(ctx context.Context, namespace string, n *atomic.Int64) {
			go func() {
				if q.wait(ctx, namespace) == nil {
					n.Add(1)
				}
			}()
		}
		for range 20_000 {
			wait(t.Context(), "hostile", &hostile)
		}
		for i := range 100 {
			wait(leave, fmt.Sprint("gone", i), &gone)
		}
		synctest.Wait()
		left()
		for range 3 {
			wait(t.Context(), "victim", &victims)
		}
		synctest.Wait()
		for range 6 {
			if !q.give() {
				t.Fatal("nobody takes a turn")
			}
		}
		synctest.Wait()
		if hostile.Load() != 3 || victims.Load() != 3 || gone.Load() != 0 {
			t.Errorf("of six turns %d are the hostile namespace's, %d the victim's, %d of those who left", hostile.Load(), victims.Load(), gone.Load())
		}
		for range 20_000 - 3 {
			q.give()
		}
		synctest.Wait()
		if q.give() || hostile.Load() != 20_000 || len(q.waiting) != 0 {
			t.Errorf("in the end the hostile namespace had %d turns, and %d namespaces wait", hostile.Load(), len(q.waiting))
		}
	})
}

// tokens is a limiter that a test gives requests to.
type tokens chan struct{}

func (k tokens) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-k:
		return nil
	}
}

func (tokens) TryAccept() bool { return false }
func (tokens) Accept()         {}
func (tokens) Stop()           {}
func (tokens) QPS() float32    { return 0 }

// However many Secrets a namespace's Routes name that may not be read: when no request more may be made for them, the
// watches of whole kinds are renewed all the same, and of each two requests one is another namespace's that needs it.
func TestHostileReferences(t *testing.T) {
	t.Parallel()
	a, config := sharedServer(t)
	const names = 150
	const hostile, victim = "hostile-refs", "victim-refs"
	a.apply(aNamespace(hostile) + "\n---\n" + aNamespace(victim))
	a.allow(config, victim, "mine")
	a.apply(aSecret(victim, "mine", "1") + "\n---\n" + aService(victim, "app", 80) + "\n---\n" + aSlice(victim, "app-1", "10.1.1.1", ""))
	for i := range names {
		a.apply(aRoute(hostile, fmt.Sprint("r", i), "", fmt.Sprintf(external, fmt.Sprint("none-", i))))
	}
	line := newRelay(t, config)
	var asked asking
	limit := make(tokens)
	k := following(t, Config{REST: asked.wrap(line.config)}, func(k *Source) {
		k.client.references, k.timing.hold, k.timing.tick = limit, 100*time.Millisecond, 20*time.Millisecond
	})
	var m sourcetest.Mirror
	m.Until(t, k, "synced without one request for what Routes refer to", m.Synchronized)

	// Every watch is renewed, and brings what is new.
	for i := range 3 {
		line.cut()
		to := fmt.Sprintf("10.1.2.%d", i+1)
		a.apply(aSlice(victim, "app-1", to, ""))
		m.Until(t, k, "the endpoint moved to "+to, func() bool {
			s := get[*discoveryv1.EndpointSlice](&m, cluster.EndpointSlice, victim, "app-1")
			return s != nil && s.Endpoints[0].Addresses[0] == to
		})
	}

	// Now there may be requests for Secrets again, one at a time.
	a.apply(aRoute(victim, "r", "", fmt.Sprintf(external, "mine")))
	m.Until(t, k, "the victim's Route, which waited for its Secret", func() bool { return m.Came[cluster.Key{Kind: cluster.Route, Namespace: victim, Name: "r"}] > 0 })
	given := 0
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case limit <- struct{}{}:
				given++
			case <-stop:
				return
			}
			time.Sleep(5 * time.Millisecond) // the pace of requests, which are counted
		}
	}()
	m.Until(t, k, "the victim's Secret", func() bool { return get[*corev1.Secret](&m, cluster.Secret, victim, "mine") != nil })
	close(stop)
	<-done
	count := func(namespace string) (n int) {
		for _, q := range asked.queries() {
			if strings.Contains(q, "/namespaces/"+namespace+"/secrets") {
				n++
			}
		}
		return n
	}
	// At most startsAtOnce of the other's may have begun before.
	if of, own := count(hostile), count(victim); own == 0 || of > startsAtOnce+2*own+given/2 || of >= names {
		t.Errorf("%d requests for the hostile namespace's Secrets before the victim's was there, after %d of its own; %d were allowed", of, own, given)
	}
}

// Of a namespace's references the first ones by name are watched; the others are never asked for, and are handed out as what
// cannot be read. It is the same whatever order they came in.
func TestShare(t *testing.T) {
	t.Parallel()
	a, config := sharedServer(t)
	const ns = "crowded"
	a.apply(aNamespace(ns))
	secrets := []string{"a", "b", "c", "d", "e"}
	a.allow(config, ns, secrets...)
	for _, s := range secrets {
		a.apply(aSecret(ns, s, "1"))
	}
	route := func(s string) { a.apply(aRoute(ns, "r-"+s, "", fmt.Sprintf(external, s))) }
	few := func(k *Source) {
		impatient(k)
		k.perNamespace = 2
	}
	const why = "namespace crowded refers to more than 2 objects, of which the first by name are read, and this is none of them"
	has := func(m *sourcetest.Mirror) string {
		var out []string
		for _, s := range secrets {
			switch o := m.Objects[cluster.Key{Kind: cluster.Secret, Namespace: ns, Name: s}].(type) {
			case *corev1.Secret:
				out = append(out, s)
			case *cluster.Unread:
				if o.Why != why {
					t.Errorf("secret %s cannot be read: %q", s, o.Why)
				}
				out = append(out, "-"+s)
			}
		}
		return strings.Join(out, " ")
	}
	route("e")
	route("c")
	var asked asking
	k := following(t, Config{REST: asked.wrap(config)}, few)
	var m sourcetest.Mirror
	m.Until(t, k, "two", func() bool { return m.Synced && has(&m) == "c e" })
	fault := "Namespace crowded"
	if f := m.FaultAt(fault); f != "" {
		t.Errorf("a fault while there are no more than may be: %s", f)
	}
	route("d")
	m.Until(t, k, "the third in place of the last", func() bool { return has(&m) == "c d -e" && m.FaultAt(fault) != "" })
	route("a")
	route("b")
	m.Until(t, k, "five", func() bool { return has(&m) == "a b -c -d -e" })

	again, stop := followingUntil(t, Config{REST: config}, few)
	var m2 sourcetest.Mirror
	m2.Until(t, again, "another that reads them at once", m2.Synchronized)
	if got := has(&m2); got != "a b -c -d -e" {
		t.Errorf("another source has %s", got)
	}
	stop()

	gone := func(s string) { a.remove("route.openshift.io/v1", "Route", ns, "r-"+s) }
	gone("a")
	m.Until(t, k, "the next takes its place", func() bool { return has(&m) == "b c -d -e" })
	gone("d")
	m.Until(t, k, "one of the others goes", func() bool { return has(&m) == "b c -e" })
	gone("c")
	m.Until(t, k, "no more than may be", func() bool { return has(&m) == "b e" && m.FaultAt(fault) == "" })
	a.apply(aSecret(ns, "e", "2"))
	m.Until(t, k, "it is watched", func() bool { return string(get[*corev1.Secret](&m, cluster.Secret, ns, "e").Data["tls.crt"]) == "2" })

	// A source that never was below its bound asked for no more than two.
	var less asking
	for _, s := range secrets {
		route(s)
	}
	third := following(t, Config{REST: less.wrap(config)}, few)
	var m3 sourcetest.Mirror
	m3.Until(t, third, "read at once", func() bool { return m3.Synced && has(&m3) == "a b -c -d -e" })
	n := 0
	for _, q := range less.queries() {
		if strings.Contains(q, "/namespaces/"+ns+"/secrets") {
			n++
		}
	}
	if n == 0 || n > 40 {
		t.Errorf("asked %d times for two Secrets", n)
	}
	third.mu.Lock()
	defer third.mu.Unlock()
	watched := 0
	for _, r := range third.reading.refs {
		if r.key.Namespace == ns && r.feed != nil {
			watched++
		}
	}
	if watched != 2 || !slices.Equal(third.reading.shares[ns], share{{Kind: cluster.Secret, Namespace: ns, Name: "a"}, {Kind: cluster.Secret, Namespace: ns, Name: "b"}, {Kind: cluster.Secret, Namespace: ns, Name: "c"}, {Kind: cluster.Secret, Namespace: ns, Name: "d"}, {Kind: cluster.Secret, Namespace: ns, Name: "e"}}) {
		t.Errorf("%d are watched of %v", watched, third.reading.shares[ns])
	}
}

// What may not be read is asked for less and less often, down to once in some minutes, and never in step with others.
func TestForbiddenBackoff(t *testing.T) {
	t.Parallel()
	k := &Source{timing: ordinary(), client: &client{}}
	f := &feed{epoch: &epoch{kube: k}, kind: cluster.Secret, ref: &ref{}}
	err := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "x", errors.New("no"))
	var all time.Duration
	different := map[time.Duration]bool{}
	for n := range 30 {
		d := f.pause(n, err)
		want := min(time.Second<<n, 5*time.Minute)
		if d < want/2 || d > want {
			t.Errorf("pause %d is %v, want %v at most and half of it at least", n, d, want)
		}
		all += d
		different[d] = true
	}
	if len(different) < 25 || all < 40*time.Minute {
		t.Errorf("thirty pauses are %v together, %d of them different", all, len(different))
	}
}
