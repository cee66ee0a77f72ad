package subscribe

import (
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// wildcard subscribes to everything in the router's view.
const wildcard = "*"

// hello returns a stream's first request: who this is, and what is in force.
func (s *session) hello() *discovery.DeltaDiscoveryRequest {
	c := s.c.conf
	metadata := map[string]*structpb.Value{
		"instance":        structpb.NewStringValue(c.Instance),
		"routerd_version": structpb.NewStringValue(c.RouterdVersion),
		"haproxy_version": structpb.NewStringValue(c.HAProxyVersion),
	}
	if c.BackendsByReload {
		metadata["runtime_backends"] = structpb.NewStringValue("false")
	}
	if c.MostConnections > 0 {
		metadata["max_connections"] = structpb.NewStringValue(strconv.FormatUint(uint64(c.MostConnections), 10))
	}
	r := &discovery.DeltaDiscoveryRequest{
		Node: &corev3.Node{
			Id:       c.Name,
			Cluster:  c.IngressController,
			Locality: &corev3.Locality{Zone: c.Zone},
			Metadata: &structpb.Struct{Fields: metadata},
		},
		TypeUrl:                tsujiv1.TypeURL,
		ResourceNamesSubscribe: []string{wildcard},
	}
	inForce, ok := c.Applier.InForce()
	if !ok || s.resync {
		return r
	}
	r.InitialResourceVersions = map[string]string{tsujiv1.CommitName: inForce.Version().String()}
	if o := s.c.observedOf(inForce.Version()); o != nil {
		metadata["observed"] = observedValue(o)
	}
	return r
}

// observedValue writes {"epoch": "…", "kinds": {"Route": "123"}}. Revisions are strings, for a number in a
// Struct has 53 bits only.
func observedValue(o *tsujiv1.Observed) *structpb.Value {
	kinds := map[string]*structpb.Value{}
	for _, k := range o.GetKinds() {
		kinds[k.GetKind()] = structpb.NewStringValue(strconv.FormatUint(k.GetRevision(), 10))
	}
	return structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
		"epoch": structpb.NewStringValue(o.GetEpoch()),
		"kinds": structpb.NewStructValue(&structpb.Struct{Fields: kinds}),
	}})
}

// answer returns the ack of a response, or with a refusal its nack.
func answer(nonce string, refusal *tsujiv1.Refusal) *discovery.DeltaDiscoveryRequest {
	r := &discovery.DeltaDiscoveryRequest{TypeUrl: tsujiv1.TypeURL, ResponseNonce: nonce}
	if refusal == nil {
		return r
	}
	code := codes.Unavailable
	switch refusal.GetClass() {
	case tsujiv1.RefusalClass_REFUSAL_CLASS_CONTENT:
		code = codes.InvalidArgument
	case tsujiv1.RefusalClass_REFUSAL_CLASS_UNSUPPORTED:
		code = codes.Unimplemented
	default: // LOCAL, and what has no class
	}
	r.ErrorDetail = &spb.Status{Code: int32(code), Message: refusal.GetMessage()}
	if detail, err := anypb.New(refusal); err == nil {
		r.ErrorDetail.Details = []*anypb.Any{detail}
	}
	return r
}

// Limits of what a nack says. A control plane takes 384 KiB.
const (
	maxRefused = 100  // resources
	maxText    = 1000 // bytes of a message, or a name
)

// bounded returns a refusal that can be sent: with the version, not too long, and in valid UTF-8, for what
// HAProxy says may be neither.
func bounded(r *tsujiv1.Refusal, v snapshot.Version) *tsujiv1.Refusal {
	r = proto.CloneOf(r)
	if r.GetClass() == tsujiv1.RefusalClass_REFUSAL_CLASS_UNSPECIFIED {
		r.Class = tsujiv1.RefusalClass_REFUSAL_CLASS_LOCAL
	}
	r.Version, r.Message = v.String(), text(r.GetMessage())
	if len(r.Resources) > maxRefused {
		r.Resources = r.Resources[:maxRefused]
	}
	for _, res := range r.Resources {
		res.Resource, res.Message = text(res.GetResource()), text(res.GetMessage())
	}
	return r
}

// maxInForce bounds what a nack brings of what is in force, in bytes.
const maxInForce = 128 << 10

// tellInForce adds what this router has in force in place of what it refuses. A control plane that has just started
// knows by it what was good. Facts are told by their digests only: certificates have private keys.
func tellInForce(r *tsujiv1.Refusal, inForce snapshot.Snapshot) {
	left := maxInForce
	for _, res := range r.GetResources() {
		i, ok := inForce.Get(res.GetResource())
		if !ok {
			continue
		}
		d := i.Digest()
		res.InForceDigest = d[:]
		if n := len(i.Encoded()); snapshot.PartOf(i.Name()) == snapshot.Config && n <= left {
			res.InForce = i.Encoded()
			left -= n
		}
	}
}

func text(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxText)], "?")
}
