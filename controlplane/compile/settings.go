package compile

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	operatorv1 "github.com/openshift/api/operator/v1"
	"google.golang.org/protobuf/types/known/durationpb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

const (
	defaultIngressController = "default"
	operatorNamespace        = "openshift-ingress-operator" // of IngressControllers
	ingressNamespace         = "openshift-ingress"          // of their default certificates
	configNamespace          = "openshift-config"           // of the ConfigMaps that they name

	annHTTP2         = "ingress.operator.openshift.io/default-enable-http2"
	annHardStopAfter = "ingress.operator.openshift.io/hard-stop-after"
	annAllowDrop     = tsujiPrefix + "allow-route-drop" // of package controlplane
)

// controllerAnnotations are our own of IngressControllers.
var controllerAnnotations = []string{
	annAllowDrop, annHostnameTemplate, annOverrideHostname, annOverrideDomains, annAllowedDomains, annDeniedDomains,
}

// settings compiles what one IngressController says of a router, and collects what is wrong with it.
type settings struct {
	c      *Compiler
	spec   *operatorv1.IngressControllerSpec
	out    *tsujiv1.Settings
	faults []settingsFault
}

// settingsFault is one thing that is wrong with it, and what to do about that.
type settingsFault struct{ text, remedy string }

const mendThere = "mend what it says there"

func (s *settings) fault(text string) { s.faultOf(text, mendThere) }

func (s *settings) faultOf(text, remedy string) {
	s.faults = append(s.faults, settingsFault{text, remedy})
}

// compileSettings compiles what the IngressController says of a router. What is absent, or cannot be, has
// OpenShift's default, except where that would open what was meant to be closed.
func (c *Compiler) compileSettings(d *dirty, out *output) {
	ic := c.objects.ingressController()
	if ic == nil {
		ic = &operatorv1.IngressController{}
	}
	s := &settings{c: c, spec: &ic.Spec, out: &tsujiv1.Settings{
		IngressController:   c.ingressController,
		ProxyProtocol:       proxyProtocol(ic.Spec.EndpointPublishingStrategy),
		IgnoreEmptyRequests: ic.Spec.HTTPEmptyRequestsPolicy == operatorv1.HTTPEmptyRequestsPolicyIgnore,
		IdleCloseOnResponse: ic.Spec.IdleConnectionTerminationPolicy == operatorv1.IngressControllerConnectionTerminationPolicyDeferred,
		AbortOnClose:        ic.Spec.ClosedClientConnectionPolicy == operatorv1.IngressControllerClosedClientConnectionPolicyAbort,
	}}
	s.choices()
	before := c.kept
	s.selectors()
	s.timeouts()
	s.tuning()
	s.annotations(ic.Annotations)
	_, faults := namingOf(ic)
	for _, f := range faults {
		s.fault(f)
	}
	s.out.Tls = tlsProfileOf(ic.Spec.TLSSecurityProfile, s.fault)
	c.settingsMaps = [2]id{}
	s.headers()
	s.accessLog()
	s.errorPages()
	s.compression()
	s.clientTLS()
	s.overrides()
	s.defaultCertificate()

	c.faults = c.ingressConfigFaults()
	for _, f := range s.faults {
		c.faults = append(c.faults,
			cluster.Fault{Place: c.controllerPlace(), Message: printable(f.text), Remedy: f.remedy})
	}
	res := &tsujiv1.Resource{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: s.out}}
	if escaped(s.out.GetHeaders().GetRequest(), s.out.GetHeaders().GetResponse()) {
		res.RequiredFeatures = []string{tsujiv1.FeatureHeaderEscape}
	}
	item, err := tsujiv1.Encode(res)
	if err != nil {
		return // as in edit.add
	}
	if !c.holds.empty() { // what is kept of a Secret may be other, and with it whether the hold on it is needed
		for _, k := range []Kept{before, c.kept} {
			d.secrets[k.certificate.of], d.configMaps[k.clientCA.of] = struct{}{}, struct{}{}
		}
	}
	item, secret, ca, ok := c.holdSettings(item, c.kept.certificate.of, c.kept.clientCA.of)
	if ok {
		out.config.put = append(out.config.put, item)
	} else {
		out.config.remove = append(out.config.remove, item.Name())
	}
	c.moveSecret(c.refs.settings, secret, d)
	c.moveConfigMap(c.refs.settingsCA, ca, d)
	c.refs.settings, c.refs.settingsCA = secret, ca
}

