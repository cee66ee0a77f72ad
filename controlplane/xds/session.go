package xds

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tsuji-dev/tsuji/controlplane/fair"
	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/quarantine"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	"github.com/tsuji-dev/tsuji/identity"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// mostStale is how many requests in a row may answer nothing before the stream is ended: a router in order
// sends one now and then, when two messages cross.
const mostStale = 64

// session is one stream. It is the cache and the callbacks of a delta server of its own, which is how ack,
// nack and stale answer are told apart: every request passes through OnStreamDeltaRequest and then through
// CreateDeltaWatch, one after the other, in the server's goroutine.
//
// A second goroutine, run, decides what is sent, and sends it. Nothing else does.
type session struct {
	server   *Server
	identity identity.ID // from the certificate, if verified
	verified bool
	address  string
	peer     fair.Peer
	end      context.CancelCauseFunc // ends the stream; the cause is its status

	greeted chan struct{} // closed when the first request was accepted
	woken   chan struct{} // holds a value when run should look again; of capacity 1

	// Written before greeted is closed, read-only afterwards.
	view     release.View
	name     string            // of the router; empty: there was no request yet
	node     [sha256.Size]byte // digest of the node
	observed *tsujiv1.Observed // nil once this replica has caught up with it
	member   *fleet.Member
	refusing *quarantine.Member

	inForce     snapshot.Version // what the router said is in force; zero: nothing
	inForceText string           // as the router spells it

	mu    sync.Mutex
	state state // guarded by mu
	armed *arm  // guarded by mu; where the next response goes; nil: nowhere now
	stale int   // guarded by mu; requests in a row that answered nothing
	ended bool  // guarded by mu; the stream has ended, though the delta server may not know yet
	holds
}

// arm is a watch of the delta server. Once it was cancelled, which is when session.armed is another or
// none, nothing may be sent to it.
type arm struct {
	request *cache.DeltaRequest
	out     chan<- cache.DeltaResponse
}

var (
	_ cache.ConfigWatcher = (*session)(nil)
	_ error               = (*ended)(nil)
)

// ended is why the server ended a stream.
type ended struct {
	reason string // for the metric
	status *status.Status
}

func (e *ended) Error() string { return e.status.Message() }

func ending(reason string, code codes.Code, format string, args ...any) *ended {
	return &ended{reason: reason, status: status.Newf(code, format, args...)}
}

func newSession(ctx context.Context, server *Server, id identity.ID, verified bool, end context.CancelCauseFunc) *session {
	s := &session{
		server:   server,
		identity: id,
		verified: verified,
		end:      end,
		greeted:  make(chan struct{}),
		woken:    make(chan struct{}, 1),
		state:    state{retryFirst: server.config.RetryFirst, retryMost: server.config.RetryMost},
	}
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		s.address = p.Addr.String()
	}
	s.peer.Host = fair.HostOf(s.address)
	if verified {
		s.peer.Identity = id.String()
	}
	return s
}

// OnDeltaStreamOpen does nothing: the stream was looked at before the delta server was made.
func (s *session) OnDeltaStreamOpen(context.Context, int64, string) error { return nil }

// OnDeltaStreamClosed does nothing: the session ends with its stream, not with the delta server.
func (s *session) OnDeltaStreamClosed(int64, *corev3.Node) {}

// OnStreamDeltaRequest judges a request before the delta server acts on it. Its error ends the stream. The delta server
// holds the request until the next one, and the node until the stream ends: all that it may hold stays small.
func (s *session) OnStreamDeltaRequest(_ int64, r *discovery.DeltaDiscoveryRequest) error {
	var err *ended
	if s.name == "" {
		err = s.greet(r)
	} else {
		err = s.answered(r)
	}
	r.Node, r.ErrorDetail = nil, nil
	if err != nil {
		s.end(err)
		return err.status.Err()
	}
	return nil
}

