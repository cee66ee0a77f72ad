package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/tsuji-dev/tsuji/identity"
	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/kubetest"
)

// namespace is where everything is installed.
const namespace = "tsuji"

// startServer starts an API server with what all of deploy/ needs in a cluster.
func startServer(t *testing.T) *kubetest.Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "tjkube")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s, err := kubetest.Start(t.Context(), kubetest.Config{Dir: dir, Log: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// TestOnAnAPIServer tells the stories that share an API server.
func TestOnAnAPIServer(t *testing.T) {
	server := startServer(t)
	t.Run("it is installed", func(t *testing.T) { testInstall(t, server) })
	t.Run("the rights are enough", func(t *testing.T) { testRights(t, server) })
	t.Run("the Pods run", func(t *testing.T) { testPods(t, server) })
}

// An API server takes everything but what only cert-manager's would, twice with the same outcome, and in the form for
// OpenShift too.
func testInstall(t *testing.T, server *kubetest.Server) {
	kubectl(t, server, "", "create", "namespace", "openshift-ingress-operator")
	dir := edited(t, map[string]string{
		"openshift/kustomization.yaml": "resources: [../install]\ncomponents: [../components/openshift, ../components/beside]\n",
		"ports/kustomization.yaml":     "resources: [../install]\ncomponents: [../components/standard-ports]\n",
	})
	first := kubectl(t, server, "", "apply", "-k", manifests+"/install", "--server-side")
	for _, what := range []string{"deployment.apps/controlplane ", "deployment.apps/router-tok04 ", "deployment.apps/router-tok05 ", "zone.tsuji.dev/tok05 ", "poddisruptionbudget.policy/router-tok04 "} {
		if !strings.Contains(first, what) {
			t.Errorf("%s was not applied:\n%s", what, first)
		}
	}
	const versions = `-o=custom-columns=KIND:.kind,NAME:.metadata.name,VERSION:.metadata.resourceVersion`
	objects := []string{"get", "deploy,svc,pdb,sa,role,rolebinding", "-n", namespace, versions}
	before := kubectl(t, server, "", objects...)
	kubectl(t, server, "", "apply", "-k", manifests+"/install", "--server-side")
	if after := kubectl(t, server, "", objects...); after != before {
		t.Errorf("applied again, it is another:\n%s\n%s", before, after)
	}
	for _, name := range []string{"openshift", "ports"} {
		// Zones cannot change their IngressController, so what is tried is a cluster that has none.
		text := withoutZones(kubectl(t, nil, "", "kustomize", filepath.Join(dir, name)))
		kubectl(t, server, text, "apply", "--server-side", "--dry-run=server", "-f", "-")
	}
}

func withoutZones(text string) string {
	objects := strings.Split(text, "\n---\n")
	objects = slices.DeleteFunc(objects, func(o string) bool { return strings.HasPrefix(o, "apiVersion: tsuji.dev/") })
	return strings.Join(objects, "\n---\n")
}

// world is a cluster in which every right is used.
const world = `
{apiVersion: v1, kind: Namespace, metadata: {name: openshift-ingress}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: openshift-config}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Node, metadata: {name: node1, labels: {topology.kubernetes.io/zone: tok04}}}
---
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {ports: [{port: 80}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.64.0.1], nodeName: node1, conditions: {ready: true}}]
---
apiVersion: route.openshift.io/v1
kind: Route
metadata: {name: cart, namespace: shop}
spec:
  host: cart.example.com
  to: {kind: Service, name: cart}
  tls: {termination: edge, externalCertificate: {name: cart-tls}}
---
apiVersion: operator.openshift.io/v1
kind: IngressController
metadata: {name: default, namespace: openshift-ingress-operator}
spec:
  httpErrorCodePages: {name: pages}
  namespaceSelector: {matchExpressions: [{key: closed, operator: DoesNotExist}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: pages, namespace: openshift-config}
data: {error-page-503.http: "HTTP/1.0 503 Closed\r\n\r\nclosed"}
`

// A right is one verb on one kind.
type right struct{ group, resource, name, namespace, verb string }

func (r right) String() string { return r.verb + " " + r.resource }

// rightsOf returns what rules allow, one by one; namespace is that of a Role.
func rightsOf(namespace string, rules []rbacv1.PolicyRule) []right {
	var out []right
	for _, r := range rules {
		names := r.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, g := range r.APIGroups {
			for _, k := range r.Resources {
				for _, n := range names {
					for _, v := range r.Verbs {
						out = append(out, right{g, k, n, namespace, v})
					}
				}
			}
		}
	}
	return out
}

// grant makes a service account that has these rights and no other, and returns its kubeconfig when they are in force.
func grant(t *testing.T, server *kubetest.Server, account string, rights []right) string {
	t.Helper()
	var objects []string
	add := func(o any) {
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, string(text))
	}
	meta := metav1.ObjectMeta{Name: account, Namespace: namespace}
	add(map[string]any{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
	subject := []rbacv1.Subject{{Kind: "ServiceAccount", Name: account, Namespace: namespace}}
	byNamespace := map[string][]rbacv1.PolicyRule{}
	for _, r := range rights {
		rule := rbacv1.PolicyRule{APIGroups: []string{r.group}, Resources: []string{r.resource}, Verbs: []string{r.verb}}
		if r.name != "" {
			rule.ResourceNames = []string{r.name}
		}
		byNamespace[r.namespace] = append(byNamespace[r.namespace], rule)
	}
	for in, rules := range byNamespace {
		kind := "Role"
		if in == "" {
			kind = "ClusterRole"
		}
		m := metav1.ObjectMeta{Name: account, Namespace: in}
		add(rbacv1.Role{TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: kind}, ObjectMeta: m, Rules: rules})
		add(rbacv1.RoleBinding{
			TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: kind + "Binding"}, ObjectMeta: m, Subjects: subject,
			RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: kind, Name: account},
		})
	}
	kubectl(t, server, strings.Join(objects, "---\n"), "apply", "--server-side", "-f", "-")
	path, err := server.KubeconfigFor(namespace, account)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rights {
		eventually(t, account+" may "+r.String(), func() error { return may(t, path, r) })
	}
	return path
}

