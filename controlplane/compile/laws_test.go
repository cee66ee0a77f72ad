package compile_test

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	configv1 "github.com/openshift/api/config/v1"
	operatorv1 "github.com/openshift/api/operator/v1"
	routev1 "github.com/openshift/api/route/v1"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// world is a compiler with the verdicts that it reported, and the objects that it was told of.
type world struct {
	compiler *compile.Compiler
	last     compile.Result
	verdicts map[cluster.Key]*tsujiv1.RouteVerdict
	objects  map[cluster.Key]metav1.Object
	holds    compile.Holds
	history  []snapshot.Snapshot // of all Applies
}

func newWorld(reader ...cluster.Reader) *world {
	var c compile.Config
	if len(reader) > 0 {
		c.ExternalCertificateReader = reader[0]
	}
	return &world{
		compiler: compile.New(c),
		verdicts: map[cluster.Key]*tsujiv1.RouteVerdict{}, objects: map[cluster.Key]metav1.Object{},
	}
}

func (w *world) apply(changes ...cluster.Change) {
	for _, c := range changes {
		if c.Object == nil {
			delete(w.objects, c.Key)
		} else {
			w.objects[c.Key] = c.Object
		}
	}
	w.last = w.compiler.Apply(changes)
	w.history = append(w.history, snapshot.New(0, w.last.Config, w.last.Facts))
	for _, v := range w.last.Verdicts {
		w.verdicts[cluster.Key{Kind: cluster.Route, Namespace: v.GetNamespace(), Name: v.GetName()}] = v
	}
	for _, k := range w.last.Removed {
		delete(w.verdicts, k)
	}
}

// drain applies until nothing is left for later.
func (w *world) drain() {
	for w.last.Later > 0 {
		w.apply()
	}
}

// hold has routers refuse some of what was compiled last, and forgets some of what they refused before.
func (w *world) hold(t *rapid.T) {
	next := compile.Holds{Resources: maps.Clone(w.holds.Resources), Namespaces: map[string]compile.Hold{}}
	if next.Resources == nil {
		next.Resources = map[string]compile.Hold{}
	}
	for _, name := range slices.Sorted(maps.Keys(next.Resources)) {
		if pick(t, "forget "+name, false, false, true) {
			delete(next.Resources, name)
		}
	}
	now := w.history[len(w.history)-1].Sorted()
	good := func() snapshot.Snapshot {
		return pick(t, "good", append(slices.Clone(w.history), snapshot.Snapshot{})...)
	}
	refuse := func(i snapshot.Item) {
		h := compile.Hold{Refused: i.Digest(), Any: pick(t, "any", false, false, true), Good: good(), Told: &tsujiv1.Quarantine{Message: "no"}}
		if g, ok := h.Good.Get(i.Name()); ok && g.Digest() == i.Digest() {
			h.Good = snapshot.Snapshot{} // it is not good
		}
		next.Resources[i.Name()] = h
	}
	for range rapid.IntRange(0, 3).Draw(t, "refused") {
		if len(now) > 0 {
			refuse(pick(t, "refused item", now...))
		}
	}
	if i, ok := w.last.Config.Get(tsujiv1.SettingsName); ok && pick(t, "settings", false, false, false, true) {
		refuse(i)
	}
	for _, namespace := range []string{"ns1", "ns2", "openshift-ingress", "openshift-config"} {
		if pick(t, "namespace", false, false, false, true) {
			next.Namespaces[namespace] = compile.Hold{Any: true, Endpoints: pick(t, "endpoints", false, true), Good: good(), Told: &tsujiv1.Quarantine{Message: "too many"}}
		}
	}
	w.holds = next
	w.compiler.Hold(next)
}

