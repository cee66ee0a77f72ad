package haproxy

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// profile is a named defaults section, which backends are added from.
const profile = `defaults plain
  mode http
  balance random
  timeout server 10s
  timeout connect 2s
  retries 0
`

// change replaces a text in HAProxy's configuration.
func change(t testing.TB, dir, before, after string) {
	t.Helper()
	config, err := os.ReadFile(filepath.Join(dir, ConfigFile))
	must(t, err)
	if !strings.Contains(string(config), before) {
		t.Fatalf("there is no %q in the configuration", before)
	}
	write(t, dir, ConfigFile, strings.Replace(string(config), before, after, 1))
}

// refuse executes operations one by one, each of which HAProxy must refuse.
func refuse(t *testing.T, r *Runtime, ops ...Op) {
	t.Helper()
	for _, op := range ops {
		var refused *RefusedError
		if err := r.Do(t.Context(), op); !errors.As(err, &refused) {
			t.Errorf("%s: %v", op, err)
		}
	}
}

// A backend comes, has servers, is counted for, and goes; where the release has that.
func TestBackends(t *testing.T) { haproxytest.Each(t, backendsStory) }

func backendsStory(t *testing.T, binary string) {
	p, dir := setup(t, binary, nil)
	change(t, dir, "defaults\n", profile+"defaults\n")
	start(t, p)
	r, ctx := connect(t, p), t.Context()

	stats, err := r.ServerStats(ctx, "b")
	if d := cmp.Diff([]map[string]ServerStats{{"s1": {Status: "no check"}}}, stats); d != "" || err != nil {
		t.Error(err, d)
	}
	if _, err := r.ServerStats(ctx, "nope"); err == nil {
		t.Error("there are statistics of a backend that is not there")
	}
	if !r.Version().Capabilities().DynamicBackends {
		refuse(t, r, AddBackend("x", "plain"), PublishBackend("x"), UnpublishBackend("b"), DelBackend("b"), AwaitBackendRemovable("b", 1))
		if names, err := r.Backends(ctx); err != nil || !slices.Equal(names, []string{"b"}) {
			t.Errorf("%q, %v", names, err)
		}
		return
	}
	long := "x:_.1-A" + strings.Repeat("n", 1000)
	for _, name := range []string{"x", "be_http:ns:a.b", long} {
		must(t, r.Do(ctx, AddBackend(name, "plain"), AddServer(name, "pod:a:_.1-A", "127.0.0.1:9"), SetServerState(name, "pod:a:_.1-A", Ready),
			PublishBackend(name), PublishBackend(name)))
		refuse(t, r, AddBackend(name, "plain"), DelBackend(name), AwaitBackendRemovable(name, 1))
		must(t, r.Do(ctx, UnpublishBackend(name), UnpublishBackend(name)))
		refuse(t, r, DelBackend(name), AwaitBackendRemovable(name, 1)) // it has a server
	}
	names, err := r.Backends(ctx)
	if d := cmp.Diff([]string{"b", "be_http:ns:a.b", "x", long}, slices.Sorted(slices.Values(names))); d != "" || err != nil {
		t.Error(err, d)
	}
	want := map[string]ServerStats{"pod:a:_.1-A": {Status: "no check"}}
	stats, err = r.ServerStats(ctx, "x", long)
	if d := cmp.Diff([]map[string]ServerStats{want, want}, stats); d != "" || err != nil {
		t.Error(err, d)
	}
	all, err := r.AllServerStats(ctx)
	if err != nil || len(all) != 4 || all["x"]["pod:a:_.1-A"].Status != "no check" {
		t.Errorf("%+v, %v", all, err)
	}
	for _, name := range []string{"x", "be_http:ns:a.b", long} {
		must(t, r.Do(ctx, SetServerState(name, "pod:a:_.1-A", Maint), AwaitRemovable(name, "pod:a:_.1-A", 1000), DelServer(name, "pod:a:_.1-A"),
			AwaitBackendRemovable(name, 1000)))
		if stats, err := r.ServerStats(ctx, name); err != nil || len(stats[0]) != 0 {
			t.Errorf("%+v, %v", stats, err)
		}
		must(t, r.Do(ctx, DelBackend(name)))
	}
	refuse(t, r, AddBackend("x", "nope"), AddBackend("x~1", "plain"), AddServer("b", "x~1", "127.0.0.1:9"), PublishBackend("x"), UnpublishBackend("x"),
		DelBackend("x"), AwaitBackendRemovable("x", 1))
	if names, err := r.Backends(ctx); err != nil || !slices.Equal(names, []string{"b"}) {
		t.Errorf("%q, %v", names, err)
	}
}