// may returns nil if whose kubeconfig it is has the right.
func may(t *testing.T, kubeconfig string, r right) error {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Resource(schema.GroupVersionResource{Group: "authorization.k8s.io", Version: "v1", Resource: "selfsubjectaccessreviews"}).
		Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
			"spec": map[string]any{"resourceAttributes": map[string]any{"group": r.group, "resource": r.resource, "verb": r.verb, "name": r.name, "namespace": r.namespace}},
		}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if allowed, _, _ := unstructured.NestedBool(answer.Object, "status", "allowed"); !allowed {
		return fmt.Errorf("%s is not allowed", r)
	}
	return nil
}

// A control plane with the rights of its service account, and those that docs/install.md adds for what Routes and
// IngressControllers refer to, reads the cluster without a fault and follows it. Without any one of them it has a fault
// that names the kind.
func testRights(t *testing.T, server *kubetest.Server) {
	certPEM, keyPEM := someCertificate(t)
	kubectl(t, server, world, "apply", "--server-side", "-f", "-")
	kubectl(t, server, secret("shop", "cart-tls", certPEM, keyPEM), "apply", "--server-side", "-f", "-")
	kubectl(t, server, secret("openshift-ingress", "apps-tls", certPEM, keyPEM), "apply", "--server-side", "-f", "-")
	kubectl(t, server, "", "patch", "ingresscontroller/default", "-n", "openshift-ingress-operator", "--type=merge", `-p={"spec":{"defaultCertificate":{"name":"apps-tls"}}}`)
	for _, command := range commands(t, "grants") {
		kubectl(t, server, "", strings.Fields(strings.TrimPrefix(command, "kubectl "))...)
	}

	var all []right
	all = append(all, rightsOf("", get[rbacv1.ClusterRole](t, server, "clusterrole", "", "tsuji-controlplane").Rules)...)
	for _, n := range [][2]string{{"shop", "tsuji-cart-tls"}, {"openshift-ingress", "tsuji-certificates"}, {"openshift-config", "tsuji-configmaps"}} {
		all = append(all, rightsOf(n[0], get[rbacv1.Role](t, server, "role", n[0], n[1]).Rules)...)
	}
	if want := 2 * (7 + 3); len(all) != want {
		t.Fatalf("there are %d rights, of which the story knows %d: %v", len(all), want, all)
	}

	t.Run("all of them", func(t *testing.T) {
		path, err := server.KubeconfigFor(namespace, "controlplane")
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			if err := may(t, path, r); err != nil {
				t.Error(err)
			}
		}
		if err := may(t, path, right{resource: "secrets", verb: "list"}); err == nil {
			t.Error("it may list every Secret")
		}
		testFollows(t, server, startControlPlane(t, path))
	})
	for i, lacking := range all {
		t.Run("all but "+strings.Trim(lacking.String()+" "+lacking.name, " "), func(t *testing.T) {
			t.Parallel()
			path := grant(t, server, fmt.Sprintf("lacking-%d", i), slices.Delete(slices.Clone(all), i, i+1))
			if err := may(t, path, lacking); err == nil {
				t.Fatal("it has the right all the same")
			}
			c := startControlPlane(t, path)
			eventually(t, "there is a fault", func() error {
				s := c.status(t)
				for _, f := range s.GetFaults() {
					if strings.Contains(f.GetMessage(), "forbidden") && strings.Contains(f.GetMessage(), lacking.resource) && strings.Contains(f.GetMessage(), "cannot "+lacking.verb) {
						return nil
					}
				}
				return fmt.Errorf("synced %v, faults %v", s.GetSynced(), s.GetFaults())
			})
		})
	}
}

