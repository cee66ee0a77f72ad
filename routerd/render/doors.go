package render

import (
	"slices"
	"strings"
)

// Doors are the frontends through which requests come, as the program has them now.
type Doors struct {
	Outer []string // which clients connect to
	Inner []string // which those hand connections on to
}

// Doors returns them. ok is false where one of them is a unix socket: HAProxy cannot close that without closing itself.
func (r *Renderer) Doors() (d Doors, ok bool) {
	if len(r.options.HTTP) > 0 {
		d.Outer = append(d.Outer, frontendHTTP)
	}
	if len(r.options.HTTPS) > 0 && r.passed {
		d.Outer, d.Inner = append(d.Outer, frontendTLS), []string{frontendHTTPS}
	} else if len(r.options.HTTPS) > 0 {
		d.Outer = append(d.Outer, frontendHTTPS)
	}
	return d, !slices.ContainsFunc(slices.Concat(r.options.HTTP, r.options.HTTPS),
		func(a string) bool { return strings.HasPrefix(a, "unix:") })
}

// KeepsIdle tells whether a HAProxy that stops lets idle connections have one more request.
func (r *Renderer) KeepsIdle() bool { return r.settings.GetIdleCloseOnResponse() }
