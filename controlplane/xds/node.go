package xds

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tsuji-dev/tsuji/identity"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// wildcard is the only name that is subscribed to: everything in the view.
const wildcard = "*"

// maxText is the longest text that a node may say of itself, in bytes.
const maxText = 253

// maxKinds is how many kinds a node may say it has observed.
const maxKinds = 64

// hello is what a router says of itself in its first request.
type hello struct {
	claimed         identity.ID // from the node; the trust domain is that of the certificate
	instance        string
	routerdVersion  string
	haproxyVersion  string
	runtimeBackends string            // "false": it makes backends by reloads; else it does what its HAProxy can
	mostConnections uint32            // that its file descriptors allow; zero: not said
	observed        *tsujiv1.Observed // of what is in force there; nil: not said
	inForce         snapshot.Version  // zero: nothing is
	inForceText     string            // as the router spells it
	node            [sha256.Size]byte // digest of the node, whole
}

// readHello reads a stream's first request. Its error is a router's mistake, not a matter of rights.
func readHello(r *discovery.DeltaDiscoveryRequest) (hello, error) {
	if err := checkNames(r); err != nil {
		return hello{}, err
	}
	if r.GetResponseNonce() != "" || r.GetErrorDetail() != nil {
		return hello{}, fmt.Errorf("a stream's first request answers no response, but it has the nonce %.40q",
			r.GetResponseNonce())
	}
	var h hello
	initial := r.GetInitialResourceVersions()
	text, ok := initial[tsujiv1.CommitName]
	if len(initial) > 1 || len(initial) == 1 && !ok {
		return hello{}, fmt.Errorf("initial_resource_versions has %d names: only %q is known", len(initial),
			tsujiv1.CommitName)
	}
	if ok {
		v, err := snapshot.ParseVersion(text)
		if err != nil {
			return hello{}, fmt.Errorf("initial_resource_versions: %w", err)
		}
		if v.IsZero() {
			return hello{}, fmt.Errorf("initial_resource_versions: the version of %q is empty", tsujiv1.CommitName)
		}
		h.inForce, h.inForceText = v, text
	}
	if err := h.readNode(r.GetNode()); err != nil {
		return hello{}, err
	}
	h.node = digestOf(r.GetNode())
	return h, nil
}

// digestOf returns a digest by which a node is known again. What else there is in it, or in its metadata, is not held:
// a newer router may say more of itself than is known here.
func digestOf(n *corev3.Node) [sha256.Size]byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(n)
	if err != nil {
		return [sha256.Size]byte{} // it was decoded: it can be encoded
	}
	return sha256.Sum256(b)
}

// checkNames refuses whatever would have the subscription differ from "everything, of one type".
func checkNames(r *discovery.DeltaDiscoveryRequest) error {
	if r.GetTypeUrl() != tsujiv1.TypeURL {
		return fmt.Errorf("type URL %.200q: only %q is served", r.GetTypeUrl(), tsujiv1.TypeURL)
	}
	names := r.GetResourceNamesSubscribe()
	if len(names) > 1 || len(names) == 1 && names[0] != wildcard {
		return fmt.Errorf("a subscription to names (%.200q): only %q is served", names[0], wildcard)
	}
	if len(r.GetResourceNamesUnsubscribe()) > 0 {
		return fmt.Errorf("names are unsubscribed (%.200q): end the stream instead", r.GetResourceNamesUnsubscribe()[0])
	}
	if len(r.GetResourceLocatorsSubscribe())+len(r.GetResourceLocatorsUnsubscribe()) > 0 {
		return fmt.Errorf("resource locators are not served: subscribe to %q", wildcard)
	}
	return nil
}

