package cluster

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// A problem is what is wrong with a chunk. Its texts never hold a value of the manifest: there may be a
// secret in it.
type problem struct {
	line    int      // from the chunk's first, 1; 0: path says
	path    []string // of the value at fault: keys, and indices as numbers
	message string
	remedy  string
	broken  bool // the object, or objects, could not be read; if not, they are used nevertheless
	key     Key  // of the object that could not be read, if that much is known
}

// An object is an object as it was read.
type object struct {
	key  Key
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
	case p != nil && path == nil && head.Kind == "" && !bytes.Contains(text, []byte(`"metadata"`)) && !bytes.Contains(text, []byte(`"spec"`)):
		broken(problem{message: "the document is no object of Kubernetes", remedy: "keep other files elsewhere, or write apiVersion and kind"})
	case p != nil:
		broken(*p)
	case k != "":
		d.object(out, text, k, gvk, path)
	}
}

// object reads an object of a kind that sources follow.
func (d *decoder) object(out *decoded, text []byte, kind Kind, gvk schema.GroupVersionKind, path []string) {
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
		add(explainType(kind, text, err))
		return
	}
	obj, ok := o.(metav1.Object)
	if !ok {
		add(problem{message: fmt.Sprintf("%s cannot be read", kind), remedy: "write it as an object", broken: true})
		return
	}
	if strict, ok := runtime.AsStrictDecodingError(err); ok {
		add(explainStrict(kind, strict.Errors())...)
	}
	obj.SetNamespace(namespaceOf(kind, obj.GetNamespace()))
	if p := nameProblem(kind, obj); p != nil {
		add(*p)
		return
	}
	obj.SetManagedFields(nil)
	o.GetObjectKind().SetGroupVersionKind(gvk)
	d.scheme.Default(o)
	if z, ok := o.(*Zone); ok {
		if err := z.validate(); err != nil {
			add(problem{path: []string{"spec"}, message: err.Error(), remedy: "correct it; the Zone's schema is deploy/kustomize/crd/zones.tsuji.dev.yaml", broken: true})
			return
		}
	}
	out.objects = append(out.objects, object{key: Key{kind, obj.GetNamespace(), obj.GetName()}, path: path, obj: obj})
}

// peek finds out which object it is when nothing else about it can be trusted; zero: there is no telling.
func peek(text []byte, kind Kind) Key {
	var head struct {
		Metadata struct {
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
		} `json:"metadata"`
	}
	if json.Unmarshal(text, &head) != nil || len(validation.IsDNS1123Subdomain(head.Metadata.Name)) > 0 {
		return Key{}
	}
	return Key{kind, namespaceOf(kind, head.Metadata.Namespace), head.Metadata.Name}
}

// namespaceOf is the namespace that an object is in, if it says namespace.
func namespaceOf(kind Kind, namespace string) string {
	switch {
	case !kind.namespaced():
		return ""
	case namespace != "":
		return namespace
	case kind == IngressController:
		return controllerNamespace
	}
	return defaultNamespace
}

// nameProblem refuses the names that an API server refuses.
func nameProblem(kind Kind, obj metav1.Object) *problem {
	name, namespace := obj.GetName(), obj.GetNamespace()
	switch {
	case name == "":
		return &problem{path: []string{"metadata"}, message: fmt.Sprintf("the %s has no name", kind), remedy: "give it metadata.name (a generateName does not do in a directory)", broken: true}
	case kind == Namespace && len(validation.IsDNS1123Label(name)) > 0, len(validation.IsDNS1123Subdomain(name)) > 0:
		return &problem{path: []string{"metadata", "name"}, message: fmt.Sprintf("metadata.name is no name for an object of kind %s", kind), remedy: "use lower case letters, digits, '-' and '.' only, beginning and ending with a letter or digit", broken: true}
	case kind.namespaced() && len(validation.IsDNS1123Label(namespace)) > 0:
		return &problem{path: []string{"metadata", "namespace"}, message: "metadata.namespace is no name that a Namespace may have", remedy: "use lower case letters, digits and '-' only, at most 63", broken: true}
	}
	return nil
}

