package apply_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/certtest"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// unusable makes a certificate that Go takes and OpenSSL does not load.
func unusable(t *testing.T, name string) *tsujiv1.Resource {
	t.Helper()
	cert, _ := certificate(name, false)
	cert.GetCertificate().ChainPem = append(cert.GetCertificate().GetChainPem(), certtest.UnknownKey()...)
	return cert
}

// names are the resources that a refusal names, in order.
func names(refusal *tsujiv1.Refusal) (list []string) {
	for _, r := range refusal.GetResources() {
		list = append(list, r.GetResource())
	}
	return list
}

// A certificate that HAProxy does not take costs nobody else anything: no reload, at once or when it is offered again, and
// nothing of the change that it came with is left. It is named, and no other; without it the rest comes into force.
func TestRefusedWithoutReload(t *testing.T) { haproxytest.Each(t, refusedWithoutReloadStory) }

func refusedWithoutReloadStory(t *testing.T, binary string) {
	for _, noBackends := range []bool{false, true} {
		t.Run(fmt.Sprint("noBackends=", noBackends), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, binary)
			checks := 0
			r := w.router(options{idle: true, noBackends: noBackends, apply: func(c *apply.Config) {
				c.OnReload = func(time.Duration, error) { checks++ }
			}})
			r.ReloadCosts(time.Hour)
			renewed, serial := certificate("renewed", false)
			ep := endpoints("renewed", serve(t, "renewed"))
			good := r.put(edge("renewed"), renewed, ep)
			worker := r.pids().Worker
			list := func(culprits ...int) []*tsujiv1.Resource {
				again, _ := certificate("renewed", false)
				list := []*tsujiv1.Resource{edge("renewed"), again, ep}
				for i := range 9 {
					name := fmt.Sprint("new", i)
					e := edge(name)
					e.GetRoute().Hsts = "max-age=1"
					cert, _ := certificate(name, false)
					for _, c := range culprits {
						if c == i {
							cert = unusable(t, name)
						}
					}
					list = append(list, e, cert, endpoints(name, serve(t, name)))
				}
				return list
			}
			next := w.snapshot(list(3, 7)...)
			before := checks
			for offer := range 3 {
				refusal := r.try(next)
				if got := fmt.Sprint(names(refusal)); got != "[cert/ns/route:new3 cert/ns/route:new7]" || refusal.GetClass() != tsujiv1.RefusalClass_REFUSAL_CLASS_CONTENT {
					t.Fatalf("refusal: %v", refusal)
				}
				if offer == 0 {
					before = checks
				} else if checks != before {
					t.Error("it was tried again")
				}
				if s, _ := r.InForce(); !s.Version().Equal(good.Version()) || r.pids().Worker != worker || r.reloads() != 0 {
					t.Errorf("in force: %v, %v reloads", s.Version(), r.reloads())
				}
				if got := w.certificate("renewed.test"); got != serial || w.get("renewed.test") != "renewed" {
					t.Errorf("served %s, want %s", got, serial)
				}
			}
			if left := w.ask("show ssl cert"); strings.Contains(left, "new") && strings.Contains(left, "ns_route_new") {
				t.Errorf("left: %s", left)
			}
			r.driftRounds(2)
			for _, kind := range []string{"entry", "certificate", "line", "server"} {
				if n := testutil.ToFloat64(r.metrics.Repairs.WithLabelValues(kind)); n != 0 {
					t.Errorf("%v repairs of kind %s", n, kind)
				}
			}

			// A renewal that is refused leaves the certificate that was there, and other changes flow meanwhile.
			bad := unusable(t, "renewed")
			if refusal := r.try(w.snapshot(edge("renewed"), bad, ep)); fmt.Sprint(names(refusal)) != "[cert/ns/route:renewed]" {
				t.Errorf("renewed: %v", refusal)
			}
			if got := w.certificate("renewed.test"); got != serial || r.reloads() != 0 {
				t.Errorf("then: served %s, want %s; %v reloads", got, serial, r.reloads())
			}
			r.put(edge("renewed"), renewed, endpoints("renewed", serve(t, "moved"), serve(t, "moved")))
			r.put(list()...)
			if got := w.get("new3.test"); got != "new3" {
				t.Errorf("in the end: %s", got)
			}
		})
	}
}

// A router that has nothing yet, and is offered bad certificates among many good ones, names them all at once: HAProxy looks
// at the files twice. TSUJI_LONG=1 has 10,000, of which it names as many as there is time for.
func TestRefusedAtFirst(t *testing.T) { haproxytest.Each(t, refusedAtFirstStory) }

func refusedAtFirstStory(t *testing.T, binary string) {
	t.Parallel()
	w := newWorld(t, binary)
	script, runs := filepath.Join(w.dir, "counted"), filepath.Join(w.dir, "runs")
	must(t, os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\n[ \"$1\" = -c ] && echo >> %s\nexec %s \"$@\"\n", runs, binary), 0o700))
	w.binary = script
	checks := func() int {
		text, _ := os.ReadFile(runs)
		return len(text)
	}
	r := w.router(options{idle: true})
	var resources []*tsujiv1.Resource
	var culprits []string
	end := endpoints("s", serve(t, "s"))
	n, long := 200, os.Getenv("TSUJI_LONG") != ""
	if long {
		n = 10_000
	}
	for i := range n {
		e := edge(fmt.Sprint("r", i))
		e.GetRoute().Backends = []*tsujiv1.BackendRef{service("s", 1)}
		cert, _ := certificate(fmt.Sprint("r", i), false)
		if i%(n/10) == 7 {
			culprits = append(culprits, cert.GetName())
			resources = append(resources, unusable(t, fmt.Sprint("r", i)))
		} else {
			resources = append(resources, cert)
		}
		resources = append(resources, e)
	}
	resources = append(resources, end)
	slices.Sort(culprits)
	next := w.snapshot(resources...)
	for range 2 {
		begun := time.Now()
		refusal := r.try(next)
		t.Logf("%d certificates, refused after %v", n, time.Since(begun))
		got := names(refusal)
		if !long && (!slices.Equal(got, culprits) || checks() != 2) || len(got) == 0 {
			t.Fatalf("%q, %d checks", got, checks())
		}
		for _, name := range got { // of 10,000 there may be time for some only
			if !slices.Contains(culprits, name) {
				t.Errorf("%s is named", name)
			}
		}
		for _, named := range refusal.GetResources() {
			if i, _ := next.Get(named.GetResource()); snapshot.Digest(named.GetDigest()) != i.Digest() || !strings.Contains(named.GetMessage(), "unable to load") {
				t.Errorf("%v", named)
			}
		}
	}
	r.put(slices.DeleteFunc(resources, func(r *tsujiv1.Resource) bool { return slices.Contains(culprits, r.GetName()) })...)
	if got := w.get("r199.test"); got != "s" || !long && checks() != 3 {
		t.Errorf("%s, %d checks", got, checks())
	}
}
