package apply

import (
	"context"
	"fmt"
	"time"
)

// pace says when there may be a reload. A reload leaves an old worker behind, with all its memory, until its last
// connection ends, and HAProxy ends the oldest when there are too many: so how many there are must be for no namespace
// to decide. It is a function of the times that it is given.
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
	if p.free(now) {
		return 0
	}
	d := most
	if shift := p.streak - freely; shift < 16 {
		d = min(pause<<shift, most)
	}
	return max(0, p.last.Add(d).Sub(now))
}

// free tells whether a reload would follow those before it without a pause.
func (p *pace) free(now time.Time) bool { return p.streak < freely || now.Sub(p.last) > quiet }

// reloaded notes a reload.
func (p *pace) reloaded(now time.Time) {
	if now.Sub(p.last) > quiet {
		p.streak = 0
	}
	p.last = now
	p.streak++
}

// budget is how many reloads a namespace may still ask for. It fills up by one at a time, and the longer between two,
// the longer it has been used up.
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

// tooSoon says that a change is a reload, and that it should wait for so long. Nothing was begun.
type tooSoon struct{ after time.Duration }

func (e *tooSoon) Error() string { return fmt.Sprintf("a reload in %s", e.after) }

// tooSoon says whether a reload should wait, because there were many: those that take the place of commands which this
// HAProxy does not have. What comes meanwhile is in the same one. Where HAProxy has the commands nothing waits: afford
// has let through what asks for a reload, one that only saves time is made when there were few (reloadIsBetter), and
// whatever else is one is a matter of the Settings.
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
