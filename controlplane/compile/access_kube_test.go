package compile_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/cluster/kube"
	"github.com/tsuji-dev/tsuji/test/kubetest"
)

// grants are what is said about reading Secret t, each in a namespace of its own, "NS".
var grants = map[string]string{
	"none":           "",
	"by-name":        aRole("[secrets]", "[get, list, watch]", ", resourceNames: [t]") + aBinding("Role", "r", router0),
	"another-name":   aRole("[secrets]", "[get, list, watch]", ", resourceNames: [u]") + aBinding("Role", "r", router0),
	"two-verbs":      aRole("[secrets]", "[get, list]", "") + aBinding("Role", "r", router0),
	"everything":     aRole(`["*"]`, `["*"]`, "") + aBinding("Role", "r", router0),
	"subresource":    aRole(`["secrets/status"]`, `["*"]`, "") + aBinding("Role", "r", router0),
	"no-role":        aBinding("Role", "r", router0),
	"no-binding":     aRole("[secrets]", "[get, list, watch]", ""),
	"another":        aRole("[secrets]", "[get, list, watch]", "") + aBinding("Role", "r", "{kind: ServiceAccount, namespace: NS, name: router}"),
	"cluster-role":   aBinding("ClusterRole", "secret-reader", router0),
	"user":           aBinding("ClusterRole", "secret-reader", `{kind: User, apiGroup: rbac.authorization.k8s.io, name: "system:serviceaccount:openshift-ingress:router"}`),
	"another-user":   aBinding("ClusterRole", "secret-reader", `{kind: User, apiGroup: rbac.authorization.k8s.io, name: "router"}`),
	"its-group":      aBinding("ClusterRole", "secret-reader", aGroup("system:serviceaccounts:openshift-ingress")),
	"all-accounts":   aBinding("ClusterRole", "secret-reader", aGroup("system:serviceaccounts")),
	"authenticated":  aBinding("ClusterRole", "secret-reader", aGroup("system:authenticated")),
	"not-its-group":  aBinding("ClusterRole", "secret-reader", aGroup("system:unauthenticated")),
	"same-name-role": aRole("[configmaps]", "[get, list, watch]", "") + aBinding("ClusterRole", "r", router0),
}

const router0 = "{kind: ServiceAccount, namespace: openshift-ingress, name: router}"

func aGroup(name string) string {
	return fmt.Sprintf("{kind: Group, apiGroup: rbac.authorization.k8s.io, name: %q}", name)
}

func aRole(resources, verbs, rest string) string {
	return "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {namespace: NS, name: r}\nrules: [{apiGroups: [\"\"], resources: " +
		resources + ", verbs: " + verbs + rest + "}]\n"
}

func aBinding(kind, role, subject string) string {
	return "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {namespace: NS, name: b}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: " +
		kind + ", name: " + role + "}\nsubjects: [" + subject + "]\n"
}

