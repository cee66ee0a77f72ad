package compile

import (
	"slices"
	"strings"

	configv1 "github.com/openshift/api/config/v1"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// The ciphers of OpenShift's profiles, in OpenSSL's names. They stand here and not only in OpenShift's
// package, so that a new version of that one does not change what is compiled by itself.
var (
	modernSuites        = []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
	intermediateCiphers = []string{
		"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256",
		"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
		"ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
	}
	oldCiphers = []string{
		"ECDHE-ECDSA-AES128-SHA256", "ECDHE-RSA-AES128-SHA256", "ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES128-SHA",
		"ECDHE-ECDSA-AES256-SHA384", "ECDHE-RSA-AES256-SHA384", "ECDHE-ECDSA-AES256-SHA", "ECDHE-RSA-AES256-SHA",
		"AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA256", "AES256-SHA256", "AES128-SHA", "AES256-SHA",
		"DES-CBC3-SHA",
	}
	knownGroups = []configv1.TLSGroup{
		configv1.TLSGroupX25519, configv1.TLSGroupSecP256r1, configv1.TLSGroupSecP384r1, configv1.TLSGroupSecP521r1,
		configv1.TLSGroupX25519MLKEM768, configv1.TLSGroupSecP256r1MLKEM768, configv1.TLSGroupSecP384r1MLKEM1024,
	}
	finiteFieldCiphers = []string{
		"DHE-RSA-AES128-GCM-SHA256", "DHE-RSA-AES256-GCM-SHA384", "DHE-RSA-CHACHA20-POLY1305",
		"DHE-RSA-AES128-SHA256", "DHE-RSA-AES256-SHA256",
	}
)

// tlsProfileOf reads a TLS profile. Groups are the library's unless a custom profile names some.
func tlsProfileOf(p *configv1.TLSSecurityProfile, fault func(string)) *tsujiv1.TLSProfile {
	intermediate := &tsujiv1.TLSProfile{
		MinVersion:   tsujiv1.TLSVersion_TLS_VERSION_1_2,
		Ciphers:      intermediateCiphers,
		CipherSuites: modernSuites,
	}
	if p == nil {
		return intermediate
	}
	switch p.Type {
	case configv1.TLSProfileOldType:
		return &tsujiv1.TLSProfile{
			MinVersion:   tsujiv1.TLSVersion_TLS_VERSION_1_1, // OpenShift's operator: 1.0 is 1.1
			Ciphers:      slices.Concat(intermediateCiphers, oldCiphers),
			CipherSuites: modernSuites,
		}
	case configv1.TLSProfileModernType:
		return &tsujiv1.TLSProfile{MinVersion: tsujiv1.TLSVersion_TLS_VERSION_1_3, CipherSuites: modernSuites}
	case configv1.TLSProfileCustomType:
		if p.Custom != nil {
			return customProfile(&p.Custom.TLSProfileSpec, intermediate, fault)
		}
		fault(required("spec.tlsSecurityProfile.custom", "there is nothing in it; Intermediate is used"))
		return intermediate
	case configv1.TLSProfileIntermediateType, "":
		return intermediate
	default:
		fault(unsupported("spec.tlsSecurityProfile.type", string(p.Type), "Old", "Intermediate", "Modern", "Custom") + "; Intermediate is used")
		return intermediate
	}
}

// customProfile takes of a custom profile what a router can use, and the rest from the default.
func customProfile(spec *configv1.TLSProfileSpec, otherwise *tsujiv1.TLSProfile, fault func(string)) *tsujiv1.TLSProfile {
	const field = "spec.tlsSecurityProfile.custom."
	known := slices.Concat(intermediateCiphers, oldCiphers, finiteFieldCiphers, modernSuites)
	p := &tsujiv1.TLSProfile{MinVersion: otherwise.GetMinVersion()}
	for _, c := range spec.Ciphers {
		switch {
		case !slices.Contains(known, c):
			fault(invalid(field+"ciphers", c, "is not a cipher that routers know; it is passed over"))
		case strings.HasPrefix(c, "TLS_"):
			p.CipherSuites = append(p.CipherSuites, c)
		default:
			p.Ciphers = append(p.Ciphers, c)
		}
	}
	for _, g := range spec.Groups {
		if !slices.Contains(knownGroups, g) {
			fault(invalid(field+"groups", string(g), "is not a group that routers know; it is passed over"))
			continue
		}
		p.Groups = append(p.Groups, string(g))
	}
	switch spec.MinTLSVersion {
	case configv1.VersionTLS10, configv1.VersionTLS11:
		p.MinVersion = tsujiv1.TLSVersion_TLS_VERSION_1_1
	case configv1.VersionTLS13:
		p.MinVersion = tsujiv1.TLSVersion_TLS_VERSION_1_3
	case configv1.VersionTLS12:
		p.MinVersion = tsujiv1.TLSVersion_TLS_VERSION_1_2
	case "":
	default:
		fault(unsupported(field+"minTLSVersion", string(spec.MinTLSVersion), "VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13") + "; VersionTLS12 is used")
	}
	// A list without any is OpenShift's for either, as it is for all who have no suite of TLS 1.3 in it, and want none.
	only13 := p.GetMinVersion() == tsujiv1.TLSVersion_TLS_VERSION_1_3
	if len(p.GetCiphers()) == 0 && !only13 {
		p.Ciphers = otherwise.GetCiphers()
		if len(spec.Ciphers) > 0 {
			fault(required(field+"ciphers", "there is no cipher for TLS 1.2 in it; those of Intermediate are used"))
		}
	}
	if len(p.GetCipherSuites()) == 0 {
		p.CipherSuites = otherwise.GetCipherSuites()
		if only13 {
			fault(required(field+"ciphers", "there is no cipher suite of TLS 1.3 in it; those of Intermediate are used"))
		}
	}
	return p
}
