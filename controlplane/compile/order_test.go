package compile_test

import (
	"slices"
	"testing"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// Cases in which replicas of OpenShift's router disagree, or one of them forgets to let go: each is a history,
// and what it leads to is what compiling its last objects from nothing leads to, whatever comes first.
func TestHistoriesDoNotMatter(t *testing.T) {
	t.Parallel()
	const controller = `
kind: IngressController
metadata: {namespace: openshift-ingress-operator, name: default, annotations: {tsuji.dev/denied-domains: denied.example.com}}
spec:
  namespaceSelector: {matchLabels: {shard: a}}
  routeAdmission: {wildcardPolicy: WildcardsAllowed}
  clientTLS: {clientCertificatePolicy: "", clientCA: {name: ""}}
  unsupportedConfigOverrides: null
---
kind: Namespace
metadata: {name: ns1, labels: {shard: a}}
---
kind: Namespace
metadata: {name: ns2, labels: {shard: a}}
`
	for _, c := range []struct {
		what    string
		history []string // portions, one after the other
		want    []string // the admitted ones in the end
	}{
		{"the oldest Route moves to a path that a younger one holds", []string{
			route("ns1", "a", 2, "{host: x.example.com, path: /, to: {name: web}}") + "---" +
				route("ns1", "b", 3, "{host: x.example.com, path: /foo, to: {name: web}}") + "---" +
				route("ns1", "c", 1, "{host: x.example.com, path: /bar, to: {name: web}}"),
			route("ns1", "c", 1, "{host: x.example.com, path: /foo, to: {name: web}}"),
		}, []string{"ns1/a", "ns1/c"}},
		{"no path and / are one path, whoever comes first", []string{
			route("ns1", "slash", 2, "{host: x.example.com, path: /, to: {name: web}}"),
			route("ns1", "empty", 1, "{host: x.example.com, to: {name: web}}"),
		}, []string{"ns1/empty"}},
		{"a namespace leaves the shard: its hosts and its wildcards are free", []string{
			route("ns1", "host", 1, "{host: x.example.com, to: {name: web}}") + "---" +
				route("ns1", "wildcard", 1, "{host: any.w.example.com, wildcardPolicy: Subdomain, to: {name: web}}") + "---" +
				route("ns2", "host", 2, "{host: x.example.com, to: {name: web}}") + "---" +
				route("ns2", "below", 2, "{host: y.w.example.com, to: {name: web}}"),
			"kind: Namespace\nmetadata: {name: ns1, labels: {shard: b}}\n",
		}, []string{"ns2/below", "ns2/host"}},
		{"a Route is changed to what is denied: what it held is free", []string{
			route("ns1", "first", 1, "{host: x.example.com, to: {name: web}}"),
			route("ns2", "next", 2, "{host: x.example.com, to: {name: web}}"),
			route("ns1", "first", 1, "{host: very.denied.example.com, to: {name: web}}"),
		}, []string{"ns2/next"}},
		{"a Route is changed to what another has: what it held is free", []string{
			route("ns1", "first", 2, "{host: x.example.com, to: {name: web}}"),
			route("ns2", "next", 3, "{host: x.example.com, to: {name: web}}"),
			route("ns2", "other", 1, "{host: y.example.com, to: {name: web}}"),
			route("ns1", "first", 2, "{host: y.example.com, to: {name: web}}"),
		}, []string{"ns2/next", "ns2/other"}},
		{"passthrough comes to a host with other TLS, and is older", []string{
			route("ns1", "edge", 2, "{host: x.example.com, to: {name: web}, tls: {termination: edge}}"),
			route("ns1", "passthrough", 1, "{host: x.example.com, to: {name: web}, tls: {termination: passthrough}}"),
		}, []string{"ns1/passthrough"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			w.apply(changesOf(t, controller)...)
			for _, h := range c.history {
				w.apply(changesOf(t, h)...)
			}
			if got := admitted(w); !slices.Equal(got, c.want) {
				t.Errorf("admitted are %v, want %v", got, c.want)
			}
			var last []cluster.Change
			for _, o := range w.objects {
				last = append(last, put(o))
			}
			slices.SortFunc(last, func(a, b cluster.Change) int { return a.Key.Compare(b.Key) })
			for range last { // each comes first once
				last = append(last[1:], last[0])
				fresh := newWorld()
				for _, ch := range last {
					fresh.apply(ch)
				}
				if got := admitted(fresh); !slices.Equal(got, c.want) {
					t.Errorf("one that begins with %s admits %v", last[0].Key, got)
				}
				if versionOf(fresh.last) != versionOf(w.last) {
					t.Errorf("one that begins with %s has other resources", last[0].Key)
				}
			}
		})
	}
}

// route is a Route, created in a year.
func route(namespace, name string, year int, spec string) string {
	return "\nkind: Route\nmetadata: {namespace: " + namespace + ", name: " + name +
		", creationTimestamp: \"200" + string(rune('0'+year)) + "-01-01T00:00:00Z\"}\nspec: " + spec + "\n"
}

func admitted(w *world) []string {
	var out []string
	for _, v := range w.verdicts {
		if v.GetAdmitted() {
			out = append(out, v.GetNamespace()+"/"+v.GetName())
		}
	}
	slices.Sort(out)
	return out
}

func versionOf(r compile.Result) string {
	return snapshot.New(0, r.Config, r.Facts).Version().String()
}
