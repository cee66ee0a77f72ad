package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// What HAProxy would be given is printed without certificates, or written so that HAProxy can check it; private
// keys are written only where they are asked for.
func TestRender(t *testing.T) {
	haproxy := haproxytest.Binary(t) // before the working directory is another
	enterManifests(t)
	printed, code := tsuji(t, nil, "render", "demo", "bad")
	if code != exitOK {
		t.Fatalf("exit code %d: %s", code, printed)
	}
	for _, want := range []string{
		"tsuji: left out: 2 faults, 4 refused Routes; tsuji lint tells more\n",
		"# ==== haproxy.cfg\n", "\nbackend be_http:demo:hello", "127.0.0.1:14801",
		"# ==== maps/http.map\n", "hello.demo.example/b/ be_http:demo:hello-b-only",
		".pem: certificate for edge.demo.example, until ",
	} {
		if !strings.Contains(printed, want) {
			t.Errorf("%q is not printed", want)
		}
	}
	if strings.Contains(printed, "-----BEGIN") {
		t.Error("a certificate or a key is printed")
	}
	for _, c := range []struct {
		dir  string
		keys bool
		args []string
	}{{"without", false, nil}, {"with", true, []string{"--with-keys"}}} {
		output, code := tsuji(t, nil, append([]string{"render", "-o", c.dir, "demo"}, c.args...)...)
		if code != exitOK || output != "" {
			t.Fatalf("exit code %d: %s", code, output)
		}
		keys := 0
		err := filepath.WalkDir(c.dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s is %v", path, info.Mode())
			}
			if e.IsDir() {
				return nil
			}
			content, err := os.ReadFile(path)
			keys += bytes.Count(content, []byte("PRIVATE KEY-----\n"))
			if strings.HasSuffix(path, ".pem") && !bytes.Contains(content, []byte("BEGIN CERTIFICATE")) {
				t.Errorf("%s holds no certificate", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if (keys > 0) != c.keys {
			t.Errorf("%s: %d lines of private keys", c.dir, keys)
		}
	}
	check := exec.CommandContext(t.Context(), haproxy, "-c", "-f", "haproxy.cfg")
	check.Dir = "with"
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("HAProxy does not accept it: %v\n%s", err, out)
	}
}
