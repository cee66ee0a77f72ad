package apply

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
)

// model is as much of HAProxy as a plan touches. It refuses what HAProxy refuses.
type model struct {
	maps     map[string]map[string]string
	backends map[string]*modelBackend
	files    map[string]bool
	lines    map[string]int // of the crt-list, by certificate
}

type modelBackend struct {
	profile   string
	published bool
	servers   map[string]*modelServer
}

type modelServer struct {
	arguments string // without the weight
	weight    string
	state     string
}

func newModel() *model {
	return &model{maps: map[string]map[string]string{}, backends: map[string]*modelBackend{}, files: map[string]bool{}, lines: map[string]int{}}
}

// do carries out an operation, and returns what HAProxy would say against it.
func (m *model) do(op haproxy.Op) error {
	w := strings.Fields(op.String())
	refuse := func() error { return fmt.Errorf("refused: %s", op) }
	in := func(name string) (*modelBackend, string) {
		b, s, _ := strings.Cut(name, "/")
		return m.backends[b], s
	}
	switch verb := strings.Join(w[:2], " "); verb {
	case "add map", "set map", "del map":
		f := m.maps[w[2]]
		if f == nil {
			f = map[string]string{}
			m.maps[w[2]] = f
		}
		if _, there := f[w[3]]; there == (verb == "add map") { // HAProxy would take a second one; nobody should want it
			return refuse()
		}
		if delete(f, w[3]); verb != "del map" {
			f[w[3]] = w[4]
		}
	case "add backend":
		if m.backends[w[2]] != nil {
			return refuse()
		}
		m.backends[w[2]] = &modelBackend{profile: w[4], servers: map[string]*modelServer{}}
	case "publish backend", "unpublish backend":
		if m.backends[w[2]] == nil {
			return refuse()
		}
		m.backends[w[2]].published = w[0] == "publish"
	case "add server":
		b, s := in(w[2])
		if b == nil || b.servers[s] != nil {
			return refuse()
		}
		arguments, weight := splitWeight(w[3:])
		b.servers[s] = &modelServer{arguments, weight, "maint"}
	case "set server":
		b, s := in(w[2])
		if b == nil || b.servers[s] == nil {
			return refuse()
		}
		if w[3] == "weight" {
			b.servers[s].weight = w[4]
		} else {
			b.servers[s].state = w[4]
		}
	case "del server":
		b, s := in(w[2])
		if b == nil || b.servers[s] == nil || b.servers[s].state != "maint" {
			return refuse()
		}
		delete(b.servers, s)
	case "del backend":
		b := m.backends[w[2]]
		if b == nil || b.published || len(b.servers) > 0 {
			return refuse()
		}
		delete(m.backends, w[2])
	case "new ssl":
		if m.files[w[3]] {
			return refuse()
		}
		m.files[w[3]] = true
	case "set ssl", "commit ssl":
		if !m.files[w[3]] {
			return refuse()
		}
	default:
		return fmt.Errorf("what is %s", op)
	}
	return nil
}

func splitWeight(words []string) (arguments, weight string) {
	i := slices.Index(words, "weight")
	return strings.Join(slices.Concat(words[:i], words[i+2:]), " "), words[i+1]
}

// scene is a model of HAProxy, what should run on it, and what apply holds.
type scene struct {
	t        *rapid.T
	model    *model
	can      haproxy.Capabilities
	held     held
	backends map[string]render.Backend
	now      time.Time
}

const testMap = "maps/http.map"

