package render

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// Named defaults sections that are not a route's.
const (
	profileOwn    = "plain"      // of the backends that are the program's own
	profileClient = "client"     // of the frontends for clients
	profileTunnel = "tunnel"     // of the way from where TLS comes in to where it ends
	profileStats  = "monitoring" // of the frontend for probes and metrics
)

// profile is the named defaults section that a route's backend is made from: what HAProxy does for it, but for
// what the maps of options say. Routes of equal profiles share one.
//
// Those that are likely are always there (common), so that a route of theirs comes at run time. Another one
// comes with a reload, and is remembered.
type profile struct {
	tcp     bool
	policy  tsujiv1.ForwardedPolicy // never unspecified, once it is resolved; http only
	balance string
	cookie  bool          // http only
	options bool          // the route has entries in the maps of options, besides its cookie
	names   bool          // header names are written as the Settings list them; http only
	tunnel  time.Duration // one of tunnels; 0: the Settings'; tcp only, where it cannot be data

	// Rules that cannot be data: lines, each indented and ended. http only.
	rewrite, request, response string
}

// policyNames are the parts of profiles' names, and the policies that there are.
var policyNames = map[tsujiv1.ForwardedPolicy]string{
	tsujiv1.ForwardedPolicy_FORWARDED_POLICY_APPEND:  "append",
	tsujiv1.ForwardedPolicy_FORWARDED_POLICY_REPLACE: "replace",
	tsujiv1.ForwardedPolicy_FORWARDED_POLICY_IF_NONE: "if-none",
	tsujiv1.ForwardedPolicy_FORWARDED_POLICY_NEVER:   "never",
}

var balances = []string{"random", "roundrobin", "leastconn", "source"}

// tunnels are the timeouts that passthrough routes can have, in order: HAProxy reads none from a map, so that each is
// structure, and what a route asks for is rounded up to one of these. From a second on that is less than half as much
// again.
var tunnels = []time.Duration{
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	1 * time.Second, 1500 * time.Millisecond, 2 * time.Second, 3 * time.Second, 4 * time.Second, 5 * time.Second, 7 * time.Second,
	10 * time.Second, 15 * time.Second, 20 * time.Second, 30 * time.Second, 45 * time.Second,
	1 * time.Minute, 90 * time.Second, 2 * time.Minute, 3 * time.Minute, 4 * time.Minute, 5 * time.Minute, 7 * time.Minute,
	10 * time.Minute, 15 * time.Minute, 20 * time.Minute, 30 * time.Minute, 45 * time.Minute,
	1 * time.Hour, 90 * time.Minute, 2 * time.Hour, 3 * time.Hour, 4 * time.Hour, 6 * time.Hour, 8 * time.Hour,
	12 * time.Hour, 18 * time.Hour, 24 * time.Hour, 36 * time.Hour, 48 * time.Hour, 72 * time.Hour,
	4 * 24 * time.Hour, 6 * 24 * time.Hour, 8 * 24 * time.Hour, 12 * 24 * time.Hour, 18 * 24 * time.Hour, maxTimeout,
}

// tunnelFor returns the shortest of tunnels that is not shorter than a timeout.
func tunnelFor(d time.Duration) time.Duration {
	i, _ := slices.BinarySearch(tunnels, d)
	return tunnels[min(i, len(tunnels)-1)]
}

// common returns the profiles that are always there. names: the Settings list header names.
func commonProfiles(names bool) []profile {
	var list []profile
	cases := []bool{false}
	if names {
		cases = append(cases, true)
	}
	for _, balance := range balances {
		for _, options := range []bool{false, true} {
			list = append(list, profile{tcp: true, balance: balance, options: options})
			for _, tunnel := range tunnels {
				list = append(list, profile{tcp: true, balance: balance, options: options, tunnel: tunnel})
			}
			for policy := range policyNames {
				for _, cookie := range []bool{false, true} {
					for _, n := range cases {
						list = append(list, profile{policy: policy, balance: balance, cookie: cookie, options: options,
							names: n})
					}
				}
			}
		}
	}
	return list
}

// common tells whether the profile is one of commonProfiles.
func (p profile) common(names bool) bool {
	return !p.free() && (names || !p.names)
}

// free tells whether the profile has rules of a route's own.
func (p profile) free() bool { return p.rewrite != "" || p.request != "" || p.response != "" }

// name returns the section's name. Rules of a route's own are told by their digest, which is long enough that
// nobody finds two that share one.
func (p profile) name() string {
	parts := make([]string, 0, 7)
	if p.tcp {
		parts = append(parts, "tcp", p.balance)
	} else {
		parts = append(parts, "http", policyNames[p.policy], p.balance)
	}
	for _, x := range []struct {
		is   bool
		name string
	}{{p.cookie, "cookie"}, {p.options, "options"}, {p.names, "case"}} {
		if x.is {
			parts = append(parts, x.name)
		}
	}
	if p.tunnel != 0 {
		parts = append(parts, "tunnel", milliseconds(p.tunnel))
	}
	if p.free() {
		sum := sha256.Sum256([]byte(p.rewrite + "\x00" + p.request + "\x00" + p.response))
		parts = append(parts, hex.EncodeToString(sum[:16]))
	}
	return strings.Join(parts, "-")
}

