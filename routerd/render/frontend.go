package render

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// Names of the program's own sections, as OpenShift's router has them: dashboards know them.
const (
	frontendHTTP   = "public"
	frontendTLS    = "public_ssl" // sees TLS from outside: passes it through, or on to the next
	backendTLS     = "be_sni"
	frontendHTTPS  = "fe_sni" // ends TLS
	frontendStats  = "stats"
	defaultBackend = "openshift_default"

	backendMetrics  = "be_routerd_metrics"
	backendRates    = "rates"           // its table counts for rate limits
	backendSuspects = "suspects"        // its table counts what backends of passthrough routes had to try again
	backendCAs      = "ca_certificates" // names the files that routes verify endpoints with
)

// public writes the frontend for plain HTTP.
func (w *writer) public() {
	w.line("\nfrontend %s from %s", frontendHTTP, profileClient)
	w.binds(w.o.HTTP)
	w.httpRules(mapHTTP, mapHTTPWildcard, true)
}

// binds writes the lines of addresses that clients connect to.
func (w *writer) binds(addresses []string) {
	proxy := ""
	if w.s.GetProxyProtocol() {
		proxy = " accept-proxy"
	}
	for _, a := range addresses {
		address, err := bindAddress(a)
		w.check(err)
		w.line("  bind %s%s", address, proxy)
	}
}

// tlsSocket returns the path of the socket that joins frontendTLS to frontendHTTPS: as it is bound, before
// HAProxy changes its root, and as it is connected to, after.
func (o Options) tlsSocket() (bind, connect string) {
	if o.Jail {
		return fmt.Sprintf("unix@run/jail/tls.sock mode 600 uid %d gid %d", o.User, o.Group), "unix@/tls.sock"
	}
	return "unix@run/tls.sock mode 600", "unix@run/tls.sock"
}

// passTLS writes the frontend for TLS where some of it is passed through. The server name decides, before
// anything is decrypted: a host with a passthrough route is passed through, every other goes on to where TLS
// ends; never the other way round.
func (w *writer) passTLS() {
	t := w.s.GetTimeouts()
	w.line("\nfrontend %s", frontendTLS+" from "+profileClient)
	w.line("  mode tcp")
	if w.s.GetAccessLog() != nil {
		w.line("  option tcplog")
	}
	w.binds(w.o.HTTPS)
	v, err := millis("TLS inspect delay", t.GetTlsInspectDelay(), 5*time.Second)
	w.check(err)
	w.line("  tcp-request inspect-delay %s", v)
	w.line("  tcp-request content set-var(txn.tcp) req.ssl_sni,lower,map_str(%s) if { req.ssl_hello_type 1 }", mapTCP)
	w.line("  tcp-request content set-var(txn.tcp) req.ssl_sni,lower,field(2,.,0),map_str(%s)"+
		" if { req.ssl_hello_type 1 } !{ var(txn.tcp) -m found }", mapTCPWildcard)
	w.line("  tcp-request content accept if { req.ssl_hello_type 1 }")
	w.line("  use_backend %%[var(txn.tcp)] if { var(txn.tcp) -m beg be_tcp: }")
	w.line("  default_backend %s", backendTLS)

	_, connect := w.o.tlsSocket()
	w.line("\ndefaults %s", profileTunnel)
	w.serverProfile("tcp")
	w.line("\nbackend %s from %s", backendTLS, profileTunnel)
	w.line("  timeout tunnel 24d") // the frontend behind it has its own, and a route's may be longer
	w.line("  server %s %s send-proxy-v2", frontendHTTPS, connect)
}

// endTLS writes the frontend where TLS ends: on the addresses themselves, or behind passTLS. All addresses
// are one bind line, so that each certificate is held once.
func (w *writer) endTLS(clients clientFiles, behind bool) {
	w.line("\nfrontend %s from %s", frontendHTTPS, profileClient)
	address, _ := w.o.tlsSocket()
	proxy := " accept-proxy"
	if !behind {
		address = w.addresses(w.o.HTTPS)
		if !w.s.GetProxyProtocol() {
			proxy = ""
		}
	}
	alpn := "http/1.1"
	if w.s.GetHttp2() {
		alpn = "h2,http/1.1"
	}
	w.line("  bind %s%s ssl crt %s crt-list %s alpn %s%s", address, proxy, defaultPairPath, crtListPath, alpn, w.verifyClients(clients))
	w.clientCertificateRules()
	w.httpRules(mapHTTPS, mapHTTPSWildcard, false)
}

// addresses returns several addresses for one bind line.
func (w *writer) addresses(list []string) string {
	var all []string
	only6 := ""
	for _, a := range list {
		address, err := bindAddress(a)
		w.check(err)
		if one, ok := strings.CutSuffix(address, " v6only"); ok {
			address, only6 = one, " v6only"
		}
		all = append(all, address)
	}
	return strings.Join(all, ",") + only6
}

