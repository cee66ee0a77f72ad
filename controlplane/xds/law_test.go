package xds_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"pgregory.net/rapid"

	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/quarantine"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	"github.com/tsuji-dev/tsuji/controlplane/xds"
	"github.com/tsuji-dev/tsuji/identity"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// pipe is a stream without gRPC: its two ends are channels.
type pipe struct {
	grpc.ServerStream
	ctx context.Context
	in  chan *discovery.DeltaDiscoveryRequest
	out chan *discovery.DeltaDiscoveryResponse
}

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) RecvMsg(to any) error {
	select {
	case q, ok := <-p.in:
		if !ok {
			return io.EOF
		}
		b, err := proto.Marshal(q)
		if err != nil {
			return err
		}
		m, ok := to.(proto.Message)
		if !ok {
			return errors.ErrUnsupported
		}
		return proto.Unmarshal(b, m)
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// Recv is not called: requests are looked at before they are decoded.
func (p *pipe) Recv() (*discovery.DeltaDiscoveryRequest, error) { return nil, errors.ErrUnsupported }

func (p *pipe) Send(r *discovery.DeltaDiscoveryResponse) error {
	// What arrives is what was encoded, not the message that was sent.
	b, err := proto.Marshal(r)
	if err != nil {
		return err
	}
	r = &discovery.DeltaDiscoveryResponse{}
	if err := proto.Unmarshal(b, r); err != nil {
		return err
	}
	select {
	case p.out <- r:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// dial opens a pipe to a server. The returned function waits until the server has ended the stream.
func dial(server *xds.Server) (*pipe, func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &pipe{ctx: ctx, in: make(chan *discovery.DeltaDiscoveryRequest),
		out: make(chan *discovery.DeltaDiscoveryResponse, 4)} // as there is room for some on a connection
	done := make(chan error, 1)
	go func() {
		err := server.DeltaAggregatedResources(p)
		cancel() // as gRPC does
		done <- err
	}()
	return p, func() error { return <-done }
}

func believing(board *release.Board, routers *fleet.Fleet) xds.Config {
	return xds.Config{Board: board, Fleet: routers, Quarantine: quarantine.New(), Log: slog.New(slog.DiscardHandler),
		Authenticate: func(context.Context) (identity.ID, bool, error) { return identity.ID{}, false, nil }}
}

// model is a router as the protocol has it, and the little that a control plane needs beside it. It checks
// what it is sent against the laws, and fails at the first that is broken.
type model struct {
	t      *rapid.T
	board  *release.Board
	fleet  *fleet.Fleet
	server *xds.Server

	stream *pipe
	wait   func() error
	held   *discovery.DeltaDiscoveryResponse // not answered yet

	inForce  snapshot.Snapshot
	has      bool // something is in force
	staged   snapshot.Delta
	next     snapshot.Snapshot
	refused  map[string]bool // versions refused for their content on this stream, until another is acked
	unsure   bool            // the server may know nothing of what is in force: it was named, and may be forgotten
	perhaps  map[string]bool // versions that were refused then: only who knows what is in force offers another config again
	revision uint64
	sent     map[string]bool // versions that came whole
}

func (m *model) target() snapshot.Snapshot {
	t, _, _ := m.board.Target(release.View{IngressController: "default"})
	return t.Snapshot
}

func (m *model) publish(s snapshot.Snapshot) {
	m.board.Publish("default", release.Target{Snapshot: s, Observed: observed(m.revision)}, time.Now())
}

func (m *model) change() {
	m.revision++
	d := snapshot.Delta{}
	for range rapid.IntRange(0, 4).Draw(m.t, "changes") {
		name := fmt.Sprintf("%s/%d", rapid.SampledFrom([]string{"route/a", "endpoints/a/b"}).Draw(m.t, "kind"), rapid.IntRange(0, 5).Draw(m.t, "name"))
		if rapid.Bool().Draw(m.t, "remove") {
			d.Removed = append(d.Removed, name)
		} else {
			d.Put = append(d.Put, snapshot.NewItem(name, []byte{byte(rapid.IntRange(0, 3).Draw(m.t, "content"))}))
		}
	}
	m.publish(m.target().Apply(m.revision, d))
}

func (m *model) connect(named bool) {
	m.stream, m.wait = dial(m.server)
	q := &discovery.DeltaDiscoveryRequest{Node: nodeOf(routerID("tok04", "r1")), TypeUrl: tsujiv1.TypeURL}
	if !named {
		m.has, m.inForce = false, snapshot.Snapshot{}
	}
	if m.has {
		q.InitialResourceVersions = map[string]string{"commit": m.inForce.Version().String()}
	}
	m.held, m.staged, m.refused, m.perhaps = nil, snapshot.Delta{}, map[string]bool{}, map[string]bool{}
	m.unsure = m.has
	m.stream.in <- q
}

func (m *model) hangUp() {
	close(m.stream.in)
	if err := m.wait(); err != nil {
		m.t.Fatalf("the stream ended with %v", err)
	}
}

func (m *model) say(q *discovery.DeltaDiscoveryRequest) {
	q.TypeUrl = tsujiv1.TypeURL
	select {
	case m.stream.in <- q:
	case r := <-m.stream.out: // both wanted to speak at once
		m.take(r)
		m.stream.in <- q
	}
}

// due tells whether the server must send something.
func (m *model) due() bool {
	t := m.target().Version()
	return m.held == nil && !m.refused[key(t)] && !m.perhaps[key(t)] && (!m.has || !t.Equal(m.inForce.Version()))
}

func key(v snapshot.Version) string { return v.Config.String() + v.Facts.String() }

func (m *model) receive() {
	select {
	case r := <-m.stream.out:
		m.take(r)
	case <-time.After(patience):
		m.t.Fatalf("nothing came, though %s should be in force", m.target().Version().Short())
	}
}

// take stages a response.
func (m *model) take(r *discovery.DeltaDiscoveryResponse) {
	if m.held != nil {
		m.t.Fatalf("two responses on their way")
	}
	m.held = r
	m.staged.Removed = append(m.staged.Removed, r.GetRemovedResources()...)
	var commit *tsujiv1.Commit
	for _, res := range r.GetResources() {
		if res.GetName() == tsujiv1.CommitName {
			var err error
			if commit, err = decodeCommit(res); err != nil {
				m.t.Fatal(err)
			}
			continue
		}
		item := snapshot.NewItem(res.GetName(), res.GetResource().GetValue())
		if item.Digest().String() != res.GetVersion() {
			m.t.Fatalf("%s came with a wrong digest", res.GetName())
		}
		m.staged.Put = append(m.staged.Put, item)
	}
	m.next = snapshot.Snapshot{}
	if commit == nil {
		return
	}
	base := snapshot.Snapshot{}
	if commit.GetBase() != "" {
		if base = m.inForce; !m.has || commit.GetBase() != base.Version().String() {
			m.t.Fatalf("based on %s, but %s is in force", commit.GetBase(), m.inForce.Version())
		}
		m.unsure = false
	}
	v, err := snapshot.ParseVersion(commit.GetVersion())
	if err != nil {
		m.t.Fatal(err)
	}
	m.next = base.Apply(v.Revision, m.staged)
	if m.next.Version().String() != commit.GetVersion() || m.next.Len() != int(commit.GetResources()) {
		m.t.Fatalf("%s of %d was announced, %s of %d came", commit.GetVersion(), commit.GetResources(), m.next.Version(), m.next.Len())
	}
	if m.refused[key(v)] {
		m.t.Fatalf("%s was refused, and came again", v.Short())
	}
	m.sent[key(v)] = true
}

// answer acks, or refuses, what is held.
func (m *model) answer(refusal *tsujiv1.Refusal) {
	q := &discovery.DeltaDiscoveryRequest{ResponseNonce: m.held.GetNonce()}
	whole := m.next.Version()
	last := m.held.GetSystemVersionInfo() == whole.String()
	v, err := snapshot.ParseVersion(m.held.GetSystemVersionInfo())
	if err != nil {
		m.t.Fatal(err)
	}
	m.held = nil
	switch {
	case refusal != nil:
		detail, err := anypb.New(refusal)
		if err != nil {
			m.t.Fatal(err)
		}
		q.ErrorDetail = &status.Status{Message: "refused", Details: []*anypb.Any{detail}}
		m.staged = snapshot.Delta{}
		m.refused, m.perhaps = map[string]bool{}, map[string]bool{}
		sameConfig := !m.has || v.Config == m.inForce.Version().Config // another config is offered again after a time
		if refusal.GetClass() == content || refusal.GetClass() == unsupported {
			m.refused[key(v)], m.perhaps[key(v)] = sameConfig, m.unsure
		}
	case last:
		m.inForce, m.has, m.unsure = m.next, true, false
		m.staged, m.refused, m.perhaps = snapshot.Delta{}, map[string]bool{}, map[string]bool{}
	}
	m.say(q)
}

// Whatever is published, acked, refused, and however often the router comes back: what it puts into force is
// always one whole version that was announced, it is never sent again the facts that it refused, and once it is left in
// peace it has exactly what is on the board.
func TestARouterAlwaysEndsWithTheBoard(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: t, board: release.NewBoard(4), fleet: fleet.New(fleet.Config{}), sent: map[string]bool{}}
		config := believing(m.board, m.fleet)
		config.PartBytes = rapid.SampledFrom([]int{1, 300, 1 << 20}).Draw(t, "part")
		config.RetryFirst, config.RetryMost = time.Microsecond, time.Millisecond
		m.server = xds.New(config)
		m.change()
		m.connect(false)
		defer func() {
			if !t.Failed() {
				m.server.Drain()
			}
		}()
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(*rapid.T) { m.change() },
			"back": func(*rapid.T) {
				m.revision++
				held := m.board.List()
				m.publish(held[rapid.IntRange(0, len(held)-1).Draw(m.t, "version")].Snapshot)
			},
			"receive": func(*rapid.T) {
				if m.due() {
					m.receive()
				}
			},
			"ack": func(*rapid.T) {
				if m.held != nil {
					m.answer(nil)
				}
			},
			"refuse": func(*rapid.T) {
				if m.held != nil {
					m.answer(&tsujiv1.Refusal{Class: rapid.SampledFrom([]tsujiv1.RefusalClass{0, content, local, unsupported}).Draw(m.t, "class")})
				}
			},
			"nonsense": func(*rapid.T) {
				m.say(&discovery.DeltaDiscoveryRequest{ResponseNonce: rapid.StringMatching("[a-z]?").Draw(m.t, "nonce")})
			},
			"reconnect": func(*rapid.T) {
				m.hangUp()
				m.connect(rapid.Bool().Draw(m.t, "named"))
			},
		})
		m.revision++
		m.publish(m.target().Apply(m.revision, snapshot.Delta{Put: []snapshot.Item{snapshot.NewItem("settings", []byte("last"))}}))
		for m.held != nil || m.due() {
			if m.held == nil {
				m.receive()
			}
			m.answer(nil)
		}
		if !m.inForce.Version().Equal(m.target().Version()) {
			t.Fatalf("%s is in force, %s is on the board", m.inForce.Version(), m.target().Version())
		}
		m.hangUp()
		for _, r := range m.fleet.List(time.Now()) {
			if v, err := snapshot.ParseVersion(r.GetAckedVersion()); err != nil || !m.sent[key(v)] {
				t.Fatalf("acked %q, which was never sent (%v)", r.GetAckedVersion(), err)
			}
			if r.GetAckedVersion() != m.target().Version().String() {
				t.Fatalf("the fleet has %s acked", r.GetAckedVersion())
			}
		}
	})
}

