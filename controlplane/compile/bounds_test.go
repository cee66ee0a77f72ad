package compile_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"math/big"
	"strings"
	"testing"

	routev1 "github.com/openshift/api/route/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/certtest"
)

// further makes certificates that are ordinary but for their size in bytes of PEM, about.
func further(n, size int) [][]byte {
	list := make([][]byte, n)
	for i := range list {
		list[i] = certtest.Certificate{
			Serial: big.NewInt(int64(i)), Issuer: certtest.Name(certtest.UTF8, "ca"),
			Extensions: [][]byte{certtest.Extension(make([]byte, max(0, size*48/65-400)), 1, 2, 3)},
		}.Sign(certtest.FixedKey())
	}
	return list
}

// What is too much in one Route refuses it, with the field and what to do; what is just below is admitted, and its
// resources are far smaller than a frame of the stream.
func TestBoundsOfCertificates(t *testing.T) {
	t.Parallel()
	leaf, key := certtest.Chain(certtest.Certificate{}.Sign(certtest.FixedKey())), certtest.PrivateKey(certtest.FixedKey())
	edge := func(certificate, key, ca string) *routev1.TLSConfig {
		return &routev1.TLSConfig{Termination: routev1.TLSTerminationEdge, Certificate: certificate, Key: key, CACertificate: ca}
	}
	endpoints := func(ca string) *routev1.TLSConfig {
		return &routev1.TLSConfig{Termination: routev1.TLSTerminationReencrypt, DestinationCACertificate: ca}
	}
	another, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other := certtest.PEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(another))
	const tiny = "-----BEGIN EC PARAMETERS-----\nAAAA\n-----END EC PARAMETERS-----\n"
	for name, c := range map[string]struct {
		tls         *routev1.TLSConfig
		field, want string // of the verdict; empty: it is admitted
	}{
		"a chain of 32":                    {edge(leaf+certtest.Chain(further(31, 0)...), key, ""), "", ""},
		"a chain of 33":                    {edge(leaf+certtest.Chain(further(32, 0)...), key, ""), "certificate", "33 certificates"},
		"a chain of 33 with its CAs":       {edge(leaf+certtest.Chain(further(16, 0)...), key, certtest.Chain(further(32, 10)...)), "certificate", "certificates, with those of caCertificate, are too many"},
		"a chain of 60 kB":                 {edge(leaf+certtest.Chain(further(1, 60_000)...), key, ""), "", ""},
		"a chain of 70 kB":                 {edge(leaf+certtest.Chain(further(1, 70_000)...), key, ""), "certificate", "use 65536 or less"},
		"a chain of 70 kB in pieces":       {edge(leaf+certtest.Chain(further(10, 7_000)...), key, ""), "certificate", "use 65536 or less"},
		"a serial number of 64 bytes":      {edge(leaf+certtest.Chain(numbered(64)), key, ""), "", ""},
		"a serial number of 65 bytes":      {edge(leaf+certtest.Chain(numbered(65)), key, ""), "certificate", "65 bytes is too long: 64 are allowed"},
		"a chain whose names fit":          {edge(leaf+certtest.Chain(longNamed(7, 1_971)...), key, ""), "", ""},
		"a chain whose names do not":       {edge(leaf+certtest.Chain(longNamed(7, 1_972)...), key, ""), "certificate", "names are too many or too long"},
		"a chain whose names are too long": {edge(leaf+certtest.Chain(longNamed(10, 2_000)...), key, ""), "certificate", "names are too many or too long"},
		"CAs with long names":              {endpoints(certtest.Chain(longNamed(10, 2_000)...)), "", ""},
		"CAs of 380 kB":                    {endpoints(certtest.Chain(further(100, 3_800)...)), "", ""},
		"CAs of 400 kB":                    {endpoints(certtest.Chain(further(100, 4_300)...)), "destinationCACertificate", "use 393216 or less"},
		"1,024 blocks":                     {edge(leaf+strings.Repeat(tiny, 1023), key, ""), "", ""},
		"1,025 blocks":                     {edge(leaf+strings.Repeat(tiny, 1024), key, ""), "certificate", "more than 1024 PEM blocks"},
		"10,000 beginnings":                {edge(leaf, key, strings.Repeat("-----BEGIN X\n", 10_000)), "caCertificate", "more than 1024 PEM blocks"},
		"512 kB of text":                   {edge(leaf+strings.Repeat("# text\n", 80_000), key, ""), "certificate", "longer than 524288 bytes"},
		"four keys":                        {edge(leaf, strings.Repeat(key, 4), ""), "", ""},
		"five keys":                        {edge(leaf, strings.Repeat(key, 5), ""), "key", "more than 4 private keys"},
		"five keys of CAs":                 {edge(leaf, key, strings.Repeat(other, 5)), "caCertificate", "more than 4 private keys"},
		"a key of 9 kB":                    {edge(leaf, certtest.PEM("PRIVATE KEY", make([]byte, 9_000)), ""), "key", "longer than 8192 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &routev1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "r"}}
			r.Spec.Host, r.Spec.To.Name, r.Spec.TLS = "a.example.com", "web", c.tls
			w := newWorld()
			w.apply(put(r))
			v := w.last.Verdicts[0]
			switch {
			case c.want == "" && !v.GetAdmitted():
				t.Errorf("refused: %s", v.GetMessage())
			case c.want != "" && (v.GetAdmitted() || !strings.Contains(v.GetMessage(), "spec.tls."+c.field+": ") || !strings.Contains(v.GetMessage(), c.want)):
				t.Errorf("admitted %t: %s", v.GetAdmitted(), v.GetMessage())
			}
			checkSizes(t, w.last)
		})
	}
}

