package compile_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	configv1 "github.com/openshift/api/config/v1"
	operatorv1 "github.com/openshift/api/operator/v1"
	routev1 "github.com/openshift/api/route/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

var update = flag.Bool("update", false, "write what comes out into the golden files")

// Each testdata/stories/*.txt says in its first lines what it shows; then come manifests, and below the
// line "== verdicts" what came of the Routes, below "== faults" what is wrong with the IngressController, and
// below "== resources" the resources.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/stories/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			in, _, _ := strings.Cut(string(text), "== verdicts\n")
			_, manifests, ok := strings.Cut(in, "---\n")
			if !ok {
				t.Fatal("there are no manifests after a line of ---")
			}
			r := compile.New(compile.Config{AllowLoopbackEndpoints: strings.Contains(t.Name(), "loopback")}).Apply(changesOf(t, manifests))
			want := in + "== verdicts\n" + verdictText(t, r.Verdicts) + faultText(r.Faults) + "== resources\n" + resourceText(t, r)
			if *update {
				if err := os.WriteFile(f, []byte(want), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if string(text) != want {
				t.Errorf("%s: not what came out (-update writes it):\n%s", f, want)
			}
		})
	}
}

// The digests of a fixed set of objects. When this fails, equal objects are encoded differently than by
// the release before: raise snapshot.Epoch, and write the new digests with -update.
func TestDigestsStay(t *testing.T) {
	t.Parallel()
	const file = "testdata/digests.txt"
	c := compile.New(compile.Config{})
	stories, err := filepath.Glob("testdata/digests/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var r compile.Result
	for _, f := range stories {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		r = c.Apply(changesOf(t, string(text)))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "epoch %d\nconfig %s\nfacts %s\n", snapshot.Epoch, r.Config.Digest(), r.Facts.Digest())
	for _, i := range snapshot.New(0, r.Config, r.Facts).Sorted() {
		fmt.Fprintf(&b, "%s %s\n", i.Digest(), i.Name())
	}
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("digests differ from %s: raise snapshot.Epoch\n%s", file, b.String())
	}
}

func verdictText(t *testing.T, vs []*tsujiv1.RouteVerdict) string {
	t.Helper()
	var b strings.Builder
	for _, v := range vs {
		if v.GetIngressController() != "default" {
			t.Errorf("verdict of %q", v.GetIngressController())
		}
		fmt.Fprintf(&b, "%s/%s %s%s: ", v.GetNamespace(), v.GetName(), v.GetHost(), v.GetPath())
		if s := v.GetSource(); s != nil {
			fmt.Fprintf(&b, "%s %s %s: ", s.GetKind(), s.GetName(), s.GetField())
		}
		if v.GetAdmitted() {
			b.WriteString("admitted\n")
		} else {
			fmt.Fprintf(&b, "%s: %s\n", v.GetReason(), v.GetMessage())
		}
		for _, w := range v.GetWarnings() {
			fmt.Fprintf(&b, "    %s\n", w)
		}
	}
	return b.String()
}

func faultText(faults []cluster.Fault) string {
	var b strings.Builder
	for _, f := range faults {
		fmt.Fprintf(&b, "%s\n", f)
	}
	if b.Len() == 0 {
		return ""
	}
	return "== faults\n" + b.String()
}

// resourceText prints the resources as YAML; of certificates only what kind of blocks there are.
func resourceText(t *testing.T, r compile.Result) string {
	t.Helper()
	var b strings.Builder
	for _, i := range snapshot.New(0, r.Config, r.Facts).Sorted() {
		res, err := tsujiv1.Decode(i)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n", res.GetName())
		var content proto.Message
		switch k := res.GetKind().(type) {
		case *tsujiv1.Resource_Settings:
			if len(r.Verdicts) > 0 && !strings.Contains(t.Name(), "settings") {
				continue // always there, and shown by stories about it
			}
			content = k.Settings
		case *tsujiv1.Resource_Route:
			content = k.Route
		case *tsujiv1.Resource_Endpoints:
			for _, e := range k.Endpoints.GetEndpoints() {
				fmt.Fprintf(&b, "    %s\n", jsonOf(t, e))
			}
			continue
		case *tsujiv1.Resource_Certificate:
			fmt.Fprintf(&b, "    chain: %s\n    key: %s\n    ca: %s\n", blocks(k.Certificate.GetChainPem()),
				blocks(k.Certificate.GetPrivateKey().GetPem()), blocks(k.Certificate.GetCaBundlePem()))
			continue
		}
		text, err := yaml.JSONToYAML([]byte(jsonOf(t, content)))
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(text)) {
			b.WriteString("    " + l)
		}
	}
	return b.String()
}