// change goes to other backends: by commands, or if those will not do by a start from files.
func (s *scene) change(next map[string]render.Backend) {
	c := render.Change{}
	for _, name := range slices.Sorted(maps.Keys(union(s.backends, next))) {
		old, had := s.backends[name]
		now, has := next[name]
		key := name + ".test/"
		switch {
		case !had:
			c.Entries = append(c.Entries, render.EntryChange{File: testMap, Key: key, New: name})
			c.Backends = append(c.Backends, render.BackendChange{Name: name, New: &now})
		case !has:
			c.Entries = append(c.Entries, render.EntryChange{File: testMap, Key: key, Old: name})
			c.Backends = append(c.Backends, render.BackendChange{Name: name, Old: &old})
		case old.Profile != now.Profile || !slices.EqualFunc(old.Servers, now.Servers, func(a, b render.Server) bool { return a.Line() == b.Line() }):
			c.Backends = append(c.Backends, render.BackendChange{Name: name, Old: &old, New: &now})
		}
	}
	s.backends = next
	in := planner{can: s.can, held: s.held, now: s.now, routing: func(backends ...string) []render.Entry {
		var list []render.Entry
		for _, b := range backends {
			if _, ok := next[b]; ok {
				list = append(list, render.Entry{File: testMap, Key: b + ".test/", Value: b})
			}
		}
		return list
	}}
	p, err := newPlan(in, c)
	if operations, backends := in.atLeast(c); err == nil && (operations > p.operations() || backends > p.added) {
		s.t.Fatalf("at least %d operations and %d backends, but the plan has %d and %d", operations, backends, p.operations(), p.added)
	}
	if err != nil {
		if s.can.DynamicBackends {
			s.t.Fatalf("no plan: %v", err)
		}
		s.start()
		return
	}
	for _, op := range p.make() {
		s.must(op)
	}
	s.routed("after what comes") // nothing sends requests yet to what goes
	for _, op := range p.turn() {
		s.must(op)
		s.routed(op.String())
	}
	p.commit(s.held)
	s.check(p)
}

func (s *scene) must(op haproxy.Op) {
	if err := s.model.do(op); err != nil {
		s.t.Fatal(err)
	}
}

// routed checks that whatever a map names is there, and published.
func (s *scene) routed(when string) {
	for key, name := range s.model.maps[testMap] {
		if b := s.model.backends[name]; b == nil || s.can.DynamicBackends && !b.published {
			s.t.Fatalf("%s: %s is sent to %s, which does not take it", when, key, name)
		}
	}
}

// start makes HAProxy what files make it.
func (s *scene) start() {
	s.model, s.held = newModel(), newHeld()
	s.model.maps[testMap] = map[string]string{}
	for name, b := range s.backends {
		s.model.maps[testMap][name+".test/"] = name
		mb := &modelBackend{profile: b.Profile, published: true, servers: map[string]*modelServer{}}
		for _, x := range b.Servers {
			arguments, weight := splitWeight(strings.Fields(x.AddCommand("b"))[3:])
			mb.servers[x.Name] = &modelServer{arguments, weight, "ready"}
		}
		s.model.backends[name] = mb
	}
}

// check compares HAProxy with what should run: each backend, under its name there, takes requests with its profile
// and servers; what is beyond that is held as leaving.
func (s *scene) check(p *plan) {
	known := map[string]bool{}
	for name, want := range s.backends {
		actual := s.held.name(name)
		known[actual] = true
		got := s.model.maps[testMap][name+".test/"]
		if stamp := s.model.maps[stampMap][nameKey+name]; got != actual || stamp != s.held.actual[name] {
			s.t.Fatalf("%s is %s, the map says %s, the stamp %q", name, actual, got, stamp)
		}
		b := s.model.backends[actual]
		if b == nil || b.profile != want.Profile {
			s.t.Fatalf("%s: %+v, want profile %s", actual, b, want.Profile)
		}
		for _, x := range want.Servers {
			arguments, weight := splitWeight(strings.Fields(x.AddCommand("b"))[3:])
			if have := b.servers[x.Name]; have == nil || *have != (modelServer{arguments, weight, "ready"}) {
				s.t.Fatalf("%s/%s: %+v, want %s weight %s", actual, x.Name, have, arguments, weight)
			}
		}
		wanted := byName(want.Servers)
		for x, have := range b.servers {
			if _, ok := wanted[x]; !ok && (have.state != "maint" || s.held.servers[actual][x] == nil) {
				s.t.Fatalf("%s/%s should be leaving: %+v", actual, x, have)
			}
		}
	}
	for name := range s.model.backends {
		if !known[name] && s.held.backends[name] == nil {
			s.t.Fatalf("%s is forgotten", name)
		}
	}
	for key, value := range p.entries {
		if got := s.model.maps[key.File][key.Key]; got != value {
			s.t.Fatalf("read back: %v is %q, not %q", key, got, value)
		}
	}
}

