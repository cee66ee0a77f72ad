package test

import (
	"fmt"
	"strings"
)

// service is a Service with its EndpointSlice: one ready Pod for each address.
func service(name string, port int, addresses ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: shop}
spec: {ports: [{name: web, port: 80, targetPort: %[2]d}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-1, namespace: shop, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{name: web, port: %[2]d, protocol: TCP}]
endpoints:
`, name, port)
	for i, a := range addresses {
		fmt.Fprintf(&b, "  - {addresses: [%q], conditions: {ready: true}, targetRef: {kind: Pod, name: %s-%d, namespace: shop}}\n", a, name, i)
	}
	if len(addresses) == 0 {
		return strings.TrimSuffix(b.String(), "endpoints:\n") + "endpoints: []\n---\n"
	}
	return b.String() + "---\n"
}

// route is a Route to a service; more is indented into its spec as it is.
func route(name, host, service string, more ...string) string {
	return annotatedRoute(name, host, service, "", more...)
}

// annotatedRoute is a Route with one annotation, written as YAML.
func annotatedRoute(name, host, service, annotation string, more ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: route.openshift.io/v1
kind: Route
metadata:
  name: %s
  namespace: shop
  creationTimestamp: "2026-01-01T00:00:00Z"
`, name)
	if annotation != "" {
		fmt.Fprintf(&b, "  annotations:\n    %s\n", annotation)
	}
	fmt.Fprintf(&b, "spec:\n  host: %s\n  to: {kind: Service, name: %s}\n", host, service)
	for _, m := range more {
		b.WriteString(indent(m, "  "))
	}
	return b.String() + "---\n"
}

// indent puts the margin before each line.
func indent(s, margin string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimRight(s, "\n") + "\n") {
		b.WriteString(margin + line)
	}
	return b.String()
}

// pemField is a field with a PEM block as its value.
func pemField(name string, pem []byte) string {
	return name + ": |\n" + indent(string(pem), "  ")
}
