package deploy

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/tsuji-dev/tsuji/identity"
)

// built is what a kustomization comes to.
type built struct {
	text        map[string]string // each object as YAML, by "Kind namespace/name"
	deployments map[string]*appsv1.Deployment
	services    map[string]*corev1.Service
	budgets     map[string]*policyv1.PodDisruptionBudget
	rules       map[string][]rbacv1.PolicyRule // by "Role name" and "ClusterRole name"
	accounts    map[string]*corev1.ServiceAccount
}

// build builds a kustomization, and decodes strictly what the tests look at.
func build(t testing.TB, dir string) built {
	t.Helper()
	b := built{
		text: map[string]string{}, deployments: map[string]*appsv1.Deployment{}, services: map[string]*corev1.Service{},
		budgets: map[string]*policyv1.PodDisruptionBudget{}, rules: map[string][]rbacv1.PolicyRule{}, accounts: map[string]*corev1.ServiceAccount{},
	}
	for _, text := range strings.Split(kubectl(t, nil, "", "kustomize", dir), "\n---\n") {
		var o metav1.PartialObjectMetadata
		decode(t, text, &o, false)
		id := fmt.Sprintf("%s %s/%s", o.Kind, o.Namespace, o.Name)
		if _, ok := b.text[id]; ok {
			t.Errorf("%s: %s is there twice", dir, id)
		}
		b.text[id] = text
		switch o.Kind {
		case "Deployment":
			b.deployments[o.Name] = decode(t, text, &appsv1.Deployment{}, true)
		case "Service":
			b.services[o.Name] = decode(t, text, &corev1.Service{}, true)
		case "PodDisruptionBudget":
			b.budgets[o.Name] = decode(t, text, &policyv1.PodDisruptionBudget{}, true)
		case "Role":
			b.rules["Role "+o.Name] = decode(t, text, &rbacv1.Role{}, true).Rules
		case "ClusterRole":
			b.rules["ClusterRole "+o.Name] = decode(t, text, &rbacv1.ClusterRole{}, true).Rules
		case "ServiceAccount":
			b.accounts[o.Name] = decode(t, text, &corev1.ServiceAccount{}, true)
		}
	}
	return b
}

func decode[T any](t testing.TB, text string, into *T, strict bool) *T {
	t.Helper()
	read := func() error { return yaml.Unmarshal([]byte(text), into) }
	if strict {
		read = func() error { return yaml.UnmarshalStrict([]byte(text), into) }
	}
	if err := read(); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return into
}

// whole are the kustomizations that are applied as they are.
var whole = []string{"install", "kubernetes", "openshift"}

// optional are components that nothing here uses: each is tried with install.
var optional = []string{"external-certificates", "service-ca", "standard-ports"}

