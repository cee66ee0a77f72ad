package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// BenchmarkFirstStart is a router that comes up with so many routes in its store, two endpoints each: all files are
// rendered and written, and HAProxy reads them, until it serves and has been verified.
func BenchmarkFirstStart(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := routes(b, n)
			for b.Loop() {
				b.StopTimer()
				dir, err := os.MkdirTemp("", "tj")
				if err != nil {
					b.Fatal(err)
				}
				a := newApplier(b, dir)
				b.StartTimer()
				if err := a.Start(context.Background(), s); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := a.Stop(context.Background()); err != nil {
					b.Fatal(err)
				}
				if err := os.RemoveAll(dir); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// newApplier makes an applier whose HAProxy runs in the directory, on addresses of its own.
func newApplier(b *testing.B, dir string) *apply.Applier {
	b.Helper()
	process, err := haproxy.New(haproxy.Config{Binary: haproxytest.Binary(b), Dir: filepath.Join(dir, "haproxy"), TieToParent: true})
	if err != nil {
		b.Fatal(err)
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		b.Fatal(err)
	}
	r, err := render.New(render.Options{
		HTTP: []string{haproxytest.FreeAddress(b)}, Stats: []string{haproxytest.FreeAddress(b)}, FileDescriptors: int(min(files.Max, 1<<20)), Jail: true, User: 65534, Group: 65534,
	})
	if err != nil {
		b.Fatal(err)
	}
	return apply.New(apply.Config{Renderer: r, HAProxy: process})
}

// routes is a snapshot of n insecure routes with the default settings.
func routes(b *testing.B, n int) snapshot.Snapshot {
	b.Helper()
	config, facts := compile.New(compile.Config{}).Apply(nil).Config.Edit(), snapshot.Set{}.Edit()
	for i := range n {
		config.Put(encode(b, routeOf(i)))
		facts.Put(encode(b, endpointsOf(i, 0)))
	}
	return snapshot.New(1, config.Set(), facts.Set())
}

func routeOf(i int) *tsujiv1.Resource {
	name := fmt.Sprintf("r%05d", i)
	return &tsujiv1.Resource{Name: tsujiv1.RouteName("bench", name), Kind: &tsujiv1.Resource_Route{Route: &tsujiv1.Route{
		Namespace: "bench", Name: name, Host: name + ".example.com", Path: "/", Termination: tsujiv1.Termination_TERMINATION_INSECURE,
		Backends: []*tsujiv1.BackendRef{{Endpoints: tsujiv1.EndpointsName("bench", name, tsujiv1.AnyPort), Weight: 1, Service: name}},
		Balance:  tsujiv1.Balance_BALANCE_RANDOM,
		Cookie:   &tsujiv1.Cookie{Name: fmt.Sprintf("%032x", i)},
	}}}
}

// endpointsOf are two endpoints, of which one is elsewhere in each generation.
func endpointsOf(i, generation int) *tsujiv1.Resource {
	name := fmt.Sprintf("r%05d", i)
	e := &tsujiv1.Endpoints{Namespace: "bench", Service: name, Port: tsujiv1.AnyPort}
	for n, port := range []int{8080, 8081 + generation%50_000} {
		e.Endpoints = append(e.Endpoints, &tsujiv1.Endpoint{
			Address: fmt.Sprintf("10.64.%d.%d", i/250, 1+i%250), Port: uint32(port),
			TargetKind: "Pod", TargetName: fmt.Sprintf("%s-%d", name, n), Ready: true, Serving: true,
		})
	}
	return &tsujiv1.Resource{Name: tsujiv1.EndpointsName("bench", name, tsujiv1.AnyPort), Kind: &tsujiv1.Resource_Endpoints{Endpoints: e}}
}

func encode(b *testing.B, r *tsujiv1.Resource) snapshot.Item {
	b.Helper()
	i, err := tsujiv1.Encode(r)
	if err != nil {
		b.Fatal(err)
	}
	return i
}
