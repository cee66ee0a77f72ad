package manifests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/cluster/internal/malformed"
)

// A problem is what is wrong with a chunk. Its texts never hold a value of the manifest: there may be a
// secret in it.
type problem struct {
	line    int      // from the chunk's first, 1; 0: path says
	path    []string // of the value at fault: keys, and indices as numbers
	message string
	remedy  string
	broken  bool        // the object, or objects, could not be read; if not, they are used nevertheless
	key     cluster.Key // of the object that could not be read, if that much is known
}

// problemOf returns a mistake as a problem.
func problemOf(m malformed.Mistake, broken bool) problem {
	return problem{path: m.Path, message: m.Message, remedy: m.Remedy, broken: broken}
}

// An object is an object as it was read.
type object struct {
	key  cluster.Key
	line int // from the chunk's first, 1
	path []string
	obj  metav1.Object
}

// decoded is what a chunk holds.
type decoded struct {
	objects  []object
	problems []problem
	garbled  bool // the text was no document at all
}

// listDepth is how deep Lists may stand in Lists.
const listDepth = 4

// decode reads a chunk. It depends on the text only.
func (d *decoder) decode(c chunk) *decoded {
	out := &decoded{}
	if c.problem != nil {
		p := *c.problem
		p.line, p.broken = 1, true
		out.problems = append(out.problems, p)
		return out
	}
	text, duplicates, p := toJSON(c.text)
	if p != nil {
		out.problems, out.garbled = append(out.problems, *p), true
		return out
	}
	out.problems = append(out.problems, duplicates...)
	if !bytes.Equal(text, []byte("null")) {
		d.value(out, text, c.apiVersion, c.kind, nil, listDepth)
	}
	var l locator
	for i := range out.problems {
		if p := &out.problems[i]; p.line == 0 {
			p.line = l.line(c.text, p.path)
		}
	}
	for i := range out.objects {
		out.objects[i].line = l.line(c.text, out.objects[i].path)
	}
	return out
}

// value reads an object, or the objects of a List, that stands at path.
func (d *decoder) value(out *decoded, text []byte, apiVersion, kind string, path []string, depth int) {
	broken := func(p problem) {
		p.path, p.broken = append(path[:len(path):len(path)], p.path...), true
		out.problems = append(out.problems, p)
	}
	var head struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Items      []json.RawMessage `json:"items"`
	}
	err := json.Unmarshal(text, &head)
	if len(text) == 0 || text[0] != '{' {
		broken(problem{message: "the document is no object", remedy: "write apiVersion, kind and metadata, or remove it"})
		return
	}
	if head.APIVersion == "" {
		head.APIVersion = apiVersion
	}
	if head.Kind == "" {
		head.Kind = kind
	}
	if isList(head.APIVersion, head.Kind) {
		if err != nil || depth == 0 {
			broken(problem{message: "the List is not one of objects", remedy: "write the objects as a sequence under items"})
			return
		}
		apiVersion, kind := itemOf(head.APIVersion, head.Kind)
		for i, item := range head.Items {
			d.value(out, item, apiVersion, kind, append(path[:len(path):len(path)], "items", fmt.Sprint(i)), depth-1)
		}
		return
	}
	k, gvk, p := recognize(head.APIVersion, head.Kind)
	switch {
	case p != nil && path == nil && head.Kind == "" &&
		!bytes.Contains(text, []byte(`"metadata"`)) && !bytes.Contains(text, []byte(`"spec"`)):
		broken(problem{
			message: "the document is no object of Kubernetes",
			remedy:  "keep other files elsewhere, or write apiVersion and kind",
		})
	case p != nil:
		broken(*p)
	case k != "":
		d.object(out, text, k, gvk, path)
	}
}

