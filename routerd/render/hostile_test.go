package render_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// everything is a snapshot in which every field that is written somewhere has a value.
func everything() []*tsujiv1.Resource {
	literal := func(s string) *tsujiv1.HeaderValuePart {
		return &tsujiv1.HeaderValuePart{Part: &tsujiv1.HeaderValuePart_Literal{Literal: s}}
	}
	header := func(s string) *tsujiv1.HeaderValuePart {
		return &tsujiv1.HeaderValuePart{Part: &tsujiv1.HeaderValuePart_Header{Header: &tsujiv1.HeaderFetch{Name: s, Converters: []string{"lower"}}}}
	}
	client := &tsujiv1.HeaderValuePart{Part: &tsujiv1.HeaderValuePart_ClientCertificate{
		ClientCertificate: &tsujiv1.ClientCertificateFetch{Converters: []string{"base64"}},
	}}
	actions := func() []*tsujiv1.HeaderAction {
		return []*tsujiv1.HeaderAction{
			{Name: "X-One", Value: []*tsujiv1.HeaderValuePart{literal("one "), header("X-In"), literal(" two"), client}},
			{Name: "X-Gone"},
		}
	}
	route := func(name string, t tsujiv1.Termination) *tsujiv1.Resource {
		r := simple(name, name+".example", "/path/", t, redirect)
		if t == insecure {
			r.InsecurePolicy = unset
		}
		if t == passthrough {
			r.Path = "/"
		}
		r.Certificate = tsujiv1.CertificateName("ns", tsujiv1.FromRoute, name)
		r.DestinationTls = &tsujiv1.DestinationTLS{Verify: true, Ca: tsujiv1.CertificateName("ns", tsujiv1.FromDestinationCA, "ca"), VerifyServiceHost: true}
		r.Cookie = &tsujiv1.Cookie{Name: "cookie", Secure: true, SameSite: "Lax"}
		r.Timeouts = &tsujiv1.RouteTimeouts{Server: durationpb.New(5e9), Tunnel: durationpb.New(6e9)}
		r.AllowedSources, r.RestrictSources = []string{"10.0.0.0/8", "::1/128"}, true
		r.RateLimit = &tsujiv1.RateLimit{ConcurrentConnections: 1, ConnectionsPer_3S: 2, RequestsPer_10S: 3, DenyStatus: 429}
		r.Hsts = "max-age=1; preload"
		r.Rewrite = &tsujiv1.PathRewrite{Target: "/target"}
		r.RequestHeaders, r.ResponseHeaders = actions(), actions()
		r.HealthCheckInterval = durationpb.New(1e9)
		r.MaxConnectionsPerEndpoint = 7
		r.AdjustHeaderCase = true
		return routeOf(r)
	}
	chain, key := fixedPair()
	return []*tsujiv1.Resource{
		{Name: "settings", Kind: &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{
			IngressController: "default", Http2: true,
			Tls:     &tsujiv1.TLSProfile{MinVersion: 2, MaxVersion: 3, Ciphers: []string{"ECDHE-RSA-AES128-GCM-SHA256"}, CipherSuites: []string{"TLS_AES_128_GCM_SHA256"}, Groups: []string{"X25519"}},
			Headers: &tsujiv1.HeaderPolicy{Request: actions(), Response: actions(), UniqueIdHeader: "X-Id", UniqueIdFormat: "%{+X}o %ci:%cp_%rt", CaseAdjustments: []string{"X-CaSe"}},
			AccessLog: &tsujiv1.AccessLog{
				Address: "127.0.0.1:514", Facility: "local1", Format: "%ci %[src] %%", MaxLength: 1024,
				RequestHeaders: []*tsujiv1.Capture{{Name: "X-A", MaxLength: 9}}, ResponseHeaders: []*tsujiv1.Capture{{Name: "X-B", MaxLength: 9}},
				Cookie: &tsujiv1.CookieCapture{Name: "c", MaxLength: 100},
			},
			ErrorPages:  &tsujiv1.ErrorPages{ServiceUnavailable: []byte("HTTP/1.0 503 a\r\n\r\n"), NotFound: []byte("HTTP/1.0 404 b\r\n\r\n")},
			Compression: &tsujiv1.Compression{MimeTypes: []string{"text/html"}},
			ClientTls:   &tsujiv1.ClientTLS{Ca: tsujiv1.CertificateName("ns", tsujiv1.FromDestinationCA, "ca"), AllowedSubjectPatterns: []string{"CN=.*"}},
		}}},
		route("plain", insecure), route("edge", edge), route("secure", reencrypt), route("pass", passthrough),
		endpointsOf("ns", "plain", endpoint("10.0.0.1", 80)), endpointsOf("ns", "edge", endpoint("10.0.0.2", 80)),
		endpointsOf("ns", "secure", endpoint("10.0.0.3", 80)), endpointsOf("ns", "pass", endpoint("fd00::4", 80)),
		certificateOf("ns", "edge", chain, key), bundleOf("ns", "ca", theAuthority().pem),
	}
}

