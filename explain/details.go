package explain

import (
	"slices"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// Details are a Route's that answers.
type Details struct {
	Route    string   `json:"route"`
	Source   string   `json:"source,omitempty"`
	Place    string   `json:"place,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	Options  []Option `json:"options"`
	Servers  []Server `json:"servers"`

	Object Object `json:"-"`
}

// Option is one in force, and where it came from.
type Option struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	From  string `json:"from"`
}

// Server is an endpoint as HAProxy has it.
type Server struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Weight  int    `json:"weight"` // 0: no new traffic
}

// takesTraffic tells whether there is an endpoint for a new client.
func (d *Details) takesTraffic() bool {
	return slices.ContainsFunc(d.Servers, func(s Server) bool { return s.Weight > 0 })
}

// origins tells options, and where each came from.
type origins struct {
	ingressController  string
	settings, defaults *tsujiv1.Settings // what is in force, and what would be if the IngressController said nothing
}

// details finds out about one Route.
func (o origins) details(in Input, c *render.Claim) (*Details, error) {
	r := c.Route
	of := in.Object(r.GetNamespace(), r.GetName())
	d := &Details{Route: routeName(r), Place: of.Place, Object: of}
	var verdict *tsujiv1.RouteVerdict
	for _, v := range in.Verdicts {
		if v.GetNamespace() == r.GetNamespace() && v.GetName() == r.GetName() {
			verdict, d.Warnings, d.Source = v, Remarks(v), MadeOf(v)
		}
	}
	p := &optionList{origins: o, claim: c, verdict: verdict}
	p.route(r)
	if c.Terminated {
		found, err := in.named(r.GetCertificate())
		if err != nil {
			return nil, err
		}
		p.certificate(r, found)
	}
	d.Options = p.list
	var err error
	d.Servers, err = servers(in, r)
	return d, err
}

// named returns the resource of that name; nil: there is none, or nothing is named.
func (in Input) named(name string) (*tsujiv1.Resource, error) {
	if name == "" {
		return nil, nil //nolint:nilnil // a Route need not name one
	}
	return in.Resource(name)
}

// servers returns what the endpoints of a Route are in HAProxy: render tells, given the Route first and then
// its endpoints, which servers its backend gets.
func servers(in Input, r *tsujiv1.Route) ([]Server, error) {
	before := []*tsujiv1.Resource{{
		Name: tsujiv1.RouteName(r.GetNamespace(), r.GetName()), Kind: &tsujiv1.Resource_Route{Route: r},
	}}
	names := []string{r.GetDestinationTls().GetCa()}
	for _, b := range r.GetBackends() {
		names = append(names, b.GetEndpoints())
	}
	after := slices.Clone(before)
	for i, name := range names {
		found, err := in.named(name)
		if err != nil {
			return nil, err
		}
		if found == nil {
			continue
		}
		if i == 0 {
			before = append(before, found)
		}
		after = append(after, found)
	}
	from, err := snapshotOf(before)
	if err != nil {
		return nil, err
	}
	to, err := snapshotOf(after)
	if err != nil {
		return nil, err
	}
	h, err := renderer()
	if err != nil {
		return nil, err
	}
	if _, err := h.Apply(snapshot.Diff(snapshot.Snapshot{}, from)); err != nil {
		return nil, err
	}
	change, err := h.Apply(snapshot.Diff(from, to))
	if err != nil {
		return nil, err
	}
	list := []Server{}
	for _, b := range change.Backends {
		if b.New == nil {
			continue
		}
		for _, s := range b.New.Servers {
			list = append(list, Server{Name: s.Name, Address: s.HostPort(), Weight: s.Weight})
		}
	}
	return list, nil
}
