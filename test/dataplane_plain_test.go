package test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// startPlanes starts each configuration with so many routes: ours first, then the one that ours is compared with.
func startPlanes(b *testing.B, cores planeCores, n int, pods []string) []*plane {
	b.Helper()
	planes := []*plane{startOurs(b, "ours", n, pods)}
	names := []string{"equal", "bare"}
	if n == 1_000 {
		names = append(names, "regex")
	}
	for _, name := range names {
		planes = append(planes, startPlain(b, name, n, pods))
	}
	if n == 10_000 {
		for _, name := range []string{"passed", "added", "options"} {
			planes = append(planes, startOurs(b, name, n, pods))
		}
	}
	for _, p := range planes {
		procs, err := p.haproxy.Processes(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		p.pid = procs.Worker
		cores.pin(b, p.pid)
	}
	return planes
}

// newPlane makes a process in a directory of its own, and the addresses that it is to have.
func newPlane(b *testing.B, name string) *plane {
	b.Helper()
	dir, err := os.MkdirTemp("", "tj")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	process, err := haproxy.New(haproxy.Config{Binary: haproxytest.Binary(b), Dir: filepath.Join(dir, "haproxy"), TieToParent: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		process.Kill()
		process.Close()
	})
	return &plane{name: name, http: haproxytest.FreeAddress(b), https: haproxytest.FreeAddress(b), haproxy: process}
}

// startOurs puts a snapshot of routes into force, as routerd does. They are served over HTTP and HTTPS, and have no options
// unless that is the name. passed: there is a passthrough route besides. added: the hosts that are asked for again and
// again came at run time.
func startOurs(b *testing.B, name string, n int, pods []string) *plane {
	b.Helper()
	p := newPlane(b, name)
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		b.Fatal(err)
	}
	renderer, err := render.New(render.Options{
		HTTP: []string{p.http}, HTTPS: []string{p.https}, Stats: []string{haproxytest.FreeAddress(b)},
		DefaultCertificate: planeCertificate(b), FileDescriptors: int(min(files.Max, 1<<20)), Jail: true, User: 65534, Group: 65534,
	})
	if err != nil {
		b.Fatal(err)
	}
	compiled := compile.New(compile.Config{}).Apply(nil).Config
	item, _ := compiled.Get(tsujiv1.SettingsName)
	settings, err := tsujiv1.Decode(item)
	if err != nil {
		b.Fatal(err)
	}
	if settings.GetSettings().Tuning == nil {
		settings.GetSettings().Tuning = &tsujiv1.Tuning{}
	}
	settings.GetSettings().Tuning.Threads = 1
	config, facts := compiled.Edit(), snapshot.Set{}.Edit()
	config.Put(encode(b, settings))
	asked := map[string]bool{}
	for _, host := range planeHosts(planeHostsN, n) {
		asked[host] = true
	}
	var later snapshot.Delta
	for i := range n {
		r := planeRoute(i, name == "options")
		e := endpointsOf(i, 0)
		for k, endpoint := range e.GetEndpoints().GetEndpoints() {
			host, port := splitAddress(b, pods[k])
			endpoint.Address, endpoint.Port = host, port
		}
		if name == "added" && asked[r.GetRoute().GetHost()] {
			later.Put = append(later.Put, encode(b, r), encode(b, e))
			continue
		}
		config.Put(encode(b, r))
		facts.Put(encode(b, e))
	}
	if name == "passed" {
		r := routeOf(n)
		r.GetRoute().Termination = tsujiv1.Termination_TERMINATION_PASSTHROUGH
		config.Put(encode(b, r))
		facts.Put(encode(b, endpointsOf(n, 0)))
	}
	applier := apply.New(apply.Config{Renderer: renderer, HAProxy: p.haproxy})
	s := snapshot.New(1, config.Set(), facts.Set())
	if err := applier.Start(b.Context(), s); err != nil {
		b.Fatal(err)
	}
	if len(later.Put) > 0 {
		before, err := p.haproxy.Processes(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if r := applier.Apply(b.Context(), s.Apply(2, later), later); r != nil {
			b.Fatal(r.GetMessage())
		}
		after, err := p.haproxy.Processes(b.Context())
		if err != nil || after.Worker != before.Worker {
			b.Fatal("what is added cost a reload", err)
		}
	}
	return p
}

// planeRoute is a route over HTTP and HTTPS, without or with several options.
func planeRoute(i int, options bool) *tsujiv1.Resource {
	resource := routeOf(i)
	r := resource.GetRoute()
	r.Termination = tsujiv1.Termination_TERMINATION_EDGE
	r.InsecurePolicy = tsujiv1.InsecurePolicy_INSECURE_POLICY_ALLOW
	if options {
		r.Hsts = "max-age=31536000;includeSubDomains"
		r.Timeouts = &tsujiv1.RouteTimeouts{Server: durationpb.New(time.Minute)}
		r.Rewrite = &tsujiv1.PathRewrite{Target: "/app"}
		r.RestrictSources, r.AllowedSources = true, []string{"10.0.0.0/8", "127.0.0.0/8"}
		r.RateLimit = &tsujiv1.RateLimit{RequestsPer_10S: 1_000_000_000}
	}
	return resource
}

// plainHead is what the plain configurations have before their backends, with our defaults for timeouts, buffers, and
// clients that hang up.
const plainHead = `global
  nbthread 1
  stats socket unix@run/admin.sock mode 600 level admin
  tune.bufsize 32768
  tune.maxrewrite 8192
  ssl-default-bind-options ssl-min-ver TLSv1.2

defaults client
  mode http
  timeout client 30s
  timeout client-fin 1s
  timeout http-request 10s
  timeout http-keep-alive 300s

frontend public from client
  bind %s
  bind %s ssl crt default.pem alpn http/1.1
  use_backend %s

defaults http
  mode http
  timeout connect 5s
  timeout server 30s
  timeout server-fin 1s
  timeout tunnel 1h
  retries 3
  option redispatch 1
  retry-on conn-failure
  no option abortonclose
  balance random
  option forwardfor
`

// plainEqual is what OpenShift's router does for each request of a route without options.
const plainEqual = `  http-request add-header X-Forwarded-Host %[req.hdr(host)]
  http-request add-header X-Forwarded-Port %[dst_port]
  http-request add-header X-Forwarded-Proto http if !{ ssl_fc }
  http-request add-header X-Forwarded-Proto https if { ssl_fc }
  http-request add-header X-Forwarded-Proto-Version h2 if { ssl_fc_alpn -i h2 }
  http-request add-header Forwarded 'for="[%[src]]";host=%[req.hdr(host)];proto=%[ssl_fc,iif(https,http)]' if { src -m sub : }
  http-request add-header Forwarded 'for=%[src];host=%[req.hdr(host)];proto=%[ssl_fc,iif(https,http)]' if !{ src -m sub : }
`

// startPlain starts one of the plain configurations: bare, equal or regex.
func startPlain(b *testing.B, name string, n int, pods []string) *plane {
	b.Helper()
	p := newPlane(b, name)
	use := "%[req.hdr(host),lower,field(1,:),map_str(routes.map)]"
	if name == "regex" {
		use = "%[base,map_reg(routes.map)]"
	}
	var config, routes strings.Builder
	fmt.Fprintf(&config, plainHead, p.http, p.https, use)
	if name != "bare" {
		config.WriteString(plainEqual)
	}
	for i := range n {
		fmt.Fprintf(&config, "\nbackend plain:%05d from http\n", i)
		if name != "bare" {
			fmt.Fprintf(&config, "  cookie %032x insert indirect nocache httponly\n", i)
		}
		for k, address := range pods {
			fmt.Fprintf(&config, "  server pod:%d %s", k, address)
			if name != "bare" {
				fmt.Fprintf(&config, " cookie %032x", i*len(pods)+k)
			}
			config.WriteString("\n")
		}
		key := planeHost(i)
		if name == "regex" {
			key = "^" + regexp.QuoteMeta(key) + `\.?(:[0-9]+)?(/.*)?$`
		}
		fmt.Fprintf(&routes, "%s plain:%05d\n", key, i)
	}
	files := map[string][]byte{
		"haproxy.cfg": []byte(config.String()), "routes.map": []byte(routes.String()), "default.pem": planeCertificate(b),
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if err := os.WriteFile(filepath.Join(p.haproxy.Dir(), file), files[file], 0o600); err != nil {
			b.Fatal(err)
		}
	}
	runtime, err := p.haproxy.Start(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	runtime.Close()
	return p
}
