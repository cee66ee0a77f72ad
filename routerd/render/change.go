package render

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
)

// maxReasons is how many reasons to reload are told.
const maxReasons = 16

// changes collects a Change, and what must be known of the state before for it.
type changes struct {
	Change
	reasons      int
	hosts        map[hostKey]bool        // those whose claims or certificates may have changed
	certificates map[string]*certificate // those that were put or removed, as they were
	caUsers      map[string]int          // files of CA certificates whose use changed → routes that used them
}

func newChanges() *changes {
	return &changes{
		hosts: map[hostKey]bool{}, certificates: map[string]*certificate{}, caUsers: map[string]int{},
	}
}

// reload adds a reason.
func (c *changes) reload(what, why string) {
	if c.reasons++; c.reasons <= maxReasons {
		c.Reload = append(c.Reload, what+": "+why)
	}
}

// reloadFor notes that a resource needs something of the program that HAProxy does not have.
func (c *changes) reloadFor(resource, what string) {
	if c.ReloadFor == nil {
		c.ReloadFor = map[string]string{}
	}
	c.ReloadFor[resource] = what
}

// useCA keeps how many routes used a file before, once its use changes.
func (c *changes) useCA(path string, users map[string]int) {
	if _, known := c.caUsers[path]; !known {
		c.caUsers[path] = users[path]
	}
}

// changeBackends compares a route's backend before and after; either may be nil, for none. It tells whether
// anything differs.
func (r *Renderer) changeBackends(before, now *route, c *changes) bool {
	var was, is *Backend
	if before != nil {
		was = before.rendered
	}
	if now != nil {
		is = now.rendered
	}
	switch {
	case was.equal(is):
		return false
	case was != nil && is != nil && was.Name == is.Name:
		c.Backends = append(c.Backends, BackendChange{Name: was.Name, Old: was, New: is})
		return true
	}
	if was != nil {
		c.Backends = append(c.Backends, BackendChange{Name: was.Name, Old: was})
	}
	if is != nil {
		c.Backends = append(c.Backends, BackendChange{Name: is.Name, New: is})
	}
	return true
}

func (b *Backend) equal(o *Backend) bool {
	if b == nil || o == nil {
		return b == o
	}
	return b.Name == o.Name && b.Kind() == o.Kind() && slices.EqualFunc(b.Servers, o.Servers, Server.Equal)
}

// data returns the route's entries in the maps of options; the route may be nil.
func (r *route) data() []Entry {
	if r == nil {
		return nil
	}
	return r.entries
}

// compareEntries orders by file and key.
func compareEntries(a, b Entry) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Key, b.Key))
}

// changeEntries compares entries before and after, both by file and key.
func (r *Renderer) changeEntries(before, now []Entry, c *changes) {
	add := func(e EntryChange) {
		c.Entries = append(c.Entries, e)
		r.touch(e.File)
	}
	for len(before) > 0 || len(now) > 0 {
		var order int
		switch {
		case len(before) == 0:
			order = 1
		case len(now) == 0:
			order = -1
		default:
			order = compareEntries(before[0], now[0])
		}
		switch {
		case order < 0:
			add(EntryChange{File: before[0].File, Key: before[0].Key, Old: before[0].Value})
			before = before[1:]
		case order > 0:
			add(EntryChange{File: now[0].File, Key: now[0].Key, New: now[0].Value})
			now = now[1:]
		default:
			if before[0].Value != now[0].Value {
				add(EntryChange{File: now[0].File, Key: now[0].Key, Old: before[0].Value, New: now[0].Value})
			}
			before, now = before[1:], now[1:]
		}
	}
}

// commitLines compares the lines of crt-list.txt of the hosts that may have others, and says which certificates
// come and go with them.
func (r *Renderer) commitLines(c *changes) {
	if len(r.options.HTTPS) == 0 {
		return // HAProxy reads none
	}
	was := func(name string) *certificate {
		if before, ok := c.certificates[name]; ok {
			return before
		}
		return r.certificates[name]
	}
	used := map[string]int{} // certificates whose use may have changed → their lines before
	for name := range c.certificates {
		used[name] = r.lines[name]
	}
	count := func(k hostKey, name string, n int) {
		if name == "" {
			return
		}
		if _, known := used[name]; !known {
			used[name] = r.lines[name]
		}
		r.lines[name] += n
		one := r.certificates[name]
		if n < 0 {
			one = was(name)
		}
		c.CrtList = append(c.CrtList, CrtListChange{Certificate: one.path, Filter: k.sni(), Added: n > 0})
		r.touch(crtListPath)
	}
	for k := range c.hosts {
		h := r.hosts[k]
		if now := h.certificate(r.hasPair); now != h.served {
			count(k, h.served, -1)
			count(k, now, 1)
			h.served = now
		}
	}
	for name, before := range used {
		f := FileChange{}
		if before > 0 {
			f.Path, f.Old = was(name).path, was(name).pair
		}
		if r.lines[name] > 0 {
			f.Path, f.New = r.certificates[name].path, r.certificates[name].pair
		} else {
			delete(r.lines, name)
		}
		if !bytes.Equal(f.Old, f.New) {
			c.Certificates = append(c.Certificates, f)
		}
	}
}

// commitCAs says which CA certificates come and go with the routes that verify with them.
func (r *Renderer) commitCAs(c *changes) {
	was := map[string]*certificate{} // by path
	for _, before := range c.certificates {
		if before != nil {
			was[before.path] = before
		}
	}
	for path, before := range c.caUsers {
		now := r.caUsers[path]
		if now == 0 {
			delete(r.caUsers, path)
		}
		if (before > 0) == (now > 0) {
			continue
		}
		one := r.paths[path]
		if one == nil {
			one = was[path]
		}
		f := FileChange{Path: path}
		if now > 0 {
			f.New = one.ca
		} else {
			f.Old = one.ca
		}
		c.CAs = append(c.CAs, f)
		r.touch(configPath)
	}
}

// finish returns what was collected, in order.
func (c *changes) finish() Change {
	if n := c.reasons - len(c.Reload); n > 0 {
		c.Reload = append(c.Reload, fmt.Sprintf("and %d more", n))
	}
	slices.SortFunc(c.Backends, func(a, b BackendChange) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Entries, func(a, b EntryChange) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Key, b.Key)) })
	slices.SortFunc(c.CrtList, func(a, b CrtListChange) int {
		return cmp.Or(cmp.Compare(a.Certificate, b.Certificate), cmp.Compare(a.Filter, b.Filter))
	})
	byPath := func(a, b FileChange) int { return cmp.Compare(a.Path, b.Path) }
	slices.SortFunc(c.Certificates, byPath)
	slices.SortFunc(c.CAs, byPath)
	return c.Change
}
