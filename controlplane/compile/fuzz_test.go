package compile_test

import (
	"regexp"
	"strings"
	"testing"

	operatorv1 "github.com/openshift/api/operator/v1"
	routev1 "github.com/openshift/api/route/v1"
	"google.golang.org/protobuf/reflect/protoreflect"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// safe says, apart from the compiler's own lists, of what each string of the model may be made. A string
// that is missing here fails the check.
var safe = func() map[string]*regexp.Regexp {
	const (
		dns      = `[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?`
		port     = `(\*|[A-Za-z0-9][A-Za-z0-9._-]{0,62})`
		name     = `([A-Za-z0-9][A-Za-z0-9._-]{0,252})?`
		cert     = `(cert/` + dns + `/(route|secret|destination-ca|configmap):` + dns + `)?`
		ends     = `endpoints/` + dns + `/` + dns + `/` + port
		header   = "[-!#$%&'*+.0-9A-Z^_`a-z|~]{1,255}"
		visible  = `/[!-~]*`
		printing = `[^\x00-\x1f\x7f]*`
		logged   = `(?:[^%\x00-\x1f\x7f]|%(?:%|(?:\{[QXE+,-]+\})?(?:\[[0-9A-Za-z_.(),-]+\]|[A-Za-z]+)))*`
	)
	m := map[string]*regexp.Regexp{}
	for field, pattern := range map[string]string{
		"Resource.name":              `settings|route/` + dns + `/` + dns + `|` + ends + `|` + cert,
		"Resource.required_features": tsujiv1.FeatureExactPath + "|" + tsujiv1.FeatureHeaderEscape,
		"Route.namespace":            dns, "Route.name": dns, "Route.host": dns, "Route.path": visible, "Route.certificate": cert,
		"Route.allowed_sources": `[0-9a-f.:]+/[0-9]{1,3}`, "Route.hsts": `[A-Za-z0-9"=; -]{0,256}`,
		"BackendRef.endpoints": ends, "BackendRef.service": dns,
		"DestinationTLS.ca": cert,
		"Cookie.name":       `[A-Za-z0-9_-]{1,128}`, "Cookie.same_site": `(Lax|Strict|None)?`,
		"PathRewrite.target":      `/(?:[A-Za-z0-9/._~!$&()*+,;=:@-]|%[0-9A-Fa-f]{2})*`,
		"HeaderAction.name":       header,
		"HeaderValuePart.literal": printing,
		"HeaderFetch.name":        `[A-Za-z0-9-]{1,255}`, "HeaderFetch.converters": `lower|base64`,
		"ClientCertificateFetch.converters": `lower|base64`,
		"Endpoints.namespace":               dns, "Endpoints.service": dns, "Endpoints.port": port,
		"Endpoint.address": `[0-9a-f.:]+`, "Endpoint.port_name": name, "Endpoint.target_kind": name,
		"Endpoint.target_name": name, "Endpoint.node": name, "Endpoint.zone": name,
		"HeaderPolicy.unique_id_header": header, "HeaderPolicy.unique_id_format": logged, "HeaderPolicy.case_adjustments": header,
		"AccessLog.address": `stdout|[0-9.]+:[0-9]{1,5}|\[[0-9a-f:.]+\]:[0-9]{1,5}`, "AccessLog.facility": `[a-z]{2,6}[0-9]?`,
		"AccessLog.format": logged, "Capture.name": header, "CookieCapture.name": `[A-Za-z0-9_-]{1,128}`,
		"Compression.mime_types": `[A-Za-z0-9.+_-]+/[A-Za-z0-9.+_*-]+`,
		"ClientTLS.ca":           cert, "ClientTLS.allowed_subject_patterns": printing,
		"Settings.ingress_controller": dns, "Settings.default_certificate": cert,
		"TLSProfile.ciphers": `[A-Z0-9-]+`, "TLSProfile.cipher_suites": `[A-Z0-9_]+`,
	} {
		m["tsuji.v1."+field] = regexp.MustCompile(`\A(?:` + pattern + `)\z`)
	}
	return m
}()

// failer is a test, or a property's.
type failer interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
}