// everything returns every kustomization that can be built, those with optional components included.
func everything(t *testing.T) map[string]built {
	t.Helper()
	files := map[string]string{}
	for _, c := range optional {
		files["with-"+c+"/kustomization.yaml"] = "resources: [../install]\ncomponents: [../components/" + c + "]\n"
	}
	dir := edited(t, files)
	all := map[string]built{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "kustomization.yaml" {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil && !strings.Contains(string(text), "\nkind: Component\n") {
			name, _ := filepath.Rel(dir, filepath.Dir(path))
			all[name] = build(t, filepath.Dir(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range whole {
		if _, ok := all[name]; !ok {
			t.Errorf("there is no %s", name)
		}
	}
	return all
}

// Nothing may do more than it must: the control plane reads, by kinds that are listed here; a router has no rights, and
// no token to have any with.
func TestRightsAreFew(t *testing.T) {
	for name, b := range everything(t) {
		for role, rules := range b.rules {
			for _, r := range rules {
				what := strings.Join(slices.Concat(r.APIGroups, r.Resources, r.Verbs, r.NonResourceURLs), " ")
				switch {
				case strings.Contains(what, "*"):
					t.Errorf("%s: %s allows %s: no wildcards", name, role, what)
				case role == "ClusterRole tsuji-controlplane":
					if !slices.Equal(r.Verbs, []string{"list", "watch"}) {
						t.Errorf("%s: %s allows %s: it only reads", name, role, what)
					}
					for _, kind := range r.Resources {
						if !slices.Contains([]string{"routes", "ingresses", "ingressclasses", "services", "endpointslices", "namespaces", "nodes", "ingresscontrollers", "zones"}, kind) {
							t.Errorf("%s: %s allows %s", name, role, what)
						}
					}
				case role == "ClusterRole tsuji-external-certificates":
					if what != "rbac.authorization.k8s.io roles rolebindings clusterroles clusterrolebindings list watch" {
						t.Errorf("%s: %s allows %s", name, role, what)
					}
				case role == "Role tsuji-service-ca":
					if what != " configmaps list watch" || !slices.Equal(r.ResourceNames, []string{"service-ca-bundle"}) {
						t.Errorf("%s: %s allows %s of %v", name, role, what, r.ResourceNames)
					}
				default:
					t.Errorf("%s: nobody expects %s", name, role)
				}
			}
		}
		for account, a := range b.accounts {
			if a.AutomountServiceAccountToken == nil || *a.AutomountServiceAccountToken {
				t.Errorf("%s: whoever uses service account %s gets its token", name, account)
			}
		}
		for deployment, d := range b.deployments {
			token := d.Spec.Template.Spec.AutomountServiceAccountToken
			if token == nil || *token != (deployment == "controlplane") {
				t.Errorf("%s: Deployment %s has automountServiceAccountToken %v", name, deployment, token)
			}
			if account := d.Spec.Template.Spec.ServiceAccountName; strings.HasPrefix(deployment, "router-") && account != "router" {
				t.Errorf("%s: Deployment %s runs as %s", name, deployment, account)
			}
		}
		if text := strings.Join(slices.Collect(maps.Values(b.text)), "\n"); strings.Contains(text, "serviceaccount:router") || strings.Contains(text, "kind: ServiceAccount\n  name: router\n") {
			t.Errorf("%s: something is bound to the routers' account", name)
		}
	}
}

// Every container is as restricted as a Pod can be, and on OpenShift it does not say who it is.
func TestPodsAreRestricted(t *testing.T) {
	for name, b := range everything(t) {
		for deployment, d := range b.deployments {
			spec := d.Spec.Template.Spec
			fail := func(format string, args ...any) {
				t.Helper()
				t.Errorf("%s: Deployment %s: "+format, append([]any{name, deployment}, args...)...)
			}
			pod := spec.SecurityContext
			if pod == nil || pod.RunAsNonRoot == nil || !*pod.RunAsNonRoot || pod.SeccompProfile == nil || pod.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				fail("its Pods may be root, or have no seccomp profile")
				continue
			}
			if spec.HostNetwork || spec.HostPID || spec.HostIPC || len(pod.SupplementalGroups) > 0 {
				fail("its Pods see the node")
			}
			said := pod.RunAsUser != nil && *pod.RunAsUser > 0 && pod.RunAsGroup != nil && pod.FSGroup != nil
			if openshift := name == "openshift"; said == openshift {
				fail("who it runs as is said: %v", said)
			}
			for _, v := range spec.Volumes {
				switch {
				case v.EmptyDir != nil, v.ConfigMap != nil:
				case v.Secret != nil:
					if v.Secret.DefaultMode == nil || *v.Secret.DefaultMode != 0o400 {
						fail("Secret %s can be read by others", v.Secret.SecretName)
					}
				default:
					fail("volume %s is of another kind", v.Name)
				}
			}
			for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
				s := c.SecurityContext
				if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
					s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 || s.Privileged != nil {
					fail("container %s is not restricted", c.Name)
					continue
				}
				// HAProxy is somebody else, but where the platform says who everybody is.
				own := s.RunAsUser != nil && *s.RunAsUser > 0 && *s.RunAsUser != *pod.RunAsUser && *s.RunAsGroup != *pod.RunAsGroup
				if own != (said && c.Name == "haproxy") {
					fail("container %s has a user of its own: %v", c.Name, own)
				}
				if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() {
					fail("container %s asks for no resources", c.Name)
				}
				// HAProxy's stats port tells whether the Pod is ready, and nobody ends HAProxy for it.
				ready := c.Name != "prepare" && (c.Name != "routerd" || !isRouter(d))
				if alive := c.Name != "prepare" && c.Name != "haproxy"; (c.ReadinessProbe != nil) != ready || (c.LivenessProbe != nil) != alive {
					fail("container %s is not probed as it should be", c.Name)
				}
				for _, p := range []*corev1.Probe{c.ReadinessProbe, c.LivenessProbe, c.StartupProbe} {
					if p != nil && !slices.ContainsFunc(c.Ports, func(port corev1.ContainerPort) bool { return port.Name == p.HTTPGet.Port.StrVal }) {
						fail("a probe asks port %s, which container %s does not have", p.HTTPGet.Port.String(), c.Name)
					}
				}
				for _, port := range c.Ports {
					sysctl := slices.Contains(pod.Sysctls, corev1.Sysctl{Name: "net.ipv4.ip_unprivileged_port_start", Value: "80"})
					if port.ContainerPort < 1024 && !sysctl || port.HostPort != 0 {
						fail("port %d takes a privilege", port.ContainerPort)
					}
				}
			}
		}
	}
}

func isRouter(d *appsv1.Deployment) bool { return strings.HasPrefix(d.Name, "router-") }

// containers are all that run for as long as a Pod does.
func containers(spec corev1.PodSpec) []corev1.Container {
	all := slices.Clone(spec.Containers)
	for _, c := range spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			all = append(all, c)
		}
	}
	return all
}

// What says who a router is, and what it keeps, is nowhere in the container that faces the clients: only routerd has the
// volumes with it. What HAProxy may write holds nothing but sockets, and little.
func TestHAProxyIsApart(t *testing.T) {
	for name, b := range everything(t) {
		for deployment, d := range b.deployments {
			if !isRouter(d) {
				continue
			}
			got := map[string]string{}
			for _, c := range slices.Concat(d.Spec.Template.Spec.InitContainers, d.Spec.Template.Spec.Containers) {
				for _, m := range c.VolumeMounts {
					got[c.Name] += fmt.Sprintf(" %s:%v", m.Name, map[bool]string{true: "ro", false: "rw"}[m.ReadOnly])
				}
				got[c.Name] = strings.TrimSuffix(got[c.Name], " serving:ro") // with components/service-ca
			}
			want := map[string]string{
				"prepare": " haproxy:rw sockets:rw", "haproxy": " haproxy:ro sockets:rw", "routerd": " tls:ro state:rw haproxy:rw sockets:rw",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: Deployment %s mounts: %s", name, deployment, diff)
			}
			if share := d.Spec.Template.Spec.ShareProcessNamespace; share != nil && *share {
				t.Errorf("%s: Deployment %s: HAProxy sees routerd's process", name, deployment)
			}
			for _, v := range d.Spec.Template.Spec.Volumes {
				if e := v.EmptyDir; e != nil && (e.Medium != corev1.StorageMediumMemory || e.SizeLimit == nil || v.Name == "sockets" && e.SizeLimit.Value() > 1<<20) {
					t.Errorf("%s: Deployment %s: volume %s is on the node's disk, or has no bound", name, deployment, v.Name)
				}
			}
		}
	}
}

// Pods are found by what is meant for them: Services and budgets select the Pods of the right Deployments, and each port
// that a Service names exists.
func TestWhoIsSelected(t *testing.T) {
	for _, name := range whole {
		b := build(t, filepath.Join(manifests, name))
		ingress := "default"
		if name == "openshift" {
			ingress = "tsuji"
		}
		routers := []string{"router-tok04", "router-tok05"}
		want := map[string][]string{
			"controlplane": {"controlplane"}, "router-tok04": routers[:1], "router-tok05": routers[1:],
			"router-" + ingress: routers, "router-internal-" + ingress: routers,
		}
		got := map[string][]string{}
		for service, s := range b.services {
			for deployment, d := range b.deployments {
				if !labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(d.Spec.Template.Labels)) {
					continue
				}
				got[service] = append(got[service], deployment)
				for _, p := range s.Spec.Ports {
					if !slices.ContainsFunc(containers(d.Spec.Template.Spec), func(c corev1.Container) bool {
						return slices.ContainsFunc(c.Ports, func(c corev1.ContainerPort) bool { return c.Name == p.TargetPort.StrVal })
					}) {
						t.Errorf("%s: Service %s sends to port %s, which %s does not have", name, service, p.TargetPort.String(), deployment)
					}
				}
			}
			slices.Sort(got[service])
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: what Services select: %s", name, d)
		}
		if ports := b.services["router-internal-"+ingress].Spec.Ports; len(ports) != 3 || ports[0].Port != 80 || ports[1].Port != 443 || ports[2].Port != 1936 {
			t.Errorf("%s: the internal Service has ports %v", name, ports)
		}
		for deployment, d := range b.deployments {
			p := b.budgets[deployment]
			if p == nil || !cmp.Equal(p.Spec.Selector, d.Spec.Selector) {
				t.Errorf("%s: Deployment %s has no budget of its own", name, deployment)
			}
			pod := labels.Set(d.Spec.Template.Labels)
			for _, c := range d.Spec.Template.Spec.TopologySpreadConstraints {
				if s, err := metav1.LabelSelectorAsSelector(c.LabelSelector); err != nil || s.Empty() || !s.Matches(pod) {
					t.Errorf("%s: Deployment %s is spread among Pods of others (%v)", name, deployment, err)
				}
			}
			for _, l := range []string{"name", "component", "part-of"} {
				if pod["app.kubernetes.io/"+l] == "" || d.Labels["app.kubernetes.io/"+l] == "" {
					t.Errorf("%s: Deployment %s has no label app.kubernetes.io/%s", name, deployment, l)
				}
			}
		}
		if b.services["controlplane"].Spec.ClusterIP != corev1.ClusterIPNone {
			t.Errorf("%s: the control plane's Service is not headless", name)
		}
		if *b.deployments["controlplane"].Spec.Replicas != 2 {
			t.Errorf("%s: the control plane has %d replicas", name, *b.deployments["controlplane"].Spec.Replicas)
		}
	}
}