// numbered makes a certificate whose serial number has so many bytes.
func numbered(bytes int) []byte {
	serial := new(big.Int).Lsh(big.NewInt(0x7f), uint(8*(bytes-1)))
	return certtest.Certificate{Serial: serial, Issuer: certtest.Name(certtest.UTF8, "ca")}.Sign(certtest.FixedKey())
}

func longNamed(n, length int) [][]byte {
	list := make([][]byte, n)
	for i := range list {
		list[i] = certtest.Certificate{Subject: certtest.Name(certtest.UTF8, fmt.Sprintf("%0*d", length, i)), Issuer: certtest.Name(certtest.UTF8, "ca")}.Sign(certtest.FixedKey())
	}
	return list
}

// frame is what package xds cuts the stream into.
const frame = 1 << 20

// checkSizes looks at the size of each resource.
func checkSizes(t failer, r compile.Result) {
	t.Helper()
	for item := range r.Config.All() {
		checkSize(t, item.Name(), item.Encoded())
	}
	for item := range r.Facts.All() {
		checkSize(t, item.Name(), item.Encoded())
	}
}

func checkSize(t failer, name string, encoded []byte) {
	t.Helper()
	if len(encoded) > frame*3/4 {
		t.Errorf("%s has %d bytes", name, len(encoded))
	}
}

// What of PEM is not used is told, and used is what is understood.
func TestNotesOfCertificates(t *testing.T) {
	t.Parallel()
	leaf, key := certtest.Chain(certtest.Certificate{}.Sign(certtest.FixedKey())), certtest.PrivateKey(certtest.FixedKey())
	damaged := strings.Replace(certtest.Chain(further(1, 0)...), "M", "!", 1)
	ca := readCert(t, "ca.crt")
	for name, c := range map[string]struct {
		tls  routev1.TLSConfig
		want string
	}{
		"certificates in the key's field":   {routev1.TLSConfig{Certificate: leaf, Key: key + leaf}, "spec.tls.key: the certificates in it are not used: clients get those of the certificate alone"},
		"a key in the CAs' field":           {routev1.TLSConfig{Certificate: readCert(t, "leaf.crt"), Key: readCert(t, "leaf.key"), CACertificate: ca + key}, "spec.tls.caCertificate: the private key in it is not used: take it out"},
		"a key in both":                     {routev1.TLSConfig{Certificate: leaf + key, Key: key}, "spec.tls.key: there are 2 private keys; the first is used"},
		"a block that cannot be read":       {routev1.TLSConfig{Certificate: leaf + damaged, Key: key}, "spec.tls.certificate: 1 PEM blocks in it cannot be read and are not used"},
		"such a block among endpoints' CAs": {routev1.TLSConfig{DestinationCACertificate: ca + damaged}, "spec.tls.destinationCACertificate: 1 PEM blocks in it cannot be read and are not used"},
		"public keys":                       {routev1.TLSConfig{Certificate: leaf + certtest.PEM("PUBLIC KEY", certtest.PublicKey(certtest.NewKey().Public())), Key: key}, ""},
		"a CA in both fields":               {routev1.TLSConfig{Certificate: readCert(t, "leaf.crt") + ca, Key: readCert(t, "leaf.key"), CACertificate: ca + ca}, ""},
		"text around the blocks":            {routev1.TLSConfig{Certificate: "Issuer: a\n" + leaf + "# end\n", Key: "Bag Attributes\n" + key}, ""},
	} {
		r := &routev1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "r"}}
		r.Spec.Host, r.Spec.To.Name, r.Spec.TLS = "a.example.com", "web", &c.tls
		if c.tls.Termination = routev1.TLSTerminationEdge; c.tls.DestinationCACertificate != "" {
			c.tls.Termination = routev1.TLSTerminationReencrypt
		}
		w := newWorld()
		w.apply(put(r))
		v := w.last.Verdicts[0]
		var got []string
		for _, warning := range v.GetWarnings() {
			if strings.HasPrefix(warning, "spec.tls.") && !strings.Contains(warning, "the certificate is not for") {
				got = append(got, warning)
			}
		}
		if !v.GetAdmitted() || strings.Join(got, "\n") != c.want {
			t.Errorf("%s: admitted %t, %q %q; want %q", name, v.GetAdmitted(), v.GetMessage(), got, c.want)
		}
		if item, ok := w.last.Facts.Get(tsujiv1.CertificateName("ns1", tsujiv1.FromRoute, "r")); ok {
			m, err := tsujiv1.Decode(item)
			if err != nil {
				t.Fatal(err)
			}
			certificates := 1
			if c.tls.CACertificate != "" {
				certificates = 2 // each once, wherever it stands
			}
			if chain := string(m.GetCertificate().GetChainPem()); strings.Count(chain, "BEGIN CERTIFICATE") != certificates || strings.Count(chain, "BEGIN") != certificates {
				t.Errorf("%s: the chain is\n%s", name, chain)
			}
			if strings.Count(string(m.GetCertificate().GetPrivateKey().Pem), "BEGIN") != 1 {
				t.Errorf("%s: not one private key", name)
			}
		}
	}
}
