package compile

import (
	"crypto/md5" //nolint:gosec // OpenShift's router names its cookies so; nothing is protected by it
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"

	routev1 "github.com/openshift/api/route/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

const maxAlternateBackends = 3

// builder compiles the content of one Route, and collects everything that is wrong with it.
type builder struct {
	c      *Compiler
	id     id
	object *routev1.Route
	rule   *rule // of the Ingress that it was made of; nil: none
	owner  keptOwner
	was    keptRoute // what was good last
	using  keptUsage // what it makes the compiler keep so far

	route     *tsujiv1.Route
	endpoints []endpointsRef
	secret    id
	serviceCA id
	owned     []*tsujiv1.Resource

	kept     keptRoute // what is good, or is kept
	told     []*tsujiv1.LastGood
	setBy    []string               // annotations and fields that an option is set by
	notAfter *timestamppb.Timestamp // when the certificate that is its own, or its Secret's, ends; nil: it has none

	faults     []string // why it is refused
	external   []string // why it is refused: its external certificate
	unread     string   // why it is refused: the Secret with its certificate cannot be read
	incomplete string   // why it is refused: of the Ingress that it was made of
	missing    string   // the Secret that is not there, which external tells
	warnings   []string // what its owner should know although it is served
	untold     int      // warnings beyond the bound
}

func newBuilder(c *Compiler, r *route) *builder {
	b := &builder{
		c: c, id: r.id, object: r.object, rule: r.rule, owner: ownerOf(r), was: c.keptOf(r), using: r.kept.usage(r.id),
		route: &tsujiv1.Route{
			Namespace:   r.id.Namespace,
			Name:        r.id.Name,
			Host:        r.host,
			Wildcard:    r.object.Spec.WildcardPolicy == routev1.WildcardPolicySubdomain,
			Path:        r.path(),
			Exact:       r.rule != nil && r.rule.exact,
			Termination: terminationOf(r.object.Spec.TLS),
		},
	}
	if r.hostBy != "" {
		b.inForce(r.hostBy)
	}
	if r.rule != nil {
		b.warnings = slices.Clone(r.rule.warnings)
		b.inForce(r.rule.setBy...)
	}
	return b
}

func (b *builder) fault(text string) { b.faults = append(b.faults, text) }

func (b *builder) warn(format string, args ...any) {
	if b.untold++; len(b.warnings) < maxWarnings {
		b.untold--
		b.warnings = append(b.warnings, fmt.Sprintf(format, args...))
	}
}

func (b *builder) passthrough() bool {
	return b.route.GetTermination() == tsujiv1.Termination_TERMINATION_PASSTHROUGH
}

// secure tells whether TLS ends at the router.
func (b *builder) secure() bool {
	t := b.route.GetTermination()
	return t == tsujiv1.Termination_TERMINATION_EDGE || t == tsujiv1.Termination_TERMINATION_REENCRYPT
}

func (b *builder) build() {
	b.subdomain()
	b.path()
	b.backends()
	b.warnOfWeights()
	b.tls()
	b.warnOfHSTS()
	if b.kept.any() {
		b.kept.of = b.owner
	}
	b.options()
	b.requiredHSTS()
	b.headers()
}

// refused tells whether anything was found for which the Route is refused.
func (b *builder) refused() bool {
	return len(b.external)+len(b.faults) > 0 || b.unread != "" || b.incomplete != ""
}

// encode returns the Route's resource.
func (b *builder) encode() (snapshot.Item, error) {
	return tsujiv1.Encode(&tsujiv1.Resource{
		Name: tsujiv1.RouteName(b.id.Namespace, b.id.Name), RequiredFeatures: features(b.route),
		Kind: &tsujiv1.Resource_Route{Route: b.route},
	})
}

// ownedItems returns the Certificates that are the Route's own.
func (b *builder) ownedItems() []snapshot.Item {
	items := make([]snapshot.Item, 0, len(b.owned))
	for _, r := range b.owned {
		if i, err := tsujiv1.Encode(r); err == nil { // as in edit.add
			items = append(items, i)
		}
	}
	return items
}

// ownedItem returns one of them.
func (b *builder) ownedItem(name string) (snapshot.Item, bool) {
	items := b.ownedItems()
	n := slices.IndexFunc(items, func(i snapshot.Item) bool { return i.Name() == name })
	if n < 0 {
		return snapshot.Item{}, false
	}
	return items[n], true
}

// terminationOf returns where TLS ends; unspecified for what is neither of the four.
func terminationOf(tls *routev1.TLSConfig) tsujiv1.Termination {
	if tls == nil {
		return tsujiv1.Termination_TERMINATION_INSECURE
	}
	switch tls.Termination {
	case routev1.TLSTerminationEdge:
		return tsujiv1.Termination_TERMINATION_EDGE
	case routev1.TLSTerminationReencrypt:
		return tsujiv1.Termination_TERMINATION_REENCRYPT
	case routev1.TLSTerminationPassthrough:
		return tsujiv1.Termination_TERMINATION_PASSTHROUGH
	default:
		return tsujiv1.Termination_TERMINATION_UNSPECIFIED
	}
}

// subdomain judges spec.subdomain even where it gives no host, as OpenShift's API does.
func (b *builder) subdomain() {
	s := b.object.Spec.Subdomain
	if s == "" {
		return
	}
	if f := hostFaults(s); len(f) > 0 {
		b.fault(invalid("spec.subdomain", s, f[0]))
	}
	if b.object.Spec.Host != "" {
		b.warn("spec.host is set; spec.subdomain is not used")
	}
}

func (b *builder) path() {
	path := b.object.Spec.Path
	if f := pathFault(path); f != "" {
		b.fault(invalid("spec.path", path, f))
	}
	if b.passthrough() && path != "" {
		b.fault(invalid("spec.path", path, "passthrough termination does not support paths"))
	}
}

// backends compiles the Services with their weights.
//
// OpenShift's router: an absent weight is 1, others are clamped to 0 – 256, and of a Service that is named
// twice the last weight counts.
func (b *builder) backends() {
	port := b.port()
	spec := &b.object.Spec
	if n := len(spec.AlternateBackends); n > maxAlternateBackends {
		b.fault(invalid("spec.alternateBackends", strconv.Itoa(n), fmt.Sprintf("cannot specify more than %d alternate backends", maxAlternateBackends)))
		return
	}
	to := "spec.to"
	if b.rule != nil {
		to = b.rule.field + ".backend.service"
	}
	b.backend(to, spec.To, port)
	for i, t := range spec.AlternateBackends {
		b.backend(fmt.Sprintf("spec.alternateBackends[%d]", i), t, port)
	}
}

func (b *builder) backend(field string, t routev1.RouteTargetReference, port string) {
	if t.Kind != "" && t.Kind != "Service" {
		b.fault(unsupported(field+".kind", t.Kind, "Service"))
	}
	if t.Name == "" {
		b.fault(required(field+".name", "a Service must be named"))
		return
	}
	if f := validation.IsDNS1123Subdomain(t.Name); len(f) > 0 {
		b.fault(invalid(field+".name", t.Name, f[0]))
		return
	}
	weight := uint32(1)
	if t.Weight != nil {
		weight = uint32(min(max(*t.Weight, 0), 256)) // clamped
		if int64(weight) != int64(*t.Weight) {
			b.warn("%s.weight: %d is not between 0 and 256; %d is used", field, *t.Weight, weight)
		}
	}
	service := id{Namespace: b.id.Namespace, Name: t.Name}
	ref := endpointsRef{service: service, port: port}
	if i := slices.Index(b.endpoints, ref); i >= 0 {
		b.route.Backends[i].Weight = weight
		b.warn("%s.name: Service %q is named more than once; its last weight, %d, is used", field, t.Name, weight)
		return
	}
	b.warnOfService(field, t.Name, port)
	if most := b.c.crowded(ref); most > 0 && most == b.c.servers.rooms[b.id.Namespace] {
		b.warn("%s.name: Service %q has more than %d endpoints, and those of this namespace are more than %d "+
			"for all its Routes: the others get no requests", field, t.Name, most, b.c.servers.most)
	} else if most == maxEndpoints {
		b.warn("%s.name: Service %q has more than %d endpoints, or %d kB of them: the others get no requests", field, t.Name, most, maxEndpointsBytes>>10)
	}
	b.endpoints = append(b.endpoints, ref)
	b.route.Backends = append(b.route.Backends, &tsujiv1.BackendRef{Endpoints: ref.name(), Weight: weight, Service: t.Name})
}

// activeServices is how many Services get new traffic, with or without endpoints.
func (b *builder) activeServices() int {
	n := 0
	for _, r := range b.route.GetBackends() {
		if r.GetWeight() > 0 {
			n++
		}
	}
	return n
}

// port returns the port that the route asks for: a name, a number, or any.
func (b *builder) port() string {
	const field = "spec.port.targetPort"
	if b.object.Spec.Port == nil {
		return tsujiv1.AnyPort
	}
	p := b.object.Spec.Port.TargetPort
	switch s := p.String(); {
	case p.Type == intstr.String && s == "", p.Type == intstr.Int && p.IntVal == 0:
		b.fault(required(field, "a port's name or number"))
	case p.Type == intstr.Int && (p.IntVal < 1 || p.IntVal > 65535):
		b.fault(invalid(field, s, "must be between 1 and 65535"))
	case !portName.MatchString(s):
		b.fault(invalid(field, s, "must be a port's name or number"))
	default:
		return s
	}
	return tsujiv1.AnyPort
}

// cookieOf returns the default name of a route's cookie. OpenShift's router means to put the termination
// in front, but does so before it is known: what is left of it is a space.
func cookieOf(k id) string {
	sum := md5.Sum([]byte(" " + k.Namespace + ":" + k.Name))
	return hex.EncodeToString(sum[:])
}
