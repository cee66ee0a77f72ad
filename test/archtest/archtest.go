// Package archtest reads the files of a module and tells which rules of its shape they break: those of its packages,
// and that the tests its documents name exist.
//
// It opens every directory and file itself, by way of os. So Go's test cache knows what a test that calls Check rests
// on, and runs it again when any of that has changed; with a child process, `go list` for one, the cache knows nothing.
//
// Do not assume that it resolves types: it sees imports, selectors of what is imported, and go statements. Build
// constraints are not looked at: a rule holds on every system.
package archtest

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Rules are what Check holds a module against. Packages are named by their directories, "" being the module's own.
type Rules struct {
	Module string // its path

	// Imports has a row for every package: what it may import of this module, in words. Tests are not looked at, but
	// for packages in Tests.
	Imports map[string]string
	// Tests is a directory whose packages only tests import. What they import themselves counts, test or not.
	Tests string
	// Only says who alone may import a package from outside, and why. A path that ends in "/" is all below it.
	Only []Only
	// Pure packages do none of Impure, and have no go statement.
	Pure   []string
	Impure []Ban
	// StandardOnly packages import the standard library and nothing else from outside.
	StandardOnly []string
}

// Only is one row of Rules.Only.
type Only struct{ Path, Who, Why string }

// Ban says what pure packages must not use of a package; without Names and But it is all of it.
type Ban struct {
	Path  string // one that ends in "/" is all below it
	Names string // these names, in words
	But   string // or all but these
}

// whole tells whether the package may not even be imported.
func (b Ban) whole() bool { return b.Names == "" && b.But == "" }

// Check returns what is wrong, in a fixed order; an error says that the tree could not be read.
func Check(root string, r Rules) ([]string, error) {
	pkgs, err := read(root, r)
	if err != nil {
		return nil, err
	}
	var faults []string
	say := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for pkg := range r.Imports {
		if pkgs[pkg] == nil {
			say("stale row: there is no package %s", pkg)
		}
	}
	for pkg, p := range pkgs {
		r.checkRow(pkg, p.own, say)
		for _, i := range slices.Sorted(maps.Keys(p.others)) {
			r.checkOther(pkg, i, say)
		}
		for _, f := range p.impure {
			say("%s is pure, but %s", pkg, f)
		}
	}
	slices.Sort(faults)
	return faults, nil
}

// checkRow compares what a package imports of the module with its row.
func (r Rules) checkRow(pkg string, own map[string]bool, say func(string, ...any)) {
	row, ok := r.Imports[pkg]
	if !ok {
		say("%s has no row", pkg)
		return
	}
	allowed := strings.Fields(row)
	for i := range own {
		if !slices.Contains(allowed, i) {
			say("%s imports %s, which its row does not allow", pkg, i)
		}
		if r.isTest(i) && !r.isTest(pkg) {
			say("%s imports %s, which is for tests", pkg, i)
		}
	}
	for _, a := range allowed {
		if !own[a] {
			say("stale row: %s does not import %s", pkg, a)
		}
	}
}

// checkOther looks at one import from outside.
func (r Rules) checkOther(pkg, i string, say func(string, ...any)) {
	for _, o := range r.Only {
		if covers(o.Path, i) &&
			!slices.ContainsFunc(strings.Fields(o.Who), func(who string) bool { return covers(who, pkg) }) {
			say("%s imports %s: %s", pkg, i, o.Why)
		}
	}
	if first, _, _ := strings.Cut(i, "/"); slices.Contains(r.StandardOnly, pkg) && strings.Contains(first, ".") {
		say("%s may import the standard library only, but imports %s", pkg, i)
	}
}

// covers tells whether a path is the one named, or below it where the name ends in a slash.
func covers(name, p string) bool {
	return p == name || strings.HasSuffix(name, "/") && strings.HasPrefix(p+"/", name)
}

func (r Rules) isTest(pkg string) bool { return r.Tests != "" && covers(r.Tests+"/", pkg) }

