package render

import (
	"crypto/md5" //nolint:gosec // the names and values that OpenShift's router made; nothing rests on its strength
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// Server is one server of a backend: an address behind one of the route's Services.
type Server struct {
	// Name is what OpenShift's router calls it, without the brackets that HAProxy does not allow in a name:
	// pod:<pod>:<service>:<port name>:<address>:<port>, or ept:<service>:… with no Pod behind the address.
	Name string

	// ID is made from the name, so that hashing by id depends neither on the order nor on the history.
	ID uint32

	Address string // IPv4, or IPv6 without brackets
	Port    uint32
	Weight  int    // 0 to 256; 0: no new traffic, but sessions with its cookie go on
	Cookie  string // the value of the sticky cookie; empty in mode tcp

	// Params are the other keywords and their values, in HAProxy's words: "ssl", "verify", "required".
	// They are of this package's making and need no quotes.
	Params []string
}

// Line returns the server's line in a backend, without indentation or line end.
func (s Server) Line() string { return "server " + s.Name + " " + s.arguments() }

// AddCommand returns the command that adds the server to a backend at run time. HAProxy starts it in
// maintenance; and with health checks off, if it has Checked.
func (s Server) AddCommand(backend string) string {
	return "add server " + backend + "/" + s.Name + " " + s.arguments()
}

// Checked tells whether the server's health is checked.
func (s Server) Checked() bool { return slices.Contains(s.Params, "check") }

// HostPort returns address and port, an IPv6 address in brackets.
func (s Server) HostPort() string {
	port := strconv.FormatUint(uint64(s.Port), 10)
	if strings.Contains(s.Address, ":") {
		return "[" + s.Address + "]:" + port
	}
	return s.Address + ":" + port
}

// AddrPort returns address and port.
func (s Server) AddrPort() (netip.AddrPort, error) {
	a, err := netip.ParseAddr(s.Address)
	return netip.AddrPortFrom(a, uint16(s.Port)), err
}

func (s Server) arguments() string {
	var b strings.Builder
	b.WriteString(s.HostPort())
	b.WriteString(" id ")
	b.WriteString(strconv.FormatUint(uint64(s.ID), 10))
	if s.Cookie != "" {
		b.WriteString(" cookie " + s.Cookie)
	}
	b.WriteString(" weight ")
	b.WriteString(strconv.Itoa(s.Weight))
	for _, p := range s.Params {
		b.WriteString(" " + p)
	}
	return b.String()
}

// Equal tells whether two servers are the same in all that HAProxy is told of them.
func (s Server) Equal(o Server) bool {
	return s.Name == o.Name && s.Weight == o.Weight && s.ID == o.ID && s.Address == o.Address && s.Port == o.Port &&
		s.Cookie == o.Cookie && slices.Equal(s.Params, o.Params)
}

// endpoint is an address of a Service, validated.
type endpoint struct {
	name     string // the server's
	id       uint32 // what its ID should be, if that is free
	cookie   string
	address  string
	port     uint32
	draining bool // takes no new traffic
	idled    bool
	h2c      bool
}

// maxServerID bounds the ids of servers. HAProxy hashes by id times 4,096 in 32 bits: ids that differ
// only above the 20th bit would share every place on the ring, and one of the servers starve.
const maxServerID = 1<<20 - 1

// NextServerID returns the id to try where one is taken: a backend has none twice.
func NextServerID(id uint32) uint32 { return id%maxServerID + 1 }

// readEndpoints validates an Endpoints resource and keeps the addresses that may be used: those that are
// ready, and as draining those that end and still answer.
func readEndpoints(e *tsujiv1.Endpoints) ([]endpoint, error) {
	if err := checkObjectName("service", e.GetService()); err != nil {
		return nil, err
	}
	list := make([]endpoint, 0, len(e.GetEndpoints()))
	seen := make(map[string]bool, len(e.GetEndpoints()))
	for _, x := range e.GetEndpoints() {
		draining := !x.GetReady() && x.GetServing() && x.GetTerminating()
		a, err := netip.ParseAddr(x.GetAddress())
		if err != nil || a.Zone() != "" {
			return nil, refuse("address", x.GetAddress(), "an IP address")
		}
		if x.GetPort() == 0 || x.GetPort() > math.MaxUint16 {
			return nil, fmt.Errorf("port %d: want 1 to 65535", x.GetPort())
		}
		if err := checkServerPart("port name", x.GetPortName()); err != nil {
			return nil, err
		}
		if err := checkServerPart("target", x.GetTargetName()); err != nil {
			return nil, err
		}
		if !x.GetReady() && !draining && !x.GetIdled() {
			continue
		}
		name := fmt.Sprintf("ept:%s:%s:%s:%d", e.GetService(), x.GetPortName(), a, x.GetPort())
		if x.GetTargetKind() == "Pod" && x.GetTargetName() != "" {
			name = fmt.Sprintf("pod:%s:%s:%s:%s:%d", x.GetTargetName(), e.GetService(), x.GetPortName(), a, x.GetPort())
		}
		if seen[name] {
			continue
		}
		seen[name] = true
		sum := md5.Sum([]byte(name))
		list = append(list, endpoint{
			name: name, cookie: hex.EncodeToString(sum[:]), id: binary.BigEndian.Uint32(sum[:])%maxServerID + 1,
			address: a.String(), port: x.GetPort(), draining: draining, idled: x.GetIdled(),
			h2c: x.GetAppProtocol() == tsujiv1.AppProtocol_APP_PROTOCOL_H2C,
		})
	}
	return list, nil
}

// part is one Service of a route: its weight and what is behind it.
type part struct {
	service   string
	weight    uint32
	endpoints []endpoint
}

// active returns how many of a part's endpoints take new traffic.
func (p part) active() int {
	n := 0
	for _, e := range p.endpoints {
		if !e.draining {
			n++
		}
	}
	return n
}

// weights returns the weight of each endpoint of each part.
//
// OpenShift's router (calculateServiceWeights): with one Service that takes traffic its endpoints weigh 1.
// With several each endpoint has its share of the Service's weight, scaled so that the largest is 256, in
// 32-bit floating point, cut off, and at least 1 where there is any share. Endpoints that are draining do
// not count there, and weigh 0.
func weights(parts []part) []int {
	w := make([]int, len(parts))
	taking := 0
	for i, p := range parts {
		if p.active() > 0 && p.weight > 0 {
			w[i] = 1
			taking++
		}
	}
	if taking == 1 {
		return w
	}
	share := make([]float32, len(parts))
	var largest, scale float32
	for i, p := range parts {
		if n := p.active(); n > 0 {
			share[i] = float32(p.weight) / float32(n)
			largest = max(largest, share[i])
		}
	}
	if largest > 0 {
		scale = 256 / largest
	}
	for i := range parts {
		w[i] = int(int32(share[i] * scale))
		if share[i] > 0 && w[i] < 1 {
			w[i] = 1
		}
	}
	return w
}

// facts are what a route's servers depend on besides its spec.
type facts struct {
	endpoints func(resource string) []endpoint
	ca        func(resource string) (path string, ok bool)
	policy    tsujiv1.ForwardedPolicy // never unspecified
	names     bool                    // the Settings list header names
	http2     bool
	version   Version
}

// factsOf returns what the Settings say.
func factsOf(s *tsujiv1.Settings, v Version) facts {
	f := facts{
		policy: s.GetHeaders().GetForwarded(), names: len(s.GetHeaders().GetCaseAdjustments()) > 0,
		http2: s.GetHttp2(), version: v,
	}
	if f.policy == tsujiv1.ForwardedPolicy_FORWARDED_POLICY_UNSPECIFIED {
		f.policy = tsujiv1.ForwardedPolicy_FORWARDED_POLICY_APPEND
	}
	return f
}

// resolve chooses the profile, and makes the backend.
func (r *route) resolve(f facts) {
	r.profile = r.wanted
	if !r.profile.tcp && r.profile.policy == tsujiv1.ForwardedPolicy_FORWARDED_POLICY_UNSPECIFIED {
		r.profile.policy = f.policy
	}
	r.profile.names = r.profile.names && f.names
	b := &Backend{Name: r.backend, Profile: r.profile.name(), Cookie: r.cookie}
	b.Servers, r.caFile = r.makeServers(f)
	r.rendered = b
}

// makeServers makes the backend's servers: by Service, and there as the Endpoints resource has them. A
// route whose endpoints must be verified but whose CA certificates are not there has none: it answers 503.
func (r *route) makeServers(f facts) (servers []Server, caFile string) {
	if r.verified() {
		var ok bool
		if caFile, ok = f.ca(r.spec.GetDestinationTls().GetCa()); !ok {
			r.checkable = 0
			return nil, ""
		}
	}
	tls := r.tlsParams(f, caFile)
	parts := r.parts(f)
	w := weights(parts)
	names, ids := map[string]bool{}, map[uint32]bool{}
	r.checkable = 0
	for i, p := range parts {
		if r.passthrough() && p.weight == 0 {
			continue // no cookie leads there
		}
		for _, e := range p.endpoints {
			if names[e.name] {
				continue
			}
			names[e.name] = true
			s := Server{Name: e.name, ID: e.id, Address: e.address, Port: e.port, Weight: w[i]}
			for ids[s.ID] {
				s.ID = NextServerID(s.ID)
			}
			ids[s.ID] = true
			if e.draining {
				s.Weight = 0
			}
			if !r.passthrough() {
				s.Cookie = e.cookie
			}
			if !e.idled {
				r.checkable++
			}
			s.Params = r.serverParams(tls, p, e)
			servers = append(servers, s)
		}
	}
	return servers, caFile
}

// verified tells whether the certificates of endpoints are verified.
func (r *route) verified() bool {
	return r.spec.GetTermination() == tsujiv1.Termination_TERMINATION_REENCRYPT && r.spec.GetDestinationTls().GetVerify()
}

// parts returns the Services by name. One that is named twice has the weight that came last.
func (r *route) parts(f facts) []part {
	var parts []part
	for _, ref := range r.spec.GetBackends() {
		p := part{service: ref.GetService(), weight: ref.GetWeight(), endpoints: f.endpoints(ref.GetEndpoints())}
		i := slices.IndexFunc(parts, func(o part) bool { return o.service == p.service })
		if i >= 0 {
			parts[i] = p
			continue
		}
		parts = append(parts, p)
	}
	slices.SortFunc(parts, func(a, b part) int { return strings.Compare(a.service, b.service) })
	return parts
}

// tlsParams returns what every server of a reencrypt route says of TLS.
//
// As in OpenShift's router no server name is sent, and the certificate's name matters only where the
// Route has no CA of its own. HAProxy 3.3 and later would take both from the Host header: no-sni-auto.
func (r *route) tlsParams(f facts, caFile string) []string {
	if r.spec.GetTermination() != tsujiv1.Termination_TERMINATION_REENCRYPT {
		return nil
	}
	params := []string{"ssl"}
	if f.version.AtLeast(3, 3) {
		params = append(params, "no-sni-auto", "no-check-sni-auto")
	}
	if f.http2 {
		params = append(params, "alpn", "h2,http/1.1")
	}
	if !r.verified() {
		return append(params, "verify", "none")
	}
	return append(params, "verify", "required", "ca-file", caFile)
}

func (r *route) serverParams(tls []string, p part, e endpoint) []string {
	params := slices.Clone(tls)
	if r.verified() && r.spec.GetDestinationTls().GetVerifyServiceHost() {
		params = append(params, "verifyhost", p.service+"."+r.spec.GetNamespace()+".svc")
	}
	if e.h2c && len(tls) == 0 && !r.passthrough() {
		params = append(params, "proto", "h2")
	}
	if e.idled {
		return params
	}
	if !r.unchecked {
		params = append(params, r.check...)
	}
	return append(params, r.limits...)
}

// checkInterval returns how often the route's servers are checked, zero for never. There are checks only where the Route
// asks for them: a standing check of every server costs more than it tells.
func checkInterval(spec *tsujiv1.Route) (time.Duration, error) {
	d := spec.GetHealthCheckInterval()
	if d == nil {
		return 0, nil
	}
	if _, err := millis("health check interval", d, 0); err != nil {
		return 0, err
	}
	return min(d.AsDuration(), maxTimeout), nil
}

// checkParams returns what the route's servers say of health checks.
func (r *route) checkParams() []string {
	if r.interval == 0 {
		return nil
	}
	params := []string{"check", "inter", milliseconds(r.interval << r.slowed)}
	if r.spec.GetTermination() == tsujiv1.Termination_TERMINATION_REENCRYPT {
		params = append(params, "check-ssl")
	}
	return params
}

// maxServerConnections is the largest limit that is worth telling HAProxy.
const maxServerConnections = 1_000_000
