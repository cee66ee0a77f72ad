package render

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// program is what haproxy.cfg says whatever the routes are: the Settings, rendered. It is comparable.
type program struct {
	text
	page503, page404 string // error pages; empty: HAProxy's own
}

// text are the parts of haproxy.cfg, in their order.
type text struct {
	maxConnections uint32 // wanted; 0: as many as the machine allows
	buffer         uint32 // tune.bufsize
	global         string // after maxconn
	own            string // defaults sections that are not the routes'
	http, tcp      string // what routes' profiles begin with, in each mode
	frontends      string // for HTTP
	tls, tlsPassed string // for TLS: where no route is passed through, and where one is
	end            string // for probes and metrics, and the backends that are no route's
}

// head returns haproxy.cfg up to the profiles.
func (p program) head(maxConnections uint32) string {
	s := "# Written by routerd from what is in force; changes made here are lost.\nglobal\n"
	if maxConnections > 0 {
		s += fmt.Sprintf("  maxconn %d\n", maxConnections)
	}
	return s + p.global + p.own
}

// rest returns what follows the profiles, up to the routes' backends.
func (p program) rest(passed bool) string {
	if passed {
		return p.frontends + p.tlsPassed + p.end
	}
	return p.frontends + p.tls + p.end
}

// BufferBytes returns the size of HAProxy's buffers (tune.bufsize): a command of the runtime API goes through one.
func (r *Renderer) BufferBytes() int { return int(r.program.buffer) }

// Each connection takes two file descriptors, each checked server and each listener one. descriptorReserve
// is for listeners, threads, the runtime API and what else there is. Of the rest one in checkShare is for checks.
const (
	descriptorReserve = 1024
	checkShare        = 8
	minConnections    = 100
)

// maxConnections returns the number of connections to allow, 0 for as many as HAProxy finds that fit: what the Settings want,
// lowered to what the file descriptors allow, for HAProxy does not start with a number that does not fit. It does not depend
// on the routes.
func (r *Renderer) maxConnections() uint32 {
	fit := r.MostConnections()
	switch {
	case fit == 0:
		return r.program.maxConnections
	case r.program.maxConnections == 0:
		return fit
	}
	return min(r.program.maxConnections, fit)
}

// MostConnections returns how many connections the file descriptors allow; zero: that is not known. It is always the same.
func (r *Renderer) MostConnections() uint32 {
	if r.options.FileDescriptors == 0 {
		return 0
	}
	return uint32(max((r.options.FileDescriptors-descriptorReserve-r.options.mostChecks())/2, minConnections))
}

// Defaults where the Settings have none: there are none yet, or a value is 0.
const (
	defaultBufferSize = 32_768
	defaultMaxRewrite = 8_192
)

// writer writes the program. The first error stays.
type writer struct {
	strings.Builder
	o               Options
	s               *tsujiv1.Settings
	buffer, rewrite uint32 // sizes of a request's header, and of what is kept free of it
	err             error
}

func (w *writer) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

// check remembers an error, and tells whether there is none.
func (w *writer) check(err error) bool {
	if err != nil && w.err == nil {
		w.err = err
	}
	return err == nil
}

// clientFiles are the files that certificates of clients are verified with; empty: there is none.
type clientFiles struct {
	ca    string // CA certificates
	lists string // their revocation lists
}