// text returns the section. The order of rules is that of OpenShift's router where it shows: limits,
// forwarding headers, rewrite, HSTS, header actions; HAProxy looks for the sticky cookie after all of them.
func (p profile) text(name string, base program, v Version) string {
	var b strings.Builder
	b.WriteString("\ndefaults " + name + "\n")
	if p.tcp {
		b.WriteString(base.tcp)
	} else {
		b.WriteString(base.http)
	}
	b.WriteString("  balance " + p.balance + "\n")
	if p.balance == "source" {
		b.WriteString("  hash-type consistent\n") // endpoints may come and go
	}
	if p.tunnel != 0 {
		b.WriteString("  timeout tunnel " + milliseconds(p.tunnel) + "\n")
	}
	if p.names {
		b.WriteString("  option h1-case-adjust-bogus-server\n")
	}
	if p.cookie {
		b.WriteString("  cookie " + ownCookie + " insert indirect nocache httponly\n")
	}
	if p.tcp && hasSuspects(v) {
		b.WriteString(tcpSuspectRules)
	}
	if p.options {
		b.WriteString(guardRules(p.tcp))
	}
	if p.tcp {
		return b.String()
	}
	b.WriteString(forwardedRules(p.policy))
	b.WriteString(p.rewrite)
	if p.options {
		b.WriteString(optionRules(v))
	}
	b.WriteString(p.request)
	b.WriteString(p.response)
	if p.cookie {
		b.WriteString(cookieRules)
	}
	if hasSuspects(v) {
		// The lookup spares writing, and without one HAProxy would not know the map.
		b.WriteString("  http-after-response set-map(" + mapSuspects + ") %[be_name] 1" +
			" if { txn.conn_retries gt 0 } !{ be_name,map_str(" + mapSuspects + ") -m found }\n")
	}
	return b.String()
}

// tcpSuspectRules count, of a backend, in gpc0 the connections that were answered after another try, and in gpc1 those
// since the last answer: when all tries have failed there is no response, and no rule.
const tcpSuspectRules = "" +
	"  tcp-request content set-var(txn.be) be_name\n" + // which for tracking HAProxy takes for something that it may have to wait for
	"  tcp-request content track-sc1 var(txn.be) table " + backendSuspects + "\n" +
	"  tcp-request content sc-inc-gpc1(1)\n" +
	"  tcp-response content set-var(txn.answered) sc_clr_gpc1(1)\n" +
	"  tcp-response content sc-inc-gpc0(1) if { txn.conn_retries gt 0 }\n"

// hasSuspects tells whether a release can say which backends had to try again. 2.6 cannot, and those between were
// not tried.
func hasSuspects(v Version) bool { return v.AtLeast(3, 0) }

// ownCookie is the sticky cookie's name inside of HAProxy, where it must be the same for all routes. Clients
// see the route's. One that sends this name may at most choose among the endpoints for itself; no application
// should have a cookie of this name.
const ownCookie = "TSUJI_ENDPOINT"

// theRoute is the name that the maps of options have for the backend: Logical, in rules.
const theRoute = "be_name,field(1,:,3)"

// limitLetters say, among a route's options, which of the limits it has: of connections, of connections in 3 s, of
// requests in 10 s.
var limitLetters = [...]string{"C", "N", "P"}