// place is a string or bytes field of a resource.
type place struct {
	resource int
	path     string
	set      func(*tsujiv1.Resource, string)
}

// places finds every such field that is set, in lists and messages too, but for the names of resources.
func places(rs []*tsujiv1.Resource) []place {
	var found []place
	var walk func(i int, m protoreflect.Message, path string, at func(*tsujiv1.Resource) protoreflect.Message)
	walk = func(i int, m protoreflect.Message, path string, at func(*tsujiv1.Resource) protoreflect.Message) {
		fields := m.Descriptor().Fields()
		for n := range fields.Len() {
			f := fields.Get(n)
			if !m.Has(f) || path == "" && f.Name() == "name" {
				continue
			}
			sub := path + "." + string(f.Name())
			value := func(s string) protoreflect.Value {
				if f.Kind() == protoreflect.BytesKind {
					return protoreflect.ValueOfBytes([]byte(s))
				}
				return protoreflect.ValueOfString(strings.ToValidUTF8(s, "\xc3\xa4")) // as the wire has it
			}
			leaf := f.Kind() == protoreflect.StringKind || f.Kind() == protoreflect.BytesKind
			switch {
			case leaf && f.IsList():
				for k := range m.Get(f).List().Len() {
					found = append(found, place{i, fmt.Sprintf("%s[%d]", sub, k), func(r *tsujiv1.Resource, s string) { at(r).Mutable(f).List().Set(k, value(s)) }})
				}
			case leaf:
				found = append(found, place{i, sub, func(r *tsujiv1.Resource, s string) { at(r).Set(f, value(s)) }})
			case f.Kind() == protoreflect.MessageKind && f.IsList():
				for k := range m.Get(f).List().Len() {
					walk(i, m.Get(f).List().Get(k).Message(), fmt.Sprintf("%s[%d]", sub, k), func(r *tsujiv1.Resource) protoreflect.Message { return at(r).Get(f).List().Get(k).Message() })
				}
			case f.Kind() == protoreflect.MessageKind:
				walk(i, m.Get(f).Message(), sub, func(r *tsujiv1.Resource) protoreflect.Message { return at(r).Mutable(f).Message() })
			}
		}
	}
	for i, r := range rs {
		walk(i, r.ProtoReflect(), "", func(r *tsujiv1.Resource) protoreflect.Message { return r.ProtoReflect() })
	}
	return found
}

// words reads a line as HAProxy does: words, quotes, escapes, comments. A variable would be expanded, an
// escape outside of single quotes read: there must be none but \'.
func words(line string) ([]string, error) {
	var list []string
	word, open, single := "", false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c < 0x20 || c == 0x7f:
			return nil, fmt.Errorf("byte %#x", c)
		case single && c == '\'':
			single = false
		case single:
			word += string(c)
		case c == '\'':
			single, open = true, true
		case c == '\\' && strings.HasPrefix(line[i+1:], "'"):
			word += "'"
			i++
		case c == '\\' || c == '"' || c == '#' || c == '$':
			return nil, fmt.Errorf("unquoted %q", c)
		case c == ' ':
			if open {
				list = append(list, word)
			}
			word, open = "", false
		default:
			word, open = word+string(c), true
		}
	}
	if single {
		return nil, errors.New("a quote that does not end")
	}
	if open {
		list = append(list, word)
	}
	return list, nil
}

// logFormats are the directives that HAProxy reads log-formats in, and the first word of which it does.
var logFormats = map[string]int{
	"http-request set-header": 3, "http-request add-header": 3, "http-response set-header": 3, "http-request set-path": 2,
	"http-request redirect": 2, "http-request return": 2, "log-format": 1, "unique-id-format": 1, "use_backend": 1,
}

// fetches returns what a word reads when HAProxy takes it for a log-format.
func fetches(word string) []string {
	var list []string
	for i := 0; i < len(word); i++ {
		if word[i] != '%' {
			continue
		}
		if strings.HasPrefix(word[i+1:], "%") {
			i++
			continue
		}
		end := strings.IndexAny(word[i:]+" ", " ]")
		list = append(list, word[i:i+end])
	}
	return list
}

// shape is what a configuration comes to, without the words that resources choose.
type shape struct {
	lines   map[string]int      // section and keyword → number
	most    map[string]int      // keyword → words on the longest line
	fetches map[string]struct{} // what log-formats read
}