// greet judges a stream's first request: who asks, for what, and what is in force there.
func (s *session) greet(r *discovery.DeltaDiscoveryRequest) *ended {
	h, err := readHello(r)
	if err != nil {
		return ending("request", codes.InvalidArgument, "%s", err)
	}
	h.claimed.TrustDomain = s.identity.TrustDomain
	if s.verified {
		if why := disagree(s.identity, h.claimed); why != "" {
			s.server.log.Warn(s.peer.Identity, "router turned away: "+why,
				"certificate", s.identity.String(), "node", h.claimed.String(), "address", s.address)
			return ending("node", codes.PermissionDenied, "%s: the certificate is for %s, the node says %s", why, s.identity, h.claimed)
		}
	}
	view := release.View{IngressController: h.claimed.IngressController, Zone: h.claimed.Zone}
	if err := s.refuseZone(view, h.claimed.Name); err != nil {
		return err
	}
	now := s.server.config.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return ending("gone", codes.Canceled, "the stream has ended")
	}
	if err := s.enterAs(h.claimed); err != nil {
		return err
	}
	s.view = view
	s.observed = h.observed
	s.member = s.server.config.Fleet.Connect(fleet.Router{
		IngressController: h.claimed.IngressController,
		Zone:              h.claimed.Zone,
		Name:              h.claimed.Name,
		Instance:          h.instance,
		Address:           s.address,
		RouterdVersion:    h.routerdVersion,
		HAProxyVersion:    h.haproxyVersion,
		BackendsByReload:  h.runtimeBackends == "false",
		MostConnections:   h.mostConnections,
	}, now)
	s.refusing = s.server.config.Quarantine.Connect(h.claimed.IngressController, h.claimed.Name, kindOf(h.haproxyVersion, h.routerdVersion))
	if !h.inForce.IsZero() {
		s.inForce, s.inForceText = h.inForce, h.inForceText
		version := h.inForce
		if s.resume() {
			version = s.state.base.snapshot.Version() // with the revision that is known here
			s.serves(s.refusing.Acked(s.state.base.snapshot))
		}
		s.member.Acked(version, now)
		s.server.metrics.acks.Inc()
	}
	s.name, s.node = h.claimed.Name, h.node
	close(s.greeted)
	s.server.log.Info(s.peer.Identity, "router connected", "router", h.claimed.Name, "ingress_controller", s.view.IngressController,
		"zone", s.view.Zone, "address", s.address, "in_force", h.inForce.Short(), "known_here", s.state.base.known)
	return nil
}

// refuseZone returns why a router's zone is not served, if it is not. It keeps what it has.
func (s *session) refuseZone(v release.View, router string) *ended {
	why := s.server.config.Board.Refuses(v)
	if why == "" {
		return nil
	}
	s.server.log.Warn(s.peer.Identity, "router turned away: its zone is not served", "err", why,
		"router", router, "ingress_controller", v.IngressController, "zone", v.Zone, "address", s.address)
	return ending("zone", codes.PermissionDenied, "%s", why)
}

// resume makes what the router says is in force the base of what follows, if it is known here; it may become
// known later, when this replica catches up. The caller holds mu.
func (s *session) resume() bool {
	if s.state.base.known || s.inForce.IsZero() {
		return s.state.base.known
	}
	known, ok := s.server.config.Board.Lookup(s.view.IngressController, s.inForce)
	if ok {
		s.state.base = held{known: true, snapshot: known, version: s.inForceText}
	}
	return ok
}

// answered judges every further request: it is an ack, a nack, or answers nothing.
func (s *session) answered(r *discovery.DeltaDiscoveryRequest) *ended {
	if err := checkNames(r); err != nil {
		return ending("request", codes.InvalidArgument, "%s", err)
	}
	if len(r.GetInitialResourceVersions()) > 0 {
		return ending("request", codes.InvalidArgument, "initial_resource_versions belongs into a stream's first request")
	}
	if r.GetNode() != nil && digestOf(r.GetNode()) != s.node {
		return ending("node", codes.PermissionDenied, "the node differs from that of the stream's first request")
	}
	now := s.server.config.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	var what answer
	var which snapshot.Snapshot
	if r.GetErrorDetail() == nil {
		what, which = s.state.acknowledge(r.GetResponseNonce())
	} else {
		what, which = s.nack(r, now)
	}
	if what == stale {
		s.server.metrics.stale.Inc()
		if s.stale++; s.stale > mostStale {
			return ending("noise", codes.ResourceExhausted, "%d requests in a row answered nothing that was sent", s.stale)
		}
		return nil
	}
	s.stale = 0
	s.landed()
	if what == acked || what == ackedFacts {
		if what == acked {
			s.member.Acked(which.Version(), now)
			s.serves(s.refusing.Acked(which))
		} else {
			s.member.AckedFacts(which.Version(), now)
			s.serves(s.refusing.AckedFacts(which))
		}
		s.server.metrics.acks.Inc()
		s.server.config.Log.Debug("in force", "router", s.name, "zone", s.view.Zone, "version", which.Version().Short())
	}
	return nil
}

// nack takes a refusal. The caller holds mu.
func (s *session) nack(r *discovery.DeltaDiscoveryRequest, now time.Time) (answer, snapshot.Snapshot) {
	refusal := refusalOf(r)
	what, which := s.state.refuse(r.GetResponseNonce(), refusal, now)
	if what == stale {
		return what, which
	}
	if differs := s.refusing.Refused(refusal, which, s.state.base.snapshot, now); len(differs) > 0 {
		s.server.metrics.alone.Inc()
		s.server.log.Error(s.peer.Identity, "a router refuses what others of its kind serve: it follows no further until that is mended or changes",
			"router", s.name, "zone", s.view.Zone, "resources", differs)
	}
	refusal.Resources = slices.DeleteFunc(refusal.GetResources(), func(f *tsujiv1.RefusedResource) bool {
		f.InForce = nil // has been looked at, and is shown to nobody
		_, sent := which.Get(f.GetResource())
		return !sent
	})
	refusal.Version = which.Version().String()
	s.member.Refused(refusal, now)
	s.server.metrics.nacks.WithLabelValues(className(refusal.GetClass())).Inc()
	s.server.log.Warn(s.peer.Identity, "version refused", "router", s.name, "zone", s.view.Zone,
		"version", which.Version().Short(), "class", className(refusal.GetClass()),
		"message", refusal.GetMessage(), "resources", names(refusal))
	return what, which
}