// testFollows changes the cluster and sees the control plane follow, for every kind that anything is compiled from.
func testFollows(t *testing.T, server *kubetest.Server, c *controlPlane) {
	t.Helper()
	eventually(t, "the cluster is read without a fault", func() error {
		if s := c.status(t); !s.GetSynced() || len(s.GetFaults()) > 0 || s.GetRoutesAdmitted() != 1 {
			return fmt.Errorf("%v", s)
		}
		return nil
	})
	if s := c.compiled(t); !strings.Contains(s, "cart.example.com") || !strings.Contains(s, "tok04") || strings.Count(s, "BEGIN CERTIFICATE") != 2 {
		t.Errorf("the snapshot lacks something: %s", s)
	}
	otherCert, otherKey := someCertificate(t)
	for _, change := range []struct {
		what  string
		apply []string
		input string
	}{
		{"a Node", []string{"label", "node/node1", "topology.kubernetes.io/zone=tok05", "--overwrite"}, ""},
		{"an EndpointSlice", []string{"patch", "endpointslice/cart-1", "-n", "shop", "--type=merge", `-p={"endpoints":[{"addresses":["10.64.0.2"],"nodeName":"node1"}]}`}, ""},
		{"a Service", []string{"delete", "service/cart", "-n", "shop"}, ""},
		{"a Secret", []string{"apply", "--server-side", "-f", "-"}, secret("shop", "cart-tls", otherCert, otherKey)},
		{"a Route", []string{"patch", "route/cart", "-n", "shop", "--type=merge", `-p={"spec":{"path":"/cart"}}`}, ""},
		{"an IngressController", []string{"patch", "ingresscontroller/default", "-n", "openshift-ingress-operator", "--type=merge", `-p={"spec":{"tuningOptions":{"clientTimeout":"7s"}}}`}, ""},
		{"a Namespace", []string{"label", "namespace/shop", "closed=yes"}, ""},
	} {
		before := c.compiled(t)
		kubectl(t, server, change.input, change.apply...)
		eventually(t, "a change of "+change.what+" is compiled", func() error {
			if c.compiled(t) == before {
				return errors.New("it is as it was")
			}
			return nil
		})
	}
	kubectl(t, server, "", "label", "namespace/shop", "closed-")
	kubectl(t, server, world, "apply", "--server-side", "--force-conflicts", "-f", "-")
	if f := c.status(t).GetFaults(); len(f) > 0 {
		t.Errorf("faults: %v", f)
	}
}

// controlPlane is a control plane that runs, and a connection to it as an operator.
type controlPlane struct {
	conn *grpc.ClientConn
}

