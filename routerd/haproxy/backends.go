package haproxy

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// AddBackend adds a backend with everything that a named defaults section has, rules included. The section must have a
// mode. Nothing is sent to the backend before PublishBackend. It needs Capabilities.DynamicBackends, as all
// operations on backends do.
//
// The name may hold letters, digits and "-_.:" and no more; so may names of servers. It may not be that of a named
// defaults section. How long it may be only the length of a command limits.
//
// With "balance random" or a consistent hash a server takes 0.8 kB for each unit of its weight.
func AddBackend(name, profile string) Op {
	return Op{Cmd("add", "backend", name, "from", profile), saying("New backend registered")}
}

// PublishBackend lets rules choose a backend. That it was published is no error.
func PublishBackend(name string) Op {
	return Op{Cmd("publish", "backend", name), saying("Backend published")}
}

// UnpublishBackend makes rules that name a backend go on to the next rule. What it has already goes on. That it was
// not published is no error.
func UnpublishBackend(name string) Op {
	return Op{Cmd("unpublish", "backend", name), saying("Backend unpublished")}
}

// AwaitBackendRemovable waits until a backend can be deleted, at most so many milliseconds; not when that cannot be,
// because it is published or has servers. Everything else on this connection waits too.
func AwaitBackendRemovable(name string, milliseconds int) Op {
	return Op{Cmd("wait", strconv.Itoa(milliseconds)+"ms", "be-removable", name), saying("Done.")}
}

// DelBackend deletes a backend, which must be unpublished and have no servers and no requests.
func DelBackend(name string) Op {
	return Op{Cmd("del", "backend", name), saying("Backend deleted")}
}

// Backends returns the names of all backends, published or not, but HAProxy's own.
func (r *Runtime) Backends(ctx context.Context) ([]string, error) {
	text, err := r.ask(ctx, Cmd("show", "backend"))
	if err != nil {
		return nil, err
	}
	return parseBackends(text)
}

// parseBackends reads the answer of "show backend".
func parseBackends(text string) ([]string, error) {
	lines := strings.Split(text, "\n")
	if lines[0] != "# name" {
		return nil, fmt.Errorf("show backend: %.200q", text)
	}
	names := make([]string, 0, len(lines)-1)
	for _, name := range lines[1:] {
		if name != "" {
			names = append(names, name)
		}
	}
	return names, nil
}
