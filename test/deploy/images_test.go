package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/test/kubetest"
)

// Where images come from is each user's own affair, and nobody else's: a name that was not set is below .invalid, which
// no registry will ever have (RFC 2606), so there is nobody whose image would run in its place.
func TestUnsetImagesBelongToNobody(t *testing.T) {
	image := regexp.MustCompile(`(?m)^\s*(?:- )?image: (.*)$`)
	for name, b := range everything(t) {
		for id, text := range b.text {
			for _, m := range image.FindAllStringSubmatch(text, -1) {
				if !regexp.MustCompile(`^tsuji\.invalid/[a-z]+:unset$`).MatchString(m[1]) {
					t.Errorf("%s: %s runs image %s", name, id, m[1])
				}
			}
		}
	}
}

// pinned runs the check of images.
func pinned(t *testing.T, input string, args ...string) (complaint string, ok bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), root+"/deploy/images/pinned.sh", args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// The check of images passes what is named by a digest, and names everything else, whatever kind of container runs it.
func TestImagesAreNamedByDigest(t *testing.T) {
	for _, c := range []struct{ image, complaint string }{
		{"registry.example.com:5000/tsuji/routerd@" + digest, ""},
		{"routerd:v1.2.3@" + digest, ""},
		{`"routerd@` + digest + `"`, ""},
		{"tsuji.invalid/routerd:unset", "no such image exists"},
		{"tsuji.invalid/routerd@" + digest, "no such image exists"},
		{"registry.example.com:5000/tsuji/routerd", "a tag can be moved"},
		{"routerd:v1.2.3", "a tag can be moved"},
		{"routerd:sha256", "a tag can be moved"},
		{"routerd@" + digest[:70], "a tag can be moved"},
		{"routerd@" + digest + "0", "a tag can be moved"},
		{"routerd@" + strings.Replace(digest, "0", "x", 1), "a tag can be moved"},
		{digest, "a tag can be moved"},
	} {
		for _, form := range []string{"      containers:\n        - image: %s\n", "      initContainers:\n        - name: x\n          image: %s\n"} {
			out, ok := pinned(t, strings.Replace(form, "%s", c.image, 1))
			if ok != (c.complaint == "") || !strings.Contains(out, c.complaint) {
				t.Errorf("%s: passes: %v, %q; want %q", c.image, ok, out, c.complaint)
			}
		}
	}
	if out, ok := pinned(t, ""); ok {
		t.Errorf("nothing at all passes: %s", out)
	}
}

// A release is built on bases with digests, and a commit on any.
func TestReleasesAreBuiltOnDigests(t *testing.T) {
	for version, release := range map[string]bool{
		"v1.2.3": true, "v0.1.0": true, "v1.2.3-rc.1": true,
		"v1.2.3-4-g0123abc": false, "v1.2.3-dirty": false, "0123abc": false, "unknown": false, "": false,
	} {
		if out, ok := pinned(t, "", version, "golang:1.26@"+digest, "haproxy:3.4"); ok == release {
			t.Errorf("%q on a tag: passes: %v\n%s", version, ok, out)
		}
		if out, ok := pinned(t, "", version, "golang:1.26@"+digest, "haproxy@"+digest); !ok {
			t.Errorf("%q on digests: %s", version, out)
		}
	}
}

// What docs/install.md has people write names the images by digest, everywhere, and is checked.
func TestImagesAreSetAsDocumented(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "deploy"), os.DirFS(root+"/deploy")); err != nil {
		t.Fatal(err)
	}
	bin, err := kubetest.Kubectl()
	if err != nil {
		t.Fatal(err)
	}
	run := func(ref string) ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", documented(t, "images"))
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(bin)+":"+os.Getenv("PATH"),
			"CONTROLPLANE=registry.example.com:5000/tsuji/controlplane"+ref, "ROUTERD=registry.example.com:5000/tsuji/routerd"+ref,
			"HAPROXY_IMAGE=registry.example.com:5000/haproxy"+ref)
		return cmd.CombinedOutput()
	}
	if out, err := run("@" + digest); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	for id, text := range build(t, filepath.Join(dir, "deploy/mine")).text {
		if strings.Contains(text, "tsuji.invalid") {
			t.Errorf("%s has an image that was not set", id)
		}
	}
	if out, err := run(":latest"); err == nil {
		t.Errorf("images without digests pass: %s", out)
	}
}