// FuzzRequests feeds a stream whatever a client may send. Nothing may panic, and the stream must end when its
// client does. The first byte of each request says what of it is made right, so that deeper places are reached.
func FuzzRequests(f *testing.F) {
	valid, err := proto.Marshal(&discovery.DeltaDiscoveryRequest{Node: nodeOf(routerID("tok04", "r1")), TypeUrl: tsujiv1.TypeURL,
		ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: map[string]string{"commit": snapshotOf(1, "route/a/1=x").Version().String()}})
	if err != nil {
		f.Fatal(err)
	}
	detail, err := anypb.New(&tsujiv1.Refusal{Class: content, Resources: []*tsujiv1.RefusedResource{{Resource: "x"}}})
	if err != nil {
		f.Fatal(err)
	}
	nack, err := proto.Marshal(&discovery.DeltaDiscoveryRequest{TypeUrl: tsujiv1.TypeURL, ResponseNonce: "1",
		ErrorDetail: &status.Status{Message: "no", Details: []*anypb.Any{detail, {TypeUrl: "x"}}}})
	if err != nil {
		f.Fatal(err)
	}
	const typed, answering, greeting, twice = 1, 2, 4, 8
	f.Add([]byte{0}, valid, []byte{typed | answering}, nack, []byte{typed}, []byte{})
	f.Add([]byte{greeting}, []byte{}, []byte{typed | answering}, []byte{}, []byte{typed | answering | twice}, nack)
	f.Fuzz(func(t *testing.T, how1, one, how2, two, how3, three []byte) {
		board := release.NewBoard(4)
		board.Publish("default", release.Target{Snapshot: snapshotOf(1, "route/a/1=x", "route/a/2=x")}, time.Now())
		config := believing(board, fleet.New(fleet.Config{}))
		config.PartBytes = 100
		config.RetryFirst = time.Microsecond
		server := xds.New(config)
		p, wait := dial(server)
		nonce := make(chan string, 64)
		read := make(chan struct{})
		go func() {
			defer close(read)
			for {
				select {
				case r := <-p.out:
					nonce <- r.GetNonce()
				case <-p.ctx.Done():
					return
				}
			}
		}()
		for i, b := range [][2][]byte{{how1, one}, {how2, two}, {how3, three}} {
			var how byte
			if len(b[0]) > 0 {
				how = b[0][0]
			}
			q := &discovery.DeltaDiscoveryRequest{}
			if proto.Unmarshal(b[1], q) != nil {
				q.Reset()
			}
			if how&typed != 0 {
				q.TypeUrl = tsujiv1.TypeURL
			}
			if how&greeting != 0 {
				q = &discovery.DeltaDiscoveryRequest{Node: nodeOf(routerID("tok04", "r1")), TypeUrl: tsujiv1.TypeURL}
			}
			if how&answering != 0 && i > 0 {
				select {
				case q.ResponseNonce = <-nonce:
				case <-p.ctx.Done():
				case <-time.After(20 * time.Millisecond): // what came before is not worth an answer
				}
			}
			for range 1 + int(how&twice)/twice {
				select {
				case p.in <- proto.CloneOf(q):
				case <-p.ctx.Done():
				}
			}
			board.Publish("default", release.Target{Snapshot: snapshotOf(uint64(i), fmt.Sprintf("route/a/1=%d", i))}, time.Now())
		}
		close(p.in)
		_ = wait()
		<-read
		server.Drain()
	})
}
