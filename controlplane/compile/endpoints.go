package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// endpointKey is what makes two addresses in EndpointSlices one endpoint.
type endpointKey struct {
	address                          netip.Addr
	port                             uint32
	portName, targetKind, targetName string
}

func (k endpointKey) compare(o endpointKey) int {
	return cmp.Or(k.address.Compare(o.address), cmp.Compare(k.port, o.port), cmp.Compare(k.portName, o.portName),
		cmp.Compare(k.targetKind, o.targetKind), cmp.Compare(k.targetName, o.targetName))
}

// compileEndpoints compiles the endpoints of a Service that have the port asked for.
func (c *Compiler) compileEndpoints(ref endpointsRef) *tsujiv1.Resource {
	found := map[endpointKey]*tsujiv1.Endpoint{}
	for _, s := range c.objects.slicesOf(ref.service) {
		c.collect(s, ref.port, found)
	}
	if primary := c.objects.services[ref.service].primary; primary != "" {
		countOnce(found, primary == discoveryv1.AddressTypeIPv6)
	}
	if service := c.objects.services[ref.service]; service.address != "" && !c.anyReady(ref.service) {
		c.idled(service, ref.port, found)
	}
	e := &tsujiv1.Endpoints{Namespace: ref.service.Namespace, Service: ref.service.Name, Port: ref.port}
	for _, k := range slices.SortedFunc(maps.Keys(found), endpointKey.compare) {
		e.Endpoints = append(e.Endpoints, found[k])
	}
	return &tsujiv1.Resource{Name: ref.name(), Kind: &tsujiv1.Resource_Endpoints{Endpoints: e}}
}

// collect adds the endpoints of one slice. An endpoint that is in several, as happens while it moves from
// one to another, is ready and serving if any says so, and terminating if all do.
func (c *Compiler) collect(s *discoveryv1.EndpointSlice, port string, found map[endpointKey]*tsujiv1.Endpoint) {
	if s.AddressType != discoveryv1.AddressTypeIPv4 && s.AddressType != discoveryv1.AddressTypeIPv6 {
		return
	}
	for _, p := range s.Ports {
		number, name, ok := tcpPort(p, port)
		if !ok {
			continue
		}
		protocol := tsujiv1.AppProtocol_APP_PROTOCOL_UNSPECIFIED
		if a := p.AppProtocol; a != nil && (*a == "h2c" || *a == "kubernetes.io/h2c") {
			protocol = tsujiv1.AppProtocol_APP_PROTOCOL_H2C
		}
		for i := range s.Endpoints {
			e := endpointOf(&s.Endpoints[i])
			if !e.GetReady() && !e.GetServing() {
				continue
			}
			e.Port, e.PortName, e.AppProtocol = number, name, protocol
			for _, text := range s.Endpoints[i].Addresses {
				a, ok := c.address(text, s.AddressType)
				if !ok {
					continue
				}
				merge(found, a, e)
			}
		}
	}
}

// anyReady tells whether a Service has a ready endpoint, on whatever port.
func (c *Compiler) anyReady(service id) bool {
	for _, s := range c.objects.slices[service] {
		for i := range s.Endpoints {
			if ready := s.Endpoints[i].Conditions.Ready; ready == nil || *ready {
				return true
			}
		}
	}
	return false
}

// idled adds the address of an idled Service itself: whoever connects there wakes it up.
//
// OpenShift's router does so for the port that has the name or the number asked for. Here also for the one
// that leads to the number asked for, which is how ports are asked for while there are endpoints.
func (c *Compiler) idled(s service, asked string, found map[endpointKey]*tsujiv1.Endpoint) {
	family := discoveryv1.AddressTypeIPv4
	if strings.Contains(s.address, ":") {
		family = discoveryv1.AddressTypeIPv6
	}
	a, ok := c.address(s.address, family)
	if !ok {
		return
	}
	for _, p := range s.ports {
		protocol := cmp.Or(p.Protocol, corev1.ProtocolTCP)
		number, name, ok := tcpPort(discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &protocol}, tsujiv1.AnyPort)
		if !ok || asked != tsujiv1.AnyPort && asked != name && asked != strconv.Itoa(int(number)) && asked != p.TargetPort.String() {
			continue
		}
		found[endpointKey{address: a, port: number, portName: name}] = &tsujiv1.Endpoint{
			Address: a.String(), Port: number, PortName: name, Ready: true, Serving: true, Idled: true,
		}
	}
}

