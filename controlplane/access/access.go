// Package access decides who may call what.
//
// It guarantees that a call reaches its service only if a row of its table gives that method to the role of
// the caller's certificate; that no identity, and no host of it, has all connections; that a peer that is denied has
// none; and that whoever is turned away is in the log, at a bounded rate, with what was tried.
//
// Do not assume that a right is enough: which view a router sees is decided in the discovery server, from
// the same identity.
package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/tsuji-dev/tsuji/controlplane/fair"
	"github.com/tsuji-dev/tsuji/controlplane/ratelog"
	"github.com/tsuji-dev/tsuji/identity"
)

// right gives the methods that begin with a prefix to some roles.
type right struct {
	prefix string
	roles  []identity.Role
}

// rights is the table. What is in no row is for nobody. The replicas of the control plane have health only:
// there is nothing yet that they ask of each other.
func rights() []right {
	const router, operator, controlplane = identity.RoleRouter, identity.RoleOperator, identity.RoleControlPlane
	return []right{
		// The only place where private keys are sent: for routers alone, each for its own view.
		{discovery, []identity.Role{router}},
		{"/tsuji.v1.SnapshotService/", []identity.Role{operator}},
		{"/tsuji.v1.RouteService/", []identity.Role{operator}},
		{"/tsuji.v1.FleetService/", []identity.Role{operator}},
		{"/tsuji.v1.StatusService/", []identity.Role{operator}},
		{"/grpc.reflection.v1.ServerReflection/", []identity.Role{operator}},
		{"/grpc.reflection.v1alpha.ServerReflection/", []identity.Role{operator}},
		{"/grpc.health.v1.Health/", []identity.Role{router, operator, controlplane}},
	}
}

// Config says who is known.
type Config struct {
	// TrustDomain is the one that identities are of. Needed, unless Insecure.
	TrustDomain string
	// Insecure allows everything to everybody: there are no certificates. The caller sees to it that only
	// this machine can connect.
	Insecure bool
	// Denied are the peers that are turned away whatever their certificates say. Nil: nobody is.
	Denied *identity.Denied
	// Now is the clock of what is logged at a rate. Nil: time.Now.
	Now func() time.Time
	// Log is written to. Needed.
	Log *slog.Logger
}

// Guard stands before the services of a gRPC server. It is safe for concurrent use.
type Guard struct {
	config      Config
	rights      []right
	log         *ratelog.Log // what a peer can cause
	connections *connections
}

// New makes a guard.
func New(c Config) *Guard {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Guard{config: c, rights: rights(), log: ratelog.New(c.Log, c.Now), connections: newConnections()}
}

// discovery is the service that counts its streams itself, by routers' names.
const discovery = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"

// ServerOptions returns what has the guard asked of each call. That is before any of its message is read: gRPC makes
// room for as much as a peer announces, and waits for the rest, so calls are counted, refused ones too. These end when
// gRPC asks the interceptors: ended by the tap they would be kept by gRPC until the time that they were given is over.
func (g *Guard) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.InTapHandle(func(ctx context.Context, i *tap.Info) (context.Context, error) {
			admitted, err := g.admit(ctx, i.FullMethodName)
			if err != nil {
				return g.count(context.WithValue(ctx, refused{}, err)), nil
			}
			if strings.HasPrefix(i.FullMethodName, discovery) {
				return admitted, nil
			}
			return g.count(admitted), nil
		}),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, q any, _ *grpc.UnaryServerInfo,
			next grpc.UnaryHandler) (any, error) {
			if err := refusalOf(ctx); err != nil {
				return nil, err
			}
			return next(ctx, q)
		}),
		grpc.ChainStreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo,
			next grpc.StreamHandler) error {
			if err := refusalOf(s.Context()); err != nil {
				return err
			}
			return next(srv, s)
		}),
	}
}

// refused is the context key of the status that admit turned a call away with.
type refused struct{}

// refusalOf returns that status, or nil.
func refusalOf(ctx context.Context) error {
	err, _ := ctx.Value(refused{}).(error)
	return err
}

// mostCalls is how many calls an identity may have under way, besides discovery: `tsuji` has one or two.
const mostCalls = 64

// errOvertaken ends a call whose place another needs.
var errOvertaken = fmt.Errorf("this identity has more than %d calls under way, and this is the oldest", mostCalls)

// count returns a context for a call that ends when it is the oldest of too many.
func (g *Guard) count(ctx context.Context) context.Context {
	if g.config.Insecure {
		return ctx
	}
	peer := unknownPeer
	if id, err := g.identify(ctx); err == nil {
		peer = id.String()
	}
	ctx, end := context.WithCancelCause(ctx)
	place := g.connections.places.Push(callPlace+peer, fair.HostOf(address(ctx)), mostCalls, func() {
		g.log.Warn(peer, "call ended", "peer", peer, "address", address(ctx), "err", errOvertaken)
		end(errOvertaken)
	})
	context.AfterFunc(ctx, place.Leave) // it ends with its stream
	return ctx
}

// caller is the context key of the identity that admit found.
type caller struct{}

// admit returns a context with the caller's identity, or the status with which the call is turned away.
func (g *Guard) admit(ctx context.Context, method string) (context.Context, error) {
	if g.config.Insecure {
		return ctx, nil
	}
	id, err := g.identify(ctx)
	if err != nil {
		g.log.Warn("", "call refused: the caller is not known", "method", method, "address", address(ctx), "err", err)
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	if !g.allows(method, id.Role) {
		g.log.Warn(id.String(), "call refused: the caller has no right to it", "method", method, "peer", id.String(),
			"address", address(ctx))
		return nil, status.Errorf(codes.PermissionDenied, "%s may not call %s", id, method)
	}
	return context.WithValue(ctx, caller{}, id), nil
}

// allows tells whether a row gives the method to the role.
func (g *Guard) allows(method string, role identity.Role) bool {
	return slices.ContainsFunc(g.rights, func(r right) bool {
		return strings.HasPrefix(method, r.prefix) && slices.Contains(r.roles, role)
	})
}

// errNoCertificate is what somebody is told who came past TLS.
var errNoCertificate = errors.New("a client certificate is needed")

// identify reads the identity in the certificate that the connection was made with.
func (g *Guard) identify(ctx context.Context) (identity.ID, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity.ID{}, errNoCertificate
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return identity.ID{}, errNoCertificate
	}
	return identity.FromCertificate(info.State.PeerCertificates[0], g.config.TrustDomain)
}

// Authenticate tells who calls, from a context that went through the guard. If verified is false the server
// is insecure, and there is nothing to tell. It is what the discovery server asks.
func (g *Guard) Authenticate(ctx context.Context) (id identity.ID, verified bool, err error) {
	if g.config.Insecure {
		return identity.ID{}, false, nil
	}
	id, ok := ctx.Value(caller{}).(identity.ID)
	if !ok {
		return identity.ID{}, false, errNoCertificate
	}
	return id, true, nil
}

func address(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}
