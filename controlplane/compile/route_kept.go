package compile

import (
	"crypto/sha256"

	routev1 "github.com/openshift/api/route/v1"
	"k8s.io/apimachinery/pkg/types"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// keptRoute is what a Route refers to as it was when it was last good: the Secret with its certificate, and for a Route
// that is made of an Ingress the Secret with the CA of its endpoints.
//
// It is for exactly one Route: the same object, asking for the same host, by the same reference. It ends when one of
// these is another, when the Route goes, or claims its host in vain, and when the right to read the Secret is withdrawn
// from the reader: that is somebody's decision, where a Secret that vanishes is usually a step of its renewal.
type keptRoute struct {
	of          keptOwner
	certificate keptCertificateRef
	destination keptDestinationRef
}

// keptOwner is the Route for which something was good. A Route that takes the name of another is another one.
type keptOwner struct {
	uid      types.UID // of the Ingress, for a Route that is made of one
	ingress  string    // its name; empty: the Route is an object of its own
	host     string
	wildcard bool
}

// keptCertificateRef is a reference to a certificate. The zero value: there is none, or it was never good.
type keptCertificateRef struct {
	secret string            // its name, in the Route's namespace
	ca     [sha256.Size]byte // of the CA certificates that the Route adds to the chain; zero: it adds none
	pair   *pair             // what was good last
	stale  bool              // that is what is used: it cannot be as it is now
}

// keptDestinationRef is a reference to CA certificates of endpoints. The zero value is as above.
type keptDestinationRef struct {
	secret string
	pem    []byte // what was good last; never changed: others have it, too
	stale  bool
}

// size is how much of a Certificate is kept, in bytes.
func (p *pair) size() int { return len(p.chain) + len(p.key) }

// shares tells whether the certificate is that of the Secret alone, which Routes share.
func (k keptCertificateRef) shares() bool { return k.ca == [sha256.Size]byte{} }

func (k *keptRoute) any() bool { return k.certificate.pair != nil || k.destination.pem != nil }

// ownerOf returns whom something is kept for if that is for this Route as it is now.
func ownerOf(r *route) keptOwner {
	wildcard := r.object.Spec.WildcardPolicy == routev1.WildcardPolicySubdomain
	o := keptOwner{uid: r.object.UID, host: r.host, wildcard: wildcard}
	if r.rule != nil {
		o.uid, o.ingress = r.rule.uid, r.rule.ingress
	}
	return o
}

// keptOf returns what is kept for a Route as it is now.
func (c *Compiler) keptOf(r *route) keptRoute {
	k := r.kept
	if c.kept.routes != nil { // it has not judged any Route yet
		k = c.kept.routes[r.id]
	}
	if k == nil || k.of != ownerOf(r) {
		return keptRoute{}
	}
	return *k
}

// stays returns what was good last of the certificate that is referred to; nil: there is nothing that may be used.
func (b *builder) stays(now keptCertificateRef) *pair {
	was := b.was.certificate
	if was.pair == nil || was.secret != now.secret || was.ca != now.ca {
		return nil
	}
	now.pair, now.stale = was.pair, true
	next := b.kept
	if next.certificate = now; !b.fits(next) {
		return nil
	}
	b.kept = next
	return was.pair
}

// destinationStays does the same for the CA of its endpoints.
func (b *builder) destinationStays(secret string) []byte {
	was := b.was.destination
	if was.pem == nil || was.secret != secret {
		return nil
	}
	next := b.kept
	if next.destination = (keptDestinationRef{secret, was.pem, true}); !b.fits(next) {
		return nil
	}
	b.kept = next
	return was.pem
}

// fits tells whether so much may be kept of the Route's namespace. What is kept at present may be.
func (b *builder) fits(next keptRoute) bool {
	k := &b.c.keeps
	before, now := b.using, next.usage(b.id)
	more := now.own - before.own
	if now.secret != (id{}) && k.shared[now.secret] == nil {
		more += next.certificate.pair.size()
	}
	return more <= 0 || k.bytes[b.id.Namespace]+more <= maxKept
}

// lastGood tells the owner that something is used as it was last good.
func (b *builder) lastGood(resource, why, remedy string) {
	b.told = append(b.told, &tsujiv1.LastGood{Resource: resource, Message: printable(why + "; " + remedy)})
}

// keptUsage is what a Route makes the compiler keep of what cannot be used now.
type keptUsage struct {
	own    int // bytes, of what is its own
	secret id  // whose certificate it shares with other Routes; zero: none
}

func (k *keptRoute) usage(of id) (u keptUsage) {
	if k == nil {
		return u
	}
	switch {
	case !k.certificate.stale:
	case k.certificate.shares():
		u.secret = id{Namespace: of.Namespace, Name: k.certificate.secret}
	default:
		u.own += k.certificate.pair.size()
	}
	if k.destination.stale {
		u.own += len(k.destination.pem)
	}
	return u
}

// keeps is what is kept for Routes of what cannot be used now.
type keeps struct {
	shared map[id]*keptShared // certificates that Routes share, by Secret
	bytes  map[string]int     // by namespace: each shared one counts once
}

// keptShared is a certificate that is kept for so many Routes. They all saw the same Secret when it was last good, or
// they would have ceased to keep it.
type keptShared struct {
	pair   *pair
	routes int
}

func newKeeps() keeps { return keeps{shared: map[id]*keptShared{}, bytes: map[string]int{}} }

// moveKept makes next what is kept for a Route.
func (c *Compiler) moveKept(r *route, next keptRoute, d *dirty) {
	k, namespace := &c.keeps, r.id.Namespace
	old, now := r.kept.usage(r.id), next.usage(r.id)
	r.kept = nil
	if next.any() {
		r.kept = &next
	}
	if now.secret != (id{}) {
		if k.shared[now.secret] == nil {
			k.shared[now.secret] = &keptShared{pair: next.certificate.pair}
			k.bytes[namespace] += next.certificate.pair.size()
		}
		k.shared[now.secret].routes++
	}
	if old.secret != (id{}) {
		s := k.shared[old.secret]
		if s.routes--; s.routes == 0 {
			delete(k.shared, old.secret)
			d.secrets[old.secret] = struct{}{} // a hold on it may have to end, whoever referred to it
			k.bytes[namespace] -= s.pair.size()
		}
	}
	if k.bytes[namespace] += now.own - old.own; k.bytes[namespace] == 0 {
		delete(k.bytes, namespace)
	}
}

// Kept returns what the last result depends on beside the objects and what is held: who begins with it, and with all
// objects at once, has the same result.
func (c *Compiler) Kept() Kept {
	k := c.kept
	k.routes = map[id]*keptRoute{}
	for _, r := range c.objects.routes {
		if r.kept != nil {
			k.routes[r.id] = r.kept // never changed: replaced by another
		}
	}
	return k
}

// secretItem returns the Certificate of the Secret that a Route shares, as it is for this Route.
func (j *judgement) secretItem(c *Compiler) (snapshot.Item, bool) {
	k := j.kept.certificate
	if !k.stale {
		return c.secretItem(j.secret)
	}
	name := tsujiv1.CertificateName(j.secret.Namespace, tsujiv1.FromSecret, j.secret.Name)
	return certificateItem(name, k.pair.resource("").GetCertificate())
}
