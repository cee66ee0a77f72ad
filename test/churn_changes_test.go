package test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/identity/authority"
)

// churn makes changes at a steady pace, and looks for each of them to be in force.
type churn struct {
	t       *testing.T
	f       *fleet
	ca      *authority.Authority // of every certificate that clients, and re-encrypted routes, verify
	pods    *pods
	traffic *traffic

	common  []*pod           // of the routes that come and go
	other   *pod             // of the weighted route's other Service
	watched map[string]*site // that clients ask
	live    []*site          // that come and go
	removed []*site
	sub     *site          // a path of a watched route's host
	named   int            // how many came
	turns   map[string]int // of each change

	begin  time.Time
	later  []step // of what was begun
	log    []change
	probes sync.WaitGroup
	mu     sync.Mutex
	took   map[string][]time.Duration // until a change was in force, by kind
	late   []error                    // changes that never were
}

// step is a change that is due at a tick.
type step struct {
	tick int
	make func()
}

type change struct {
	at   time.Time
	what string
}

// run makes ten changes a second: the steps that are due, else the next in turn that is possible.
func (c *churn) run(during time.Duration) {
	c.begin = time.Now()
	kinds := c.kinds()
	tick := time.NewTicker(every)
	defer tick.Stop()
	next := 0
	for n := 0; n < int(during/every) || len(c.later) > 0; n++ {
		switch {
		case len(c.later) > 0 && c.later[0].tick <= n:
			due := c.later[0]
			c.later = c.later[1:]
			due.make()
		case n < int(during/every):
			for !kinds[next%len(kinds)](n) {
				next++
			}
			next++
		}
		<-tick.C
	}
}

// kinds are the changes, in turn. Each tells whether it was made: it is not while the last one of its route is on the way.
func (c *churn) kinds() []func(tick int) bool {
	add := func(int) bool { return c.add() }
	remove := func(int) bool { return c.remove() }
	move := func(name string) func(int) bool {
		return func(tick int) bool { return c.move(c.watched[name], tick) }
	}
	renew := func(name string) func(int) bool {
		return func(int) bool { return c.renewed(c.watched[name]) }
	}
	option := func(name string) func(int) bool {
		return func(int) bool { return c.turn(name) }
	}
	changed := func(int) bool { return c.changeLive() }
	return []func(int) bool{
		add, move("plain"), renew("edge"), option("hsts"), add, changed, move("socket"), option("headers"), remove, option("sticky"),
		add, move("secure"), option("allow"), renew("external"), option("balance"), add, remove, c.paths, option("timeout"), move("socket-edge"),
		add, changed, move("pass"), option("weights"), c.switched, remove, renew("secure"), option("rewrite"), changed, option("limit"),
		remove, renew("hsts"), c.again,
	}
}

// put writes a site's manifest.
func (c *churn) put(s *site) {
	c.t.Helper()
	c.f.write(s.name+".yaml", s.manifest(c.ca.CertPEM()))
}

// changed writes a site's manifest, and looks for the change from now on until it is live; with nil nobody can see it.
func (c *churn) changed(kind string, s *site, path string, live func(answer) error) {
	c.t.Helper()
	c.log = append(c.log, change{time.Now(), kind + " " + s.name})
	begin := time.Now()
	c.put(s)
	if live != nil {
		c.look(kind, s, path, begin, false, live)
	}
}

// look asks until the condition holds.
func (c *churn) look(kind string, s *site, path string, begin time.Time, anyone bool, live func(answer) error) {
	s.busy.Add(1)
	scheme, host := s.scheme(), s.host()
	c.probes.Go(func() {
		defer s.busy.Add(-1)
		for {
			a, err := c.traffic.fetch(c.t.Context(), scheme, host, path, anyone)
			if err == nil {
				err = live(a)
			}
			took := time.Since(begin)
			if err != nil && took < patience {
				pause := 5 * time.Millisecond // between two looks
				if took > every {
					pause = every / 2
				}
				time.Sleep(pause)
				continue
			}
			c.looked(kind, s.name, begin, took, err)
			return
		}
	})
}

func (c *churn) looked(kind, name string, begin time.Time, took time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.late = append(c.late, fmt.Errorf("%s %s, %v in: not in force after %v: %w", kind, name, begin.Sub(c.begin).Round(time.Millisecond), took, err))
		return
	}
	c.took[kind] = append(c.took[kind], took)
}

func (c *churn) add() bool {
	s := c.newExtra("new", c.named)
	c.named++
	c.live = append(c.live, s)
	c.changed("route added", s, "/", byPod(s.host(), s.pods[0]))
	return true
}

// byPod wants one Pod to answer for a host.
func byPod(host string, p *pod) func(answer) error {
	return func(a answer) error {
		if want := p.name + " " + host; a.pod != want {
			return fmt.Errorf("%d by %q, want %q", a.code, a.pod, want)
		}
		return nil
	}
}

// remove takes the oldest of the routes that come and go, whose last change is in force.
func (c *churn) remove() bool {
	if len(c.live) < 4 || c.live[0].busy.Load() > 0 {
		return false
	}
	s := c.live[0]
	c.live, c.removed = c.live[1:], append(c.removed, s)
	begin := time.Now()
	c.log = append(c.log, change{begin, "route removed " + s.name})
	c.f.remove(s.name + ".yaml")
	c.look("route removed", s, "/", begin, true, gone)
	return true
}