// controllerPlace is where the IngressController is, for faults.
func (c *Compiler) controllerPlace() string {
	k := cluster.Key{Kind: cluster.IngressController, Name: c.ingressController}
	if ic := c.objects.ingressController(); ic != nil {
		k.Namespace = ic.Namespace
	}
	return k.String()
}

// configMap returns the name of a ConfigMap that the IngressController names, which is compiled again when that
// one changes; the zero one if it cannot be a name.
func (s *settings) configMap(slot int, field, name string) id {
	if f := validation.IsDNS1123Subdomain(name); len(f) > 0 {
		s.fault(invalid(field, name, f[0]))
		return id{}
	}
	k := id{Namespace: configNamespace, Name: name}
	s.c.settingsMaps[slot] = k
	return k
}

// proxyProtocol tells whether clients come through a load balancer that speaks the PROXY protocol.
//
// OpenShift's operator: where the strategy says so, and for classic load balancers of AWS.
func proxyProtocol(p *operatorv1.EndpointPublishingStrategy) bool {
	if p == nil {
		return false
	}
	switch p.Type {
	case operatorv1.HostNetworkStrategyType:
		return p.HostNetwork != nil && p.HostNetwork.Protocol == operatorv1.ProxyProtocol
	case operatorv1.NodePortServiceStrategyType:
		return p.NodePort != nil && p.NodePort.Protocol == operatorv1.ProxyProtocol
	case operatorv1.PrivateStrategyType:
		return p.Private != nil && p.Private.Protocol == operatorv1.ProxyProtocol
	case operatorv1.LoadBalancerServiceStrategyType:
	default:
		return false
	}
	if p.LoadBalancer == nil || p.LoadBalancer.ProviderParameters == nil {
		return false
	}
	switch l := p.LoadBalancer.ProviderParameters; l.Type {
	case operatorv1.IBMLoadBalancerProvider:
		return l.IBM != nil && l.IBM.Protocol == operatorv1.ProxyProtocol
	case operatorv1.AWSLoadBalancerProvider:
		if l.AWS == nil || l.AWS.Type != operatorv1.AWSNetworkLoadBalancer {
			return true
		}
		n := l.AWS.NetworkLoadBalancerParameters
		return n != nil && n.Protocol == operatorv1.NLBProtocolProxy
	default:
		return false
	}
}

func (s *settings) annotations(values map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if strings.HasPrefix(name, tsujiPrefix) && !slices.Contains(controllerAnnotations, name) {
			s.fault("metadata.annotations: " + quoted(name) + " is not known and is ignored")
		}
	}
	if v, ok := values[annHTTP2]; ok {
		on, err := strconv.ParseBool(v)
		if err != nil {
			s.fault(invalid("metadata.annotations["+annHTTP2+"]", v, "must be true or false"))
		}
		s.out.Http2 = on
	}
	if v, ok := values[annHardStopAfter]; ok {
		if s.out.Tuning.HardStopAfter, ok = parseTime(v); !ok {
			s.fault(invalid("metadata.annotations["+annHardStopAfter+"]", v,
				"must be a time: a whole number from 1, then us, ms, s, m, h or d"))
		}
	}
}

// choices tells of values that are none of those that there are, which an API server would not take: the default
// counts.
func (s *settings) choices() {
	of := func(field, value string, known ...string) {
		if value != "" && !slices.Contains(known, value) {
			s.fault(unsupported(field, value, known...))
		}
	}
	of("spec.httpEmptyRequestsPolicy", string(s.spec.HTTPEmptyRequestsPolicy), "Respond", "Ignore")
	of("spec.idleConnectionTerminationPolicy", string(s.spec.IdleConnectionTerminationPolicy), "Immediate", "Deferred")
	of("spec.closedClientConnectionPolicy", string(s.spec.ClosedClientConnectionPolicy), "Abort", "Continue")
	if a := s.spec.RouteAdmission; a != nil {
		of("spec.routeAdmission.namespaceOwnership", string(a.NamespaceOwnership), "Strict", "InterNamespaceAllowed")
		of("spec.routeAdmission.wildcardPolicy", string(a.WildcardPolicy), "WildcardsAllowed", "WildcardsDisallowed")
	}
	if h := s.spec.HTTPHeaders; h != nil {
		of("spec.httpHeaders.forwardedHeaderPolicy", string(h.ForwardedHeaderPolicy), "Append", "Replace", "IfNone",
			"Never")
	}
	if l := s.spec.Logging; l != nil && l.Access != nil {
		of("spec.logging.access.logEmptyRequests", string(l.Access.LogEmptyRequests), "Log", "Ignore")
	}
}

