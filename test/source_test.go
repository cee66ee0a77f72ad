package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"

	"github.com/tsuji-dev/tsuji/test/kubetest"
)

// source is where a fleet's control plane gets its objects from. A manifest has a name; to write it again changes,
// adds and removes objects so that they are what it says.
type source interface {
	write(name, manifest string)
	remove(name string)
	args() []string // of the control plane
}

// directory is a source of files.
type directory struct {
	t    testing.TB
	path string
}

func newDirectory(t testing.TB, path string) *directory {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return &directory{t, path}
}

// write puts the file there whole at once.
func (d *directory) write(name, manifest string) {
	d.t.Helper()
	tmp := filepath.Join(d.path, "."+name)
	if err := os.WriteFile(tmp, []byte(manifest), 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(d.path, name)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *directory) remove(name string) {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.path, name)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *directory) args() []string { return []string{"--source=dir:" + d.path} }

// cluster is a source of objects in an API server, which all stories share.
type cluster struct {
	t       testing.TB
	server  *kubetest.Server
	client  dynamic.Interface
	objects map[string][]*object // by manifest

	kubeconfig string // of the control plane
}

type object = unstructured.Unstructured

// resources are the kinds that stories use.
var resources = map[string]schema.GroupVersionResource{
	"Route":         {Group: "route.openshift.io", Version: "v1", Resource: "routes"},
	"Service":       {Version: "v1", Resource: "services"},
	"EndpointSlice": {Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"},
	"Secret":        {Version: "v1", Resource: "secrets"},
	"ConfigMap":     {Version: "v1", Resource: "configmaps"},
	"Namespace":     {Version: "v1", Resource: "namespaces"},

	"Ingress":           {Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"},
	"IngressClass":      {Group: "networking.k8s.io", Version: "v1", Resource: "ingressclasses"},
	"IngressController": {Group: "operator.openshift.io", Version: "v1", Resource: "ingresscontrollers"},
}

var shared struct {
	sync.Mutex
	server *kubetest.Server
}

// apiServer starts the API server that all stories share, once.
func apiServer(t testing.TB) *kubetest.Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		s, err := kubetest.Start(context.WithoutCancel(t.Context()), kubetest.Config{Dir: filepath.Join(scratch, "kube"), Log: io.Discard})
		if err != nil {
			t.Fatal(err)
		}
		shared.server = s
	}
	return shared.server
}

func stopAPIServer() {
	shared.Lock()
	defer shared.Unlock()
	if shared.server != nil {
		shared.server.Stop()
		shared.server = nil
	}
}

// newCluster returns the API server as a source. What the story made in it goes at its end.
func newCluster(t testing.TB) *cluster {
	t.Helper()
	return clusterOf(t, apiServer(t))
}

// clusterOf returns an API server that a story may have for itself.
func clusterOf(t testing.TB, server *kubetest.Server) *cluster {
	t.Helper()
	client, err := dynamic.NewForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, server: server, client: client, objects: map[string][]*object{}, kubeconfig: server.Kubeconfig()}
	for _, name := range []string{"shop", "openshift-ingress-operator", "openshift-ingress", "openshift-config"} {
		c.apply(&object{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}}})
	}
	t.Cleanup(func() {
		for name := range c.objects {
			c.remove(name)
		}
	})
	return c
}

func (c *cluster) args() []string {
	return []string{"--source=kube", "--kubeconfig=" + c.kubeconfig}
}

func (c *cluster) write(name, manifest string) {
	c.t.Helper()
	now := c.parse(manifest)
	for _, u := range now {
		c.apply(u)
	}
	for _, old := range c.objects[name] {
		gone := true
		for _, u := range now {
			gone = gone && (u.GetKind() != old.GetKind() || u.GetName() != old.GetName() || u.GetNamespace() != old.GetNamespace())
		}
		if gone {
			c.delete(old)
		}
	}
	c.objects[name] = now
}

// parse returns a manifest's objects.
func (c *cluster) parse(manifest string) []*object {
	c.t.Helper()
	var all []*object
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(manifest)), 4096); ; {
		u := &object{}
		if err := d.Decode(&u.Object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			c.t.Fatal(err)
		}
		if len(u.Object) > 0 {
			u.SetCreationTimestamp(metav1.Time{})
			all = append(all, u)
		}
	}
	return all
}

func (c *cluster) remove(name string) {
	c.t.Helper()
	for _, u := range c.objects[name] {
		c.delete(u)
	}
	delete(c.objects, name)
}

// of returns the client for an object's kind and namespace.
func (c *cluster) of(u *object) dynamic.ResourceInterface {
	r, ok := resources[u.GetKind()]
	if !ok {
		c.t.Fatalf("no resource is known for kind %q", u.GetKind())
	}
	if u.GetNamespace() == "" {
		return c.client.Resource(r)
	}
	return c.client.Resource(r).Namespace(u.GetNamespace())
}

func (c *cluster) apply(u *object) {
	c.t.Helper()
	_, err := c.of(u).Apply(context.WithoutCancel(c.t.Context()), u.GetName(), u, metav1.ApplyOptions{FieldManager: "story", Force: true})
	if err != nil {
		c.t.Fatal(fmt.Errorf("apply %s %s: %w", u.GetKind(), u.GetName(), err))
	}
}

func (c *cluster) delete(u *object) {
	c.t.Helper()
	err := c.of(u).Delete(context.WithoutCancel(c.t.Context()), u.GetName(), metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		c.t.Error(fmt.Errorf("delete %s %s: %w", u.GetKind(), u.GetName(), err))
	}
}