// changeLive changes one of the routes that come and go: its host, else its certificate if it has one, else its endpoint.
func (c *churn) changeLive() bool {
	c.turns["live"]++
	s := c.idle(c.turns["live"])
	switch {
	case s == nil:
		return false
	case c.turns["live"]%2 == 0:
		s.under = fmt.Sprintf("%s-%d", s.name, c.turns["live"])
		if s.own {
			c.renew(s)
		}
		c.changed("host changed", s, "/", byPod(s.host(), s.pods[0]))
	case s.own:
		return c.renewed(s)
	default:
		to := c.common[0]
		if s.pods[0] == to {
			to = c.common[1]
		}
		s.pods = []*pod{to}
		c.changed("endpoint moved at once", s, "/", byPod(s.host(), to))
	}
	return true
}

// idle is one of the routes that come and go whose last change is in force, from a place in their list on.
func (c *churn) idle(from int) *site {
	for i := range c.live {
		if s := c.live[(from+i)%len(c.live)]; s.busy.Load() == 0 {
			return s
		}
	}
	return nil
}

// again removes a route, and adds it under the same name before what HAProxy has of it may be gone.
func (c *churn) again(tick int) bool {
	s := c.idle(tick)
	if s == nil {
		return false
	}
	s.busy.Add(1) // until it is added
	c.log = append(c.log, change{time.Now(), "route removed for a moment " + s.name})
	c.f.remove(s.name + ".yaml")
	c.then(step{tick + 2, func() {
		c.changed("route added again", s, "/", byPod(s.host(), s.pods[0]))
		s.busy.Add(-1)
	}})
	return true
}

// then puts further steps among those that are due later.
func (c *churn) then(steps ...step) {
	c.later = append(c.later, steps...)
	slices.SortStableFunc(c.later, func(a, b step) int { return a.tick - b.tick })
}

// move replaces a Pod as a Deployment does: the new one is ready before the old one terminates, which serves until it is gone.
func (c *churn) move(s *site, tick int) bool {
	if s.busy.Load() > 0 || len(s.leaving) > 0 {
		return false
	}
	const pace = 3 // ticks between two steps
	s.busy.Add(1)  // until the last step
	old, fresh := s.pods[0], c.pods.start(s.name)
	s.pods = append(s.pods, fresh)
	var live func(answer) error
	if s.termination != "passthrough" { // whose balance is by the client's address: it may lead elsewhere
		live = byPod(s.host(), fresh)
	}
	c.changed("endpoint added", s, "/", live)
	c.then(step{tick + pace, func() {
		s.pods, s.leaving = s.pods[1:], []*pod{old}
		c.changed("endpoint terminating", s, "/", nil)
	}}, step{tick + 2*pace, func() {
		s.leaving = nil
		c.changed("endpoint gone", s, "/", nil) // leave tells
		c.pods.leave(old, func() int { return c.traffic.asks(s.host()) })
		s.busy.Add(-1)
		if strings.HasPrefix(s.name, "socket") && c.turns[s.name] < 4 {
			c.turns[s.name]++
			c.traffic.websocket(every, s.scheme(), target{host: s.host(), path: "/"})
		}
	}})
	return true
}

func (c *churn) renewed(s *site) bool {
	if s.busy.Load() > 0 {
		return false
	}
	c.renew(s)
	certPEM, keyPEM := s.cert, s.key
	c.changed("certificate replaced", s, "/", func(a answer) error {
		if !isLeaf(certPEM, keyPEM, a.leaf) {
			return errNotYet
		}
		return nil
	})
	return true
}

func (c *churn) turn(name string) bool {
	s := c.watched[name]
	if s.busy.Load() > 0 {
		return false
	}
	live := c.option(name, c.turns[name])
	c.turns[name]++
	path := "/"
	if name == "rewrite" {
		path = "/app/x"
	}
	c.changed("option changed", s, path, live)
	return true
}

// switched goes from edge to reencrypt and back: the Pods speak both.
func (c *churn) switched(int) bool {
	s := c.watched["switch"]
	if s.busy.Load() > 0 {
		return false
	}
	want := ""
	if s.termination = "edge"; c.turns["switch"]%2 == 0 {
		s.termination, want = "reencrypt", "yes"
	}
	c.turns["switch"]++
	c.changed("termination changed", s, "/", seen(func(a answer) string { return a.header.Get("X-Over-TLS") }, want))
	return true
}

// paths adds a Route for a path of a watched route's host, and removes it.
func (c *churn) paths(int) bool {
	if c.sub == nil {
		c.sub = &site{name: "paths-sub", under: "paths", path: "/sub", pods: c.common[:1]}
	}
	if c.sub.busy.Load() > 0 {
		return false
	}
	c.turns["paths"]++
	if c.turns["paths"]%2 == 1 {
		c.changed("path added", c.sub, "/sub/x", byPod(c.sub.host(), c.common[0]))
		return true
	}
	begin := time.Now()
	c.log = append(c.log, change{begin, "path removed"})
	c.f.remove(c.sub.name + ".yaml")
	c.look("path removed", c.sub, "/sub/x", begin, false, func(a answer) error {
		if !strings.HasPrefix(a.pod, "paths-") {
			return fmt.Errorf("%d by %q", a.code, a.pod)
		}
		return nil
	})
	return true
}