// object reads an object of a kind that sources follow.
func (d *decoder) object(out *decoded, text []byte, kind cluster.Kind, gvk schema.GroupVersionKind, path []string) {
	key := peek(text, kind)
	add := func(ps ...problem) {
		for _, p := range ps {
			p.path = append(path[:len(path):len(path)], p.path...)
			if p.broken {
				p.key = key
			}
			out.problems = append(out.problems, p)
		}
	}
	o, _, err := d.strict.Decode(text, &gvk, nil)
	if err != nil && !runtime.IsStrictDecodingError(err) {
		add(problemOf(malformed.Type(kind, text, err), true))
		return
	}
	obj, ok := o.(metav1.Object)
	if !ok {
		add(problem{message: fmt.Sprintf("%s cannot be read", kind), remedy: "write it as an object", broken: true})
		return
	}
	if strict, ok := runtime.AsStrictDecodingError(err); ok {
		for _, m := range malformed.Fields(kind, strict.Errors()) {
			add(problemOf(m, false))
		}
	}
	obj.SetNamespace(namespaceOf(kind, obj.GetNamespace()))
	if p := nameProblem(kind, obj); p != nil {
		add(*p)
		return
	}
	obj.SetManagedFields(nil)
	o.GetObjectKind().SetGroupVersionKind(gvk)
	cluster.SetDefaults(obj)
	if z, ok := o.(*cluster.Zone); ok {
		if err := z.Validate(); err != nil {
			add(problem{
				path: []string{"spec"}, broken: true,
				message: err.Error(),
				remedy:  "correct it; the Zone's schema is deploy/kustomize/crd/zones.tsuji.dev.yaml",
			})
			return
		}
	}
	key = cluster.Key{Kind: kind, Namespace: obj.GetNamespace(), Name: obj.GetName()}
	out.objects = append(out.objects, object{key: key, path: path, obj: obj})
}

// peek finds out which object it is when nothing else about it can be trusted; zero: there is no telling.
func peek(text []byte, kind cluster.Kind) cluster.Key {
	var head struct {
		Metadata struct {
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
		} `json:"metadata"`
	}
	if json.Unmarshal(text, &head) != nil || len(validation.IsDNS1123Subdomain(head.Metadata.Name)) > 0 {
		return cluster.Key{}
	}
	return cluster.Key{Kind: kind, Namespace: namespaceOf(kind, head.Metadata.Namespace), Name: head.Metadata.Name}
}

// namespaceOf is the namespace that an object is in, if it says namespace.
func namespaceOf(kind cluster.Kind, namespace string) string {
	switch {
	case !kind.Namespaced():
		return ""
	case namespace != "":
		return namespace
	case kind == cluster.IngressController:
		return cluster.ControllerNamespace
	}
	return defaultNamespace
}

// nameProblem refuses the names that an API server refuses.
func nameProblem(kind cluster.Kind, obj metav1.Object) *problem {
	name, namespace := obj.GetName(), obj.GetNamespace()
	switch {
	case name == "":
		return &problem{
			path: []string{"metadata"}, broken: true,
			message: fmt.Sprintf("the %s has no name", kind),
			remedy:  "give it metadata.name (a generateName does not do in a directory)",
		}
	case kind == cluster.Namespace && len(validation.IsDNS1123Label(name)) > 0,
		len(validation.IsDNS1123Subdomain(name)) > 0:
		return &problem{
			path: []string{"metadata", "name"}, broken: true,
			message: fmt.Sprintf("metadata.name is no name for an object of kind %s", kind),
			remedy:  "use lower case letters, digits, '-' and '.' only, beginning and ending with a letter or digit",
		}
	case kind.Namespaced() && len(validation.IsDNS1123Label(namespace)) > 0:
		return &problem{
			path: []string{"metadata", "namespace"}, broken: true,
			message: "metadata.namespace is no name that a Namespace may have",
			remedy:  "use lower case letters, digits and '-' only, at most 63",
		}
	}
	return nil
}

// toJSON returns a document's JSON, and the keys that stand in it twice, of which the last counts.
func toJSON(text []byte) ([]byte, []problem, *problem) {
	if !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0 {
		return nil, nil, &problem{
			line: 1, broken: true,
			message: "the document is not text in UTF-8",
			remedy:  "save the file as UTF-8",
		}
	}
	if t := bytes.TrimSpace(text); len(t) > 0 && t[0] == '{' && json.Valid(t) {
		return t, nil, nil
	}
	out, err := yaml.YAMLToJSONStrict(text)
	if err == nil {
		return out, nil, nil
	}
	duplicates := explainDuplicates(err)
	if duplicates != nil {
		out, err = yaml.YAMLToJSON(text)
	}
	if err != nil {
		p := explainYAML(text, err)
		return nil, nil, &p
	}
	return out, duplicates, nil
}
