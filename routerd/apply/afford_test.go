package apply_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/certtest"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// bulk is a CA certificate of so many bytes of DER and some.
func bulk(t *testing.T, size int) []byte {
	t.Helper()
	filling := make([]byte, size)
	_, _ = rand.Read(filling)
	key := certtest.NewKey()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "bulk"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4, 5}, Value: filling}},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// large is a certificate with a chain that no command carries.
func large(t *testing.T, name string) (*tsujiv1.Resource, string) {
	t.Helper()
	cert, serial := certificate(name, false)
	cert.GetCertificate().ChainPem = append(cert.GetCertificate().GetChainPem(), bulk(t, 30<<10)...)
	return cert, serial
}

// putOff fails the test if a refusal is another one than that of a resource which may come again later.
func putOff(t *testing.T, refusal *tsujiv1.Refusal, resource string) {
	t.Helper()
	list := refusal.GetResources()
	if len(list) != 1 || list[0].GetResource() != resource || list[0].GetRetryAfter().AsDuration() <= 0 {
		t.Fatalf("refused: %v", refusal)
	}
}

// A certificate that no command carries is a reload each time that it changes. A namespace has so many of those, and no
// more; then its certificate stays as it was, and what others do, and all else that it does itself, is in force at
// once.
func TestLargeCertificatesHaveABudget(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, binary string) {
		t.Parallel()
		w := newWorld(t, binary)
		r := w.router(options{paced: true})
		ep := serve(t, "a")
		base := []*tsujiv1.Resource{edge("small"), edge("big"), endpoints("small", ep), endpoints("big", ep)}
		small, _ := certificate("small", false)
		big, serial := large(t, "big")
		r.put(append(base, small, big)...)
		accepted, before := 0, r.reloads()
		for range 20 {
			next, itsSerial := large(t, "big")
			refusal := r.try(w.snapshot(append(base, small, next)...))
			if refusal == nil {
				accepted, big, serial = accepted+1, next, itsSerial
			} else {
				putOff(t, refusal, "cert/ns/route:big")
			}
			if got := w.certificate("big.test"); got != serial {
				t.Fatalf("served %s, want %s", got, serial)
			}
		}
		if n := r.reloads() - before; accepted == 0 || accepted > 5 || n != float64(accepted) {
			t.Errorf("%v reloads, %d of 20 changes accepted", n, accepted)
		}
		before = r.reloads()
		small, serial = certificate("small", false)
		r.put(append(base, small, big)...)
		if got := w.certificate("small.test"); got != serial || r.reloads() != before {
			t.Errorf("the other certificate: served %s, want %s, with %v reloads", got, serial, r.reloads()-before)
		}
		big, serial = certificate("big", false)
		r.put(append(base, small, big)...)
		if got := w.certificate("big.test"); got != serial || r.reloads() != before {
			t.Errorf("one that a command carries: served %s, want %s, with %v reloads", got, serial, r.reloads()-before)
		}
	})
}

// So is a CA certificate that no command carries.
func TestLargeCAsHaveABudget(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, binary string) {
		t.Parallel()
		w := newWorld(t, binary)
		r := w.router(options{paced: true})
		needsBackends(t, r)
		verified := route("v")
		verified.GetRoute().Termination = tsujiv1.Termination_TERMINATION_REENCRYPT
		name := tsujiv1.CertificateName("ns", tsujiv1.FromDestinationCA, "v")
		ca := func() *tsujiv1.Resource {
			return &tsujiv1.Resource{Name: name, Kind: &tsujiv1.Resource_Certificate{
				Certificate: &tsujiv1.Certificate{CaBundlePem: bulk(t, 100<<10)},
			}}
		}
		verified.GetRoute().DestinationTls = &tsujiv1.DestinationTLS{Verify: true, Ca: name}
		ep := serve(t, "a")
		base := []*tsujiv1.Resource{route("victim"), endpoints("victim", ep), verified, endpoints("v", ep)}
		r.put(append(base, ca())...)
		accepted, before := 0, r.reloads()
		for range 20 {
			if refusal := r.try(w.snapshot(append(base, ca())...)); refusal == nil {
				accepted++
			} else {
				putOff(t, refusal, "cert/ns/destination-ca:v")
			}
		}
		if n := r.reloads() - before; accepted == 0 || accepted > 5 || n != float64(accepted) {
			t.Errorf("%v reloads, %d of 20 changes accepted", n, accepted)
		}
	})
}

