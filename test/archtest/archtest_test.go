package archtest_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/tsuji-dev/tsuji/test/archtest"
)

// Each tree in testdata is held against these rules; its comment is what they say of it.
var rules = archtest.Rules{
	Module:  "example.com/m",
	Imports: map[string]string{"pure": "base", "base": "", "door": "pure", "tests": "base tests/help", "tests/help": ""},
	Tests:   "tests",
	Only:    []archtest.Only{{Path: "os/exec", Who: "door tests/", Why: "the door starts processes"}, {Path: "k8s.io/", Who: "door", Why: "Kubernetes ends there"}},
	Pure:    []string{"pure"},
	Impure: []archtest.Ban{
		{Path: "os/"}, {Path: "log/"}, {Path: "math/rand/"}, {Path: "net", But: "JoinHostPort"}, {Path: "net/http/"},
		{Path: "time", Names: "Now Sleep After"},
	},
	StandardOnly: []string{"base"},
}

func TestTrees(t *testing.T) {
	t.Parallel()
	stories, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(stories) == 0 {
		t.Fatal("no stories", err)
	}
	for _, s := range stories {
		t.Run(strings.TrimSuffix(filepath.Base(s), ".txtar"), func(t *testing.T) {
			t.Parallel()
			a, err := txtar.ParseFile(s)
			if err != nil {
				t.Fatal(err)
			}
			_, want, _ := strings.Cut(string(a.Comment), "\n\n")
			faults, err := archtest.Check(tree(t, a), rules)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(append(faults, ""), "\n"); got != want {
				t.Errorf("says\n%swant\n%s", got, want)
			}
		})
	}
}

// tree writes an archive's files. Those that every tree has need not stand in it.
func tree(t *testing.T, a *txtar.Archive) string {
	t.Helper()
	root := t.TempDir()
	write(t, root, "base/base.go", "package base\n")
	write(t, root, "pure/pure.go", "package pure\n\nimport _ \"example.com/m/base\"\n")
	write(t, root, "door/door.go", "package door\n\nimport _ \"example.com/m/pure\"\n")
	write(t, root, "tests/help/help.go", "package help\n")
	write(t, root, "tests/story_test.go", "package tests\n\nimport (\n\t_ \"example.com/m/base\"\n\t_ \"example.com/m/tests/help\"\n)\n")
	for _, f := range a.Files {
		write(t, root, f.Name, string(f.Data))
	}
	return root
}

func write(t *testing.T, root, name, content string) {
	t.Helper()
	path := filepath.Join(root, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A file that does not parse is an error, and not a tree with nothing wrong in it.
func TestNoGo(t *testing.T) {
	t.Parallel()
	root := tree(t, &txtar.Archive{Files: []txtar.File{{Name: "pure/broken.go", Data: []byte("package\n")}}})
	if faults, err := archtest.Check(root, rules); err == nil {
		t.Errorf("no error, but %q", faults)
	}
}

// old makes all files older than what Go's test cache takes for too new to rely on.
func old(t *testing.T, root string) {
	t.Helper()
	hour := time.Now().Add(-time.Hour)
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(path, hour, hour))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Go's test cache sees what the answer rests on: a test that passed is run again when a package of the tree has
// changed, has a new file, or there is a new package, though nothing that the test itself imports did.
func TestCacheSeesTheTree(t *testing.T) {
	t.Parallel()
	own, err := os.ReadFile("archtest.go")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	write(t, root, "go.mod", "module example.com/m\n\ngo 1.26\n")
	write(t, root, "check/archtest.go", string(own))
	write(t, root, "pure/pure.go", "package pure\n")
	write(t, root, "check/check_test.go", `package archtest

import "testing"

func TestTree(t *testing.T) {
	faults, err := Check("..", Rules{Module: "example.com/m", Imports: map[string]string{"check": "", "pure": ""}, Pure: []string{"pure"}, Impure: []Ban{{Path: "log/"}}})
	if err != nil || len(faults) > 0 {
		t.Error(faults, err)
	}
}
`)
	run := func() string {
		cmd := exec.CommandContext(t.Context(), "go", "test", "./check")
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "GOPROXY=off")
		out, _ := cmd.CombinedOutput() // a test that fails is an answer too
		return string(out)
	}
	old(t, root)
	if got := run(); !strings.HasPrefix(got, "ok") {
		t.Fatal(got)
	}
	if got := run(); !strings.Contains(got, "(cached)") {
		t.Fatalf("not cached, so that nothing is shown: %s", got)
	}
	for _, name := range []string{"pure/pure.go", "pure/new.go", "other/other.go"} {
		write(t, root, name, "package p\n\nimport _ \"log\"\n")
		old(t, root)
		if got := run(); !strings.Contains(got, "FAIL") {
			t.Errorf("%s was not seen: %s", name, got)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte("package p\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(name, "other") {
			continue
		}
		old(t, root)
		if got := run(); !strings.HasPrefix(got, "ok") {
			t.Errorf("%s is as it should be again: %s", name, got)
		}
	}
}
