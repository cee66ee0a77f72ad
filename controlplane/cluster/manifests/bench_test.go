package manifests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// application is a Route with its Service and EndpointSlice, as one would write them.
func application(n int, address string) string {
	return fmt.Sprintf(`apiVersion: route.openshift.io/v1
kind: Route
metadata:
  name: app-%[1]d
  namespace: ns-%[2]d
  annotations:
    haproxy.router.openshift.io/timeout: 30s
spec:
  host: app-%[1]d.demo.example
  path: /
  port: {targetPort: http}
  tls: {termination: edge, insecureEdgeTerminationPolicy: Redirect}
  to: {kind: Service, name: app-%[1]d, weight: 100}
---
apiVersion: v1
kind: Service
metadata: {name: app-%[1]d, namespace: ns-%[2]d}
spec:
  ports:
  - {name: http, port: 80, targetPort: 8080}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: app-%[1]d-x
  namespace: ns-%[2]d
  labels: {kubernetes.io/service-name: app-%[1]d}
addressType: IPv4
ports:
- {name: http, port: 8080}
endpoints:
- {addresses: [%[3]s], conditions: {ready: true}, zone: tok04}
- {addresses: [10.1.0.2], conditions: {ready: true}, zone: tok05}
`, n, n%50, address)
}

// applications writes n of them, a hundred to a file.
func applications(b *testing.B, dir string, n int) {
	b.Helper()
	for i := 0; i < n; i += 100 {
		var docs []string
		for j := i; j < min(i+100, n); j++ {
			docs = append(docs, application(j, "10.0.0.1"))
		}
		path := filepath.Join(dir, fmt.Sprintf("apps-%05d.yaml", i))
		write(b, path, strings.Join(docs, "---\n"))
		must(b, os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour))) // a file of just now is read again
	}
}

// A directory is read for the first time.
func BenchmarkReadDir(b *testing.B) {
	for _, objects := range []int{1000, 30000} {
		b.Run(fmt.Sprintf("objects=%d", objects), func(b *testing.B) {
			dir := b.TempDir()
			applications(b, dir, objects/3)
			b.ReportAllocs()
			for b.Loop() {
				d := newDir(b, DirConfig{Path: dir})
				if !d.read(b.Context(), func(string) {}) {
					b.Fatal("nothing read")
				}
			}
		})
	}
}

// One endpoint moves, in a file of its own and in one of 300 objects.
func BenchmarkOneEdit(b *testing.B) {
	for _, objects := range []int{1000, 30000} {
		for _, file := range []string{"own", "shared"} {
			b.Run(fmt.Sprintf("objects=%d/file=%s", objects, file), func(b *testing.B) {
				dir := b.TempDir()
				applications(b, dir, objects/3)
				path := filepath.Join(dir, "own.yaml")
				rest := ""
				if file == "shared" {
					path = filepath.Join(dir, "apps-00000.yaml")
					text, err := os.ReadFile(path)
					must(b, err)
					rest = string(text) + "---\n"
				}
				d := newDir(b, DirConfig{Path: dir})
				n := 0
				edit := func() {
					n++
					write(b, path, rest+application(999999, fmt.Sprintf("10.0.%d.%d", n/250%250, n%250+1)))
					d.read(b.Context(), func(string) {})
				}
				edit()
				d.Take()
				b.ReportAllocs()
				for b.Loop() {
					edit()
					if batch, _ := d.Take(); len(batch.Changes) != 1 {
						b.Fatalf("%d changes", len(batch.Changes))
					}
				}
			})
		}
	}
}
