package haproxy

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/identity/authority"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// client asks HAProxy for backends by their names.
type client struct {
	t    *testing.T
	http *http.Client
}

// traffic starts an HAProxy of which a request chooses its backend, locked up in an empty directory. It returns false
// where the release has no backends at run time.
func traffic(t *testing.T, binary string) (*Runtime, client, bool) {
	t.Helper()
	p, dir := setup(t, binary, nil)
	must(t, os.MkdirAll(filepath.Join(dir, JailDir), 0o700))
	change(t, dir, "chroot /\n", "chroot "+JailDir+"\n")
	change(t, dir, "defaults\n", profile+strings.NewReplacer("plain", "hashed", "random", "hdr(x-key)\n  hash-type consistent").Replace(profile)+
		"defaults\n  retries 0\n")
	change(t, dir, "  default_backend b\n", "  bind unix@run/http.sock\n  use_backend %[req.hdr(x-backend)]\n  default_backend b\n")
	start(t, p)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, "run/http.sock"))
	}}
	t.Cleanup(transport.CloseIdleConnections)
	r := connect(t, p)
	return r, client{t, &http.Client{Transport: transport, Timeout: 10 * time.Second}}, r.Version().Capabilities().DynamicBackends
}

// get returns what a backend answers: its body, or the status of what is not 200.
func (c client) get(backend, path, key string) string {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, "http://x"+path, nil)
	must(c.t, err)
	req.Header.Set("x-backend", backend)
	req.Header.Set("x-key", key)
	resp, err := c.http.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	if resp.StatusCode != http.StatusOK {
		return resp.Status
	}
	return string(body)
}

// want says that each request to a backend is answered in this way.
func (c client) want(backend, answer string) {
	c.t.Helper()
	for range 3 {
		if got := c.get(backend, "/", "k"); got != answer {
			c.t.Errorf("%s answers %q, want %q", backend, got, answer)
		}
	}
}

// endpoint answers with its name; /held only after something came from hold.
func endpoint(t *testing.T, name string, arrived chan<- bool, hold <-chan bool) (*httptest.Server, string) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/held" {
			arrived <- true
			<-hold
		}
		_, _ = io.WriteString(w, name)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	return s, s.Listener.Addr().String()
}

// Servers that come to a backend get traffic, whatever balances it (haproxy#3413).
func TestServersGetTraffic(t *testing.T) { haproxytest.Each(t, serversStory) }

func serversStory(t *testing.T, binary string) {
	r, c, ok := traffic(t, binary)
	if !ok {
		return
	}
	ctx := t.Context()
	for _, profile := range []string{"plain", "hashed"} {
		refuse(t, r, AddBackend(profile, profile)) // its name is taken
		backend := "x:" + profile
		must(t, r.Do(ctx, AddBackend(backend, profile), PublishBackend(backend)))
		c.want(backend, "503 Service Unavailable")
		for _, name := range []string{"one", "two", "three"} {
			s, addr := endpoint(t, name, nil, nil)
			s.Start()
			must(t, r.Do(ctx, AddServer(backend, name, addr), SetServerState(backend, name, Ready)))
			found := false
			for i := 0; i < 500 && !found; i++ {
				found = c.get(backend, "/", strconv.Itoa(i)) == name
			}
			if !found {
				t.Errorf("%s: %s gets no traffic", profile, name)
			}
		}
	}
}

// A request that is under way is answered, though its server goes to maintenance and its backend is unpublished; until
// then neither can be deleted; and both may come back.
func TestDrain(t *testing.T) { haproxytest.Each(t, drainStory) }

