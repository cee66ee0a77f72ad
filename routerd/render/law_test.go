package render_test

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// disk holds what was written.
type disk map[string]string

func (d disk) sync(r *render.Renderer) {
	files := r.Dirty()
	for _, f := range files {
		if f.Remove {
			delete(d, f.Path)
		} else {
			d[f.Path] = string(f.Content)
		}
	}
	r.Written(files)
}

// pool is what random snapshots are made of: for each name some contents.
var pool = sync.OnceValue(func() map[string][]*tsujiv1.Resource {
	p := map[string][]*tsujiv1.Resource{}
	add := func(r *tsujiv1.Resource) { p[r.GetName()] = append(p[r.GetName()], r) }
	ca := theAuthority()
	for i := range 3 {
		for _, names := range [][]string{{"a.x"}, {"a.x"}, {"b.x"}} {
			c, k := ca.issue(names...)
			add(certificateOf("ns", fmt.Sprintf("c%d", i), c, k))
		}
	}
	for range 2 {
		add(bundleOf("ns", "ca", newAuthority().pem))
	}
	for i := range 3 {
		for n := range 4 {
			var list []*tsujiv1.Endpoint
			for e := range n {
				x := endpoint(fmt.Sprintf("10.0.%d.%d", i, e), 80)
				x.Ready = e != 2
				x.Terminating = e == 2
				list = append(list, x)
			}
			if n == 3 {
				list[0].AppProtocol = tsujiv1.AppProtocol_APP_PROTOCOL_H2C
			}
			add(endpointsOf("ns", fmt.Sprintf("s%d", i), list...))
		}
	}
	for i := range 6 {
		for j := range 12 {
			r := simple(fmt.Sprintf("r%d", i), []string{"a.x", "b.x", "a.b.x"}[(i+j)%3], []string{"/", "/a", "/a/"}[j%3], edge, none)
			r.Termination = []tsujiv1.Termination{insecure, edge, reencrypt, passthrough}[j%4]
			r.InsecurePolicy = []tsujiv1.InsecurePolicy{none, allow, redirect}[j%3]
			r.Wildcard = j%5 == 0
			r.Backends = []*tsujiv1.BackendRef{backend("ns", "s0", 100), backend("ns", fmt.Sprintf("s%d", i%3), uint32(j*10))}
			r.Certificate = tsujiv1.CertificateName("ns", tsujiv1.FromRoute, fmt.Sprintf("c%d", j%3))
			r.DestinationTls = &tsujiv1.DestinationTLS{Verify: true, Ca: tsujiv1.CertificateName("ns", tsujiv1.FromDestinationCA, "ca")}
			if j > 8 {
				r.HealthCheckInterval = durationpb.New(5e9)
			}
			add(routeOf(r))
		}
	}
	for i := range 4 {
		s := &tsujiv1.Settings{Http2: i%2 == 0}
		if i > 1 {
			s.DefaultCertificate = tsujiv1.CertificateName("ns", tsujiv1.FromRoute, "c0")
			s.ErrorPages = &tsujiv1.ErrorPages{NotFound: []byte("HTTP/1.0 404 gone\r\n\r\n")}
		}
		add(&tsujiv1.Resource{Name: "settings", Kind: &tsujiv1.Resource_Settings{Settings: s}})
	}
	return p
})

// set returns a random set of resources.
func randomSet(t *rapid.T) map[string]snapshot.Item {
	set := map[string]snapshot.Item{}
	all := pool()
	for _, name := range sortedNames(all) {
		if i := rapid.IntRange(-1, len(all[name])-1).Draw(t, name); i >= 0 {
			item, err := tsujiv1.Encode(all[name][i])
			if err != nil {
				t.Fatal(err)
			}
			set[name] = item
		}
	}
	return set
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for k := range maps.Keys(m) {
		names = append(names, k)
	}
	return sortStrings(names)
}

