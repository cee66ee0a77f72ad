package main

import (
	"context"
	"fmt"
	"slices"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// details are a Route's that answers.
type details struct {
	Route    string   `json:"route"`
	Source   string   `json:"source,omitempty"`
	Place    string   `json:"place,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	Options  []option `json:"options"`
	Servers  []server `json:"servers"`

	shown string // place and age, for people
}

// option is one in force, and where it came from.
type option struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	From  string `json:"from"`
}

// server is an endpoint as HAProxy has it.
type server struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Weight  int    `json:"weight"` // 0: no new traffic
}

// takesTraffic tells whether there is an endpoint for a new client.
func (d *details) takesTraffic() bool {
	return slices.ContainsFunc(d.Servers, func(s server) bool { return s.Weight > 0 })
}

func (d *details) table(g *grid) {
	g.text("\nRoute %s%s%s", d.Route, ofSource(d.Source), d.shown)
	for _, w := range d.Warnings {
		g.text("  warning: %s", w)
	}
	g.row("  OPTION", "VALUE", "FROM")
	for _, o := range d.Options {
		g.row("  "+o.Name, o.Value, o.From)
	}
	g.text("")
	if len(d.Servers) == 0 {
		g.text("  no endpoints")
		return
	}
	g.row("  ENDPOINT", "ADDRESS", "WEIGHT")
	for _, s := range d.Servers {
		g.row("  "+s.Name, s.Address, fmt.Sprint(s.Weight))
	}
}

// origins tells options, and where each came from.
type origins struct {
	ingressController  string
	settings, defaults *tsujiv1.Settings // what is in force, and what would be if the IngressController said nothing
}

// details finds out about one Route.
func (o origins) details(ctx context.Context, e evidence, r *tsujiv1.Route, verdicts []*tsujiv1.RouteVerdict) (*details, error) {
	of, _ := e.object(r.GetNamespace(), r.GetName())
	d := &details{Route: routeName(r), Place: of.place, shown: of.shown(), Servers: []server{}}
	var verdict *tsujiv1.RouteVerdict
	for _, v := range verdicts {
		if v.GetNamespace() == r.GetNamespace() && v.GetName() == r.GetName() {
			verdict, d.Warnings, d.Source = v, remarks(v), madeOf(v)
		}
	}
	p := &optionList{origins: o, verdict: verdict}
	p.route(r)
	if terminated(r) {
		found, err := named(ctx, e, r.GetCertificate())
		if err != nil {
			return nil, err
		}
		p.certificate(r, found)
	}
	d.Options = p.list
	var err error
	d.Servers, err = servers(ctx, e, r)
	return d, err
}

// named returns the resource of that name; nil: there is none.
func named(ctx context.Context, e evidence, name string) (*tsujiv1.Resource, error) {
	if name == "" {
		return nil, nil //nolint:nilnil // a Route need not name one
	}
	list, err := e.resources(ctx, name)
	if err != nil {
		return nil, err
	}
	for _, r := range list { // names that only begin so are found, too
		if r.GetName() == name {
			return r, nil
		}
	}
	return nil, nil //nolint:nilnil // a resource may be absent
}

// servers returns what the endpoints of a Route are in HAProxy: render tells, given the Route first and then
// its endpoints, which servers its backend gets.
func servers(ctx context.Context, e evidence, r *tsujiv1.Route) ([]server, error) {
	before := []*tsujiv1.Resource{{Name: tsujiv1.RouteName(r.GetNamespace(), r.GetName()), Kind: &tsujiv1.Resource_Route{Route: r}}}
	names := []string{r.GetDestinationTls().GetCa()}
	for _, b := range r.GetBackends() {
		names = append(names, b.GetEndpoints())
	}
	after := slices.Clone(before)
	for i, name := range names {
		found, err := named(ctx, e, name)
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
	from, err := one(before)
	if err != nil {
		return nil, err
	}
	to, err := one(after)
	if err != nil {
		return nil, err
	}
	h, err := render.New(render.Options{HTTP: []string{":80"}, Stats: []string{":1936"}})
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
	list := []server{}
	for _, b := range change.Backends {
		if b.New == nil {
			continue
		}
		for _, s := range b.New.Servers {
			list = append(list, server{Name: s.Name, Address: s.HostPort(), Weight: s.Weight})
		}
	}
	return list, nil
}
