package archtest

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var (
	function = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Z]\w*)\(`)
	mention  = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z][\w.*]*(?:/[\w.-]+)?`)
	quoted   = regexp.MustCompile("`[^`]+`")
)

// suite is what the tests of a directory are called.
type suite struct {
	names map[string]bool
	text  string          // of their files, which says what their parts are called
	files map[string]bool // of testdata, without directory and extension: parts that are read from there
}

// Mentions returns which tests that stand in backquotes in Markdown files do not exist: a document that says what shows
// something must not outlive it. Documents are named by their paths in the module.
//
// In a table a test is looked for in the directory that stands before it in its cell, in backquotes, and else
// everywhere. What follows after a slash is a part of it. In a command line the name is a pattern, as for -run; so it
// is where it has a period.
func Mentions(root string, documents ...string) ([]string, error) {
	suites, err := readSuites(root)
	if err != nil {
		return nil, fmt.Errorf("read the tests of %s: %w", root, err)
	}
	var faults []string
	for _, document := range documents {
		content, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(document)))
		if err != nil {
			return nil, fmt.Errorf("read what mentions tests: %w", err)
		}
		for n, line := range strings.Split(string(content), "\n") {
			for cell := range strings.SplitSeq(line, "|") {
				for _, fault := range mentionsIn(suites, cell, strings.HasPrefix(line, "|")) {
					faults = append(faults, fmt.Sprintf("%s:%d: %s", document, n+1, fault))
				}
			}
		}
	}
	return faults, nil
}

// readSuites reads the tests of all directories below root, by directory.
func readSuites(root string) (map[string]*suite, error) {
	suites := map[string]*suite{}
	of := func(dir string) *suite {
		if suites[dir] == nil {
			suites[dir] = &suite{names: map[string]bool{}, files: map[string]bool{}}
		}
		return suites[dir]
	}
	err := filepath.WalkDir(root, func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if at != root && strings.HasPrefix(e.Name(), ".") {
				return fs.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(root, at)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if dir, _, ok := strings.Cut(rel, "/testdata/"); ok {
			name, _, _ := strings.Cut(e.Name(), ".")
			of(dir).files[name] = true
			return nil
		}
		if !strings.HasSuffix(at, "_test.go") {
			return nil
		}
		content, err := os.ReadFile(at)
		if err != nil {
			return err
		}
		s := of(path.Dir(rel))
		s.text += string(content)
		for _, m := range function.FindAllSubmatch(content, -1) {
			s.names[string(m[1])] = true
		}
		return nil
	})
	return suites, err
}

// mentionsIn returns what is wrong with the mentions in one cell of a table, or in a line that is none.
func mentionsIn(suites map[string]*suite, cell string, table bool) (faults []string) {
	dir := ""
	for _, q := range quoted.FindAllString(cell, -1) {
		words := strings.Trim(q, "`")
		if table && suites[words] != nil {
			dir = words
			continue
		}
		command := strings.Contains(words, " ")
		in := dir
		if command { // it says by itself where
			in = ""
		}
		for _, m := range mention.FindAllString(words, -1) {
			if !exists(suites, in, m, command) {
				faults = append(faults, strings.TrimSpace("there is no test "+m+" "+in))
			}
		}
	}
	return faults
}

// exists tells whether there is a test, and the part of it that is named. dir is where; empty: anywhere.
func exists(suites map[string]*suite, dir, name string, pattern bool) bool {
	name, part, _ := strings.Cut(name, "/")
	if !pattern && !strings.Contains(name, ".") {
		name = "^" + name + "$"
	}
	named, err := regexp.Compile(name)
	if err != nil {
		return false
	}
	for at, s := range suites {
		if dir != "" && at != dir || part != "" && !s.knows(part) {
			continue
		}
		for n := range s.names {
			if named.MatchString(n) {
				return true
			}
		}
	}
	return false
}

// knows tells whether a part of a test is called so: in a string of its file, where blanks are no underscores, or by
// the name of a file that it reads.
func (s *suite) knows(part string) bool {
	said := regexp.MustCompile("[\"`]" + strings.ReplaceAll(regexp.QuoteMeta(part), "_", "[ _]") + "[\"`]")
	return s.files[part] || said.MatchString(s.text)
}

// Documents returns the Markdown files of a module that say what there is, by their paths: those at its top and below
// docs, but for what a changelog tells of the past.
func Documents(root string) ([]string, error) {
	var all []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/adr/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil {
			return nil, fmt.Errorf("list documents: %w", err)
		}
		for _, f := range found {
			rel, err := filepath.Rel(root, f)
			if err != nil {
				return nil, fmt.Errorf("list documents: %w", err)
			}
			if rel != "CHANGELOG.md" {
				all = append(all, filepath.ToSlash(rel))
			}
		}
	}
	slices.Sort(all)
	return all, nil
}
