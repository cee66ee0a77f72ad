package test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
)

// corpus is where what was found is kept, for ever: one archive for each, of sections "write NAME" and "remove NAME".
const corpus = "testdata/tenant"

// fuzzFor is how long it goes on in `make test`; TSUJI_FUZZ_TENANT says how long else: "1h".
const fuzzFor = 20 * time.Second

// A tenant writes odd objects of every kind, as a seed has it, beside the victim and the neighbour: what is held against whatever he writes is
// as in TestTenant. What is found is written into the corpus, and played again by TestTenantCorpus.
// `make fuzz-tenant` goes on for an hour. TSUJI_FUZZ_SEED is the first seed.
func TestTenantFuzz(t *testing.T) {
	during, seed := fuzzFor, uint64(1)
	if s := os.Getenv("TSUJI_FUZZ_TENANT"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		during, seed = d, uint64(time.Now().Unix())
	}
	if s := os.Getenv("TSUJI_FUZZ_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	w := newTenants(t, newFleet(t), nil)
	m, keys := oddMaterial(t)
	first, count := seed, 0
	end := time.Now().Add(during)
	for ; !t.Failed() && (time.Now().Before(end) || count == 0); seed++ {
		writings := (&odd{rand.New(rand.NewPCG(seed, 0)), t, m, keys}).steps()
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					keep(t, writings)
				}
			}()
			w.play(t, writings)
			if seed%20 == 0 {
				w.startEmpty(t)
			}
		})
		count += len(writings)
	}
	t.Logf("seeds %d to %d, %d writings; the victim's hosts: %s; the neighbour's connections: %s", first, seed-1, count, summary(w.took), w.traffic.summary())
}

// Whatever the fuzzer found once is found no more.
func TestTenantCorpus(t *testing.T) {
	files, err := filepath.Glob(corpus + "/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	w := newTenants(t, newFleet(t), nil)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var writings []writing
			for _, section := range a.Files {
				what, name, _ := strings.Cut(section.Name, " ")
				switch what {
				case "write":
					writings = append(writings, writing{name, string(section.Data)})
				case "remove":
					writings = append(writings, writing{name, ""})
				default:
					t.Fatalf("section %q", section.Name)
				}
			}
			w.play(t, writings)
			w.startEmpty(t)
		})
	}
}

// keep writes what was found into the corpus.
func keep(t *testing.T, writings []writing) {
	t.Helper()
	a := &txtar.Archive{Comment: []byte("Found by make fuzz-tenant, " + t.Name() + ".\n")}
	for _, s := range writings {
		what := "write "
		if s.manifest == "" {
			what = "remove "
		}
		a.Files = append(a.Files, txtar.File{Name: what + s.name, Data: []byte(s.manifest)})
	}
	text := txtar.Format(a)
	path := fmt.Sprintf("%s/%x.txtar", corpus, sha256.Sum256(text))
	path = path[:len(corpus)+13] + ".txtar"
	if err := os.MkdirAll(corpus, 0o755); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Error(err)
	}
	t.Logf("kept as test/%s: mend it, and add the file to the commit", path)
}

// What one series of writings may cost at most.
const (
	reloadsOfSeries = 6       // large changes are cheaper that way, and odd values may be new profiles
	memoryOfAll     = 3 << 30 // bytes that the daemons and HAProxy hold together
)

// play has the tenant write, one after the other, with a new host of the victim's after each, and takes it all away again.
func (w *tenants) play(t *testing.T, writings []writing) {
	outer := w.t
	w.t = t
	defer func() { w.t = outer }()
	before := w.counted(t)
	_, workers := w.r.haproxyPIDs()
	for _, s := range writings {
		switch there := slices.Contains(w.files, "hostile-"+s.name+".yaml"); {
		case s.manifest != "":
			w.write(s.name, s.manifest)
		case there:
			w.remove(s.name)
		}
		w.took = append(w.took, w.victimAdds(t, 1)...)
	}
	w.clear()
	w.took = append(w.took, w.victimAdds(t, 1)...)
	w.f.converged(w.op, "router-a")
	w.neighbour(t)
	after := w.counted(t)
	if n := after.reloads - before.reloads; n > reloadsOfSeries {
		t.Errorf("%v reloads, want %d at most", n, reloadsOfSeries)
	}
	if n := after.repairs - before.repairs; n > 0 {
		t.Errorf("%v repairs of what looked like drift, want none", n)
	}
	_, now := w.r.haproxyPIDs()
	for name, p := range map[string]*process{"routerd": w.r.process, "the control plane": w.f.controlPlane().process} {
		select {
		case <-p.done:
			t.Fatalf("%s has ended", name)
		default:
		}
	}
	isNew := func(pid int) bool { return !slices.Contains(workers, pid) }
	if len(now) == 0 || after.reloads == before.reloads && slices.ContainsFunc(now, isNew) { // old ones end when they may
		t.Errorf("HAProxy's workers were %v, and are %v, without a reload", workers, now)
	}
	if all := rss(t, append(now, w.r.cmd.Process.Pid, w.f.controlPlane().cmd.Process.Pid)); all > memoryOfAll {
		t.Errorf("the daemons and HAProxy hold %d MB, want %d at most", all>>20, memoryOfAll>>20)
	}
	eventually(t, "no fault of the tenant's is left", func() error {
		left := slices.DeleteFunc(w.faults(t), func(f string) bool { // an IngressController that is deleted counts for a while
			return strings.Contains(f, "/other: ") || strings.Contains(f, "/third: ")
		})
		if len(left) > 0 {
			return fmt.Errorf("%q", left)
		}
		return nil
	})
}
