package apply

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// explain adds to HAProxy's refusal of its configuration which resources are at fault, as ResourceErrors.
// The renderer holds next, and its files are on disk.
//
// HAProxy names the file of a certificate that it cannot use, and then there is no doubt: which others it cannot use either
// is seen by a check of those alone, all at once. Else it names lines, and the renderer knows whose they are. That is a guess
// until HAProxy accepts the configuration without what it accuses; where it leads nowhere the culprits are found by halving.
func (a *Applier) explain(ctx context.Context, base, next snapshot.Snapshot, d snapshot.Delta, err error) error {
	var failed *checkFailed
	var refused *haproxy.CheckError
	if !errors.As(err, &failed) || !errors.As(failed, &refused) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, faultTimeout)
	defer cancel()
	f := &finder{a: a, base: base, next: next, said: map[string]string{}}
	for _, i := range d.Put {
		f.changed = append(f.changed, i.Name())
	}
	f.changed = append(f.changed, d.Removed...)
	f.read(refused)
	culprits := f.certificates(ctx, d)
	if len(culprits) == 0 {
		culprits = f.find(ctx)
	}
	if f.lost != nil {
		a.suspect = true
		return errors.Join(err, f.lost)
	}
	if len(culprits) == 0 {
		a.cfg.Log.Warn("HAProxy refuses the configuration, and no resource could be found at fault", "duration", faultTimeout, "error", err)
		return err
	}
	errs := make([]error, 0, len(culprits)+1)
	for _, name := range culprits {
		said := f.said[name]
		if said == "" {
			said = refused.Error()
		}
		errs = append(errs, &render.ResourceError{Resource: name, Err: errors.New(said)})
	}
	return errors.Join(append(errs, err)...)
}

// finder finds the changed resources without which HAProxy accepts the configuration.
type finder struct {
	a          *Applier
	base, next snapshot.Snapshot
	changed    []string
	said       map[string]string // resource → what HAProxy said of its lines
	accused    []string          // the keys of said that were changed
	unusable   []string          // those of them that are certificates which HAProxy cannot use
	lost       error             // the renderer could not be taken back to next
}

// read notes whom HAProxy accuses. It must come before the renderer is asked for other files.
func (f *finder) read(e *haproxy.CheckError) {
	for _, alert := range e.Alerts {
		file, unusable := alert.Certificate()
		name, ok := "", false
		switch {
		case unusable:
			name, ok = f.a.cfg.Renderer.Owner(file)
		case alert.File == haproxy.ConfigFile:
			name, ok = f.a.cfg.Renderer.Locate(alert.Line)
		}
		if !ok || f.said[name] != "" {
			continue
		}
		f.said[name] = alert.Message
		if slices.Contains(f.changed, name) {
			f.accused = append(f.accused, name)
			if unusable {
				f.unusable = append(f.unusable, name)
			}
		}
	}
}

// checkedAtOnce is how many certificates one check of them alone has: with OpenSSL 3.0 they take a millisecond each.
const checkedAtOnce = 1000

// certificates returns those that changed and cannot be used, if HAProxy has named one. It looks at as many as there is
// time for.
func (f *finder) certificates(ctx context.Context, d snapshot.Delta) []string {
	if len(f.unusable) == 0 {
		return nil
	}
	var names []string
	for _, i := range d.Put {
		if snapshot.PartOf(i.Name()) == snapshot.Facts && !slices.Contains(f.unusable, i.Name()) {
			names = append(names, i.Name())
		}
	}
	if f.a.cfg.HAProxy.Elsewhere() {
		names = nil
	}
	for names := range slices.Chunk(names, checkedAtOnce) {
		var refused *haproxy.CheckError
		if err := f.a.checkCertificates(ctx, names); errors.As(err, &refused) {
			f.read(refused)
		} else if err != nil {
			f.a.cfg.Log.Warn("it is not known whether HAProxy can use the other certificates", "error", err)
			break
		}
	}
	slices.Sort(f.unusable)
	return f.unusable
}

// checkFile is a configuration beside HAProxy's own, to check certificates with.
const checkFile = "check.cfg"