func snapshotOf(set map[string]snapshot.Item) snapshot.Snapshot {
	var d snapshot.Delta
	for _, i := range set {
		d.Put = append(d.Put, i)
	}
	return snapshot.Snapshot{}.Apply(1, d)
}

// Whatever way led to a snapshot, the files are those that a new renderer makes of it; going back restores
// what was; and where no reload is asked for, what the Change says is all the difference.
func TestApplyIsAFunctionOfTheSnapshot(t *testing.T) {
	t.Parallel()
	pool()
	ownPair()
	rapid.Check(t, func(rt *rapid.T) {
		r := renderer(t, options())
		now, written := snapshot.Snapshot{}, disk{}
		written.sync(r)
		step := func(to snapshot.Snapshot) render.Change {
			c, err := r.Apply(snapshot.Diff(now, to))
			if err != nil {
				rt.Fatal(err)
			}
			now = to
			before := maps.Clone(written)
			written.sync(r)
			fresh := renderer(t, options())
			if _, err := fresh.Apply(snapshot.Diff(snapshot.Snapshot{}, to)); err != nil {
				rt.Fatal(err)
			}
			want := disk{}
			want.sync(fresh)
			if d := cmp.Diff(want, written); d != "" {
				rt.Fatalf("files of a new renderer (-) and of this one (+):\n%s", d)
			}
			if len(c.Reload) == 0 {
				if d := cmp.Diff(written.used(), patched(before, c).used()); d != "" {
					rt.Fatalf("files (-) and what the Change makes of those before (+):\n%s\n%v", d, c)
				}
			}
			return c
		}
		small := rapid.Bool().Draw(rt, "small steps")
		for range rapid.IntRange(1, 6).Draw(rt, "steps") {
			from := now
			to := snapshotOf(randomSet(rt))
			if small && from.Len() > 0 {
				d := snapshot.Diff(from, to)
				d.Put = d.Put[:min(len(d.Put), 1)]
				d.Removed = d.Removed[:min(len(d.Removed), rapid.IntRange(0, 1).Draw(rt, "removed"))]
				to = from.Apply(1, d)
			}
			there := step(to)
			if rapid.Bool().Draw(rt, "back") {
				back := step(from)
				if (len(there.Reload) == 0) != (len(back.Reload) == 0) {
					rt.Fatalf("there: %v, back: %v", there.Reload, back.Reload)
				}
			}
		}
	})
}

// used returns the files without certificates that HAProxy does not read.
func (d disk) used() disk {
	out := maps.Clone(d)
	maps.DeleteFunc(out, func(path, _ string) bool {
		return strings.HasSuffix(path, ".pem") && !strings.Contains(d["haproxy.cfg"]+d["crt-list.txt"], path)
	})
	return out
}

// patched does to the files what a Change without reload says.
func patched(files disk, c render.Change) disk {
	out := maps.Clone(files)
	for _, f := range append(c.Certificates, c.CAs...) {
		if out[f.Path] == string(f.Old) {
			out[f.Path] = string(f.New)
		}
	}
	servers := map[string][]render.Server{}
	for _, b := range c.Servers {
		servers[b.Backend] = b.New
	}
	var b strings.Builder
	section, skip := "", false
	for line := range strings.Lines(out["haproxy.cfg"]) {
		if strings.TrimSpace(line) == "" || !strings.HasPrefix(line, " ") {
			for _, s := range servers[section] {
				b.WriteString("  " + s.Line() + "\n")
			}
			section, skip = "", false
		}
		if f := strings.Fields(line); len(f) > 1 && f[0] == "backend" {
			section = f[1]
			_, skip = servers[section]
		}
		if skip && strings.HasPrefix(line, "  server ") {
			continue
		}
		b.WriteString(line)
	}
	for _, s := range servers[section] {
		b.WriteString("  " + s.Line() + "\n")
	}
	out["haproxy.cfg"] = b.String()
	return out
}
