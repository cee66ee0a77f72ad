package render_test

import (
	"crypto/tls"
	"testing"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// OpenShift's profile Old lets clients in that speak no more than TLS 1.1, with the default certificate, a route's, and one
// that came at run time. Others do not.
func TestOldTLS(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, oldTLSStory)
}

func oldTLSStory(t *testing.T, binary string) {
	t.Parallel()
	ca := theAuthority()
	for least, want := range map[tsujiv1.TLSVersion]map[uint16]bool{
		tsujiv1.TLSVersion_TLS_VERSION_1_1: {tls.VersionTLS10: false, tls.VersionTLS11: true, tls.VersionTLS12: true, tls.VersionTLS13: true},
		tsujiv1.TLSVersion_TLS_VERSION_1_2: {tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true},
	} {
		own := simple("own", "own.example", "/", edge, none)
		own.Certificate = tsujiv1.CertificateName("ns", tsujiv1.FromRoute, "own")
		chain, key := ca.issue("own.example")
		rt := start(t, binary, options(),
			settingsOf(&tsujiv1.Settings{Tls: &tsujiv1.TLSProfile{
				MinVersion: least, Ciphers: []string{"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES128-SHA", "AES128-SHA"},
				CipherSuites: []string{"TLS_AES_128_GCM_SHA256"},
			}}),
			routeOf(own), certificateOf("ns", "own", chain, key))
		rt.command("new ssl cert run/late.pem")
		rt.command("set ssl cert run/late.pem <<\n" + string(ca.pair("late.example")) + "\n")
		rt.command("commit ssl cert run/late.pem")
		rt.command("add ssl crt-list crt-list.txt <<\nrun/late.pem late.example\n")
		for _, host := range []string{"any.example", "own.example", "late.example"} {
			for version, accepted := range want {
				c, err := tls.Dial("tcp", rt.https, &tls.Config{InsecureSkipVerify: true, ServerName: host, MinVersion: version, MaxVersion: version})
				if (err == nil) != accepted {
					t.Errorf("from %v on: %s with %s: %v", least, host, tls.VersionName(version), err)
				}
				if err != nil {
					continue
				}
				if leaf := c.ConnectionState().PeerCertificates[0]; host != "any.example" && leaf.VerifyHostname(host) != nil {
					t.Errorf("%s shows the certificate of %v", host, leaf.DNSNames)
				}
				_ = c.Close()
			}
		}
	}
}
