// Package malformed says why a text is no object of a kind, to whoever wrote it.
//
// It guarantees that what it says has no value of the text in it, and of a Secret no name either that may be a value by
// mistake. It is a function of the text.
package malformed

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

// A Mistake is one in a text.
type Mistake struct {
	// Path leads to the value at fault: keys, and indices as numbers. Empty: the whole text.
	Path []string
	// Message says what is wrong.
	Message string
	// Remedy says what to do about it.
	Remedy string
}

// Type says why an object could not be decoded.
func Type(kind cluster.Kind, text []byte, err error) Mistake {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		path := pathAt(text, e.Offset)
		if field := splitPath(e.Field); !within(field, path) { // the offset is one in a value that decodes itself
			path = field
		}
		is, _, _ := strings.Cut(e.Value, " ")
		return Mistake{
			Path:    path,
			Message: fmt.Sprintf("%s must be %s, and is %s", show(kind, path), typeName(e.Type), article(is)),
			Remedy:  typeRemedy(e.Type, is),
		}
	}
	if _, ok := errors.AsType[base64.CorruptInputError](err); ok {
		return Mistake{
			Path:    badBase64(text),
			Message: "a value under data is not base64",
			Remedy:  "encode it (base64 -w0), or write it as it is under stringData",
		}
	}
	if _, ok := errors.AsType[*time.ParseError](err); ok {
		return Mistake{
			Path:    []string{"metadata"},
			Message: "a time in it is not of the form 2006-01-02T15:04:05Z",
			Remedy:  "correct metadata.creationTimestamp, or remove it",
		}
	}
	return Mistake{
		Message: fmt.Sprintf("a value in the %s is not of the form that its field needs", kind),
		Remedy:  "compare it with `kubectl explain " + strings.ToLower(string(kind)) + " --recursive`",
	}
}

// Fields says which fields are none, or stand there twice.
func Fields(kind cluster.Kind, errs []error) []Mistake {
	var out []Mistake
	for _, err := range errs {
		var field interface{ FieldPath() string }
		if !errors.As(err, &field) {
			continue
		}
		path := splitPath(field.FieldPath())
		p := Mistake{
			Path:    path,
			Message: fmt.Sprintf("%s has no field %s; it is ignored, the rest is used", kind, show(kind, path)),
			Remedy:  "remove it or correct its name: case and indentation count",
		}
		if strings.HasPrefix(err.Error(), "duplicate") {
			p.Message, p.Remedy = show(kind, path)+" stands there twice; the last one is used", "remove one of the two"
		}
		out = append(out, p)
	}
	return out
}

// show names a field for a person. In a Secret, and where the name is no ordinary one, only the part that
// cannot be a secret by mistake.
func show(kind cluster.Kind, path []string) string {
	var b strings.Builder
	for i, s := range path {
		if kind == cluster.Secret && (i > 0 || !secretFields[s]) || len(s) > 63 || strings.Trim(s, nameCharacters) != "" {
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

var secretFields = map[string]bool{
	"apiVersion": true, "kind": true, "metadata": true, "type": true, "data": true, "stringData": true, "immutable": true,
}

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
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint16, reflect.Uint32, reflect.Uint64:
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

// splitPath takes the path of a strict decoding error apart: "spec.ports[0].title".
func splitPath(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == '.' || r == '[' || r == ']' })
}
