package apply

import (
	"errors"
	"fmt"
	"time"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// laterError says that it is no fault but too early: it may be tried again after some time.
type laterError struct {
	after time.Duration
	error
}

// needs returns the resources because of which a change is a reload whatever commands HAProxy has, each with what it
// needs, for people. It is all that objects of a namespace can ask for, and Settings:
//
//   - a profile that HAProxy has not loaded, and the first passthrough;
//   - a certificate with its key, or a CA certificate, that fits no command.
//
// What this release has no commands for is not among them, nor what is only faster by a reload.
func (a *Applier) needs(c render.Change) map[string]string {
	in := a.planner()
	needs := map[string]string{}
	if _, settings := c.ReloadFor[tsujiv1.SettingsName]; settings || in.can.DynamicBackends {
		for resource, what := range c.ReloadFor {
			needs[resource] = what
		}
	}
	for _, f := range c.Certificates {
		if f.Path == defaultCertificate {
			continue // the administrator's
		}
		if resource, ok := a.cfg.Renderer.Owner(f.Path); ok && in.unfit(f, false) {
			needs[resource] = fmt.Sprintf("a certificate of %d bytes with its key, where %d are a command,",
				len(f.New), haproxy.MostPEM(in.buffer))
		}
	}
	for _, f := range c.CAs {
		if resource, ok := a.cfg.Renderer.Owner(f.Path); ok && in.unfit(f, true) {
			needs[resource] = fmt.Sprintf("a CA certificate of more than %d bytes", haproxy.MostPEM(in.buffer))
		}
	}
	return needs
}

// unfit tells whether a change of a file is one that no command carries.
func (in planner) unfit(f render.FileChange, ca bool) bool {
	switch {
	case f.New == nil || len(f.New) <= haproxy.MostPEM(in.buffer) || in.held.has(f):
		return false
	case ca:
		_, unfit := haproxy.Unfit(in.buffer, haproxy.SetCA(f.Path, string(f.New), in.release, in.buffer)...)
		return unfit
	default:
		_, unfit := haproxy.Unfit(in.buffer, haproxy.SetCertificate(f.Path, string(f.New)))
		return unfit
	}
}

// afford tells which of the resources that a difference brings are to wait, because they need a reload, and there were
// too many. Everything else is commands, and need not wait for them. It spends what the namespaces have if none is to.
//
// A namespace may need one with nothing that could wait: what is taken away may bring back what was there before. Then
// it pays for that.
//
// Where backends come by reloads anyway nobody is singled out for a profile, and how many reloads there were says nothing
// of those that were asked for: tooSoon spaces them. Nor is anybody singled out where the Settings change: that is a
// reload whatever else there is, and may be why it is needed.
func (a *Applier) afford(needs map[string]string, d snapshot.Delta, now time.Time) error {
	if _, settings := needs[tsujiv1.SettingsName]; settings || len(needs) == 0 {
		return nil
	}
	everybody := time.Duration(0)
	if a.capabilities().DynamicBackends {
		everybody = a.pace.wait(now, mostPause)
	}
	brought := make(map[string]bool, len(d.Put))
	for _, i := range d.Put {
		brought[i.Name()] = true
	}
	namespaces := map[string]bool{}
	var errs []error
	for _, resource := range sortedKeys(needs) {
		namespace := tsujiv1.NamespaceOf(resource)
		namespaces[namespace] = true
		wait, why := a.pace.until(namespace, now), "namespace "+namespace+" has had its share"
		if wait < everybody {
			wait, why = everybody, "there were many"
		}
		if wait <= 0 || !brought[resource] {
			continue
		}
		errs = append(errs, &render.ResourceError{Resource: resource, Err: &laterError{wait, fmt.Errorf(
			"%s needs a reload of HAProxy, and %s lately: tried again in %s", needs[resource], why, wait.Round(time.Second))}})
	}
	if len(errs) == 0 {
		for namespace := range namespaces {
			a.pace.spend(namespace, now)
		}
		return nil
	}
	a.cfg.Metrics.Held.Add(float64(len(errs)))
	return errors.Join(errs[:min(len(errs), maxRefused)]...)
}
