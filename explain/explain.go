// Package explain tells which Route answers a request, why no other does, and where each option of it came from.
//
// It is a function of what it is given: the resources of one version, and the compiler's verdicts. What answers is not
// decided here: render's own maps say it, and the servers are those that render makes. So an explanation and HAProxy
// differ only where HAProxy and its maps do.
//
// Do not assume that it knows clients: limits and allowed addresses are listed, not applied. Do not assume that the
// sentences stay: they are for people.
package explain

import (
	"slices"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// Request is what a router chooses the Route by.
type Request struct {
	Host string // in lower case, without port and final dot
	Path string // as it travels; it begins with "/"
}

// Input is what an explanation rests on: one version of an IngressController's resources, and what is known of the
// objects that they were made of.
type Input struct {
	IngressController string
	Verdicts          []*tsujiv1.RouteVerdict // on every Route, refused ones too

	// Routes are all resources of admitted Routes.
	Routes []*tsujiv1.Resource

	// Resource returns another resource of the version by its name; nil: there is none.
	Resource func(name string) (*tsujiv1.Resource, error)

	// Object returns what only the Route itself tells; zero: it is not known.
	Object func(namespace, name string) Object
}

// Object is what a Route tells that verdicts and resources do not.
type Object struct {
	Place   string    // file and line
	Created time.Time // zero: it does not say
}

// Explanation is about one request. Others read it as JSON: fields are not renamed.
type Explanation struct {
	Host    string       `json:"host"`
	Path    string       `json:"path"`
	HTTP    *Answer      `json:"http"`
	HTTPS   *Answer      `json:"https"`
	Routes  []*Candidate `json:"routes"`  // all that ask for the host
	Answers []*Details   `json:"answers"` // of the Routes that answer
}

// Explain explains a request. It fails with Input's functions, or for a Route that render does not take.
func Explain(q Request, in Input) (*Explanation, error) {
	r, err := renderer()
	if err != nil {
		return nil, err
	}
	s, err := snapshotOf(near(q.Host, in.Routes))
	if err != nil {
		return nil, err
	}
	if _, err := r.Apply(snapshot.Diff(snapshot.Snapshot{}, s)); err != nil {
		return nil, err
	}
	l := r.Lookup(q.Host, q.Path)
	x := &Explanation{
		Host: q.Host, Path: q.Path, HTTP: plainHTTP(q, l), HTTPS: overTLS(l),
		Routes: candidates(q, l, in), Answers: []*Details{},
	}
	if err := x.describe(in, l); err != nil {
		return nil, err
	}
	return x, nil
}

// candidates returns all Routes that ask for the host: those on it, those on the wildcard above, those refused.
func candidates(q Request, l render.Lookup, in Input) []*Candidate {
	sources := map[string]string{}
	for _, v := range in.Verdicts {
		sources[v.GetNamespace()+"/"+v.GetName()] = MadeOf(v)
	}
	list := []*Candidate{}
	for _, c := range l.Claims {
		r := c.Route
		o := in.Object(r.GetNamespace(), r.GetName())
		list = append(list, &Candidate{
			Route: routeName(r), Source: sources[routeName(r)], Place: o.Place, Host: shownHost(r), Path: r.GetPath(),
			Exact: r.GetExact(), Termination: Termination(r.GetTermination()), Admitted: true,
			HTTP: whyHTTP(c, l.HTTP), HTTPS: whyHTTPS(c, l.HTTPS), Object: o,
		})
	}
	for _, v := range in.Verdicts {
		if !refusedRival(q, v) {
			continue
		}
		o := in.Object(v.GetNamespace(), v.GetName())
		list = append(list, &Candidate{
			Route: v.GetNamespace() + "/" + v.GetName(), Source: MadeOf(v), Place: o.Place, Host: v.GetHost(), Path: v.GetPath(),
			Exact: v.GetExact(), Termination: Termination(v.GetTermination()), HTTP: "refused", HTTPS: "refused",
			Reason: v.GetReason(), Message: v.GetMessage(), Object: o,
		})
	}
	return list
}

// describe adds the details of the Routes that answer.
func (x *Explanation) describe(in Input, l render.Lookup) error {
	settings, err := in.Resource(tsujiv1.SettingsName)
	if err != nil {
		return err
	}
	o := origins{ingressController: in.IngressController, settings: settings.GetSettings()}
	if o.defaults, err = defaultSettings(in.IngressController); err != nil {
		return err
	}
	for _, at := range []struct {
		claim  *render.Claim
		answer *Answer
	}{{l.HTTP, x.HTTP}, {l.HTTPS, x.HTTPS}} {
		if at.claim == nil {
			continue
		}
		name := routeName(at.claim.Route)
		i := slices.IndexFunc(x.Answers, func(d *Details) bool { return d.Route == name })
		if i < 0 {
			d, err := o.details(in, at.claim)
			if err != nil {
				return err
			}
			i, x.Answers = len(x.Answers), append(x.Answers, d)
		}
		if at.answer.Status == 0 && !x.Answers[i].takesTraffic() {
			at.answer.Status, at.answer.Text = 503, "503: Route "+name+" has no endpoint that takes traffic"
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

// near returns the Routes whose host is the one that is asked for or stands beside it: no other can answer. What render
// makes of others is not asked, and a fault of theirs is not this request's.
func near(host string, routes []*tsujiv1.Resource) []*tsujiv1.Resource {
	var list []*tsujiv1.Resource
	for _, r := range routes {
		if h := r.GetRoute().GetHost(); h == host || parentDomain(h) == parentDomain(host) {
			list = append(list, r)
		}
	}
	return list
}

// renderer returns one of the empty snapshot. Where it listens is of no matter here.
func renderer() (*render.Renderer, error) {
	return render.New(render.Options{HTTP: []string{":80"}, Stats: []string{":1936"}})
}

func snapshotOf(resources []*tsujiv1.Resource) (snapshot.Snapshot, error) {
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