// A router is given the time that it takes to end: routerd's delay, and an hour for HAProxy's connections after that.
func TestRoutersMayDrain(t *testing.T) {
	for name, d := range build(t, filepath.Join(manifests, "install")).deployments {
		args := strings.Join(d.Spec.Template.Spec.Containers[0].Args, " ")
		if name != "controlplane" && (!strings.Contains(args, "--shutdown-delay=45s") || *d.Spec.Template.Spec.TerminationGracePeriodSeconds < 3600+45) {
			t.Errorf("%s has %d s to end, and %s", name, *d.Spec.Template.Spec.TerminationGracePeriodSeconds, args)
		}
	}
}

// Two zones differ in their name and their order, and a third takes a folder of ten lines.
func TestAZoneIsAFolder(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(manifests, "zones", "tok05", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	rename := func(s string) string { return strings.ReplaceAll(s, "tok05", "eu-west-1c") }
	folder := map[string]string{
		"zones/eu-west-1c/kustomization.yaml": rename(read("kustomization.yaml")),
		"zones/eu-west-1c/zone.yaml":          rename(read("zone.yaml")),
		"more/kustomization.yaml":             "resources: [../install, ../zones/eu-west-1c]\ncomponents: [../components/cert-manager]\nnamespace: tsuji\n",
	}
	if lines := strings.Count(read("kustomization.yaml")+read("zone.yaml"), "\n"); lines > 10 {
		t.Errorf("a zone takes %d lines", lines)
	}
	dir := edited(t, folder)
	tok05 := build(t, dir+"/zones/tok05").text
	for zone, order := range map[string]string{"tok04": "order: 1", "eu-west-1c": "order: 2"} {
		want := map[string]string{}
		for id, text := range tok05 {
			text = strings.ReplaceAll(text, "order: 2", order)
			want[strings.ReplaceAll(id, "tok05", zone)] = strings.ReplaceAll(text, "tok05", zone)
		}
		if d := cmp.Diff(want, build(t, dir+"/zones/"+zone).text); d != "" {
			t.Errorf("zone %s is not as tok05 is: %s", zone, d)
		}
	}
	// cert-manager's component finds the new zone by itself.
	text := build(t, dir+"/more").text["Certificate tsuji/router-eu-west-1c"]
	if !strings.Contains(text, "- spiffe://tsuji.local/ingress/default/zone/eu-west-1c\n") {
		t.Errorf("the new zone's certificate: %s", text)
	}
}

// Each Secret that a Pod mounts is one that cert-manager makes, for the identity that the Pod claims.
func TestEveryPodHasACertificate(t *testing.T) {
	for name, ingress := range map[string]string{"kubernetes": "default", "openshift": "tsuji"} {
		b := build(t, filepath.Join(manifests, name))
		uris := map[string]string{}
		for id, text := range b.text {
			if !strings.HasPrefix(id, "Certificate ") {
				continue
			}
			c := decode(t, text, &certificate{}, true)
			if c.Spec.IsCA {
				continue
			}
			if len(c.Spec.URIs) != 1 {
				t.Errorf("%s: %s has names %v: an identity is exactly one", name, id, c.Spec.URIs)
				continue
			}
			uris[c.Spec.SecretName] = c.Spec.URIs[0]
			if ends, slack := c.Spec.Duration.Duration, c.Spec.RenewBefore.Duration; ends > 10*day || slack < 7*day || slack >= ends {
				t.Errorf("%s: %s ends after %v, and is renewed %v before: who steals one has it for days, and "+
					"cert-manager may be away for a week", name, id, ends, slack)
			}
			if _, ok := b.text["Issuer tsuji/"+c.Spec.IssuerRef.Name]; !ok || c.Namespace != "tsuji" {
				t.Errorf("%s: nobody issues %s", name, id)
			}
		}
		want := map[string]string{
			"controlplane-tls": "spiffe://tsuji.local/controlplane/controlplane", "operator-tls": "spiffe://tsuji.local/operator/admin",
			"router-tok04-tls": "spiffe://tsuji.local/ingress/" + ingress + "/zone/tok04", "router-tok05-tls": "spiffe://tsuji.local/ingress/" + ingress + "/zone/tok05",
		}
		if d := cmp.Diff(want, uris); d != "" {
			t.Errorf("%s: certificates: %s", name, d)
		}
		for deployment, d := range b.deployments {
			for _, v := range d.Spec.Template.Spec.Volumes {
				if v.Secret != nil && v.Secret.SecretName != deployment+"-tls" {
					t.Errorf("%s: Deployment %s mounts Secret %s", name, deployment, v.Secret.SecretName)
				}
			}
		}
	}
	for id := range build(t, filepath.Join(manifests, "install")).text {
		if strings.HasPrefix(id, "Certificate ") {
			t.Errorf("install has %s, and must do without cert-manager", id)
		}
	}
}

// With components/pod-certificates a router's certificate has its name, is in no Secret, and ends within days.
func TestEveryRouterHasACertificateOfItsOwn(t *testing.T) {
	const component = "components/zone, ../../components/pod-certificates]"
	for ingress, all := range map[string]string{"default": "kubernetes", "tsuji": "openshift"} {
		folder := map[string]string{}
		for _, zone := range []string{"tok04", "tok05"} {
			for name, edit := range map[string][2]string{
				"kustomization.yaml": {"components/zone]", component},
				"zone.yaml":          {"ingressController: default", "ingressController: " + ingress},
			} {
				path := filepath.Join("zones", zone, name)
				text, err := os.ReadFile(filepath.Join(manifests, path))
				if err != nil || !strings.Contains(string(text), edit[0]) {
					t.Fatalf("%s: %v, want %q in it", path, err, edit[0])
				}
				folder[path] = strings.Replace(string(text), edit[0], edit[1], 1)
			}
		}
		b := build(t, filepath.Join(edited(t, folder), all))
		for _, zone := range []string{"tok04", "tok05"} {
			deployment := "router-" + zone
			if text, ok := b.text["Certificate tsuji/"+deployment]; ok {
				t.Errorf("%s: the zone has a certificate that its routers share: %s", all, text)
			}
			pod := b.deployments[deployment].Spec.Template.Spec
			at := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == "tls" })
			if at < 0 || pod.Volumes[at].CSI == nil || pod.Volumes[at].Secret != nil {
				t.Fatalf("%s: %s has the volumes %v", all, deployment, pod.Volumes)
			}
			of := pod.Volumes[at].CSI.VolumeAttributes
			uri := strings.ReplaceAll(of["csi.cert-manager.io/uri-sans"], "${POD_NAME}", deployment+"-5d4f-x")
			got, err := identity.Parse(uri, "tsuji.local")
			want := identity.ID{
				TrustDomain: "tsuji.local", Role: identity.RoleRouter, IngressController: ingress, Zone: zone, Name: deployment + "-5d4f-x",
			}
			if err != nil || got != want {
				t.Errorf("%s: a router of %s is %v (%v), want %v", all, zone, got, err, want)
			}
			ends, err := time.ParseDuration(of["csi.cert-manager.io/duration"])
			if err != nil || ends > 3*day {
				t.Errorf("%s: a certificate ends after %v (%v)", all, ends, err)
			}
			if _, ok := b.text["Issuer tsuji/"+of["csi.cert-manager.io/issuer-name"]]; !ok {
				t.Errorf("%s: nobody issues certificates for %s: %v", all, zone, of)
			}
		}
	}
}

const day = 24 * time.Hour

// certificate is what cert-manager understands of one, as far as it is used.
type certificate struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		SecretName  string                      `json:"secretName"`
		IssuerRef   struct{ Kind, Name string } `json:"issuerRef"`
		CommonName  string                      `json:"commonName"`
		IsCA        bool                        `json:"isCA"`
		URIs        []string                    `json:"uris"`
		DNSNames    []string                    `json:"dnsNames"`
		Usages      []string                    `json:"usages"`
		Duration    metav1.Duration             `json:"duration"`
		RenewBefore metav1.Duration             `json:"renewBefore"`
		PrivateKey  struct {
			Algorithm      string `json:"algorithm"`
			Size           int    `json:"size"`
			RotationPolicy string `json:"rotationPolicy"`
		} `json:"privateKey"`
	} `json:"spec"`
}
