package inspect

import (
	"cmp"
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// verdictKey names a Route as an IngressController sees it.
type verdictKey struct{ ingressController, namespace, name string }

func (k verdictKey) compare(o verdictKey) int {
	return cmp.Or(cmp.Compare(k.ingressController, o.ingressController), cmp.Compare(k.namespace, o.namespace),
		cmp.Compare(k.name, o.name))
}

// ListRoutes implements RouteService.
func (s *Server) ListRoutes(_ context.Context, q *tsujiv1.ListRoutesRequest) (*tsujiv1.ListRoutesResponse, error) {
	if err := cmp.Or(checkName("ingress_controller", q.GetIngressController()),
		checkName("namespace", q.GetNamespace())); err != nil {
		return nil, err
	}
	refused := ""
	if q.GetRefusedOnly() {
		refused = "refused"
	}
	asked := question("ListRoutes", q.GetIngressController(), q.GetNamespace(), refused)
	from, err := parseToken(q.GetPageToken(), asked, 3)
	if err != nil {
		return nil, err
	}
	var after verdictKey
	if len(from.After) > 0 {
		after = verdictKey{from.After[0], from.After[1], from.After[2]}
	}
	page := s.page(q, asked, after, pageSize(q.GetPageSize()))
	now, passing := s.c.Now(), map[string]*compile.Passing{}
	for i, v := range page.GetRoutes() {
		of := passing[v.GetIngressController()]
		if of == nil {
			target, _, _ := s.c.Board.Target(release.View{IngressController: v.GetIngressController()})
			of = compile.NewPassing(target.Snapshot, now)
			passing[v.GetIngressController()] = of
		}
		if warnings := of.Of(v); len(warnings) > 0 {
			v = proto.CloneOf(v) // others have it, too
			v.Warnings = append(v.Warnings, warnings...)
			page.Routes[i] = v
		}
	}
	return page, nil
}

// page returns the verdicts that are asked for, as they are.
func (s *Server) page(q *tsujiv1.ListRoutesRequest, asked string, after verdictKey,
	size int) *tsujiv1.ListRoutesResponse {
	s.mu.RLock()
	defer s.mu.RUnlock()
	keys := smallest(func(yield func(verdictKey) bool) {
		for k, v := range s.verdicts {
			switch {
			case k.compare(after) <= 0,
				q.GetIngressController() != "" && k.ingressController != q.GetIngressController(),
				q.GetNamespace() != "" && k.namespace != q.GetNamespace(),
				q.GetRefusedOnly() && v.GetAdmitted():
			default:
				if !yield(k) {
					return
				}
			}
		}
	}, size+1, verdictKey.compare)

	page := &tsujiv1.ListRoutesResponse{}
	for i, k := range keys {
		if i == size {
			last := keys[i-1]
			page.NextPageToken = token{Question: asked,
				After: []string{last.ingressController, last.namespace, last.name}}.String()
			break
		}
		page.Routes = append(page.Routes, s.verdicts[k])
	}
	return page
}
