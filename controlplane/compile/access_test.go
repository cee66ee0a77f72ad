package compile_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// A Route names a Secret, and OpenShift's router must be allowed to get, watch and list it: what it is given
// and what is taken from it is in force with the change that does so, and nobody else is concerned.
func TestExternalCertificateNeedsARight(t *testing.T) {
	t.Parallel()
	c := compile.New(compile.Config{ExternalCertificateReader: router})
	all := `[get, watch, list]`
	role := func(verbs, rest string) string {
		return "kind: Role\nmetadata: {namespace: ns1, name: reader}\nrules: [{apiGroups: [\"\"], resources: [secrets], verbs: " + verbs + rest + "}]\n"
	}
	binding := func(subject string) string {
		return "kind: RoleBinding\nmetadata: {namespace: ns1, name: reader}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}\nsubjects: [" + subject + "]\n"
	}
	clusterRole := func(name, verbs string) string {
		return "kind: ClusterRole\nmetadata: {name: " + name + "}\nrules: [{apiGroups: [\"*\"], resources: [\"*\"], verbs: " + verbs + "}]\n"
	}
	const account = `{kind: ServiceAccount, namespace: openshift-ingress, name: router}`
	secret := func(namespace, name string) string {
		return "kind: Secret\nmetadata: {namespace: " + namespace + ", name: " + name + "}\ntype: kubernetes.io/tls\nstringData: {tls.crt: \"@leaf.crt\", tls.key: \"@leaf.key\"}\n"
	}
	external := func(namespace, name, secret string) string {
		return fmt.Sprintf("kind: Route\nmetadata: {namespace: %s, name: %s}\nspec: {host: %s.%s.example.com, to: {name: web}, tls: {termination: edge, externalCertificate: {name: %s}}}\n",
			namespace, name, name, namespace, secret)
	}
	verdicts := map[string]*tsujiv1.RouteVerdict{}
	for _, step := range []struct {
		what, manifests string
		touched         int    // verdicts that change
		missing         string // of Route ns1/r: the verbs; empty: it is admitted
	}{
		{"nobody may", external("ns1", "r", "t") + "---\n" + external("ns2", "r", "t") + "---\n" + secret("ns1", "t") + "---\n" + secret("ns2", "t"), 2, "get watch list"},
		{"a Role that nobody has", role(all, ""), 0, "get watch list"},
		{"another has it", binding(`{kind: ServiceAccount, namespace: ns1, name: router}`), 0, "get watch list"},
		{"an account of the binding's own namespace", binding(`{kind: ServiceAccount, name: router}`), 0, "get watch list"},
		{"the router has it", binding(account), 1, ""},
		{"for another Secret", role(all, ", resourceNames: [other]"), 1, "get watch list"},
		{"for this Secret", role(all, ", resourceNames: [other, t]"), 1, ""},
		{"but not all of it", role("[get, list]", ", resourceNames: [t]"), 1, "watch"},
		{"the rest by a group, in the cluster", clusterRole("watcher", "[watch]") + "---\nkind: ClusterRoleBinding\nmetadata: {name: watcher}\nroleRef: {kind: ClusterRole, name: watcher}\nsubjects: [{kind: Group, name: system:serviceaccounts}]\n", 2, ""},
		{"the group is that of its namespace", "kind: ClusterRoleBinding\nmetadata: {name: watcher}\nroleRef: {kind: ClusterRole, name: watcher}\nsubjects: [{kind: Group, name: \"system:serviceaccounts:openshift-ingress\"}]\n", 0, ""},
		{"the group is another's", "kind: ClusterRoleBinding\nmetadata: {name: watcher}\nroleRef: {kind: ClusterRole, name: watcher}\nsubjects: [{kind: Group, name: \"system:serviceaccounts:ns1\"}]\n", 2, "watch"},
		{"as a user, by a ClusterRole for one namespace", "kind: RoleBinding\nmetadata: {namespace: ns1, name: user}\nroleRef: {kind: ClusterRole, name: watcher}\nsubjects: [{kind: User, name: \"system:serviceaccount:openshift-ingress:router\"}]\n", 1, ""},
		{"the ClusterRole is about everything but Secrets", "kind: ClusterRole\nmetadata: {name: watcher}\nrules: [{apiGroups: [apps], resources: [\"*\"], verbs: [\"*\"]}, {nonResourceURLs: [\"*\"], verbs: [\"*\"]}]\n", 1, "watch"},
		{"and says watch with a star", clusterRole("watcher", `["*"]`), 1, ""},
		{"the Secret is another Route's too", external("ns1", "r2", "t"), 1, ""},
		{"two Routes lose it", "kind: RoleBinding\nmetadata: {namespace: ns1, name: user}\nroleRef: {kind: ClusterRole, name: none}\nsubjects: []\n", 2, "watch"},
	} {
		r := c.Apply(changesOf(t, step.manifests))
		for _, v := range r.Verdicts {
			verdicts[v.GetNamespace()+"/"+v.GetName()] = v
		}
		if len(r.Verdicts) != step.touched {
			t.Errorf("%s: %v", step.what, r.Verdicts)
		}
		v := verdicts["ns1/r"]
		var want []string
		for verb := range strings.FieldsSeq(step.missing) {
			want = append(want, "spec.tls.externalCertificate: Forbidden: router serviceaccount does not have permission to "+verb+" this secret")
		}
		message := strings.Join(want, ", ")
		if len(want) > 1 {
			message = "[" + message + "]"
		}
		if v.GetAdmitted() != (message == "") || v.GetMessage() != message || message != "" && v.GetReason() != "ExternalCertificateValidationFailed" {
			t.Errorf("%s: %v, want %q", step.what, v, message)
		}
	}
}
