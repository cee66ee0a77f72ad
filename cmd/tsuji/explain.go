package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/explain"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

func explainCommand(w world) *cobra.Command {
	var c connection
	var o format
	var ingressController string
	var files []string
	cmd := &cobra.Command{
		Use:   "explain HOST[/PATH]",
		Short: "Tell which Route answers a request, and why no other does",
		Long: `explain tells what a router answers to a request over plain HTTP and over HTTPS, which Route that is and why
no other of the host is, and for the Route that answers its options, where each came from, and its endpoints with
the weights that HAProxy gives them.

It asks the control plane for its current version; with --files it compiles manifests instead. An option is by a
field or annotation of the Route (or of the Ingress that it was made of), by a field of the IngressController, or
by default; so is a field of the IngressController that says what the default says.

It looks at Routes, not at clients: limits and allowed addresses are listed, not applied. The exit code does not
tell what the answer is.`,
		Example: `  tsuji explain hello.demo.example/b
  tsuji explain --files=examples/demo hello.demo.example`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := parseRequest(args[0])
			if err != nil {
				return err
			}
			answer := func(ctx context.Context, e evidence) error {
				x, err := explainFrom(ctx, q, ingressController, e)
				if err != nil {
					return err
				}
				return o.printValue(w.out, x, x.table)
			}
			if len(files) > 0 {
				m, err := compileFiles(cmd.Context(), w, files, ingressController)
				if err != nil {
					return err
				}
				if n := len(m.Faults); n > 0 {
					fmt.Fprintf(w.err, "tsuji: %s in the manifests; tsuji lint tells more\n", count(n, "fault"))
				}
				return answer(cmd.Context(), m)
			}
			return c.use(cmd.Context(), cmd.Flags(), func(ctx context.Context, conn *grpc.ClientConn) error {
				return answer(ctx, &asked{conn: conn, ingressController: ingressController})
			})
		},
	}
	cmd.Flags().StringVar(&ingressController, "ingress-controller", "default",
		"the IngressController whose routers are asked")
	cmd.Flags().StringSliceVar(&files, "files", nil,
		"manifests to look at instead of a control plane: files, directories, or -")
	c.flags(cmd.Flags())
	o.flags(cmd.Flags(), asTable)
	return cmd
}

// parseRequest reads HOST, HOST/PATH, or a URL.
func parseRequest(s string) (explain.Request, error) {
	text := s
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil {
		return explain.Request{}, usagef("%.200q: want HOST or HOST/PATH", s)
	}
	host := u.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	path := u.EscapedPath() // as it travels
	if path == "" {
		path = "/"
	}
	return explain.Request{Host: strings.TrimRight(strings.ToLower(host), "."), Path: path}, nil
}

// evidence is what an explanation rests on: manifests, or a control plane.
type evidence interface {
	// routes returns a verdict on every Route.
	routes(ctx context.Context) ([]*tsujiv1.RouteVerdict, error)
	// resources returns those of one version whose names begin so.
	resources(ctx context.Context, prefix string) ([]*tsujiv1.Resource, error)
	// object returns what only the Route itself tells; zero: it is not known.
	object(namespace, name string) explain.Object
	// routers returns those that do not serve the version which resources are of.
	routers(ctx context.Context) ([]*elsewhere, error)
}

// elsewhere is a router that does not serve the version that is explained, and why, as far as that is known.
type elsewhere struct {
	Router  string `json:"router"`
	Zone    string `json:"zone"`
	State   string `json:"state"`   // "behind" or "refused"
	Version string `json:"version"` // that it serves; empty: none
	Since   string `json:"since"`   // when it acked that (RFC 3339); empty: not known
	Why     string `json:"why,omitempty"`
}

// routes implements evidence.
func (c *compiled) routes(context.Context) ([]*tsujiv1.RouteVerdict, error) { return c.told(), nil }

// resources implements evidence.
func (c *compiled) resources(_ context.Context, prefix string) ([]*tsujiv1.Resource, error) {
	var list []*tsujiv1.Resource
	for _, i := range c.snapshot.Sorted() {
		if !strings.HasPrefix(i.Name(), prefix) {
			continue
		}
		r, err := tsujiv1.Decode(i)
		if err != nil {
			return nil, err
		}
		list = append(list, tsujiv1.Redact(r))
	}
	return list, nil
}

// object implements evidence.
func (c *compiled) object(namespace, name string) explain.Object {
	key := c.written(namespace, name)
	i, ok := slices.BinarySearchFunc(c.Changes, key,
		func(ch cluster.Change, k cluster.Key) int { return ch.Key.Compare(k) })
	if !ok {
		return explain.Object{}
	}
	r := c.Changes[i].Object
	return explain.Object{Place: c.Places[key].String(), Created: r.GetCreationTimestamp().Time}
}

// routers implements evidence.
func (c *compiled) routers(context.Context) ([]*elsewhere, error) { return nil, nil }

// asked is a control plane as evidence. Everything comes of the version that is current at the first question.
type asked struct {
	conn              *grpc.ClientConn
	ingressController string
	version           string
}

func (a *asked) routes(ctx context.Context) ([]*tsujiv1.RouteVerdict, error) {
	l, err := allRoutes(ctx, tsujiv1.NewRouteServiceClient(a.conn),
		&tsujiv1.ListRoutesRequest{IngressController: a.ingressController})
	return l.GetRoutes(), err
}

