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
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
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
			q, err := parseQuestion(args[0])
			if err != nil {
				return err
			}
			answer := func(ctx context.Context, e evidence) error {
				x, err := explain(ctx, q, ingressController, e)
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
	cmd.Flags().StringVar(&ingressController, "ingress-controller", "default", "the IngressController whose routers are asked")
	cmd.Flags().StringSliceVar(&files, "files", nil, "manifests to look at instead of a control plane: files, directories, or -")
	c.flags(cmd.Flags())
	o.flags(cmd.Flags(), asTable)
	return cmd
}

// question is a request, as far as its Route depends on it.
type question struct{ host, path string }

// parseQuestion reads HOST, HOST/PATH, or a URL.
func parseQuestion(s string) (question, error) {
	text := s
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil {
		return question{}, usagef("%.200q: want HOST or HOST/PATH", s)
	}
	host := u.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	path := u.EscapedPath() // as it travels
	if path == "" {
		path = "/"
	}
	return question{host: strings.TrimRight(strings.ToLower(host), "."), path: path}, nil
}

// evidence is what an explanation rests on: manifests, or a control plane.
type evidence interface {
	// routes returns a verdict on every Route.
	routes(ctx context.Context) ([]*tsujiv1.RouteVerdict, error)
	// resources returns those of one version whose names begin so.
	resources(ctx context.Context, prefix string) ([]*tsujiv1.Resource, error)
	// object returns what only the Route itself tells; ok: it is known.
	object(namespace, name string) (o object, ok bool)
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

// object is what a Route tells that verdicts and resources do not.
type object struct {
	place   string    // file and line
	created time.Time // zero: it does not say
}

// shown tells people where a Route is, and how old; empty: it is not known.
func (o object) shown() string {
	switch {
	case o.place == "":
		return ""
	case o.created.IsZero():
		return fmt.Sprintf(" (%s, without creationTimestamp: the youngest)", o.place)
	default:
		return fmt.Sprintf(" (%s, created %s)", o.place, o.created.UTC().Format(time.RFC3339))
	}
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
func (c *compiled) object(namespace, name string) (object, bool) {
	key := c.written(namespace, name)
	i, ok := slices.BinarySearchFunc(c.Changes, key, func(ch cluster.Change, k cluster.Key) int { return ch.Key.Compare(k) })
	if !ok {
		return object{}, false
	}
	r := c.Changes[i].Object
	return object{place: c.Places[key].String(), created: r.GetCreationTimestamp().Time}, true
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
	l, err := allRoutes(ctx, tsujiv1.NewRouteServiceClient(a.conn), &tsujiv1.ListRoutesRequest{IngressController: a.ingressController})
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

func (a *asked) object(string, string) (object, bool) { return object{}, false }

func (a *asked) routers(ctx context.Context) ([]*elsewhere, error) {
	l, err := tsujiv1.NewFleetServiceClient(a.conn).ListRouters(ctx, &tsujiv1.ListRoutersRequest{IngressController: a.ingressController})
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

// explanation is what explain tells. Others read it as JSON: fields are not renamed.
type explanation struct {
	Host    string       `json:"host"`
	Path    string       `json:"path"`
	HTTP    *answer      `json:"http"`
	HTTPS   *answer      `json:"https"`
	Routes  []*candidate `json:"routes"`  // all that ask for the host
	Answers []*details   `json:"answers"` // of the Routes that answer
	// Elsewhere are the routers that serve another version than the one that this is about.
	Elsewhere []*elsewhere `json:"elsewhere"`
}

// explain finds out about a request.
func explain(ctx context.Context, q question, ingressController string, e evidence) (*explanation, error) {
	list, err := e.resources(ctx, "route/")
	if err != nil {
		return nil, err
	}
	verdicts, err := e.routes(ctx)
	if err != nil {
		return nil, err
	}
	exact, wildcard := rivals(q, list)
	x := &explanation{Host: q.host, Path: q.path, Routes: []*candidate{}, Answers: []*details{}}
	var httpRoute, httpsRoute *tsujiv1.Route
	x.HTTP, httpRoute = plainHTTP(q, exact, wildcard)
	x.HTTPS, httpsRoute = overTLS(q, exact, wildcard)
	sources := map[string]string{}
	for _, v := range verdicts {
		sources[v.GetNamespace()+"/"+v.GetName()] = madeOf(v)
	}
	for _, r := range slices.Concat(exact, wildcard) {
		o, _ := e.object(r.GetNamespace(), r.GetName())
		x.Routes = append(x.Routes, &candidate{
			Route: routeName(r), Source: sources[routeName(r)], Place: o.place, Host: shownHost(r), Path: r.GetPath(), Exact: r.GetExact(),
			Termination: termination(r.GetTermination()), Admitted: true,
			HTTP: whyHTTP(q, r, httpRoute, exact), HTTPS: whyHTTPS(q, r, httpsRoute),
		})
	}
	for _, v := range verdicts {
		if refusedRival(q, v) {
			o, _ := e.object(v.GetNamespace(), v.GetName())
			x.Routes = append(x.Routes, &candidate{
				Route: v.GetNamespace() + "/" + v.GetName(), Source: madeOf(v), Place: o.place, Host: v.GetHost(), Path: v.GetPath(), Exact: v.GetExact(),
				Termination: termination(v.GetTermination()), HTTP: "refused", HTTPS: "refused", Reason: v.GetReason(), Message: v.GetMessage(), shown: o.shown(),
			})
		}
	}
	if err := x.describe(ctx, ingressController, e, verdicts, httpRoute, httpsRoute); err != nil {
		return nil, err
	}
	routers, err := e.routers(ctx)
	if err != nil {
		return nil, err
	}
	x.Elsewhere = append([]*elsewhere{}, routers...)
	return x, nil
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

// describe adds the details of the Routes that answer.
func (x *explanation) describe(ctx context.Context, ingressController string, e evidence, verdicts []*tsujiv1.RouteVerdict, http, https *tsujiv1.Route) error {
	settings, err := e.resources(ctx, tsujiv1.SettingsName)
	if err != nil {
		return err
	}
	o := origins{ingressController: ingressController}
	if len(settings) > 0 {
		o.settings = settings[0].GetSettings()
	}
	if o.defaults, err = defaultSettings(ingressController); err != nil {
		return err
	}
	for _, at := range []struct {
		route  *tsujiv1.Route
		answer *answer
	}{{http, x.HTTP}, {https, x.HTTPS}} {
		r := at.route
		if r == nil {
			continue
		}
		i := slices.IndexFunc(x.Answers, func(d *details) bool { return d.Route == routeName(r) })
		if i < 0 {
			d, err := o.details(ctx, e, r, verdicts)
			if err != nil {
				return err
			}
			i, x.Answers = len(x.Answers), append(x.Answers, d)
		}
		if at.answer.Status == 0 && !x.Answers[i].takesTraffic() {
			at.answer.Status, at.answer.Text = 503, "503: Route "+routeName(r)+" has no endpoint that takes traffic"
		}
	}
	return nil
}

// defaultSettings are those of an IngressController that says nothing.
func defaultSettings(ingressController string) (*tsujiv1.Settings, error) {
	r := compile.New(compile.Config{IngressController: ingressController}).Apply(nil)
	i, ok := r.Config.Get(tsujiv1.SettingsName)
	if !ok {
		return nil, nil //nolint:nilnil // then nothing is known of them
	}
	res, err := tsujiv1.Decode(i)
	return res.GetSettings(), err
}

// one makes a snapshot of resources.
func one(resources []*tsujiv1.Resource) (snapshot.Snapshot, error) {
	var d snapshot.Delta
	for _, r := range resources {
		i, err := tsujiv1.Encode(r)
		if err != nil {
			return snapshot.Snapshot{}, err
		}
		d.Put = append(d.Put, i)
	}
	return snapshot.Snapshot{}.Apply(0, d), nil
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
			g.text("\n%s%s%s is refused: %s: %s", r.Route, ofSource(r.Source), r.shown, r.Reason, strings.ReplaceAll(r.Message, "\n", " "))
		}
	}
	for _, d := range x.Answers {
		d.table(g)
	}
}