// checkCertificates has HAProxy check certificates alone: unlike one list of them, this tells of each that it cannot use.
func (a *Applier) checkCertificates(ctx context.Context, names []string) error {
	content := a.cfg.Renderer.CheckCertificates(names)
	if content == nil {
		return nil
	}
	if err := a.writeFile(render.File{Path: checkFile, Mode: 0o600, Content: content}); err != nil {
		return fmt.Errorf("write %s: %w", checkFile, err)
	}
	defer os.Remove(filepath.Join(a.cfg.HAProxy.Dir(), checkFile))
	return a.cfg.HAProxy.CheckFile(ctx, checkFile) //nolint:wrapcheck // says what it tried
}

// A HAProxy elsewhere cannot be asked without using what it accepts: there whom it accuses is at fault.
func (f *finder) find(ctx context.Context) []string {
	if f.a.cfg.HAProxy.Elsewhere() {
		return slices.Sorted(slices.Values(f.accused))
	}
	// HAProxy stops at some faults before it sees others: what it accuses grows.
	for tried := 0; len(f.accused) > tried; {
		tried = len(f.accused)
		if f.passes(ctx, f.accused) {
			return slices.Sorted(slices.Values(f.accused))
		}
	}
	if !f.passes(ctx, f.changed) {
		return nil // not even what is in force passes, or there is no time left
	}
	culprits := f.halve(ctx, f.changed, nil)
	if ctx.Err() != nil {
		return nil
	}
	return slices.Sorted(slices.Values(culprits))
}

// halve returns as few of suspects as will do, which pass together with those that are left out too.
func (f *finder) halve(ctx context.Context, suspects, out []string) []string {
	if len(suspects) <= 1 || ctx.Err() != nil {
		return suspects
	}
	one, other := suspects[:len(suspects)/2], suspects[len(suspects)/2:]
	switch {
	case f.passes(ctx, slices.Concat(out, one)):
		return f.halve(ctx, one, out)
	case f.passes(ctx, slices.Concat(out, other)):
		return f.halve(ctx, other, out)
	}
	found := f.halve(ctx, one, slices.Concat(out, other))
	return append(found, f.halve(ctx, other, slices.Concat(out, found))...)
}

// passes tells whether HAProxy accepts next with these resources as they are in base.
func (f *finder) passes(ctx context.Context, names []string) bool {
	if ctx.Err() != nil || f.lost != nil {
		return false
	}
	r := f.a.cfg.Renderer
	if _, err := r.Apply(between(f.base, names)); err != nil {
		return false // they hang together
	}
	err := f.a.writeFiles()
	if err == nil {
		err = f.a.cfg.HAProxy.Check(ctx)
	}
	var refused *haproxy.CheckError
	if errors.As(err, &refused) {
		f.read(refused)
	}
	if _, err := r.Apply(between(f.next, names)); err != nil {
		f.lost = fmt.Errorf("put %s back: %w", strings.Join(names, ", "), err)
	}
	return err == nil
}

// between returns what makes these resources what they are in s.
func between(s snapshot.Snapshot, names []string) snapshot.Delta {
	var d snapshot.Delta
	for _, n := range slices.Sorted(slices.Values(names)) {
		if i, ok := s.Get(n); ok {
			d.Put = append(d.Put, i)
		} else {
			d.Removed = append(d.Removed, n)
		}
	}
	return d
}

// postpone adds to why a reload could not be made who needs it, if it is nobody's fault: the disk is full, for one. They are to
// wait, ever longer; all else needs no file, and comes into force meanwhile. Where HAProxy runs something else, or changes
// are reloads as a rule, there is nothing that could.
func (a *Applier) postpone(needed []string, err error) error {
	var failed *checkFailed
	var refused *haproxy.CheckError
	if a.suspect || a.worker == nil || !a.capabilities().DynamicBackends || errors.As(err, &failed) && errors.As(failed, &refused) {
		return err
	}
	after := backoff(a.postponed+postponedFirst, postponedMost)
	a.postponed++
	first, _, _ := strings.Cut(err.Error(), "\n")
	errs := []error{err}
	for _, resource := range needed {
		errs = append(errs, &render.ResourceError{Resource: resource, Err: &laterError{after, fmt.Errorf(
			"it needs a reload of HAProxy, which cannot be made here: tried again in %s: %s", after.Round(time.Second), first)}})
	}
	return errors.Join(errs...)
}

const (
	postponedFirst = 6           // tries of which backoff makes some seconds
	postponedMost  = time.Minute // between two tries
)
