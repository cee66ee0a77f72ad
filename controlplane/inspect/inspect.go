// Package inspect answers questions about what the control plane compiled, refused, and knows of its routers.
//
// It guarantees that no answer holds a private key; that what one change costs does not depend on how much
// there is; that answers are bounded, in pages; and that walking through pages shows each thing that was
// there all the time exactly once, and the resources of one version only, whatever changes meanwhile.
//
// Do not assume that two questions see the same moment: each sees what is true when it is asked.
package inspect

import (
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// Config is what a Server looks at.
type Config struct {
	Board   *release.Board   // what is served, and was
	Fleet   *fleet.Fleet     // the routers
	Source  string           // where objects come from: "dir:examples/demo"
	Version string           // of the program
	Log     *slog.Logger     // for what must not happen
	Now     func() time.Time // the clock that routers' times are compared with
}

// Server implements the inspection services. It is safe for concurrent use.
type Server struct {
	tsujiv1.UnimplementedSnapshotServiceServer
	tsujiv1.UnimplementedRouteServiceServer
	tsujiv1.UnimplementedFleetServiceServer
	tsujiv1.UnimplementedStatusServiceServer

	c Config

	mu       sync.RWMutex
	synced   bool                                 // guarded by mu, as is all in this group
	faults   []*tsujiv1.SourceFault               // replaced, never changed
	verdicts map[verdictKey]*tsujiv1.RouteVerdict // on each Route, by each IngressController
	judged   [2]uint32                            // number of verdicts, by whether they admit

	countsMu sync.Mutex
	counts   map[snapshot.Digest]uint32 // guarded by countsMu; number of endpoints resources, by digest of facts
}

// New makes a server that knows no verdicts, and whose source is not synced.
func New(c Config) *Server {
	return &Server{c: c, verdicts: map[verdictKey]*tsujiv1.RouteVerdict{}}
}

// Register offers the services on a gRPC server.
func (s *Server) Register(r *grpc.Server) {
	tsujiv1.RegisterSnapshotServiceServer(r, s)
	tsujiv1.RegisterRouteServiceServer(r, s)
	tsujiv1.RegisterFleetServiceServer(r, s)
	tsujiv1.RegisterStatusServiceServer(r, s)
}

// Observe takes over the verdicts that are new, and forgets Routes that are gone. The verdicts must not be
// changed any more. Since when something is served as it was last good is noted here: who compiles has no clock.
func (s *Server) Observe(ingressController string, r compile.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range r.Removed {
		s.forget(verdictKey{ingressController, k.Namespace, k.Name})
	}
	for _, v := range r.Verdicts {
		k := verdictKey{ingressController, v.GetNamespace(), v.GetName()}
		v = s.since(v, s.verdicts[k])
		s.forget(k)
		s.verdicts[k] = v
		s.judged[index(v.GetAdmitted())]++
	}
}

// since returns a verdict with the times since which what it refers to is served as it was last good.
func (s *Server) since(v, before *tsujiv1.RouteVerdict) *tsujiv1.RouteVerdict {
	if len(v.GetLastGood()) == 0 {
		return v
	}
	v = proto.CloneOf(v)
	for _, g := range v.GetLastGood() {
		g.Since = timestamp(s.c.Now())
		for _, was := range before.GetLastGood() {
			if was.GetResource() == g.GetResource() {
				g.Since = was.GetSince()
			}
		}
	}
	return v
}

// Forget drops the verdicts of an IngressController that is served no more.
func (s *Server) Forget(ingressController string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.verdicts {
		if k.ingressController == ingressController {
			s.forget(k)
		}
	}
}

// forget drops a verdict, if there is one. The caller holds mu.
func (s *Server) forget(k verdictKey) {
	if v, ok := s.verdicts[k]; ok {
		s.judged[index(v.GetAdmitted())]--
		delete(s.verdicts, k)
	}
}

func index(admitted bool) int {
	if admitted {
		return 1
	}
	return 0
}

// SetFaults replaces what is known to be wrong in the source.
func (s *Server) SetFaults(faults []cluster.Fault) {
	list := sourceFaults(faults)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = list
}

func sourceFaults(faults []cluster.Fault) []*tsujiv1.SourceFault {
	list := make([]*tsujiv1.SourceFault, 0, len(faults))
	for _, f := range faults {
		list = append(list, &tsujiv1.SourceFault{
			Place: f.Place, Line: uint32(max(f.Line, 0)), Message: f.Message, Remedy: f.Remedy,
		})
	}
	return list
}

// SetSynced says that the source was read whole.
func (s *Server) SetSynced() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synced = true
}