// clean does some of what the janitor would.
func (s *scene) clean() {
	for _, name := range sortedKeys(s.held.backends) {
		b := s.held.backends[name]
		if b.whole == nil || b.due.Sub(s.now) > time.Hour {
			continue
		}
		if rapid.Bool().Draw(s.t, "empty "+name) {
			s.must(haproxy.UnpublishBackend(name))
			for _, x := range sortedKeys(b.whole) {
				was := b.whole[x]
				s.must(haproxy.SetServerState(name, x, haproxy.Maint))
				s.held.leave(server{name, x}, &leavingServer{was: &was})
			}
			b.whole = nil
		}
	}
	for _, name := range sortedKeys(s.held.servers) {
		for _, x := range sortedKeys(s.held.servers[name]) {
			if s.can.DynamicServers && rapid.Bool().Draw(s.t, "delete "+name+"/"+x) { // else it still has connections
				s.must(haproxy.DelServer(name, x))
				s.held.forget(server{name, x})
			}
		}
	}
	for _, name := range sortedKeys(s.held.backends) {
		if s.held.backends[name].whole == nil && len(s.held.servers[name]) == 0 && rapid.Bool().Draw(s.t, "delete "+name) {
			s.must(haproxy.DelBackend(name))
			delete(s.held.backends, name)
		}
	}
}

func union[V any](a, b map[string]V) map[string]V {
	u := maps.Clone(a)
	maps.Copy(u, b)
	return u
}

// Whatever backends come, change, go and return, however far the janitor has come: HAProxy refuses nothing, no map ever
// names a backend that does not take requests, and in the end all is as wanted.
func TestPlans(t *testing.T) {
	for name, can := range map[string]haproxy.Capabilities{
		"2.6": {}, "3.0": {DynamicServers: true}, "3.4": {DynamicServers: true, DynamicBackends: true},
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				s := &scene{t: t, can: can, backends: map[string]render.Backend{}, now: time.Unix(1e9, 0)}
				s.start()
				for range rapid.IntRange(1, 20).Draw(t, "changes") {
					next := map[string]render.Backend{}
					for i := range 3 {
						name := fmt.Sprint("be_http:ns:", i)
						if rapid.IntRange(0, 3).Draw(t, "absent") == 0 {
							continue
						}
						b := render.Backend{Name: name, Profile: rapid.SampledFrom([]string{"p", "q"}).Draw(t, "profile")}
						for j := range 3 {
							if rapid.Bool().Draw(t, "server") {
								b.Servers = append(b.Servers, render.Server{
									Name: fmt.Sprint("s", j), ID: uint32(j + 1), Address: fmt.Sprint("10.0.0.", j), Port: 80,
									Weight: rapid.IntRange(0, 2).Draw(t, "weight"),
									Params: []string{"inter", rapid.SampledFrom([]string{"5s", "5s", "5s", "6s"}).Draw(t, "inter")},
								})
							}
						}
						next[name] = b
					}
					s.change(next)
					s.now = s.now.Add(3 * time.Second)
					s.clean()
				}
			})
		})
	}
}

