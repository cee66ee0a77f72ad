package manifests

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tsuji-dev/tsuji/controlplane/cluster/internal/malformed"
)

// A locator finds the line of a value in a text, which it parses once more with positions: only what is
// wrong pays for that.
type locator struct {
	root         *yaml.Node
	parsed, json bool
}

// line returns the line, from 1, of the value at path or of the innermost that is there on the way to it.
func (l *locator) line(text []byte, path []string) int {
	if len(path) == 0 {
		return firstLine(text)
	}
	if !l.parsed {
		l.parsed, l.json = true, json.Valid(text)
		var doc yaml.Node
		if !l.json && yaml.Unmarshal(text, &doc) == nil && len(doc.Content) > 0 {
			l.root = doc.Content[0]
		}
	}
	if l.json {
		return lineInJSON(text, path)
	}
	best := firstLine(text)
	node := l.root
	for _, step := range path {
		if node == nil {
			break
		}
		var next *yaml.Node
		switch node.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(node.Content); i += 2 {
				if node.Content[i].Value == step { // the last of two
					next, best = node.Content[i+1], node.Content[i].Line
				}
			}
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(node.Content) {
				next = node.Content[i]
				best = next.Line
			}
		default: // there is nothing below it
		}
		if next != nil && next.Kind == yaml.AliasNode {
			next = next.Alias
		}
		node = next
	}
	return best
}

// firstLine returns the line, from 1, of the first that says something.
func firstLine(text []byte) int {
	n := 0
	for l := range bytes.Lines(text) {
		n++
		if l = bytes.TrimSpace(l); len(l) > 0 && l[0] != '#' && l[0] != '%' {
			return n
		}
	}
	return 1
}

// lineInJSON is line for a text that is JSON.
func lineInJSON(text []byte, path []string) int {
	best, depth := int64(0), 0
	malformed.WalkJSON(text, func(at []string, start, _ int64) bool {
		if len(at) > len(path) || len(at) > 0 && at[len(at)-1] != path[len(at)-1] {
			return false
		}
		if len(at) >= depth { // the last of two
			best, depth = start, len(at)
		}
		return true
	})
	return 1 + bytes.Count(text[:best], []byte("\n"))
}

var (
	yamlLine      = regexp.MustCompile(`line ([0-9]+):`)
	yamlDuplicate = regexp.MustCompile(`line ([0-9]+): key .* already set in map`)
)

// explainDuplicates returns the keys that stand twice in one mapping, nil if the error has others.
func explainDuplicates(err error) []problem {
	var out []problem
	for _, m := range yamlDuplicate.FindAllStringSubmatch(err.Error(), 10) {
		n, _ := strconv.Atoi(m[1]) // digits
		out = append(out, problem{
			line:    max(n, 1),
			message: "a key stands there twice in one mapping; the last one is used",
			remedy:  "remove one of the two, or indent it as part of another mapping",
		})
	}
	return out
}

// yamlErrors are what the parser's errors mean for whoever wrote the file. The parser's own words are not
// passed on: they may quote the file.
var yamlErrors = []struct {
	has             string
	message, remedy string
	parser          bool // the parser counts its lines from 0, the scanner from 1
}{
	{"found character that cannot start any token", "a value begins with a character that YAML keeps for itself, such as a tab, @ or `", "indent with spaces, and put such a value in quotes", false},
	{"found a tab character", "there is a tab in the indentation", "indent with spaces", false},
	{"mapping values are not allowed", "there is a colon where no key may be", "indent the line like its neighbours, or put a value that has \": \" in it in quotes", false},
	{"could not find expected ':'", "a line is no \"key: value\", or is cut off", "complete it, or indent it as part of the value above", false},
	{"block sequence entries are not allowed", "there is a \"- \" where no sequence may be", "put it on a line of its own, indented like its neighbours", false},
	{"did not find expected key", "a line is not indented like its neighbours", "indent it as they are", true},
	{"did not find expected '-' indicator", "a line in a sequence has no \"- \", or is not indented like its neighbours", "begin it with \"- \", or indent it", true},
	{"did not find expected ',' or '}'", "a {…} is not closed, or lacks a comma", "close it, or put a value that has a brace or comma in it in quotes", true},
	{"did not find expected ',' or ']'", "a […] is not closed, or lacks a comma", "close it, or put a value that has a bracket or comma in it in quotes", true},
	{"did not find expected node content", "a value is missing in a {…} or […]", "write it, or remove the comma before it", true},
	{"found unexpected end of stream", "a quote is opened and not closed", "close it; or the file is not written to its end", false},
	{"found unexpected document indicator", "a quote is opened and not closed before the document ends", "close it", false},
	{"unknown escape character", "there is a backslash in double quotes that YAML does not know", "use single quotes, or write two backslashes", false},
	{"unknown anchor", "a value begins with *, which refers to an anchor that is not there", "put the value in quotes", false},
	{"control characters are not allowed", "there is a control character in the text", "remove it; values that are not text belong under data, in base64", false},
	{"excessive aliasing", "aliases make the document too large", "write it without anchors and aliases", false},
}

// explainYAML says why a text is no YAML.
func explainYAML(text []byte, err error) problem {
	p := problem{
		line: firstLine(text), broken: true,
		message: "the document is not valid YAML",
		remedy:  "check indentation and quotes here and above",
	}
	said := err.Error()
	m := yamlLine.FindStringSubmatch(said)
	if m != nil {
		n, _ := strconv.Atoi(m[1]) // digits
		p.line = max(n, 1)
	}
	for _, e := range yamlErrors {
		if strings.Contains(said, e.has) {
			p.message, p.remedy = e.message, e.remedy
			if e.parser && m != nil {
				p.line++
			}
			break
		}
	}
	p.line = min(p.line, max(1, bytes.Count(bytes.TrimRight(text, "\n"), []byte("\n"))+1))
	return p
}
