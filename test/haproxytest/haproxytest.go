// Package haproxytest finds the HAProxy that tests run.
//
// It guarantees that a binary it names runs and is of the release that was asked for, or that the test
// fails with what to do about it: a test that needs HAProxy is never skipped.
//
// Do not import it outside of tests.
package haproxytest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"
)

// The oldest version that tests are written for which ask for Binary.
const wantMajor, wantMinor = 3, 4

// older are the releases that tests run on as well, by the names that `make tools` gives them. Debian's next
// stable suite may have moved on, so that one is not always to be had.
var older = []struct {
	name     string
	optional bool
}{{"haproxy-3.0", true}, {"haproxy-2.6", false}}

// Binary returns the path of HAProxy: what the environment variable HAPROXY names; else
// .tools/bin/haproxy in the working directory or above; else haproxy in PATH. It fails the test when
// there is none, or only one that is too old.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("HAPROXY"); path != "" {
		if _, _, err := version(path); err != nil {
			t.Fatalf("HAPROXY=%s is not an HAProxy that runs: %v", path, err)
		}
		return path
	}
	if path, ok := installed(t, "haproxy"); ok {
		return path
	}
	path, err := exec.LookPath("haproxy")
	if err != nil {
		t.Fatal("there is no HAProxy: run `make tools`, or set HAPROXY")
	}
	if !AtLeast(t, path, wantMajor, wantMinor) {
		t.Fatalf("%s is older than %d.%d: run `make tools`, or set HAPROXY", path, wantMajor, wantMinor)
	}
	return path
}

// Binaries returns the path of each release that is tested, the newest first. When the environment variable
// HAPROXY names another one than `make tools` made, it is that one alone.
func Binaries(t testing.TB) []string {
	t.Helper()
	newest := Binary(t)
	if path := os.Getenv("HAPROXY"); path != "" {
		if ours, ok := installed(t, "haproxy"); !ok || !same(path, ours) {
			return []string{newest}
		}
	}
	list := []string{newest}
	for _, o := range older {
		path, ok := installed(t, o.name)
		switch {
		case ok:
			list = append(list, path)
		case !o.optional:
			t.Fatalf("there is no .tools/bin/%s: run `make tools`; or set HAPROXY, to test on that one alone", o.name)
		}
	}
	return list
}

// Each runs a test on each release, as a subtest that has its name: "haproxy=2.6".
func Each(t *testing.T, f func(t *testing.T, binary string)) {
	t.Helper()
	for _, binary := range Binaries(t) {
		major, minor := Version(t, binary)
		t.Run("haproxy="+strconv.Itoa(major)+"."+strconv.Itoa(minor), func(t *testing.T) { f(t, binary) })
	}
}

// Version returns a binary's release.
func Version(t testing.TB, binary string) (major, minor int) {
	t.Helper()
	major, minor, err := version(binary)
	if err != nil {
		t.Fatalf("%s is not an HAProxy that runs: %v", binary, err)
	}
	return major, minor
}

// AtLeast tells whether a binary is of a release or a later one.
func AtLeast(t testing.TB, binary string, major, minor int) bool {
	t.Helper()
	x, y := Version(t, binary)
	return x > major || x == major && y >= minor
}

// installed looks for a name in .tools/bin from the working directory upwards.
func installed(t testing.TB, name string) (string, bool) {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatalf("find HAProxy: %v", err)
	}
	for {
		path := filepath.Join(dir, ".tools", "bin", name)
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

// same tells whether two paths lead to one file.
func same(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

var versionLine = regexp.MustCompile(`(?m)^HA-?Proxy version ([0-9]{1,4})\.([0-9]{1,4})`)

// known are the releases of the binaries that were asked already.
var known sync.Map // path without links → [2]int

func version(path string) (major, minor int, err error) {
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return 0, 0, err
	}
	if v, ok := known.Load(path); ok {
		v := v.([2]int) //nolint:errcheck // nothing else is stored
		return v[0], v[1], nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "-v").CombinedOutput()
	if err != nil {
		return 0, 0, err
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return 0, 0, errors.New("it does not answer -v as HAProxy does")
	}
	major, _ = strconv.Atoi(string(m[1])) // at most four digits
	minor, _ = strconv.Atoi(string(m[2]))
	known.Store(path, [2]int{major, minor})
	return major, minor, nil
}