// One change at a time, and what is done about it.
func TestPlan(t *testing.T) {
	one := render.Server{Name: "one", ID: 1, Address: "10.0.0.1", Port: 80, Weight: 1}
	two := render.Server{Name: "two", ID: 2, Address: "10.0.0.2", Port: 80, Weight: 1}
	heavy, checked := one, one
	heavy.Weight, checked.Params = 7, []string{"check"}
	const x = "be_http:ns:x"
	backend := func(profile string, servers ...render.Server) *render.Backend {
		return &render.Backend{Name: x, Profile: profile, Servers: servers}
	}
	all := haproxy.Capabilities{DynamicServers: true, DynamicBackends: true}
	for _, c := range []struct {
		name     string
		old, new *render.Backend
		held     func(held)
		can      haproxy.Capabilities
		want     string // commands; or why there is no plan
	}{
		{name: "new", new: backend("p", one), can: all, want: `
			add backend be_http:ns:x from p
			add server be_http:ns:x/one 10.0.0.1:80 id 1 weight 1
			set server be_http:ns:x/one weight 1
			set server be_http:ns:x/one state ready
			publish backend be_http:ns:x`},
		{name: "new, to an old HAProxy", new: backend("p", one), can: haproxy.Capabilities{DynamicServers: true}, want: "backend be_http:ns:x: it is new"},
		{name: "its weight", old: backend("p", one), new: backend("p", heavy), want: `
			set server be_http:ns:x/one weight 7`},
		{name: "another server", old: backend("p", one), new: backend("p", two), can: all, want: `
			add server be_http:ns:x/two 10.0.0.2:80 id 2 weight 1
			set server be_http:ns:x/two weight 1
			set server be_http:ns:x/two state ready
			set server be_http:ns:x/one state maint`},
		{name: "another server, to an old HAProxy", old: backend("p", one), new: backend("p", two), want: "backend be_http:ns:x: server two is new"},
		{name: "another profile", old: backend("p", one), new: backend("q", one), can: all, want: `
			add backend be_http:ns:x:2 from q
			add server be_http:ns:x:2/one 10.0.0.1:80 id 1 weight 1
			set server be_http:ns:x:2/one weight 1
			set server be_http:ns:x:2/one state ready
			publish backend be_http:ns:x:2
			add map maps/stamp.map be:be_http:ns:x be_http:ns:x:2
			set map maps/http.map x.test/ be_http:ns:x:2`},
		{name: "a server becomes checked", old: backend("p", one), new: backend("p", checked), can: all, want: `
			add backend be_http:ns:x:2 from p
			add server be_http:ns:x:2/one 10.0.0.1:80 id 1 weight 1 check
			set server be_http:ns:x:2/one weight 1
			enable health be_http:ns:x:2/one
			set server be_http:ns:x:2/one state ready
			publish backend be_http:ns:x:2
			add map maps/stamp.map be:be_http:ns:x be_http:ns:x:2
			set map maps/http.map x.test/ be_http:ns:x:2`},
		{name: "it comes back whole", new: backend("p", one, two), can: all, held: func(h held) {
			h.backends[x] = &leavingBackend{profile: "p", whole: byName([]render.Server{heavy})}
		}, want: `
			add server be_http:ns:x/two 10.0.0.2:80 id 2 weight 1
			set server be_http:ns:x/two weight 1
			set server be_http:ns:x/two state ready
			publish backend be_http:ns:x
			set server be_http:ns:x/one weight 1`},
		{name: "it comes back when its servers drain", new: backend("p", one), can: all, held: func(h held) {
			h.backends[x] = &leavingBackend{profile: "p"}
			h.leave(server{x, "one"}, &leavingServer{was: &one})
		}, want: `
			set server be_http:ns:x/one weight 1
			set server be_http:ns:x/one state ready
			publish backend be_http:ns:x`},
		{name: "it comes back as another", new: backend("q"), can: all, held: func(h held) {
			h.backends[x] = &leavingBackend{profile: "p"}
			h.backends[x+":2"] = &leavingBackend{}
		}, want: `
			add backend be_http:ns:x:3 from q
			publish backend be_http:ns:x:3
			add map maps/stamp.map be:be_http:ns:x be_http:ns:x:3
			set map maps/http.map x.test/ be_http:ns:x:3`},
		{name: "a dead server in another profile", old: backend("p", one), new: backend("q", one), can: all, held: func(h held) {
			h.suspended[server{x, "one"}] = true
		}, want: `
			add backend be_http:ns:x:2 from q
			add server be_http:ns:x:2/one 10.0.0.1:80 id 1 weight 1
			set server be_http:ns:x:2/one weight 1
			publish backend be_http:ns:x:2
			add map maps/stamp.map be:be_http:ns:x be_http:ns:x:2
			set map maps/http.map x.test/ be_http:ns:x:2`},
		{name: "gone", old: backend("p", one), want: ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHeld()
			if c.held != nil {
				c.held(h)
			}
			p, err := newPlan(planner{can: c.can, held: h, now: time.Unix(1e9, 0), routing: func(backends ...string) []render.Entry {
				if len(backends) == 0 {
					return nil
				}
				return []render.Entry{{File: testMap, Key: "x.test/", Value: backends[0]}}
			}}, render.Change{Backends: []render.BackendChange{{Name: x, Old: c.old, New: c.new}}})
			var got strings.Builder
			if err != nil {
				got.WriteString(err.Error())
			} else {
				for _, op := range slices.Concat(p.make(), p.turn()) {
					got.WriteString(op.String() + "\n")
				}
			}
			want := strings.ReplaceAll(strings.TrimSpace(c.want), "\t", "")
			// A backend that is new under its own name needs no other entry than those that come.
			have := strings.TrimSpace(strings.ReplaceAll(got.String(), "set map maps/http.map x.test/ "+x+"\n", ""))
			if have != want {
				t.Errorf("got\n%s\nwant\n%s", have, want)
			}
		})
	}
}
