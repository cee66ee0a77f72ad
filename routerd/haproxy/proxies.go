package haproxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Closed names proxies that somebody has taken out of service.
type Closed struct {
	Paused      []string // frontends, for EnableFrontend
	Stopped     []string // frontends, for good
	Unpublished []string // backends
}

// Closed returns what is closed among these proxies; with none, among all frontends, and with backends among
// those too. HAProxy goes through all proxies for each that is named, and takes 6 µs for each backend if none is:
// it answers a buffer at a time, and does other things in between.
func (r *Runtime) Closed(ctx context.Context, backends bool, names ...string) (Closed, error) {
	const frontend, backend = 1, 2
	kinds := frontend
	if backends {
		kinds |= backend
	}
	if len(names) == 0 {
		names = []string{"-1"}
	}
	commands := make([]Command, len(names))
	for i, n := range names {
		commands[i] = Cmd("show", "stat", n, fmt.Sprint(kinds), "-1")
	}
	answers, err := r.Exec(ctx, commands...)
	if err != nil {
		return Closed{}, err
	}
	var closed Closed
	var errs []error
	for _, a := range answers {
		if a.severity < 0 { // else it has gone meanwhile
			errs = append(errs, closed.add(a.text))
		}
	}
	return closed, errors.Join(errs...)
}

// add reads an answer of "show stat": CSV whose first columns are never quoted.
func (c *Closed) add(text string) error {
	head, rest, _ := strings.Cut(text, "\n")
	if !strings.HasPrefix(head, "# pxname,svname,") {
		return fmt.Errorf("show stat: %.200q", text)
	}
	before, _, ok := strings.Cut(head, ",status,")
	if !ok {
		return errors.New("show stat: there is no column status")
	}
	column := strings.Count(before, ",") + 1
	for line := range strings.Lines(rest) {
		if line = strings.TrimRight(line, "\n"); line == "" {
			continue
		}
		name, tail, _ := strings.Cut(line, ",")
		kind, _, _ := strings.Cut(tail, ",")
		for range column - 1 {
			if _, tail, ok = strings.Cut(tail, ","); !ok {
				return fmt.Errorf("show stat: too few columns in %.200q", line)
			}
		}
		status, _, _ := strings.Cut(tail, ",")
		switch {
		case kind == "FRONTEND" && status == "PAUSED":
			c.Paused = append(c.Paused, name)
		case kind == "FRONTEND" && status == "STOP":
			c.Stopped = append(c.Stopped, name)
		case kind == "BACKEND" && strings.HasSuffix(status, " (UNPUB)"):
			c.Unpublished = append(c.Unpublished, name)
		}
	}
	return nil
}

// EnableFrontend makes a frontend that is paused listen again.
func EnableFrontend(name string) Op {
	return Op{Cmd("enable", "frontend", name), silent}
}
