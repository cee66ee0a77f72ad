package compile

import (
	"slices"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// endpointsRef names an Endpoints resource: one port of a Service, as Routes ask for it.
type endpointsRef struct {
	service id
	port    string
}

func (r endpointsRef) name() string {
	return tsujiv1.EndpointsName(r.service.Namespace, r.service.Name, r.port)
}

// refs counts who refers to the facts that several may share: Endpoints, and the Certificates of
// Secrets and ConfigMaps. A fact is compiled while its count is above zero.
type refs struct {
	endpoints  map[id]map[string]int // by Service, then port
	secrets    map[id]int
	configMaps map[id]int
	settings   id // the Secret whose certificate the settings use as the default one
	settingsCA id // the ConfigMap whose CA certificates they use for clients
}

func newRefs() refs {
	return refs{endpoints: map[id]map[string]int{}, secrets: map[id]int{}, configMaps: map[id]int{}}
}

// moveEndpoints replaces one user's references, and marks those that are new or given up.
func (c *Compiler) moveEndpoints(old, next []endpointsRef, d *dirty) {
	for _, r := range next {
		if slices.Contains(old, r) {
			continue
		}
		ports := c.refs.endpoints[r.service]
		if ports == nil {
			ports = map[string]int{}
			c.refs.endpoints[r.service] = ports
		}
		if ports[r.port]++; ports[r.port] == 1 {
			d.endpoints[r] = struct{}{}
		}
	}
	for _, r := range old {
		if slices.Contains(next, r) {
			continue
		}
		ports := c.refs.endpoints[r.service]
		if ports[r.port]--; ports[r.port] > 0 {
			continue
		}
		d.endpoints[r] = struct{}{}
		delete(ports, r.port)
		if len(ports) == 0 {
			delete(c.refs.endpoints, r.service)
		}
	}
}

// moveSecret replaces one user's reference to a Secret's Certificate; the zero id is no reference.
func (c *Compiler) moveSecret(old, next id, d *dirty) { move(c.refs.secrets, old, next, d.secrets) }

// moveConfigMap replaces one user's reference to a ConfigMap's Certificate; the zero id is no reference.
func (c *Compiler) moveConfigMap(old, next id, d *dirty) {
	move(c.refs.configMaps, old, next, d.configMaps)
}

func move(users map[id]int, old, next id, dirty map[id]struct{}) {
	if old == next {
		return
	}
	if next != (id{}) {
		if users[next]++; users[next] == 1 {
			dirty[next] = struct{}{}
		}
	}
	if old != (id{}) {
		if users[old]--; users[old] == 0 {
			dirty[old] = struct{}{}
			delete(users, old)
		}
	}
}

// compileSharedFacts compiles the dirty facts that are referred to, and removes those that are not.
func (c *Compiler) compileSharedFacts(d *dirty, out *output) {
	for s := range d.services {
		for port := range c.refs.endpoints[s] {
			d.endpoints[endpointsRef{service: s, port: port}] = struct{}{}
		}
	}
	for r := range d.endpoints {
		if c.refs.endpoints[r.service][r.port] == 0 {
			out.facts.remove = append(out.facts.remove, r.name())
			continue
		}
		out.facts.add(c.compileEndpoints(r))
	}
	for s := range d.secrets {
		name := tsujiv1.CertificateName(s.Namespace, tsujiv1.FromSecret, s.Name)
		if c.refs.secrets[s] == 0 {
			out.facts.remove = append(out.facts.remove, name)
			continue
		}
		out.facts.add(&tsujiv1.Resource{Name: name, Kind: &tsujiv1.Resource_Certificate{Certificate: c.sharedCertificate(s)}})
	}
	for m := range d.configMaps {
		name := tsujiv1.CertificateName(m.Namespace, tsujiv1.FromConfigMap, m.Name)
		ca := c.sharedBundle(m)
		if c.refs.configMaps[m] == 0 || ca == nil {
			out.facts.remove = append(out.facts.remove, name)
			continue
		}
		out.facts.add(&tsujiv1.Resource{Name: name, Kind: &tsujiv1.Resource_Certificate{Certificate: ca}})
	}
}
