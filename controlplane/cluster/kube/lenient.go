package kube

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/cluster/internal/malformed"
)

// An apiObject is what an API server has.
type apiObject[T any] interface {
	*T
	metav1.Object
	runtime.Object
}

// lenient is an object of type *T, or what could be read of one: an API server accepts for a custom
// resource what its schema allows, which may be more than its Go type does (spec.port.targetPort:
// 4294967296), and such an object must not keep others of its kind from being read.
type lenient[T any, P apiObject[T]] struct {
	obj   P
	fault *malformed.Mistake // why obj has a name only; nil: it is whole
}

// lenientList is a list of them.
type lenientList[T any, P apiObject[T]] struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []lenient[T, P] `json:"items"`
}

// addLenient has the scheme decode objects of the kind, and lists of them, leniently.
func addLenient[T any, P apiObject[T]](s *runtime.Scheme, kind cluster.Kind) {
	gvk := kind.GroupVersionKind()
	s.AddKnownTypeWithName(gvk, &lenient[T, P]{})
	gvk.Kind += "List"
	s.AddKnownTypeWithName(gvk, &lenientList[T, P]{})
}

// UnmarshalJSON reads the object. It fails only if not even its name can be read.
func (l *lenient[T, P]) UnmarshalJSON(text []byte) error {
	l.obj, l.fault = new(T), nil
	err := json.Unmarshal(text, l.obj)
	if err == nil {
		return nil
	}
	var head struct {
		Kind     cluster.Kind      `json:"kind"`
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	if json.Unmarshal(text, &head) != nil {
		return err //nolint:wrapcheck // of an interface of the standard library
	}
	p := malformed.Type(head.Kind, text, err)
	l.obj, l.fault = new(T), &p
	l.obj.SetNamespace(head.Metadata.Namespace)
	l.obj.SetName(head.Metadata.Name)
	l.obj.SetUID(head.Metadata.UID)
	l.obj.SetResourceVersion(head.Metadata.ResourceVersion)
	return nil
}

// read returns the object, and why it is none that can be used.
func (l *lenient[T, P]) read() (metav1.Object, *malformed.Mistake) { return l.obj, l.fault }

// GetObjectMeta implements [metav1.ObjectMetaAccessor].
func (l *lenient[T, P]) GetObjectMeta() metav1.Object {
	if l.obj == nil {
		l.obj = new(T)
	}
	return l.obj
}

// GetObjectKind implements [runtime.Object].
func (l *lenient[T, P]) GetObjectKind() schema.ObjectKind {
	if l.obj == nil {
		l.obj = new(T)
	}
	return l.obj.GetObjectKind()
}

// DeepCopyObject implements [runtime.Object].
func (l *lenient[T, P]) DeepCopyObject() runtime.Object {
	out := &lenient[T, P]{fault: l.fault}
	if l.obj != nil {
		if obj, ok := l.obj.DeepCopyObject().(P); ok {
			out.obj = obj
		}
	}
	return out
}

// DeepCopyObject implements [runtime.Object].
func (l *lenientList[T, P]) DeepCopyObject() runtime.Object {
	out := &lenientList[T, P]{TypeMeta: l.TypeMeta}
	l.DeepCopyInto(&out.ListMeta)
	for i := range l.Items {
		if item, ok := l.Items[i].DeepCopyObject().(*lenient[T, P]); ok {
			out.Items = append(out.Items, *item)
		}
	}
	return out
}
