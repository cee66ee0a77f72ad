// Package render turns snapshots into HAProxy's files.
//
// A Renderer holds one rendered state. Apply takes it from one snapshot to the next by their difference,
// and says what changed in terms of HAProxy: which backends got other servers, which certificates other
// content, and what only a reload can bring. It guarantees that what the files make HAProxy do depends on the
// snapshot and the Options alone, whatever sequence of differences led there, so that applying the inverse of a
// difference undoes it; that a difference with a resource that cannot be rendered changes nothing; and that nothing
// a resource says becomes a directive, a map entry or a certificate of its own making (quote.go). Apply
// costs in proportion to the difference and to the hosts that it touches; only Dirty, which is needed
// before a reload, writes whole files.
//
// Do not assume that equal snapshots have equal files: of routes that are gone their profiles stay, and the way of
// TLS that passes some of it through, so that their like comes back without a reload. Do not assume that a Renderer
// may be used by two goroutines at once, or that it has been to the disk: it starts no goroutine, reads no clock,
// environment or file, and writes no log.
package render

import (
	"fmt"
	"io/fs"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// Renderer holds the rendered form of one snapshot. See the package's comment.
type Renderer struct {
	options Options
	state
	output
}

// New makes a renderer of the empty snapshot.
func New(o Options) (*Renderer, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	r := &Renderer{options: o, state: newState(), output: newOutput()}
	if len(o.HTTPS) > 0 {
		pair, err := canonicalPair(o.DefaultCertificate, nil)
		if err != nil {
			return nil, fmt.Errorf("default certificate: %w", err)
		}
		r.ownDefault = pair
	}
	p, err := o.renderProgram(&tsujiv1.Settings{}, clientFiles{})
	if err != nil {
		return nil, fmt.Errorf("render the program: %w", err)
	}
	r.program = p
	for _, path := range r.fixedPaths() {
		r.touch(path)
	}
	return r, nil
}

// Apply takes the renderer to the snapshot that the difference leads to. An error is a *ResourceError, or
// several joined; then the renderer is as it was. Applying the inverse difference undoes it.
func (r *Renderer) Apply(d snapshot.Delta) (Change, error) {
	s, err := r.Stage(d)
	if err != nil {
		return Change{}, err
	}
	return r.Commit(s), nil
}

// Version returns the release of HAProxy that is rendered for.
func (r *Renderer) Version() Version { return r.options.version() }

// Change says what one Apply changed, in terms of HAProxy. The lists are in the order of their names.
type Change struct {
	// Reload says why only a reload will do, on any release, for people: "settings: changed", "profile NAME:
	// new". Empty: what the other fields say is all there is to do. The list is bounded; the last entry then
	// counts what it leaves out.
	Reload []string

	// ReloadFor are the resources that need what the program did not have when HAProxy loaded it last, all of them,
	// each with what it needs, for people.
	ReloadFor map[string]string

	// Backends are those that come, go, or change their profile or servers.
	Backends []BackendChange

	// Entries are those of maps that come, go, or change their value.
	Entries []EntryChange

	// Certificates are the files of certificates with keys that come, go, or change their content.
	Certificates []FileChange

	// CAs are the files of CA certificates that come or go with the routes that use them. A file's content
	// never changes: other certificates have another path.
	CAs []FileChange

	// CrtList are the lines of crt-list.txt that come or go.
	CrtList []CrtListChange
}

// Empty tells whether nothing changed for HAProxy.
func (c Change) Empty() bool {
	return len(c.Reload) == 0 && len(c.Backends) == 0 && len(c.Entries) == 0 && len(c.Certificates) == 0 &&
		len(c.CAs) == 0 && len(c.CrtList) == 0
}

// Backend is a route's backend: at run time `add backend NAME from PROFILE` and its servers, and nothing else. In
// haproxy.cfg it is the same, but for the cookie. It is immutable.
type Backend struct {
	Name, Profile string

	// Cookie is the sticky cookie as clients see it, name|attributes as in maps/cookies.map; empty: none. In
	// haproxy.cfg the backend's section says it, and is from the profile without; at run time rules of the
	// profile read the map. Both answer the same, but a backend keeps the cookie that it was loaded with.
	Cookie string

	Servers []Server // in the order of the configuration
}

// Kind is what cannot change in a backend: one of another kind takes its place.
func (b Backend) Kind() string {
	if b.Cookie == "" {
		return b.Profile
	}
	return b.Profile + " " + b.Cookie
}

// BackendChange is a backend before and after; nil: there is none.
type BackendChange struct {
	Name     string
	Old, New *Backend
}

// Entry is one entry of a map. Neither key nor value has a blank.
type Entry struct{ File, Key, Value string }

// EntryChange is an entry's value before and after; empty: there is none.
type EntryChange struct{ File, Key, Old, New string }

// CrtListChange is a line `Certificate Filter` of crt-list.txt that comes or goes.
type CrtListChange struct {
	Certificate, Filter string
	Added               bool
}

// FileChange is a file's content before and after; nil: there is none. It prints without content: that may be a private
// key.
type FileChange struct {
	Path     string // as HAProxy knows it, relative to its working directory
	Old, New []byte
}

// Format writes the path under every verb.
func (c FileChange) Format(s fmt.State, _ rune) { _, _ = fmt.Fprintf(s, "%s [redacted]", c.Path) }

// File is one of HAProxy's files. It prints without content: that may be a private key.
type File struct {
	Path    string // relative to HAProxy's working directory, with slashes
	Mode    fs.FileMode
	Content []byte
	Remove  bool // there is no such file any more; Content is empty

	generation uint64 // of the renderer when Dirty made it
}

// Format writes path, mode and size under every verb.
func (f File) Format(s fmt.State, _ rune) {
	if f.Remove {
		_, _ = fmt.Fprintf(s, "%s removed", f.Path)
		return
	}
	_, _ = fmt.Fprintf(s, "%s %v %d bytes", f.Path, f.Mode, len(f.Content))
}

// ResourceError says which resource cannot be rendered, and why.
type ResourceError struct {
	Resource string // the resource's name
	Err      error
}

// Error names the resource first.
func (e *ResourceError) Error() string { return fmt.Sprintf("render %s: %v", e.Resource, e.Err) }

// Unwrap returns the cause.
func (e *ResourceError) Unwrap() error { return e.Err }
