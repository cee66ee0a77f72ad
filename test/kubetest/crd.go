package kubetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	// Where OpenShift's definitions are. Imported so that whoever could build this has them: no test fetches anything.
	_ "github.com/openshift/api/config/v1/zz_generated.crd-manifests"
	_ "github.com/openshift/api/operator/v1/zz_generated.crd-manifests"
	_ "github.com/openshift/api/route/v1/zz_generated.crd-manifests"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// The definitions that come with OpenShift: package folders, and files in them.
var openshift = [][2]string{
	{"github.com/openshift/api/route/v1/zz_generated.crd-manifests", "routes.crd.yaml"},
	{"github.com/openshift/api/operator/v1/zz_generated.crd-manifests", "0000_50_ingress_00_ingresscontrollers-Default.crd.yaml"},
	{"github.com/openshift/api/config/v1/zz_generated.crd-manifests", "0000_10_config-operator_01_ingresses-Default.crd.yaml"},
}

// ours is where the definitions of our own resources are.
var ours = filepath.Join("deploy", "kustomize", "crd")

// crd is a custom resource's definition.
type crd struct {
	object *unstructured.Unstructured
	serves []schema.GroupVersionResource
}

// readCRDs reads the definitions that the server gets.
func readCRDs(ctx context.Context) ([]crd, error) {
	folder, err := above(ours)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return nil, err
	}
	list := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}")
	list.Dir = folder
	for _, o := range openshift {
		list.Args = append(list.Args, o[0])
	}
	var stderr strings.Builder
	list.Stderr = &stderr
	dirs, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("find the definitions of OpenShift's resources: go list: %w\n%s", err, stderr.String())
	}
	for i, dir := range strings.Fields(string(dirs)) {
		files = append(files, filepath.Join(dir, openshift[i][1]))
	}
	var out []crd
	for _, f := range files {
		if filepath.Base(f) == "kustomization.yaml" {
			continue
		}
		c, err := readCRD(f)
		if err != nil {
			return nil, fmt.Errorf("read the definition %s: %w", f, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func readCRD(path string) (crd, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return crd{}, err
	}
	if b, err = yaml.YAMLToJSON(b); err != nil {
		return crd{}, err
	}
	out := crd{object: &unstructured.Unstructured{}}
	if err := out.object.UnmarshalJSON(b); err != nil {
		return crd{}, err
	}
	var d struct {
		Spec struct {
			Group    string
			Names    struct{ Plural string }
			Versions []struct {
				Name   string
				Served bool
			}
		}
	}
	if err := yaml.Unmarshal(b, &d); err != nil {
		return crd{}, err
	}
	for _, v := range d.Spec.Versions {
		if v.Served {
			out.serves = append(out.serves, schema.GroupVersionResource{Group: d.Spec.Group, Version: v.Name, Resource: d.Spec.Names.Plural})
		}
	}
	if len(out.serves) == 0 {
		return crd{}, errors.New("it serves no version")
	}
	return out, nil
}

// install applies the definitions, and returns when what they define is served.
func install(ctx context.Context, client dynamic.Interface, crds []crd) error {
	definitions := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	for _, c := range crds {
		name := c.object.GetName()
		if _, err := definitions.Apply(ctx, name, c.object, metav1.ApplyOptions{FieldManager: "kubetest", Force: true}); err != nil {
			return fmt.Errorf("apply the definition %s: %w", name, err)
		}
	}
	for _, c := range crds {
		name := c.object.GetName()
		if err := until(ctx, nil, func() error {
			d, err := definitions.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			return established(d)
		}); err != nil {
			return fmt.Errorf("wait for the definition %s: %w", name, err)
		}
		for _, r := range c.serves {
			if err := until(ctx, nil, func() error {
				_, err := client.Resource(r).List(ctx, metav1.ListOptions{Limit: 1})
				return err
			}); err != nil {
				return fmt.Errorf("wait for %s: %w", r, err)
			}
		}
	}
	return nil
}

// established returns nil if what the definition defines is served, and else the definition's conditions.
func established(definition *unstructured.Unstructured) error {
	conditions, _, err := unstructured.NestedSlice(definition.Object, "status", "conditions")
	if err != nil {
		return err
	}
	for _, c := range conditions {
		if m, ok := c.(map[string]any); ok && m["type"] == "Established" && m["status"] == "True" {
			return nil
		}
	}
	return fmt.Errorf("it is not established: %v", conditions)
}