// tcpPort tells whether a slice's port is TCP and the one asked for, by name or by number.
func tcpPort(p discoveryv1.EndpointPort, asked string) (number uint32, name string, ok bool) {
	if p.Port == nil || *p.Port < 1 || *p.Port > 65535 || p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
		return 0, "", false
	}
	if p.Name != nil {
		name = *p.Name
	}
	if name != "" && !portName.MatchString(name) {
		return 0, "", false
	}
	if asked != tsujiv1.AnyPort && asked != name && asked != strconv.Itoa(int(*p.Port)) {
		return 0, "", false
	}
	return uint32(*p.Port), name, true
}

// endpointOf reads what an endpoint says of itself, without address and port. Names that are not such
// count as absent.
func endpointOf(e *discoveryv1.Endpoint) *tsujiv1.Endpoint {
	is := func(b *bool, unknown bool) bool {
		if b == nil {
			return unknown
		}
		return *b
	}
	plain := func(s *string) string {
		if s == nil || !plainName.MatchString(*s) {
			return ""
		}
		return *s
	}
	ready := is(e.Conditions.Ready, true)
	out := &tsujiv1.Endpoint{
		Node:        plain(e.NodeName),
		Zone:        plain(e.Zone),
		Ready:       ready,
		Serving:     is(e.Conditions.Serving, ready),
		Terminating: is(e.Conditions.Terminating, false),
	}
	if t := e.TargetRef; t != nil && plain(&t.Kind) != "" && plain(&t.Name) != "" {
		out.TargetKind, out.TargetName = t.Kind, t.Name
	}
	return out
}

func merge(found map[endpointKey]*tsujiv1.Endpoint, a netip.Addr, e *tsujiv1.Endpoint) {
	k := endpointKey{a, e.GetPort(), e.GetPortName(), e.GetTargetKind(), e.GetTargetName()}
	old := found[k]
	if old == nil {
		found[k] = &tsujiv1.Endpoint{
			Address: a.String(), Port: e.GetPort(), PortName: e.GetPortName(), AppProtocol: e.GetAppProtocol(),
			TargetKind: e.GetTargetKind(), TargetName: e.GetTargetName(), Node: e.GetNode(), Zone: e.GetZone(),
			Ready: e.GetReady(), Serving: e.GetServing(), Terminating: e.GetTerminating(),
		}
		return
	}
	old.Ready = old.GetReady() || e.GetReady()
	old.Serving = old.GetServing() || e.GetServing()
	old.Terminating = old.GetTerminating() && e.GetTerminating()
	old.Node = cmp.Or(old.GetNode(), e.GetNode())
	old.Zone = cmp.Or(old.GetZone(), e.GetZone())
	old.AppProtocol = max(old.GetAppProtocol(), e.GetAppProtocol())
}

// countOnce leaves out the second address of those that have one in either family: a dual-stack Pod is
// one server, not two.
func countOnce(found map[endpointKey]*tsujiv1.Endpoint, primaryIs6 bool) {
	type target struct{ kind, name, port string }
	inPrimary := map[target]bool{}
	for k := range found {
		if k.targetName != "" && k.address.Is6() == primaryIs6 {
			inPrimary[target{k.targetKind, k.targetName, k.portName}] = true
		}
	}
	maps.DeleteFunc(found, func(k endpointKey, _ *tsujiv1.Endpoint) bool {
		return k.address.Is6() != primaryIs6 && inPrimary[target{k.targetKind, k.targetName, k.portName}]
	})
}

var (
	azureMetadata = netip.MustParseAddr("168.63.129.16")
	awsMetadata   = netip.MustParseAddr("fd00:ec2::254")
)

// address reads an endpoint's address. Those that would lead to the router itself or to its host are left
// out, as OpenShift's router does, however they are written.
func (c *Compiler) address(text string, family discoveryv1.AddressType) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || a.Is4() != (family == discoveryv1.AddressTypeIPv4) || !c.reachable(a) {
		return netip.Addr{}, false
	}
	if b := a.As16(); a.Is6() && !a.IsLoopback() && [12]byte(b[:12]) == [12]byte{} && !c.reachable(netip.AddrFrom4([4]byte(b[12:]))) {
		return netip.Addr{}, false // ::a.b.c.d
	}
	if a.Is4In6() {
		return a.Unmap(), c.reachable(a.Unmap())
	}
	return a, true
}

func (c *Compiler) reachable(a netip.Addr) bool {
	return !a.IsUnspecified() && (c.allowLoopback || !a.IsLoopback()) && !a.IsLinkLocalUnicast() &&
		!a.IsMulticast() && a != azureMetadata && a != awsMetadata
}