// What is decided from RBAC's objects is what the API server answers to the three questions that OpenShift's
// router asks. A right that is taken or given has its effect at once, and an API server that is gone has none.
func TestRightsAreThoseOfTheAPIServer(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "tj")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	server, err := kubetest.Start(ctx, kubetest.Config{Dir: dir + "/k"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	kubectl := func(in string, args ...string) {
		t.Helper()
		binary, err := kubetest.Kubectl()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(ctx, binary, append([]string{"--kubeconfig=" + server.Kubeconfig()}, args...)...)
		cmd.Stdin = strings.NewReader(in)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	var all strings.Builder
	all.WriteString("apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: secret-reader}\nrules: [{apiGroups: [\"\"], resources: [secrets], verbs: [get, list, watch]}]\n")
	for ns, grant := range grants {
		all.WriteString(strings.ReplaceAll("---\napiVersion: v1\nkind: Namespace\nmetadata: {name: NS}\n---\napiVersion: v1\nkind: Secret\nmetadata: {namespace: NS, name: t}\ntype: kubernetes.io/tls\ndata: {tls.crt: CERT, tls.key: KEY}\n"+
			"---\napiVersion: route.openshift.io/v1\nkind: Route\nmetadata: {namespace: NS, name: r}\nspec: {host: NS.example.com, to: {kind: Service, name: web}, tls: {termination: edge, externalCertificate: {name: t}}}\n"+grant, "NS", ns))
	}
	kubectl(strings.NewReplacer("CERT", base64Of(readCert(t, "leaf.crt")), "KEY", base64Of(readCert(t, "leaf.key"))).Replace(all.String()), "apply", "-f", "-")

	var source cluster.Source
	source, err = kube.New(kube.Config{REST: server.Config(), ExternalCertificateReader: router, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	w := newWorld(router)
	until := func(what string, done func() bool) {
		t.Helper()
		for {
			changed := source.Changed()
			if b, synced := source.Take(); synced {
				w.apply(b.Changes...)
				if done() {
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				t.Fatalf("%s: %v", what, w.verdicts)
			}
		}
	}
	missing := func(ns string) []string {
		v := w.verdicts[cluster.Key{Kind: cluster.Route, Namespace: ns, Name: "r"}]
		if v == nil {
			t.Fatalf("there is no verdict on %s", ns)
		}
		var verbs []string
		for _, verb := range cluster.ReadVerbs() {
			if strings.Contains(v.GetMessage(), "permission to "+verb+" this secret") {
				verbs = append(verbs, verb)
			}
		}
		if v.GetAdmitted() != (len(verbs) == 0) {
			t.Errorf("%v", v)
		}
		return verbs
	}
	until("read", func() bool { return len(w.verdicts) == len(grants) })
	for ns := range grants {
		if got, want := missing(ns), refused(t, server, ns); !slices.Equal(got, want) {
			t.Errorf("%s: %v are missing, says the compiler, and the API server %v", ns, got, want)
		}
	}
	if len(missing("none")) != 3 || len(missing("by-name")) != 0 || !slices.Equal(missing("two-verbs"), []string{"watch"}) {
		t.Error("none, by-name and two-verbs are not what they are called")
	}

	kubectl("", "delete", "rolebinding", "b", "-n", "by-name")
	until("taken", func() bool { return len(missing("by-name")) == 3 })
	kubectl(strings.ReplaceAll(grants["by-name"], "NS", "by-name"), "apply", "-f", "-")
	until("given again", func() bool { return len(missing("by-name")) == 0 })
	kubectl(`{"rules":[{"apiGroups":[""],"resources":["secrets"],"verbs":["get"]}]}`, "patch", "clusterrole", "secret-reader", "--type=merge", "--patch-file=/dev/stdin")
	until("less for all who have it", func() bool { return len(missing("user")) == 2 && len(missing("its-group")) == 2 })

	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	until("the API server is not to be reached", func() bool {
		b, _ := source.Take()
		return slices.ContainsFunc(b.Faults, func(f cluster.Fault) bool { return f.Place == "API server" })
	})
	if len(missing("by-name")) > 0 {
		t.Error("an API server that is gone took a right away")
	}
}

// refused asks the API server which verbs OpenShift's router may not use on Secret t.
func refused(t *testing.T, server *kubetest.Server, namespace string) []string {
	t.Helper()
	client, err := dynamic.NewForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	reviews := client.Resource(schema.GroupVersionResource{Group: "authorization.k8s.io", Version: "v1", Resource: "subjectaccessreviews"})
	var out []string
	for _, verb := range cluster.ReadVerbs() {
		answer, err := reviews.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
			"spec": map[string]any{
				"user":               router.String(),
				"groups":             []any{"system:serviceaccounts", "system:serviceaccounts:" + router.Namespace, "system:authenticated"},
				"resourceAttributes": map[string]any{"namespace": namespace, "verb": verb, "resource": "secrets", "name": "t"},
			},
		}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if allowed, _, _ := unstructured.NestedBool(answer.Object, "status", "allowed"); !allowed {
			out = append(out, verb)
		}
	}
	return out
}

func base64Of(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