// renderProgram renders the Settings. clients are the files that they name for certificates of clients.
func (o Options) renderProgram(s *tsujiv1.Settings, clients clientFiles) (program, error) {
	p := program{}
	p.maxConnections = s.Connections()
	w := &writer{o: o, s: s}
	part := func(to *string, write ...func()) {
		w.Reset()
		for _, f := range write {
			f()
		}
		*to = w.String()
	}
	part(&p.global, w.global)
	part(&p.own, w.ownProfiles)
	part(&p.http, w.httpProfile)
	part(&p.tcp, func() { w.serverProfile("tcp") })
	if len(o.HTTP) > 0 {
		part(&p.frontends, w.public)
	}
	if len(o.HTTPS) > 0 {
		part(&p.tls, func() { w.endTLS(clients, false) })
		part(&p.tlsPassed, w.passTLS, func() { w.endTLS(clients, true) })
	}
	part(&p.end, w.stats, w.ownBackends)
	var err503, err404 error
	p.buffer = w.buffer
	limit := int(w.buffer - w.rewrite)
	p.page503, err503 = errorPage("503", s.GetErrorPages().GetServiceUnavailable(), limit)
	p.page404, err404 = errorPage("404", s.GetErrorPages().GetNotFound(), limit)
	return p, errors.Join(w.err, err503, err404)
}

// errorPage passes a page that HAProxy can hold: a whole response, with room in a buffer.
func errorPage(name string, page []byte, limit int) (string, error) {
	if len(page) == 0 {
		return "", nil
	}
	head, _, _ := bytes.Cut(page, []byte("\n"))
	if len(page) > limit || !bytes.HasPrefix(head, []byte("HTTP/1.")) {
		return "", fmt.Errorf("error page %s of %d bytes: want an HTTP response of at most %d", name, len(page), limit)
	}
	return string(page), nil
}

// oldWorkers is how many reloads a worker lives through, where HAProxy counts them. A worker that is replaced keeps all its
// memory until its last connection ends, some 30 MB with 100 routes and 200 MB with 10,000: without a bound long
// connections and reloads use up the machine, and with it the connections of all. With a low one they are cut. Fifty is HAProxy
// 3.4's own, said here so that it does not depend on the release; routerd sees to it that reloads are rare (apply's pace).
// Earlier releases, where every new route is a reload, have no bound, as in OpenShift's router: hard-stop-after is theirs.
const oldWorkers = 50

// What an HTTP/2 client may do that is odd, as taking back a request before it was answered, on one connection: at
// three quarters of oddFrames it is told to make another one, on which a sound client goes on, and streams that are
// open are not cut; at oddFrames the connection ends. After resetsAtOnce resets others have their turn first. HAProxy's
// manual wants hundreds or thousands of the one, and up to ten of the other. Earlier releases count no resets, and end
// connections without a word: there the defaults stay, which are none.
const (
	oddFrames    = 1000
	resetsAtOnce = 10
)

func (w *writer) global() {
	t := w.s.GetTuning()
	if w.o.version().AtLeast(3, 4) {
		w.line("  mworker-max-reloads %d", oldWorkers)
		w.line("  tune.h2.fe.glitches-threshold %d\n  tune.h2.fe.max-rst-at-once %d", oddFrames, resetsAtOnce)
	}
	if n := t.GetThreads(); n > 0 {
		w.line("  nbthread %d", min(n, 256))
	}
	if d := t.GetHardStopAfter(); d != nil {
		if v, err := millis("hard stop", d, 0); w.check(err) {
			w.line("  hard-stop-after %s", v)
		}
	}
	if w.o.Jail {
		w.line("  chroot run/jail\n  uid %d\n  gid %d", w.o.User, w.o.Group)
	}
	if w.o.Elsewhere {
		w.line("  description %s", w.o.description())
	}
	w.WriteString(w.o.adminSocket())
	w.buffer = cmp.Or(t.GetHeaderBufferBytes(), defaultBufferSize)
	w.rewrite = cmp.Or(t.GetHeaderBufferMaxRewriteBytes(), defaultMaxRewrite)
	w.rewrite = min(w.rewrite, w.buffer/2) // HAProxy's rule
	if w.buffer < 16_384 || w.buffer > 16<<20 || w.rewrite < 1_024 {
		w.check(fmt.Errorf("header buffer of %d bytes with %d for changes: want 16384 to 16777216 with at least 1024",
			w.buffer, w.rewrite))
	}
	w.line("  tune.bufsize %d\n  tune.maxrewrite %d", w.buffer, w.rewrite)
	if n := w.s.GetAccessLog().GetCookie().GetMaxLength(); n > 63 {
		w.line("  tune.http.cookielen %d", min(n, maxText))
	}
	w.tls()
	w.logTarget()
	names := w.s.GetHeaders().GetCaseAdjustments()
	for _, n := range names {
		if w.check(checkHeaderName("case adjustment", n)) {
			w.line("  h1-case-adjust %s %s", quoted(strings.ToLower(n)), quoted(n))
		}
	}
}

