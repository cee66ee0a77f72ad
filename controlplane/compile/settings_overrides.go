package compile

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	operatorv1 "github.com/openshift/api/operator/v1"
)

// overrides are those of spec.unsupportedConfigOverrides that mean something here. OpenShift's operator writes
// flags as texts; whoever writes them without quotes means the same.
type overrides struct {
	LoadBalancingAlgorithm string          `json:"loadBalancingAlgorithm"`
	MutualTLSHeaderFilter  json.RawMessage `json:"mutualTLSHeaderFilter"`
	ContStats              json.RawMessage `json:"contStats"`
}

// knownOverrides are those of OpenShift's operator. Two are about how its router changes HAProxy without a reload.
var knownOverrides = []string{"loadBalancingAlgorithm", "mutualTLSHeaderFilter", "contStats", "dynamicConfigManager",
	"maxDynamicServers"}

// overridesOf reads them; what cannot be read is not there.
func overridesOf(ic *operatorv1.IngressController) overrides {
	var o overrides
	if json.Unmarshal(ic.Spec.UnsupportedConfigOverrides.Raw, &o) != nil {
		return overrides{}
	}
	return o
}

// The algorithms that may be the default.
const (
	algorithmRandom    = "random"
	algorithmLeastConn = "leastconn"
)

// overrides compiles spec.unsupportedConfigOverrides.
func (s *settings) overrides() {
	const field = "spec.unsupportedConfigOverrides"
	raw := s.spec.UnsupportedConfigOverrides.Raw
	var o overrides
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &o); err != nil {
			s.fault(field + ": Invalid value: must be an object whose loadBalancingAlgorithm is a text; none of it is used")
			return
		}
		s.knownOverrides(field, raw)
	}
	if a := o.LoadBalancingAlgorithm; a != "" && a != algorithmRandom && a != algorithmLeastConn {
		s.fault(unsupported(field+".loadBalancingAlgorithm", a, algorithmRandom,
			algorithmLeastConn) + "; random is used")
	}
	flag := func(name string, value json.RawMessage, otherwise bool) bool {
		text := strings.Trim(string(value), `"`)
		if text == "" || text == "null" {
			return otherwise
		}
		on, err := strconv.ParseBool(text)
		if err != nil {
			s.fault(invalid(field+"."+name, text, "must be true or false"))
			return otherwise
		}
		return on
	}
	s.out.KeepClientTlsHeaders = !flag("mutualTLSHeaderFilter", o.MutualTLSHeaderFilter, true)
	s.out.ContinuousStatistics = flag("contStats", o.ContStats, false)
}

// knownOverrides tells of those that nobody knows. Case does not matter, as in what reads them.
func (s *settings) knownOverrides(field string, raw []byte) {
	var all map[string]json.RawMessage
	if json.Unmarshal(raw, &all) != nil {
		return // told
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !slices.ContainsFunc(knownOverrides, func(k string) bool { return strings.EqualFold(k, name) }) {
			s.fault(field + ": " + quoted(name) + " is not known and is ignored")
		}
	}
}