// verifyClients returns what a bind line says to ask for certificates of clients. Where there is no CA to verify
// them with, none is asked for.
func (w *writer) verifyClients(files clientFiles) string {
	c := w.s.GetClientTls()
	if files.ca == "" {
		return ""
	}
	verify := "optional"
	if c.GetRequired() {
		verify = "required"
	}
	line := " verify " + verify + " ca-file " + files.ca
	if files.lists != "" {
		line += " crl-file " + files.lists
	}
	return line
}

// clientCertificateRules lets in only subjects that match, and tells endpoints who came, in headers that no
// client can send itself (httpRules removes them, unless the Settings keep them). Where each client must have a
// certificate, and there is no CA to verify one with, it lets in nobody.
func (w *writer) clientCertificateRules() {
	c := w.s.GetClientTls()
	if c == nil {
		return
	}
	if c.GetRequired() && c.GetCa() == "" {
		w.line("  http-request deny deny_status 503")
		return
	}
	if patterns := c.GetAllowedSubjectPatterns(); len(patterns) > 0 {
		for _, p := range patterns {
			if !w.check(checkText("subject pattern", p, maxText)) {
				return
			}
			if _, err := regexp.Compile(p); err != nil {
				w.check(fmt.Errorf("subject pattern: %w", err))
				return
			}
		}
		w.line("  acl client_allowed ssl_c_s_dn -m reg %s", quoted("(?:"+strings.Join(patterns, "|")+")"))
		w.line("  http-request deny if !client_allowed")
	}
}

// clientCertificateHeaders are OpenShift's router's.
func (w *writer) clientCertificateHeaders() {
	if w.s.GetClientTls() == nil {
		return
	}
	for _, h := range [][2]string{
		{"X-SSL", "%[ssl_fc]"},
		{"X-SSL-Client-Verify", "%[ssl_c_verify]"},
		{"X-SSL-Client-Serial", "%{+Q}[ssl_c_serial,hex]"},
		{"X-SSL-Client-Version", "%{+Q}[ssl_c_version]"},
		{"X-SSL-Client-SHA1", "%{+Q}[ssl_c_sha1,hex]"},
		{"X-SSL-Client-DN", "%{+Q}[ssl_c_s_dn]"},
		{"X-SSL-Client-CN", "%{+Q}[ssl_c_s_dn(cn)]"},
		{"X-SSL-Issuer", "%{+Q}[ssl_c_i_dn]"},
		{"X-SSL-Client-NotBefore", "%{+Q}[ssl_c_notbefore]"},
		{"X-SSL-Client-NotAfter", "%{+Q}[ssl_c_notafter]"},
		{"X-SSL-Client-DER", "%{+Q}[ssl_c_der,base64]"},
	} {
		w.line("  http-request set-header %s %s", h[0], h[1])
	}
}