// Whatever happened, and in whatever order and portions: snapshot and verdicts are those of compiling what
// there is now from nothing, with what is held and was kept. Every reference has its fact, and no fact is without a
// reference.
func TestIncrementalEqualsFromNothing(t *testing.T) {
	t.Parallel()
	u := newUniverse(t)
	rapid.Check(t, func(t *rapid.T) {
		reader := pick(t, "reader", cluster.Reader{}, router, router)
		w := newWorld(reader)
		w.compiler = compile.New(compile.Config{
			ExternalCertificateReader: reader, Most: rapid.IntRange(0, 2).Draw(t, "most"),
		})
		w.apply()
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			var changes []cluster.Change
			for range rapid.IntRange(1, 3).Draw(t, "changes") {
				changes = append(changes, u.change(t))
			}
			if pick(t, "refusals", false, false, true) {
				w.hold(t)
			}
			w.apply(changes...)
			checkReferences(t, w.last)
			checkClaims(t, w)
			checkSafeResult(t, w.last)
		}
		w.drain()
		fresh, all := fromNothing(t, w, reader)
		equal(t, w, fresh)

		// Nothing new: the very same sets, and no verdicts.
		before := w.last
		w.apply(all...)
		if w.last.Config != before.Config || w.last.Facts != before.Facts || len(w.last.Verdicts)+len(w.last.Removed) > 0 {
			t.Errorf("unchanged objects changed something: %v %v", w.last.Verdicts, w.last.Removed)
		}

		// And back to nothing.
		for _, o := range slices.Collect(maps.Values(w.objects)) {
			w.apply(gone(o))
		}
		empty := newWorld(reader)
		empty.compiler.Hold(w.holds)
		empty.apply()
		equal(t, w, empty)
	})
}

// fromNothing compiles what w has now, with what it kept, in some order. If no Route uses any of that, it comes in
// portions, and what says what is to be kept with the first.
func fromNothing(t *rapid.T, w *world, reader ...cluster.Reader) (fresh *world, all []cluster.Change) {
	t.Helper()
	fresh = newWorld(reader...)
	kept := w.compiler.Kept()
	fresh.compiler = compile.New(compile.Config{ExternalCertificateReader: append(reader, cluster.Reader{})[0], Kept: kept})
	fresh.compiler.Hold(w.holds)
	for _, o := range w.objects {
		all = append(all, put(o))
	}
	order := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0))
	slices.SortFunc(all, func(a, b cluster.Change) int { return a.Key.Compare(b.Key) })
	order.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if kept.InUse() > 0 {
		fresh.apply(all...)
		return fresh, all
	}
	slices.SortStableFunc(all, func(a, b cluster.Change) int { return cmp.Compare(lateness(a), lateness(b)) })
	first := 0
	for first < len(all) && lateness(all[first]) == 0 {
		first++
	}
	portion := rapid.IntRange(1, 40).Draw(t, "portion")
	first = min(first+portion, len(all))
	fresh.apply(all[:first]...)
	for c := range slices.Chunk(all[first:], portion) {
		fresh.apply(c...)
	}
	return fresh, all
}

func lateness(c cluster.Change) int {
	if c.Key.Kind == cluster.IngressController {
		return 0
	}
	return 1
}

// The same in a world of what Settings refer to and nothing else, where much of it is kept; and whatever happened, no
// default certificate and no CA of clients goes while the IngressController names one.
func TestKeptIsAnInput(t *testing.T) {
	t.Parallel()
	u := newUniverse(t)
	stayed := 0
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		w.apply()
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			before := settingsIn(t, w.last)
			o := pick(t, "kind", u.defaultSecret, u.configMap, u.configMap, u.ingressController)(t)
			c := put(o)
			if c.Key.Kind != cluster.IngressController && pick(t, "gone", false, false, true) {
				c = gone(o)
			}
			w.apply(c)
			checkReferences(t, w.last)
			now := settingsIn(t, w.last)
			if c.Key.Kind == cluster.IngressController {
				continue
			}
			if before.GetDefaultCertificate() != "" && now.GetDefaultCertificate() == "" || before.GetClientTls().GetCa() != "" && now.GetClientTls().GetCa() == "" {
				t.Errorf("%v took what is referred to away", c.Key)
			}
			if c.Object == nil && now.GetDefaultCertificate()+now.GetClientTls().GetCa() != "" && len(w.last.Faults) > 0 {
				stayed++
			}
		}
		fresh, _ := fromNothing(t, w)
		equal(t, w, fresh)
	})
	if stayed == 0 {
		t.Error("nothing was ever kept")
	}
}

// defaultSecret is one that may be the default certificate.
func (u universe) defaultSecret(t *rapid.T) metav1.Object {
	s := u.secret(t)
	s.SetNamespace("openshift-ingress")
	return s
}

