package test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// parityRow is what docs/openshift-parity.md tells in one line: something of OpenShift's router, shown by requests.
type parityRow struct {
	name  string // as in the document; the namespace of its objects is made of it
	under string // the settings that it needs: a key of paritySettings
	smoke bool   // also shown on HAProxy 2.6

	// tell writes the row's objects, before anything runs, and returns what is asked when everything does.
	tell func(p *parity) func(t *testing.T)
}

// parityRows returns the table.
func parityRows() []parityRow {
	return slices.Concat(parityHosts(), parityBackends(), parityTLS(), parityHeaders(), parityTraffic(), parityLimits(),
		parityCookies(), parityEndpoints(), parityRefusals(), parityKillers(), parityControllers(), parityIngress())
}

// Each line of OpenShift's Routes that docs/openshift-parity.md says is there shows on requests: through the whole system,
// with the objects of all lines in it at once.
func TestParity(t *testing.T) {
	showParity(t, haproxytest.Binary(t), false, func(parityRow) bool { return true })
}

// It shows as well when Routes come, and get their annotations, while HAProxy runs.
func TestParityLate(t *testing.T) {
	showParity(t, haproxytest.Binary(t), true, func(parityRow) bool { return true })
}

// The oldest HAProxy takes all of it, and shows the lines that are marked.
func TestParitySmoke26(t *testing.T) {
	for _, binary := range haproxytest.Binaries(t) {
		if !haproxytest.AtLeast(t, binary, 2, 7) {
			showParity(t, binary, false, func(r parityRow) bool { return r.smoke })
		}
	}
}

// showParity runs one system for each settings, and asks it the rows that are wanted. With late, one half of the rows is
// there from the beginning, with Routes that have no annotations; the other half, and the annotations, come later.
func showParity(t *testing.T, binary string, late bool, wanted func(parityRow) bool) {
	t.Helper()
	type shown struct {
		name string
		ask  func(*testing.T)
	}
	var rows []shown
	for _, under := range []string{underMain, underBare, underSettings, underClients} {
		w := newParityWorld(t, binary)
		var written []*parity
		for i, row := range parityRows() {
			if row.under != under {
				continue
			}
			p := &parity{w: w, ns: parityNamespace(row.name), number: i + 1}
			ask := row.tell(p)
			written = append(written, p)
			switch {
			case !late:
				w.f.write(p.ns+".yaml", p.manifests.String())
			case i%2 == 0:
				w.f.write(p.ns+".yaml", p.before.String())
			}
			if wanted(row) {
				rows = append(rows, shown{row.name, ask})
			}
		}
		w.start(under)
		if late {
			w.change(written)
		}
		w.settle("last")
		w.judged()
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			r.ask(t)
		})
	}
}

// change writes the rows as they are, some at once, so that not all of them share the way that one of them needs.
func (w *parityWorld) change(rows []*parity) {
	w.t.Helper()
	w.settle("first")
	reloads := 0
	_, before := w.r.haproxyPIDs()
	for some := range slices.Chunk(rows, 8) {
		for _, p := range some {
			w.f.write(p.ns+".yaml", p.manifests.String())
		}
		w.settle("next-" + some[0].ns)
		_, after := w.r.haproxyPIDs()
		if slices.ContainsFunc(after, func(pid int) bool { return !slices.Contains(before, pid) }) {
			reloads++
		}
		before = after
	}
	if reloads > 1 { // one row has a timeout of passthrough that is not among the common profiles
		w.t.Errorf("%d changes of %d rows, and HAProxy was reloaded for %d of them, want one", (len(rows)+7)/8, len(rows), reloads)
	}
}

// The document of what there is names each row, and no other.
func TestParityDocument(t *testing.T) {
	document, err := os.ReadFile(filepath.Join("..", "docs", "openshift-parity.md"))
	if err != nil {
		t.Fatal(err)
	}
	named, rows := map[string]bool{}, map[string]bool{}
	for _, m := range regexp.MustCompile("`TestParity/([^`]+)`").FindAllSubmatch(document, -1) {
		named[string(m[1])] = true
	}
	namespaces := map[string]string{}
	for _, r := range parityRows() {
		if rows[r.name] {
			t.Errorf("there are two rows %s", r.name)
		}
		if other := namespaces[parityNamespace(r.name)]; other != "" {
			t.Errorf("rows %s and %s have one namespace", r.name, other)
		}
		rows[r.name], namespaces[parityNamespace(r.name)] = true, r.name
		if !named[r.name] {
			t.Errorf("the document does not name TestParity/%s", r.name)
		}
	}
	for name := range named {
		if !rows[name] {
			t.Errorf("the document names TestParity/%s, which there is not", name)
		}
	}
}
