package haproxy

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// CloseFrontend makes a frontend listen no more, for good, and close each of its connections with the next answer; all
// else goes on. Paused it gives up its port; stopped alone it would keep it, and connections would come that nobody
// accepts.
func CloseFrontend(name string) []Op {
	return []Op{{Cmd("disable", "frontend", name), silent}, StopFrontend(name)}
}

// StopFrontend makes a frontend close each of its connections with the next answer, and accept no more.
func StopFrontend(name string) Op { return Op{Cmd("shutdown", "frontend", name), silent} }

// FrontendSessions returns how many connections some frontends have together.
func (r *Runtime) FrontendSessions(ctx context.Context, names ...string) (int, error) {
	commands := make([]Command, len(names))
	for i, n := range names {
		commands[i] = Cmd("show", "stat", n, "1", "-1")
	}
	texts, err := r.askAll(ctx, commands)
	if err != nil {
		return 0, err
	}
	sum := 0
	for i, text := range texts {
		n, err := parseSessions(text)
		if err != nil {
			return 0, fmt.Errorf("connections of frontend %s: %w", names[i], err)
		}
		sum += n
	}
	return sum, nil
}

// parseSessions reads the answer of "show stat" for one frontend: CSV with a head, whose first columns are never
// quoted.
func parseSessions(text string) (int, error) {
	head, row, _ := strings.Cut(strings.TrimSpace(text), "\n")
	at := slices.Index(strings.Split(strings.TrimPrefix(head, "# "), ","), "scur")
	fields := strings.Split(row, ",")
	if at < 0 || at >= len(fields) {
		return 0, fmt.Errorf("show stat: %.200q", text)
	}
	n, err := strconv.Atoi(fields[at])
	if err != nil {
		return 0, fmt.Errorf("show stat: %w", err)
	}
	return n, nil
}
