package test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// `tsuji demo` serves its four hosts in both zones, each TLS host with its own certificate, takes an edit, and on
// SIGTERM ends everything that it started.
func TestDemo(t *testing.T) {
	dir, err := os.MkdirTemp("", "tj")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	manifests := filepath.Join(dir, "manifests")
	if err := os.CopyFS(manifests, os.DirFS("../examples/demo")); err != nil {
		t.Fatal(err)
	}
	const offset = 1000 // below the ports that clients get, in a namespace that is ours alone
	state := filepath.Join(dir, "state")
	log := filepath.Join(dir, "demo.log")
	p := start(t, log, "tsuji", "demo", "--source="+manifests, "--state-dir="+state, "--bin-dir="+bin, "--haproxy="+haproxytest.Binary(t), fmt.Sprintf("--port-offset=%d", offset))
	eventually(t, "the demo tells what to try", func() error {
		select {
		case <-p.done:
			b, _ := os.ReadFile(log)
			t.Fatalf("the demo ended:\n%s", b)
		default:
		}
		return p.logged("Ctrl-C ends everything but what you started again by hand")
	})

	ca, err := os.ReadFile(filepath.Join(state, "tls", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	for _, zone := range []int{14000, 15000} {
		plain := fmt.Sprintf("127.0.0.1:%d", zone+80+offset)
		if err := answers(plain, "hello.demo.example", "/", "Hello from backend-"); err != nil {
			t.Error(err)
		}
		for _, host := range []string{"edge.demo.example", "reencrypt.demo.example", "passthrough.demo.example"} {
			c := &http.Client{Timeout: patience, Transport: &http.Transport{
				DisableKeepAlives: true,
				TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, // verifies the host's name
				DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return (&net.Dialer{}).DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", zone+443+offset))
				},
			}}
			req, err := http.NewRequest(http.MethodGet, "https://"+host+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			if code, body, err := do(c, req); err != nil || code != 200 || !strings.HasPrefix(body, "Hello from backend-") {
				t.Errorf("https://%s on port %d: %d %q %v", host, zone+443+offset, code, body, err)
			}
		}
	}

	// An edit shows in both zones. With an offset the demo serves a copy of the manifests: that is where it goes.
	hello := filepath.Join(state, "manifests", "hello.yaml")
	manifest, err := os.ReadFile(hello)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.ReplaceAll(string(manifest), "hello.demo.example", "edited.demo.example")
	if err := os.WriteFile(hello, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, zone := range []int{14080, 15080} {
		eventually(t, "the zone takes the edit", func() error {
			return answers(fmt.Sprintf("127.0.0.1:%d", zone+offset), "edited.demo.example", "/", "Hello from backend-")
		})
	}

	var pids []string
	for _, name := range []string{"controlplane", "tok04", "tok05"} {
		b, err := os.ReadFile(filepath.Join(state, name+".pid"))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, strings.TrimSpace(string(b)))
	}
	p.terminate()
	for _, pid := range pids {
		if _, err := os.Stat("/proc/" + pid); err == nil {
			t.Errorf("process %s is still there", pid)
		}
	}
	for _, zone := range []string{"tok04", "tok05"} {
		r := &router{f: &fleet{t: t}, haproxyDir: filepath.Join(state, zone, "haproxy")}
		if master, workers := r.haproxyPIDs(); master != 0 || len(workers) > 0 {
			t.Errorf("HAProxy of %s is still there: %d %v", zone, master, workers)
		}
	}
}