// pkg is what was found in a directory.
type pkg struct {
	own, others map[string]bool // imports of this module, relative to it; and from outside
	impure      []string        // what a pure package must not do, with its place
}

// read reads every package of the module: not what the go command passes over, nor modules within.
func read(root string, r Rules) (map[string]*pkg, error) {
	pkgs := map[string]*pkg{}
	err := filepath.WalkDir(root, func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if at == root {
				return nil
			}
			if strings.HasPrefix(e.Name(), ".") || strings.HasPrefix(e.Name(), "_") || e.Name() == "testdata" || e.Name() == "vendor" {
				return fs.SkipDir
			}
			switch _, err := os.Stat(filepath.Join(at, "go.mod")); {
			case err == nil:
				return fs.SkipDir
			case errors.Is(err, fs.ErrNotExist):
				return nil
			default:
				return err
			}
		}
		if !strings.HasSuffix(at, ".go") || strings.HasPrefix(e.Name(), ".") || strings.HasPrefix(e.Name(), "_") {
			return nil
		}
		rel, err := filepath.Rel(root, at)
		if err != nil {
			return err
		}
		dir := strings.TrimPrefix(path.Dir(filepath.ToSlash(rel)), ".")
		if strings.HasSuffix(at, "_test.go") && !r.isTest(dir) {
			return nil
		}
		if pkgs[dir] == nil {
			pkgs[dir] = &pkg{own: map[string]bool{}, others: map[string]bool{}}
		}
		return pkgs[dir].read(at, rel, dir, r)
	})
	if err != nil {
		return nil, fmt.Errorf("read the tree %s: %w", root, err)
	}
	return pkgs, nil
}

// read adds what is in one file.
func (p *pkg) read(at, rel, dir string, r Rules) error {
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, at, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	names := map[string]string{} // in this file → path of what is imported by it
	place := func(n ast.Node) string { return rel + ":" + strconv.Itoa(files.Position(n.Pos()).Line) }
	pure := slices.Contains(r.Pure, dir)
	for _, i := range f.Imports {
		from, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return err
		}
		if own, ok := strings.CutPrefix(from, r.Module+"/"); ok {
			if own != dir { // its own external tests
				p.own[own] = true
			}
		} else {
			p.others[from] = true
		}
		name := localName(from)
		if i.Name != nil {
			name = i.Name.Name
		}
		names[name] = from
		for _, b := range r.Impure {
			switch {
			case !pure || !covers(b.Path, from):
			case b.whole():
				p.impure = append(p.impure, fmt.Sprintf("imports %s (%s)", from, place(i)))
			case name == ".":
				p.impure = append(p.impure, fmt.Sprintf("imports all names of %s (%s)", from, place(i)))
			}
		}
	}
	if !pure {
		return nil
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			p.impure = append(p.impure, fmt.Sprintf("starts a goroutine (%s)", place(n)))
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && r.bans(names[x.Name], n.Sel.Name) {
				p.impure = append(p.impure, fmt.Sprintf("uses %s.%s (%s)", names[x.Name], n.Sel.Name, place(n)))
			}
		}
		return true
	})
	return nil
}

// bans tells whether a name of a package may not be used, though the package may.
func (r Rules) bans(from, name string) bool {
	for _, b := range r.Impure {
		if from == "" || !covers(b.Path, from) {
			continue
		}
		if b.But != "" && !slices.Contains(strings.Fields(b.But), name) ||
			slices.Contains(strings.Fields(b.Names), name) {
			return true
		}
	}
	return false
}

// localName is what a package is called where it is imported without a name: the last part of its path that is no
// version. A package may call itself otherwise; those that Impure names do not.
func localName(from string) string {
	dir, name := path.Split(from)
	if v, err := strconv.Atoi(strings.TrimPrefix(name, "v")); err == nil && v > 1 && dir != "" {
		return path.Base(dir)
	}
	return name
}