// anySecurity has OpenSSL use what else is asked for, whatever its security level is: from level 1 on it signs no
// handshake of TLS 1.1, since that takes MD5 and SHA-1.
const anySecurity = "@SECLEVEL=0"

// tls writes what TLS with clients may use. HAProxy looks for no files beside a certificate's.
func (w *writer) tls() {
	versions := map[tsujiv1.TLSVersion]string{
		tsujiv1.TLSVersion_TLS_VERSION_1_1: "TLSv1.1",
		tsujiv1.TLSVersion_TLS_VERSION_1_2: "TLSv1.2",
		tsujiv1.TLSVersion_TLS_VERSION_1_3: "TLSv1.3",
	}
	t := w.s.GetTls()
	w.line("  ssl-load-extra-files none")
	bounds := "ssl-min-ver " + cmp.Or(versions[t.GetMinVersion()], "TLSv1.2")
	if v := versions[t.GetMaxVersion()]; v != "" {
		bounds += " ssl-max-ver " + v
	}
	if t.GetMaxVersion() != 0 && t.GetMaxVersion() < max(t.GetMinVersion(), tsujiv1.TLSVersion_TLS_VERSION_1_1) {
		w.check(fmt.Errorf("TLS from %v to %v", t.GetMinVersion(), t.GetMaxVersion()))
	}
	w.line("  ssl-default-bind-options %s", bounds)
	w.line("  tune.ssl.default-dh-param 2048")
	ciphers := t.GetCiphers()
	if t.GetMinVersion() == tsujiv1.TLSVersion_TLS_VERSION_1_1 && len(ciphers) > 0 {
		ciphers = append([]string{anySecurity}, ciphers...)
	}
	for _, l := range []struct {
		directive, extra string
		words            []string
	}{
		{"ssl-default-bind-ciphers", "-_+!@=.", ciphers},
		{"ssl-default-bind-ciphersuites", "_", t.GetCipherSuites()},
		{"ssl-default-bind-curves", "_-", w.groups(t.GetGroups())},
	} {
		if len(l.words) > 0 && w.check(checkWords(l.directive, l.words, l.extra)) {
			w.line("  %s %s", l.directive, strings.Join(l.words, ":"))
		}
	}
}

// groups returns the groups that the TLS library knows. If none is left it is for the library to choose.
func (w *writer) groups(names []string) []string {
	if !w.o.OldTLS {
		return names
	}
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return strings.Contains(n, "MLKEM") })
}

// timeout writes one timeout.
func (w *writer) timeout(name string, v string, err error) {
	if w.check(err) {
		w.line("  timeout %s %s", name, v)
	}
}

// ownProfiles writes the defaults sections that are not the routes'. One that has rules can inherit from no
// other, so that each is whole by itself; and frontends share none with backends.
func (w *writer) ownProfiles() {
	w.line("\ndefaults %s\n  mode http", profileClient)
	w.clientTimeouts()
	w.accessLog()
	if w.s.GetContinuousStatistics() {
		w.line("  option contstats")
	}
	if len(w.s.GetHeaders().GetCaseAdjustments()) > 0 {
		w.line("  option h1-case-adjust-bogus-client")
	}
	w.line("\ndefaults %s", profileOwn)
	w.serverProfile("http")
	w.errorFiles()
}

