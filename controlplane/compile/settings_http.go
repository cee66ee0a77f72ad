package compile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	operatorv1 "github.com/openshift/api/operator/v1"
	routev1 "github.com/openshift/api/route/v1"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// defaultUniqueID is OpenShift's.
const defaultUniqueID = "%{+X}o %ci:%cp_%fi:%fp_%Ts_%rt:%pid"

const maxUniqueID = 1024 // bytes of its format

// headers compiles spec.httpHeaders.
func (s *settings) headers() {
	h := s.spec.HTTPHeaders
	s.out.Headers = &tsujiv1.HeaderPolicy{Forwarded: forwardedOf(h)}
	if h == nil {
		return
	}
	const field = "spec.httpHeaders."
	forbidden := append([]string{"host"}, forbiddenHeaders...)
	s.out.Headers.Request = headerActions(field+"actions.request", asOfRoutes(h.Actions.Request), "req.hdr", forbidden,
		s.fault)
	s.out.Headers.Response = headerActions(field+"actions.response", asOfRoutes(h.Actions.Response), "res.hdr",
		forbidden, s.fault)

	if name := h.UniqueId.Name; name != "" {
		// OpenShift's operator writes the format as it is, so that blanks have a backslash in front.
		format := strings.ReplaceAll(h.UniqueId.Format, `\ `, " ")
		if format == "" {
			format = defaultUniqueID
		}
		switch f := logFormatFault(format, maxUniqueID, requestFetch); {
		case !headerToken.MatchString(name):
			s.fault(invalid(field+"uniqueId.name", name, "must be a header's name of up to 255 characters"))
		case f != "":
			s.fault(invalid(field+"uniqueId.format", h.UniqueId.Format, f))
		default:
			s.out.Headers.UniqueIdHeader, s.out.Headers.UniqueIdFormat = name, format
		}
	}
	seen := map[string]bool{}
	for i, a := range h.HeaderNameCaseAdjustments {
		at, name := fmt.Sprintf("%sheaderNameCaseAdjustments[%d]", field, i), string(a)
		switch lower := strings.ToLower(name); {
		case name == "":
		case !headerToken.MatchString(name):
			s.fault(invalid(at, name, "must be a header's name of up to 255 characters"))
		case seen[lower]:
			s.fault(fmt.Sprintf("%s: Duplicate value: %q", at, name))
		default:
			seen[lower] = true
			s.out.Headers.CaseAdjustments = append(s.out.Headers.CaseAdjustments, name)
		}
	}
}

// asOfRoutes returns an IngressController's header actions as Routes have them.
func asOfRoutes(list []operatorv1.IngressControllerHTTPHeader) []routev1.RouteHTTPHeader {
	out := make([]routev1.RouteHTTPHeader, 0, len(list))
	for _, h := range list {
		a := routev1.RouteHTTPHeaderActionUnion{Type: routev1.RouteHTTPHeaderActionType(h.Action.Type)}
		if h.Action.Set != nil {
			a.Set = &routev1.RouteSetHTTPHeader{Value: h.Action.Set.Value}
		}
		out = append(out, routev1.RouteHTTPHeader{Name: h.Name, Action: a})
	}
	return out
}

func forwardedOf(h *operatorv1.IngressControllerHTTPHeaders) tsujiv1.ForwardedPolicy {
	if h == nil {
		return tsujiv1.ForwardedPolicy_FORWARDED_POLICY_APPEND
	}
	switch h.ForwardedHeaderPolicy {
	case operatorv1.ReplaceHTTPHeaderPolicy:
		return tsujiv1.ForwardedPolicy_FORWARDED_POLICY_REPLACE
	case operatorv1.IfNoneHTTPHeaderPolicy:
		return tsujiv1.ForwardedPolicy_FORWARDED_POLICY_IF_NONE
	case operatorv1.NeverHTTPHeaderPolicy:
		return tsujiv1.ForwardedPolicy_FORWARDED_POLICY_NEVER
	default:
		return tsujiv1.ForwardedPolicy_FORWARDED_POLICY_APPEND
	}
}

// The keys of spec.httpErrorCodePages' ConfigMap.
const (
	page503Key = "error-page-503.http"
	page404Key = "error-page-404.http"
)

