// Package kube follows the objects in a cluster's API.
//
// It guarantees what package cluster does of a source, through lost connections, revoked rights, APIs that come and go,
// and storage that is restored or replaced. No namespace can have others wait for its requests. It only lists and
// watches: who writes to the API is somewhere else.
//
// Beneath [Source] stand: an epoch, which is what was read of one storage (epoch.go); a feed for each kind, and for
// each Secret and ConfigMap that others refer to (feed.go, refs.go, shares.go); and what is kept of an object
// (strip.go, zones.go). All of it is guarded by Source.mu. A name that ends in Locked is for callers that hold it.
package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

// Config is what a Source needs.
type Config struct {
	// REST says where the API server is, and who we are: see LoadREST. It is copied.
	REST *rest.Config
	// Namespace restricts Routes, Services, EndpointSlices and Namespaces to those of one; empty: all.
	Namespace string
	// ExternalCertificateReader is the service account whose rights are followed: Roles, ClusterRoles and the
	// bindings of both to it, as far as they are about Secrets. Zero: none are.
	ExternalCertificateReader cluster.Reader
	// Version is this program's, for the user agent.
	Version string
	// Log is told of faults that appear and go.
	Log *slog.Logger
	// Now is the clock of faults; nil: time.Now.
	Now func() time.Time
}

// Validate returns everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	if c.REST == nil {
		errs = append(errs, errors.New("no API server"))
	}
	if c.Log == nil {
		errs = append(errs, errors.New("no logger"))
	}
	if c.Namespace != "" && len(validation.IsDNS1123Label(c.Namespace)) > 0 {
		errs = append(errs, fmt.Errorf("%q is no name of a namespace", c.Namespace))
	}
	return errors.Join(errs...)
}

// LoadREST says how to reach the API server: as the kubeconfig file at that path has it, or, if the path is
// empty, as a Pod of the cluster does.
func LoadREST(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		c, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("find the API server without a kubeconfig, as a Pod does: %w", err)
		}
		return c, nil
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}
	c, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
	}
	return c, nil
}

// timing is how long a Source waits for what.
type timing struct {
	retry, retryMax time.Duration // before asking again after a failure: the first time, and at most
	retryOne        time.Duration // the same for a single object, of which there may be thousands: at most
	forbidden       time.Duration // the same for one that may not be read: the first time,
	forbiddenMax    time.Duration // and at most
	absent          time.Duration // before asking again for an API that need not be there
	unreachable     time.Duration // before a failure that may pass by itself is a fault
	hold            time.Duration // for the objects that another refers to
	tick            time.Duration // between looks at what only time changes
}

func ordinary() timing {
	return timing{
		retry: 100 * time.Millisecond, retryMax: 2 * time.Second, retryOne: 10 * time.Second,
		forbidden: time.Second, forbiddenMax: 5 * time.Minute, absent: 10 * time.Second,
		unreachable: 2 * time.Second, hold: 10 * time.Second, tick: 500 * time.Millisecond,
	}
}

// Source is a cluster's API as a [cluster.Source].
//
// Objects are handed out without what no one reads: managed fields, the last applied configuration, status
// (but for an IngressController's domain), and more by kind. A change in that part of an object is none.
// EndpointSlices whose endpoints do not say their zone are handed out with that of the endpoint's node.
//
// Secrets and ConfigMaps are read when a Route, an Ingress of ours or an IngressController refers to them, each
// by itself. A Route, Ingress or IngressController that comes to refer to one is handed out with it, or once it is
// known that it cannot be had, or after ten seconds; until then it is as it was, which is the one way in which what
// Take returns may be older than another part of it. What may not be read is asked for less and less often, up to every
// five minutes. In one namespace the first 2,000 of them by name are watched; others are handed out as
// [cluster.Unread]. Namespaces take turns with requests for them, and the watches of whole kinds wait for none of
// these.
//
// It is not synced before every kind was read. The API of IngressControllers and that of Zones may be
// missing, then there are none; for the API of Routes it waits, unless there is an IngressClass of ours: then
// Ingresses are served, and Routes when their API comes. What was handed out stays when the API
// server is not to be reached, when an API vanishes, and when a right to read does. When the cluster comes
// back with other storage (etcd was wiped, or restored to an earlier state), nothing of it is handed out
// before all of it was read, and then in one batch, with an epoch of its own if the cluster is another.
//
// It needs the rights to list and watch: routes (route.openshift.io), ingresses and ingressclasses
// (networking.k8s.io), services, endpointslices (discovery.k8s.io), namespaces and nodes in the cluster; zones
// (tsuji.dev) where that API is installed; ingresscontrollers (operator.openshift.io) in namespace
// openshift-ingress-operator where that is; and secrets and configmaps, by name (resourceNames) if wanted, where they
// are referred to; and, if someone's right to read Secrets is to be followed, roles, rolebindings, clusterroles and
// clusterrolebindings (rbac.authorization.k8s.io) in the cluster. No other verbs. Restricted to a namespace, routes,
// ingresses, services and endpointslices in it, and of namespaces it and kube-system, which may be by resourceNames.
type Source struct {
	client  *client
	log     *slog.Logger
	now     func() time.Time
	timing  timing
	started atomic.Bool

	perNamespace     int           // see the constant
	starts, requests *turns        // of feeds of single objects
	slots            chan struct{} // an element for each of them that starts

	mu      sync.Mutex // guards what follows, and the epochs
	current *epoch     // what is handed out; nil: not synced
	reading *epoch     // what is followed: the current one, or the one to come
	faults  []cluster.Fault
	doubt   bool          // other things may be faults now
	fresh   bool          // Take has something new
	changed chan struct{} // closed when fresh

	replaced      *cluster.Fault // that the storage was replaced
	replacedUntil time.Time      // when that is old news; zero: not before it was read
}

