// Package fleet keeps what each router was sent, serves, and refused.
//
// It guarantees that the acked version of a router is one that it said is in force there, and that a
// process that connects again is the same router while another of the same name is a duplicate.
//
// Do not assume that it knows every router: it knows those that are, or lately were, connected to this
// replica.
package fleet

import (
	"cmp"
	"container/list"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// What a zero Config means.
const (
	defaultKeep  = 10 * time.Minute
	defaultLimit = 10_000
)

// Config says how long routers that are gone stay known.
type Config struct {
	// Keep is how long a router stays listed after it disconnected. Zero: 10 minutes.
	Keep time.Duration
	// Limit is how many disconnected routers are listed at the most; those that left first go first. A
	// router may name itself where its certificate does not, and must not fill the memory by it. Zero: 10,000.
	Limit int
}

// Router says who connects.
type Router struct {
	IngressController string
	Zone              string
	Name              string
	Instance          string // random, new at each start of the process
	Address           string
	RouterdVersion    string
	HAProxyVersion    string
	// BackendsByReload says that it was told to make backends by reloads, whatever its HAProxy can do.
	BackendsByReload bool
	// MostConnections is how many its file descriptors allow; zero: it does not say.
	MostConnections uint32
}

// Fleet is the routers. It is safe for concurrent use.
type Fleet struct {
	keep  time.Duration
	limit int

	mu      sync.Mutex
	records map[key]*record    // guarded by mu
	names   map[name][]*record // guarded by mu; the same records, by name: all connected, or just one that is gone
	gone    *list.List         // guarded by mu; the disconnected *records, in the order in which they left
	changed chan struct{}      // guarded by mu; closed when a router comes, goes or answers; nil: nobody waits for that
}

type name struct{ ingressController, zone, name string }

type key struct {
	name
	instance string
}

// record is one router. Guarded by the fleet's mu.
type record struct {
	key    key
	member *Member       // the connection, the latest if there are several; nil: it is gone
	gone   *list.Element // its place among those that are gone; nil: it is connected
	state  *tsujiv1.Router
	acked  snapshot.Version

	backendsByReload bool
}

// Member is a router's connection.
type Member struct {
	fleet  *Fleet
	record *record
}

// New makes an empty fleet.
func New(c Config) *Fleet {
	return &Fleet{
		keep:    cmp.Or(c.Keep, defaultKeep),
		limit:   cmp.Or(c.Limit, defaultLimit),
		records: map[key]*record{},
		names:   map[name][]*record{},
		gone:    list.New(),
	}
}

// Connect notes that a router connected. If its process is known, what it acked and the beginning of what it refused
// stay; what was counted for the connection before does not. An earlier process of the same name that is gone is
// forgotten.
func (f *Fleet) Connect(r Router, now time.Time) *Member {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire(now)
	k := key{name{r.IngressController, r.Zone, r.Name}, r.Instance}
	rec := f.records[k]
	switch {
	case rec == nil:
		rec = &record{key: k, state: &tsujiv1.Router{}}
		f.records[k] = rec
		f.names[k.name] = append(f.names[k.name], rec)
	case rec.gone != nil:
		f.gone.Remove(rec.gone)
		rec.gone = nil
	}
	for _, old := range slices.Clone(f.names[k.name]) {
		if old.gone != nil {
			f.forget(old)
		}
	}
	m := &Member{fleet: f, record: rec}
	rec.member, rec.backendsByReload = m, r.BackendsByReload
	f.tell()
	rec.state = &tsujiv1.Router{
		Name:              r.Name,
		Instance:          r.Instance,
		IngressController: r.IngressController,
		Zone:              r.Zone,
		Connected:         true,
		Since:             timestamppb.New(now),
		Address:           r.Address,
		SentVersion:       rec.state.GetSentVersion(),
		AckedVersion:      rec.state.GetAckedVersion(),
		Acked:             rec.state.GetAcked(),
		Refusal:           rec.state.GetRefusal(),
		RouterdVersion:    r.RouterdVersion,
		HaproxyVersion:    r.HAProxyVersion,

		ConnectionsAllowed: r.MostConnections,
	}
	return m
}

// Sent notes a response that went out: how many resources it had, commits not counted, how many bytes of
// them, and whether it was the last of the version.
func (m *Member) Sent(v snapshot.Version, resources, bytes int, last bool, _ time.Time) {
	m.update(func(r *record) {
		r.state.ResponsesSent++
		r.state.ResourcesSent += uint64(max(resources, 0))
		r.state.BytesSent += uint64(max(bytes, 0))
		if last {
			r.state.SentVersion = v.String()
		}
	})
}

// Acked notes that a version is in force and verified. A refusal of before is over, unless the router only
// says again what it acked before it refused.
func (m *Member) Acked(v snapshot.Version, now time.Time) {
	m.update(func(r *record) {
		if !r.acked.Equal(v) {
			r.state.Refusal = nil
		}
		r.serves(v, now)
		m.fleet.tell()
	})
}

// AckedFacts notes that the facts of a version that is refused are in force, with the config of before: the refusal
// stays.
func (m *Member) AckedFacts(v snapshot.Version, now time.Time) {
	m.update(func(r *record) {
		r.serves(v, now)
		m.fleet.tell()
	})
}

func (r *record) serves(v snapshot.Version, now time.Time) {
	r.acked = v
	r.state.AckedVersion = v.String()
	r.state.Acked = timestamppb.New(now)
}

// Refused notes what was refused, and why. The refusal must not be changed afterwards.
func (m *Member) Refused(refusal *tsujiv1.Refusal, _ time.Time) {
	m.update(func(r *record) {
		r.state.Refusal = refusal
		m.fleet.tell()
	})
}

// Disconnected notes that the connection ended. It is a member's last word.
func (m *Member) Disconnected(now time.Time) {
	m.update(func(r *record) {
		f := m.fleet
		r.member = nil
		r.state.Connected = false
		r.state.Since = timestamppb.New(now)
		r.state.Refusal = brief(r.state.GetRefusal())
		r.gone = f.gone.PushBack(r)
		if len(f.names[r.key.name]) > 1 { // another process has taken its place
			f.forget(r)
		}
		f.expire(now)
		f.tell()
	})
}

// What stays of the refusal of a router that is gone: there may be thousands of them, who named themselves.
const (
	briefResources = 4
	briefText      = 256 // bytes
)

// brief returns the beginning of a refusal.
func brief(r *tsujiv1.Refusal) *tsujiv1.Refusal {
	if r == nil {
		return nil
	}
	short := &tsujiv1.Refusal{Class: r.GetClass(), Version: r.GetVersion(), Message: begin(r.GetMessage())}
	for _, f := range r.GetResources()[:min(len(r.GetResources()), briefResources)] {
		short.Resources = append(short.Resources, &tsujiv1.RefusedResource{
			Resource: f.GetResource(), Digest: f.GetDigest(), Message: begin(f.GetMessage()),
		})
	}
	return short
}

// begin returns the beginning of a text, which ends with a whole character.
func begin(text string) string {
	if len(text) <= briefText {
		return text
	}
	return strings.Clone(strings.ToValidUTF8(text[:briefText], ""))
}

// tell lets those know who wait for a change. The caller holds mu.
func (f *Fleet) tell() {
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// Changed returns a channel that is closed when a router connects, disconnects, acks or refuses.
func (f *Fleet) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return f.changed
}

// Progress is how far the connected routers of an IngressController are with a version.
type Progress struct {
	Connected int
	Unheard   int // of them, those that have neither acked nor refused it
	// HAProxyVersions are those that they run, each once.
	HAProxyVersions []string
	// BackendsByReload says that some of them were told to make backends by reloads.
	BackendsByReload bool
}

// Progress tells how far the connected routers of an IngressController are with a version.
func (f *Fleet) Progress(ingressController string, v snapshot.Version) (p Progress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, r := range f.records {
		if k.ingressController != ingressController || r.member == nil {
			continue
		}
		p.Connected++
		if refused, err := snapshot.ParseVersion(r.state.GetRefusal().GetVersion()); !r.acked.Equal(v) &&
			(err != nil || !refused.Equal(v)) {
			p.Unheard++
		}
		if !slices.Contains(p.HAProxyVersions, r.state.GetHaproxyVersion()) {
			p.HAProxyVersions = append(p.HAProxyVersions, r.state.GetHaproxyVersion())
		}
		p.BackendsByReload = p.BackendsByReload || r.backendsByReload
	}
	slices.Sort(p.HAProxyVersions)
	return p
}

// update changes the member's record, unless the router has another connection by now.
func (m *Member) update(change func(*record)) {
	m.fleet.mu.Lock()
	defer m.fleet.mu.Unlock()
	if m.record.member == m {
		change(m.record)
	}
}

// List returns the routers by IngressController, zone, name and instance. Their target versions are empty:
// the fleet does not know what a router should have.
func (f *Fleet) List(now time.Time) []*tsujiv1.Router {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire(now)
	all := make([]*tsujiv1.Router, 0, len(f.records))
	for k, r := range f.records {
		c := proto.CloneOf(r.state)
		c.Duplicate = len(f.names[k.name]) > 1
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *tsujiv1.Router) int {
		return cmp.Or(
			cmp.Compare(a.GetIngressController(), b.GetIngressController()),
			cmp.Compare(a.GetZone(), b.GetZone()),
			cmp.Compare(a.GetName(), b.GetName()),
			cmp.Compare(a.GetInstance(), b.GetInstance()),
		)
	})
	return all
}

// Count returns how many routers of an IngressController are listed: those that are connected, or were lately.
func (f *Fleet) Count(ingressController string, now time.Time) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire(now)
	n := 0
	for k := range f.records {
		if k.ingressController == ingressController {
			n++
		}
	}
	return n
}

// expire forgets who left too long ago, or too many departures ago.
func (f *Fleet) expire(now time.Time) {
	for e := f.gone.Front(); e != nil; e = f.gone.Front() {
		r := e.Value.(*record) //nolint:errcheck // nothing else is ever put into the list
		if f.gone.Len() <= f.limit && now.Sub(r.state.GetSince().AsTime()) < f.keep {
			return
		}
		f.forget(r)
	}
}

// forget drops a router that is gone.
func (f *Fleet) forget(r *record) {
	f.gone.Remove(r.gone)
	r.gone = nil
	delete(f.records, r.key)
	n := r.key.name
	if f.names[n] = slices.DeleteFunc(f.names[n], func(o *record) bool { return o == r }); len(f.names[n]) == 0 {
		delete(f.names, n)
	}
}
