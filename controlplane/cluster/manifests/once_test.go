package manifests_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tsuji-dev/tsuji/controlplane/cluster/manifests"
)

// Files, directories and the standard input are read once, as a directory would be, and every object and
// every fault is told by the path that was given.
func TestRead(t *testing.T) {
	t.Chdir(t.TempDir())
	namespace := func(name string) string {
		return "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + name + "}\n"
	}
	for path, content := range map[string]string{
		"dir/b.yaml":       namespace("b") + "---\n" + namespace("twice"),
		"dir/sub/c.yml":    namespace("c"),
		"dir/.hidden.yaml": namespace("hidden"),
		"dir/notes.txt":    namespace("notes"),
		"named.txt":        "# read because it is named\n" + namespace("named"),
		"twice.yaml":       namespace("twice"),
		"config.yaml":      "apiVersion: config.openshift.io/v1\nkind: Ingress\nmetadata: {name: cluster}\n---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: cluster}\n",
		"broken.yaml":      namespace("fine") + "---\nkind: [\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	stdin := strings.NewReader(`{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "piped"}}]}`)
	m, err := manifests.Read(t.Context(), []string{"./dir/", "dir/b.yaml", "named.txt", "twice.yaml", "config.yaml", "broken.yaml", manifests.Stdin}, stdin)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, c := range m.Changes {
		fmt.Fprintf(&got, "%s %s\n", m.Places[c.Key], c.Key)
	}
	for _, f := range m.Faults {
		place, _, _ := strings.Cut(f.String(), ": ")
		fmt.Fprintf(&got, "fault at %s\n", place)
	}
	want := `config.yaml:5 Ingress default/cluster
config.yaml:1 IngressConfig cluster
dir/b.yaml:1 Namespace b
dir/sub/c.yml:1 Namespace c
broken.yaml:1 Namespace fine
named.txt:2 Namespace named
-:1 Namespace piped
dir/b.yaml:5 Namespace twice
fault at broken.yaml:5
fault at twice.yaml:1
`
	if d := cmp.Diff(want, got.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if _, err := manifests.Read(t.Context(), []string{"dir", "nowhere"}, nil); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("a path that is not there: %v", err)
	}
	if _, err := manifests.Read(t.Context(), []string{manifests.Stdin}, failing{}); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a standard input that fails: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, fs.ErrClosed }
