package apply

import (
	"context"
	"errors"
	"fmt"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

// wantedEntry is an entry that a map should have.
type wantedEntry struct {
	value string
	seen  bool // HAProxy has it
}

// entries are what a map should have, by key.
func (a *Applier) entries(file string) map[string]*wantedEntry {
	want := map[string]*wantedEntry{}
	switch file {
	case readyMap:
		want[readyKey] = &wantedEntry{value: readyValue(a.cfg.Renderer.Ready())}
	case stampMap:
		want[versionKey] = &wantedEntry{value: a.versionInForce().String()}
		want[programKey] = &wantedEntry{value: a.program}
		for backend, name := range a.held.actual {
			want[nameKey+backend] = &wantedEntry{value: name}
		}
	default:
		routing := render.IsRouting(file)
		for k, v := range a.cfg.Renderer.Entries(file) {
			if routing {
				v = render.Rename(v, a.held.name)
			}
			want[k] = &wantedEntry{value: v}
		}
	}
	return want
}

// compareMap compares a whole map with what HAProxy has: a listing costs it less than to look up some hundred keys.
func (a *Applier) compareMap(ctx context.Context, files []string) (*plan, []difference, error) {
	file := files[0]
	have, err := a.worker.ShowMap(ctx, file)
	var refused *haproxy.RefusedError
	if errors.As(err, &refused) {
		return nil, nil, nil // nothing in the program uses it yet
	}
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // says what was asked
	}
	p, err := a.planRepair(render.Change{})
	if err != nil {
		return nil, nil, err
	}
	into, out := &p.options, &p.unset
	if render.IsRouting(file) || file == stampMap {
		into, out = &p.routes, &p.gone
	}
	var found []difference
	differs := func(key, what string) bool {
		d := a.differs(difference{kind: driftEntry, object: file + " " + key,
			what: fmt.Sprintf("%s has %s for %.200q", file, what, key)})
		found = append(found, d)
		return !d.left
	}
	want := a.entries(file)
	for _, e := range have {
		key := haproxy.MapKey{File: file, Key: e.Key}
		w := want[e.Key]
		switch {
		case w == nil || w.seen: // somebody added it
			if differs(e.Key, fmt.Sprintf("%.100q as well", e.Value)) {
				*out = append(*out, haproxy.DelMapEntry(file, e.Ref))
				if w == nil {
					p.entries[key] = ""
				}
			}
			continue
		case file == stampMap && e.Key == versionKey && isVersion(e.Value, a.versionInForce()):
		case e.Value != w.value && file == stampMap && (e.Key == versionKey || e.Key == programKey):
			if differs(e.Key, fmt.Sprintf("%.100q", e.Value)) {
				return nil, found, errors.New("somebody else has changed what HAProxy runs")
			}
		case e.Value != w.value:
			if differs(e.Key, fmt.Sprintf("%.100q", e.Value)) {
				*into = append(*into, haproxy.SetMap(file, e.Key, w.value))
				p.entries[key] = w.value
			}
		}
		w.seen = true
	}
	for k, w := range want {
		if !w.seen && differs(k, "nothing") {
			*into = append(*into, haproxy.AddMap(file, k, w.value))
			p.entries[haproxy.MapKey{File: file, Key: k}] = w.value
		}
	}
	return p, found, nil
}