// checkSafe walks through everything that is in a message.
func checkSafe(t failer, m protoreflect.Message) {
	t.Helper()
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		each := func(v protoreflect.Value) {
			switch f.Kind() {
			case protoreflect.MessageKind:
				checkSafe(t, v.Message())
			case protoreflect.StringKind:
				if p := safe[string(f.FullName())]; p == nil || !p.MatchString(v.String()) {
					t.Errorf("%s may not be %q", f.FullName(), v.String())
				}
			case protoreflect.BytesKind:
				if f.Parent().Name() == "ErrorPages" {
					if !wholePage.Match(v.Bytes()) {
						t.Errorf("%s may not be %q", f.FullName(), v.Bytes())
					}
					return
				}
				if rest := pemOnly.ReplaceAllString(string(v.Bytes()), ""); rest != "" {
					t.Errorf("%s has more than PEM in it: %q", f.FullName(), rest)
				}
			}
		}
		if f.IsList() {
			for i := range v.List().Len() {
				each(v.List().Get(i))
			}
		} else {
			each(v)
		}
		return true
	})
}

var wholePage = regexp.MustCompile(`\AHTTP/1\.1 [2-5][0-9][0-9][ -~]*\r\n([^\x00-\x1f\x7f:]+: [^\x00-\x1f\x7f]*\r\n)*\r\n`)

