package inspect

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// maxWaiting is how many IngressControllers that are not served are told of: without TLS routers name them as they
// like.
const maxWaiting = 16

// ListRouters implements FleetService.
func (s *Server) ListRouters(_ context.Context, q *tsujiv1.ListRoutersRequest) (*tsujiv1.ListRoutersResponse, error) {
	if err := cmp.Or(checkName("ingress_controller", q.GetIngressController()),
		checkName("zone", q.GetZone())); err != nil {
		return nil, err
	}
	list := &tsujiv1.ListRoutersResponse{}
	for _, r := range s.routers() {
		if (q.GetIngressController() == "" || r.GetIngressController() == q.GetIngressController()) &&
			(q.GetZone() == "" || r.GetZone() == q.GetZone()) {
			list.Routers = append(list.Routers, r)
		}
	}
	return list, nil
}

// GetStatus implements StatusService.
func (s *Server) GetStatus(context.Context, *tsujiv1.GetStatusRequest) (*tsujiv1.GetStatusResponse, error) {
	a := &tsujiv1.GetStatusResponse{
		ControlplaneVersion: s.c.Version,
		Source:              s.c.Source,
		Snapshots:           s.summaries(func(e release.Entry) bool { return e.Current }),
	}
	routers := s.routers()
	for _, r := range routers {
		if r.GetConnected() {
			a.RoutersConnected++
			if equal(r.GetAckedVersion(), r.GetTargetVersion()) {
				a.RoutersCurrent++
			}
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	a.Synced, a.Faults = s.synced, s.allFaults(routers)
	a.RoutesRefused, a.RoutesAdmitted = s.judged[index(false)], s.judged[index(true)]
	now := s.c.Now()
	for _, v := range s.verdicts {
		if !v.GetAdmitted() {
			continue
		}
		lastGood := len(v.GetLastGood()) > 0
		if lastGood {
			a.RoutesLastGood++
		}
		expires := v.GetCertificateNotAfter() != nil && compile.Expiry(v.GetCertificateNotAfter().AsTime(), now) != ""
		if lastGood || expires || len(v.GetWarnings()) > 0 {
			a.RoutesWarned++
		}
	}
	return a, nil
}

// expiring tells of what IngressControllers refer to, and what is served, that has expired or soon will.
func (s *Server) expiring() []*tsujiv1.SourceFault {
	var faults []cluster.Fault
	for _, e := range s.c.Board.List() {
		if e.Current {
			faults = append(faults,
				compile.PassingFaults("IngressController "+e.IngressController, e.Snapshot, s.c.Now())...)
		}
	}
	return sourceFaults(faults)
}

// allFaults are those of the source, what of IngressControllers has expired, and that routers are connected whose
// IngressController is not served. The caller holds mu.
func (s *Server) allFaults(routers []*tsujiv1.Router) []*tsujiv1.SourceFault {
	if !s.synced {
		return s.faults
	}
	all := append(slices.Clone(s.faults), s.expiring()...)
	waiting := map[string]int{}
	for _, r := range routers {
		if r.GetConnected() && r.GetTargetVersion() == "" {
			waiting[r.GetIngressController()]++
		}
	}
	names := slices.Sorted(maps.Keys(waiting))
	for _, name := range names[:min(len(names), maxWaiting)] {
		all = append(all, &tsujiv1.SourceFault{
			Place:   "IngressController " + name,
			Message: fmt.Sprintf("there is none, or it was deleted; its routers (%d connected) wait, and serve what they had", waiting[name]),
			Remedy:  "create it, or end its routers: routerd --ingress-controller and their certificates name it",
		})
	}
	return all
}

// routers are the fleet's, each with the version that it should have, and with the connections that it lacks for it.
func (s *Server) routers() []*tsujiv1.Router {
	list := s.c.Fleet.List(s.c.Now())
	for _, r := range list {
		if t, ok, _ := s.c.Board.Target(release.View{IngressController: r.GetIngressController(),
			Zone: r.GetZone()}); ok {
			r.TargetVersion = t.Snapshot.Version().String()
			if wanted := connections(t.Snapshot); r.GetConnectionsAllowed() > 0 && wanted > r.GetConnectionsAllowed() {
				r.ConnectionsWanted = wanted
			}
		}
	}
	return list
}

// connections returns how many connections a snapshot's Settings ask for; zero: as many as a router can take.
func connections(s snapshot.Snapshot) uint32 {
	i, ok := s.Config().Get(tsujiv1.SettingsName)
	if !ok {
		return 0
	}
	r, err := tsujiv1.Decode(i)
	if err != nil {
		return 0
	}
	return r.GetSettings().Connections()
}

// equal tells whether both name the same content: a router may have been given its version by a replica
// that prints another revision.
func equal(a, b string) bool {
	v, err := snapshot.ParseVersion(a)
	if err != nil || v.IsZero() {
		return false
	}
	w, err := snapshot.ParseVersion(b)
	return err == nil && v.Equal(w)
}