// guardRules read the options, and say who may come in and how often. A source is 32 digits, IPv4 in its place
// within IPv6, so that one kind of key does for both. A route with a list that names nobody has no keys. Over
// the limit of requests the connection is closed, or the route has a status for it.
func guardRules(tcp bool) string {
	verb := "http-request"
	if tcp {
		verb = "tcp-request content"
	}
	var b strings.Builder
	rule := func(action, condition string) {
		b.WriteString("  " + verb + " " + action)
		if condition != "" {
			b.WriteString(" if " + condition)
		}
		b.WriteString("\n")
	}
	const limited = "{ var(req.lim) -m found }"
	rule("set-var(txn.id) "+theRoute, "")
	rule("set-var(txn.opt) var(txn.id),map_str("+mapOptions+")", "")
	rule("set-var(req.src) src,hex", "{ var(txn.opt) -m sub A L }")
	rule("set-var(req.src) str("+v4Prefix+"),concat(,req.src)", "{ var(req.src) -m len 8 }")
	rule("reject", "{ var(txn.opt) -m sub A } !{ var(txn.id),concat(|,req.src),map_beg("+mapAllow+") -m found }")
	rule("set-var(req.lim) var(txn.id),map_str("+mapLimits+")", "{ var(txn.opt) -m sub L }")
	// A client has an IPv6 network of 64 bits, at least, and as many addresses in it as it likes.
	rule("set-var(req.src) var(req.src),bytes(0,16)", limited+" !{ var(req.src) -m beg "+v4Prefix+" "+nat64Prefix+" }")
	rule("set-var(req.rate) var(txn.id),concat(|,req.src),sha1", limited)
	rule("track-sc2 var(req.rate) table "+backendRates, limited)
	// Each of the three limits costs what a route has of them: what none has is not even read.
	read := func(i int) {
		rule(fmt.Sprintf("set-var(req.l%d) var(req.lim),field(%d,|)", i, i),
			"{ var(txn.opt) -m sub "+limitLetters[i-1]+" }")
	}
	read(1)
	rule("reject", "{ var(req.l1) -m found } { sc_conn_cur(2),sub(req.l1) ge 0 }")
	read(2)
	rule("reject", "{ var(req.l2) -m found } { sc_conn_rate(2),sub(req.l2) ge 0 }")
	if tcp {
		return b.String()
	}
	const over = " { sc_http_req_rate(2),sub(req.l3) gt 0 }" // the request itself is counted
	read(3)
	for _, code := range denyCodes {
		rule(fmt.Sprintf("deny deny_status %d", code), fmt.Sprintf("{ var(txn.opt) -m sub %d }", code)+over)
	}
	rule("reject", "{ var(req.l3) -m found }"+over)
	return b.String()
}

// optionRules do what the other options say.
func optionRules(v Version) string {
	s := "  http-request set-timeout server var(txn.id),map_str_int(" + mapTimeoutServer + ") if { var(txn.opt) -m sub S }\n" +
		"  http-request set-timeout tunnel var(txn.id),map_str_int(" + mapTimeoutTunnel + ") if { var(txn.opt) -m sub T }\n"
	if rewriteIsData(v) {
		s += "  http-request set-var(req.rw) var(txn.id),map_str(" + mapRewrite + ") if { var(txn.opt) -m sub W }\n" +
			"  http-request set-var(req.cut) var(req.rw),field(1,|),add(0) if { var(req.rw) -m found }\n" +
			"  http-request set-path %[var(req.rw),field(2,|,0),url_dec]%[path,bytes(req.cut)] if { var(req.rw) -m found }\n"
	}
	s += "  http-response set-header Strict-Transport-Security %[var(txn.id),map_str(" + mapHSTS + "),url_dec]" +
		" if { var(txn.opt) -m sub H } { var(txn.id),map_str(" + mapHSTS + ") -m found }\n" // it may have gone since the request
	if headersAreData(v) {
		for _, x := range []struct{ action, file, letter string }{
			{"http-request del-headers-bin", mapRequestDel, "q"}, {"http-request set-headers-bin", mapRequestSet, "Q"},
			{"http-response del-headers-bin", mapResponseDel, "r"}, {"http-response set-headers-bin", mapResponseSet, "R"},
		} {
			s += fmt.Sprintf("  %s var(txn.id),map_str(%s),b64dec if { var(txn.opt) -m sub %s }\n", x.action, x.file,
				x.letter)
		}
	}
	return s
}

// cookieRules give the route's cookie HAProxy's own name on its way in, where it stands, so that HAProxy takes
// it out and the others reach the endpoint; and the route's name and attributes on its way out. They are for
// backends that were added at run time: in haproxy.cfg the cookie is said in the backend's section, which costs a
// request less and comes to the same: each cookie of the name is taken out, and the first that names a server that is
// there chooses it; one that the endpoint sets is taken out, too.
//
// A client sends one Cookie header (RFC 6265); several become one (RFC 9113). An answer that is on its way when its
// route goes keeps HAProxy's own name for the cookie, which does no harm.
const cookieRules = "" +
	"  http-request set-var(req.ckn) " + cookieOfRoute + " if { req.fhdr_cnt(cookie) gt 0 }\n" +
	"  http-request set-header Cookie '" + `%[req.hdrs,regsub("` + cookieLines + `","\1; ",ig),rtrim("; ")]` +
	"' if { var(req.ckn) -m found } { req.fhdr_cnt(cookie) gt 1 }\n" +
	"  http-request set-var(req.ck) '" + `req.fhdr(cookie),concat(|,req.ckn),regsub("` + cookieNamed + `","\1` + ownCookie + `=\4",g)` +
	"' if { var(req.ckn) -m found }\n" +
	"  http-request set-header Cookie %[var(req.ck),field(-2,|,0)] if { var(req.ck) -m sub " + ownCookie + "= }\n" +
	"  http-response replace-header Set-Cookie '^(.*)$' '%[" + cookieOfRoute + "]|" + ownCookie + "=|\\1' if { res.fhdr_cnt(set-cookie) gt 0 }\n" +
	"  http-response replace-header Set-Cookie '" + cookieSet + "' '\\2\\3' if { res.fhdr_cnt(set-cookie) gt 0 }\n" +
	"  http-after-response replace-header Set-Cookie '^" + ownCookie + "=(.*)$' " +
	"'%[" + theRoute + ",map_str(" + mapCookies + "," + ownCookie + "|),field(1,|)]=\\1%[" + theRoute + ",map_str(" + mapCookies + "),field(2,|),url_dec]'\n"