func settingsIn(t *rapid.T, r compile.Result) *tsujiv1.Settings {
	t.Helper()
	item, _ := r.Config.Get(tsujiv1.SettingsName)
	res, err := tsujiv1.Decode(item)
	if err != nil {
		t.Fatal(err)
	}
	return res.GetSettings()
}

func equal(t *rapid.T, got, want *world) {
	t.Helper()
	if got.last.Config.Digest() != want.last.Config.Digest() || got.last.Facts.Digest() != want.last.Facts.Digest() {
		t.Errorf("resources differ:\n%v\n%v", names(got.last), names(want.last))
	}
	if !slices.Equal(got.last.Faults, want.last.Faults) {
		t.Errorf("faults differ:\n%v\n%v", got.last.Faults, want.last.Faults)
	}
	for k, v := range want.verdicts {
		if !proto.Equal(got.verdicts[k], v) {
			t.Errorf("verdicts on %s differ:\n%v\n%v", k, got.verdicts[k], v)
		}
	}
	if !slices.Equal(got.last.Ended, want.last.Ended) {
		t.Errorf("ended is %v, want %v", got.last.Ended, want.last.Ended)
	}
	if len(got.verdicts) != len(want.verdicts) {
		t.Errorf("%d verdicts, want %d", len(got.verdicts), len(want.verdicts))
	}
}

func checkReferences(t *rapid.T, r compile.Result) {
	t.Helper()
	used := map[string]bool{}
	use := func(name string) {
		if name == "" {
			return
		}
		used[name] = true
		if _, ok := r.Facts.Get(name); !ok {
			t.Errorf("%s is referred to and does not exist", name)
		}
	}
	for i := range r.Config.All() {
		res, err := tsujiv1.Decode(i)
		if err != nil {
			t.Fatal(err)
		}
		use(res.GetSettings().GetDefaultCertificate())
		use(res.GetSettings().GetClientTls().GetCa())
		use(res.GetRoute().GetCertificate())
		use(res.GetRoute().GetDestinationTls().GetCa())
		for _, b := range res.GetRoute().GetBackends() {
			use(b.GetEndpoints())
		}
	}
	for i := range r.Facts.All() {
		if !used[i.Name()] {
			t.Errorf("%s is not referred to", i.Name())
		}
	}
}

// No two Routes have one host and path, no host is of two namespaces unless it may be, none has passthrough
// and other TLS at once.
func checkClaims(t *rapid.T, w *world) {
	t.Helper()
	strict := true
	for _, o := range w.objects {
		if ic, ok := o.(*operatorv1.IngressController); ok && ic.Spec.RouteAdmission != nil {
			strict = strict && ic.Spec.RouteAdmission.NamespaceOwnership != operatorv1.InterNamespaceAllowedOwnershipCheck
		}
	}
	byHost := map[string][]*tsujiv1.Route{}
	for i := range w.last.Config.All() {
		res, err := tsujiv1.Decode(i)
		if err != nil {
			t.Fatal(err)
		}
		r := res.GetRoute()
		if r == nil {
			continue
		}
		host := r.GetHost()
		if r.GetWildcard() {
			_, parent, _ := strings.Cut(host, ".")
			host = "*." + parent
		}
		for _, o := range byHost[host] {
			passthrough := tsujiv1.Termination_TERMINATION_PASSTHROUGH
			switch a, b := o.GetTermination(), r.GetTermination(); {
			case o.GetPath() == r.GetPath() && o.GetExact() == r.GetExact():
				t.Errorf("%v and %v have one path", o, r)
			case strict && o.GetNamespace() != r.GetNamespace():
				t.Errorf("%v and %v have one host", o, r)
			case a != b && (a == passthrough && b != tsujiv1.Termination_TERMINATION_INSECURE || b == passthrough && a != tsujiv1.Termination_TERMINATION_INSECURE):
				t.Errorf("%v and %v mix passthrough with other TLS", o, r)
			}
		}
		byHost[host] = append(byHost[host], r)
	}
}

// universe draws changes from a world so small that everything gets into the way of everything.
type universe struct{ certs map[string]string }

func newUniverse(t testing.TB) universe {
	u := universe{certs: map[string]string{}}
	for _, n := range []string{"leaf.crt", "leaf.key", "renewed.crt", "renewed.key", "ca.crt", "other-ca.crt"} {
		u.certs[n] = readCert(t, n)
	}
	return u
}