func (a *asked) resources(ctx context.Context, prefix string) ([]*tsujiv1.Resource, error) {
	s, err := wholeSnapshot(ctx, tsujiv1.NewSnapshotServiceClient(a.conn),
		&tsujiv1.GetSnapshotRequest{IngressController: a.ingressController, Version: a.version, NamePrefix: prefix})
	if err != nil {
		return nil, err
	}
	a.version = s.GetSnapshot().GetVersion()
	return s.GetResources(), nil
}

func (a *asked) object(string, string) explain.Object { return explain.Object{} }

func (a *asked) routers(ctx context.Context) ([]*elsewhere, error) {
	l, err := tsujiv1.NewFleetServiceClient(a.conn).ListRouters(ctx,
		&tsujiv1.ListRoutersRequest{IngressController: a.ingressController})
	if err != nil {
		return nil, err
	}
	var list []*elsewhere
	for _, r := range l.GetRouters() {
		if !r.GetConnected() || sameVersion(r.GetAckedVersion(), a.version) {
			continue
		}
		e := &elsewhere{Router: r.GetName(), Zone: r.GetZone(), State: "behind", Version: r.GetAckedVersion()}
		if r.GetAcked() != nil {
			e.Since = r.GetAcked().AsTime().UTC().Format(time.RFC3339)
		}
		if f := r.GetRefusal(); f != nil {
			e.State, e.Why = "refused", f.GetMessage()
		}
		list = append(list, e)
	}
	return list, nil
}

// explanation is what the command tells. Others read it as JSON: fields are not renamed.
type explanation struct {
	*explain.Explanation
	// Elsewhere are the routers that serve another version than the one that this is about.
	Elsewhere []*elsewhere `json:"elsewhere"`
}

// explainFrom collects the evidence about a request, and explains it.
func explainFrom(ctx context.Context, q explain.Request, ingressController string, e evidence) (*explanation, error) {
	routes, err := e.resources(ctx, "route/")
	if err != nil {
		return nil, err
	}
	verdicts, err := e.routes(ctx)
	if err != nil {
		return nil, err
	}
	x, err := explain.Explain(q, explain.Input{
		IngressController: ingressController, Routes: routes, Verdicts: verdicts, Object: e.object,
		Resource: func(name string) (*tsujiv1.Resource, error) { return named(ctx, e, name) },
	})
	if err != nil {
		return nil, err
	}
	routers, err := e.routers(ctx)
	if err != nil {
		return nil, err
	}
	return &explanation{Explanation: x, Elsewhere: append([]*elsewhere{}, routers...)}, nil
}

// named returns the resource of that name; nil: there is none.
func named(ctx context.Context, e evidence, name string) (*tsujiv1.Resource, error) {
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

// text tells what a router serves instead.
func (e *elsewhere) text() string {
	serves := "it serves nothing yet"
	if e.Version != "" {
		serves = "it serves version " + short(e.Version)
	}
	if e.Since != "" {
		serves += ", since " + e.Since
	}
	if e.State == "refused" {
		return serves + ", and refused the one that followed: " + e.Why
	}
	return serves + ", and is behind"
}

// ofSource tells people what a Route was made of.
func ofSource(source string) string {
	if source == "" {
		return ""
	}
	return " of " + source
}

// table writes the explanation for people.
func (x *explanation) table(g *grid) {
	g.fact("Plain HTTP", "%s", x.HTTP.Text)
	g.fact("HTTPS", "%s", x.HTTPS.Text)
	for _, e := range x.Elsewhere {
		g.text("\nNot so at router %s in zone %s: %s", e.Router, e.Zone, e.text())
	}
	if len(x.Routes) == 0 {
		g.text("\nNo Route asks for %s.", x.Host)
		return
	}
	g.text("")
	g.row("ROUTE", "HOST", "PATH", "TERMINATION", "PLAIN HTTP", "HTTPS")
	for _, r := range x.Routes {
		g.row(r.Route, r.Host, shownPath(r.Path, r.Exact), r.Termination, r.HTTP, r.HTTPS)
	}
	for _, r := range x.Routes {
		if !r.Admitted {
			message := strings.ReplaceAll(r.Message, "\n", " ")
			g.text("\n%s%s%s is refused: %s: %s", r.Route, ofSource(r.Source), placed(r.Object), r.Reason, message)
		}
	}
	for _, d := range x.Answers {
		detailsTable(g, d)
	}
}

// detailsTable writes what is known of a Route that answers.
func detailsTable(g *grid, d *explain.Details) {
	g.text("\nRoute %s%s%s", d.Route, ofSource(d.Source), placed(d.Object))
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

// placed tells people where a Route is, and how old; empty: it is not known.
func placed(o explain.Object) string {
	switch {
	case o.Place == "":
		return ""
	case o.Created.IsZero():
		return fmt.Sprintf(" (%s, without creationTimestamp: the youngest)", o.Place)
	default:
		return fmt.Sprintf(" (%s, created %s)", o.Place, o.Created.UTC().Format(time.RFC3339))
	}
}

// shownPath tells people a path, and whether it is exact.
func shownPath(path string, exact bool) string {
	if exact {
		return path + " (exact)"
	}
	return path
}
