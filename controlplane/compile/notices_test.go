package compile_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
)

// A Secret that Routes have their certificate from is renewed, deleted, and made again; meanwhile it cannot be
// read. Each is told with OpenShift's reason: the change as a notice, and what is there as the verdict of who never had a
// good one.
func TestExternalCertificateReasons(t *testing.T) {
	t.Parallel()
	const secret = `
kind: Secret
metadata: {namespace: ns, name: pair}
type: kubernetes.io/tls
stringData: {tls.crt: "@%[1]s.crt", tls.key: "@%[1]s.key"}
`
	key := cluster.Key{Kind: cluster.Secret, Namespace: "ns", Name: "pair"}
	route := func(name, secret string) []cluster.Change {
		return changesOf(t, fmt.Sprintf(`
kind: Route
metadata: {namespace: ns, name: %s, creationTimestamp: "2024-01-02T00:00:00Z"}
spec: {host: %s.example.com, to: {name: web}, tls: {termination: edge, externalCertificate: {name: %s}}}
`, name, name, secret))
	}
	c := compile.New(compile.Config{})
	const missing = `ExternalCertificateValidationFailed: spec.tls.externalCertificate: Not found: "secrets \"pair\" not found"` + "\n"
	const elsewhere = `ExternalCertificateValidationFailed: spec.tls.externalCertificate: Not found: "secrets \"else\" not found"` + "\n"
	unread := cluster.Change{Key: key, Object: &cluster.Unread{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pair"}, Why: "the control plane is not allowed to",
	}}
	for _, step := range []struct {
		what     string
		changes  []cluster.Change
		notices  string // of Route a and b
		verdicts string // on them, where they are others than before
	}{
		{
			"everything is read",
			slices.Concat(route("a", "pair"), route("other", "own"), changesOf(t, fmt.Sprintf(secret, "leaf"))), "", "a: admitted\n",
		},
		{"nothing changes", changesOf(t, fmt.Sprintf(secret, "leaf")), "", ""},
		{
			"it is renewed", changesOf(t, fmt.Sprintf(secret, "renewed")),
			"ns/a ExternalCertificateSecretUpdated: secret pair updated for route ns/a\n", "",
		},
		{
			"it is deleted: what was good stays", []cluster.Change{{Key: key}},
			"ns/a ExternalCertificateSecretDeleted: secret pair deleted for route ns/a\n", "a: admitted, as last good\n",
		},
		{"a Route comes that never had it", route("b", "pair"), "", "b: " + missing},
		{
			"it cannot be read", []cluster.Change{unread}, "", "a: admitted, as last good\n" +
				`b: ExternalCertificateGetFailed: spec.tls.externalCertificate: secrets "pair" cannot be read: the control plane is not allowed to` + "\n",
		},
		{
			"it is made again", changesOf(t, fmt.Sprintf(secret, "leaf")),
			"ns/a ExternalCertificateSecretRecreated: secret pair recreated for route ns/a\n", "a: admitted\nb: admitted\n",
		},
		{
			"both have it, and it goes", []cluster.Change{{Key: key}},
			"ns/a ExternalCertificateSecretDeleted: secret pair deleted for route ns/a\n" +
				"ns/b ExternalCertificateSecretDeleted: secret pair deleted for route ns/b\n",
			"a: admitted, as last good\nb: admitted, as last good\n",
		},
		{"one turns to another", append(route("a", "else"), route("b", "pair")...), "", "a: " + elsewhere},
		{"and back", route("a", "pair"), "", "a: " + missing},
		{
			"it comes: new to one, recreated for the other", changesOf(t, fmt.Sprintf(secret, "leaf")),
			"ns/b ExternalCertificateSecretRecreated: secret pair recreated for route ns/b\n", "a: admitted\nb: admitted\n",
		},
	} {
		r := c.Apply(step.changes)
		notices, verdicts := "", ""
		for _, n := range r.Notices {
			notices += fmt.Sprintf("%s/%s %s: %s\n", n.Namespace, n.Name, n.Reason, n.Message)
		}
		for _, v := range r.Verdicts {
			switch {
			case v.GetName() == "other":
			case !v.GetAdmitted():
				verdicts += v.GetName() + ": " + v.GetReason() + ": " + v.GetMessage() + "\n"
			case len(v.GetLastGood()) > 0:
				verdicts += v.GetName() + ": admitted, as last good\n"
			default:
				verdicts += v.GetName() + ": admitted\n"
			}
		}
		if notices != step.notices || verdicts != step.verdicts {
			t.Errorf("%s: notices\n%s\nverdicts\n%swant\n%s\nverdicts\n%s", step.what, notices, verdicts, step.notices, step.verdicts)
		}
	}
}

// Whether the cluster's own CA is there cannot be found out: no endpoint goes unverified meanwhile.
func TestUnreadServiceCA(t *testing.T) {
	t.Parallel()
	key := cluster.Key{Kind: cluster.ConfigMap, Namespace: "openshift-ingress", Name: "service-ca-bundle"}
	c := compile.New(compile.Config{})
	r := c.Apply(append(changesOf(t, `
kind: Route
metadata: {namespace: ns, name: a}
spec: {host: a.example.com, to: {name: web}, tls: {termination: reencrypt}}
`), cluster.Change{Key: key, Object: &cluster.Unread{Why: "the API server does not answer"}}))
	if v := r.Verdicts[0]; v.GetAdmitted() || v.GetReason() != "ExtendedValidationFailed" || !strings.Contains(v.GetMessage(), "cannot be read: the API server does not answer") {
		t.Errorf("verdict: %v", v)
	}
	r = c.Apply([]cluster.Change{{Key: key}})
	if v := r.Verdicts[0]; !v.GetAdmitted() {
		t.Errorf("it is known not to be there: %v", v)
	}
}
