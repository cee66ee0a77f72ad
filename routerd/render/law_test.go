package render_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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
			if j%2 == 0 {
				r.Cookie = &tsujiv1.Cookie{Name: fmt.Sprintf("c%d", j%4), Secure: j%3 == 0, SameSite: []string{"", "Lax", "None"}[j%3]}
				r.Hsts = "max-age=1"
				r.AllowedSources, r.RestrictSources = []string{"10.0.0.0/9", "fd00::/8", fmt.Sprintf("192.0.2.%d", j)}, j%4 == 0
			}
			if j%4 == 1 {
				r.RequestHeaders = []*tsujiv1.HeaderAction{{Name: "X", Value: []*tsujiv1.HeaderValuePart{
					{Part: &tsujiv1.HeaderValuePart_Header{Header: &tsujiv1.HeaderFetch{Name: fmt.Sprintf("Y%d", j)}}},
				}}}
				r.Timeouts = &tsujiv1.RouteTimeouts{Tunnel: durationpb.New(time.Duration(j) * time.Second)}
			}
			r.AdjustHeaderCase = j%3 == 1
			if j > 8 {
				// The shorter ones are lengthened, by as much as the others there allow.
				r.HealthCheckInterval = durationpb.New([]time.Duration{5 * time.Second, time.Millisecond, 7 * time.Millisecond}[j-9])
			}
			add(routeOf(r))
		}
	}
	for i := range 4 {
		s := &tsujiv1.Settings{Http2: i%2 == 0}
		if i > 1 {
			s.DefaultCertificate = tsujiv1.CertificateName("ns", tsujiv1.FromRoute, "c0")
			s.ErrorPages = &tsujiv1.ErrorPages{NotFound: []byte("HTTP/1.0 404 gone\r\n\r\n")}
			s.Headers = &tsujiv1.HeaderPolicy{CaseAdjustments: []string{"X-CaSe"}, Forwarded: tsujiv1.ForwardedPolicy(i)}
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

// Whatever way led to a snapshot, the files are those that another renderer makes of it that has seen the same
// profiles; going back restores what was; and where no reload is asked for, what the Change says is all the
// difference.
func TestApplyIsAFunctionOfTheSnapshot(t *testing.T) {
	t.Parallel()
	pool()
	ownPair()
	rapid.Check(t, func(rt *rapid.T) {
		o := options()
		if rapid.Bool().Draw(rt, "few descriptors") { // enough for checks of so many servers
			o.FileDescriptors = 1024 + 8*rapid.IntRange(0, 6).Draw(rt, "checks")
		}
		r := renderer(t, o)
		now, written := snapshot.Snapshot{}, disk{}
		written.sync(r)
		var seen []snapshot.Snapshot
		step := func(to snapshot.Snapshot) render.Change {
			c, err := r.Apply(snapshot.Diff(now, to))
			if err != nil {
				rt.Fatal(err)
			}
			now = to
			before := maps.Clone(written)
			written.sync(r)
			seen = append(seen, to)
			other, at := renderer(t, o), snapshot.Snapshot{}
			for _, s := range append(backward(seen), to) {
				if _, err := other.Apply(snapshot.Diff(at, s)); err != nil {
					rt.Fatal(err)
				}
				at = s
			}
			want := disk{}
			want.sync(other)
			if d := cmp.Diff(want, written); d != "" {
				rt.Fatalf("files of another renderer (-) and of this one (+):\n%s", d)
			}
			if len(c.Reload) == 0 {
				if d := cmp.Diff(written.used().sorted(), patched(rt, before, c).used()); d != "" {
					rt.Fatalf("files (-) and what the Change makes of those before (+):\n%s\n%v", d, transcript(c))
				}
			}
			if err := consistent(r, written); err != nil {
				rt.Fatal(err)
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
				if len(there.Reload) == 0 && len(back.Reload) > 0 {
					rt.Fatalf("there without a reload, back: %v", back.Reload)
				}
				if d := cmp.Diff(inverse(there), inverse(inverse(back)), cmp.FilterPath(reloads, cmp.Ignore())); d != "" {
					rt.Fatalf("back is not the inverse of there:\n%s", d)
				}
			}
		}
	})
}

// reloads matches the reasons of a Change: what comes with a reload need not go with one.
func reloads(p cmp.Path) bool { return strings.HasPrefix(p.Last().String(), ".Reload") }

// inverse turns a Change around.
func inverse(c render.Change) render.Change {
	out := render.Change{}
	for _, b := range c.Backends {
		out.Backends = append(out.Backends, render.BackendChange{Name: b.Name, Old: b.New, New: b.Old})
	}
	for _, e := range c.Entries {
		out.Entries = append(out.Entries, render.EntryChange{File: e.File, Key: e.Key, Old: e.New, New: e.Old})
	}
	for _, f := range c.Certificates {
		out.Certificates = append(out.Certificates, render.FileChange{Path: f.Path, Old: f.New, New: f.Old})
	}
	for _, f := range c.CAs {
		out.CAs = append(out.CAs, render.FileChange{Path: f.Path, Old: f.New, New: f.Old})
	}
	for _, l := range c.CrtList {
		out.CrtList = append(out.CrtList, render.CrtListChange{Certificate: l.Certificate, Filter: l.Filter, Added: !l.Added})
	}
	slices.SortFunc(out.CrtList, func(a, b render.CrtListChange) int {
		return strings.Compare(a.Certificate+" "+a.Filter, b.Certificate+" "+b.Filter)
	})
	return out
}

// consistent tells whether what is asked of a renderer by name agrees with its files.
func consistent(r *render.Renderer, files disk) error {
	routing := map[string]string{}
	for path, content := range files {
		for line := range strings.Lines(content) {
			if render.IsRouting(path) && strings.Contains(line, "be_") {
				routing[path+" "+strings.TrimSuffix(line, "\n")] = "file"
			}
		}
	}
	sections, named := "", map[string]bool{}
	for _, name := range r.Backends() {
		b, ok := r.Backend(name)
		if !ok || b.Name != name {
			return fmt.Errorf("backend %s: %v %t", name, b, ok)
		}
		sections += section(b)
		for _, e := range r.Routing(name) {
			if !render.IsRouting(e.File) || routing[e.File+" "+e.Key+" "+e.Value] != "file" {
				return fmt.Errorf("%s: routing entry %v is not in the files", name, e)
			}
			named[e.File+" "+e.Key+" "+e.Value] = true
			if got := render.Rename(e.Value, func(b string) string { return strings.Replace(b, name, "x", 1) }); got == e.Value || strings.Contains(got, name) {
				return fmt.Errorf("%s: %q is %q with another name", name, e.Value, got)
			}
		}
	}
	all := r.Routing(r.Backends()...)
	if len(named) != len(routing) || len(all) != len(routing) {
		return fmt.Errorf("files have %d entries that name backends; by backend there are %d, and by all backends %d", len(routing), len(named), len(all))
	}
	whole := map[string][]string{}
	for _, file := range r.Maps() {
		for k, v := range r.Entries(file) {
			whole[file] = append(whole[file], k+" "+v+"\n")
		}
	}
	lines, _ := r.CrtList()
	for _, l := range lines {
		whole["crt-list.txt"] = append(whole["crt-list.txt"], l.Certificate+" "+l.Filter+"\n")
		if !slices.Contains(r.Certificates(), l.Certificate) {
			return fmt.Errorf("certificate %s is not among %v", l.Certificate, r.Certificates())
		}
	}
	for _, file := range append(r.Maps(), "crt-list.txt") {
		want := slices.Sorted(strings.Lines(files[file]))
		if slices.Sort(whole[file]); !slices.Equal(want, whole[file]) {
			return fmt.Errorf("%s has %q, and Entries %q", file, want, whole[file])
		}
	}
	for _, path := range append(r.Certificates(), r.CAs()...) {
		if content := string(r.InUse(path)); content == "" || content != files[path] {
			return fmt.Errorf("%s in use is not its file", path)
		}
	}
	if config := files["haproxy.cfg"]; !strings.HasSuffix(config, sections) {
		return fmt.Errorf("haproxy.cfg does not end in its backends:\n%s\nbut:\n%s", sections, config)
	}
	return nil
}

// section writes a backend's section, with its cookie and without the rules for it.
func section(b render.Backend) string {
	s := "\nbackend " + b.Name + " from " + b.Profile + "\n"
	if name, attributes, ok := strings.Cut(b.Cookie, "|"); ok {
		s = strings.Replace(s, "-cookie", "", 1) + "  cookie " + name + " insert indirect nocache httponly"
		s += strings.NewReplacer("%3B%20Secure", " secure", "%3B%20SameSite=", " attr SameSite=").Replace(attributes) + "\n"
	}
	for _, server := range b.Servers {
		s += "  " + server.Line() + "\n"
	}
	return s
}

// used returns the files without certificates that HAProxy does not read.
func (d disk) used() disk {
	out := maps.Clone(d)
	maps.DeleteFunc(out, func(path, _ string) bool {
		return strings.HasSuffix(path, ".pem") && !strings.Contains(d["haproxy.cfg"]+d["crt-list.txt"], path)
	})
	return out
}

// sorted returns the files with the lines of maps and lists in order: theirs means nothing.
func (d disk) sorted() disk {
	out := maps.Clone(d)
	for path, content := range out {
		if strings.HasPrefix(path, "maps/") || path == "crt-list.txt" {
			out[path] = sortedLines(content)
		}
	}
	return out
}

// patched does to the files what a Change without reload says. It fails where they are not as the Change says that
// they were.
func patched(t *rapid.T, files disk, c render.Change) disk {
	out := maps.Clone(files)
	for _, f := range append(slices.Clone(c.Certificates), c.CAs...) {
		if f.Old != nil && out[f.Path] != string(f.Old) {
			t.Fatalf("%s was another one", f.Path)
		}
		if delete(out, f.Path); f.New != nil {
			out[f.Path] = string(f.New)
		}
	}
	for _, e := range c.Entries {
		old, now := e.Key+" "+e.Old+"\n", e.Key+" "+e.New+"\n"
		content := out[e.File]
		if e.Old != "" {
			if !strings.Contains("\n"+content, "\n"+old) {
				t.Fatalf("%s has no %q", e.File, old)
			}
			content = strings.TrimPrefix(strings.Replace("\n"+content, "\n"+old, "\n", 1), "\n")
		} else if strings.Contains("\n"+content, "\n"+e.Key+" ") {
			t.Fatalf("%s has %s already", e.File, e.Key)
		}
		if e.New != "" {
			content += now
		}
		out[e.File] = content
	}
	for _, l := range c.CrtList {
		line := l.Certificate + " " + l.Filter + "\n"
		if strings.Contains("\n"+out["crt-list.txt"], "\n"+line) == l.Added {
			t.Fatalf("crt-list.txt and %v", l)
		}
		if l.Added {
			out["crt-list.txt"] += line
		} else {
			out["crt-list.txt"] = strings.TrimPrefix(strings.Replace("\n"+out["crt-list.txt"], "\n"+line, "\n", 1), "\n")
		}
	}
	out["haproxy.cfg"] = patchedConfig(t, out["haproxy.cfg"], c)
	return out.sorted()
}

// patchedConfig replaces sections of backends, and names other CA certificates.
func patchedConfig(t *rapid.T, config string, c render.Change) string {
	const heading = "\nbackend ca_certificates from plain\n"
	head, rest, _ := strings.Cut(config, heading)
	cas, sections, name := "", map[string]string{}, ""
	for line := range strings.Lines(rest) {
		switch f := strings.Fields(line); {
		case len(f) == 0:
			continue
		case f[0] == "default-server":
			cas += line
			continue
		case f[0] == "backend":
			name = f[1]
			sections[name] = "\n"
		}
		sections[name] += line
	}
	for _, f := range c.CAs {
		line := "  default-server ca-file " + f.Path + "\n"
		if cas = strings.Replace(cas, line, "", 1); f.New != nil {
			cas += line
		}
	}
	for _, b := range c.Backends {
		if b.Old != nil && sections[b.Name] != section(*b.Old) {
			t.Fatalf("backend %s was %q, not %q", b.Name, sections[b.Name], section(*b.Old))
		}
		if delete(sections, b.Name); b.New != nil {
			sections[b.Name] = section(*b.New)
		}
	}
	all := head + heading + sortedLines(cas)
	for _, name = range sortedNames(sections) {
		all += sections[name]
	}
	return all
}

func sortedLines(s string) string {
	lines := sortStrings(slices.Collect(strings.Lines(s)))
	return strings.Join(lines, "")
}

func backward[T any](list []T) []T {
	out := slices.Clone(list)
	slices.Reverse(out)
	return out
}