// selectors tells of those that cannot be read; policy selects nothing by them.
func (s *settings) selectors() {
	for _, f := range []struct {
		field    string
		selector *metav1.LabelSelector
	}{{"spec.routeSelector", s.spec.RouteSelector}, {"spec.namespaceSelector", s.spec.NamespaceSelector}} {
		if _, err := metav1.LabelSelectorAsSelector(f.selector); err != nil {
			s.fault(f.field + ": " + err.Error() + "; no Route is selected")
		}
	}
}

func (s *settings) timeouts() {
	t := &s.spec.TuningOptions
	or := func(field string, d *metav1.Duration, otherwise time.Duration) *durationpb.Duration {
		switch {
		case d == nil || d.Duration == 0:
		case d.Duration < 0:
			s.fault(invalid("spec.tuningOptions."+field, d.Duration.String(), "must be greater than 0"))
		default:
			return durationpb.New(wholeMilliseconds(d.Duration))
		}
		return durationpb.New(otherwise)
	}
	s.out.Timeouts = &tsujiv1.Timeouts{
		Connect:             or("connectTimeout", t.ConnectTimeout, 5*time.Second),
		Client:              or("clientTimeout", t.ClientTimeout, 30*time.Second),
		ClientFin:           or("clientFinTimeout", t.ClientFinTimeout, time.Second),
		Server:              or("serverTimeout", t.ServerTimeout, 30*time.Second),
		ServerFin:           or("serverFinTimeout", t.ServerFinTimeout, time.Second),
		Tunnel:              or("tunnelTimeout", t.TunnelTimeout, time.Hour),
		HttpRequest:         durationpb.New(10 * time.Second),
		HttpKeepAlive:       or("httpKeepAliveTimeout", t.HTTPKeepAliveTimeout, 300*time.Second),
		TlsInspectDelay:     or("tlsInspectDelay", t.TLSInspectDelay, 5*time.Second),
		HealthCheckInterval: or("healthCheckInterval", t.HealthCheckInterval, 5*time.Second),
	}
}

func (s *settings) tuning() {
	const field = "spec.tuningOptions."
	t := &s.spec.TuningOptions
	within := func(name string, n, low, high int32, otherwise uint32) uint32 {
		switch {
		case n == 0:
			return otherwise
		case n < low || n > high:
			s.fault(invalid(field+name, fmt.Sprint(n), fmt.Sprintf("must be between %d and %d", low, high)))
			return otherwise
		default:
			return uint32(n) // low is above zero
		}
	}
	s.out.Tuning = &tsujiv1.Tuning{
		AutoMaxConnections:          t.MaxConnections == -1,
		Threads:                     within("threadCount", t.ThreadCount, 1, 64, 0),
		HeaderBufferBytes:           within("headerBufferBytes", t.HeaderBufferBytes, 16384, 16<<20, 32768),
		HeaderBufferMaxRewriteBytes: within("headerBufferMaxRewriteBytes", t.HeaderBufferMaxRewriteBytes, 4096, 16<<20, 8192),
	}
	if !s.out.Tuning.GetAutoMaxConnections() {
		s.out.Tuning.MaxConnections = within("maxConnections", t.MaxConnections, 2000, 2000000, 50000)
	}
	if n := s.out.Tuning; n.GetHeaderBufferMaxRewriteBytes() >= n.GetHeaderBufferBytes() {
		s.fault(invalid(field+"headerBufferMaxRewriteBytes", fmt.Sprint(n.GetHeaderBufferMaxRewriteBytes()),
			"must be less than headerBufferBytes"))
		n.HeaderBufferBytes, n.HeaderBufferMaxRewriteBytes = 32768, 8192
	}
}
