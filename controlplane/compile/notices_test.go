package compile_test

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
)

// A Secret that Routes have their certificate from is renewed, deleted, and made again; meanwhile it cannot be
// read. Each is told with OpenShift's reason: the change as a notice, and what is there as the verdict.
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
	const missing = `ExternalCertificateValidationFailed: spec.tls.externalCertificate: Not found: "secrets \"pair\" not found"`
	for _, step := range []struct {
		what    string
		changes []cluster.Change
		notices string // of Route a and b
		verdict string // on a; empty: as before
	}{
		{"everything is read", append(append(route("a", "pair"), route("other", "own")...), changesOf(t, fmt.Sprintf(secret, "leaf"))...), "", "admitted"},
		{"nothing changes", changesOf(t, fmt.Sprintf(secret, "leaf")), "", ""},
		{"it is renewed", changesOf(t, fmt.Sprintf(secret, "renewed")), "ns/a ExternalCertificateSecretUpdated: secret pair updated for route ns/a\n", ""},
		{"it is deleted", []cluster.Change{{Key: key}}, "ns/a ExternalCertificateSecretDeleted: secret pair deleted for route ns/a\n", missing},
		{"a Route comes that never had it", route("b", "pair"), "", ""},
		{
			"it cannot be read", []cluster.Change{{Key: key, Object: &cluster.Unread{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pair"}, Why: "the control plane is not allowed to"}}}, "",
			`ExternalCertificateGetFailed: spec.tls.externalCertificate: secrets "pair" cannot be read: the control plane is not allowed to`,
		},
		{"it is made again", changesOf(t, fmt.Sprintf(secret, "leaf")), "ns/a ExternalCertificateSecretRecreated: secret pair recreated for route ns/a\n", "admitted"},
		{"both have it, and lose it", []cluster.Change{{Key: key}}, "ns/a ExternalCertificateSecretDeleted: secret pair deleted for route ns/a\nns/b ExternalCertificateSecretDeleted: secret pair deleted for route ns/b\n", missing},
		{"one turns to another and back", append(route("a", "else"), route("b", "pair")...), "", `ExternalCertificateValidationFailed: spec.tls.externalCertificate: Not found: "secrets \"else\" not found"`},
		{"back", route("a", "pair"), "", missing},
		{"it comes: new to one, recreated for the other", changesOf(t, fmt.Sprintf(secret, "leaf")), "ns/b ExternalCertificateSecretRecreated: secret pair recreated for route ns/b\n", "admitted"},
	} {
		r := c.Apply(step.changes)
		notices, verdict := "", ""
		for _, n := range r.Notices {
			notices += fmt.Sprintf("%s/%s %s: %s\n", n.Namespace, n.Name, n.Reason, n.Message)
		}
		for _, v := range r.Verdicts {
			switch {
			case v.GetName() != "a":
			case v.GetAdmitted():
				verdict = "admitted"
			default:
				verdict = v.GetReason() + ": " + v.GetMessage()
			}
		}
		if notices != step.notices || verdict != step.verdict {
			t.Errorf("%s: notices\n%s\nverdict %s; want\n%s\nverdict %s", step.what, notices, verdict, step.notices, step.verdict)
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