// digest matches what stands for a route's own rules in the name of its profile.
var digest = regexp.MustCompile(`\b[0-9a-f]{32}\b`)

func shapeOf(config string) (shape, error) {
	s := shape{map[string]int{}, map[string]int{}, map[string]struct{}{}}
	section := ""
	for line := range strings.Lines(digest.ReplaceAllString(config, "digest")) {
		if strings.HasPrefix(line, "# Written by routerd") {
			continue
		}
		w, err := words(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return s, fmt.Errorf("%w in %q", err, line)
		}
		if len(w) == 0 {
			continue
		}
		keyword := w[0]
		if len(w) > 1 && slices.Contains([]string{"http-request", "http-response", "tcp-request", "option", "timeout", "capture", "acl"}, w[0]) {
			keyword += " " + w[1]
		}
		if !strings.HasPrefix(line, " ") {
			section = strings.Join(w, " ")
			keyword = ""
		}
		s.lines[section+": "+keyword]++
		s.most[keyword] = max(s.most[keyword], len(w))
		if len(w) > 64 {
			return s, fmt.Errorf("%d words in %q", len(w), line)
		}
		for i, x := range w {
			if first, ok := logFormats[keyword]; !ok || i < first {
				continue
			}
			for _, f := range fetches(x) {
				s.fetches[f] = struct{}{}
			}
		}
	}
	return s, nil
}

// baseline is what files are compared with.
type baseline struct {
	files    map[string]string
	shape    shape
	sections map[string]bool
}

func baselineOf(t testing.TB, files map[string]string) *baseline {
	t.Helper()
	s, err := shapeOf(files["haproxy.cfg"])
	if err != nil {
		t.Fatal(err)
	}
	b := &baseline{files: files, shape: s, sections: map[string]bool{}}
	for _, section := range strings.SplitAfter(files["haproxy.cfg"], "\n\n") {
		b.sections[section] = true
	}
	return b
}

// harmless tells whether the files have nothing in them that those of everything have not: sections,
// directives, words, fetches, map entries.
func harmless(files map[string]string, base *baseline) error {
	rest := ""
	for _, s := range strings.SplitAfter(files["haproxy.cfg"], "\n\n") {
		if !base.sections[s] {
			rest += s
		}
	}
	got, err := shapeOf(rest)
	if err != nil {
		return err
	}
	want := base.shape
	for k, n := range got.lines {
		// One directive stands in for another: no log format of one's own, an empty list, no redirect.
		if k == "defaults client: option httplog" || strings.HasSuffix(k, ": tcp-request content") && n <= want.lines[k] {
			continue
		}
		if n > want.lines[k] {
			return fmt.Errorf("%d lines %q, want %d", n, k, want.lines[k])
		}
	}
	for k, n := range got.most {
		if n > want.most[k] && k != "option httplog" && (k != "log" || n > len(strings.Fields("log stdout len 1 format raw local1 info"))) {
			return fmt.Errorf("%d words after %q, want %d", n, k, want.most[k])
		}
	}
	for f := range got.fetches {
		if _, ok := want.fetches[f]; !ok && !allowedFetch(f) {
			return fmt.Errorf("a log-format reads %q", f)
		}
	}
	return harmlessFiles(files, base.files)
}

func harmlessFiles(files, base map[string]string) error {
	for path, content := range files {
		if !strings.HasPrefix(path, "maps/") && path != "crt-list.txt" {
			if _, ok := base[path]; !ok {
				return fmt.Errorf("a file %s", path)
			}
			continue
		}
		most := strings.Count(base[path], "\n")
		if path == "maps/allow.map" {
			most *= 8 // a prefix of an odd length
		}
		if path == "crt-list.txt" {
			most = 2 // a route may name another's certificate: the control plane says which it may
		}
		if strings.Count(content, "\n") > most {
			return fmt.Errorf("%s has more lines: %q", path, content)
		}
		for line := range strings.Lines(content) {
			if n := strings.Count(line, " "); strings.HasPrefix(path, "maps/") && n != 1 || n > 3 || strings.ContainsAny(line, "\t\r\x00") || line[0] == '#' {
				return fmt.Errorf("%s has a line %q", path, line)
			}
		}
	}
	return nil
}

// allowedFetch passes what a header's name, or an IngressController's log format, may ask for.
func allowedFetch(f string) bool {
	for _, bad := range []string{"env", "lua", "file", "proc", "var(proc", "srv_"} {
		if strings.Contains(f, "["+bad) {
			return false
		}
	}
	return !strings.ContainsAny(f, " \"'\\$;\n")
}

