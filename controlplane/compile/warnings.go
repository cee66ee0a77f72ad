package compile

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// offered is what a Service says of what its endpoints have. The zero value: nothing that can be held against anybody.
type offered struct {
	external bool     // of type ExternalName: it is a name, and has no endpoints
	names    []string // of its TCP ports; of a Service that selects no Pods nil, for it is others that say
	numbers  []int32  // of its TCP ports on endpoints
	unknown  bool     // some number is each Pod's own to say
}

func offeredBy(s *corev1.Service) offered {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return offered{external: true}
	}
	if len(s.Spec.Selector) == 0 {
		return offered{}
	}
	o := offered{names: []string{}}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP {
			continue
		}
		o.names = append(o.names, p.Name)
		switch {
		case p.TargetPort.Type == intstr.String && p.TargetPort.StrVal != "":
			o.unknown = true
		case p.TargetPort.IntVal != 0:
			o.numbers = append(o.numbers, p.TargetPort.IntVal)
		default:
			o.numbers = append(o.numbers, p.Port)
		}
	}
	return o
}

func (o offered) equal(p offered) bool {
	return o.external == p.external && o.unknown == p.unknown && (o.names == nil) == (p.names == nil) &&
		slices.Equal(o.names, p.names) && slices.Equal(o.numbers, p.numbers)
}

// lacks tells whether no endpoint of the Service can have the port that is asked for.
func (o offered) lacks(port string) bool {
	if o.names == nil || port == tsujiv1.AnyPort || slices.Contains(o.names, port) {
		return false
	}
	n, err := strconv.ParseInt(port, 10, 32)
	return err != nil || !o.unknown && !slices.Contains(o.numbers, int32(n))
}

// ports lists what can be asked for.
func (o offered) ports() string {
	var all []string
	for _, n := range o.names {
		if n != "" {
			all = append(all, strconv.Quote(n))
		}
	}
	for _, n := range o.numbers {
		all = append(all, strconv.Itoa(int(n)))
	}
	if len(all) == 0 {
		return "no TCP port"
	}
	return strings.Join(all, ", ")
}

// warnOfService tells what a Service cannot give.
func (b *builder) warnOfService(field, name, port string) {
	s, exists := b.c.objects.services[id{Namespace: b.id.Namespace, Name: name}]
	switch {
	case !exists:
		b.warn("%s.name: there is no Service %q in this namespace; requests are answered with 503 while none has endpoints", field, name)
	case s.offered.external:
		b.warn("%s.name: Service %q is of type ExternalName: it has no endpoints of its own, and gets no requests",
			field, name)
	case s.offered.lacks(port):
		asked := "spec.port.targetPort"
		if b.rule != nil {
			asked = field + ".port"
		}
		b.warn("%s: no endpoint of Service %q can have port %s, so that it gets no requests; it has %s", asked, name,
			quoted(port), s.offered.ports())
	}
}

// warnOfWeights tells that nobody gets anywhere.
func (b *builder) warnOfWeights() {
	if len(b.route.GetBackends()) > 0 && b.activeServices() == 0 {
		b.warn("every weight is 0: no new client gets to an endpoint; give spec.to or one of spec.alternateBackends a weight")
	}
}

// warnOfHSTS tells that a header is not set.
func (b *builder) warnOfHSTS() {
	if b.object.Annotations[annHSTS] != "" && !b.secure() {
		b.warn("annotation %s: it has no effect, since TLS does not end at the router", annHSTS)
	}
}

// leaf is what is told of a certificate.
type leaf struct {
	names []string // DNS names
	until time.Time
}

// leafOf reads the first certificate of a chain; the zero leaf: there is none.
func leafOf(chain []byte) leaf {
	block, _ := pem.Decode(chain)
	if block == nil {
		return leaf{}
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return leaf{}
	}
	return leaf{names: c.DNSNames, until: c.NotAfter.UTC()}
}

// isFor tells whether clients take the certificate for a host.
func (l leaf) isFor(host string) bool {
	return (&x509.Certificate{DNSNames: l.names}).VerifyHostname(host) == nil
}

// anyLabel stands for all hosts of a wildcard Route: one that no certificate names by itself.
const anyLabel = "any-host-of-the-wildcard"

