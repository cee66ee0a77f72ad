// Package identity tells who is at the other end of a connection.
//
// It guarantees that an ID comes from the one URI name of a certificate that chains to the configured
// authority, and that such a name is read strictly: one spelling per identity, and nothing else passes.
// Certificates are read again when their files change, without a restart and without a moment in which
// neither the old nor the new ones are accepted.
//
// Do not assume that an ID gives rights: it says who, and controlplane/access says what who may do.
package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

// Role is what a peer is.
type Role string

// The roles.
const (
	RoleRouter       Role = "router"       // a routerd: spiffe://<trust domain>/ingress/<ingress controller>/zone/<zone>[/router/<name>]
	RoleOperator     Role = "operator"     // a person, or a person's tool: spiffe://<trust domain>/operator/<name>
	RoleControlPlane Role = "controlplane" // a replica of the control plane: spiffe://<trust domain>/controlplane/<name>
)

// maxSegment is the longest segment of an identity, in bytes: the longest name that Kubernetes gives.
const maxSegment = 253

// ID is an identity.
type ID struct {
	// TrustDomain is the domain in which the names below are unique: "tsuji.local".
	TrustDomain string
	// Role says which of the fields below are used.
	Role Role
	// IngressController is the one that a router serves; routers only.
	IngressController string
	// Zone is the one that a router stands in; routers only.
	Zone string
	// Name is the peer's own. Empty for a router whose certificate is shared by its whole zone.
	Name string
}

// String returns the identity as the URI that Parse reads.
func (i ID) String() string {
	s := "spiffe://" + i.TrustDomain
	switch i.Role {
	case RoleRouter:
		s += "/ingress/" + i.IngressController + "/zone/" + i.Zone
		if i.Name != "" {
			s += "/router/" + i.Name
		}
	case RoleOperator, RoleControlPlane:
		s += "/" + string(i.Role) + "/" + i.Name
	}
	return s
}

// errForm is the cause of every refusal for a name's form.
var errForm = errors.New("want spiffe://<trust domain>/ingress/<ingress controller>/zone/<zone>[/router/<name>], " +
	".../operator/<name> or .../controlplane/<name>, of letters, digits, dots, dashes and underscores")

// Parse reads what String wrote, of the given trust domain. It is strict: no port, user, query, fragment,
// percent encoding, empty segment or trailing slash, so that an identity has one spelling only.
func Parse(uri, trustDomain string) (ID, error) {
	if !segment(trustDomain) {
		return ID{}, fmt.Errorf("trust domain %.300q: want letters, digits, dots, dashes and underscores", trustDomain)
	}
	rest, ok := strings.CutPrefix(uri, "spiffe://")
	if !ok {
		return ID{}, fmt.Errorf("identity %.300q: %w", uri, errForm)
	}
	domain, path, ok := strings.Cut(rest, "/")
	if !ok {
		return ID{}, fmt.Errorf("identity %.300q: %w", uri, errForm)
	}
	if domain != trustDomain {
		return ID{}, fmt.Errorf("identity %.300q: it is not of the trust domain %q", uri, trustDomain)
	}
	// One more than the longest form has, so that a longer one is told apart.
	segments := strings.SplitN(path, "/", 7)
	for _, s := range segments {
		if !segment(s) {
			return ID{}, fmt.Errorf("identity %.300q: %w", uri, errForm)
		}
	}
	id := ID{TrustDomain: trustDomain}
	switch n := len(segments); {
	case n == 2 && (segments[0] == string(RoleOperator) || segments[0] == string(RoleControlPlane)):
		id.Role, id.Name = Role(segments[0]), segments[1]
	case (n == 4 || n == 6 && segments[4] == "router") && segments[0] == "ingress" && segments[2] == "zone":
		id.Role, id.IngressController, id.Zone = RoleRouter, segments[1], segments[3]
		if n == 6 {
			id.Name = segments[5]
		}
	default:
		return ID{}, fmt.Errorf("identity %.300q: %w", uri, errForm)
	}
	return id, nil
}

// FromCertificate returns the identity in the certificate's URI name, of which there must be exactly one, as it stands
// there. A CA's certificate has none: whoever may sign others could be anybody. It does not verify the certificate:
// whoever made the connection did.
func FromCertificate(c *x509.Certificate, trustDomain string) (ID, error) {
	if err := leaf(c); err != nil {
		return ID{}, err
	}
	names, err := uris(c)
	if err != nil {
		return ID{}, fmt.Errorf("certificate %q: %w", c.Subject, err)
	}
	if len(names) != 1 {
		return ID{}, fmt.Errorf("certificate %q has %d URI names: want exactly one", c.Subject, len(names))
	}
	id, err := Parse(names[0], trustDomain)
	if err != nil {
		return ID{}, fmt.Errorf("certificate %q: %w", c.Subject, err)
	}
	return id, nil
}

// leaf refuses a certificate that may sign others.
func leaf(c *x509.Certificate) error {
	if c.IsCA || c.KeyUsage&x509.KeyUsageCertSign != 0 {
		return fmt.Errorf("certificate %q is a CA's: show one that is not (basicConstraints CA:FALSE, no keyCertSign)",
			c.Subject)
	}
	return nil
}

// segment tells whether s may be a part of an identity. "." and ".." may not: they mean something else
// to whoever reads the identity as a path.
func segment(s string) bool {
	if s == "" || len(s) > maxSegment || s == "." || s == ".." {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}