// httpRules writes what every request goes through: hardening, the lookup, header changes, the backend.
// How many rules there are depends on the Settings, never on the routes.
//
// The lookup comes before the Settings' header changes: they cannot send a request elsewhere.
func (w *writer) httpRules(exact, wildcard string, plain bool) {
	// Without port and final dot. Of an IPv6 address in brackets a "[" is left, which is no route's host.
	host := "req.fhdr(host),lower,field(1,:),rtrim(.)"
	lookup := "concat(,txn.path,/" + pathEnd + "),map_beg(%s)"
	above := "var(txn.host),field(2,.,0)," + fmt.Sprintf(lookup, wildcard)

	// Not in the profile, which a frontend of mode tcp has too: HAProxy 2.6 would warn of it.
	if w.s.GetIgnoreEmptyRequests() {
		w.line("  option http-ignore-probes")
	}
	if w.s.GetIdleCloseOnResponse() {
		w.line("  option idle-close-on-response")
	}
	w.line("  http-request deny if { hdr_len(content-length) 0 }") // CVE-2023-40225
	w.refuseHosts()
	w.line("  http-request del-header Proxy") // httpoxy
	if !w.s.GetKeepClientTlsHeaders() {
		w.line("  http-request del-header X-SSL -m beg")
	}
	if !plain && w.s.GetHttp2() {
		// A connection that a client keeps for a host that only shares its certificate may have been made with other
		// settings than that host's own: the client is told to make another one.
		w.line("  http-request set-var(txn.host) %s if { fc_http_major 2 }", host)
		w.line("  http-request deny deny_status 421 if { fc_http_major 2 } { ssl_fc_sni -m found } !{ ssl_fc_sni,lower,strcmp(txn.host) eq 0 }")
	}
	if !plain {
		w.clientCertificateHeaders()
	}
	var changes strings.Builder
	w.check(headerActions(&changes, "http-request", "req.hdr", w.s.GetHeaders().GetRequest()))
	// Where the Host header is a route's host as it stands, one lookup is all: "allow" leaves the rules, or a condition
	// goes around the others if there are more to come. What says that there is no backend begins as none does.
	// Releases that do not refuse a list of hosts would take the first.
	open := ""
	if w.o.version().AtLeast(3, 0) {
		const known = "{ var(txn.route) -m beg be_ redirect: }"
		w.line("  http-request set-var(txn.route) %s", quoted("base,concat(/"+pathEnd+"),map_beg("+exact+")"))
		if changes.Len() == 0 {
			w.line("  http-request allow if %s", known)
		} else {
			open = " if !" + known
		}
	}
	w.line("  http-request set-header Host %%[req.fhdr(host),lower]%s { req.fhdr(host) -m found }", cmp.Or(open, " if"))
	w.line("  http-request set-var(txn.host) %s%s", host, open)
	w.line("  http-request set-var(txn.path) path%s", open)
	if !w.o.version().AtLeast(3, 0) { // finds no path where a URL has none; of OPTIONS that means "*"
		w.line("  http-request set-var(txn.path) str(/) if !{ var(txn.path) -m found } !METH_OPTIONS")
	}
	w.line("  http-request set-var(txn.route) %s%s", quoted("var(txn.host),"+fmt.Sprintf(lookup, exact)), open)
	whole := above
	if plain {
		whole += ",field(1,|)"
	}
	w.line("  http-request set-var(txn.route) %s if !{ var(txn.route) -m found } || { var(txn.route) -m str %s }", quoted(whole), noRoute)
	if plain { // last, for what it finds is not looked up again
		w.line("  http-request set-var(txn.route) %s if { var(txn.route) -m str %s }", quoted(above+",field(2,|)"), notPlain)
	}
	w.WriteString(changes.String())
	w.check(headerActions(&w.Builder, "http-response", "res.hdr", w.s.GetHeaders().GetResponse()))
	w.uniqueID()
	w.captures()
	w.line("  use_backend %%[var(txn.route)]")
	w.line("  default_backend %s", defaultBackend)
}

// refuseHosts answers 400 where what is looked up would not be what the endpoint is sent, or is asked for behind it.
func (w *writer) refuseHosts() {
	if !w.o.version().AtLeast(3, 0) {
		// A "/" in the host would name another path, of which the options would be used. 3.0 refuses all but these bytes, and
		// brackets elsewhere than around an address.
		w.line("  http-request deny deny_status 400 if { req.fhdr(host) -m reg '[^][!$-+.0-9:;=A-Z_a-z~-]' }")
		w.line("  http-request deny deny_status 400 if { url -m beg * } !{ url -m str * }") // it has no path
	}
	// Its target is a host and a port. HAProxy takes one with a path, sees none in it, and sends it on.
	w.line("  http-request deny deny_status 400 if METH_CONNECT { url -m sub / }")
	// What is asked for in HTTP/2 after an upgrade within HTTP/1 goes by every rule. 3.0 and later leave out an exact
	// "h2c"; an endpoint may be less exact. Without it the request is answered in HTTP/1.
	w.line("  http-request del-header Upgrade if { req.hdr(upgrade) -m sub -i h2 }")
}

func (w *writer) uniqueID() {
	h := w.s.GetHeaders()
	if h.GetUniqueIdHeader() == "" || h.GetUniqueIdFormat() == "" {
		return
	}
	if w.check(checkHeaderName("unique id header", h.GetUniqueIdHeader())) &&
		w.check(checkLogFormat("unique id format", h.GetUniqueIdFormat())) {
		w.line("  unique-id-format %s", quoted(h.GetUniqueIdFormat()))
		w.line("  unique-id-header %s", quoted(h.GetUniqueIdHeader()))
	}
}

// logTarget writes where access logs go. The level is OpenShift's.
func (w *writer) logTarget() {
	l := w.s.GetAccessLog()
	if l == nil {
		return
	}
	length := l.GetMaxLength()
	if length == 0 {
		length = 1024
	}
	if length < 80 || length > 65_335 {
		w.check(fmt.Errorf("access log: lines of %d bytes: want 80 to 65335", length))
	}
	facility := l.GetFacility()
	if facility == "" {
		facility = "local1"
	}
	if len(facility) > 16 || !only(facility, isLower) {
		w.check(refuse("access log: facility", facility, "a syslog facility"))
		return
	}
	if l.GetAddress() == "stdout" {
		w.line("  log stdout len %d format raw %s info", length, facility)
		return
	}
	if address, err := logAddress(l.GetAddress()); w.check(err) {
		w.line("  log %s len %d %s info\n  log-send-hostname", address, length, facility)
	}
}

