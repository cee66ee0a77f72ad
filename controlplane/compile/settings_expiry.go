package compile

import (
	"crypto/x509"
	"encoding/pem"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// PassingFaults tells of what an IngressController refers to and what is served: that its default certificate, a CA of
// its clients or one of their revocation lists has expired, or soon will. place is where the IngressController is.
func PassingFaults(place string, served snapshot.Snapshot, now time.Time) []cluster.Fault {
	settings := decoded(served, tsujiv1.SettingsName).GetSettings()
	var faults []cluster.Fault
	tell := func(field, what, remedy string, until, now time.Time) {
		if e := Expiry(until, now); e != "" && !until.IsZero() {
			faults = append(faults,
				cluster.Fault{Place: place, Message: printable(field + ": " + what + " " + e), Remedy: remedy})
		}
	}
	if name := settings.GetDefaultCertificate(); name != "" {
		l := leafOf(decoded(served, name).GetCertificate().GetChainPem())
		tell("spec.defaultCertificate.name", "the default certificate",
			"renew it: clients do not take one that has expired", l.until, now)
	}
	clients := settings.GetClientTls()
	if clients.GetCa() == "" {
		return faults
	}
	const field = "spec.clientTLS.clientCA.name"
	ca := decoded(served, clients.GetCa()).GetCertificate()
	for block, rest := pem.Decode(ca.GetCaBundlePem()); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			tell(field, "CA "+quoted(c.Subject.String()), "renew it, or take it out", c.NotAfter, now)
		}
	}
	for block, rest := pem.Decode(ca.GetRevocationListsPem()); block != nil; block, rest = pem.Decode(rest) {
		if l, err := x509.ParseRevocationList(block.Bytes); err == nil { // they are short-lived: only what has happened is told
			tell(field, "the revocation list of CA "+quoted(l.Issuer.String()),
				"renew it in "+revocationKey+": with one whose time is over nobody gets in", l.NextUpdate,
				now.Add(-expiresSoon))
		}
	}
	return faults
}
