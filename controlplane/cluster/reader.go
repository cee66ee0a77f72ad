package cluster

import (
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Reader is a service account whose right to read the Secrets that Routes name counts. The zero value is none:
// then nobody's right does.
type Reader struct{ Namespace, Name string }

const (
	serviceAccountUser   = "system:serviceaccount:"
	serviceAccountGroup  = "system:serviceaccounts"
	authenticated        = "system:authenticated"
	everything           = "*"
	secrets              = "secrets"
	clusterRole          = string(ClusterRole)
	secretsGroup         = "" // the core group
	serviceAccountPrefix = serviceAccountGroup + ":"
)

// ReadVerbs are what a reader must be allowed of a Secret, in the order in which OpenShift's router asks.
func ReadVerbs() []string { return []string{"get", "watch", "list"} }

// ParseReader reads the name of a service account as a user: system:serviceaccount:NAMESPACE:NAME. The empty
// text is the zero Reader.
func ParseReader(user string) (Reader, error) {
	if user == "" {
		return Reader{}, nil
	}
	rest, ok := strings.CutPrefix(user, serviceAccountUser)
	namespace, name, _ := strings.Cut(rest, ":")
	if !ok || len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return Reader{}, fmt.Errorf("%q is no service account: want system:serviceaccount:NAMESPACE:NAME, "+
			"such as system:serviceaccount:openshift-ingress:router", user)
	}
	return Reader{Namespace: namespace, Name: name}, nil
}

// String returns the reader as a user; empty for the zero value.
func (r Reader) String() string {
	if r == (Reader{}) {
		return ""
	}
	return serviceAccountUser + r.Namespace + ":" + r.Name
}

// BoundBy returns the role that a RoleBinding or ClusterRoleBinding gives the reader: the namespace of a Role,
// which is empty for a ClusterRole, and its name.
func (r Reader) BoundBy(binding metav1.Object) (namespace, name string, ok bool) {
	var subjects []rbacv1.Subject
	var role rbacv1.RoleRef
	switch b := binding.(type) {
	case *rbacv1.RoleBinding:
		subjects, role = b.Subjects, b.RoleRef
	case *rbacv1.ClusterRoleBinding:
		subjects, role = b.Subjects, b.RoleRef
	default:
		return "", "", false
	}
	if !slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool { return r.is(s, binding.GetNamespace()) }) {
		return "", "", false
	}
	if role.Kind == clusterRole {
		return "", role.Name, true
	}
	return binding.GetNamespace(), role.Name, binding.GetNamespace() != ""
}

// is tells whether a subject of a binding in a namespace is the reader, or a group that it is in.
func (r Reader) is(s rbacv1.Subject, namespace string) bool {
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if s.Namespace != "" {
			namespace = s.Namespace
		}
		return s.APIGroup == "" && s.Name == r.Name && namespace == r.Namespace
	case rbacv1.UserKind:
		return s.Name == r.String()
	case rbacv1.GroupKind:
		return s.Name == serviceAccountGroup || s.Name == serviceAccountPrefix+r.Namespace || s.Name == authenticated
	}
	return false
}

// SecretRules returns what a Role or ClusterRole says about reading Secrets; nil: nothing.
func SecretRules(role metav1.Object) []rbacv1.PolicyRule {
	var rules []rbacv1.PolicyRule
	switch o := role.(type) {
	case *rbacv1.Role:
		rules = o.Rules
	case *rbacv1.ClusterRole:
		rules = o.Rules
	}
	has := func(list []string, s string) bool {
		return slices.Contains(list, s) || slices.Contains(list, everything)
	}
	var out []rbacv1.PolicyRule
	for i := range rules {
		rule := &rules[i]
		if !has(rule.APIGroups, secretsGroup) || !has(rule.Resources, secrets) {
			continue
		}
		var verbs []string
		for _, v := range ReadVerbs() {
			if has(rule.Verbs, v) {
				verbs = append(verbs, v)
			}
		}
		if len(verbs) > 0 {
			out = append(out, rbacv1.PolicyRule{
				Verbs: verbs, APIGroups: []string{secretsGroup}, Resources: []string{secrets}, ResourceNames: rule.ResourceNames,
			})
		}
	}
	return out
}