func pick[T any](t *rapid.T, label string, of ...T) T { return rapid.SampledFrom(of).Draw(t, label) }

func (u universe) change(t *rapid.T) cluster.Change {
	o := pick(t, "kind", u.route, u.route, u.route, u.service, u.slice, u.secret, u.configMap, u.namespace, u.ingressController, u.ingress, u.ingress, u.ingressClass, u.ingressConfig, u.role, u.binding)(t)
	if pick(t, "gone", false, false, false, true) {
		return gone(o)
	}
	return put(o)
}

func (u universe) ingressConfig(t *rapid.T) metav1.Object {
	c := &configv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: "cluster"}}
	for range pick(t, "policies", 0, 1, 2) {
		p := configv1.RequiredHSTSPolicy{DomainPatterns: []string{pick(t, "domain", "*.w.example.com", "c.example.com", "[")}}
		if pick(t, "by namespace", false, true) {
			p.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"shard": pick(t, "of", "a", "b")}}
		}
		c.Spec.RequiredHSTSPolicies = append(c.Spec.RequiredHSTSPolicies, p)
	}
	return c
}

func meta(t *rapid.T, names ...string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: pick(t, "namespace", "ns1", "ns2"), Name: pick(t, "name", names...)}
}

func (u universe) route(t *rapid.T) metav1.Object {
	r := &routev1.Route{ObjectMeta: meta(t, "r1", "r2", "r3", madeOfI1)}
	if of := pick(t, "made of", "", "", "", "i1", "i2"); of != "" {
		r.OwnerReferences = []metav1.OwnerReference{{APIVersion: "networking.k8s.io/v1", Kind: "Ingress", Name: of, Controller: new(true)}}
	}
	r.UID = types.UID(pick(t, "uid", "", "a", "b"))
	if age := pick(t, "age", 0, 1, 2, 3); age > 0 {
		r.CreationTimestamp = metav1.NewTime(time.Unix(int64(age)*1000, 0))
	}
	r.Labels = map[string]string{"shard": pick(t, "shard", "a", "b")}
	r.Annotations = pick(t, "annotations", nil, nil, map[string]string{"haproxy.router.openshift.io/timeout": "5s"}, map[string]string{"haproxy.router.openshift.io/hsts_header": "max-age=1"},
		map[string]string{"haproxy.router.openshift.io/timeout": "5s\n"})
	r.Spec.Host = pick(t, "host", "a.w.example.com", "b.w.example.com", "c.example.com", "c.example.com", "", "BAD")
	r.Spec.Subdomain = pick(t, "subdomain", "", "c")
	r.Spec.Path = pick(t, "path", "", "", "/", "/p", "wrong")
	r.Spec.WildcardPolicy = pick(t, "wildcard", routev1.WildcardPolicyNone, "", routev1.WildcardPolicySubdomain)
	r.Spec.To = routev1.RouteTargetReference{Kind: "Service", Name: pick(t, "to", "s1", "s2")}
	if pick(t, "alternate", false, true) {
		r.Spec.AlternateBackends = []routev1.RouteTargetReference{{Kind: "Service", Name: pick(t, "other", "s1", "s2")}}
	}
	if p := pick(t, "port", "", "http", "8080"); p != "" {
		r.Spec.Port = &routev1.RoutePort{TargetPort: intstr.Parse(p)}
	}
	r.Spec.TLS = pick(t, "tls",
		nil, nil,
		&routev1.TLSConfig{Termination: routev1.TLSTerminationEdge},
		&routev1.TLSConfig{Termination: routev1.TLSTerminationEdge, Certificate: u.certs["leaf.crt"], Key: u.certs["leaf.key"]},
		&routev1.TLSConfig{Termination: routev1.TLSTerminationEdge, Certificate: u.certs["leaf.crt"], Key: "broken"},
		&routev1.TLSConfig{Termination: routev1.TLSTerminationEdge, ExternalCertificate: &routev1.LocalObjectReference{Name: "t1"}},
		&routev1.TLSConfig{Termination: routev1.TLSTerminationEdge, CACertificate: u.certs["ca.crt"], ExternalCertificate: &routev1.LocalObjectReference{Name: "t1"}},
		&routev1.TLSConfig{Termination: routev1.TLSTerminationReencrypt, DestinationCACertificate: u.certs["other-ca.crt"]},
		&routev1.TLSConfig{Termination: routev1.TLSTerminationReencrypt},
		&routev1.TLSConfig{Termination: routev1.TLSTerminationReencrypt},
		&routev1.TLSConfig{Termination: routev1.TLSTerminationPassthrough},
	)
	return r
}

