package compile

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// Kept is what an IngressController and its Routes refer to as it was when it was last good: of the IngressController
// its default certificate, the CA of its clients with their revocation lists, its error pages; of all Routes the
// cluster's own CA; of each Route its Secrets. What has vanished since, or cannot be used, stays in use as it was, and
// a fault tells so, or the Route's verdict. The next good one takes its place at once, for an IngressController
// whichever object it is of; and when it names nothing any more, nothing is kept. For Routes see keptRoute.
//
// It is the one thing that compilation depends on beside the objects and what is held. So it is an explicit input of
// it: objects and what was kept before give the snapshot, the verdicts, and what is kept now. The zero value keeps
// nothing.
type Kept struct {
	certificate, clientCA, serviceCA keptCertificate
	pages                            keptPages
	routes                           map[id]*keptRoute // of the compiler that it comes from; nil: see Compiler.Kept
}

// keptCertificate is a Certificate, and the object that it is of; zero: none.
type keptCertificate struct {
	of          id
	certificate *tsujiv1.Certificate // never changed: results share it
}

// keptPages are error pages as routers get them; empty: none.
type keptPages struct{ unavailable, notFound []byte }

// follow takes the Certificate of the object that is named now, if read finds it good. Else it stays with what it
// has, and tells why. That follows its own object, should it be good: others may refer to it, by the same name.
func (k *keptCertificate) follow(named id, read func(id) (*tsujiv1.Certificate, string)) (fault string) {
	now, fault := read(named)
	if now != nil {
		*k = keptCertificate{named, now}
		return ""
	}
	if k.of != (id{}) && k.of != named {
		if own, _ := read(k.of); own != nil {
			k.certificate = own
		}
	}
	return fault
}

// stays tells what is used of an object that cannot be, and otherwise if nothing was kept.
func (k *keptCertificate) stays(kind, otherwise string) string {
	if k.of == (id{}) {
		return otherwise
	}
	return fmt.Sprintf("the last good one, of %s %s, stays in use", kind, k.of)
}

// settingsSecret tells whether the Settings may differ when a Secret does.
func (c *Compiler) settingsSecret(k id) bool {
	return k == c.defaultCertificate || k == c.kept.certificate.of || k == c.settingsRefs[0]
}

// settingsConfigMap tells whether the Settings may differ when a ConfigMap does.
func (c *Compiler) settingsConfigMap(k id) bool {
	return k == c.settingsMaps[0] || k == c.settingsMaps[1] || k == c.kept.clientCA.of || k == c.settingsRefs[1]
}

// defaultCertificate compiles spec.defaultCertificate.
func (s *settings) defaultCertificate() {
	const field = "spec.defaultCertificate.name"
	c := s.c
	c.defaultCertificate = id{}
	kept := &c.kept.certificate
	ref := s.spec.DefaultCertificate
	if ref == nil || ref.Name == "" {
		*kept = keptCertificate{}
		return
	}
	var fault string
	if f := validation.IsDNS1123Subdomain(ref.Name); len(f) > 0 {
		fault = f[0]
	} else {
		c.defaultCertificate = id{Namespace: ingressNamespace, Name: ref.Name}
		fault = kept.follow(c.defaultCertificate, c.certificateOfSecret)
	}
	if fault != "" {
		s.faultOf(invalid(field, ref.Name,
			fault+"; "+kept.stays("Secret", "routers serve certificates of their own, which clients do not trust")),
			"put a Secret of type kubernetes.io/tls there, with a certificate and its key")
	}
	if kept.of != (id{}) {
		s.out.DefaultCertificate = tsujiv1.CertificateName(kept.of.Namespace, tsujiv1.FromSecret, kept.of.Name)
	}
}

// certificateOfSecret returns the certificate and key of a Secret; nil, and why, if it cannot be used.
func (c *Compiler) certificateOfSecret(k id) (*tsujiv1.Certificate, string) {
	what := "Secret " + k.String()
	switch secret, unread := c.objects.secrets[k], c.objects.unread[k]; {
	case secret == nil && unread != "":
		return nil, what + " cannot be read: " + unread
	case secret == nil:
		return nil, what + ": there is no such Secret"
	default:
		p := c.secretPair(secret, "")
		if len(p.faults) > 0 {
			return nil, what + ": " + p.faults[0].detail
		}
		return p.resource("").GetCertificate(), ""
	}
}

// settingsCertificate returns what the Settings may use of a Secret; nil: nothing.
func (c *Compiler) settingsCertificate(k id) *tsujiv1.Certificate {
	if now, _ := c.certificateOfSecret(k); now != nil {
		return now
	}
	return c.kept.certificate.ifOf(k)
}

// sharedCertificate returns what Routes and the Settings share of a Secret. A Route that refers to one has found it
// good, and was asked again if it is another now: what is not can only be kept.
func (c *Compiler) sharedCertificate(k id) *tsujiv1.Certificate {
	if shared := c.settingsCertificate(k); shared != nil {
		return shared
	}
	if kept := c.keeps.shared[k]; kept != nil {
		return kept.pair.resource("").GetCertificate()
	}
	return nil
}

// sharedBundle returns what Routes or the Settings use of a ConfigMap's CA certificates; nil: there is nothing.
func (c *Compiler) sharedBundle(k id) *tsujiv1.Certificate {
	if now, _ := c.clientCA(k); now != nil {
		return now
	}
	if k == serviceCA && len(c.objects.routesByServiceCA) > 0 {
		return c.kept.serviceCA.ifOf(k)
	}
	return c.kept.clientCA.ifOf(k)
}

func (k *keptCertificate) ifOf(of id) *tsujiv1.Certificate {
	if k.of != of {
		return nil
	}
	return k.certificate
}

// clientCA returns the CA certificates in a ConfigMap with their revocation lists; nil, and why, if they cannot be
// used. Lists that were there go only if that is said: with an empty key in place of none.
func (c *Compiler) clientCA(k id) (*tsujiv1.Certificate, string) {
	now, fault := c.caCertificate(k)
	if now == nil {
		return nil, fault
	}
	if _, given := c.objects.configMaps[k].Data[revocationKey]; !given &&
		len(c.kept.clientCA.ifOf(k).GetRevocationListsPem()) > 0 {
		return nil, fmt.Sprintf("%s is gone from ConfigMap %s: nobody would count as revoked (if that is meant, leave an empty %s)", revocationKey, k, revocationKey)
	}
	return now, ""
}
