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
	have, err := a.worker.Certificates(ctx, paths...)
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // says what was asked
	}
	p, err := a.planRepair(render.Change{})
	if err != nil {
		return nil, nil, err
	}
	var found []difference
	for i, path := range paths {
		content := a.cfg.Renderer.InUse(path)
		prints, err := fingerprints(content)
		if err != nil {
			return nil, nil, fmt.Errorf("certificate %s: %w", path, err)
		}
		switch {
		case have[i] == nil:
			found = append(found, difference{driftCertificate, path + " is not there"})
			p.files = append(p.files, haproxy.NewCertificate(path))
		case have[i].SHA1 == prints[0]:
			continue
		default:
			found = append(found, difference{driftCertificate, path + " is " + have[i].SHA1})
		}
		p.files = append(p.files, haproxy.SetCertificate(path, string(content)), haproxy.CommitCertificate(path))
		p.prints[path] = prints[:1]
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
	want, err := fingerprints(content)
	if err != nil {
		return nil, nil, fmt.Errorf("CA certificates %s: %w", path, err)
	}
	slices.Sort(want)
	want = slices.Compact(want)
	have, err := a.prints(ctx, path, true)
	var refused *haproxy.RefusedError
	missing := errors.As(err, &refused)
	if err != nil && !missing {
		return nil, nil, err
	}
	if slices.Equal(want, have) {
		return nil, nil, nil
	}
	found := []difference{{driftCA, fmt.Sprintf("%s is %.200q", path, have)}}
	var c render.Change
	for _, name := range a.cfg.Renderer.Backends() {
		b, _ := a.cfg.Renderer.Backend(name)
		if slices.ContainsFunc(b.Servers, func(s render.Server) bool { return slices.Contains(s.Params, path) }) {
			if err := a.replace(ctx, &c, &b, b); err != nil {
				return nil, nil, err
			}
		}
	}
	p, err := a.planRepair(c)
	if err != nil {
		return nil, found, err
	}
	if missing {
		p.files = append(p.files, haproxy.NewCA(path))
	}
	p.files = append(p.files, haproxy.SetCA(path, string(content)), haproxy.CommitCA(path))
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
		return nil, nil, err
	}
	for _, e := range surplus {
		found = append(found, difference{driftLine, fmt.Sprintf("%s for %q is too much", e.Certificate, e.Filter)})
		p.unset = append(p.unset, haproxy.DelCrtList(crtList, e.Certificate, e.Line))
	}
	for l := range missing {
		found = append(found, difference{driftLine, fmt.Sprintf("%s for %q is not there", l.Certificate, l.Filter)})
		p.files = append(p.files, haproxy.AddCrtList(crtList, l))
	}
	return p, found, nil
}
