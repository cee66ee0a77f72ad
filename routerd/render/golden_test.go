package render_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"google.golang.org/protobuf/encoding/prototext"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

var update = flag.Bool("update", false, "write what was rendered into testdata")

// What each archive's resources are rendered to is what stands in it, and HAProxy accepts it without a
// warning. Resources are *.txtpb; the comment's lines "pair NAME HOST…" and "bundle NAME" add certificates,
// and "whole" asks for the whole of haproxy.cfg, of which otherwise only the routes' backends are shown.
func TestGolden(t *testing.T) {
	t.Parallel()
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal("no archives", err)
	}
	for _, path := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			resources, whole := inputs(t, a)
			o := options()
			o.Jail, o.User, o.Group = true, 65534, 65534
			r := renderer(t, o)
			apply(t, r, resources...)
			got := shown(r, whole)
			dir := shortDir(t)
			write(t, dir, r)
			if out, ok := check(t, dir); !ok || strings.Contains(out, "WARNING") {
				t.Errorf("HAProxy says:\n%s", out)
			}
			want := map[string]string{}
			kept := a.Files[:0:0]
			for _, f := range a.Files {
				if name, ok := strings.CutPrefix(f.Name, "want/"); ok {
					want[name] = string(f.Data)
				} else {
					kept = append(kept, f)
				}
			}
			if *update {
				for _, name := range sortedNames(got) {
					kept = append(kept, txtar.File{Name: "want/" + name, Data: []byte(got[name])})
				}
				a.Files = kept
				if err := os.WriteFile(path, txtar.Format(a), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("want (-), got (+):\n%s", d)
			}
		})
	}
}

func inputs(t *testing.T, a *txtar.Archive) (resources []*tsujiv1.Resource, whole bool) {
	t.Helper()
	for line := range strings.Lines(string(a.Comment)) {
		f := strings.Fields(line)
		switch {
		case len(f) == 1 && f[0] == "whole":
			whole = true
		case len(f) > 2 && f[0] == "pair":
			chain, key := theAuthority().issue(f[2:]...)
			c := certificateOf("", "", chain, key)
			c.Name = f[1]
			resources = append(resources, c)
		case len(f) == 2 && f[0] == "bundle":
			c := bundleOf("", "", theAuthority().pem)
			c.Name = f[1]
			resources = append(resources, c)
		}
	}
	for _, f := range a.Files {
		if !strings.HasSuffix(f.Name, ".txtpb") {
			continue
		}
		res := &tsujiv1.Resource{}
		if err := prototext.Unmarshal(f.Data, res); err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		resources = append(resources, res)
	}
	return resources, whole
}

// shown returns the files that an archive holds: no certificates, and no empty maps.
func shown(r *render.Renderer, whole bool) map[string]string {
	files := filesOf(r)
	for path, content := range files {
		if content == "" || strings.HasSuffix(path, ".pem") || path == "maps/ready.map" || path == "maps/stamp.map" {
			delete(files, path)
		}
	}
	if !whole {
		_, backends, _ := strings.Cut(files["haproxy.cfg"], "\nbackend be_sni")
		i := strings.Index(backends, "\nbackend be_")
		files["haproxy.cfg"] = strings.TrimPrefix(backends[max(i, 0):], "\n")
	}
	return files
}
