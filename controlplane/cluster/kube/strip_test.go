package kube

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

// Of RBAC, what is not about the reader and Secrets is not kept, however much of it there is.
func TestStripAccess(t *testing.T) {
	t.Parallel()
	r := cluster.Reader{Namespace: "openshift-ingress", Name: "router"}
	account := rbacv1.Subject{Kind: "ServiceAccount", Namespace: "openshift-ingress", Name: "router"}
	rule := func(group, resource string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}
	}
	for what, c := range map[string]struct {
		obj  metav1.Object
		kept bool
	}{
		"a Role about Secrets":             {&rbacv1.Role{Rules: []rbacv1.PolicyRule{rule("apps", "*", "*"), rule("", "secrets", "get", "delete")}}, true},
		"a Role about changing Secrets":    {&rbacv1.Role{Rules: []rbacv1.PolicyRule{rule("", "secrets", "create", "update")}}, false},
		"a Role about another's Secrets":   {&rbacv1.Role{Rules: []rbacv1.PolicyRule{rule("example.com", "secrets", "*")}}, false},
		"a ClusterRole about all":          {&rbacv1.ClusterRole{Rules: []rbacv1.PolicyRule{rule("*", "*", "*")}}, true},
		"a ClusterRole about nothing":      {&rbacv1.ClusterRole{}, false},
		"a RoleBinding to the reader":      {&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "a"}, Subjects: []rbacv1.Subject{{Kind: "Group", Name: "x"}, account}}, true},
		"a RoleBinding to another":         {&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "a"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "router"}}}, false},
		"a ClusterRoleBinding to a Role":   {&rbacv1.ClusterRoleBinding{Subjects: []rbacv1.Subject{account}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "r"}}, false},
		"a ClusterRoleBinding to a reader": {&rbacv1.ClusterRoleBinding{Subjects: []rbacv1.Subject{account}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "r"}}, true},
		"nothing":                          {nil, false},
	} {
		got := stripAccess(r, c.obj)
		if (got != nil) != c.kept {
			t.Errorf("%s is kept: %t", what, got != nil)
		}
		if role, ok := got.(*rbacv1.Role); ok && (len(role.Rules) != 1 || len(role.Rules[0].Verbs) != 1) {
			t.Errorf("%s keeps %v", what, role.Rules)
		}
	}
}
