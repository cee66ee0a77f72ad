package haproxy

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// meter reports, for each kind of operations, the time per one.
type meter struct {
	spent map[string]time.Duration
	done  map[string]int
}

func (m *meter) time(what string, n int, f func()) {
	begin := time.Now()
	f()
	m.spent[what] += time.Since(begin)
	m.done[what] += n
}

func (m *meter) report(b *testing.B) {
	for what, spent := range m.spent {
		b.ReportMetric(float64(spent.Nanoseconds())/1000/float64(m.done[what]), "µs/"+what)
	}
}

// backendOps are the operations that add and remove a backend with two servers and its entry in a map.
func backendOps(name, weight string) (add, remove []Op) {
	add = append(add, AddBackend(name, "plain"))
	for _, s := range []string{"pod:a", "pod:b"} {
		add = append(add, AddServer(name, s, "127.0.0.1:9", "weight", weight, "cookie", "0123456789abcdef0123456789abcdef"), SetServerState(name, s, Ready))
		remove = append(remove, SetServerState(name, s, Maint), AwaitRemovable(name, s, 1000), DelServer(name, s))
	}
	add = append(add, PublishBackend(name), AddMap("maps/stamp.map", name+".test", name))
	remove = append([]Op{DelMap("maps/stamp.map", name+".test"), UnpublishBackend(name)}, remove...)
	return add, append(remove, AwaitBackendRemovable(name, 1000), DelBackend(name))
}

// BenchmarkOps tells what operations cost that go together, 20 routes at a time, with so many backends of two servers
// present, or so many lines; and the worker's memory without, with and after all those backends.
func BenchmarkOps(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprint("backends=", n), func(b *testing.B) { benchmarkBackends(b, n, "1") })
	}
	// The tree of "balance random" has 16 nodes for each unit of weight.
	b.Run("weight=100/backends=1000", func(b *testing.B) { benchmarkBackends(b, 1000, "100") })
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint("crt-list=", n), func(b *testing.B) { benchmarkCrtList(b, n) })
	}
}

func benchmarkBackends(b *testing.B, n int, weight string) {
	p, dir := setup(b, haproxytest.Binary(b), nil)
	change(b, dir, "defaults\n", profile+"defaults\n")
	start(b, p)
	r, ctx := connect(b, p), b.Context()
	all := func(what func(name string) []Op) {
		for i := 0; i < n; i += 20 {
			var ops []Op
			for j := i; j < min(i+20, n); j++ {
				ops = append(ops, what(fmt.Sprint("be_http:ns:r", j))...)
			}
			must(b, r.Do(ctx, ops...))
		}
	}
	adds := func(name string) []Op { add, _ := backendOps(name, weight); return add }
	removes := func(name string) []Op { _, remove := backendOps(name, weight); return remove }
	empty := residentKB(b, r.PID())
	all(adds)
	full := residentKB(b, r.PID())

	m := meter{map[string]time.Duration{}, map[string]int{}}
	for round := 0; b.Loop(); round++ {
		var add, remove []Op
		var keys []MapKey
		var names []string
		for i := range 20 {
			a, d := backendOps(fmt.Sprint("be_http:new:r", round, "-", i), weight)
			add, remove = append(add, a...), append(remove, d...)
			name := fmt.Sprint("be_http:ns:r", (round*20+i)%n)
			keys, names = append(keys, MapKey{"maps/stamp.map", name + ".test"}), append(names, name)
		}
		m.time("add", 20, func() { must(b, r.Do(ctx, add...)) })
		m.time("remove", 20, func() { must(b, r.Do(ctx, remove...)) })
		m.time("get-map", 20, func() { _, err := r.GetMapKeys(ctx, keys); must(b, err) })
		m.time("state", 20, func() { _, err := r.BackendsState(ctx, names...); must(b, err) })
		m.time("stats", 20, func() { _, err := r.ServerStats(ctx, names...); must(b, err) })
		m.time("show-backend", 1, func() { _, err := r.Backends(ctx); must(b, err) })
		m.time("show-map", 1, func() { _, err := r.ShowMap(ctx, "maps/stamp.map"); must(b, err) })
		m.time("all-states", 1, func() { _, err := r.ServersState(ctx); must(b, err) })
		m.time("all-stats", 1, func() { _, err := r.AllServerStats(ctx); must(b, err) })
	}
	m.report(b)
	all(removes)
	all(adds)
	again := residentKB(b, r.PID())
	all(removes)
	b.ReportMetric(empty, "kB-empty")
	b.ReportMetric(full, "kB-full")
	b.ReportMetric(again, "kB-full-again")
	b.ReportMetric(residentKB(b, r.PID()), "kB-emptied")
}

func benchmarkCrtList(b *testing.B, n int) {
	p, dir := setup(b, haproxytest.Binary(b), nil)
	_, pems := issue(b, "a.test")
	var list strings.Builder
	for i := range n {
		name := fmt.Sprintf("certs/%d.pem", i)
		write(b, dir, name, pems[0])
		fmt.Fprintf(&list, "%s [alpn h2] r%d.test\n", name, i)
	}
	write(b, dir, "certs/list.txt", list.String())
	change(b, dir, "  default_backend b\n", "  bind unix@run/tls.sock ssl crt-list certs/list.txt\n  default_backend b\n")
	start(b, p)
	r, ctx := connect(b, p), b.Context()
	m := meter{map[string]time.Duration{}, map[string]int{}}
	next := n // the number of a line
	for round := 0; b.Loop(); round++ {
		var create, add, twice, again, del, forget []Op
		for i := range 20 {
			name := fmt.Sprintf("certs/new%d-%d.pem", round, i)
			create = append(create, NewCertificate(name), SetCertificate(name, pems[0]), CommitCertificate(name))
			add = append(add, AddCrtList("certs/list.txt", CrtListLine{name, "h2", fmt.Sprintf("new%d.test", i)}))
			twice = append(twice, AddCrtList("certs/list.txt", CrtListLine{name, "http/1.1", fmt.Sprintf("new%d.test", i)}))
			again = append(again, DelCrtList("certs/list.txt", name, next+1+i))
			del = append(del, DelCrtList("certs/list.txt", name, 0))
			forget = append(forget, DelCertificate(name))
		}
		next += 40
		m.time("new-cert", 20, func() { must(b, r.Do(ctx, create...)) })
		m.time("add-line", 20, func() { must(b, r.Do(ctx, add...)) })
		m.time("add-second-line", 20, func() { must(b, r.Do(ctx, twice...)) })
		m.time("del-line-by-number", 20, func() { must(b, r.Do(ctx, again...)) })
		m.time("del-line", 20, func() { must(b, r.Do(ctx, del...)) })
		m.time("del-cert", 20, func() { must(b, r.Do(ctx, forget...)) })
		m.time("show-list", 1, func() { _, err := r.CrtList(ctx, "certs/list.txt"); must(b, err) })
	}
	m.report(b)
}

// residentKB returns a process's memory.
func residentKB(b *testing.B, pid int) float64 {
	b.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	must(b, err)
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	must(b, err)
	return float64(kb)
}