// warnOfCertificate tells of a certificate that clients will not take for the host. It notes how long it is valid, for
// those who have a clock.
func (b *builder) warnOfCertificate(field string, p *pair) {
	if len(p.faults) > 0 || p.leaf.until.IsZero() {
		return
	}
	b.notAfter = timestamppb.New(p.leaf.until)
	host := b.route.GetHost()
	if b.route.GetWildcard() {
		if host = anyLabel + "." + parent(host); !p.leaf.isFor(host) {
			b.warn("%s: the certificate is not for every host below %s, but for %s: clients that verify it do not take it", field, parent(host), p.leaf.shown())
		}
		return
	}
	if !p.leaf.isFor(host) {
		b.warn("%s: the certificate is not for %s, but for %s: clients that verify it do not take it", field, host,
			p.leaf.shown())
	}
}

// shown lists the names, up to some.
func (l leaf) shown() string {
	const most = 3
	if len(l.names) == 0 {
		return "no DNS name"
	}
	var all []string
	for _, n := range l.names[:min(len(l.names), most)] {
		all = append(all, quoted(n))
	}
	if n := len(l.names) - most; n > 0 {
		all = append(all, fmt.Sprintf("%d more", n))
	}
	return strings.Join(all, ", ")
}

// expiresSoon is how long before its end a certificate is told of.
const expiresSoon = 7 * 24 * time.Hour

// Expiry tells that a certificate is not valid any more at a moment, or not for long; empty: it is.
func Expiry(until, now time.Time) string {
	const day = 24 * time.Hour
	switch at := until.UTC().Format(time.RFC3339); {
	case until.Before(now):
		return "expired at " + at
	case until.Before(now.Add(expiresSoon)):
		return fmt.Sprintf("expires at %s, within %d days", at, until.Sub(now)/day+1)
	default:
		return ""
	}
}

// Passing tells of Routes that are served what their verdicts do not, since it changes while a Route does not. It is
// asked when somebody looks: endpoints come and go with every Pod, and verdicts must not. It is for one goroutine.
type Passing struct {
	served snapshot.Snapshot
	now    time.Time
	checks map[string]*checks // by namespace; nil: nobody asked
}

// NewPassing makes a Passing for one look at what is served at a moment.
func NewPassing(served snapshot.Snapshot, now time.Time) *Passing {
	return &Passing{served: served, now: now}
}

// Of tells that a Route's certificate has expired, or soon will; which of its Services have no endpoint that is ready;
// that endpoints are checked less often than it asks for; and what is served as it was last good, and since when.
func (p *Passing) Of(v *tsujiv1.RouteVerdict) []string {
	if !v.GetAdmitted() {
		return nil
	}
	var warnings []string
	for _, g := range v.GetLastGood() {
		w := g.GetMessage()
		if g.GetSince() != nil {
			w += " (since " + g.GetSince().AsTime().UTC().Format(time.RFC3339) + ")"
		}
		warnings = append(warnings, w)
	}
	if t := v.GetCertificateNotAfter(); t != nil {
		if e := Expiry(t.AsTime(), p.now); e != "" {
			if t.AsTime().Before(p.now) {
				e += ": clients that verify it do not take it"
			}
			warnings = append(warnings, "the certificate for the host "+e)
		}
	}
	route := decoded(p.served, tsujiv1.RouteName(v.GetNamespace(), v.GetName())).GetRoute()
	if w := p.lengthened(route); w != "" {
		warnings = append(warnings, w)
	}
	var without []string
	active := 0
	for _, b := range route.GetBackends() {
		if b.GetWeight() == 0 {
			continue
		}
		active++
		e := decoded(p.served, b.GetEndpoints()).GetEndpoints()
		if slices.ContainsFunc(e.GetEndpoints(), (*tsujiv1.Endpoint).GetReady) {
			continue
		}
		what := "Service " + quoted(b.GetService())
		if slices.ContainsFunc(v.GetWarnings(), func(w string) bool { return strings.Contains(w, what) }) {
			active-- // its verdict says why it can have none
			continue
		}
		what += " has no endpoint that is ready"
		if port := e.GetPort(); port != "" && port != tsujiv1.AnyPort {
			what += " at port " + quoted(port)
		}
		without = append(without, what)
	}
	if len(without) == active && active > 0 {
		without[active-1] += ": requests are answered with 503"
	}
	return append(warnings, without...)
}

// decoded returns a resource of a snapshot; nil: there is none of that name.
func decoded(s snapshot.Snapshot, name string) *tsujiv1.Resource {
	i, ok := s.Get(name)
	if !ok {
		return nil
	}
	r, err := tsujiv1.Decode(i)
	if err != nil {
		return nil
	}
	return r
}
