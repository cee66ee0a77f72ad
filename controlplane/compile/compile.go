// Package compile turns Kubernetes objects into the resources of a snapshot, with a verdict on each Route.
//
// It guarantees that its result is a function of the set of objects and of what is [Kept]: the order and the number
// of changes that led there do not matter, nor does anything else that was there before; there is no clock in it, no goroutine, no
// environment, no file and no log. With [Config.Most] that holds once nothing is left for later ([Result.Later]); until
// then new Routes are missing from it, with what only they refer to. What one change costs depends on what the change touches: an
// EndpointSlice its Service's Endpoints, a Route itself and those that compete with it for a host. Equal
// objects leave equal digests and no verdicts. Every string in a resource has passed an allow list. A
// Route that cannot be served is left out, alone, and its verdict tells the owner why, with the reasons
// that OpenShift's router gives. What is wrong with the IngressController is a fault, and closes rather than
// opens. Notices alone are not of what there is, but of what happened.
//
// Do not assume that what a resource refers to has content: Endpoints may be empty. Do not assume that a
// certificate is still valid in time: an expired one is served, and it is for clients to refuse it.
package compile

import (
	"fmt"
	"maps"
	"slices"

	configv1 "github.com/openshift/api/config/v1"
	operatorv1 "github.com/openshift/api/operator/v1"
	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// Config is what a Compiler is made of.
type Config struct {
	// IngressController is the name of the IngressController to compile for; empty: "default". The
	// object itself may be absent: then every setting has its default. It goes into resources as it
	// is: call Validate on a name that comes from outside.
	IngressController string
	// AllowLoopbackEndpoints lets endpoints have loopback addresses: for a source on the same machine.
	AllowLoopbackEndpoints bool
	// ExternalCertificateReader is the service account that must be allowed to read the Secrets that Routes
	// name as their certificates, by Roles and bindings among the objects. Zero: that is not looked at.
	ExternalCertificateReader cluster.Reader
	// Kept is what another compiler for the IngressController kept; zero: nothing. It ends for Routes that are not in the
	// first Apply.
	Kept Kept
	// Most is how many Routes that are not served yet one Apply looks at, but for the first and for those that come in
	// another's place; one with thousands of endpoints counts as many. Zero: all. See [Result.Later].
	Most int
}

// Validate reports what is wrong with the configuration.
func (c Config) Validate() error {
	if c.IngressController != "" && len(validation.IsDNS1123Subdomain(c.IngressController)) > 0 {
		return fmt.Errorf("ingress controller %s: want lower-case letters, digits, '-' and '.', as in an object's name",
			quoted(c.IngressController))
	}
	return nil
}

// Result is the whole state after Apply, and what is new in it.
type Result struct {
	// Config and Facts are the whole state now. They share what did not change with the result before.
	Config, Facts snapshot.Set
	// Verdicts are those that are new or different since the last Apply, by namespace and name.
	Verdicts []*tsujiv1.RouteVerdict
	// Faults are what is wrong with the IngressController now, all of it: what is said there is not in
	// force, and everything else is.
	Faults []cluster.Fault
	// Notices are what happened since the last Apply to Secrets that Routes have their certificates from, by
	// namespace and name of the Route. They tell of changes: what is there now, Verdicts tell.
	Notices []Notice
	// Ended are the names in [Holds] of what needs to be held no more, because it is gone or compiles to other content
	// than was refused.
	Ended []string
	// Removed are the Routes that had a verdict and have none any more, because they are gone or are
	// not this IngressController's any more, by namespace and name.
	Removed []cluster.Key
	// Later is how many new Routes there are that the next Apply looks at, whatever changes come with it: nothing is said of
	// them yet, and Config lacks them.
	Later int
	// SharedHosts tells whether Routes of different namespaces may share a host.
	SharedHosts bool
}

// Compiler compiles for one IngressController. One goroutine owns it.
type Compiler struct {
	ingressController string
	allowLoopback     bool

	objects    objects
	claims     claims
	ingresses  ingresses
	refs       refs                               // who refers to shared facts, by count
	servers    servers                            // what namespaces cost a router
	compiled   map[endpointsRef]compiledEndpoints // in this Apply
	crypto     *crypto
	access     access
	holds      Holds
	rehold     rehold
	most       int                 // new routes in one Apply; zero: all
	later      map[id]*route       // new routes whose content is looked at in another
	waits      map[string]int      // by namespace: Applies in a row that left all new routes of it for later
	heldRoutes map[id]*route       // those whose good content refers to other things than their object does
	holding    map[string]struct{} // what of the holds by name is in force

	policy             policy // what the IngressController says about which Routes are admitted
	kept               Kept   // what it and Routes refer to, as it was when it was last good
	keeps              keeps
	serviceCA          serviceCAState
	serviceCAUsed      bool         // whether a Route would be verified with it
	defaultCertificate id           // the Secret that it names; zero: none
	settingsMaps       [2]id        // the ConfigMaps that it names: error pages and the CA of clients; zero: none
	settingsRefs       [2]id        // the Secret and the ConfigMap that the Settings which are published refer to
	hsts               []hstsPolicy // what the HSTS headers of Routes must say
	hstsFaults         []string     // what is wrong with that
	faults             []cluster.Fault
	notices            []Notice // of this Apply
	config, facts      snapshot.Set
	started            bool // whether Apply ran once
}

// New makes a compiler that has seen no objects.
func New(c Config) *Compiler {
	if c.IngressController == "" {
		c.IngressController = defaultIngressController
	}
	return &Compiler{
		ingressController: c.IngressController,
		allowLoopback:     c.AllowLoopbackEndpoints,
		objects:           newObjects(),
		claims:            newClaims(),
		ingresses:         newIngresses(),
		refs:              newRefs(),
		servers:           newServers(),
		compiled:          map[endpointsRef]compiledEndpoints{},
		crypto:            newCrypto(),
		rehold:            newRehold(),
		most:              c.Most,
		heldRoutes:        map[id]*route{},
		holding:           map[string]struct{}{},
		access:            newAccess(c.ExternalCertificateReader),
		policy:            policyOf(nil),
		kept:              c.Kept,
		keeps:             newKeeps(),
	}
}

// dirty is what one Apply has to look at again.
type dirty struct {
	standing map[id]*route // Routes whose standing may differ: selection, host, claim
	content  map[id]*route // Routes whose content may compile differently
	services map[id]struct{}
	// Secrets and ConfigMaps whose Certificates may differ.
	secrets, configMaps map[id]struct{}
	ingresses           map[id]struct{} // Ingresses to translate again
	endpoints           map[endpointsRef]struct{}
	counted             map[endpointsRef]struct{} // Endpoints that have more Routes than before, or fewer
	access              map[string]struct{}       // namespaces in which the right to read Secrets may differ; empty: all
	settings            bool
	serviceCA           bool // the cluster's own CA may be another
}

func newDirty() *dirty {
	return &dirty{
		standing: map[id]*route{}, content: map[id]*route{},
		services: map[id]struct{}{}, secrets: map[id]struct{}{}, configMaps: map[id]struct{}{}, ingresses: map[id]struct{}{},
		endpoints: map[endpointsRef]struct{}{}, counted: map[endpointsRef]struct{}{}, access: map[string]struct{}{},
	}
}

// Apply takes changes and returns the state with them. A key that comes twice counts as it came last.
func (c *Compiler) Apply(changes []cluster.Change) Result {
	d := newDirty()
	d.settings, d.serviceCA = !c.started, !c.started
	first := !c.started
	c.started = true
	c.notices = nil
	for _, ch := range changes {
		c.ingest(ch, d)
	}
	c.translate(d)
	c.markCrowded(d)
	if d.serviceCA {
		c.followServiceCA(d)
	}
	c.useServiceCA(d)
	c.markAccess(d)
	c.markHolds(d)
	c.promoteHeld(d)
	var g given
	for k, r := range d.standing {
		if had := r.claim; had != nil && r.lost == "" && c.published(r) {
			if c.stand(r); r.claim == nil || *r.claim != *had {
				g.add(had)
			}
		} else {
			c.stand(r)
		}
		d.content[k] = r
	}
	for _, r := range c.claims.settle(c.policy.strict) {
		if d.content[r.id] = r; r.lost != "" && c.published(r) {
			g.add(r.claim)
		}
	}
	if !first {
		c.putOff(d, &g)
	}

	var out output
	for _, k := range slices.SortedFunc(maps.Keys(d.content), compareID) {
		c.judge(d.content[k], d, &out)
	}
	c.allot(d, &out)
	if d.settings {
		c.compileSettings(d, &out)
	}
	c.compileSharedFacts(d, &out)
	clear(c.compiled)
	c.kept.routes = nil
	slices.SortStableFunc(c.notices, Notice.compare)
	c.config = out.config.applyTo(c.config)
	c.facts = out.facts.applyTo(c.facts)
	return Result{
		Config: c.config, Facts: c.facts, Verdicts: out.verdicts, Removed: out.removed,
		Faults: slices.Concat(c.faults, c.serviceCAFaults()), Notices: c.notices, Ended: c.ended(),
		Later: len(c.later), SharedHosts: !c.policy.strict,
	}
}

// ingest puts one change into the store, and marks what depends on it.
func (c *Compiler) ingest(ch cluster.Change, d *dirty) {
	k := id{Namespace: ch.Key.Namespace, Name: ch.Key.Name}
	o := &c.objects
	c.ingresses.put(ch, d)
	switch ch.Key.Kind {
	case cluster.Route:
		obj, _ := ch.Object.(*routev1.Route) // nil when it is gone, here and below
		c.putRoute(k, obj, d)
	case cluster.Service:
		obj, _ := ch.Object.(*corev1.Service)
		offer, endpoints := o.putService(k, obj)
		if offer {
			maps.Copy(d.content, o.routesByService[k])
		}
		if endpoints {
			d.services[k] = struct{}{}
		}
	case cluster.EndpointSlice:
		obj, _ := ch.Object.(*discoveryv1.EndpointSlice)
		for _, s := range o.putSlice(k, obj) {
			d.services[s] = struct{}{}
		}
	case cluster.Secret:
		c.notice(k, ch.Object)
		o.putSecret(k, ch.Object)
		d.secrets[k] = struct{}{}
		maps.Copy(d.content, o.routesBySecret[k])
		d.settings = d.settings || c.settingsSecret(k)
	case cluster.ConfigMap:
		o.putConfigMap(k, ch.Object)
		d.configMaps[k] = struct{}{}
		d.settings = d.settings || c.settingsConfigMap(k)
		if k == serviceCA {
			d.serviceCA = true
		}
	case cluster.Namespace:
		obj, _ := ch.Object.(*corev1.Namespace)
		put(o.namespaces, k.Name, obj)
		if c.policy.namespaces != nil {
			maps.Copy(d.standing, o.routesByNamespace[k.Name])
		}
		if selectsByNamespace(c.hsts) {
			maps.Copy(d.content, o.routesByNamespace[k.Name])
		}
	case cluster.IngressController:
		if k.Name != c.ingressController {
			return
		}
		obj, _ := ch.Object.(*operatorv1.IngressController)
		put(o.ingressControllers, k, obj)
		d.settings = true
		if p := policyOf(o.ingressController()); !p.equal(c.policy) {
			if p.strict != c.policy.strict {
				c.claims.reopen()
			}
			c.policy = p
			maps.Copy(d.standing, o.routes)
		}
	case cluster.IngressConfig:
		if k == ingressConfig {
			obj, _ := ch.Object.(*configv1.Ingress)
			c.changeIngressConfig(obj, d)
		}
	case cluster.Ingress, cluster.IngressClass:
		// c.ingresses knows them.
	case cluster.Role, cluster.RoleBinding, cluster.ClusterRole, cluster.ClusterRoleBinding:
		c.access.put(ch, d)
	case cluster.ZoneKind:
		// Nothing is compiled from these.
	}
}

// output collects what one Apply changes.
type output struct {
	config, facts edit
	verdicts      []*tsujiv1.RouteVerdict
	removed       []cluster.Key
}

// edit is resources to put into a set, and names to take out. No name is in both.
type edit struct {
	put    []snapshot.Item
	remove []string
}

// applyTo returns the set with the edit; the set itself where nothing would differ.
func (e edit) applyTo(s snapshot.Set) snapshot.Set {
	var d snapshot.Delta
	for _, i := range e.put {
		if old, ok := s.Get(i.Name()); !ok || old.Digest() != i.Digest() {
			d.Put = append(d.Put, i)
		}
	}
	for _, n := range e.remove {
		if _, ok := s.Get(n); ok {
			d.Removed = append(d.Removed, n)
		}
	}
	if len(d.Put) == 0 && len(d.Removed) == 0 {
		return s
	}
	return s.Apply(d)
}

// replace takes in what is decided anew: it counts, whatever was decided of the same names before.
func (e *edit) replace(anew edit) {
	names := make(map[string]struct{}, len(anew.put)+len(anew.remove))
	for _, i := range anew.put {
		names[i.Name()] = struct{}{}
	}
	for _, n := range anew.remove {
		names[n] = struct{}{}
	}
	e.put = slices.DeleteFunc(e.put, func(i snapshot.Item) bool {
		_, again := names[i.Name()]
		return again
	})
	e.remove = slices.DeleteFunc(e.remove, func(n string) bool {
		_, again := names[n]
		return again
	})
	e.put, e.remove = append(e.put, anew.put...), append(e.remove, anew.remove...)
}

// add adds a resource. It cannot fail for what compile makes: every string in it is valid UTF-8.
func (e *edit) add(r *tsujiv1.Resource) {
	if i, err := tsujiv1.Encode(r); err == nil {
		e.put = append(e.put, i)
	}
}
