package compile

import (
	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// holdSettings returns what is published of the Settings, which refer to a Secret and a ConfigMap, and what they refer
// to then. If routers refuse them, or what they refer to, and nothing was good before, ok is false: without Settings
// nothing is published, which fails closed.
func (c *Compiler) holdSettings(own snapshot.Item, secret, ca id) (item snapshot.Item, ofSecret, ofCA id, ok bool) {
	item = own
	s := c.held(own)
	if s != nil {
		c.faults = append(c.faults, c.quarantined(s))
		if !s.good {
			return item, id{}, id{}, false
		}
		item = s.item
		if secret, ca, ok = goodSettings(item); !ok {
			return item, id{}, id{}, false
		}
	}
	c.settingsRefs = [2]id{secret, ca}
	if c.holds.empty() {
		return item, secret, ca, true
	}
	for _, of := range []struct {
		id   id
		item func(id) (snapshot.Item, bool)
	}{{secret, c.settingsItem}, {ca, c.caItem}} {
		if of.id == (id{}) {
			continue
		}
		i, there := of.item(of.id)
		if !there {
			if s != nil { // what the good ones refer to is gone
				return item, id{}, id{}, false
			}
			continue
		}
		if held := c.standIn(i); held != nil {
			c.faults = append(c.faults, c.quarantined(held))
			if !held.good {
				return item, id{}, id{}, false
			}
		}
	}
	return item, secret, ca, true
}

// goodSettings reads what Settings refer to that were good once; ok is false where they lead elsewhere than Settings
// do. They may come from a router, which must not be sent a Secret of anybody for it.
func goodSettings(item snapshot.Item) (secret, ca id, ok bool) {
	res, err := tsujiv1.Decode(item)
	if err != nil || res.GetSettings() == nil {
		return id{}, id{}, false
	}
	if name := res.GetSettings().GetDefaultCertificate(); name != "" {
		source, of := certificateOf(name)
		if source != tsujiv1.FromSecret || of.Namespace != ingressNamespace {
			return id{}, id{}, false
		}
		secret = of
	}
	if name := res.GetSettings().GetClientTls().GetCa(); name != "" {
		source, of := certificateOf(name)
		if source != tsujiv1.FromConfigMap || of.Namespace != configNamespace {
			return id{}, id{}, false
		}
		ca = of
	}
	return secret, ca, true
}

// quarantined is the fault that tells of Settings, or of what they refer to, that routers refuse.
func (c *Compiler) quarantined(s *standIn) cluster.Fault {
	served := "what was good last is served in its place"
	if !s.good {
		served = "nothing of it was ever good, so routers are sent nothing new until it changes"
	}
	return cluster.Fault{
		Place:   c.controllerPlace(),
		Message: printable("routers refuse " + s.told.GetResource() + ": " + s.told.GetMessage() + "; " + served),
		Remedy:  "change what the router refuses",
	}
}