var _ cluster.Source = (*Source)(nil)

// New returns a source that asks nothing of the API server before it is run.
func New(c Config) (*Source, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("Kubernetes source: %w", err) //nolint:staticcheck // a name
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	api, err := newClient(c)
	if err != nil {
		return nil, fmt.Errorf("make a client for the API server %s: %w", c.REST.Host, err)
	}
	return &Source{
		client: api, log: c.Log, now: c.Now, timing: ordinary(), changed: make(chan struct{}),
		perNamespace: perNamespace, starts: newTurns(), requests: newTurns(), slots: make(chan struct{}, startsAtOnce),
	}, nil
}

// String implements [cluster.Source].
func (k *Source) String() string {
	if k.client.namespace != "" {
		return "kube:" + k.client.namespace
	}
	return "kube"
}

// Changed implements [cluster.Source].
func (k *Source) Changed() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changed
}

// Take implements [cluster.Source]. An object that changed, and changed back, since the last Take did not change.
func (k *Source) Take() (cluster.Batch, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b := cluster.Batch{}
	if k.current != nil {
		b = k.current.takeLocked()
	}
	b.Faults = k.faults
	if k.fresh { // after take, which may signal what it takes
		k.fresh, k.changed = false, make(chan struct{})
	}
	return b, k.current != nil
}

// signalLocked says that Take has something new.
func (k *Source) signalLocked() {
	if !k.fresh {
		k.fresh = true
		close(k.changed)
	}
}

// Run implements [cluster.Source].
func (k *Source) Run(ctx context.Context) error {
	if k.started.Swap(true) {
		return fmt.Errorf("source %s: run twice", k)
	}
	defer utilnet.CloseIdleConnectionsFor(k.client.http.Transport)
	ctx = k.client.logTo(ctx, k.log)
	var beside sync.WaitGroup
	beside.Go(func() { k.tick(ctx) })
	beside.Go(func() { k.starts.run(ctx, k.slotFree) })
	beside.Go(func() { k.requests.run(ctx, k.client.references.Wait) })
	defer beside.Wait()
	for ctx.Err() == nil {
		newEpoch(k).run(ctx)
	}
	return nil
}

// slotFree waits until one more feed of a single object may start.
func (k *Source) slotFree(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err() //nolint:wrapcheck // nobody reads it
	case k.slots <- struct{}{}:
		return nil
	}
}

// tick looks, from time to time, at what only time changes, until ctx ends.
func (k *Source) tick(ctx context.Context) {
	t := time.NewTicker(k.timing.tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		k.mu.Lock()
		if k.reading != nil {
			k.reading.giveUpLocked()
			k.reading.resolveLocked() // an IngressClass may have come
		}
		if !k.replacedUntil.IsZero() && k.now().After(k.replacedUntil) {
			k.replaced, k.replacedUntil, k.doubt = nil, time.Time{}, true
		}
		if k.doubt {
			k.updateFaultsLocked()
		}
		k.mu.Unlock()
	}
}

// adoptLocked hands out what e has read from now on.
func (k *Source) adoptLocked(e *epoch) {
	had := map[cluster.Key]metav1.Object{}
	if old := k.current; old != nil {
		for kind, objects := range old.objects {
			for n, obj := range objects {
				had[cluster.Key{Kind: kind, Namespace: n.Namespace, Name: n.Name}] = obj
			}
		}
		maps.Copy(had, old.pending) // what was handed out of those that are not as they were handed out
		maps.Copy(e.served, old.served)
	}
	e.adopted = true
	for kind, objects := range e.objects {
		for n := range objects {
			key := cluster.Key{Kind: kind, Namespace: n.Namespace, Name: n.Name}
			e.pending[key] = had[key]
			delete(had, key)
		}
	}
	for key, obj := range had {
		if obj != nil {
			e.pending[key] = obj
		}
	}
	k.current = e
	if k.replaced != nil {
		k.replacedUntil = k.now().Add(replacedFor)
	}
	k.log.Info("the cluster was read", "source", k.String(), "server", k.client.host,
		"objects", len(e.pending), "took", k.now().Sub(e.began).Round(time.Millisecond))
	k.updateFaultsLocked()
	k.signalLocked()
}

// updateFaultsLocked finds out what the faults are now.
func (k *Source) updateFaultsLocked() {
	var faults []cluster.Fault
	k.doubt = false
	if k.reading != nil {
		faults, k.doubt = k.reading.faultsLocked()
	}
	if k.replaced != nil {
		faults = append(faults, *k.replaced)
	}
	for i := range faults {
		faults[i] = faults[i].Printable()
	}
	faults = slices.Compact(cluster.SortFaults(faults))
	if slices.Equal(faults, k.faults) {
		return
	}
	cluster.LogFaults(k.log, k.String(), k.faults, faults)
	k.faults = faults
	k.signalLocked()
}
