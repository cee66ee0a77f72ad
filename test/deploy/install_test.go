package deploy

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

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
	t.Run("its Pods are admitted", func(t *testing.T) { testPodSecurity(t, server) })
	t.Run("the rights are enough", func(t *testing.T) { testRights(t, server) })
	t.Run("the Pods run", func(t *testing.T) { testPods(t, server) })
}

// An API server that has no definitions gets them as docs/install.md says, and takes everything but what only
// cert-manager's would, twice with the same outcome, and in the form for OpenShift too.
func testInstall(t *testing.T, server *kubetest.Server) {
	kubectl(t, server, "", "delete", "crd", "--all") // from nothing
	for _, block := range []string{"route", "definitions", "ingresscontroller"} {
		shell(t, server, root, block)
	}
	dir := edited(t, map[string]string{
		"openshift/kustomization.yaml": "resources: [../install]\ncomponents: [../components/openshift, ../components/service-ca, ../components/beside]\n",
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
	zone := strings.Fields(kubectl(t, server, "", "apply", "-k", manifests+"/install", "--server-side", "-l", "tsuji.dev/zone=tok04", "-o", "name"))
	if want := []string{"service/router-tok04", "deployment.apps/router-tok04", "poddisruptionbudget.policy/router-tok04"}; !slices.Equal(zone, want) {
		t.Errorf("a zone by itself is %v, want %v", zone, want)
	}
	kubectl(t, server, `{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "openshift-ingress"}}`, "apply", "--server-side", "-f", "-") // as OpenShift has it
	for _, name := range []string{"openshift", "ports"} {
		// Zones cannot change their IngressController, so what is tried is a cluster that has none.
		text := withoutZones(kubectl(t, nil, "", "kustomize", filepath.Join(dir, name)))
		kubectl(t, server, text, "apply", "--server-side", "--dry-run=server", "-f", "-")
	}
}

// The namespace takes no Pod that is less than restricted, and takes those of every form of every Deployment.
func testPodSecurity(t *testing.T, server *kubetest.Server) {
	create := func(name string, spec corev1.PodSpec) error {
		text, err := yaml.Marshal(corev1.Pod{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Spec: spec,
		})
		if err != nil {
			return err
		}
		_, err = tryKubectl(t.Context(), server, string(text), "create", "--dry-run=server", "-f", "-")
		return err
	}
	for name, b := range everything(t) {
		for deployment, d := range b.deployments {
			spec := d.Spec.Template.Spec
			if err := create(deployment, spec); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			spec.Containers[0].SecurityContext = nil
			if err := create(deployment, spec); err == nil || !strings.Contains(err.Error(), `violates PodSecurity "restricted`) {
				t.Errorf("%s: a Pod of %s that is not restricted: %v", name, deployment, err)
			}
		}
	}
}

func withoutZones(text string) string {
	objects := strings.Split(text, "\n---\n")
	objects = slices.DeleteFunc(objects, func(o string) bool { return strings.HasPrefix(o, "apiVersion: tsuji.dev/") })
	return strings.Join(objects, "\n---\n")
}

// documented returns the code block that follows the mark in docs/install.md.
func documented(t *testing.T, mark string) string {
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
	return block
}

// shell runs the code block that follows the mark in docs/install.md, as administrator.
func shell(t *testing.T, server *kubetest.Server, dir, mark string) {
	t.Helper()
	block := documented(t, mark)
	kubectl, err := kubetest.Kubectl()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", block)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "KUBECONFIG="+server.Kubeconfig(), "PATH="+filepath.Dir(kubectl)+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("docs/install.md, %s: %v\n%s", mark, err, out)
	}
}
