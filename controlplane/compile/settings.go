package compile

import (
	"slices"
	"strconv"
	"strings"
	"time"

	configv1 "github.com/openshift/api/config/v1"
	operatorv1 "github.com/openshift/api/operator/v1"
	"google.golang.org/protobuf/types/known/durationpb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

const (
	defaultIngressController = "default"
	operatorNamespace        = "openshift-ingress-operator" // of IngressControllers
	ingressNamespace         = "openshift-ingress"          // of their default certificates

	annHTTP2         = "ingress.operator.openshift.io/default-enable-http2"
	annHardStopAfter = "ingress.operator.openshift.io/hard-stop-after"
)

// compileSettings compiles what the IngressController says of a router. What is absent, or cannot be, has
// OpenShift's default.
func (c *Compiler) compileSettings(d *dirty, out *output) {
	ic := c.objects.ingressController()
	if ic == nil {
		ic = &operatorv1.IngressController{}
	}
	s := &tsujiv1.Settings{
		IngressController: c.ingressController,
		Timeouts:          timeoutsOf(&ic.Spec.TuningOptions),
		Tls:               tlsProfileOf(ic.Spec.TLSSecurityProfile),
		Http2:             isTrue(ic.Annotations[annHTTP2]),
		Headers:           &tsujiv1.HeaderPolicy{Forwarded: forwardedOf(ic.Spec.HTTPHeaders)},
		Tuning:            tuningOf(&ic.Spec.TuningOptions),
	}
	s.Tuning.HardStopAfter, _ = parseTime(ic.Annotations[annHardStopAfter])

	c.defaultCertificate = id{}
	if n := ic.Spec.DefaultCertificate; n != nil && len(validation.IsDNS1123Subdomain(n.Name)) == 0 {
		c.defaultCertificate = id{Namespace: ingressNamespace, Name: n.Name}
	}
	var shared id
	if len(c.secretPair(c.objects.secrets[c.defaultCertificate], "").faults) == 0 {
		shared = c.defaultCertificate
		s.DefaultCertificate = tsujiv1.CertificateName(shared.Namespace, tsujiv1.FromSecret, shared.Name)
	}
	c.moveSecret(c.refs.settings, shared, d)
	c.refs.settings = shared
	out.config.add(&tsujiv1.Resource{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: s}})
}

func isTrue(s string) bool {
	v, err := strconv.ParseBool(s)
	return err == nil && v
}

func timeoutsOf(t *operatorv1.IngressControllerTuningOptions) *tsujiv1.Timeouts {
	or := func(d *metav1.Duration, otherwise time.Duration) *durationpb.Duration {
		if d == nil || d.Duration <= 0 {
			return durationpb.New(otherwise)
		}
		return durationpb.New(wholeMilliseconds(d.Duration))
	}
	return &tsujiv1.Timeouts{
		Connect:             or(t.ConnectTimeout, 5*time.Second),
		Client:              or(t.ClientTimeout, 30*time.Second),
		ClientFin:           or(t.ClientFinTimeout, time.Second),
		Server:              or(t.ServerTimeout, 30*time.Second),
		ServerFin:           or(t.ServerFinTimeout, time.Second),
		Tunnel:              or(t.TunnelTimeout, time.Hour),
		HttpRequest:         durationpb.New(10 * time.Second),
		HttpKeepAlive:       or(t.HTTPKeepAliveTimeout, 300*time.Second),
		TlsInspectDelay:     or(t.TLSInspectDelay, 5*time.Second),
		HealthCheckInterval: or(t.HealthCheckInterval, 5*time.Second),
	}
}

func tuningOf(t *operatorv1.IngressControllerTuningOptions) *tsujiv1.Tuning {
	within := func(n, low, high int32, otherwise uint32) uint32 {
		if n < low || n > high {
			return otherwise
		}
		return uint32(n) // low is above zero
	}
	tuning := &tsujiv1.Tuning{
		MaxConnections:              within(t.MaxConnections, 2000, 2000000, 50000),
		AutoMaxConnections:          t.MaxConnections == -1,
		Threads:                     within(t.ThreadCount, 1, 64, 4),
		HeaderBufferBytes:           within(t.HeaderBufferBytes, 16384, 16<<20, 32768),
		HeaderBufferMaxRewriteBytes: within(t.HeaderBufferMaxRewriteBytes, 4096, 16<<20, 8192),
	}
	if tuning.GetAutoMaxConnections() {
		tuning.MaxConnections = 0
	}
	if tuning.GetHeaderBufferMaxRewriteBytes() >= tuning.GetHeaderBufferBytes() {
		tuning.HeaderBufferBytes, tuning.HeaderBufferMaxRewriteBytes = 32768, 8192
	}
	return tuning
}