// serverProfile writes what every defaults section of backends has.
func (w *writer) serverProfile(mode string) {
	w.line("  mode %s", mode)
	w.serverTimeouts(w.s.GetTimeouts())
	if _, retries, err := connecting(w.s.GetTimeouts()); err == nil { // else it is told of the timeout
		w.line("  retries %d\n  option redispatch 1", retries)
	}
	if w.s.GetAccessLog() != nil {
		w.line("  log global")
	}
}

// httpProfile writes what every profile of mode http has.
func (w *writer) httpProfile() {
	w.serverProfile("http")
	w.line("  retry-on conn-failure")
	if w.s.GetAbortOnClose() {
		w.line("  option abortonclose")
	} else {
		w.line("  no option abortonclose")
	}
	w.errorFiles()
	if c := w.s.GetCompression(); c != nil && w.check(checkWords("media type", c.GetMimeTypes(), "/.+-*_")) {
		w.line("  compression algo gzip")
		if len(c.GetMimeTypes()) > 0 {
			w.line("  compression type %s", strings.Join(c.GetMimeTypes(), " "))
		}
	}
	if p := w.s.GetHeaders().GetForwarded(); p != tsujiv1.ForwardedPolicy_FORWARDED_POLICY_UNSPECIFIED && policyNames[p] == "" {
		w.check(fmt.Errorf("forwarded policy %d is not known", p))
	}
}

func (w *writer) errorFiles() {
	if len(w.s.GetErrorPages().GetServiceUnavailable()) > 0 {
		w.line("  errorfile 503 %s", page503Path)
	}
	if len(w.s.GetErrorPages().GetNotFound()) > 0 {
		w.line("  errorfile 404 %s", page404Path)
	}
}

// ownBackends writes the backends that no route has: where requests end that no route answers, and those
// that redirect.
func (w *writer) ownBackends() {
	w.line("\nbackend %s from %s", backendRates, profileOwn)
	w.line("  stick-table type binary len 20 size 1m expire 30s store conn_cur,conn_rate(3s),http_req_rate(10s)")
	if hasSuspects(w.o.version()) {
		w.line("\nbackend %s from %s", backendSuspects, profileOwn)
		w.line("  stick-table type string len 400 size 10k expire 30s store gpc0,gpc1")
	}
	w.line("\nbackend %s from %s", defaultBackend, profileOwn)
	if len(w.s.GetErrorPages().GetNotFound()) > 0 {
		w.line("  http-request deny deny_status 404")
	}
	for _, code := range redirectCodes {
		w.line("\nbackend %s from %s", redirectBackend(code), profileOwn)
		w.line("  http-request redirect location https://%%[req.fhdr(host),lower,field(1,:),rtrim(.)]%%[pathq] code %d", code)
	}
	w.line("\nbackend %s from %s", backendCAs, profileOwn) // last: config goes on with what it names
}

// Connecting is tried fewTries times at least, each time on another endpoint if there is one. A try takes longestTry at
// most, and more tries are made instead: so routerd/health hears in time that an endpoint is dead, however long the
// Settings let clients wait. It takes shortestTry at least, and there are mostTries.
const (
	fewTries    = 4
	mostTries   = 100
	shortestTry = time.Second
	longestTry  = 2 * time.Second
)

// connecting returns how long one try to connect may take and how many follow the first, so that all of them together
// take as long as the Settings give: a client is not made to wait for the last of them for longer.
func connecting(s *tsujiv1.Timeouts) (one time.Duration, retries int, err error) {
	all := 5 * time.Second
	if d := s.GetConnect(); d != nil {
		if err := d.CheckValid(); err != nil {
			return 0, 0, fmt.Errorf("connect timeout: %w", err)
		}
		all = d.AsDuration()
	}
	if all <= 0 {
		return 0, 0, errors.New("connect timeout: want more than 0")
	}
	one = min(max(all/fewTries, shortestTry), longestTry, all)
	return one, int(max(fewTries, min((all+one-1)/one, mostTries))) - 1, nil
}
