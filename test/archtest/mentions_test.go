package archtest_test

import (
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/tsuji-dev/tsuji/test/archtest"
)

// A document names tests, some of which there are.
func TestMentions(t *testing.T) {
	t.Parallel()
	root := tree(t, txtar.Parse([]byte("-- a/a_test.go --\n"+`package a
func TestOne(t *testing.T) { t.Run("first part", nil) }
func TestOneMore(t *testing.T) {}
func FuzzOne(f *testing.F) {}
-- a/testdata/stories/golden.txt --
-- b/c/c_test.go --
package c
func TestTwo(t *testing.T) {}
-- docs/good.md --
`+"`TestOne`, `TestOne/first_part`, `TestOne/golden`, TestNone without quotes\n"+
		"| `a` `TestOne`, `FuzzOne`, `b/c` `TestTwo` | `TestOneMore` |\n"+
		"`go test -run TestOn ./a`, `go test -run 'TestO.*More' ./a`\n"+`-- docs/bad.md --
`+"`TestOn`, `TestOne/second`\n| `a` `TestTwo` | `b/c` `TestTwo`, `TestTwo/golden` |\n`go test -run TestThree ./a`\n")))
	for document, want := range map[string]string{
		"docs/good.md": "",
		"docs/bad.md": `docs/bad.md:1: there is no test TestOn
docs/bad.md:1: there is no test TestOne/second
docs/bad.md:2: there is no test TestTwo a
docs/bad.md:2: there is no test TestTwo/golden b/c
docs/bad.md:3: there is no test TestThree`,
	} {
		faults, err := archtest.Mentions(root, document)
		if got := strings.Join(faults, "\n"); err != nil || got != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", document, err, got, want)
		}
	}
	if list, err := archtest.Documents(root); err != nil || strings.Join(list, " ") != "docs/bad.md docs/good.md" {
		t.Errorf("documents: %v, %v", list, err)
	}
}
