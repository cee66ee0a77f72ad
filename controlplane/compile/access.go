package compile

import (
	"maps"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

// access decides whether the reader may read a Secret, by what RBAC grants it.
//
// OpenShift's router asks the API server three times for each Route, at every change of it. The answers are in
// objects that change seldom, so that these are followed and nobody is asked: a right that is given or taken is in
// force at once, and an API server that is gone takes none away. Rights that come from elsewhere than RBAC are
// not seen.
type access struct {
	reader   cluster.Reader             // zero: nobody's right counts
	rules    map[id][]rbacv1.PolicyRule // what a role says about Secrets; of ClusterRoles, the namespace is empty
	bindings map[id]id                  // the roles of the bindings to the reader; the namespace as above
	bound    map[string]map[id]struct{} // those bindings, by their namespace
	users    map[id]map[id]struct{}     // and by their role
}

func newAccess(reader cluster.Reader) access {
	return access{reader: reader, rules: map[id][]rbacv1.PolicyRule{}, bindings: map[id]id{}, bound: map[string]map[id]struct{}{}, users: map[id]map[id]struct{}{}}
}

// put takes an object of RBAC, and marks the namespaces in which the reader may now do something else.
func (a *access) put(ch cluster.Change, d *dirty) {
	if a.reader == (cluster.Reader{}) {
		return
	}
	k := id{Namespace: ch.Key.Namespace, Name: ch.Key.Name}
	if ch.Key.Kind == cluster.Role || ch.Key.Kind == cluster.ClusterRole {
		rules := cluster.SecretRules(ch.Object)
		if slices.EqualFunc(rules, a.rules[k], equalRules) {
			return
		}
		if a.rules[k] = rules; len(rules) == 0 {
			delete(a.rules, k)
		}
		for b := range a.users[k] {
			d.access[b.Namespace] = struct{}{}
		}
		return
	}
	old, was := a.bindings[k]
	var role id
	var is bool
	role.Namespace, role.Name, is = a.reader.BoundBy(ch.Object)
	if was == is && old == role {
		return
	}
	if was {
		delete(a.bindings, k)
		unlink(a.bound, k.Namespace, k)
		unlink(a.users, old, k)
	}
	if is {
		a.bindings[k] = role
		link(a.bound, k.Namespace, k, struct{}{})
		link(a.users, role, k, struct{}{})
	}
	d.access[k.Namespace] = struct{}{}
}

func equalRules(a, b rbacv1.PolicyRule) bool {
	return slices.Equal(a.Verbs, b.Verbs) && slices.Equal(a.ResourceNames, b.ResourceNames)
}

// missing returns what the reader must be allowed of a Secret and is not; nil: it may read it.
func (a *access) missing(secret id) []string {
	if a.reader == (cluster.Reader{}) {
		return nil
	}
	missing := cluster.ReadVerbs()
	for _, namespace := range []string{"", secret.Namespace} {
		for b := range a.bound[namespace] {
			for _, rule := range a.rules[a.bindings[b]] {
				if len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, secret.Name) {
					missing = slices.DeleteFunc(missing, func(v string) bool { return slices.Contains(rule.Verbs, v) })
				}
			}
		}
	}
	return missing
}

// markAccess marks the Routes whose Secrets may have become readable, or ceased to be.
func (c *Compiler) markAccess(d *dirty) {
	if _, all := d.access[""]; all {
		for _, rs := range c.objects.routesBySecret {
			maps.Copy(d.content, rs)
		}
		return
	}
	for namespace := range d.access {
		for k, r := range c.objects.routesByNamespace[namespace] {
			if externalCertificateOf(r.object) != "" {
				d.content[k] = r
			}
		}
	}
}
