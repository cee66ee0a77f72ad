package malformed

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// WalkJSON visits each value of a JSON text with its path and where it begins and ends. visit returns
// whether to go into it.
func WalkJSON(text []byte, visit func(path []string, start, end int64) bool) {
	var value func(path []string, raw []byte, start int64, depth int)
	value = func(path []string, raw []byte, start int64, depth int) {
		if !visit(path, start, start+int64(len(raw))) || depth == 0 || len(raw) == 0 || raw[0] != '{' && raw[0] != '[' {
			return
		}
		dec := json.NewDecoder(bytes.NewReader(raw))
		if _, err := dec.Token(); err != nil {
			return
		}
		for i := 0; dec.More(); i++ {
			step := strconv.Itoa(i)
			if raw[0] == '{' {
				key, err := dec.Token()
				name, ok := key.(string)
				if err != nil || !ok {
					return
				}
				step = name
			}
			var child json.RawMessage
			if dec.Decode(&child) != nil {
				return
			}
			at := start + dec.InputOffset() - int64(len(child))
			value(append(path[:len(path):len(path)], step), child, at, depth-1)
		}
	}
	trimmed := bytes.TrimLeft(text, " \t\r\n")
	value(nil, bytes.TrimRight(trimmed, " \t\r\n"), int64(len(text)-len(trimmed)), 64)
}

// pathAt returns the path of the innermost value that begins before offset and does not end before it.
func pathAt(text []byte, offset int64) []string {
	var best []string
	WalkJSON(text, func(path []string, start, end int64) bool {
		if start >= offset || offset > end {
			return false
		}
		best = path
		return true
	})
	return best
}
