package inspect

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tsuji-dev/tsuji/controlplane/release"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// defaultIngressController is meant where GetSnapshot is asked for none.
const defaultIngressController = "default"

// ListSnapshots implements SnapshotService.
func (s *Server) ListSnapshots(_ context.Context, q *tsujiv1.ListSnapshotsRequest) (*tsujiv1.ListSnapshotsResponse, error) {
	if err := checkName("ingress_controller", q.GetIngressController()); err != nil {
		return nil, err
	}
	return &tsujiv1.ListSnapshotsResponse{Snapshots: s.summaries(func(e release.Entry) bool {
		return q.GetIngressController() == "" || e.IngressController == q.GetIngressController()
	})}, nil
}

// GetSnapshot implements SnapshotService.
func (s *Server) GetSnapshot(_ context.Context, q *tsujiv1.GetSnapshotRequest) (*tsujiv1.GetSnapshotResponse, error) {
	controller := q.GetIngressController()
	if controller == "" {
		controller = defaultIngressController
	}
	if err := checkName("ingress_controller", controller); err != nil {
		return nil, err
	}
	asked := question("GetSnapshot", controller, q.GetVersion(), q.GetNamePrefix())
	from, err := parseToken(q.GetPageToken(), asked, 1)
	if err != nil {
		return nil, err
	}
	var held snapshot.Snapshot
	if q.GetPageToken() == "" {
		held, err = s.find(controller, q.GetVersion())
	} else {
		held, err = s.again(controller, from.Version)
	}
	if err != nil {
		return nil, err
	}
	version := held.Version()
	page := &tsujiv1.GetSnapshotResponse{}
	for _, x := range s.summaries(func(e release.Entry) bool {
		return e.IngressController == controller && e.Snapshot.Version().Equal(version)
	}) {
		page.Snapshot = x
	}

	after := ""
	if len(from.After) > 0 {
		after = from.After[0]
	}
	size := pageSize(q.GetPageSize())
	found := smallest(items(held, q.GetNamePrefix(), after), size+1, byName)
	bytes := 0
	for i, item := range found {
		if bytes += len(item.Encoded()); i == size || i > 0 && bytes > maxPageBytes {
			page.NextPageToken = token{Question: asked, Version: version.String(), After: []string{found[i-1].Name()}}.String()
			break
		}
		r, err := tsujiv1.Decode(item)
		if err != nil { // what was compiled decodes
			s.c.Log.Error("a resource cannot be shown", "version", version.Short(), "err", err)
			return nil, status.Errorf(codes.Internal, "%v", err)
		}
		page.Resources = append(page.Resources, tsujiv1.Redact(r))
	}
	return page, nil
}

func byName(a, b snapshot.Item) int { return strings.Compare(a.Name(), b.Name()) }

// items yields the items whose names begin with prefix and come after another.
func items(s snapshot.Snapshot, prefix, after string) iter.Seq[snapshot.Item] {
	return func(yield func(snapshot.Item) bool) {
		for _, part := range []snapshot.Set{s.Config(), s.Facts()} {
			for i := range part.All() {
				if i.Name() > after && strings.HasPrefix(i.Name(), prefix) && !yield(i) {
					return
				}
			}
		}
	}
}

// find returns the one snapshot that is meant: by version, by the beginning of one, or the current one.
func (s *Server) find(controller, version string) (snapshot.Snapshot, error) {
	current, ok, _ := s.c.Board.Target(release.View{IngressController: controller})
	if !ok {
		return snapshot.Snapshot{}, status.Errorf(codes.NotFound, "no version of ingress_controller %q is served: %s", controller, s.served())
	}
	if version == "" {
		return current.Snapshot, nil
	}
	if v, err := snapshot.ParseVersion(version); err == nil { // another replica may have printed another revision
		if held, ok := s.c.Board.Lookup(controller, v); ok {
			return held, nil
		}
	}
	switch found := s.c.Board.Find(controller, version); len(found) {
	case 0:
		return snapshot.Snapshot{}, status.Errorf(codes.NotFound, "version %.200q of ingress_controller %q is not held, or never was: ListSnapshots (tsuji snapshots) tells those that are", version, controller)
	case 1:
		return found[0], nil
	default:
		return snapshot.Snapshot{}, status.Errorf(codes.InvalidArgument, "version %.200q is the beginning of %d versions: give more of it, as in %s", version, len(found), shorts(found))
	}
}

// again returns the snapshot that a page token is of.
func (s *Server) again(controller, version string) (snapshot.Snapshot, error) {
	v, err := snapshot.ParseVersion(version)
	if err != nil || v.IsZero() {
		return snapshot.Snapshot{}, status.Error(codes.InvalidArgument, "page_token is none that this service gave: leave it empty for the first page")
	}
	held, ok := s.c.Board.Lookup(controller, v)
	if !ok {
		return snapshot.Snapshot{}, status.Errorf(codes.FailedPrecondition, "version %s, which page_token is of, is not held any more: begin again, with page_token empty", v.Short())
	}
	return held, nil
}

// shorts lists the first few versions.
func shorts(found []snapshot.Snapshot) string {
	var list []string
	for _, f := range found[:min(3, len(found))] {
		list = append(list, f.Version().Short())
	}
	return strings.Join(list, " or ")
}

// served tells which IngressControllers there are.
func (s *Server) served() string {
	var names []string
	for _, e := range s.c.Board.List() {
		if !slices.Contains(names, e.IngressController) {
			names = append(names, e.IngressController)
		}
	}
	if len(names) == 0 {
		return "nothing is yet, the source is still being read"
	}
	return fmt.Sprintf("those served are %s", strings.Join(names, ", "))
}

// summaries tells of the versions held that are wanted, by IngressController, the newest first.
func (s *Server) summaries(wanted func(release.Entry) bool) []*tsujiv1.SnapshotSummary {
	entries := s.c.Board.List()
	endpoints := s.countEndpoints(entries)
	var list []*tsujiv1.SnapshotSummary
	for _, e := range entries {
		if !wanted(e) {
			continue
		}
		config, facts := e.Snapshot.Config(), e.Snapshot.Facts()
		routes := config.Len()
		if _, ok := config.Get(tsujiv1.SettingsName); ok {
			routes--
		}
		n := endpoints[facts.Digest()]
		list = append(list, &tsujiv1.SnapshotSummary{
			IngressController: e.IngressController,
			Version:           e.Snapshot.Version().String(),
			Built:             timestamp(e.Built),
			Current:           e.Current,
			Routes:            uint32(routes),
			Endpoints:         n,
			Certificates:      uint32(facts.Len()) - n,
			Waiting:           uint32(max(e.Waiting, 0)),
		})
	}
	return list
}

// countEndpoints counts the endpoints resources of each set of facts. Each set is walked once, as long as it is held.
func (s *Server) countEndpoints(entries []release.Entry) map[snapshot.Digest]uint32 {
	s.countsMu.Lock()
	defer s.countsMu.Unlock()
	counts := make(map[snapshot.Digest]uint32, len(entries))
	for _, e := range entries {
		facts := e.Snapshot.Facts()
		d := facts.Digest()
		if _, ok := counts[d]; ok {
			continue
		}
		n, ok := s.counts[d]
		if !ok {
			for i := range facts.All() {
				if strings.HasPrefix(i.Name(), "endpoints/") {
					n++
				}
			}
		}
		counts[d] = n
	}
	s.counts = counts
	return counts
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
