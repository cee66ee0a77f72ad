package compile

import (
	"slices"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
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
	crowded    map[endpointsRef]int  // of these: how many travel, where there are more; absent: all do
	secrets    map[id]int
	configMaps map[id]int
	settings   id // the Secret whose certificate the settings use as the default one
	settingsCA id // the ConfigMap whose CA certificates they use for clients
}

func newRefs() refs {
	return refs{endpoints: map[id]map[string]int{}, crowded: map[endpointsRef]int{}, secrets: map[id]int{}, configMaps: map[id]int{}}
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
		d.counted[r] = struct{}{}
		if ports[r.port]++; ports[r.port] == 1 {
			d.endpoints[r] = struct{}{}
		}
	}
	for _, r := range old {
		if slices.Contains(next, r) {
			continue
		}
		d.counted[r] = struct{}{}
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
		delete(c.holding, r.name())
		if c.refs.endpoints[r.service][r.port] == 0 {
			delete(c.refs.crowded, r)
			out.facts.remove = append(out.facts.remove, r.name())
			continue
		}
		e := c.endpointsOf(r)
		c.refs.setCrowded(r, e.crowded)
		c.addShared(e.resource, out)
	}
	for s := range d.secrets {
		name := tsujiv1.CertificateName(s.Namespace, tsujiv1.FromSecret, s.Name)
		if c.refs.secrets[s] == 0 {
			c.unreferred(name, s, c.secretItem)
			out.facts.remove = append(out.facts.remove, name)
			continue
		}
		c.addShared(&tsujiv1.Resource{Name: name, Kind: &tsujiv1.Resource_Certificate{Certificate: c.sharedCertificate(s)}}, out)
	}
	for m := range d.configMaps {
		name := tsujiv1.CertificateName(m.Namespace, tsujiv1.FromConfigMap, m.Name)
		ca := c.sharedBundle(m)
		if c.refs.configMaps[m] == 0 || ca == nil {
			c.unreferred(name, m, c.caItem)
			out.facts.remove = append(out.facts.remove, name)
			continue
		}
		c.addShared(&tsujiv1.Resource{Name: name, Kind: &tsujiv1.Resource_Certificate{Certificate: ca}}, out)
	}
}

// addShared adds a fact that several may refer to, or what stands in for it. Of Endpoints that were never good none has
// an address; who refers to a Certificate that was never good has been left out.
func (c *Compiler) addShared(r *tsujiv1.Resource, out *output) {
	item, err := tsujiv1.Encode(r)
	if err != nil {
		return // as in edit.add
	}
	switch s := c.held(item); {
	case s == nil:
		out.facts.put = append(out.facts.put, item)
	case s.good:
		out.facts.put = append(out.facts.put, s.item)
	case r.GetEndpoints() != nil:
		e := r.GetEndpoints()
		out.facts.add(&tsujiv1.Resource{Name: r.GetName(), Kind: &tsujiv1.Resource_Endpoints{
			Endpoints: &tsujiv1.Endpoints{Namespace: e.GetNamespace(), Service: e.GetService(), Port: e.GetPort()},
		}})
	default:
		out.facts.remove = append(out.facts.remove, r.GetName())
	}
}

// unreferred notes whether the hold on a Certificate is needed that nobody refers to: who did may be left out because of
// it.
func (c *Compiler) unreferred(name string, k id, item func(id) (snapshot.Item, bool)) {
	delete(c.holding, name)
	if _, byName := c.holds.Resources[name]; byName {
		if i, ok := item(k); ok {
			c.held(i)
		}
	}
}

// secretItem returns the Certificate of a Secret that can be used.
func (c *Compiler) secretItem(k id) (snapshot.Item, bool) {
	return certificateItem(tsujiv1.CertificateName(k.Namespace, tsujiv1.FromSecret, k.Name), c.sharedCertificate(k))
}

// settingsItem does so for the Settings.
func (c *Compiler) settingsItem(k id) (snapshot.Item, bool) {
	return certificateItem(tsujiv1.CertificateName(k.Namespace, tsujiv1.FromSecret, k.Name), c.settingsCertificate(k))
}

// caItem returns the Certificate of a ConfigMap with CA certificates that can be used.
func (c *Compiler) caItem(k id) (snapshot.Item, bool) {
	return certificateItem(tsujiv1.CertificateName(k.Namespace, tsujiv1.FromConfigMap, k.Name), c.sharedBundle(k))
}

func certificateItem(name string, certificate *tsujiv1.Certificate) (snapshot.Item, bool) {
	if certificate == nil {
		return snapshot.Item{}, false
	}
	i, err := tsujiv1.Encode(&tsujiv1.Resource{Name: name, Kind: &tsujiv1.Resource_Certificate{Certificate: certificate}})
	return i, err == nil
}