// serves tells of what is held no longer because the router serves it.
func (s *session) serves(released []string) {
	if len(released) > 0 {
		s.server.config.Log.Warn("what a router refused another of its kind serves: it is not held any more",
			"router", s.name, "zone", s.view.Zone, "resources", released)
	}
}

// kindOf is what routers have in common that should refuse the same: the series of HAProxy and the release of routerd.
func kindOf(haproxy, routerd string) string {
	parts := strings.SplitN(haproxy, ".", 3)
	return strings.Join(parts[:min(len(parts), 2)], ".") + " " + routerd
}

// OnStreamDeltaResponse learns the nonce of a response that is about to be sent.
func (s *session) OnStreamDeltaResponse(_ int64, _ *discovery.DeltaDiscoveryRequest, r *discovery.DeltaDiscoveryResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	se := s.state.series
	se.flight.nonce = r.GetNonce()
	p := se.parts[se.next-1]
	s.member.Sent(se.target.Snapshot.Version(), p.resources, len(p.encoded), se.last(), s.server.config.Now())
	m := s.server.metrics
	m.responses.Inc()
	m.resources.Add(float64(p.resources))
	m.removed.Add(float64(p.removed))
	m.bytes.Add(float64(len(p.encoded)))
	if se.last() {
		s.sync.release()
	}
}

// CreateWatch is never called: the delta server asks for delta watches only.
func (s *session) CreateWatch(*cache.Request, cache.Subscription, chan cache.Response) (func(), error) {
	return nil, errors.New("only delta discovery is served")
}

// CreateDeltaWatch notes where the next response goes.
func (s *session) CreateDeltaWatch(r *cache.DeltaRequest, _ cache.Subscription, out chan cache.DeltaResponse) (func(), error) {
	a := &arm{request: r, out: out}
	s.mu.Lock()
	s.armed = a
	s.mu.Unlock()
	s.wake()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.armed == a {
			s.armed = nil
		}
	}, nil
}

func (s *session) wake() {
	select {
	case s.woken <- struct{}{}:
	default: // it will look already
	}
}

// deliver hands the next part of the series to the delta server, if it waits for one.
func (s *session) deliver() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	se, a := s.state.series, s.armed
	if a == nil || se == nil || se.flight != nil {
		return nil // who changes that wakes run
	}
	response := &discovery.DeltaDiscoveryResponse{
		SystemVersionInfo: se.target.Snapshot.Version().String(),
		TypeUrl:           tsujiv1.TypeURL,
	}
	if se.next == len(se.parts)-1 {
		commit, err := commitOf(se)
		if err != nil {
			return err
		}
		response.Resources = []*discovery.Resource{commit}
	}
	// The encoded fields are shared by all streams; the message that carries them is this one's own, as the
	// delta server writes the nonce into it. The map is a new one too: the delta server changes it in place.
	response.ProtoReflect().SetUnknown(se.parts[se.next].encoded)
	s.state.take(s.server.config.Now())
	s.armed = nil
	a.out <- &cache.DeltaPassthroughResponse{ // buffered, and never more than one is in it
		DeltaRequest:           a.request,
		NextVersionMap:         map[string]string{},
		DeltaDiscoveryResponse: response,
	}
	return nil
}

// commitOf makes the commit that ends a series.
func commitOf(se *series) (*discovery.Resource, error) {
	v := se.target.Snapshot.Version()
	item, err := tsujiv1.Encode(&tsujiv1.Resource{
		Name: tsujiv1.CommitName,
		Kind: &tsujiv1.Resource_Commit{Commit: &tsujiv1.Commit{
			Version:      v.String(),
			Base:         se.base.version,
			Resources:    uint32(se.target.Snapshot.Len()),
			ConfigDigest: v.Config[:],
			FactsDigest:  v.Facts[:],
			Observed:     se.target.Observed,
		}},
	})
	if err != nil {
		return nil, err
	}
	return &discovery.Resource{
		Name:     tsujiv1.CommitName,
		Version:  v.String(),
		Resource: &anypb.Any{TypeUrl: tsujiv1.TypeURL, Value: item.Encoded()},
	}, nil
}

// close ends what the session holds elsewhere. It is the session's last call.
func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.armed = nil
	s.letGo()
	if s.member != nil {
		s.member.Disconnected(s.server.config.Now())
		s.refusing.Disconnected()
		s.server.log.Info(s.peer.Identity, "router disconnected", "router", s.name, "zone", s.view.Zone, "address", s.address)
	}
}
