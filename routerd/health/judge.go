package health

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/apply"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

const (
	triesToDie  = 2               // attempts of a probe, all of which must fail for a server to be taken for dead
	firstWait   = time.Second     // from a failed probe to the next
	longestWait = 4 * time.Second // which it becomes step by step
	memory      = time.Minute     // how long a server is watched that answers again
	triesToLive = 3               // probes in a row that must succeed if it died again within that time
)

// judge decides which servers are probed and which are suspended. It is a function of what it is told, the time
// included, and reads no clock.
type judge struct {
	most     int // probes at once
	inFlight int
	backends map[string]*backend
}

// backend is a route's backend in which a server is, or was, suspicious.
type backend struct {
	servers []render.Server   // as they were last told
	watched map[string]*watch // by server
}

// watch is what is known of a suspicious server.
type watch struct {
	address string
	due     time.Time // of the next probe; zero: there is none
	wait    time.Duration
	probing bool
	passed  int       // probes in a row
	dead    bool      // until it is taken for alive again
	revived time.Time // when that was last; zero: never
	since   time.Time // when it was last suspicious
}

// probe is one or several attempts to connect to a server, of which one must succeed.
type probe struct {
	apply.Server
	address string
	tries   int
}

func newJudge(most int) *judge { return &judge{most: most, backends: map[string]*backend{}} }

// suspect says that HAProxy failed to connect to some servers of a backend.
func (j *judge) suspect(now time.Time, name string, servers []render.Server, failed []string) (added int) {
	for _, s := range servers {
		if s.Checked() || !slices.Contains(failed, s.Name) {
			continue
		}
		b := j.backends[name]
		if b == nil {
			b = &backend{watched: map[string]*watch{}}
			j.backends[name] = b
		}
		w := b.watched[s.Name]
		if w == nil {
			w = &watch{address: s.HostPort()}
			b.watched[s.Name] = w
		}
		w.since = now
		if w.due.IsZero() && !w.probing {
			w.due = now
			added++
		}
	}
	if b := j.backends[name]; b != nil {
		b.servers = servers
	}
	return added
}

// update says which servers a backend has now. Those that left are forgotten, and so is a server that moved.
func (j *judge) update(now time.Time, name string, servers []render.Server) {
	b := j.backends[name]
	if b == nil {
		return
	}
	b.servers = servers
	for server, w := range b.watched {
		i := slices.IndexFunc(servers, func(s render.Server) bool { return s.Name == server })
		quiet := !w.dead && !w.probing && w.due.IsZero() && now.Sub(w.since) >= memory
		if i < 0 || servers[i].HostPort() != w.address || servers[i].Checked() || quiet {
			delete(b.watched, server)
		}
	}
	if len(b.watched) == 0 {
		delete(j.backends, name)
	}
}

// probes returns the probes to make now, those that have waited longest first. Each must be answered by result.
func (j *judge) probes(now time.Time) []probe {
	type candidate struct {
		probe
		w *watch
	}
	var list []candidate
	for name, b := range j.backends {
		for server, w := range b.watched {
			if !w.probing && !w.due.IsZero() && !w.due.After(now) {
				tries := 1 // what is dead already may stay so a little longer
				if !w.dead {
					tries = triesToDie
				}
				list = append(list, candidate{probe{apply.Server{Backend: name, Name: server}, w.address, tries}, w})
			}
		}
	}
	slices.SortFunc(list, func(x, y candidate) int {
		if c := x.w.due.Compare(y.w.due); c != 0 {
			return c
		}
		return compare(x.Server, y.Server)
	})
	list = list[:min(len(list), j.most-j.inFlight)]
	made := make([]probe, len(list))
	for i, c := range list {
		c.w.probing = true
		made[i] = c.probe
	}
	j.inFlight += len(made)
	return made
}

// result says how a probe ended.
func (j *judge) result(now time.Time, p probe, ok bool) {
	j.inFlight--
	b := j.backends[p.Backend]
	if b == nil || b.watched[p.Name] == nil || b.watched[p.Name].address != p.address {
		return // it left meanwhile
	}
	w := b.watched[p.Name]
	w.probing, w.due = false, time.Time{}
	if ok {
		w.passed++
		need := 1
		if !w.revived.IsZero() && now.Sub(w.revived) < memory {
			need = triesToLive
		}
		switch {
		case !w.dead:
		case w.passed >= need:
			w.dead, w.revived, w.since = false, now, now
		default:
			w.due = now.Add(firstWait)
		}
		return
	}
	w.passed = 0
	if w.dead {
		w.wait = min(w.wait+w.wait/2, longestWait)
	} else {
		w.dead, w.wait = true, firstWait
	}
	w.due = now.Add(w.wait)
}

// wanted returns the servers that should be suspended, sorted: those that are dead, of backends that have another one
// which is not and takes new traffic. Where none is left all stay in service, so that the first that comes back is
// found by requests as well.
func (j *judge) wanted() []apply.Server {
	var list []apply.Server
	for name, b := range j.backends {
		alive := slices.ContainsFunc(b.servers, func(s render.Server) bool {
			w := b.watched[s.Name]
			return s.Weight > 0 && (w == nil || !w.dead)
		})
		if !alive {
			continue
		}
		for server, w := range b.watched {
			if w.dead {
				list = append(list, apply.Server{Backend: name, Name: server})
			}
		}
	}
	slices.SortFunc(list, compare)
	return list
}

// next returns when there is the next probe to make; false: there is none that could be made.
func (j *judge) next() (at time.Time, ok bool) {
	if j.inFlight >= j.most {
		return at, false
	}
	for _, b := range j.backends {
		for _, w := range b.watched {
			if !w.probing && !w.due.IsZero() && (!ok || w.due.Before(at)) {
				at, ok = w.due, true
			}
		}
	}
	return at, ok
}

// watching returns the backends with a server that is watched, sorted.
func (j *judge) watching() []string { return slices.Sorted(maps.Keys(j.backends)) }

// dead counts the servers that are dead.
func (j *judge) dead() (n int) {
	for _, b := range j.backends {
		for _, w := range b.watched {
			if w.dead {
				n++
			}
		}
	}
	return n
}

func compare(x, y apply.Server) int {
	if c := strings.Compare(x.Backend, y.Backend); c != 0 {
		return c
	}
	return strings.Compare(x.Name, y.Name)
}