// FuzzRender puts any string into any field: the resource is refused, alone and by name, and nothing
// changed; or the files have nothing in them that they should not.
func FuzzRender(f *testing.F) {
	base := everything()
	fields := places(base)
	for i, s := range hostile {
		for k := range fields {
			if (i+k)%23 == 0 {
				f.Add(uint(k), s)
			}
		}
	}
	clean := renderer(f, options())
	apply(f, clean, base...)
	wanted := baselineOf(f, filesOf(clean))
	f.Fuzz(func(t *testing.T, k uint, s string) {
		p := fields[int(k%uint(len(fields)))]
		rs := slices.Clone(base)
		rs[p.resource] = proto.CloneOf(base[p.resource])
		p.set(rs[p.resource], s)
		r := renderer(t, options())
		untouched := filesOf(r)
		if _, err := r.Apply(delta(t, rs...)); err != nil {
			if e, ok := errors.AsType[*render.ResourceError](err); !ok || e.Resource != rs[p.resource].GetName() && e.Resource != "settings" {
				t.Fatalf("%s%s = %q: %v", rs[p.resource].GetName(), p.path, s, err)
			}
			if !maps.Equal(filesOf(r), untouched) {
				t.Fatalf("%s%s = %q: refused, and yet the files changed", rs[p.resource].GetName(), p.path, s)
			}
			return
		}
		if err := harmless(filesOf(r), wanted); err != nil {
			t.Fatalf("%s%s = %q: %v", rs[p.resource].GetName(), p.path, s, err)
		}
	})
}

// hostile are the strings that have hurt somebody.
var hostile = []string{
	"", " ", "#", "a b", "a\nb", "a\r\nX: y", "\x00", "\x7f", "a\tb", "'", "''", `\'`, `"`, `"$HOME"`, "$HOME", "${HOME}", `\n`, `\x0a`, `a\`,
	"%[env(HOME)]", "%%", "%", "%%[env(HOME)]", "%[lua.x]", "%{+Q}[env(HOME)]", "a' if TRUE", "' http-request deny '", "x if { always_true }",
	"../../etc/passwd", "/../x", "/a b", "/#", "/a#b", "/foo(", "/a[b", "/a**", `/\1`, "/%[src]", "a;b", "a|b", "a,b", "max-age=1;\nincludeSubDomains",
	"-", "none", "tls-only", "redirect:302", "be_http:ns:plain", "*", "*.example", "a..b", ".", "[::1]", "::1", "1.2.3.4", "0.0.0.0/0", "fe80::1%eth0",
	"ä", "\xff", "stdout", "/dev/log", "localhost:514", "host:99999", "HTTP/1.1 200\r\n\r\n", strings.Repeat("a", 1500), "/" + strings.Repeat("a", 1020),
	strings.Repeat("x ", 9000), "%ci %[src,ipmask(24)]", "%[capture.req.hdr(0)]", "if", "unless", "acl", "cert/ns/route:edge", "cert/ns/destination-ca:ca", "cert/x", "lower,base64",
	"CN=(", "CN=a|b", "TLSv1.3", "@SECLEVEL=0", "kERNEL:!x", "text/*", "a/b c",
}

// Each HAProxy accepts whatever is rendered: random routes with odd text in them that pass, a hundred at a time.
func TestHAProxyAcceptsWhatIsRendered(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, acceptsStory)
}

func acceptsStory(t *testing.T, binary string) {
	t.Parallel()
	o := optionsFor(release(t, binary))
	base := everything()
	fields := places(base)
	random := rand.New(rand.NewPCG(1, 2))
	rounds := 6
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		r := renderer(t, o)
		apply(t, r, base...)
		passed := 0
		for n := range 400 {
			p := fields[random.IntN(len(fields))]
			res := proto.CloneOf(base[p.resource])
			s := hostile[random.IntN(len(hostile))]
			if random.IntN(2) == 0 {
				s += string(rune(0x20+random.IntN(0x60))) + hostile[random.IntN(len(hostile))]
			}
			p.set(res, s)
			if route := res.GetRoute(); route != nil && p.path != ".route.namespace" && p.path != ".route.name" {
				route.Name = fmt.Sprintf("r%d", n)
				res.Name = tsujiv1.RouteName(route.GetNamespace(), route.GetName())
				if p.path != ".route.host" {
					route.Host = fmt.Sprintf("r%d.example", n)
				}
			}
			if _, err := r.Apply(delta(t, res)); err == nil {
				passed++
			}
		}
		dir := shortDir(t)
		write(t, dir, r)
		if out, ok := check(t, binary, dir); !ok {
			t.Fatalf("HAProxy refuses what %d odd resources came to:\n%s", passed, out)
		}
		if passed < 20 {
			t.Fatalf("only %d of 400 odd resources passed", passed)
		}
	}
}
