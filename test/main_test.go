package test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tsuji-dev/tsuji/test/netnstest"
)

// bin is where the product's binaries are; scratch is a directory for what all stories share.
var bin, scratch string

// TestMain runs the stories in a network namespace of their own.
func TestMain(m *testing.M) {
	netnstest.Main(m, "..", func(dir string) (func(), error) {
		bin, scratch = dir, filepath.Join(dir, "shared")
		return stopAPIServer, os.Mkdir(scratch, 0o700)
	})
}