func logAddress(a string) (string, error) {
	err := refuse("access log: address", a, "stdout, an absolute path, or host:port")
	if strings.HasPrefix(a, "/") {
		if len(a) > 100 || !only(a, isPathByte) {
			return "", err
		}
		return a, nil
	}
	if p, perr := netip.ParseAddrPort(a); perr == nil && p.Addr().Zone() == "" && p.Port() > 0 {
		return p.String(), nil
	}
	host, port, _ := strings.Cut(a, ":")
	if n, perr := strconv.ParseUint(port, 10, 16); perr != nil || n == 0 || checkDNSName("host", host) != nil {
		return "", err
	}
	return host + ":" + port, nil
}

// accessLog writes how requests are logged.
func (w *writer) accessLog() {
	l := w.s.GetAccessLog()
	if l == nil {
		return
	}
	w.line("  log global")
	if !l.GetLogEmptyRequests() {
		w.line("  option dontlognull")
	}
	if l.GetFormat() == "" {
		w.line("  option httplog")
	} else if w.check(checkLogFormat("access log format", l.GetFormat())) {
		w.line("  log-format %s", quoted(l.GetFormat()))
	}
}

// captures writes which headers and which cookie are logged.
func (w *writer) captures() {
	l := w.s.GetAccessLog()
	for _, c := range []struct {
		side string
		list []*tsujiv1.Capture
	}{{"request", l.GetRequestHeaders()}, {"response", l.GetResponseHeaders()}} {
		for _, h := range c.list {
			if w.check(checkHeaderName("captured header", h.GetName())) && h.GetMaxLength() > 0 {
				w.line("  capture %s header %s len %d", c.side, quoted(h.GetName()), min(h.GetMaxLength(), maxText))
			}
		}
	}
	if c := l.GetCookie(); c != nil && w.check(checkCookieName("captured cookie", c.GetName())) {
		name := c.GetName()
		if !c.GetPrefix() {
			name += "="
		}
		w.line("  capture cookie %s len %d", name, max(1, min(c.GetMaxLength(), maxText)))
	}
}

func (w *writer) clientTimeouts() {
	t := w.s.GetTimeouts()
	v, err := millis("client timeout", t.GetClient(), 30*time.Second)
	w.timeout("client", v, err)
	v, err = millis("client-fin timeout", t.GetClientFin(), time.Second)
	w.timeout("client-fin", v, err)
	v, err = millis("http-request timeout", t.GetHttpRequest(), 10*time.Second)
	w.timeout("http-request", v, err)
	v, err = millis("http-keep-alive timeout", t.GetHttpKeepAlive(), 300*time.Second)
	w.timeout("http-keep-alive", v, err)
}

func (w *writer) serverTimeouts(t *tsujiv1.Timeouts) {
	one, _, err := connecting(t)
	w.timeout("connect", fmt.Sprintf("%dms", max(1, one.Milliseconds())), err)
	v, err := millis("server timeout", t.GetServer(), 30*time.Second)
	w.timeout("server", v, err)
	v, err = millis("server-fin timeout", t.GetServerFin(), time.Second)
	w.timeout("server-fin", v, err)
	v, err = millis("tunnel timeout", t.GetTunnel(), time.Hour)
	w.timeout("tunnel", v, err)
	w.timeout("check", "5000ms", nil)
}

// stats writes what answers on the stats addresses, as on OpenShift's port 1936.
func (w *writer) stats() {
	w.line("\ndefaults %s\n  mode http\n  timeout client 30s\n  timeout http-request 10s", profileStats)
	w.line("\nfrontend %s from %s", frontendStats, profileStats)
	for _, a := range w.o.Stats {
		address, err := bindAddress(a)
		w.check(err)
		w.line("  bind %s", address)
	}
	text := " content-type text/plain "
	w.line("  http-request return status 200%sstring ok if { path /healthz }", text)
	w.line("  http-request return status 200%sstring ok if { path /healthz/ready } { str(ready),map_str(%s) -m str 1 }", text, mapReady)
	w.line("  http-request return status 503%sstring draining if { path /healthz/ready }", text)
	w.line("  http-request return status 200%slf-string '%%[str(version),map_str(%s)]' if { path /_tsuji/version }", text, mapStamp)
	w.line("  http-request return status 404%sstring 'not found' unless { path /metrics }", text)
	w.line("  http-request return status 405%sstring 'method not allowed' unless { method GET }", text)
	w.line("  default_backend %s", backendMetrics)

	// routerd writes the metrics. While it is away they are answered by 503, and nothing else is disturbed.
	w.line("\nbackend %s from %s", backendMetrics, profileStats)
	w.line("  timeout connect 1s\n  timeout server 30s\n  timeout queue 5s\n  retries 0")
	w.line("  server routerd %s maxconn 4", w.o.metricsSocket())
}
