package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

// compareCertificates compares certificates with those that HAProxy has.
func (a *Applier) compareCertificates(ctx context.Context, paths []string) (*plan, []difference, error) {
	paths = slices.DeleteFunc(slices.Clone(paths), func(path string) bool { return a.cfg.Renderer.InUse(path) == nil }) // gone since the round began
	p, err := a.planRepair(render.Change{})
	if err != nil || len(paths) == 0 {
		return p, nil, err
	}
	have, err := a.worker.Certificates(ctx, paths...)
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // says what was asked
	}
	var found []difference
	for i, path := range paths {
		content := a.cfg.Renderer.InUse(path)
		want, err := haproxy.Identify(content)
		if err != nil {
			return nil, found, fmt.Errorf("certificate %s: %w", path, err)
		}
		d := difference{kind: driftCertificate, object: path, of: path}
		var odd *haproxy.AnswerError
		missing := false
		switch err := have[i].Err; {
		case err == nil && have[i].Is(want[0]):
			continue
		case err == nil:
			d.what = fmt.Sprintf("%s is %v", path, have[i].CertificateInfo)
		case errors.As(err, &odd):
			d.what, d.odd = err.Error(), true
		default:
			d.what, missing = path+" is not there", true
		}
		d = a.differs(d)
		if found = append(found, d); d.left {
			continue
		}
		if missing {
			p.files = append(p.files, haproxy.NewCertificate(path))
		}
		if err := p.setCertificate(a.planner(), path, content); err != nil {
			return nil, found, err
		}
		p.prints[path] = want[:1]
	}
	return p, found, nil
}

// compareCA compares a file of CA certificates with what HAProxy has. Servers that were added while it was another
// verify with that, and nothing tells which those are: so all backends that use it are replaced.
func (a *Applier) compareCA(ctx context.Context, paths []string) (*plan, []difference, error) {
	path := paths[0]
	content := a.cfg.Renderer.InUse(path)
	if content == nil { // gone since the round began
		return nil, nil, nil
	}
	want, err := haproxy.Identify(content)
	if err != nil {
		return nil, nil, fmt.Errorf("CA certificates %s: %w", path, err)
	}
	what, err := a.worker.CA(ctx, path, want)
	var refused *haproxy.RefusedError
	var odd *haproxy.AnswerError
	missing := errors.As(err, &refused)
	switch {
	case missing:
		what = "not there"
	case errors.As(err, &odd): // to replace all that uses it, for what may be right, is worse than to wait
		if d := a.differs(difference{kind: driftCA, object: path, of: path, what: err.Error(), odd: true}); !d.left {
			a.unchanged(d)
		}
		return nil, nil, nil
	case err != nil:
		return nil, nil, err //nolint:wrapcheck // says what was asked
	case what == "":
		return nil, nil, nil
	}
	d := a.differs(difference{kind: driftCA, object: path, of: path, what: path + " has " + what})
	found := []difference{d}
	if d.left {
		return nil, found, nil
	}
	var replaced []render.BackendChange
	for _, name := range a.cfg.Renderer.Backends() {
		b, _ := a.cfg.Renderer.Backend(name)
		if slices.ContainsFunc(b.Servers, func(s render.Server) bool { return slices.Contains(s.Params, path) }) {
			replaced = append(replaced, render.BackendChange{Name: b.Name, Old: &b, New: &b})
		}
	}
	p, err := a.planReplaced(ctx, replaced)
	if err != nil {
		return nil, found, err
	}
	if missing {
		p.files = append(p.files, haproxy.NewCA(path))
	}
	if err := p.setCA(a.planner(), path, content); err != nil {
		return nil, found, err
	}
	p.prints[path], p.cas[path] = want, true
	return p, found, nil
}

// compareCrtList compares the lines of the crt-list. Of several lines for a name the oldest counts: one that was there
// before ours came back goes.
func (a *Applier) compareCrtList(ctx context.Context, _ []string) (*plan, []difference, error) {
	have, err := a.worker.CrtList(ctx, crtList)
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // says what was asked
	}
	lines, _ := a.cfg.Renderer.CrtList()
	missing := make(map[haproxy.CrtListLine]bool, len(lines))
	for _, l := range lines {
		missing[haproxy.CrtListLine{Certificate: l.Certificate, Filter: l.Filter}] = true
	}
	var surplus []haproxy.CrtListEntry
	for _, e := range have {
		if e.Options == "" && missing[e.CrtListLine] {
			delete(missing, e.CrtListLine)
		} else {
			surplus = append(surplus, e)
		}
	}
	var certificates []string // which may have gone with the lines
	for l := range missing {
		certificates = append(certificates, l.Certificate)
	}
	slices.Sort(certificates)
	p, found, err := a.compareCertificates(ctx, slices.Compact(certificates))
	if err != nil {
		return nil, found, err
	}
	differs := func(certificate, filter, what string) bool {
		object := fmt.Sprintf("%s for %q", certificate, filter)
		d := a.differs(difference{kind: driftLine, object: object + " " + what, what: object + " is " + what,
			of: certificate})
		found = append(found, d)
		return !d.left
	}
	for _, e := range surplus {
		if differs(e.Certificate, e.Filter, "too much") {
			p.unset = append(p.unset, haproxy.DelCrtList(crtList, e.Certificate, e.Line))
		}
	}
	for l := range missing {
		if differs(l.Certificate, l.Filter, "not there") {
			p.files = append(p.files, haproxy.AddCrtList(crtList, l))
		}
	}
	return p, found, nil
}
