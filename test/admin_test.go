package test

import (
	"context"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Both daemons show profiles only on a socket that was asked for, and metrics only to whom a page in a browser is not. The
// stats address, which HAProxy answers, and probes know no names.
func TestAdminAddresses(t *testing.T) {
	f := newFleet(t)
	ip, port := backend(t, "pod")
	f.write("web.yaml", service("web", port, ip)+route("hello", "hello.example.com", "web"))
	sockets := map[string]string{"controlplane": filepath.Join(f.dir, "cp.profiles"), "routerd": filepath.Join(f.dir, "r.profiles")}
	t.Setenv("TSUJI_ADMIN_HOSTS", "metrics.example.com")
	t.Setenv("TSUJI_PROFILES", sockets["controlplane"])
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	r.start("--profiles=" + sockets["routerd"])
	r.ready()
	f.converged(f.operator(), "router-a")

	for daemon, address := range map[string]string{"controlplane": f.controlPlane().admin, "routerd": r.admin} {
		for _, c := range []struct {
			host, path string
			want       int
		}{
			{address, "/metrics", 200}, {daemon + ".tsuji.svc:80", "/metrics", 200}, {"metrics.example.com", "/metrics", 200},
			{"evil.example", "/metrics", 421}, {"evil.example", "/readyz", 200}, {"evil.example", "/healthz", 200},
			{address, "/debug/pprof/", 404}, {"localhost", "/debug/pprof/heap", 404},
		} {
			if code, body, err := get(address, c.host, c.path); code != c.want || err != nil {
				t.Errorf("%s, %s of %s: %d %v, want %d\n%.300s", daemon, c.path, c.host, code, err, c.want, body)
			}
		}
		info, err := os.Lstat(sockets[daemon])
		if err != nil || info.Mode() != fs.ModeSocket|0o600 {
			t.Fatalf("%s: %v, %v", daemon, info, err)
		}
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", sockets[daemon])
		}
		client := &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/debug/pprof/goroutine?debug=1", nil)
		if code, body, err := do(client, req); code != 200 || !strings.Contains(body, "goroutine profile") {
			t.Errorf("%s: %d %v\n%.300s", daemon, code, err, body)
		}
	}
	for _, path := range []string{"/metrics", "/healthz", "/healthz/ready"} {
		if code, _, err := get(r.stats, "router-internal-default.tsuji.example", path); code != 200 {
			t.Errorf("the stats address, %s: %d, %v", path, code, err)
		}
	}
}