// cookieOfRoute is the name of the route's cookie.
const cookieOfRoute = theRoute + ",map_str(" + mapCookies + "),field(1,|)"

// Expressions that cookieRules read with, all of them linear: what has matched is not tried again. They have no quotes
// and no backslashes as such, which HAProxy would take for its own.
const (
	// cookieLines matches a header's lines up to the next Cookie, and those after it that are none.
	cookieLines = `\G` + otherLines + `cookie:[ \t]*+([^\x0d\x0a]*+)\x0d\x0a` + otherLines
	otherLines  = `(?:(?!cookie:)[^\x0d\x0a]*+\x0d\x0a)*+`

	// cookieNamed matches, of "cookies|NAME", what there is up to the next cookie of that name, the name, and the
	// value. Cookies are taken apart as HAProxy does it: at a ";" or ",", but in values in quotes; blanks count for
	// nothing around names; and a name that begins with "$" is none.
	cookieNamed = `(?s)\G([,;]?(?:(?!` + cookieBlank + `(` + cookieName + `)` + cookieBlank + `=(?>.*[|])\2$)[^=,;]*+(?:=` + cookieValue + `)?+[,;])*+` +
		cookieBlank + `)(` + cookieName + `)` + cookieBlank + `=(?=(?>.*[|])\3$)(` + cookieValue + `)`
	// cookieSet matches "NAME|own name=|what an endpoint sets", and what is left of it: the own name of a cookie of
	// that name, all that is set of another.
	cookieSet = `^([^|]*)[|](?:([^|]*)[|][ \t]*\1[ \t]*=.*|[^|]*[|](.*))$`

	cookieBlank = `[ \t]*+`
	cookieName  = `[^$ \t=,;][^ \t=,;]*+`
	cookieValue = `(?:[^\x22,;]|\x22(?:[^\x22\x5c]|\x5c.)*+\x22?)*+`
)

// forwardedRules are the headers that say where a request came from (OpenShift's router, the same for each
// policy).
func forwardedRules(policy tsujiv1.ForwardedPolicy) string {
	var b strings.Builder
	verb, guard := "add-header", func(string) string { return "" }
	switch policy {
	case tsujiv1.ForwardedPolicy_FORWARDED_POLICY_REPLACE:
		verb = "set-header"
		b.WriteString("  http-request set-header X-Forwarded-For %[src]\n")
	case tsujiv1.ForwardedPolicy_FORWARDED_POLICY_IF_NONE:
		verb = "set-header"
		guard = func(h string) string { return " !{ req.hdr(" + h + ") -m found }" }
		b.WriteString("  option forwardfor if-none\n")
	case tsujiv1.ForwardedPolicy_FORWARDED_POLICY_NEVER:
		return ""
	default:
		b.WriteString("  option forwardfor\n")
	}
	set := func(header, value, when string) {
		cond := strings.TrimSpace(when + guard(header))
		if cond != "" {
			cond = " if " + cond
		}
		fmt.Fprintf(&b, "  http-request %s %s %s%s\n", verb, header, value, cond)
	}
	set("X-Forwarded-Host", "%[req.hdr(host)]", "")
	set("X-Forwarded-Port", "%[dst_port]", "")
	// Both values of one header hang on ssl_fc alone: the first to be set does not hide the other.
	set("X-Forwarded-Proto", "http", "!{ ssl_fc }")
	set("X-Forwarded-Proto", "https", "{ ssl_fc }")
	set("X-Forwarded-Proto-Version", "h2", "{ ssl_fc_alpn -i h2 }")
	rest := "host=%[req.hdr(host)];proto=%[ssl_fc,iif(https,http)]"
	if policy == tsujiv1.ForwardedPolicy_FORWARDED_POLICY_IF_NONE { // the client's word counts
		rest = "host=%[req.hdr(host)];proto=%[req.hdr(X-Forwarded-Proto)]"
	}
	set("Forwarded", `'for="[%[src]]";`+rest+"'", "{ src -m sub : }")
	set("Forwarded", "'for=%[src];"+rest+"'", "!{ src -m sub : }")
	return b.String()
}
