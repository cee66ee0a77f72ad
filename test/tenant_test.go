package test

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// A deed is one thing that a tenant does.
type deed struct {
	what string
	do   func(w *tenants)
	// told is what a verdict on one of his Routes says of it, or a fault of the source; empty: nothing in particular.
	told string
}

// A misdeed is one kind of what tenants do, which held up, delayed or cut everybody once.
type misdeed struct {
	letter string // for -run, and in reports
	what   string
	// reloads is how many each deed may cost at most, being undone included.
	reloads float64
	deeds   func(w *tenants) []deed
	// also is what else must hold while a deed is as it is; nil: nothing.
	also func(t *testing.T, w *tenants, d deed)
}

// Whatever a tenant does in his namespace: a victim's new hosts are served within the time that is promised, HAProxy is reloaded no
// more often than is said, no connection of a neighbour's is cut, nothing looks like drift, and a router that starts with nothing serves the
// victim. The tenant is told what is not served. The times are in the log.
//
// The sizes that were found take minutes: TSUJI_LONG=1 asks for them.
func TestTenant(t *testing.T) {
	w := newTenants(t, newFleet(t), nil)
	t.Logf("the victim's hosts, while the tenant does nothing: %s", summary(w.quiet))
	for _, m := range misdeeds() {
		t.Run(m.letter+" "+m.what, func(t *testing.T) { w.suffer(t, m, m.deeds(w)) })
	}
}

// On older releases the same holds in meaning: what is a command on 3.4 may be a reload there.
func TestTenantEachHAProxy(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, binary string) {
		if haproxytest.AtLeast(t, binary, 3, 4) {
			t.Log("see TestTenant")
			return
		}
		f := newFleet(t)
		f.haproxy = binary
		w := newTenants(t, f, nil)
		t.Logf("the victim's hosts, while the tenant does nothing: %s", summary(w.quiet))
		for _, m := range misdeeds() {
			if !slices.Contains([]string{"A", "C", "D", "E", "M"}, m.letter) {
				continue
			}
			if m.letter == "M" {
				m.deeds = reloadsInTurn
			}
			// There each host of the victim's may be a reload by itself, and each change of the tenant's.
			m.reloads = 1 << 20
			deeds := m.deeds(w)
			t.Run(m.letter+" "+m.what, func(t *testing.T) { w.suffer(t, m, deeds[:1]) })
		}
	})
}

// suffer has the tenant do what he does, and looks at everybody.
func (w *tenants) suffer(t *testing.T, m misdeed, deeds []deed) {
	outer := w.t
	w.t = t
	defer func() { w.t = outer }()
	if len(deeds) == 0 {
		t.Fatal("nothing was done")
	}
	var all []time.Duration
	for _, d := range deeds {
		t.Run(d.what, func(t *testing.T) {
			w.t = t
			defer func() {
				if w.t = outer; t.Failed() { // for the next one
					w.clear()
				}
			}()
			before := w.counted(t)
			began := time.Now()
			d.do(w)
			did := time.Since(began)
			took := w.victimAdds(t, w.hosts)
			all = append(all, took...)
			if d.told != "" {
				w.isTold(t, d.told)
			}
			w.servedOrTold(t)
			if m.also != nil {
				m.also(t, w, d)
			}
			w.f.converged(w.op, "router-a")
			w.neighbour(t)
			after := w.counted(t)
			if n := after.reloads - before.reloads; n > m.reloads {
				t.Errorf("%v reloads, want %v at most", n, m.reloads)
			}
			if n := after.repairs - before.repairs; n > 0 {
				t.Errorf("%v repairs of what looked like drift, want none", n)
			}
			t.Logf("the victim's hosts: %s; reloads %v; the deed itself took %v", summary(took), after.reloads-before.reloads, did.Round(time.Millisecond))
		})
		w.t = t
	}
	w.startEmpty(t)
	w.clear()
	all = append(all, w.victimAdds(t, w.hosts)...)
	w.f.converged(w.op, "router-a")
	w.neighbour(t)
	t.Logf("the victim's hosts: %s", summary(all))
}

// isTold waits until somebody who looks at the tenant's Routes, or at the source, reads some words.
func (w *tenants) isTold(t *testing.T, want string) {
	t.Helper()
	eventually(t, "the tenant is told", func() error {
		var all []string
		for name, v := range w.verdicts(t) {
			if said := words(v); said != "" {
				all = append(all, name+": "+said)
			}
		}
		all = append(all, w.faults(t)...)
		for _, said := range all {
			if strings.Contains(said, want) {
				return nil
			}
		}
		return fmt.Errorf("nothing says %q: %q", want, all)
	})
}

// servedOrTold waits until each of the tenant's Routes that let plain HTTP in is served, or its owner is told why it is not.
func (w *tenants) servedOrTold(t *testing.T) {
	t.Helper()
	eventually(t, "each of the tenant's Routes is served, or its owner told", func() error {
		n := 0
		for name, v := range w.verdicts(t) {
			if !strings.HasPrefix(name, "odd") || words(v) != "" {
				continue
			}
			if n++; n > 20 {
				break // they are alike
			}
			if code, body, err := get(w.r.http, v.GetHost(), v.GetPath()); err != nil || code != 200 {
				return fmt.Errorf("%s is admitted without a word, and answers %d %q: %w; %s", name, code, body, cmp.Or(err, errNotYet), w.state())
			}
		}
		return nil
	})
}

// A router that may open few files serves on, whatever a tenant's Routes would need, and HAProxy starts again when it is killed.
func TestTenantFewFiles(t *testing.T) {
	w := newTenants(t, newFleet(t), withFewFiles)
	w.patient = 15 * time.Second // thousands of servers at once; the times are in the log
	t.Logf("the victim's hosts, while the tenant does nothing: %s", summary(w.quiet))
	m := misdeed{letter: "G", what: "more connections than files", reloads: 3, deeds: manyChecks}
	m.also = func(t *testing.T, w *tenants, _ deed) {
		if code, _, err := get(w.r.http, w.lastHost(), "/"); code != 200 || err != nil {
			t.Errorf("the victim: %d %v", code, err)
		}
	}
	deeds := m.deeds(w)
	t.Run(m.letter+" "+m.what, func(t *testing.T) {
		w.suffer(t, m, deeds)
		w.t = t
		// With all of it in force, HAProxy is killed.
		deeds[0].do(w)
		w.victimAdds(t, 1)
		w.traffic.stop() // nobody holds connections over this
		w.r.killHAProxy()
		eventually(t, "HAProxy is back and serves the victim", func() error { return answers(w.r.http, w.lastHost(), "/", w.pod.name) })
		w.victimAdds(t, 1)
	})
}

// withFewFiles has a process open no more than 8,192 files.
func withFewFiles(cmd *exec.Cmd) {
	// Without the capability, or else root raises its limit again.
	cmd.Args = append([]string{"sh", "-c", `ulimit -n 8192; exec setpriv --bounding-set=-sys_resource "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
}

// long tells whether a story is told at its full size.
func long() bool { return os.Getenv("TSUJI_LONG") != "" }