var pemOnly = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]+-----\n[A-Za-z0-9+/=\n]+-----END [A-Z0-9 ]+-----\n`)

func checkSafeResult(t failer, r compile.Result) {
	t.Helper()
	for _, i := range snapshot.New(0, r.Config, r.Facts).Sorted() {
		res, err := tsujiv1.Decode(i)
		if err != nil {
			t.Fatal(err)
		}
		checkSafe(t, res.ProtoReflect())
		checkSize(t, i.Name(), i.Encoded())
	}
	for _, v := range r.Verdicts {
		text := v.GetHost() + v.GetPath() + v.GetReason() + v.GetMessage() + strings.Join(v.GetWarnings(), "")
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("a verdict with control characters: %q", text)
		}
		if v.GetAdmitted() == (v.GetReason() != "") {
			t.Errorf("admitted %t for the reason %q", v.GetAdmitted(), v.GetReason())
		}
	}
}

// Whatever is written into a Route and what it refers to: no panic, a verdict, and nothing in what was
// admitted but safe strings. Its neighbour stays as it is.
func FuzzRoute(f *testing.F) {
	fixtures := map[string]string{}
	for _, n := range []string{"leaf.crt", "leaf.key", "leaf-with-key.crt", "ca.crt", "sha1.crt", "ed25519.key"} {
		fixtures[n] = readCert(f, n)
	}
	pem := func(s string) string { return fixtures[s] + s } // text after PEM does not count
	add := func(host, path, service, port, termination, policy, annotation, value, header, set, cert, key, ca string) {
		f.Add(host, path, service, port, termination, policy, annotation, value, header, set, cert, key, ca, "", "None", "", int32(100), "", "")
	}
	f.Add("a.example.com", "", "web", "", "", "", "", "", "", "", "", "", "", "sub", "Subdomain", "a", int32(300), "${name}-$namespace.example.com", "example.com")
	f.Add("", "", "web", "", "", "", "", "", "", "", "", "", "", "sub.b", "Subdomain", "web", int32(-1), "${x}", "example.com,*.example.org a_b")
	f.Add("a.denied.example.com", "", "web", "", "edge", "", "", "", "", "", "secret:t", "", "", "", "", "", int32(0), "", "")
	f.Add("a.example.com", "", "web", "", "edge", "", "", "", "", "", "secret:a b", "x", "ca.crt", "", "", "", int32(0), "", "")
	f.Add("", "", "web", "", "edge", "", "", "", "", "", "", "", "", "", "", "a\nb", int32(0), "'a.${name'", "\n")
	options := render.Options{DefaultCertificate: ownPair(f)}
	add("a.example.com", "/a", "web", "http", "edge", "Redirect", "haproxy.router.openshift.io/timeout", "5s", "X-A", "%[req.hdr(Host)]", "leaf.crt", "leaf.key", "ca.crt")
	add("a.example.com", "/foo(", "web", "8080", "", "", "haproxy.router.openshift.io/rewrite-target", "/", "X-A", "'%%'", "", "", "")
	add("a.example.com", "/a[b", "web", "", "reencrypt", "Allow", "haproxy.router.openshift.io/hsts_header", "max-age=1;\nincludeSubDomains", "X\n", "a\r\nb", "leaf-with-key.crt", "", "ca.crt")
	add("a.example.com", "", "web", "", "passthrough", "None", "haproxy.router.openshift.io/ip_allowlist", "10.0.0.0/8 ::1 x", "", "", "", "", "")
	add("*.example.com", "/a b", "a/b", "*", "Edge", "x", "router.openshift.io/cookie_name", "a;b", "Cookie", "%", "x", "x", "x")
	add("a.example.com", "/", "web", "0", "edge", "", "router.openshift.io/cookie-same-site", "Lax", "X-B", "%[ssl_c_der,base64]", "leaf.crt", "leaf.key", "")
	add("a.example.com", "/", "web", "-1", "", "", "haproxy.router.openshift.io/rate-limit-connections", "true", "X-B", "%{+Q}[x]", "", "", "")
	neighbour := &routev1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "neighbour"}}
	neighbour.Spec.Host, neighbour.Spec.To.Name = "neighbour.example.com", "web"
	f.Fuzz(func(t *testing.T, host, path, service, port, termination, policy, annotation, value, header, set, cert, key, ca, subdomain, wildcard, alternate string, weight int32, template, domains string) {
		c := compile.New(compile.Config{})
		ic := &operatorv1.IngressController{ObjectMeta: metav1.ObjectMeta{Namespace: "openshift-ingress-operator", Name: "default", Annotations: map[string]string{
			"tsuji.dev/hostname-template": template, "tsuji.dev/override-domains": domains, "tsuji.dev/denied-domains": "denied.example.com denied." + domains, annotation: value,
		}}}
		ic.Spec.Domain = "sub.example.com"
		ic.Spec.RouteAdmission = &operatorv1.RouteAdmissionPolicy{WildcardPolicy: operatorv1.WildcardPolicyAllowed}
		before := c.Apply([]cluster.Change{put(neighbour), put(ic)})

		r := &routev1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "fuzzed", Annotations: map[string]string{annotation: value}}}
		r.Spec.Host, r.Spec.Path, r.Spec.To.Name = host, path, service
		r.Spec.Subdomain, r.Spec.WildcardPolicy, r.Spec.To.Weight = subdomain, routev1.WildcardPolicyType(wildcard), &weight
		if alternate != "" {
			r.Spec.AlternateBackends = []routev1.RouteTargetReference{{Name: alternate, Weight: &weight}, {Name: service}}
		}
		if port != "" {
			r.Spec.Port = &routev1.RoutePort{TargetPort: intstr.Parse(port)}
		}
		r.Spec.TLS = &routev1.TLSConfig{
			Termination: routev1.TLSTerminationType(termination), InsecureEdgeTerminationPolicy: routev1.InsecureEdgeTerminationPolicyType(policy),
			Certificate: pem(cert), Key: pem(key), CACertificate: pem(ca),
		}
		secret, external := strings.CutPrefix(cert, "secret:")
		if external {
			r.Spec.TLS.Certificate, r.Spec.TLS.ExternalCertificate = "", &routev1.LocalObjectReference{Name: secret}
		}
		switch termination {
		case "":
			r.Spec.TLS = nil
		case "reencrypt":
			r.Spec.TLS.DestinationCACertificate = pem(ca)
		}
		if header != "" {
			actions := []routev1.RouteHTTPHeader{{Name: header, Action: routev1.RouteHTTPHeaderActionUnion{
				Type: routev1.Set, Set: &routev1.RouteSetHTTPHeader{Value: set},
			}}}
			r.Spec.HTTPHeaders = &routev1.RouteHTTPHeaders{Actions: routev1.RouteHTTPHeaderActions{Request: actions, Response: actions}}
		}
		number := int32(8080)
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "ns1", Name: "slice", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: &port, Port: &number}},
			Endpoints: []discoveryv1.Endpoint{{
				Addresses: []string{"10.0.0.1", host}, NodeName: &value, Zone: &set,
				TargetRef: &corev1.ObjectReference{Kind: annotation, Name: header},
			}},
		}
		after := c.Apply([]cluster.Change{put(r), put(slice), put(&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: secret}, Type: corev1.SecretTypeTLS,
			Data: map[string][]byte{"tls.crt": []byte(pem("leaf.crt") + key), "tls.key": []byte(pem("leaf.key"))},
		})})
		for _, v := range after.Verdicts {
			if denied := v.GetHost() == "denied.example.com" || strings.HasSuffix(v.GetHost(), ".denied.example.com"); denied && v.GetAdmitted() && annotation != "tsuji.dev/denied-domains" {
				t.Errorf("%s is admitted", v.GetHost())
			}
		}
		checkSafeResult(t, after)
		item := tsujiv1.RouteName("ns1", "neighbour")
		was, _ := before.Config.Get(item)
		is, _ := after.Config.Get(item)
		for _, v := range after.Verdicts {
			if v.GetName() == "fuzzed" && v.GetHost() != before.Verdicts[0].GetHost() && is.Digest() != was.Digest() {
				t.Errorf("its neighbour is not what it was")
			}
		}
		if _, err := rendered(options, after); err != nil {
			t.Errorf("routers refuse it: %v", err)
		}
	})
}

// Whatever is written into an IngressController and its ConfigMaps: no panic, nothing in the Settings but safe
// strings, and routers take them, except where the clients' CA is not there.
func FuzzIngressController(f *testing.F) {
	options := render.Options{DefaultCertificate: ownPair(f)}
	ca := readCert(f, "ca.crt")
	f.Add("X-A", "%[req.hdr(a)]", "%{+X}o %ci", "%ci %[src]", "192.0.2.1", uint32(514), "local1", "sess", 64, "text/html", "^/CN=a$", "HTTP/1.0 503 A\r\nA: b\r\n\r\nbody", "pages")
	f.Add("host", "%", "%[env(HOME)]", "%[res.hdr(a)]", "::1", uint32(0), "x y", "a=b", -1, "text/*; a=b", "(?i)a", "HTTP/1.1 204 \n\n", "-")
	f.Add("x'y", "a\nb", "a\\ b", "%{+E}[src,lower]", "fe80::1%e", uint32(70000), "", "", 1<<20, "a b", "[[:alpha:]]", "HTTP/1.1 200 OK\nTransfer-Encoding: x\n\n", "")
	f.Fuzz(func(t *testing.T, header, value, id, format, address string, port uint32, facility, cookie string, length int, mime, pattern, page, name string) {
		ic := &operatorv1.IngressController{ObjectMeta: metav1.ObjectMeta{Namespace: "openshift-ingress-operator", Name: "default"}}
		set := operatorv1.IngressControllerHTTPHeader{Name: header}
		set.Action.Type, set.Action.Set = operatorv1.Set, &operatorv1.IngressControllerSetHTTPHeader{Value: value}
		ic.Spec.HTTPHeaders = &operatorv1.IngressControllerHTTPHeaders{
			UniqueId:                  operatorv1.IngressControllerHTTPUniqueIdHeaderPolicy{Name: header, Format: id},
			HeaderNameCaseAdjustments: []operatorv1.IngressControllerHTTPHeaderNameCaseAdjustment{operatorv1.IngressControllerHTTPHeaderNameCaseAdjustment(header), "x-a"},
			Actions:                   operatorv1.IngressControllerHTTPHeaderActions{Request: []operatorv1.IngressControllerHTTPHeader{set}, Response: []operatorv1.IngressControllerHTTPHeader{set}},
		}
		capture := operatorv1.IngressControllerCaptureHTTPHeader{Name: header, MaxLength: length}
		access := &operatorv1.AccessLogging{HttpLogFormat: format}
		access.Destination.Type = operatorv1.SyslogLoggingDestinationType
		access.Destination.Syslog = &operatorv1.SyslogLoggingDestinationParameters{Address: address, Port: port, Facility: facility, MaxLength: uint32(max(0, min(length, 5000)))}
		access.HTTPCaptureHeaders.Request = []operatorv1.IngressControllerCaptureHTTPHeader{capture}
		access.HTTPCaptureCookies = []operatorv1.IngressControllerCaptureHTTPCookie{{MaxLength: length}}
		access.HTTPCaptureCookies[0].Name = cookie
		ic.Spec.Logging = &operatorv1.IngressControllerLogging{Access: access}
		ic.Spec.HTTPCompression.MimeTypes = []operatorv1.CompressionMIMEType{operatorv1.CompressionMIMEType(mime)}
		ic.Spec.HttpErrorCodePages.Name = name
		ic.Spec.ClientTLS.ClientCertificatePolicy = operatorv1.ClientCertificatePolicyOptional
		ic.Spec.ClientTLS.ClientCA.Name = "clients"
		ic.Spec.ClientTLS.AllowedSubjectPatterns = []string{pattern}
		config := func(name string, data map[string]string) cluster.Change {
			return put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "openshift-config", Name: name}, Data: data})
		}
		r := compile.New(compile.Config{}).Apply([]cluster.Change{
			put(ic), config(name, map[string]string{"error-page-503.http": page, "error-page-404.http": page}), config("clients", map[string]string{"ca-bundle.pem": ca}),
		})
		checkSafeResult(t, r)
		if name == "clients" {
			return
		}
		if _, err := rendered(options, r); err != nil {
			t.Errorf("routers refuse it: %v", err)
		}
	})
}
