package render_test

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"google.golang.org/protobuf/encoding/prototext"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

var update = flag.Bool("update", false, "write what was rendered into testdata")

// What each archive's resources are rendered to is what stands in it, and HAProxy accepts it without a
// warning. Resources are *.txtpb; the comment's lines "pair NAME HOST…" and "bundle NAME" add certificates,
// "lists NAME" a bundle with revocation lists, and "whole" asks for the whole of haproxy.cfg, of which otherwise only the routes' backends are shown.
// Below want/ is what the newest HAProxy gets, below want-2.6/ what is different for 2.6.
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
			have, want := map[string]string{}, map[string]string{}
			kept := a.Files[:0:0]
			for _, f := range a.Files {
				if strings.HasPrefix(f.Name, "want") {
					want[f.Name] = string(f.Data)
				} else {
					kept = append(kept, f)
				}
			}
			newest := map[string]string{}
			for _, v := range []render.Version{{}, {Major: 3, Minor: 0}, {Major: 2, Minor: 6}} {
				got, where := rendered(t, v, resources, whole), "want/"
				if v == (render.Version{}) {
					newest = got
				} else {
					where = "want-" + v.String() + "/"
					for name := range newest {
						if _, ok := got[name]; !ok && !slices.Contains(notData, name) {
							t.Errorf("HAProxy %v has no %s", v, name)
						}
					}
				}
				for name, content := range got {
					if where == "want/" || newest[name] != content {
						have[where+name] = content
					}
				}
			}
			if *update {
				for _, name := range sortedNames(have) {
					kept = append(kept, txtar.File{Name: name, Data: []byte(have[name])})
				}
				a.Files = kept
				if err := os.WriteFile(path, txtar.Format(a), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(want, have); d != "" {
				t.Errorf("want (-), got (+):\n%s", d)
			}
		})
	}
}

// notData are the maps that some releases do without.
var notData = []string{"maps/rewrite.map", "maps/request_set.map", "maps/request_del.map", "maps/response_set.map", "maps/response_del.map"}

// rendered renders resources for a release, and lets that release, where it is to be had, read the files.
func rendered(t *testing.T, v render.Version, resources []*tsujiv1.Resource, whole bool) map[string]string {
	t.Helper()
	o := optionsFor(v)
	o.Jail, o.User, o.Group = true, 65534, 65534
	r := renderer(t, o)
	apply(t, r, resources...)
	got := shown(r, whole)
	dir := shortDir(t)
	write(t, dir, r)
	for i, binary := range haproxytest.Binaries(t) {
		if v == release(t, binary) || v == (render.Version{}) && i == 0 && haproxytest.AtLeast(t, binary, 3, 4) {
			if out, ok := check(t, binary, dir); !ok || strings.Contains(out, "WARNING") {
				t.Errorf("%s says:\n%s", binary, out)
			}
		}
	}
	return got
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
		case len(f) == 2 && (f[0] == "bundle" || f[0] == "lists"):
			c := bundleOf("", "", theAuthority().pem)
			if f[0] == "lists" {
				c.GetCertificate().RevocationListsPem = theAuthority().list(1)
			}
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
	kept := ""
	for _, section := range strings.SplitAfter(files["haproxy.cfg"], "\n\n") {
		name, _, _ := strings.Cut(section, "\n")
		switch {
		case commonProfile.MatchString(name) && (!whole || !slices.Contains(shownProfiles, name)):
		case whole, strings.HasPrefix(name, "backend be_") && !strings.HasPrefix(name, "backend be_sni"), strings.HasPrefix(name, "defaults http-"):
			kept += section
		}
	}
	files["haproxy.cfg"] = anyDigest.ReplaceAllString(kept, ".digest.pem")
	return files
}

// anyDigest matches what tells bundles apart: they are made anew for each run.
var anyDigest = regexp.MustCompile(`\.[0-9a-f]{12}\.pem`)

// commonProfile matches the heading of a profile that is always there.
var commonProfile = regexp.MustCompile(`^defaults (http|tcp)-(append|replace|if-none|never|random|roundrobin|leastconn|source)` +
	`(-(random|roundrobin|leastconn|source))?(-cookie)?(-options)?(-case)?(-tunnel-[0-9]+ms)?$`)

// shownProfiles stand for all of them.
var shownProfiles = []string{
	"defaults http-append-random", "defaults http-append-random-cookie", "defaults http-append-random-cookie-options", "defaults http-append-source-cookie-options-case",
	"defaults http-if-none-random", "defaults http-never-leastconn", "defaults http-replace-roundrobin", "defaults tcp-source", "defaults tcp-random-options-tunnel-60000ms",
}
