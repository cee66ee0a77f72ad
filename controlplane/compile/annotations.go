package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// The annotations of OpenShift's router.
const (
	haproxyPrefix = "haproxy.router.openshift.io/"
	routerPrefix  = "router.openshift.io/"

	annBalance        = haproxyPrefix + "balance"
	annTimeout        = haproxyPrefix + "timeout"
	annTimeoutTunnel  = haproxyPrefix + "timeout-tunnel"
	annAllowList      = haproxyPrefix + "ip_allowlist"
	annWhiteList      = haproxyPrefix + "ip_whitelist"
	annDisableCookies = haproxyPrefix + "disable_cookies"
	annHSTS           = haproxyPrefix + "hsts_header"
	annForwarded      = haproxyPrefix + "set-forwarded-headers"
	annPodConnections = haproxyPrefix + "pod-concurrent-connections"
	annRewriteTarget  = haproxyPrefix + "rewrite-target"
	annAdjustCase     = haproxyPrefix + "h1-adjust-case"
	annRateLimit      = haproxyPrefix + "rate-limit-connections"
	annConcurrentTCP  = annRateLimit + ".concurrent-tcp"
	annRateTCP        = annRateLimit + ".rate-tcp"
	annRateHTTP       = annRateLimit + ".rate-http"
	annCookieName     = routerPrefix + "cookie_name"
	annSameSite       = routerPrefix + "cookie-same-site"
	annCheckInterval  = routerPrefix + "haproxy.health.check.interval"
	annPoolSize       = routerPrefix + "pool-size" // for blueprints, which there are none of
)

// Annotations of our own, for what OpenShift's router cannot.
const (
	tsujiPrefix = "tsuji.dev/"

	annRedirectCode    = tsujiPrefix + "redirect-code"     // of a redirect to HTTPS, for 302
	annRateLimitStatus = tsujiPrefix + "rate-limit-status" // of the answer over rate-http, for a closed connection
)

var knownAnnotations = []string{
	annBalance, annTimeout, annTimeoutTunnel, annAllowList, annWhiteList, annDisableCookies, annHSTS,
	annForwarded, annPodConnections, annRewriteTarget, annAdjustCase, annRateLimit, annConcurrentTCP,
	annRateTCP, annRateHTTP, annCookieName, annSameSite, annCheckInterval, annPoolSize,
	annRedirectCode, annRateLimitStatus,
}

// options compiles the annotations.
//
// OpenShift's router: a value that does not match its grammar is passed over for the default. Here its
// owner is told. A control character refuses the Route, because nobody means it.
func (b *builder) options() {
	for _, name := range slices.Sorted(maps.Keys(b.object.Annotations)) {
		known := slices.Contains(knownAnnotations, name)
		switch {
		case known && hasControl(b.text(name)):
			b.fault(invalid("metadata.annotations["+name+"]", b.object.Annotations[name], controlRemedy))
		case !known && (strings.HasPrefix(name, haproxyPrefix) || strings.HasPrefix(name, routerPrefix) ||
			strings.HasPrefix(name, tsujiPrefix)):
			b.warn("annotation %s is not known and is ignored", name)
		}
	}
	b.redirect()
	b.balance()
	b.timeouts()
	b.allowList()
	b.rateLimit()
	b.checkInterval()
	b.route.MaxConnectionsPerEndpoint = b.count(annPodConnections, 0)
	if b.passthrough() {
		return
	}
	b.cookie()
	b.hsts()
	b.forwarded()
	b.rewrite()
	b.route.AdjustHeaderCase = b.isTrue(annAdjustCase)
}

// annotation returns the value of an annotation. The line break with which a block of YAML ends (|) is none of it.
func (b *builder) annotation(name string) (string, bool) {
	s, ok := b.object.Annotations[name]
	if block, ends := strings.CutSuffix(s, "\n"); ends {
		s = strings.TrimSuffix(block, "\r")
	}
	return s, ok
}

// text returns the value of an annotation without the control characters that are allowed in it: tabs between networks.
func (b *builder) text(name string) string {
	s, _ := b.annotation(name)
	if name == annAllowList || name == annWhiteList {
		s = strings.ReplaceAll(s, "\t", " ")
	}
	return s
}

// inForce notes that an annotation or a field sets an option of the Route.
func (b *builder) inForce(names ...string) { b.setBy = append(b.setBy, names...) }

// noEffect takes back what inForce noted.
func (b *builder) noEffect(names ...string) {
	b.setBy = slices.DeleteFunc(b.setBy, func(a string) bool { return slices.Contains(names, a) })
}

// notUnderstood warns of a value that does not match its grammar.
func (b *builder) notUnderstood(name, grammar, instead string) {
	b.warn("annotation %s: %s is not %s; %s", name, quoted(b.object.Annotations[name]), grammar, instead)
}

// choice returns the value that an annotation chooses; the zero value if it is absent or none of them.
func choice[T any](b *builder, name string, values map[string]T) T {
	var zero T
	s, ok := b.annotation(name)
	if !ok {
		return zero
	}
	v, ok := values[s]
	if !ok {
		b.notUnderstood(name, "one of "+strings.Join(slices.Sorted(maps.Keys(values)), ", "), "the default is used")
		return zero
	}
	b.inForce(name)
	return v
}