// toJSON returns a document's JSON, and the keys that stand in it twice, of which the last counts.
func toJSON(text []byte) ([]byte, []problem, *problem) {
	if !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0 {
		return nil, nil, &problem{line: 1, message: "the document is not text in UTF-8", remedy: "save the file as UTF-8", broken: true}
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

// explainType says why an object could not be decoded.
func explainType(kind Kind, text []byte, err error) problem {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		path := pathAt(text, e.Offset)
		if field := splitPath(e.Field); !within(field, path) { // the offset is one in a value that decodes itself
			path = field
		}
		is, _, _ := strings.Cut(e.Value, " ")
		return problem{
			path: path, broken: true,
			message: fmt.Sprintf("%s must be %s, and is %s", show(kind, path), typeName(e.Type), article(is)),
			remedy:  typeRemedy(e.Type, is),
		}
	}
	if _, ok := errors.AsType[base64.CorruptInputError](err); ok {
		return problem{
			path: badBase64(text), broken: true,
			message: "a value under data is not base64",
			remedy:  "encode it (base64 -w0), or write it as it is under stringData",
		}
	}
	if _, ok := errors.AsType[*time.ParseError](err); ok {
		return problem{
			path: []string{"metadata"}, broken: true,
			message: "a time in it is not of the form 2006-01-02T15:04:05Z",
			remedy:  "correct metadata.creationTimestamp, or remove it",
		}
	}
	return problem{
		broken:  true,
		message: fmt.Sprintf("a value in the %s is not of the form that its field needs", kind),
		remedy:  "compare it with `kubectl explain " + strings.ToLower(string(kind)) + " --recursive`",
	}
}

// explainStrict says which fields are none, or stand there twice.
func explainStrict(kind Kind, errs []error) []problem {
	var out []problem
	for _, err := range errs {
		var field interface{ FieldPath() string }
		if !errors.As(err, &field) {
			continue
		}
		path := splitPath(field.FieldPath())
		p := problem{
			path:    path,
			message: fmt.Sprintf("%s has no field %s; it is ignored, the rest is used", kind, show(kind, path)),
			remedy:  "remove it or correct its name: case and indentation count",
		}
		if strings.HasPrefix(err.Error(), "duplicate") {
			p.message, p.remedy = show(kind, path)+" stands there twice; the last one is used", "remove one of the two"
		}
		out = append(out, p)
	}
	return out
}

// show names a field for a person. In a Secret, and where the name is no ordinary one, only the part that
// cannot be a secret by mistake.
func show(kind Kind, path []string) string {
	var b strings.Builder
	for i, s := range path {
		if kind == Secret && (i > 0 || !secretFields[s]) || len(s) > 63 || strings.Trim(s, nameCharacters) != "" {
			if i == 0 {
				return "of that name"
			}
			break
		}
		if i > 0 && s[0] >= '0' && s[0] <= '9' {
			b.WriteString("[" + s + "]")
			continue
		}
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(s)
	}
	if b.Len() == 0 {
		return "the object"
	}
	return b.String()
}

const nameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./"

var secretFields = map[string]bool{"apiVersion": true, "kind": true, "metadata": true, "type": true, "data": true, "stringData": true, "immutable": true}

// within tells whether the names of fields stand in path, in that order.
func within(fields, path []string) bool {
	for _, step := range path {
		if len(fields) > 0 && fields[0] == step {
			fields = fields[1:]
		}
	}
	return len(fields) == 0
}

// typeName says what a field of a Go type takes.
func typeName(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Struct, reflect.Map:
		return "a mapping"
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return "a string in base64"
		}
		return "a sequence"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("a whole number of %d bits", t.Bits())
	default:
		return "of another type"
	}
}

// typeRemedy says what to do about a value of the wrong type.
func typeRemedy(t reflect.Type, is string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	scalar := is == "number" || is == "bool"
	switch {
	case t.Kind() == reflect.String && scalar:
		return "put the value in quotes"
	case is == "string" && (t.Kind() == reflect.Bool || t.Kind() >= reflect.Int && t.Kind() <= reflect.Float64):
		return "write the value without quotes"
	case t.Kind() == reflect.Slice && is == "object":
		return "begin each element with \"- \""
	}
	return "write " + typeName(t) + " there"
}

// article puts an article before what JSON calls a value.
func article(value string) string {
	switch value {
	case "array":
		return "a sequence"
	case "object":
		return "a mapping"
	case "bool":
		return "true or false"
	case "string", "number":
		return "a " + value
	}
	return "something else"
}

// badBase64 finds a value under data that is not base64.
func badBase64(text []byte) []string {
	var s struct {
		Data map[string]string `json:"data"`
	}
	if json.Unmarshal(text, &s) == nil {
		for k, v := range s.Data {
			if _, err := base64.StdEncoding.DecodeString(v); err != nil {
				return []string{"data", k}
			}
		}
	}
	return []string{"data"}
}