// Entries of maps come, are read by exactly their keys, and go.
func TestMaps(t *testing.T) { haproxytest.Each(t, mapsStory) }

func mapsStory(t *testing.T, binary string) {
	p, dir := setup(t, binary, nil)
	const beg, both = "maps/beg.map", "maps/both.map"
	write(t, dir, beg, "h/ root\n")
	write(t, dir, both, "h/ root\n")
	change(t, dir, "  default_backend b\n", "  http-request set-var(txn.b) path,map_beg("+beg+")\n"+
		"  http-request set-var(txn.c) path,map_beg("+both+")\n  http-request set-var(txn.d) path,map("+both+")\n  default_backend b\n")
	start(t, p)
	r, ctx := connect(t, p), t.Context()

	have := func(want ...string) { // file, key, value; without value: none
		t.Helper()
		var keys []MapKey
		var values []MapValue
		for _, w := range want {
			f := strings.SplitN(w, " ", 3)
			keys = append(keys, MapKey{f[0], f[1]})
			if len(f) == 3 {
				values = append(values, MapValue{f[2], true})
			} else {
				values = append(values, MapValue{})
			}
		}
		got, err := r.GetMapKeys(ctx, keys)
		if d := cmp.Diff(values, got); d != "" || err != nil {
			t.Error(err, d)
		}
	}
	have(beg+" h/ root", beg+" h/api/", both+" h/ root", both+" h/api/", "maps/stamp.map version one", beg+" h")
	odd := `"a", value="b", type="str"`
	must(t, r.Do(ctx, AddMap(beg, "h/api/", "api"), AddMap(both, "h/api/", "api"), AddMap("maps/stamp.map", `k"`, odd), AddMap("maps/stamp.map", "k", `a;b \ c`)))
	have(beg+" h/ root", beg+" h/api/ api", beg+" h/api/x", both+" h/api/ api", both+" h/api/x", `maps/stamp.map k" `+odd, `maps/stamp.map k a;b \ c`)
	must(t, r.Do(ctx, SetMap(beg, "h/api/", "new"), DelMap(beg, "h/"), DelMap(both, "h/api/"), DelMap("maps/stamp.map", `k"`)))
	have(beg+" h/", beg+" h/api/ new", both+" h/api/", both+" h/ root", `maps/stamp.map k"`)
	refuse(t, r, DelMap(beg, "h/"), DelMap(beg, "h/api"), DelMap(beg, "h/api/x"), SetMap(beg, "h/api/x", "x"), AddMap("maps/nope.map", "k", "v"))
	if _, err := r.GetMapKeys(ctx, []MapKey{{beg, "h/"}, {"maps/nope.map", "h/"}}); err == nil {
		t.Error("a map that is not there was read")
	}
	for _, op := range []Op{DelMap(beg, "#1"), SetMap(beg, "#0x7f", "x"), AddMap(beg, "", "x"), AddMap(beg, "x", ""), AddMap(beg, "x\n", "x")} {
		if r.Do(ctx, op) == nil {
			t.Errorf("%s was sent", op)
		}
	}

	// Of entries with the same key the oldest answers, and 3.4 deletes only that; a change is made to all.
	must(t, r.Do(ctx, AddMap(beg, "d/", "1"), AddMap(beg, "d/", "2"), AddMap(beg, "d/", "3")))
	have(beg + " d/ 1")
	must(t, r.Do(ctx, DelMap(beg, "d/"), AddMap(beg, "s/", "1"), AddMap(beg, "s/", "2"), SetMap(beg, "s/", "3")))
	entries, err := r.ShowMap(ctx, beg)
	must(t, err)
	entries = slices.DeleteFunc(entries, func(e MapEntry) bool { return e.Key != "d/" && e.Key != "s/" })
	must(t, r.Do(ctx, DelMapEntry(beg, entries[len(entries)-1].Ref))) // one alone, on every release
	entries, err = r.ShowMap(ctx, beg)
	must(t, err)
	entries = slices.DeleteFunc(entries, func(e MapEntry) bool { return e.Key != "d/" && e.Key != "s/" })
	for i := range entries {
		entries[i].Ref = ""
	}
	want := []MapEntry{{Key: "d/", Value: "2"}, {Key: "d/", Value: "3"}, {Key: "s/", Value: "3"}}
	if !r.Version().AtLeast(3, 4) {
		want = want[2:]
	}
	if d := cmp.Diff(want, entries); d != "" {
		t.Error(d)
	}
}