func (u universe) service(t *rapid.T) metav1.Object {
	s := &corev1.Service{ObjectMeta: meta(t, "s1", "s2")}
	s.Spec.IPFamilies = pick(t, "families", nil, []corev1.IPFamily{corev1.IPv4Protocol},
		[]corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol})
	s.Spec.ClusterIP = pick(t, "clusterIP", "10.1.0.1", "10.1.0.2", corev1.ClusterIPNone)
	s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: pick(t, "port", int32(80), 8080), TargetPort: intstr.FromInt32(8080)}}
	if pick(t, "idled", false, true) {
		s.Annotations = map[string]string{"idling.alpha.openshift.io/idled-at": "then"}
	}
	return s
}

// configMap is what may be used for everything.
func (u universe) configMap(t *rapid.T) metav1.Object {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "openshift-config", Name: pick(t, "name", "m1", "m2")}}
	if pick(t, "service CA", false, true) {
		m.Namespace, m.Name = "openshift-ingress", "service-ca-bundle"
	}
	ca := pick(t, "ca", "", "broken", u.certs["ca.crt"], u.certs["other-ca.crt"])
	m.Data = map[string]string{
		"ca-bundle.pem": ca, "service-ca.crt": ca, "crl.pem": pick(t, "lists", "", "", "broken"),
		"error-page-503.http": pick(t, "page", "", "HTTP/1.1 503 Sorry\r\n\r\nlater", "sorry"),
	}
	return m
}

func (u universe) slice(t *rapid.T) metav1.Object {
	s := &discoveryv1.EndpointSlice{ObjectMeta: meta(t, "e1", "e2", "e3")}
	if n := pick(t, "service", "s1", "s1", "s2", ""); n != "" {
		s.Labels = map[string]string{discoveryv1.LabelServiceName: n}
	}
	addresses := []string{"10.0.0.1", "10.0.0.2", "127.0.0.1"}
	if s.AddressType = discoveryv1.AddressTypeIPv4; pick(t, "family", 4, 4, 6) == 6 {
		s.AddressType, addresses = discoveryv1.AddressTypeIPv6, []string{"fd00::1", "fd00::2"}
	}
	name, port := pick(t, "portname", "http", "admin", ""), pick(t, "number", int32(8080), 9090)
	s.Ports = []discoveryv1.EndpointPort{{Name: &name, Port: &port}}
	for range pick(t, "endpoints", 0, 1, 2) {
		ready, zone := pick(t, "ready", true, false), pick(t, "zone", "tok04", "tok05", "")
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{pick(t, "address", addresses...)},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Terminating: pick(t, "terminating", nil, new(bool))},
			Zone:       &zone,
			TargetRef:  pick(t, "target", nil, &corev1.ObjectReference{Kind: "Pod", Name: "p1"}),
		})
	}
	return s
}

func (u universe) secret(t *rapid.T) metav1.Object {
	s := &corev1.Secret{ObjectMeta: meta(t, "t1", "t2"), Type: corev1.SecretTypeTLS}
	if pick(t, "ingress", false, true) {
		s.Namespace = "openshift-ingress"
	}
	crt := pick(t, "pair", "leaf", "renewed", "broken", "opaque")
	switch crt {
	case "opaque":
		s.Type = corev1.SecretTypeOpaque
		crt = "leaf"
	case "broken":
		s.Data = map[string][]byte{"tls.crt": []byte("broken")}
		return s
	}
	s.Data = map[string][]byte{"tls.crt": []byte(u.certs[crt+".crt"]), "tls.key": []byte(u.certs[crt+".key"])}
	return s
}

// router is OpenShift's.
var router = cluster.Reader{Namespace: "openshift-ingress", Name: "router"}

