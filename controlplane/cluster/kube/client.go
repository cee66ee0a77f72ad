package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	configv1 "github.com/openshift/api/config/v1"
	operatorv1 "github.com/openshift/api/operator/v1"
	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/klog/v2"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

// node is a kind that is followed and not handed out: EndpointSlices get their zones from it.
const node cluster.Kind = "Node"

// How many requests a source may make, of which a watch is one, and as many again for objects that are referred to:
// what a thousand Secrets need in a few seconds, and what an API server that has just come back can take. Those for
// whole kinds never wait for the others.
const (
	requestsPerSecond = 200
	requestsAtOnce    = 400
	startsAtOnce      = 32 // watches of single objects that begin at the same time
)

// probeTimeout is how long the API server has to tell about its storage.
const probeTimeout = 10 * time.Second

// A client is a way to the API server.
type client struct {
	http      *http.Client
	host      string // as a person knows the API server
	namespace string
	reader    cluster.Reader
	resources map[cluster.Kind]resource
	// references limits the requests for single objects.
	references flowcontrol.RateLimiter
}

// A resource is how to list and watch the objects of a kind.
type resource struct {
	api      string         // its name in full, for a person
	example  runtime.Object // of what it consists of
	optional bool           // the API need not be there
	core     bool           // it is in the same storage as the namespaces, for sure
	list     func(ctx context.Context, namespace string, o metav1.ListOptions) (runtime.Object, error)
	watch    func(ctx context.Context, namespace string, o metav1.ListOptions) (apiwatch.Interface, error)
}

const (
	kubeSystem = metav1.NamespaceSystem // as old as the cluster, and cannot be deleted
	byName     = metav1.ObjectNameField
)

func newClient(c Config) (*client, error) {
	config := rest.CopyConfig(c.REST)
	version := c.Version
	if version == "" {
		version = "unknown"
	}
	config.UserAgent = "tsuji-controlplane/" + version
	config.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(requestsPerSecond, requestsAtOnce)
	config.WarningHandler = rest.NoWarnings{}
	config.Timeout = 0 // it would end watches
	h, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make an HTTP client: %w", err)
	}
	out := &client{
		http: h, host: config.Host, namespace: c.Namespace, reader: c.ExternalCertificateReader,
		resources:  map[cluster.Kind]resource{},
		references: flowcontrol.NewTokenBucketRateLimiter(requestsPerSecond, requestsAtOnce),
	}

	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Service{}, &corev1.ServiceList{}, &corev1.Secret{},
		&corev1.SecretList{},
		&corev1.ConfigMap{}, &corev1.ConfigMapList{}, &corev1.Namespace{}, &corev1.NamespaceList{})
	scheme.AddKnownTypes(discoveryv1.SchemeGroupVersion, &discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{})
	scheme.AddKnownTypes(networkingv1.SchemeGroupVersion, &networkingv1.Ingress{}, &networkingv1.IngressList{},
		&networkingv1.IngressClass{}, &networkingv1.IngressClassList{})
	scheme.AddKnownTypes(rbacv1.SchemeGroupVersion, &rbacv1.Role{}, &rbacv1.RoleList{}, &rbacv1.RoleBinding{},
		&rbacv1.RoleBindingList{},
		&rbacv1.ClusterRole{}, &rbacv1.ClusterRoleList{}, &rbacv1.ClusterRoleBinding{}, &rbacv1.ClusterRoleBindingList{})
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		return nil, fmt.Errorf("know the types of metadata: %w", err)
	}
	addLenient[routev1.Route](scheme, cluster.Route)
	addLenient[operatorv1.IngressController](scheme, cluster.IngressController)
	addLenient[configv1.Ingress](scheme, cluster.IngressConfig)
	addLenient[cluster.Zone](scheme, cluster.ZoneKind)
	for kind, r := range map[cluster.Kind]struct {
		plural   string
		example  runtime.Object
		core     bool
		optional bool
	}{
		cluster.Route: {"routes", &lenient[routev1.Route, *routev1.Route]{}, false, false},
		cluster.IngressController: {
			"ingresscontrollers", &lenient[operatorv1.IngressController, *operatorv1.IngressController]{}, false, true,
		},
		cluster.ZoneKind:           {"zones", &lenient[cluster.Zone, *cluster.Zone]{}, false, true},
		cluster.IngressConfig:      {"ingresses", &lenient[configv1.Ingress, *configv1.Ingress]{}, false, true},
		cluster.Service:            {"services", &corev1.Service{}, true, false},
		cluster.EndpointSlice:      {"endpointslices", &discoveryv1.EndpointSlice{}, true, false},
		cluster.Ingress:            {"ingresses", &networkingv1.Ingress{}, true, true},
		cluster.IngressClass:       {"ingressclasses", &networkingv1.IngressClass{}, true, true},
		cluster.Role:               {"roles", &rbacv1.Role{}, true, false},
		cluster.RoleBinding:        {"rolebindings", &rbacv1.RoleBinding{}, true, false},
		cluster.ClusterRole:        {"clusterroles", &rbacv1.ClusterRole{}, true, false},
		cluster.ClusterRoleBinding: {"clusterrolebindings", &rbacv1.ClusterRoleBinding{}, true, false},
		cluster.Secret:             {"secrets", &corev1.Secret{}, true, false},
		cluster.ConfigMap:          {"configmaps", &corev1.ConfigMap{}, true, false},
		cluster.Namespace:          {"namespaces", &corev1.Namespace{}, true, false},
		node:                       {"nodes", &metav1.PartialObjectMetadata{}, true, false},
	} {
		gv := kind.GroupVersionKind().GroupVersion()
		if kind == node {
			gv = corev1.SchemeGroupVersion
		}
		metav1.AddToGroupVersion(scheme, gv)
		rc := rest.CopyConfig(config)
		rc.GroupVersion, rc.APIPath = &gv, "/apis"
		if gv.Group == "" {
			rc.APIPath = "/api"
		}
		switch kind {
		case cluster.Secret, cluster.ConfigMap, cluster.IngressConfig:
			// Only where they are referred to: their feeds wait for their turn.
			rc.RateLimiter = flowcontrol.NewFakeAlwaysRateLimiter()
		default:
		}
		rc.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
		accept := []string{runtime.ContentTypeJSON}
		if r.core {
			accept = []string{runtime.ContentTypeProtobuf, runtime.ContentTypeJSON}
		}
		rc.ContentType = runtime.ContentTypeJSON
		api, err := rest.RESTClientForConfigAndClient(rc, h)
		if err != nil {
			return nil, fmt.Errorf("make a client for %s: %w", r.plural, err)
		}
		res := typed(api, r.plural, accept, runtime.NewParameterCodec(scheme))
		res.api, res.example, res.optional = gv.WithResource(r.plural).GroupResource().String(), r.example, r.optional
		res.core = r.core && kind != node
		out.resources[kind] = res
	}
	return out, nil
}

