package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strings"
)

// A document is one of a file's, cut further where that is possible.
type document struct {
	whole chunk
	parts []chunk // of a List; empty: it is not cut
	sure  bool    // the parts are right; if not, and one cannot be parsed, whole is to be tried
}

// A chunk is the smallest text of a file that is read by itself: a document, or one item of a List. What
// is wrong in one harms no other, and one that did not change is not parsed again.
type chunk struct {
	line int    // of its first line in the file, from 1
	text []byte // shares the file's memory, or is a copy
	// What an item is that does not say so itself: those of a typed list (RouteList) as the API returns it.
	apiVersion, kind string
	// What is wrong in any case: the text could not be told apart.
	problem *problem
}

// split cuts a file into documents. JSON is a sequence of values; YAML has documents between lines "---".
func split(content []byte, isJSON bool) []document {
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))
	if isJSON || bytes.HasPrefix(bytes.TrimLeft(content, " \t\r\n"), []byte("{")) {
		if docs, ok := splitJSON(content, isJSON); ok {
			return docs
		}
	}
	var out []document
	cut := func(line int, text []byte) {
		if blank(text) {
			return
		}
		out = append(out, document{whole: chunk{line: line, text: text}, parts: splitList(text, line)})
	}
	start, first, line := 0, 1, 1
	for at := 0; at < len(content); line++ {
		end := len(content)
		if n := bytes.IndexByte(content[at:], '\n'); n >= 0 {
			end = at + n + 1
		}
		if rest, ok := separator(content[at:end]); ok {
			cut(first, content[start:at])
			start, first = end-len(rest), line
		}
		at = end
	}
	cut(first, content[start:])
	return out
}

// separator tells whether a line ends a document, and returns what of the next one stands on it.
func separator(line []byte) (rest []byte, ok bool) {
	if !bytes.HasPrefix(line, []byte("---")) && !bytes.HasPrefix(line, []byte("...")) {
		return nil, false
	}
	rest = line[3:]
	if len(rest) > 0 && !bytes.ContainsAny(rest[:1], " \t\r\n") {
		return nil, false
	}
	return rest, true
}

// blank tells whether a document has only comments, directives and white space.
func blank(text []byte) bool {
	for l := range bytes.Lines(text) {
		l = bytes.TrimSpace(l)
		if len(l) > 0 && l[0] != '#' && l[0] != '%' {
			return false
		}
	}
	return true
}

// splitJSON cuts a sequence of JSON values. It reports false for what is not JSON and may be YAML.
func splitJSON(content []byte, must bool) ([]document, bool) {
	var out []document
	lines := newLineCounter(content)
	for dec := json.NewDecoder(bytes.NewReader(content)); ; {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return out, true
		}
		if err != nil {
			if !must {
				return nil, false
			}
			at := dec.InputOffset()
			if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
				at = max(at, syntax.Offset-1)
			} else { // it ended too soon
				at = int64(len(bytes.TrimRight(content, " \t\r\n")))
			}
			return append(out, document{whole: chunk{line: lines.at(at), text: content[dec.InputOffset():], problem: &problem{
				message: "the file is not valid JSON from here on",
				remedy:  "look for a missing comma, quote or bracket; or the file is not written to its end",
			}}}), true
		}
		start := dec.InputOffset() - int64(len(raw))
		whole := chunk{line: lines.at(start), text: raw}
		out = append(out, document{whole, splitJSONList(raw, lines, start), true})
	}
}

// splitJSONList cuts a List into its items, if raw, which stands at offset start, is one.
func splitJSONList(raw []byte, lines *lineCounter, start int64) []chunk {
	var head struct {
		APIVersion string          `json:"apiVersion"`
		Kind       string          `json:"kind"`
		Items      json.RawMessage `json:"items"`
	}
	if json.Unmarshal(raw, &head) != nil || !isList(head.APIVersion, head.Kind) ||
		len(head.Items) == 0 || head.Items[0] != '[' {
		return nil
	}
	apiVersion, kind := itemOf(head.APIVersion, head.Kind)
	dec := json.NewDecoder(bytes.NewReader(raw))
	token := func() json.Token { t, _ := dec.Token(); return t } // raw was decoded just now
	token()                                                      // {
	var out []chunk
	for dec.More() {
		if token() != "items" {
			var skipped json.RawMessage
			if dec.Decode(&skipped) != nil {
				return nil
			}
			continue
		}
		if token() != json.Delim('[') {
			return nil
		}
		for dec.More() {
			var item json.RawMessage
			if dec.Decode(&item) != nil {
				return nil
			}
			at := start + dec.InputOffset() - int64(len(item))
			out = append(out, chunk{line: lines.at(at), text: item, apiVersion: apiVersion, kind: kind})
		}
		token() // ]
	}
	return out
}

