package render

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// Maps of options. Keys begin with the backend's name as Backend has it; no value has a blank, and none is
// longer than maxData.
const (
	mapOptions       = "maps/options.map" // backend → letters, one for each map that it is in; limitLetters
	mapCookies       = "maps/cookies.map" // backend → name|attributes, percent-encoded
	mapAllow         = "maps/allow.map"   // backend|digits that an allowed source begins with → 1
	mapLimits        = "maps/limits.map"  // backend → connections|in 3 s|requests in 10 s
	mapTimeoutServer = "maps/timeout_server.map"
	mapTimeoutTunnel = "maps/timeout_tunnel.map"
	mapRewrite       = "maps/rewrite.map" // backend → bytes to cut off|what to put there, percent-encoded
	mapHSTS          = "maps/hsts.map"    // backend → value, percent-encoded
	mapRequestSet    = "maps/request_set.map"
	mapRequestDel    = "maps/request_del.map"
	mapResponseSet   = "maps/response_set.map"
	mapResponseDel   = "maps/response_del.map"

	// mapSuspects is written by HAProxy: backends that had to try again. Its file stays empty.
	mapSuspects = "maps/suspects.map"
)

// optionMaps returns the maps of options that a release has, sorted.
func optionMaps(v Version) []string {
	list := []string{mapAllow, mapCookies, mapHSTS, mapLimits, mapOptions, mapTimeoutServer, mapTimeoutTunnel}
	if rewriteIsData(v) {
		list = append(list, mapRewrite)
	}
	if headersAreData(v) {
		list = append(list, mapRequestSet, mapRequestDel, mapResponseSet, mapResponseDel)
	}
	slices.Sort(list)
	return list
}

// rewriteIsData tells whether a release can cut off a number of bytes that a variable holds.
func rewriteIsData(v Version) bool { return v.AtLeast(3, 0) }

// headersAreData tells whether a release can change headers whose names it learns at run time.
func headersAreData(v Version) bool { return v.AtLeast(3, 4) }

// maxData is the longest value of an entry: it must fit a line of a map and a command.
const maxData = 6000

// noLimit stands in limits.map where there is none, and nobody reads it but while options change. It is larger than any
// counter.
const noLimit = "4294967296"

// data collects what of a route is data, and what must be rules.
type data struct {
	route   *route
	version Version
	entries []Entry
	letters string
	profile profile
}

func (d *data) put(file, value string) {
	d.entries = append(d.entries, Entry{File: file, Key: d.route.backend, Value: value})
}

// option adds an option: its letter, and its value.
func (d *data) option(letter, file, value string) {
	d.letters += letter
	d.put(file, value)
}

