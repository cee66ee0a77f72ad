package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
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

// compiledEndpoints is what became of the endpoints of a Service.
type compiledEndpoints struct {
	resource *tsujiv1.Resource
	crowded  int // how many endpoints it may have, where there are more; zero: it has all
	size     int // how many it would have if its namespace had few servers
}

// endpointsOf returns what a reference leads to, which is compiled once in each Apply.
func (c *Compiler) endpointsOf(ref endpointsRef) compiledEndpoints {
	e, ok := c.compiled[ref]
	if !ok {
		e = c.compileEndpoints(ref)
		c.compiled[ref] = e
	}
	return e
}

// compileEndpoints compiles the endpoints of a Service that have the port asked for: all of them, or as many as the
// bounds allow. Those are the ready ones first, by address.
func (c *Compiler) compileEndpoints(ref endpointsRef) compiledEndpoints {
	col := collection{found: map[endpointKey]*tsujiv1.Endpoint{}, left: maxCollected}
	for _, s := range c.objects.slicesOf(ref.service) {
		c.collect(s, ref.port, &col)
	}
	found := col.found
	if primary := c.objects.services[ref.service].primary; primary != "" {
		countOnce(found, primary == discoveryv1.AddressTypeIPv6)
	}
	if service := c.objects.services[ref.service]; service.address != "" && !c.anyReady(ref.service) {
		c.idled(service, ref.port, found)
	}
	keys := slices.SortedFunc(maps.Keys(found), endpointKey.compare)
	most := maxEndpoints
	kept := bounded(keys, found, most)
	size := len(kept)
	if room := c.servers.rooms[ref.service.Namespace]; room > 0 && room < size {
		most = room
		kept = bounded(keys, found, most)
	}
	e := &tsujiv1.Endpoints{Namespace: ref.service.Namespace, Service: ref.service.Name, Port: ref.port}
	for _, k := range kept {
		e.Endpoints = append(e.Endpoints, found[k])
	}
	compiled := compiledEndpoints{
		resource: &tsujiv1.Resource{Name: ref.name(), Kind: &tsujiv1.Resource_Endpoints{Endpoints: e}}, size: size,
	}
	if len(kept) < len(keys) || col.left == 0 {
		compiled.crowded = most
	}
	return compiled
}

// bounded returns as many of the sorted keys as the bounds of one resource allow, and most, sorted.
func bounded(keys []endpointKey, found map[endpointKey]*tsujiv1.Endpoint, most int) []endpointKey {
	fit := func(keys []endpointKey) int {
		bytes := 0
		for i, k := range keys {
			const framing = 4 // of one in a list: its field, and a length of two bytes
			if bytes += proto.Size(found[k]) + framing; i == most || bytes > maxEndpointsBytes {
				return i
			}
		}
		return len(keys)
	}
	if fit(keys) == len(keys) {
		return keys
	}
	rank := func(k endpointKey) int {
		if found[k].GetReady() {
			return 0
		}
		return 1
	}
	kept := slices.SortedStableFunc(slices.Values(keys), func(a, b endpointKey) int { return cmp.Compare(rank(a), rank(b)) })
	kept = kept[:fit(kept)]
	slices.SortFunc(kept, endpointKey.compare)
	return kept
}

// markCrowded marks the Routes of Services that have, or have no more, more endpoints than travel.
func (c *Compiler) markCrowded(d *dirty) {
	for s := range d.services {
		for port := range c.refs.endpoints[s] {
			ref := endpointsRef{service: s, port: port}
			if crowded := c.endpointsOf(ref).crowded; crowded != c.refs.crowded[ref] {
				c.refs.setCrowded(ref, crowded)
				maps.Copy(d.content, c.objects.routesByService[s])
			}
		}
	}
}

func (r *refs) setCrowded(ref endpointsRef, crowded int) {
	if crowded > 0 {
		r.crowded[ref] = crowded
	} else {
		delete(r.crowded, ref)
	}
}

// crowded returns how many endpoints of a Service travel at most, where it has more; zero: all do. Whoever refers to it.
func (c *Compiler) crowded(ref endpointsRef) int {
	if c.refs.endpoints[ref.service][ref.port] > 0 {
		return c.refs.crowded[ref]
	}
	return c.endpointsOf(ref).crowded
}

// collection is the endpoints found so far, and how many addresses may still be looked at.
type collection struct {
	found map[endpointKey]*tsujiv1.Endpoint
	left  int
}

// collect adds the endpoints of one slice. An endpoint that is in several, as happens while it moves from
// one to another, is ready and serving if any says so, and terminating if all do.
func (c *Compiler) collect(s *discoveryv1.EndpointSlice, port string, col *collection) {
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
				if col.left == 0 {
					return
				}
				col.left--
				a, ok := c.address(text, s.AddressType)
				if !ok {
					continue
				}
				merge(col.found, a, e)
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
	label := func(s *string) string { // as long as Kubernetes' labels and kinds are
		if s == nil || !portName.MatchString(*s) {
			return ""
		}
		return *s
	}
	ready := is(e.Conditions.Ready, true)
	out := &tsujiv1.Endpoint{
		Node:        plain(e.NodeName),
		Zone:        label(e.Zone),
		Ready:       ready,
		Serving:     is(e.Conditions.Serving, ready),
		Terminating: is(e.Conditions.Terminating, false),
	}
	if t := e.TargetRef; t != nil && label(&t.Kind) != "" && plain(&t.Name) != "" {
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
	broadcast     = netip.MustParseAddr("255.255.255.255") // everybody on the router's own link
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
	return !a.IsUnspecified() && a != broadcast && (c.allowLoopback || !a.IsLoopback()) && !a.IsLinkLocalUnicast() &&
		!a.IsMulticast() && a != azureMetadata && a != awsMetadata
}
