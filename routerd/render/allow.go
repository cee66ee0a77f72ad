package render

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
)

// v4Prefix is where IPv4 addresses are among those of IPv6, in digits.
const v4Prefix = "00000000000000000000FFFF"

// nat64Prefix is where translators put them (RFC 6052, 64:ff9b::/96).
const nat64Prefix = "0064FF9B0000000000000000"

// prefixKeys returns what the 32 digits of an address begin with if it is within the prefix. One that ends
// within a digit has a key for each value of that digit, at most 8.
func prefixKeys(p netip.Prefix) []string {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	a := p.Masked().Addr().As16()
	digits := strings.ToUpper(hex.EncodeToString(a[:]))
	whole, rest := bits/4, bits%4
	if rest == 0 {
		return []string{digits[:whole]}
	}
	const hexDigits = "0123456789ABCDEF"
	first := strings.IndexByte(hexDigits, digits[whole])
	keys := make([]string, 0, 1<<(4-rest))
	for d := first; d < first+1<<(4-rest); d++ {
		keys = append(keys, digits[:whole]+hexDigits[d:d+1])
	}
	return keys
}

// sources parses addresses and prefixes, and returns the keys of those that are in them, sorted, without those
// that another one has in it. Of an IPv6 prefix that has the addresses of IPv4 in it they are in, as in
// HAProxy's own lists.
func sources(list []string) ([]string, error) {
	var keys []string
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, err := netip.ParseAddr(s)
			if err != nil || a.Zone() != "" {
				return nil, refuse("allowed source", s, "an address or a prefix")
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		keys = append(keys, prefixKeys(p)...)
	}
	slices.Sort(keys)
	kept := keys[:0]
	for _, k := range keys {
		if n := len(kept); n == 0 || !strings.HasPrefix(k, kept[n-1]) {
			kept = append(kept, k)
		}
	}
	return kept, nil
}
