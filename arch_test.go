// Package tsuji holds what is true of the whole tree: which package may import which.
package tsuji

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tsuji-dev/tsuji"

// imports is the table of what each package may import of this module, "" being nothing. The way of a
// Route through it is ARCHITECTURE.md. A row that allows more than is used is stale, and fails too.
var imports = map[string]string{
	"proto/tsuji/v1": "snapshot",
	"snapshot":       "",

	"identity":           "",
	"identity/authority": "identity",
	"admin":              "",

	"controlplane":         "admin controlplane/access controlplane/cluster controlplane/compile controlplane/fleet controlplane/inspect controlplane/release controlplane/xds identity snapshot",
	"controlplane/access":  "identity",
	"controlplane/cluster": "proto/tsuji/v1",
	"controlplane/compile": "controlplane/cluster proto/tsuji/v1 snapshot",
	"controlplane/fleet":   "proto/tsuji/v1 snapshot",
	"controlplane/inspect": "controlplane/cluster controlplane/compile controlplane/fleet controlplane/release proto/tsuji/v1 snapshot",
	"controlplane/release": "proto/tsuji/v1 snapshot",
	"controlplane/xds":     "controlplane/fleet controlplane/release identity proto/tsuji/v1 snapshot",

	"routerd":           "admin identity proto/tsuji/v1 routerd/apply routerd/haproxy routerd/health routerd/render routerd/stats routerd/store routerd/subscribe snapshot",
	"routerd/apply":     "proto/tsuji/v1 routerd/haproxy routerd/render snapshot",
	"routerd/haproxy":   "",
	"routerd/health":    "routerd/apply routerd/haproxy routerd/render",
	"routerd/render":    "proto/tsuji/v1 snapshot",
	"routerd/stats":     "",
	"routerd/store":     "snapshot",
	"routerd/subscribe": "proto/tsuji/v1 snapshot",

	"cmd/internal/flagenv": "",
	"cmd/controlplane":     "cmd/internal/flagenv controlplane controlplane/cluster",
	"cmd/routerd":          "cmd/internal/flagenv routerd",
	"cmd/tsuji":            "cmd/internal/flagenv controlplane/cluster controlplane/compile identity identity/authority proto/tsuji/v1 routerd/render snapshot",
}

// only says who alone may import a package from outside, and why.
var only = []struct {
	path, who, why string
}{
	{"k8s.io/", "controlplane/cluster controlplane/compile", "Kubernetes types end at compile"},
	{"github.com/openshift/", "controlplane/cluster controlplane/compile", "OpenShift's types end at compile"},
	{"os/exec", "routerd/haproxy cmd/tsuji", "processes are started by routerd/haproxy, and by the demo"},
	{"google.golang.org/grpc/codes", "controlplane/access controlplane/inspect controlplane/xds routerd/subscribe cmd/tsuji proto/tsuji/v1", "gRPC codes stay at the doors, and in what is generated"},
}

// pure packages read no clock, environment, file or socket and write no log: the imports that would let them.
var pure = []string{"snapshot", "controlplane/compile", "controlplane/release", "controlplane/fleet", "routerd/render"}
var impure = []string{"os", "net/http", "log", "log/slog", "io/ioutil", "os/exec", "syscall", "google.golang.org/grpc"}

// standardOnly packages import the standard library and nothing else.
var standardOnly = []string{"snapshot", "identity"}

// Every package imports what its row allows; every row is used.
func TestImports(t *testing.T) {
	got := list(t)
	for pkg, row := range imports {
		p, ok := got[pkg]
		if !ok {
			t.Errorf("stale row: there is no package %s", pkg)
			continue
		}
		allowed := strings.Fields(row)
		for _, i := range p.own {
			if !slices.Contains(allowed, i) {
				t.Errorf("%s imports %s, which its row does not allow", pkg, i)
			}
		}
		for _, a := range allowed {
			if !slices.Contains(p.own, a) {
				t.Errorf("stale row: %s does not import %s", pkg, a)
			}
		}
	}
	for pkg, p := range got {
		if _, ok := imports[pkg]; !ok && pkg != "" && pkg != "test" && !strings.HasPrefix(pkg, "test/") {
			t.Errorf("%s has no row", pkg)
		}
		for _, o := range only {
			if pkg == "test" || strings.HasPrefix(pkg, "test/") || slices.Contains(strings.Fields(o.who), pkg) {
				continue
			}
			for _, i := range p.others {
				if i == o.path || strings.HasSuffix(o.path, "/") && strings.HasPrefix(i, o.path) {
					t.Errorf("%s imports %s: %s", pkg, i, o.why)
				}
			}
		}
		if slices.Contains(pure, pkg) {
			for _, i := range p.others {
				if slices.Contains(impure, i) {
					t.Errorf("%s is pure, but imports %s", pkg, i)
				}
			}
		}
		if slices.Contains(standardOnly, pkg) {
			for _, i := range p.others {
				if strings.Contains(strings.Split(i, "/")[0], ".") {
					t.Errorf("%s may import the standard library only, but imports %s", pkg, i)
				}
			}
		}
	}
}

type imported struct {
	own    []string // of this module, relative to it
	others []string
}

// list returns the imports of each package's code, tests not included.
func list(t *testing.T) map[string]imported {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	got := map[string]imported{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return got
		} else if err != nil {
			t.Fatal(err)
		}
		var is imported
		for _, i := range p.Imports {
			if own, ok := strings.CutPrefix(i, module+"/"); ok {
				is.own = append(is.own, own)
			} else {
				is.others = append(is.others, i)
			}
		}
		got[strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")] = is
	}
}
