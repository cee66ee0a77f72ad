package kubetest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubeyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write what the API server says into testdata")

// kinds are the resources that tests here use.
var kinds = map[string]schema.GroupVersionResource{
	"Route":              {Group: "route.openshift.io", Version: "v1", Resource: "routes"},
	"IngressController":  {Group: "operator.openshift.io", Version: "v1", Resource: "ingresscontrollers"},
	"Zone":               {Group: "tsuji.dev", Version: "v1alpha1", Resource: "zones"},
	"Release":            {Group: "tsuji.dev", Version: "v1alpha1", Resource: "releases"},
	"EndpointSlice":      {Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"},
	"ServiceAccount":     {Version: "v1", Resource: "serviceaccounts"},
	"ClusterRole":        {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
	"ClusterRoleBinding": {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
}

var namespaced = map[string]bool{"Route": true, "IngressController": true, "EndpointSlice": true, "ServiceAccount": true}

// of returns the client for objects of a kind, which live in the namespace "default" if in any.
func of(t *testing.T, kind string) dynamic.ResourceInterface {
	t.Helper()
	r, ok := kinds[kind]
	if !ok {
		t.Fatalf("no resource is known for kind %q", kind)
	}
	all := client(t, server.Config()).Resource(r)
	if namespaced[kind] {
		return all.Namespace("default")
	}
	return all
}

// Every story in testdata is what the API server makes of objects. Each section is a merge: of an object that is
// there or not ("apply"), or of its status ("status"). The section "answer" after it is the object as it then is, or
// why it was refused.
func TestStories(t *testing.T) {
	stories, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(stories) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, path := range stories {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			out := &txtar.Archive{Comment: a.Comment}
			for _, f := range a.Files {
				if f.Name == "answer" {
					continue
				}
				var u unstructured.Unstructured
				if err := yaml.UnmarshalStrict(f.Data, &u.Object); err != nil {
					t.Fatalf("%s: %v", f.Data, err)
				}
				out.Files = append(out.Files, f, txtar.File{Name: "answer", Data: answer(t, f.Name, &u)})
			}
			compare(t, path, string(txtar.Format(out)))
		})
	}
}

// answer does what a section asks for, and returns what the API server says.
func answer(t *testing.T, verb string, u *unstructured.Unstructured) []byte {
	t.Helper()
	r, name := of(t, u.GetKind()), u.GetName()
	options := metav1.ApplyOptions{FieldManager: "story", Force: true}
	var got *unstructured.Unstructured
	var err error
	switch verb {
	case "apply":
		remove(t, r, name)
		got, err = r.Apply(t.Context(), name, u, options)
	case "status":
		got, err = r.ApplyStatus(t.Context(), name, u, options)
	default:
		t.Fatalf("a section is named %q", verb)
	}
	if err != nil {
		return fmt.Appendln(nil, "refused:", err)
	}
	delete(got.Object, "metadata")
	b, err := yaml.Marshal(got.Object)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// story creates the objects of a manifest, for the time of a test.
func story(t *testing.T, manifest string) {
	t.Helper()
	for d := kubeyaml.NewYAMLToJSONDecoder(strings.NewReader(manifest)); ; {
		var u unstructured.Unstructured
		if err := d.Decode(&u.Object); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		r := of(t, u.GetKind())
		remove(t, r, u.GetName())
		if _, err := r.Apply(t.Context(), u.GetName(), &u, metav1.ApplyOptions{FieldManager: "story"}); err != nil {
			t.Fatal(err)
		}
	}
}

// remove removes an object at the end of the test.
func remove(t *testing.T, r dynamic.ResourceInterface, name string) {
	t.Cleanup(func() { _ = r.Delete(context.Background(), name, metav1.DeleteOptions{}) })
}

// compare compares with a file, or writes it.
func compare(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, []byte(got)) {
		t.Errorf("%s: (-want +got, -update writes it)\n%s", path, cmp.Diff(string(want), got))
	}
}
