package test

import (
	"compress/gzip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A vulnerability database that cannot be reached is said out loud, and stops a release and nothing else; what one that is
// reached says is what counts.
func TestVulnerabilitiesThatNobodyLookedAt(t *testing.T) {
	const notChecked = "NOT CHECKED FOR KNOWN VULNERABILITIES"
	clean, known := t.TempDir(), t.TempDir()
	vulnerabilities(t, clean, `[]`)
	vulnerabilities(t, known, `[{"path": "stdlib", "vulns": [{"id": "GO-2099-0001", "modified": "2026-01-01T00:00:00Z"}]}]`)
	for _, c := range []struct {
		name, db, release string
		ok                bool
		says              string
	}{
		{"none", "https://vulnerabilities.invalid", "", true, notChecked},
		{"none, for a release", "https://vulnerabilities.invalid", "1", false, notChecked},
		{"no such folder, for a release", "file:///nowhere", "1", false, notChecked},
		{"one that knows nothing", "file://" + clean, "1", true, "No vulnerabilities found"},
		{"one that knows of a function that is called", "file://" + known, "", false, "GO-2099-0001"},
	} {
		// Once in some runs on a busy machine govulncheck ended in the middle of its report, and as if all were well.
		out, err := vulnerable(t, c.db, c.release)
		if (err == nil) != c.ok {
			t.Logf("%s: once more: %v\n%s", c.name, err, out)
			out, err = vulnerable(t, c.db, c.release)
		}
		if (err == nil) != c.ok || !strings.Contains(string(out), c.says) {
			t.Errorf("%s: %v, want success %v and %q\n%s", c.name, err, c.ok, c.says, out)
		}
		if c.says != notChecked && strings.Contains(string(out), notChecked) {
			t.Errorf("%s: it was checked, and is said not to be:\n%s", c.name, out)
		}
	}
}

// vulnerable looks for vulnerabilities that a database knows.
func vulnerable(t *testing.T, db, release string) ([]byte, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "../tools/vulnerabilities.sh", "./snapshot")
	cmd.Env = append(os.Environ(), "VULNDB="+db, "TSUJI_RELEASE="+release)
	return cmd.CombinedOutput()
}

// vulnerabilities writes a database of the form of https://go.dev/security/vuln/database.
func vulnerabilities(t *testing.T, dir, modules string) {
	t.Helper()
	for name, content := range map[string]string{
		"index/db.json":      `{"modified": "2026-01-01T00:00:00Z"}`,
		"index/modules.json": modules,
		"index/vulns.json":   `[]`,
		"ID/GO-2099-0001.json": `{"schema_version": "1.3.1", "id": "GO-2099-0001", "modified": "2026-01-01T00:00:00Z",
			"summary": "for a test", "affected": [{"package": {"name": "stdlib", "ecosystem": "Go"},
			"ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}]}],
			"ecosystem_specific": {"imports": [{"path": "crypto/sha256", "symbols": ["New", "Sum256"]}]}}]}`,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(path + ".gz")
		if err != nil {
			t.Fatal(err)
		}
		w := gzip.NewWriter(f)
		_, err = w.Write([]byte(content))
		for _, end := range []func() error{w.Close, f.Close} {
			if e := end(); err == nil {
				err = e
			}
		}
		if err == nil {
			err = os.WriteFile(path, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