// jsonOf undoes what protojson does to be unpredictable.
func jsonOf(t testing.TB, m proto.Message) string {
	t.Helper()
	text, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func blocks(text []byte) string {
	var kinds []string
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		kinds = append(kinds, block.Type)
	}
	return strings.Join(kinds, ", ")
}

var fixture = regexp.MustCompile(`"@([a-z0-9.+-]+)"`)

// changesOf reads manifests. "@leaf.crt" stands for the content of testdata/certs/leaf.crt.
func changesOf(t testing.TB, manifests string) []cluster.Change {
	t.Helper()
	var changes []cluster.Change
	for doc := range strings.SplitSeq(manifests, "---\n") {
		doc = fixture.ReplaceAllStringFunc(doc, func(s string) string {
			text, err := json.Marshal(readCert(t, strings.Trim(s, `"@`)))
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		})
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		objects := map[string]metav1.Object{
			"Route": &routev1.Route{}, "Service": &corev1.Service{}, "EndpointSlice": &discoveryv1.EndpointSlice{},
			"Secret": &corev1.Secret{}, "ConfigMap": &corev1.ConfigMap{}, "Namespace": &corev1.Namespace{}, "IngressController": &operatorv1.IngressController{},
			"Ingress": &networkingv1.Ingress{}, "IngressClass": &networkingv1.IngressClass{},
			"IngressConfig": &configv1.Ingress{},
			"Role":          &rbacv1.Role{}, "RoleBinding": &rbacv1.RoleBinding{}, "ClusterRole": &rbacv1.ClusterRole{}, "ClusterRoleBinding": &rbacv1.ClusterRoleBinding{},
		}
		o := objects[kind.Kind]
		if o == nil {
			t.Fatalf("kind %q in\n%s", kind.Kind, doc)
		}
		if err := yaml.UnmarshalStrict([]byte(doc), o); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if s, ok := o.(*corev1.Secret); ok {
			s.Data = map[string][]byte{}
			for k, v := range s.StringData {
				s.Data[k] = []byte(v)
			}
		}
		changes = append(changes, put(o))
	}
	return changes
}

func readCert(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata/certs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// put is the change that an object is there.
func put(o metav1.Object) cluster.Change {
	return cluster.Change{Key: keyOf(o), Object: o}
}

// gone is the change that an object is not there any more.
func gone(o metav1.Object) cluster.Change { return cluster.Change{Key: keyOf(o)} }

func keyOf(o metav1.Object) cluster.Key {
	var k cluster.Kind
	switch o.(type) {
	case *routev1.Route:
		k = cluster.Route
	case *corev1.Service:
		k = cluster.Service
	case *discoveryv1.EndpointSlice:
		k = cluster.EndpointSlice
	case *corev1.Secret:
		k = cluster.Secret
	case *corev1.ConfigMap:
		k = cluster.ConfigMap
	case *corev1.Namespace:
		k = cluster.Namespace
	case *operatorv1.IngressController:
		k = cluster.IngressController
	case *networkingv1.Ingress:
		k = cluster.Ingress
	case *networkingv1.IngressClass:
		k = cluster.IngressClass
	case *configv1.Ingress:
		k = cluster.IngressConfig
	case *rbacv1.Role:
		k = cluster.Role
	case *rbacv1.RoleBinding:
		k = cluster.RoleBinding
	case *rbacv1.ClusterRole:
		k = cluster.ClusterRole
	case *rbacv1.ClusterRoleBinding:
		k = cluster.ClusterRoleBinding
	}
	return cluster.Key{Kind: k, Namespace: o.GetNamespace(), Name: o.GetName()}
}

// names returns the names of a result's resources, sorted.
func names(r compile.Result) []string {
	var ns []string
	for _, i := range snapshot.New(0, r.Config, r.Facts).Sorted() {
		ns = append(ns, i.Name())
	}
	slices.Sort(ns)
	return ns
}