// role is a Role or a ClusterRole.
func (u universe) role(t *rapid.T) metav1.Object {
	rules := pick(t, "rules", nil,
		[]rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}},
		[]rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "list", "watch"}, ResourceNames: []string{"t1"}}},
		[]rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}},
			{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"watch"}},
		})
	if pick(t, "cluster role", false, true) {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: pick(t, "name", "o1", "o2")}, Rules: rules}
	}
	return &rbacv1.Role{ObjectMeta: meta(t, "o1", "o2"), Rules: rules}
}

// binding is a RoleBinding or a ClusterRoleBinding.
func (u universe) binding(t *rapid.T) metav1.Object {
	subjects := []rbacv1.Subject{pick(t, "subject",
		rbacv1.Subject{Kind: "ServiceAccount", Namespace: "openshift-ingress", Name: "router"},
		rbacv1.Subject{Kind: "ServiceAccount", Name: "router"},
		rbacv1.Subject{Kind: "Group", Name: "system:authenticated"})}
	role := rbacv1.RoleRef{Kind: pick(t, "of", "Role", "ClusterRole"), Name: pick(t, "role", "o1", "o2")}
	if pick(t, "cluster binding", false, true) {
		return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: pick(t, "name", "b1", "b2")}, Subjects: subjects, RoleRef: role}
	}
	return &rbacv1.RoleBinding{ObjectMeta: meta(t, "b1", "b2"), Subjects: subjects, RoleRef: role}
}

func (u universe) namespace(t *rapid.T) metav1.Object {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: pick(t, "namespace", "ns1", "ns2"), Labels: map[string]string{"env": pick(t, "env", "test", "production")},
	}}
}

func (u universe) ingressController(t *rapid.T) metav1.Object {
	ic := &operatorv1.IngressController{ObjectMeta: metav1.ObjectMeta{
		Namespace: pick(t, "place", "openshift-ingress-operator", "elsewhere"), Name: pick(t, "name", "default", "default", "other"),
	}}
	ic.Spec.Domain = pick(t, "domain", "", "example.com")
	ic.Annotations = map[string]string{
		"tsuji.dev/hostname-template": pick(t, "template", "", "", "${name}.w.example.com", "$namespace.example.com", "${project}"),
		"tsuji.dev/override-hostname": pick(t, "override", "", "", "true", "maybe"),
		"tsuji.dev/override-domains":  pick(t, "overridden", "", "", "w.example.com", "example.com"),
		"tsuji.dev/allowed-domains":   pick(t, "allowed", "", "", "", "w.example.com", "c.example.com,a.w.example.com", "-"),
		"tsuji.dev/denied-domains":    pick(t, "denied", "", "", "", "b.w.example.com", "*.w.example.com"),
	}
	ic.Spec.DefaultCertificate = pick(t, "default", nil, &corev1.LocalObjectReference{Name: "t1"}, &corev1.LocalObjectReference{Name: "t2"})
	ic.Spec.RouteSelector = pick(t, "routes", nil, nil, &metav1.LabelSelector{MatchLabels: map[string]string{"shard": "a"}})
	ic.Spec.NamespaceSelector = pick(t, "namespaces", nil, nil, &metav1.LabelSelector{MatchLabels: map[string]string{"env": "test"}})
	ic.Spec.RouteAdmission = pick(t, "admission", nil,
		&operatorv1.RouteAdmissionPolicy{WildcardPolicy: operatorv1.WildcardPolicyAllowed},
		&operatorv1.RouteAdmissionPolicy{WildcardPolicy: operatorv1.WildcardPolicyAllowed},
		&operatorv1.RouteAdmissionPolicy{NamespaceOwnership: operatorv1.InterNamespaceAllowedOwnershipCheck})
	ic.Spec.UnsupportedConfigOverrides.Raw = pick(t, "overrides", nil, nil, []byte(`{"loadBalancingAlgorithm":"leastconn"}`), []byte("["))
	ic.Spec.HttpErrorCodePages.Name = pick(t, "pages", "", "", "m1", "m2")
	if m := pick(t, "clients", "", "", "", "m1", "m2"); m != "" {
		ic.Spec.ClientTLS = operatorv1.ClientTLS{ClientCertificatePolicy: operatorv1.ClientCertificatePolicyRequired}
		ic.Spec.ClientTLS.ClientCA.Name = m
	}
	ic.Spec.TLSSecurityProfile = pick(t, "tls", nil, &configv1.TLSSecurityProfile{Type: configv1.TLSProfileModernType})
	return ic
}
