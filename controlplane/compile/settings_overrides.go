package compile

import (
	"encoding/json"
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

// overridesOf reads them; what cannot be read is not there.
func overridesOf(ic *operatorv1.IngressController) overrides {
	var o overrides
	if json.Unmarshal(ic.Spec.UnsupportedConfigOverrides.Raw, &o) != nil {
		return overrides{}
	}
	return o
}

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