// A large certificate that is out of use while another Route has its host comes back without a reload, however often:
// HAProxy keeps it for as long as there is such a certificate.
func TestLargeCertificateComesBack(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, binary string) {
		t.Parallel()
		w := newWorld(t, binary)
		r := w.router(options{idle: true, paced: true})
		needsBackends(t, r)
		ep := serve(t, "a")
		big, bigSerial := large(t, "big")
		small, smallSerial := certificate("a-small", false)
		below, above := edge("big"), edge("a-small")
		below.GetRoute().Path = "/below"
		above.GetRoute().Host = below.GetRoute().GetHost()
		without := []*tsujiv1.Resource{below, endpoints("big", ep), endpoints("a-small", ep), big, small}
		with := append(slices.Clone(without), above)
		r.put(without...)
		r.put(with...)
		if got := w.certificate("big.test"); got != smallSerial {
			t.Fatalf("served %s, want that of the other Route, %s", got, smallSerial)
		}
		before := r.reloads()
		for range 10 {
			for range 3 { // the janitor has its turns
				r.TryDeletions(t.Context())
			}
			r.put(without...)
			if got := w.certificate("big.test"); got != bigSerial {
				t.Fatalf("served %s, want %s", got, bigSerial)
			}
			r.put(with...)
		}
		if n := r.reloads() - before; n != 0 {
			t.Errorf("%v reloads", n)
		}
		r.put(slices.DeleteFunc(with, func(x *tsujiv1.Resource) bool { return x == big || x == below })...)
		eventually(t, "it is deleted when there is no such certificate any more", func() bool {
			r.TryDeletions(t.Context())
			return r.leaving("certificates") == 0
		})
	})
}

// Content that HAProxy refuses in place of a certificate that no command carries is no reload: what it has is still
// there.
func TestRefusedInPlaceOfALargeCertificate(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, binary string) {
		t.Parallel()
		w := newWorld(t, binary)
		r := w.router(options{})
		ep := serve(t, "a")
		big, serial := large(t, "big")
		base := []*tsujiv1.Resource{edge("big"), endpoints("big", ep)}
		r.put(append(base, big)...)
		before := r.reloads()
		for range 3 {
			refusal := r.try(w.snapshot(append(base, unusable(t, "big"))...))
			if fmt.Sprint(names(refusal)) != "[cert/ns/route:big]" {
				t.Fatalf("refused: %v", refusal)
			}
			if got := w.certificate("big.test"); got != serial {
				t.Fatalf("served %s, want %s", got, serial)
			}
		}
		if n := r.reloads() - before; n != 0 {
			t.Errorf("%v reloads", n)
		}
	})
}

// A change that is faster by a reload is made by one while there were few. When there were some it is made by commands:
// who changes much every time causes no reload each time.
func TestFewReloadsToSaveTime(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, binary string) {
		t.Parallel()
		w := newWorld(t, binary)
		r := w.router(options{paced: true})
		ep := serve(t, "a")
		listed := func(n int) []*tsujiv1.Resource {
			a := route("a")
			a.GetRoute().RestrictSources = true
			for i := range n {
				a.GetRoute().AllowedSources = append(a.GetRoute().GetAllowedSources(), fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255))
			}
			a.GetRoute().AllowedSources = append(a.GetRoute().GetAllowedSources(), "127.0.0.0/8")
			return []*tsujiv1.Resource{a, endpoints("a", ep)}
		}
		r.put(listed(1)...)
		before := r.reloads()
		for i := range 20 {
			r.ReloadCosts(0)
			r.put(listed(1 + 1000*(1-i%2))...)
			if got := w.get("a.test"); got != "a" {
				t.Fatalf("answers %s", got)
			}
		}
		if n := r.reloads() - before; n == 0 || n > 4 {
			t.Errorf("%v reloads for 20 large changes, want some and at most 4", n)
		}
	})
}
