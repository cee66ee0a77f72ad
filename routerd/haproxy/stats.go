package haproxy

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// ServerStats is what a worker has counted for a server since it started, or since the server was added.
type ServerStats struct {
	Econ     uint64 // connections that failed, the last try of a request included
	Eresp    uint64 // answers that were none
	Sessions int    // that it has now; with HTTP: requests
	Status   string // "UP", "MAINT", "DRAIN", "no check", "DOWN 1/2" …
	Retried  uint64 // connections that failed and were tried again, here or on another server
}

// ServerStats returns what was counted for the servers of some backends, by name, in the order of the
// backends. It costs more the more backends there are (see BenchmarkOps), because HAProxy looks for them one by one:
// who wants to know this of many asks with AllServerStats.
func (r *Runtime) ServerStats(ctx context.Context, backends ...string) ([]map[string]ServerStats, error) {
	commands := make([]Command, len(backends))
	for i, b := range backends {
		commands[i] = Cmd("show", "stat", b, "4", "-1")
	}
	texts, err := r.askAll(ctx, commands)
	if err != nil {
		return nil, err
	}
	stats := make([]map[string]ServerStats, len(backends))
	for i, text := range texts {
		all, err := parseStats(text)
		if err != nil {
			return nil, fmt.Errorf("backend %s: %w", backends[i], err)
		}
		if stats[i] = all[backends[i]]; stats[i] == nil {
			stats[i] = map[string]ServerStats{}
		}
	}
	return stats, nil
}

// AllServerStats returns what was counted for every server, by backend and name. Backends without servers are left
// out.
func (r *Runtime) AllServerStats(ctx context.Context) (map[string]map[string]ServerStats, error) {
	text, err := r.ask(ctx, Cmd("show", "stat", "-1", "4", "-1"))
	if err != nil {
		return nil, err
	}
	return parseStats(text)
}

// BackendStats returns what was counted for each backend, by name: all of its servers' together.
func (r *Runtime) BackendStats(ctx context.Context) (map[string]ServerStats, error) {
	text, err := r.ask(ctx, Cmd("show", "stat", "-1", "2", "-1"))
	if err != nil {
		return nil, err
	}
	all, err := parseStats(text)
	if err != nil {
		return nil, err
	}
	stats := make(map[string]ServerStats, len(all))
	for name, rows := range all {
		stats[name] = rows["BACKEND"]
	}
	return stats, nil
}

// statColumns are the columns that are read; HAProxy adds new ones at the end.
var statColumns = [...]string{"pxname", "svname", "econ", "eresp", "scur", "status", "wretr", "wredis"}

// parseStats reads the answer of "show stat" for servers: CSV whose first columns are never quoted.
func parseStats(text string) (map[string]map[string]ServerStats, error) {
	head, rest, _ := strings.Cut(text, "\n")
	names, ok := strings.CutPrefix(head, "# ")
	if !ok {
		return nil, fmt.Errorf("show stat: %.200q", text)
	}
	var at [len(statColumns)]int
	for i, want := range statColumns {
		at[i] = -1
		column := 0
		for name := range strings.SplitSeq(names, ",") {
			if name == want {
				at[i] = column
				break
			}
			column++
		}
		if at[i] < 0 {
			return nil, fmt.Errorf("show stat: there is no column %s", want)
		}
	}
	last := 0
	for _, c := range at {
		last = max(last, c)
	}
	stats := map[string]map[string]ServerStats{}
	for line := range strings.Lines(rest) {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			continue
		}
		f := strings.SplitN(line, ",", last+2)
		if len(f) <= last {
			return nil, fmt.Errorf("show stat: %d of %d columns in %.200q", len(f), last+1, line)
		}
		s := ServerStats{Status: f[at[5]]}
		var errs [5]error
		var redispatched uint64
		s.Econ, errs[0] = strconv.ParseUint(f[at[2]], 10, 64)
		s.Eresp, errs[1] = strconv.ParseUint(f[at[3]], 10, 64)
		s.Sessions, errs[2] = strconv.Atoi(f[at[4]])
		s.Retried, errs[3] = strconv.ParseUint(f[at[6]], 10, 64)
		redispatched, errs[4] = strconv.ParseUint(f[at[7]], 10, 64)
		s.Retried += redispatched
		for _, err := range errs {
			if err != nil {
				return nil, fmt.Errorf("show stat: a number of %.80s/%.80s: %w", f[at[0]], f[at[1]], err)
			}
		}
		backend := stats[f[at[0]]]
		if backend == nil {
			backend = map[string]ServerStats{}
			stats[f[at[0]]] = backend
		}
		backend[f[at[1]]] = s
	}
	return stats, nil
}
