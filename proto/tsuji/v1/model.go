// Package tsujiv1 is the one model of Tsuji: the resources that the control plane compiles, that travel
// over delta xDS to every routerd, and that the inspection services show.
//
// The messages are generated from the .proto files beside it, which say what each field means. By hand
// are the names of resources, their encoding, and the redaction of private keys.
package tsujiv1

import (
	"cmp"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/tsuji-dev/tsuji/snapshot"
)

// TypeURL is the one type that discovery serves.
const TypeURL = "type.googleapis.com/tsuji.v1.Resource"

// Names of the resources that there is one of.
const (
	SettingsName = "settings"
	CommitName   = "commit"
)

// FeatureExactPath is required of a router by a Route whose path is exact.
const FeatureExactPath = "exact-path"

// FeatureHeaderEscape is required by what writes a header with escapes into another.
const FeatureHeaderEscape = "header-escape"

// Features are those that the routers of this release have.
func Features() []string { return []string{FeatureExactPath, FeatureHeaderEscape} }

// AnyPort is the port of an Endpoints resource for routes that name no target port.
const AnyPort = "*"

// CertificateSource is what a Certificate was made from.
type CertificateSource string

// The sources of certificates.
const (
	FromRoute         CertificateSource = "route"          // spec.tls of a Route
	FromSecret        CertificateSource = "secret"         // a Secret of type kubernetes.io/tls
	FromDestinationCA CertificateSource = "destination-ca" // spec.tls.destinationCACertificate of a Route
	FromConfigMap     CertificateSource = "configmap"      // a CA bundle in a ConfigMap
)

// RouteName returns "route/<namespace>/<name>".
func RouteName(namespace, name string) string { return "route/" + namespace + "/" + name }

// EndpointsName returns "endpoints/<namespace>/<service>/<port>".
func EndpointsName(namespace, service, port string) string {
	return "endpoints/" + namespace + "/" + service + "/" + port
}

// CertificateName returns "cert/<namespace>/<source>:<name>".
func CertificateName(namespace string, source CertificateSource, name string) string {
	return "cert/" + namespace + "/" + string(source) + ":" + name
}

// NamespaceOf returns the namespace in a resource's name; empty: it is in none.
func NamespaceOf(name string) string {
	kind, rest, _ := strings.Cut(name, "/")
	namespace, _, ok := strings.Cut(rest, "/")
	if !ok || kind != "route" && kind != "endpoints" && kind != "cert" {
		return ""
	}
	return namespace
}

// Encode marshals a resource, always in the same way, into an item of a snapshot.
func Encode(r *Resource) (snapshot.Item, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return snapshot.Item{}, fmt.Errorf("encode resource %s: %w", r.GetName(), err)
	}
	return snapshot.NewItem(r.GetName(), b), nil
}

// Decode reads what Encode wrote. It checks that the resource has the item's name, a kind, and that the
// name is one of that kind.
func Decode(i snapshot.Item) (*Resource, error) {
	r := &Resource{}
	if err := proto.Unmarshal(i.Encoded(), r); err != nil {
		return nil, fmt.Errorf("decode resource %s: %w", i.Name(), err)
	}
	if r.GetName() != i.Name() {
		return nil, fmt.Errorf("decode resource %s: it is named %q inside", i.Name(), r.GetName())
	}
	if want := r.kindOfName(); want == "" || want != r.KindName() {
		return nil, fmt.Errorf("decode resource %s: the name is not one of a %s", i.Name(), r.KindName())
	}
	return r, nil
}

// KindName returns "Settings", "Route", "Endpoints", "Certificate" or "Commit"; "unknown" for a kind that
// this build does not know.
func (x *Resource) KindName() string {
	switch x.GetKind().(type) {
	case *Resource_Settings:
		return "Settings"
	case *Resource_Route:
		return "Route"
	case *Resource_Endpoints:
		return "Endpoints"
	case *Resource_Certificate:
		return "Certificate"
	case *Resource_Commit:
		return "Commit"
	default:
		return "unknown"
	}
}

func (x *Resource) kindOfName() string {
	first, rest, _ := strings.Cut(x.GetName(), "/")
	switch {
	case x.GetName() == SettingsName:
		return "Settings"
	case x.GetName() == CommitName:
		return "Commit"
	case rest == "":
		return ""
	case first == "route":
		return "Route"
	case first == "endpoints":
		return "Endpoints"
	case first == "cert":
		return "Certificate"
	default:
		return ""
	}
}

// defaultConnections is OpenShift's default of maxConnections.
const defaultConnections = 50_000

// Connections returns how many connections a router should take; zero: as many as its file descriptors allow.
func (s *Settings) Connections() uint32 {
	if s.GetTuning().GetAutoMaxConnections() {
		return 0
	}
	return cmp.Or(s.GetTuning().GetMaxConnections(), defaultConnections)
}