// typed returns a resource whose objects are decoded into types of their own. Failures are told at once: who
// asks again, and when, is for the feeds to say.
func typed(api *rest.RESTClient, plural string, accept []string, codec runtime.ParameterCodec) resource {
	get := func(namespace string, o *metav1.ListOptions, as string) *rest.Request {
		q := api.Get().Namespace(namespace).Resource(plural).VersionedParams(o, codec).MaxRetries(0)
		if plural == "nodes" { // they are large, and their metadata is enough
			return q.SetHeader("Accept", strings.Join(accept, as+",")+as)
		}
		return q.SetHeader("Accept", strings.Join(accept, ","))
	}
	return resource{
		list: func(ctx context.Context, namespace string, o metav1.ListOptions) (runtime.Object, error) {
			return get(namespace, &o, ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").Do(ctx).Get()
		},
		watch: func(ctx context.Context, namespace string, o metav1.ListOptions) (apiwatch.Interface, error) {
			o.Watch = true
			return get(namespace, &o, ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1").Watch(ctx)
		},
	}
}

// scope returns where to look for the objects of a kind: a namespace (empty: all), and a selector of fields
// (empty: none).
func (c *client) scope(kind cluster.Kind) (namespace, selector string) {
	switch kind {
	case cluster.IngressController:
		return cluster.ControllerNamespace, ""
	case cluster.Namespace:
		if c.namespace != "" {
			return "", fields.OneTermEqualSelector(byName, c.namespace).String()
		}
	case cluster.Route, cluster.Ingress, cluster.Service, cluster.EndpointSlice, cluster.Role, cluster.RoleBinding:
		return c.namespace, ""
	default: // what is in no namespace, or is named where it is referred to
	}
	return "", ""
}

// storage tells which cluster's storage the API server has, and its revision.
func (c *client) storage(ctx context.Context) (uid string, revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	// A list without a resourceVersion is as new as the storage, and tells its revision.
	o := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(byName, kubeSystem).String()}
	obj, err := c.resources[cluster.Namespace].list(ctx, "", o)
	if err != nil {
		return "", 0, fmt.Errorf("read namespace %s: %w", kubeSystem, err)
	}
	list, ok := obj.(*corev1.NamespaceList)
	if !ok || len(list.Items) != 1 {
		return "", 0, errNoSystem
	}
	return string(list.Items[0].UID), parseRevision(list.ResourceVersion), nil
}

// errNoSystem says that the API server has only begun to fill its storage.
var errNoSystem = errors.New("there is no namespace " + kubeSystem + " yet")

// parseRevision reads a resourceVersion, which is a number that grows with each change in the storage.
func parseRevision(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// logTo has client-go log to log. What a person should know is a [cluster.Fault], so it is for debugging only.
func (c *client) logTo(ctx context.Context, log *slog.Logger) context.Context {
	return klog.NewContext(ctx, logr.New(quiet{log.With("from", "client-go")}))
}

// quiet is a log of which nothing is more than debugging.
type quiet struct{ log *slog.Logger }

func (quiet) Init(logr.RuntimeInfo) {}

func (q quiet) Enabled(level int) bool {
	return level < 3 && q.log.Enabled(context.Background(), slog.LevelDebug)
}

func (q quiet) Info(_ int, message string, values ...any) { q.log.Debug(message, values...) }

func (q quiet) Error(err error, message string, values ...any) {
	q.log.Debug(message, append([]any{"error", err}, values...)...)
}

func (q quiet) WithValues(values ...any) logr.LogSink { return quiet{q.log.With(values...)} }

func (q quiet) WithName(name string) logr.LogSink { return quiet{q.log.With("logger", name)} }