func (h *hello) readNode(n *corev3.Node) error {
	if n == nil {
		return errors.New("the first request has no node")
	}
	h.claimed = identity.ID{
		Role:              identity.RoleRouter,
		IngressController: n.GetCluster(),
		Zone:              n.GetLocality().GetZone(),
		Name:              n.GetId(),
	}
	if h.claimed.Name == "" {
		return fmt.Errorf("node.id is empty: it is the router's name")
	}
	// The names of a node are held to what an identity's are: they go into logs, status and metrics.
	const anyDomain = "node"
	id := h.claimed
	id.TrustDomain = anyDomain
	if back, err := identity.Parse(id.String(), anyDomain); err != nil || back != id {
		return fmt.Errorf("node.id %.300q, cluster %.300q, locality.zone %.300q: want letters, digits, dots, dashes and underscores",
			id.Name, id.IngressController, id.Zone)
	}
	fields := n.GetMetadata().GetFields()
	for _, f := range []struct {
		name string
		to   *string
	}{{"instance", &h.instance}, {"routerd_version", &h.routerdVersion}, {"haproxy_version", &h.haproxyVersion},
		{"runtime_backends", &h.runtimeBackends}} {
		if err := readText(fields[f.name], f.to); err != nil {
			return fmt.Errorf("node.metadata.%s: %w", f.name, err)
		}
	}
	if m := fields["max_connections"]; m != nil {
		n, err := strconv.ParseUint(m.GetStringValue(), 10, 32)
		if err != nil {
			return fmt.Errorf("node.metadata.max_connections: %.40q is no number of connections", m.GetStringValue())
		}
		h.mostConnections = uint32(n)
	}
	if o := fields["observed"]; o != nil {
		var err error
		if h.observed, err = readObserved(o.GetStructValue()); err != nil {
			return fmt.Errorf("node.metadata.observed: %w", err)
		}
	}
	return nil
}

func readText(v *structpb.Value, to *string) error {
	*to = v.GetStringValue()
	if len(*to) > maxText {
		return fmt.Errorf("it has %d bytes: want at most %d", len(*to), maxText)
	}
	for _, r := range *to {
		if !strconv.IsPrint(r) {
			return fmt.Errorf("%.80q is not printable", *to)
		}
	}
	return nil
}

// readObserved reads {"epoch": "…", "kinds": {"Route": "123"}}. The revisions are decimal strings: a number
// in a Struct has 53 bits only.
func readObserved(s *structpb.Struct) (*tsujiv1.Observed, error) {
	o := &tsujiv1.Observed{}
	if err := readText(s.GetFields()["epoch"], &o.Epoch); err != nil {
		return nil, fmt.Errorf("epoch: %w", err)
	}
	kinds := s.GetFields()["kinds"].GetStructValue().GetFields()
	if len(kinds) > maxKinds {
		return nil, fmt.Errorf("it has %d kinds: want at most %d", len(kinds), maxKinds)
	}
	for kind, v := range kinds {
		n, err := strconv.ParseUint(v.GetStringValue(), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("the revision of %.80q is no decimal string", kind)
		}
		o.Kinds = append(o.Kinds, &tsujiv1.ObservedKind{Kind: kind, Revision: n})
	}
	return o, nil
}

// disagree tells in which fields a node differs from the certificate, and returns nothing if it does not.
func disagree(certificate, node identity.ID) string {
	switch {
	case certificate.IngressController != node.IngressController:
		return "node.cluster (routerd --ingress-controller) is another ingress controller than the certificate's"
	case certificate.Zone != node.Zone:
		return "node.locality.zone (routerd --zone) is another zone than the certificate's"
	case certificate.Name != "" && certificate.Name != node.Name:
		return "node.id (routerd --name) is another name than the certificate's"
	default:
		return ""
	}
}

// behind tells whether head has followed any kind less far than seen, in the same life of the source.
func behind(head, seen *tsujiv1.Observed) bool {
	if seen == nil || head.GetEpoch() != seen.GetEpoch() {
		return false
	}
	at := make(map[string]uint64, len(head.GetKinds()))
	for _, k := range head.GetKinds() {
		at[k.GetKind()] = k.GetRevision()
	}
	for _, k := range seen.GetKinds() {
		if at[k.GetKind()] < k.GetRevision() {
			return true
		}
	}
	return false
}
