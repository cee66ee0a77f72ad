package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/render"
)

// pace says when there may be a reload. A reload leaves an old worker behind, with all its memory, until its last connection
// ends, and HAProxy ends the oldest when there are too many: so how many there are must be for no namespace to decide.
// It is a function of the times that it is given.
type pace struct {
	last    time.Time // reload
	streak  int       // reloads since the last quiet
	budgets map[string]*budget
}

const (
	freely = 4                // reloads that follow each other without a pause
	pause  = time.Second      // after those; doubled each time
	quiet  = 10 * time.Minute // without a reload, and it begins anew

	// mostPause is the longest pause where only those wait who ask for what is a reload.
	mostPause = 2 * time.Minute
	// mostWait is the longest where everybody does. OpenShift's router: five seconds between two reloads.
	mostWait = 5 * time.Second
)

// wait returns how long there should be no reload yet.
func (p *pace) wait(now time.Time, most time.Duration) time.Duration {
	if p.streak < freely || now.Sub(p.last) > quiet {
		return 0
	}
	d := most
	if shift := p.streak - freely; shift < 16 {
		d = min(pause<<shift, most)
	}
	return max(0, p.last.Add(d).Sub(now))
}

// reloaded notes a reload.
func (p *pace) reloaded(now time.Time) {
	if now.Sub(p.last) > quiet {
		p.streak = 0
	}
	p.last = now
	p.streak++
}

// budget is how many reloads a namespace may still ask for. It fills up by one at a time, and the longer between two, the
// longer it has been used up.
type budget struct {
	left  int
	every time.Duration // between two
	at    time.Time     // when the last one came
}

const (
	budgetMost  = 5
	budgetEvery = time.Minute
	budgetRare  = time.Hour // between two at the most
)

// fill adds what has come since the last time.
func (b *budget) fill(now time.Time) {
	n := int(now.Sub(b.at) / b.every)
	if b.left += n; b.left >= budgetMost {
		*b = budget{budgetMost, budgetEvery, now}
		return
	}
	b.at = b.at.Add(time.Duration(n) * b.every)
}

// until returns how long a namespace has to wait before it may ask for a reload.
func (p *pace) until(namespace string, now time.Time) time.Duration {
	b := p.budgets[namespace]
	if b == nil {
		return 0
	}
	if b.fill(now); b.left > 0 {
		return 0
	}
	return b.at.Add(b.every).Sub(now)
}

// spend notes that a namespace asks for a reload.
func (p *pace) spend(namespace string, now time.Time) {
	for name, b := range p.budgets {
		if b.fill(now); b.left == budgetMost {
			delete(p.budgets, name)
		}
	}
	b := p.budgets[namespace]
	if b == nil {
		b = &budget{budgetMost, budgetEvery, now}
		if p.budgets == nil {
			p.budgets = map[string]*budget{}
		}
		p.budgets[namespace] = b
	}
	if b.left--; b.left <= 0 {
		b.left, b.every = 0, min(2*b.every, budgetRare)
	}
}

// laterError says that it is no fault but too early: it may be tried again after some time.
type laterError struct {
	after time.Duration
	error
}

// afford tells which of the routes that a difference brings are to wait, because they need a profile that HAProxy does not
// have, which is a reload, and there were too many. Everything else is commands, and need not wait for them. It spends what
// the namespaces have if none is to.
//
// Where backends come by reloads anyway nobody is singled out. Nor is anybody where the Settings change: that is a reload
// whatever the routes say, and may be why they need another profile.
func (a *Applier) afford(s *render.Staged, now time.Time) error {
	if a.worker == nil || !a.capabilities().DynamicBackends || a.cfg.Renderer.SettingsChange(s) {
		return nil
	}
	wanted := a.cfg.Renderer.NewProfiles(s)
	everybody := time.Duration(0)
	if len(wanted) > 0 {
		everybody = a.pace.wait(now, mostPause)
	}
	var errs []error
	for _, namespace := range sortedKeys(wanted) {
		wait, why := a.pace.until(namespace, now), "namespace "+namespace+" has had its share"
		if wait < everybody {
			wait, why = everybody, "there were many"
		}
		if wait <= 0 {
			continue
		}
		for _, resource := range wanted[namespace] {
			errs = append(errs, &render.ResourceError{Resource: resource, Err: &laterError{wait, fmt.Errorf(
				"its header actions need a reload of HAProxy, and %s lately: tried again in %s; values that read nothing from the message need none",
				why, wait.Round(time.Second))}})
		}
	}
	if len(errs) == 0 {
		for namespace := range wanted {
			a.pace.spend(namespace, now)
		}
		return nil
	}
	a.cfg.Metrics.Held.Add(float64(len(errs)))
	return errors.Join(errs[:min(len(errs), maxRefused)]...)
}

// tooSoon says that a change is a reload, and that it should wait for so long. Nothing was begun.
type tooSoon struct{ after time.Duration }

func (e *tooSoon) Error() string { return fmt.Sprintf("a reload in %s", e.after) }

// tooSoon says whether a reload should wait, because there were many: those that take the place of commands which this
// HAProxy does not have. What comes meanwhile is in the same one. Where HAProxy has the commands nothing waits: afford
// has let through what asks for a reload, and whatever else is one is a matter of the Settings, or of time.
func (a *Applier) tooSoon(why reason, now time.Time) error {
	if a.worker == nil || a.capabilities().DynamicBackends || why == becauseCheaper {
		return nil // with no worker there is nothing that a reload would leave behind
	}
	if wait := a.pace.wait(now, mostWait); wait > 0 {
		return &tooSoon{wait}
	}
	return nil
}

// countWorkers tells the metrics how many workers reloads have left behind.
func (a *Applier) countWorkers(ctx context.Context) {
	if p, err := a.cfg.HAProxy.Processes(ctx); err == nil {
		a.cfg.Metrics.Workers.Set(float64(len(p.Old)))
	}
}