func forwardedOf(h *operatorv1.IngressControllerHTTPHeaders) tsujiv1.ForwardedPolicy {
	if h == nil {
		return tsujiv1.ForwardedPolicy_FORWARDED_POLICY_APPEND
	}
	switch h.ForwardedHeaderPolicy {
	case operatorv1.ReplaceHTTPHeaderPolicy:
		return tsujiv1.ForwardedPolicy_FORWARDED_POLICY_REPLACE
	case operatorv1.IfNoneHTTPHeaderPolicy:
		return tsujiv1.ForwardedPolicy_FORWARDED_POLICY_IF_NONE
	case operatorv1.NeverHTTPHeaderPolicy:
		return tsujiv1.ForwardedPolicy_FORWARDED_POLICY_NEVER
	default:
		return tsujiv1.ForwardedPolicy_FORWARDED_POLICY_APPEND
	}
}

// The ciphers of OpenShift's profiles, in OpenSSL's names. They stand here and not only in OpenShift's
// package, so that a new version of that one does not change what is compiled by itself.
var (
	modernSuites        = []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
	intermediateCiphers = []string{
		"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256",
		"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
		"ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
	}
	oldCiphers = []string{
		"ECDHE-ECDSA-AES128-SHA256", "ECDHE-RSA-AES128-SHA256", "ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES128-SHA",
		"ECDHE-ECDSA-AES256-SHA384", "ECDHE-RSA-AES256-SHA384", "ECDHE-ECDSA-AES256-SHA", "ECDHE-RSA-AES256-SHA",
		"AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA256", "AES256-SHA256", "AES128-SHA", "AES256-SHA",
		"DES-CBC3-SHA",
	}
	knownGroups = []configv1.TLSGroup{
		configv1.TLSGroupX25519, configv1.TLSGroupSecP256r1, configv1.TLSGroupSecP384r1, configv1.TLSGroupSecP521r1,
		configv1.TLSGroupX25519MLKEM768, configv1.TLSGroupSecP256r1MLKEM768, configv1.TLSGroupSecP384r1MLKEM1024,
	}
	finiteFieldCiphers = []string{
		"DHE-RSA-AES128-GCM-SHA256", "DHE-RSA-AES256-GCM-SHA384", "DHE-RSA-CHACHA20-POLY1305",
		"DHE-RSA-AES128-SHA256", "DHE-RSA-AES256-SHA256",
	}
)

// tlsProfileOf reads a TLS profile. Groups are the library's unless a custom profile names some.
func tlsProfileOf(p *configv1.TLSSecurityProfile) *tsujiv1.TLSProfile {
	intermediate := &tsujiv1.TLSProfile{
		MinVersion:   tsujiv1.TLSVersion_TLS_VERSION_1_2,
		Ciphers:      intermediateCiphers,
		CipherSuites: modernSuites,
	}
	if p == nil {
		return intermediate
	}
	switch p.Type {
	case configv1.TLSProfileOldType:
		return &tsujiv1.TLSProfile{
			MinVersion:   tsujiv1.TLSVersion_TLS_VERSION_1_1, // OpenShift's operator: 1.0 is 1.1
			Ciphers:      slices.Concat(intermediateCiphers, oldCiphers),
			CipherSuites: modernSuites,
		}
	case configv1.TLSProfileModernType:
		return &tsujiv1.TLSProfile{MinVersion: tsujiv1.TLSVersion_TLS_VERSION_1_3, CipherSuites: modernSuites}
	case configv1.TLSProfileCustomType:
		if p.Custom != nil {
			return customProfile(&p.Custom.TLSProfileSpec, intermediate)
		}
		return intermediate
	default:
		return intermediate
	}
}

// customProfile takes of a custom profile what a router can use, and the rest from the default.
func customProfile(spec *configv1.TLSProfileSpec, otherwise *tsujiv1.TLSProfile) *tsujiv1.TLSProfile {
	known := slices.Concat(intermediateCiphers, oldCiphers, finiteFieldCiphers, modernSuites)
	p := &tsujiv1.TLSProfile{MinVersion: otherwise.GetMinVersion()}
	for _, c := range spec.Ciphers {
		switch {
		case !slices.Contains(known, c):
		case strings.HasPrefix(c, "TLS_"):
			p.CipherSuites = append(p.CipherSuites, c)
		default:
			p.Ciphers = append(p.Ciphers, c)
		}
	}
	for _, g := range spec.Groups {
		if slices.Contains(knownGroups, g) {
			p.Groups = append(p.Groups, string(g))
		}
	}
	switch spec.MinTLSVersion {
	case configv1.VersionTLS10, configv1.VersionTLS11:
		p.MinVersion = tsujiv1.TLSVersion_TLS_VERSION_1_1
	case configv1.VersionTLS13:
		p.MinVersion = tsujiv1.TLSVersion_TLS_VERSION_1_3
	case configv1.VersionTLS12:
		p.MinVersion = tsujiv1.TLSVersion_TLS_VERSION_1_2
	}
	if len(p.GetCiphers()) == 0 && p.GetMinVersion() != tsujiv1.TLSVersion_TLS_VERSION_1_3 {
		p.Ciphers = otherwise.GetCiphers()
	}
	if len(p.GetCipherSuites()) == 0 {
		p.CipherSuites = otherwise.GetCipherSuites()
	}
	return p
}
