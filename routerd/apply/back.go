package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

// notSent says that HAProxy refused some of what a change adds. All of that was tried, and nothing is sent there: what
// was in force serves.
type notSent struct{ refused []*haproxy.RefusedError }

func (e *notSent) Error() string { return fmt.Sprintf("add what is new: %v", e.refused[0]) }

func (e *notSent) Unwrap() error { return e.refused[0] }

// kept tells whether HAProxy has kept the content that a certificate had, because it refused another.
func (e *notSent) kept(file string) bool {
	return slices.ContainsFunc(e.refused, func(r *haproxy.RefusedError) bool {
		content := strings.HasPrefix(r.Command, "set ssl cert ") || strings.HasPrefix(r.Command, "commit ssl cert ")
		return content && r.File == file
	})
}

// blame turns HAProxy's refusals of certificates into errors of the resources that they come from, if that is all that
// was refused but for what follows from it. The renderer holds what was to come.
func (a *Applier) blame(e *notSent) error {
	said := map[string]string{} // resource → what HAProxy says of it
	for _, r := range e.refused {
		if what := r.Content(); what != "" {
			if resource, ok := a.cfg.Renderer.Owner(r.File); ok && said[resource] == "" {
				said[resource] = what
			}
		}
	}
	errs := make([]error, 0, len(said)+1)
	for _, resource := range sortedKeys(said) {
		errs = append(errs, &render.ResourceError{Resource: resource, Err: errors.New(said[resource])})
	}
	for _, r := range e.refused {
		if resource, _ := a.cfg.Renderer.Owner(r.File); said[resource] == "" {
			return e // a reload may do what commands do not
		}
	}
	return errors.Join(errs...)
}

// takeBack takes back what a plan had added when HAProxy refused some of it, and verifies that what is in force is
// there again. Servers and backends that no request is sent to are left to the sweep.
func (a *Applier) takeBack(ctx context.Context, c render.Change, p *plan, e *notSent) error {
	back, err := a.planBack(c, p, e)
	if err != nil {
		return err
	}
	if err := a.unlistAny(ctx, back.lines); err != nil {
		return err
	}
	// What was refused is not there: so is what takes it back. What counts is what is there afterwards.
	if _, err := a.worker.Try(ctx, slices.Concat(back.options, back.servers, back.files)...); err != nil {
		return err //nolint:wrapcheck // says what was asked
	}
	a.unswept = a.unswept || len(p.servers) > 0
	if err := a.readBack(ctx, back); err != nil {
		return err
	}
	if err := a.readGone(ctx, c); err != nil {
		return err
	}
	return a.setStamp(ctx, a.versionInForce())
}

// planBack plans what takes a plan's additions back, some of which were refused.
func (a *Applier) planBack(c render.Change, p *plan, e *notSent) (*plan, error) {
	back := emptyPlan()
	in := a.planner()
	for _, e := range c.Entries {
		if !render.IsRouting(e.File) && e.New != "" {
			back.change(render.EntryChange{File: e.File, Key: e.Key, Old: e.New, New: e.Old}, &back.options,
				&back.options)
		}
	}
	for _, s := range p.revivedServers {
		back.servers = append(back.servers, haproxy.SetServerState(s.backend, s.name, haproxy.Maint))
	}
	for _, name := range p.revivedBackends {
		if a.held.backends[name].whole == nil { // else it was published
			back.servers = append(back.servers, haproxy.UnpublishBackend(name))
		}
	}
	for _, l := range c.CrtList {
		if l.Added {
			back.lines = append(back.lines, l)
		}
	}
	for _, f := range c.Certificates {
		switch {
		case f.New == nil || a.held.files[f.Path] != nil: // untouched, or on its way out again
		case f.Old == nil:
			back.files = append(back.files, haproxy.DelCertificate(f.Path))
		default:
			prints, err := haproxy.Identify(f.Old)
			switch {
			case err != nil:
			case e.kept(f.Path): // it is as it was, which perhaps no command could bring back
				back.files = append(back.files, haproxy.AbortCertificate(f.Path))
			default:
				err = back.setCertificate(in, f.Path, f.Old)
			}
			if err != nil {
				return nil, fmt.Errorf("certificate %s: %w", f.Path, err)
			}
			back.prints[f.Path] = prints[:1]
		}
	}
	for _, f := range c.CAs {
		if f.New != nil && a.held.files[f.Path] == nil {
			back.files = append(back.files, haproxy.DelCA(f.Path))
		}
	}
	return back, nil
}

// unlistAny deletes those lines of the crt-list that are there.
func (a *Applier) unlistAny(ctx context.Context, lines []render.CrtListChange) error {
	if len(lines) == 0 {
		return nil
	}
	have, err := a.worker.CrtList(ctx, crtList)
	if err != nil {
		return err //nolint:wrapcheck // says what was asked
	}
	added := make(map[haproxy.CrtListLine]bool, len(lines))
	for _, l := range lines {
		added[haproxy.CrtListLine{Certificate: l.Certificate, Filter: l.Filter}] = true
	}
	var ops []haproxy.Op
	for _, e := range have {
		if added[e.CrtListLine] {
			ops = append(ops, haproxy.DelCrtList(crtList, e.Certificate, e.Line))
		}
	}
	return a.worker.Do(ctx, ops...) //nolint:wrapcheck // says what was refused
}

// readGone checks that nothing is left of files that a change had added.
func (a *Applier) readGone(ctx context.Context, c render.Change) error {
	for _, ca := range []bool{false, true} {
		files := c.Certificates
		if ca {
			files = c.CAs
		}
		var paths []string
		for _, f := range files {
			if f.New != nil && f.Old == nil && a.held.files[f.Path] == nil {
				paths = append(paths, f.Path)
			}
		}
		if len(paths) == 0 {
			continue
		}
		there, err := a.worker.CertificateFiles(ctx, ca)
		if err != nil {
			return err //nolint:wrapcheck // says what was asked
		}
		slices.Sort(paths)
		for _, path := range there {
			if _, found := slices.BinarySearch(paths, path); found {
				return fmt.Errorf("%s is still there", path)
			}
		}
	}
	return nil
}
