package haproxy

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Suspects names where HAProxy writes which backends had trouble to connect, as routerd/render has it.
type Suspects struct {
	Map   string // a map of backends, of mode http
	Table string // a stick table of backends, of mode tcp, with gpc0: connections that were tried again, gpc1: since the last answer
}

// unanswered is how many connections in a row that got no answer are trouble: some have none yet.
const unanswered = "2"

// HasSuspects tells whether the release can say which backends had trouble to connect, with a rule that
// sees how often a request was tried again.
func (v Version) HasSuspects() bool { return v.Major >= 3 }

// Take returns the backends that had trouble since it was called last, sorted. A map or table that HAProxy does not
// have is empty.
func (s Suspects) Take(ctx context.Context, r *Runtime) ([]string, error) {
	answers, err := r.Exec(
		ctx, Cmd("show", "map", s.Map),
		Cmd("show", "table", s.Table, "data.gpc0", "gt", "0"), Cmd("show", "table", s.Table, "data.gpc1", "gt", unanswered),
	)
	if err != nil {
		return nil, err
	}
	var names []string
	var clean []Command
	if a := answers[0]; a.severity < 0 {
		entries, err := parseMap(a.text)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			names = append(names, e.Key)
			clean = append(clean, Cmd("del", "map", s.Map, e.Key))
		}
	}
	for _, a := range answers[1:] {
		if a.severity >= 0 {
			continue
		}
		keys, err := parseTableKeys(a.text)
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			names = append(names, k)
			clean = append(clean, Cmd("set", "table", s.Table, "key", k, "data.gpc0", "0", "data.gpc1", "0"))
		}
	}
	if len(clean) == 0 {
		return nil, nil
	}
	if _, err := r.Exec(ctx, clean...); err != nil { // one that went meanwhile is no harm
		return nil, err
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

var tableLine = regexp.MustCompile(`^0x[0-9a-f]+: key=(\S+) use=`)

// parseTableKeys reads the keys in the answer of "show table", which are strings without blanks.
func parseTableKeys(text string) ([]string, error) {
	var keys []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if line == "" || strings.HasPrefix(line, "# ") {
			continue
		}
		m := tableLine.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("show table: %.200q", line)
		}
		keys = append(keys, m[1])
	}
	return keys, nil
}