// isTrue reads a flag as Go's strconv does.
func (b *builder) isTrue(name string) bool {
	s, ok := b.annotation(name)
	if !ok {
		return false
	}
	v, err := strconv.ParseBool(s)
	if err != nil {
		b.notUnderstood(name, "true or false", "it counts as false")
	}
	if v {
		b.inForce(name)
	}
	return v
}

// count reads a number of at least least; zero if it is absent or not one.
func (b *builder) count(name string, least int64) uint32 {
	s, ok := b.annotation(name)
	if !ok {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < least {
		b.notUnderstood(name, "a number from "+strconv.FormatInt(least, 10)+" to 2147483647", "no limit is set")
		return 0
	}
	if n > 0 {
		b.inForce(name)
	}
	return uint32(n) // between 0 and 2^31-1
}

// timeOption reads a TimeSpec; nil if it is absent or not one.
func (b *builder) timeOption(name string) *durationpb.Duration {
	s, ok := b.annotation(name)
	if !ok {
		return nil
	}
	d, ok := parseTime(s)
	if !ok {
		b.notUnderstood(name, "a time (a whole number from 1, then us, ms, s, m, h or d)", "the default is used")
		return nil
	}
	b.inForce(name)
	return d
}

// checkInterval compiles how often endpoints are checked.
func (b *builder) checkInterval() {
	d := b.timeOption(annCheckInterval)
	if d != nil && d.AsDuration() < minCheckInterval {
		b.warn("annotation %s: %s is too often: %s is used", annCheckInterval,
			quoted(b.object.Annotations[annCheckInterval]), minCheckInterval)
		d = durationpb.New(minCheckInterval)
	}
	b.route.HealthCheckInterval = d
}

// redirect compiles the code of a redirect to HTTPS; 302 is the default, and not written out.
func (b *builder) redirect() {
	code := choice(b, annRedirectCode, map[string]uint32{"301": 301, "302": 302, "307": 307, "308": 308})
	switch {
	case code == 0:
	case b.route.GetInsecurePolicy() != tsujiv1.InsecurePolicy_INSECURE_POLICY_REDIRECT:
		b.noEffect(annRedirectCode)
		b.warn("annotation %s: nothing is redirected: set spec.tls.insecureEdgeTerminationPolicy to Redirect",
			annRedirectCode)
	case code != 302:
		b.route.RedirectCode = code
	}
}

func (b *builder) balance() {
	b.route.Balance = choice(b, annBalance, map[string]tsujiv1.Balance{
		"roundrobin": tsujiv1.Balance_BALANCE_ROUND_ROBIN,
		"leastconn":  tsujiv1.Balance_BALANCE_LEAST_CONNECTIONS,
		"source":     tsujiv1.Balance_BALANCE_SOURCE,
		"random":     tsujiv1.Balance_BALANCE_RANDOM,
	})
	switch {
	case b.route.Balance != tsujiv1.Balance_BALANCE_UNSPECIFIED:
	case b.activeServices() > 1:
		b.route.Balance = tsujiv1.Balance_BALANCE_ROUND_ROBIN
	case b.passthrough():
		b.route.Balance = tsujiv1.Balance_BALANCE_SOURCE
	case b.c.policy.leastConnections:
		b.route.Balance = tsujiv1.Balance_BALANCE_LEAST_CONNECTIONS
	default:
		b.route.Balance = tsujiv1.Balance_BALANCE_RANDOM
	}
}

// timeouts: for passthrough, all time is tunnel time, and annTimeout stands in for annTimeoutTunnel.
func (b *builder) timeouts() {
	server, tunnel := b.timeOption(annTimeout), b.timeOption(annTimeoutTunnel)
	if b.passthrough() {
		if tunnel == nil {
			tunnel = server
		} else {
			b.noEffect(annTimeout)
		}
		server = nil
	}
	if server != nil || tunnel != nil {
		b.route.Timeouts = &tsujiv1.RouteTimeouts{Server: server, Tunnel: tunnel}
	}
}

// allowList compiles the addresses that may use the route. Where OpenShift's router opens the route when
// nothing of a list can be understood, this closes it.
func (b *builder) allowList() {
	name, list := annAllowList, b.text(annAllowList)
	if list == "" {
		if name, list = annWhiteList, b.text(annWhiteList); list == "" {
			return
		}
	}
	b.route.RestrictSources = true
	b.inForce(name)
	var prefixes []netip.Prefix
	for _, s := range strings.Fields(list) {
		p, ok := parsePrefix(s)
		if !ok {
			b.warn("annotation %s: %s is not an IP address or CIDR; it is passed over", name, quoted(s))
			continue
		}
		prefixes = append(prefixes, p)
	}
	if len(prefixes) == 0 {
		b.warn("annotation %s: there is no IP address or CIDR in it; nobody may use the route", name)
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	if prefixes = slices.Compact(prefixes); len(prefixes) > maxSources {
		b.fault(fmt.Sprintf("metadata.annotations[%s]: Too many: %d: must have at most %d networks", name,
			len(prefixes), maxSources))
		return
	}
	for _, p := range prefixes {
		b.route.AllowedSources = append(b.route.AllowedSources, p.String())
	}
}

// parsePrefix reads an address or a prefix of IPv4 or IPv6 as OpenShift's router does, by Go's package net: a length
// may begin with zeros (10.0.0.0/08). What is of IPv4 and is written as IPv6 is IPv4, except a prefix that has more in
// it.
func parsePrefix(s string) (netip.Prefix, bool) {
	address, length, isPrefix := strings.Cut(s, "/")
	a, err := netip.ParseAddr(address)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, false
	}
	bits := a.BitLen()
	if isPrefix {
		n, err := strconv.ParseUint(length, 10, 16)
		if err != nil || int(n) > bits { // of 16 bits
			return netip.Prefix{}, false
		}
		bits = int(n)
	}
	if a.Is4In6() && bits >= 96 {
		a, bits = a.Unmap(), bits-96
	}
	return netip.PrefixFrom(a, bits).Masked(), true
}

func (b *builder) rateLimit() {
	l := &tsujiv1.RateLimit{
		ConcurrentConnections: b.count(annConcurrentTCP, 1),
		ConnectionsPer_3S:     b.count(annRateTCP, 1),
	}
	if !b.passthrough() {
		l.RequestsPer_10S = b.count(annRateHTTP, 1)
	}
	status := choice(b, annRateLimitStatus, map[string]uint32{"403": 403, "429": 429, "503": 503})
	if l.GetRequestsPer_10S() > 0 {
		l.DenyStatus = status
	} else if status != 0 {
		b.noEffect(annRateLimitStatus)
		b.warn("annotation %s: there is no limit of requests for it: set %s", annRateLimitStatus, annRateHTTP)
	}
	if b.isTrue(annRateLimit) && (l.ConcurrentConnections > 0 || l.ConnectionsPer_3S > 0 || l.RequestsPer_10S > 0) {
		b.route.RateLimit = l
		return
	}
	b.noEffect(annRateLimit, annConcurrentTCP, annRateTCP, annRateHTTP, annRateLimitStatus)
}

func (b *builder) cookie() {
	name := cookieOf(b.id)
	if s, ok := b.annotation(annCookieName); ok {
		if cookieName.MatchString(s) {
			name = s
			b.inForce(annCookieName)
		} else {
			b.notUnderstood(annCookieName, "a name of up to 128 letters, digits, _ and -", "the default is used")
		}
	}
	sameSite := choice(b, annSameSite, map[string]string{"Lax": "Lax", "Strict": "Strict", "None": "None"})
	if b.isTrue(annDisableCookies) {
		b.noEffect(annCookieName, annSameSite)
		return
	}
	b.route.Cookie = &tsujiv1.Cookie{Name: name}
	if b.secure() && b.route.GetInsecurePolicy() != tsujiv1.InsecurePolicy_INSECURE_POLICY_ALLOW {
		b.route.Cookie.Secure = true
		if b.route.Cookie.SameSite = sameSite; sameSite == "" {
			b.route.Cookie.SameSite = "None"
		}
		return
	}
	b.noEffect(annSameSite)
}

// hstsValue is OpenShift's grammar, and a semicolon at the end.
var hstsValue = regexp.MustCompile(`^(?i)(?:(?:includeSubDomains|preload) *; *)*max-age *= *(?:[0-9]+|"[0-9]+")(?: *; *(?:includeSubDomains|preload))*( *;)?$`)

func (b *builder) hsts() {
	s, ok := b.annotation(annHSTS)
	if !ok || !b.secure() {
		return
	}
	if s = strings.Trim(s, " "); len(s) > 256 || !hstsValue.MatchString(s) {
		b.notUnderstood(annHSTS, "like max-age=31536000;includeSubDomains;preload", "the header is not set")
		return
	}
	b.route.Hsts = strings.TrimRight(s, " ;")
	b.inForce(annHSTS)
}

func (b *builder) forwarded() {
	b.route.Forwarded = choice(b, annForwarded, map[string]tsujiv1.ForwardedPolicy{
		"append":  tsujiv1.ForwardedPolicy_FORWARDED_POLICY_APPEND,
		"replace": tsujiv1.ForwardedPolicy_FORWARDED_POLICY_REPLACE,
		"if-none": tsujiv1.ForwardedPolicy_FORWARDED_POLICY_IF_NONE,
		"never":   tsujiv1.ForwardedPolicy_FORWARDED_POLICY_NEVER,
	})
}

func (b *builder) rewrite() {
	s, ok := b.annotation(annRewriteTarget)
	if !ok {
		return
	}
	if len(s) > maxPath || !plainTarget.MatchString(s) {
		b.notUnderstood(annRewriteTarget,
			"a plain path that begins with /, of letters, digits, . _ ~ ! $ & ( ) * + , ; = : @ - and percent-encoded bytes", "the path is not rewritten")
		return
	}
	b.route.Rewrite = &tsujiv1.PathRewrite{Target: s}
	b.inForce(annRewriteTarget)
}