// errorPages compiles spec.httpErrorCodePages. A page that has vanished with its ConfigMap, or that cannot be used,
// stays as it was; one that the ConfigMap has no more is none.
func (s *settings) errorPages() {
	const field = "spec.httpErrorCodePages.name"
	kept := &s.c.kept.pages
	name := s.spec.HttpErrorCodePages.Name
	if name == "" {
		*kept = keptPages{}
		return
	}
	limit := int(s.out.GetTuning().GetHeaderBufferBytes() - s.out.GetTuning().GetHeaderBufferMaxRewriteBytes())
	if k := s.configMap(0, field, name); k != (id{}) {
		m, unread := s.c.objects.configMaps[k], s.c.objects.unreadConfigMaps[k]
		switch remedy := "put the ConfigMap back, or name none"; {
		case m == nil && unread != "":
			s.faultOf(invalid(field, name, fmt.Sprintf("ConfigMap %s cannot be read: %s%s", k, unread, kept.stay(limit))), remedy)
		case m == nil:
			s.faultOf(invalid(field, name, fmt.Sprintf("configmaps %q not found in namespace %s%s", name, configNamespace, kept.stay(limit))), remedy)
		default:
			s.page(&kept.unavailable, name, page503Key, m.Data[page503Key], limit)
			s.page(&kept.notFound, name, page404Key, m.Data[page404Key], limit)
		}
	}
	pages := &tsujiv1.ErrorPages{ServiceUnavailable: fitting(kept.unavailable, limit),
		NotFound: fitting(kept.notFound, limit)}
	if len(pages.GetServiceUnavailable())+len(pages.GetNotFound()) > 0 {
		s.out.ErrorPages = pages
	}
}

// page takes a page's text, if it is one.
func (s *settings) page(kept *[]byte, name, key, text string, limit int) {
	if text == "" {
		*kept = nil
		return
	}
	page, fault := errorPage(text, limit)
	if fault == "" {
		*kept = page
		return
	}
	if len(fitting(*kept, limit)) > 0 {
		fault += "; the last good page stays in use"
	}
	s.fault(invalid("spec.httpErrorCodePages.name", name, key+": "+fault))
}

// fitting returns a page that fits into routers' buffers, which may be smaller than when it was found good.
func fitting(page []byte, limit int) []byte {
	if len(page) > limit {
		return nil
	}
	return page
}

// stay tells that pages are kept, if some are that fit.
func (k *keptPages) stay(limit int) string {
	if len(fitting(k.unavailable, limit))+len(fitting(k.notFound, limit)) == 0 {
		return ""
	}
	return "; the last good pages stay in use"
}

var (
	statusLine = regexp.MustCompile(`^HTTP/1\.[01] ([2-5][0-9]{2})((?: [!-~]+)*) *$`)
	headerLine = regexp.MustCompile("^([-!#$%&'*+.0-9A-Z^_`a-z|~]{1,255}): *([^\\x00-\\x1f\\x7f]*)$")
)

// errorPage takes a response apart and puts it together again, so that a router can hold it: with line
// ends as HTTP wants them, and without a length, which HAProxy counts itself.
func errorPage(text string, limit int) (page []byte, fault string) {
	head, body, whole := strings.Cut(strings.ReplaceAll(text, "\r\n", "\n"), "\n\n")
	lines := strings.Split(head, "\n")
	status := statusLine.FindStringSubmatch(lines[0])
	switch {
	case !whole || status == nil:
		return nil, "must be a whole HTTP response: HTTP/1.0 503 Service Unavailable, headers, an empty line, the page"
	case status[1] == "204" || status[1] == "304":
		return nil, "a page cannot have status " + status[1]
	}
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %s%s\r\n", status[1], status[2])
	for _, l := range lines[1:] {
		h := headerLine.FindStringSubmatch(l)
		if h == nil || !utf8.ValidString(l) {
			return nil, quoted(l) + " is not a header"
		}
		switch strings.ToLower(h[1]) {
		case "content-length":
			continue
		case "transfer-encoding":
			return nil, "must not have a Transfer-Encoding"
		}
		fmt.Fprintf(&b, "%s: %s\r\n", h[1], h[2])
	}
	b.WriteString("\r\n" + body)
	if b.Len() > limit {
		return nil, fmt.Sprintf("%d bytes are too many: at most %d, which is headerBufferBytes without headerBufferMaxRewriteBytes", b.Len(), limit)
	}
	return []byte(b.String()), ""
}

// maxMediaTypes is how many a line of HAProxy's holds.
const maxMediaTypes = 50

var mediaType = regexp.MustCompile(`^[A-Za-z0-9.+_-]{1,127}/(?:[A-Za-z0-9.+_-]{1,127}|\*)$`)

// compression compiles spec.httpCompression. Parameters after a media type do not count.
func (s *settings) compression() {
	const field = "spec.httpCompression.mimeTypes"
	var types []string
	for i, m := range s.spec.HTTPCompression.MimeTypes {
		t, _, _ := strings.Cut(string(m), ";")
		if t = strings.Trim(t, " "); !mediaType.MatchString(t) {
			s.fault(invalid(fmt.Sprintf("%s[%d]", field, i), string(m),
				"must be a media type of letters, digits and . + _ -"))
			continue
		}
		if !slices.Contains(types, t) {
			types = append(types, t)
		}
	}
	if len(types) > maxMediaTypes {
		s.fault(fmt.Sprintf("%s: Too many: %d: must have at most %d items", field, len(types), maxMediaTypes))
		types = types[:maxMediaTypes]
	}
	if len(types) > 0 {
		s.out.Compression = &tsujiv1.Compression{MimeTypes: types}
	}
}