// isList tells whether objects of that kind are lists of what a source may follow.
func isList(apiVersion, kind string) bool {
	item, ok := strings.CutSuffix(kind, "List")
	if !ok {
		return false
	}
	if item == "" {
		return apiVersion == "v1"
	}
	k, _, p := recognize(apiVersion, item)
	return k != "" || p != nil
}

// itemOf is what an item of a list is that does not say so itself.
func itemOf(apiVersion, kind string) (string, string) {
	if kind == "List" {
		return "", ""
	}
	return apiVersion, strings.TrimSuffix(kind, "List")
}

var headKey = regexp.MustCompile(`^(apiVersion|kind|items):[ \t]*["']?([A-Za-z0-9./]*)["']?[ \t]*(#.*)?$`)

// splitList cuts a List in block style, as kubectl prints it, into its items, the first chunk being what
// is around them. It goes by indentation alone, so a List in another style may come out whole (nil), and
// an unusual one in parts that cannot be parsed, of which the caller must try the whole.
func splitList(text []byte, line int) []chunk {
	if !bytes.Contains(text, []byte("List")) || !bytes.Contains(text, []byte("items:")) {
		return nil
	}
	head := chunk{line: line}
	var out []chunk
	var kind, apiVersion string
	indent, inside, seen := -1, false, false
	n := line - 1
	for raw := range bytes.Lines(text) {
		n++
		l := bytes.TrimRight(raw, " \t\r\n")
		body := bytes.TrimLeft(l, " ")
		depth := len(l) - len(body)
		if len(body) == 0 || body[0] == '#' {
			if inside && len(out) > 0 {
				out[len(out)-1].text = append(out[len(out)-1].text, raw...)
				raw = []byte("\n")
			}
			head.text = append(head.text, raw...)
			continue
		}
		dash := body[0] == '-' && (len(body) == 1 || body[1] == ' ')
		if inside && (depth > 0 || dash) {
			switch {
			case dash && indent < 0:
				indent = depth
			case indent < 0, depth < indent:
				return nil
			}
			if depth == indent {
				if !dash {
					return nil
				}
				out = append(out, chunk{line: n})
				raw = bytes.Clone(raw)
				raw[depth] = ' ' // the item's first key stands where it stood
			}
			head.text = append(head.text, '\n')
			out[len(out)-1].text = append(out[len(out)-1].text, raw...)
			continue
		}
		inside = false
		if m := headKey.FindSubmatch(l); m != nil {
			switch string(m[1]) {
			case "items":
				if seen || len(m[2]) > 0 {
					return nil
				}
				inside, seen = true, true
				raw = []byte("items:\n")
			case "kind":
				kind = string(m[2])
			case "apiVersion":
				apiVersion = string(m[2])
			}
		}
		head.text = append(head.text, raw...)
	}
	if !seen || len(out) == 0 || !isList(apiVersion, kind) {
		return nil
	}
	for i := range out {
		out[i].apiVersion, out[i].kind = itemOf(apiVersion, kind)
	}
	return append([]chunk{head}, out...)
}

// A lineCounter tells the lines of offsets that are asked for in rising order.
type lineCounter struct {
	content []byte
	offset  int64
	line    int
}

func newLineCounter(content []byte) *lineCounter { return &lineCounter{content: content, line: 1} }

func (c *lineCounter) at(offset int64) int {
	offset = min(offset, int64(len(c.content)))
	if offset > c.offset {
		c.line += bytes.Count(c.content[c.offset:offset], []byte("\n"))
		c.offset = offset
	}
	return c.line
}