// readOptions splits the route's options into entries of maps and a profile.
func (r *route) readOptions(v Version) error {
	d := &data{route: r, version: v, profile: profile{tcp: r.passthrough()}}
	steps := []func() error{d.balance, d.allow, d.limits, d.timeouts}
	if !r.passthrough() {
		steps = append(steps, d.forwarded, d.rewrite, d.cookie, d.hsts, d.headers)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	if d.letters != "" {
		d.profile.options = true
		d.put(mapOptions, d.letters)
	}
	slices.SortFunc(d.entries, compareEntries)
	r.entries, r.wanted = d.entries, d.profile
	return nil
}

// balance chooses the algorithm. OpenShift's router, where the route does not say: roundrobin for several
// Services, else random, and source for passthrough.
func (d *data) balance() error {
	services := 0
	for _, ref := range d.route.spec.GetBackends() {
		if ref.GetWeight() > 0 {
			services++
		}
	}
	switch b := d.route.spec.GetBalance(); b {
	case tsujiv1.Balance_BALANCE_UNSPECIFIED:
		switch {
		case services > 1:
			d.profile.balance = "roundrobin"
		case d.route.passthrough():
			d.profile.balance = "source"
		default:
			d.profile.balance = "random"
		}
	case tsujiv1.Balance_BALANCE_ROUND_ROBIN:
		d.profile.balance = "roundrobin"
	case tsujiv1.Balance_BALANCE_LEAST_CONNECTIONS:
		d.profile.balance = "leastconn"
	case tsujiv1.Balance_BALANCE_SOURCE:
		d.profile.balance = "source"
	case tsujiv1.Balance_BALANCE_RANDOM:
		d.profile.balance = "random"
	default:
		return fmt.Errorf("balance %d is not known", b)
	}
	return nil
}

func (d *data) forwarded() error {
	p := d.route.spec.GetForwarded()
	if p != tsujiv1.ForwardedPolicy_FORWARDED_POLICY_UNSPECIFIED && policyNames[p] == "" {
		return fmt.Errorf("forwarded policy %d is not known", p)
	}
	d.profile.policy = p
	d.profile.names = d.route.spec.GetAdjustHeaderCase()
	return nil
}

// allow lets only the sources in; an empty list lets nobody in.
func (d *data) allow() error {
	if !d.route.spec.GetRestrictSources() {
		return nil
	}
	keys, err := sources(d.route.spec.GetAllowedSources())
	if err != nil {
		return err
	}
	d.letters += "A"
	for _, k := range keys {
		d.entries = append(d.entries, Entry{File: mapAllow, Key: d.route.backend + "|" + k, Value: "1"})
	}
	return nil
}

// denyCodes are the answers to requests over the limit.
var denyCodes = []uint32{403, 429, 503}

// limits count by source address, IPv4 and IPv6: OpenShift's count IPv4 only.
func (d *data) limits() error {
	l := d.route.spec.GetRateLimit()
	requests := l.GetRequestsPer_10S()
	if d.route.passthrough() {
		requests = 0
	}
	if l.GetConcurrentConnections() == 0 && l.GetConnectionsPer_3S() == 0 && requests == 0 {
		return nil
	}
	code := ""
	if c := l.GetDenyStatus(); c != 0 && requests != 0 {
		if !slices.Contains(denyCodes, c) {
			return fmt.Errorf("rate limit: status %d: want one of %v", c, denyCodes)
		}
		code = strconv.FormatUint(uint64(c), 10)
	}
	letters := "L" + code
	var parts []string
	for i, n := range []uint32{l.GetConcurrentConnections(), l.GetConnectionsPer_3S(), requests} {
		if n == 0 {
			parts = append(parts, noLimit)
			continue
		}
		parts = append(parts, strconv.FormatUint(uint64(n), 10))
		letters += limitLetters[i]
	}
	d.option(letters, mapLimits, strings.Join(parts, "|"))
	return nil
}

func (d *data) timeouts() error {
	t := d.route.spec.GetTimeouts()
	tunnel := t.GetTunnel()
	if d.route.passthrough() && tunnel == nil {
		tunnel = t.GetServer() // OpenShift's router: there is only one timeout
	}
	if t.GetServer() != nil && !d.route.passthrough() {
		v, err := millis("server timeout", t.GetServer(), 0)
		if err != nil {
			return err
		}
		d.option("S", mapTimeoutServer, strings.TrimSuffix(v, "ms"))
	}
	if tunnel == nil {
		return nil
	}
	v, err := millis("tunnel timeout", tunnel, 0)
	if err != nil {
		return err
	}
	if d.route.passthrough() {
		d.profile.tunnel = tunnelFor(tunnel.AsDuration())
		return nil
	}
	d.option("T", mapTimeoutTunnel, strings.TrimSuffix(v, "ms"))
	return nil
}

// rewrite replaces the route's path by the target. As in OpenShift's router the target "/" also takes
// the slash that follows the path, so that /foo/bar under /foo becomes /bar; any other target is put
// before what follows the path. The path itself is only counted, never written: it cannot be a pattern.
func (d *data) rewrite() error {
	if d.route.spec.GetRewrite() == nil {
		return nil
	}
	target, path := d.route.spec.GetRewrite().GetTarget(), d.route.path
	if err := checkPath("rewrite target", target); err != nil {
		return err
	}
	n := len(path)
	switch {
	case d.route.spec.GetExact(): // nothing follows the path
	case path == "/" && target == "/":
		return nil
	case path == "/" && !strings.HasSuffix(target, "/"):
		n = 0 // its slash goes on: /base/x, where OpenShift's router makes /basex
	case target == "/" && !strings.HasSuffix(path, "/"):
		n++ // the slash after the path, if the path goes on
	}
	if rewriteIsData(d.version) {
		d.option("W", mapRewrite, fmt.Sprintf("%d|%s", n, percent(target)))
		return nil
	}
	d.profile.rewrite = "  http-request set-path " + quoted(fmt.Sprintf("%s%%[path,bytes(%d)]", literal(target), n)) + "\n"
	return nil
}

func (d *data) cookie() error {
	c := d.route.spec.GetCookie()
	if c.GetName() == "" {
		return nil
	}
	if err := checkCookieName("cookie", c.GetName()); err != nil {
		return err
	}
	attributes := ""
	if c.GetSecure() {
		attributes += "; Secure"
	}
	switch s := c.GetSameSite(); s {
	case "":
	case "Lax", "Strict", "None":
		attributes += "; SameSite=" + s
	default:
		return refuse("cookie: SameSite", s, "Lax, Strict or None")
	}
	d.profile.cookie = true
	d.route.cookie = c.GetName() + "|" + percent(attributes)
	d.put(mapCookies, d.route.cookie)
	return nil
}

// cookieLine returns what a backend's section says of the sticky cookie, from what the map says.
func cookieLine(cookie string) string {
	name, attributes, _ := strings.Cut(cookie, "|")
	line := "  cookie " + name + " insert indirect nocache httponly"
	if strings.HasPrefix(attributes, percent("; Secure")) {
		line += " secure"
	}
	if _, sameSite, ok := strings.Cut(attributes, percent("; SameSite=")); ok {
		line += " attr SameSite=" + sameSite
	}
	return line + "\n"
}

func (d *data) hsts() error {
	v := d.route.spec.GetHsts()
	if v == "" || !d.route.terminated() {
		return nil
	}
	if err := checkHSTS(v); err != nil {
		return err
	}
	d.option("H", mapHSTS, percent(v))
	return nil
}

// headers are data where HAProxy can set headers by names that it is given, and rules where it cannot, or
// where a value is read from the message.
func (d *data) headers() error {
	spec := d.route.spec
	for _, side := range []struct {
		what, rule, fetch, set, del, letters string
		actions                              []*tsujiv1.HeaderAction
		rules                                *string
	}{
		{"request", "http-request", "req.hdr", mapRequestSet, mapRequestDel, "Qq", spec.GetRequestHeaders(), &d.profile.request},
		{"response", "http-response", "res.hdr", mapResponseSet, mapResponseDel, "Rr", spec.GetResponseHeaders(), &d.profile.response},
	} {
		var rules strings.Builder
		if err := headerActions(&rules, side.rule, side.fetch, side.actions); err != nil {
			return fmt.Errorf("%s: %w", side.what, err)
		}
		set, del, ok := headerData(side.actions)
		if !ok || !headersAreData(d.version) {
			*side.rules = rules.String()
			continue
		}
		if set != "" {
			d.option(side.letters[:1], side.set, set)
		}
		if del != "" {
			d.option(side.letters[1:], side.del, del)
		}
	}
	return nil
}

// headerData returns changes of headers as HAProxy's set-headers-bin and del-headers-bin read them, in base64:
// names and values, each after its length, with lengths of 0 at the end. That is not possible for a value
// that is read from the message, where the order of all counts, or if it is too long. Of several actions on one name
// the last is all that is seen.
func headerData(actions []*tsujiv1.HeaderAction) (set, del string, ok bool) {
	var sets, dels []byte
	last := map[string]int{}
	for i, a := range actions {
		last[strings.ToLower(a.GetName())] = i
	}
	for i, a := range actions {
		if last[strings.ToLower(a.GetName())] != i {
			continue
		}
		if len(a.GetValue()) == 0 {
			dels = appendText(dels, a.GetName())
			continue
		}
		value := ""
		for _, p := range a.GetValue() {
			l, literal := p.GetPart().(*tsujiv1.HeaderValuePart_Literal)
			if !literal {
				return "", "", false
			}
			value += l.Literal
		}
		sets = appendText(appendText(sets, a.GetName()), value)
	}
	if len(sets) > 0 {
		set = base64.StdEncoding.EncodeToString(append(sets, 0, 0))
	}
	if len(dels) > 0 {
		del = base64.StdEncoding.EncodeToString(append(dels, 0))
	}
	return set, del, len(set) <= maxData && len(del) <= maxData
}

// appendText appends a text after its length, in the encoding of HAProxy's peers protocol: below 240 one byte;
// else four bits beside a mark, and then seven in each byte but the last.
func appendText(b []byte, s string) []byte {
	n := len(s)
	if n < 240 {
		b = append(b, byte(n))
	} else {
		b = append(b, byte(n)|240)
		n = (n - 240) >> 4
		for n >= 128 {
			b = append(b, byte(n)|128)
			n = (n - 128) >> 7
		}
		b = append(b, byte(n))
	}
	return append(b, s...)
}

// percent writes text without blanks and without anything that means something to a map, a command or a
// URL; HAProxy's url_dec reads it back.
func percent(s string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; isAlnum(c) || strings.IndexByte("/._-=,", c) >= 0 {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}