func drainStory(t *testing.T, binary string) {
	r, c, ok := traffic(t, binary)
	if !ok {
		return
	}
	ctx := t.Context()
	arrived, hold := make(chan bool), make(chan bool)
	s, addr := endpoint(t, "one", arrived, hold)
	s.Start()
	must(t, r.Do(ctx, AddBackend("x", "plain"), AddServer("x", "s", addr), SetServerState("x", "s", Ready)))
	c.want("x", "503 Service Unavailable") // not published
	must(t, r.Do(ctx, PublishBackend("x")))
	c.want("x", "one")

	answer := make(chan string)
	go func() { answer <- c.get("x", "/held", "") }()
	<-arrived
	must(t, r.Do(ctx, UnpublishBackend("x")))
	c.want("x", "503 Service Unavailable")
	must(t, r.Do(ctx, SetServerState("x", "s", Maint)))
	refuse(t, r, DelServer("x", "s"), AwaitRemovable("x", "s", 10), DelBackend("x"), AwaitBackendRemovable("x", 1000))
	if stats, err := r.ServerStats(ctx, "x"); err != nil || stats[0]["s"].Sessions != 1 || stats[0]["s"].Status != "MAINT" {
		t.Errorf("%+v, %v", stats, err)
	}
	must(t, r.Do(ctx, PublishBackend("x"), SetServerState("x", "s", Ready)))
	c.want("x", "one")
	must(t, r.Do(ctx, SetServerState("x", "s", Maint), UnpublishBackend("x")))
	hold <- true
	if got := <-answer; got != "one" {
		t.Errorf("the request that was under way got %q", got)
	}
	// The connections that are left are idle, and closed by waiting.
	must(t, r.Do(ctx, AwaitRemovable("x", "s", 5000), DelServer("x", "s"), AwaitBackendRemovable("x", 5000), DelBackend("x")))
	c.want("x", "503 Service Unavailable")
}

// A CA that came at run time is there for servers that are added, in an empty root directory too; those that are there
// keep it whatever happens to it.
func TestNewCA(t *testing.T) { haproxytest.Each(t, newCAStory) }

func newCAStory(t *testing.T, binary string) {
	r, c, ok := traffic(t, binary)
	if !ok {
		return
	}
	ctx := t.Context()
	ca, pems := issue(t, "a.test")
	other, err := authority.NewAuthority("other")
	must(t, err)
	s, addr := endpoint(t, "one", nil, nil)
	pair, err := tls.X509KeyPair([]byte(pems[0]), []byte(pems[0]))
	must(t, err)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.StartTLS()

	const file = "ca/new.pem"
	add := func(name string) []Op {
		return []Op{AddServer("x", name, addr, "ssl", "verify", "required", "ca-file", file, "sni", "str(a.test)"), SetServerState("x", name, Ready)}
	}
	must(t, r.Do(ctx, NewCA(file)))
	refuse(t, r, NewCA(file), DelCA("ca/nope.pem"))
	must(t, r.Do(ctx, SetCA(file, string(ca.CertPEM()), r.Version(), 16384)[0], CommitCA(file), AddBackend("x", "plain"), PublishBackend("x")))
	must(t, r.Do(ctx, add("first")...))
	c.want("x", "one")
	must(t, r.Do(ctx, SetCA(file, string(other.CertPEM()), r.Version(), 16384)[0], CommitCA(file)))
	c.want("x", "one")
	must(t, r.Do(ctx, DelCA(file))) // although it is used
	c.want("x", "one")
	refuse(t, r, add("none")[0])
	must(t, r.Do(ctx, NewCA(file), SetCA(file, string(other.CertPEM()), r.Version(), 16384)[0], CommitCA(file)))
	must(t, r.Do(ctx, append(add("second"), SetServerState("x", "first", Maint))...))
	c.want("x", "503 Service Unavailable")
	stats, err := r.ServerStats(ctx, "x")
	if got := stats[0]["second"]; err != nil || got.Econ != 3 || got.Eresp != 0 || stats[0]["first"].Econ != 0 {
		t.Errorf("%+v, %v", stats, err)
	}
	must(t, r.Do(ctx, SetServerState("x", "first", Ready), SetServerState("x", "second", Maint)))
	c.want("x", "one")
}
