// Package haproxytest finds the HAProxy that tests run.
//
// It guarantees that the binary it names runs and is of the branch that Tsuji is built for, or that the
// test fails with what to do about it: a test that needs HAProxy is never skipped.
//
// Do not import it outside of tests.
package haproxytest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// The oldest version that the tests are written for.
const wantMajor, wantMinor = 3, 4

// Binary returns the path of HAProxy: what the environment variable HAPROXY names; else
// .tools/bin/haproxy in the working directory or above; else haproxy in PATH. It fails the test when
// there is none, or only one that is too old.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("HAPROXY"); path != "" {
		if v := version(t, path); v == "" {
			t.Fatalf("HAPROXY=%s is not an HAProxy that runs", path)
		}
		return path
	}
	if path, ok := installed(t); ok {
		return path
	}
	path, err := exec.LookPath("haproxy")
	if err != nil {
		t.Fatal("there is no HAProxy: run `make tools`, or set HAPROXY")
	}
	if v := version(t, path); !recent(v) {
		t.Fatalf("%s is %q, older than %d.%d: run `make tools`, or set HAPROXY", path, v, wantMajor, wantMinor)
	}
	return path
}

// installed looks for .tools/bin/haproxy from the working directory upwards.
func installed(t testing.TB) (string, bool) {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatalf("find HAProxy: %v", err)
	}
	for {
		path := filepath.Join(dir, ".tools", "bin", "haproxy")
		if _, err := os.Stat(path); err == nil {
			return path, true
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", false
		}
		dir = up
	}
}

var versionLine = regexp.MustCompile(`(?m)^HAProxy version ([0-9]+\.[0-9]+)`)

// version returns "3.4", or "" when the program does not run or is something else.
func version(t testing.TB, path string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "-v").CombinedOutput()
	if err != nil {
		return ""
	}
	if m := versionLine.FindSubmatch(out); m != nil {
		return string(m[1])
	}
	return ""
}

var branch = regexp.MustCompile(`^([0-9]+)\.([0-9]+)$`)

func recent(v string) bool {
	m := branch.FindStringSubmatch(v)
	if m == nil {
		return false
	}
	major, err1 := strconv.Atoi(m[1])
	minor, err2 := strconv.Atoi(m[2])
	return err1 == nil && err2 == nil && (major > wantMajor || major == wantMajor && minor >= wantMinor)
}