// slots bounds how many run at the same time.
var slots = make(chan struct{}, 3)

// startControlPlane starts one that follows the API server with that kubeconfig.
func startControlPlane(t *testing.T, kubeconfig string) *controlPlane {
	t.Helper()
	slots <- struct{}{}
	t.Cleanup(func() { <-slots })
	dir, err := os.MkdirTemp("", "tj") // short: there is a unix socket in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	files := certificates(t, dir)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	own := files["spiffe://tsuji.local/controlplane/controlplane"]
	cmd := exec.Command(bin+"/controlplane", "--source=kube", "--kubeconfig="+kubeconfig, "--listen=unix:"+dir+"/grpc", "--admin=127.0.0.1:0",
		"--tls-cert="+own.Cert, "--tls-key="+own.Key, "--client-ca="+own.CA)
	// Lists as they are from API servers that do not stream them yet: else nobody would miss the right to list.
	cmd.Env = append(os.Environ(), "KUBE_FEATURE_WatchListClient=false")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("the control plane's log:\n%s", text)
		}
	})
	return &controlPlane{conn: dial(t, "unix:"+dir+"/grpc", files["spiffe://tsuji.local/operator/admin"])}
}

// certificates writes those of a control plane and an operator, by their identities.
func certificates(t *testing.T, dir string) map[string]identity.Files {
	t.Helper()
	ca, err := authority.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]identity.Files{}
	for name, uri := range map[string]string{
		"controlplane": "spiffe://tsuji.local/controlplane/controlplane", "operator": "spiffe://tsuji.local/operator/admin",
	} {
		if out[uri], err = ca.WriteFiles(dir, name, authority.Options{URI: uri}); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// dial connects to a control plane.
func dial(t *testing.T, address string, files identity.Files) *grpc.ClientConn {
	t.Helper()
	k, err := identity.Load(files, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(k.ClientTLS("tsuji.local", func(identity.ID) error { return nil }))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (c *controlPlane) status(t *testing.T) *tsujiv1.GetStatusResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := tsujiv1.NewStatusServiceClient(c.conn).GetStatus(ctx, &tsujiv1.GetStatusRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// compiled returns what came of the cluster's objects, as text.
func (c *controlPlane) compiled(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := tsujiv1.NewSnapshotServiceClient(c.conn).GetSnapshot(ctx, &tsujiv1.GetSnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := tsujiv1.NewRouteServiceClient(c.conn).ListRoutes(ctx, &tsujiv1.ListRoutesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(s.GetSnapshot().GetVersion(), s.GetResources(), r.GetRoutes())
}

// get reads an object.
func get[T any](t *testing.T, server *kubetest.Server, kind, namespace, name string) T {
	t.Helper()
	args := []string{"get", kind, name, "-o", "yaml"}
	if namespace != "" {
		args = append(args, "-n", namespace)
	}
	var out T
	decode(t, kubectl(t, server, "", args...), &out, false)
	return out
}

// someCertificate returns a certificate for cart.example.com and its key.
func someCertificate(t *testing.T) (certPEM, keyPEM []byte) {
	t.Helper()
	ca, err := authority.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM, err = ca.Issue(authority.Options{DNSNames: []string{"cart.example.com"}, NotAfter: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	return certPEM, keyPEM
}

// secret is the manifest of one with a certificate.
func secret(namespace, name string, certPEM, keyPEM []byte) string {
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": map[string]any{"namespace": namespace, "name": name},
		"data": map[string]any{"tls.crt": certPEM, "tls.key": keyPEM},
	})
	if err != nil {
		panic(err) // of a map that is always the same
	}
	return string(text)
}

// commands returns the lines of the code block that follows the mark in docs/install.md.
func commands(t *testing.T, mark string) []string {
	t.Helper()
	text, err := os.ReadFile(root + "/docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(text), "<!-- tested: "+mark+" -->\n```sh\n")
	block, _, closed := strings.Cut(after, "```")
	if !ok || !closed {
		t.Fatalf("docs/install.md has no block marked %q", mark)
	}
	return strings.Split(strings.TrimSpace(strings.ReplaceAll(block, "\\\n", " ")), "\n")
}
