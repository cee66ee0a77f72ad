package compile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	routev1 "github.com/openshift/api/route/v1"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// Limits of OpenShift's API, which is not there to hold them when Routes are a plain custom resource.
const (
	maxHeaderActions = 20
	maxHeaderValue   = 16384 // bytes
)

// forbiddenHeaders are those that have options of their own, or none for good reasons.
var forbiddenHeaders = []string{"strict-transport-security", "proxy", "cookie", "set-cookie"}

// headers compiles spec.httpHeaders.actions.
func (b *builder) headers() {
	if b.object.Spec.HTTPHeaders == nil {
		return
	}
	const field = "spec.httpHeaders.actions"
	actions := b.object.Spec.HTTPHeaders.Actions
	if b.passthrough() && len(actions.Request)+len(actions.Response) > 0 {
		b.fault(field + ": Forbidden: passthrough termination does not support header actions")
		return
	}
	b.route.RequestHeaders = headerActions(field+".request", actions.Request, "req.hdr", forbiddenHeaders, b.fault)
	b.route.ResponseHeaders = headerActions(field+".response", actions.Response, "res.hdr", forbiddenHeaders, b.fault)
}

// headerActions compiles one list; fetch is the function that its values may read headers with. What cannot
// be is left out, and told to fault.
func headerActions(field string, list []routev1.RouteHTTPHeader, fetch string, forbidden []string,
	fault func(string)) []*tsujiv1.HeaderAction {
	if len(list) > maxHeaderActions {
		fault(fmt.Sprintf("%s: Too many: %d: must have at most %d items", field, len(list), maxHeaderActions))
		return nil
	}
	var actions []*tsujiv1.HeaderAction
	var seen []string
	total := 0
	for i, h := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		lower := strings.ToLower(h.Name)
		switch {
		case !headerToken.MatchString(h.Name):
			fault(invalid(at+".name", h.Name, "must be a header's name of up to 255 characters"))
			continue
		case slices.Contains(forbidden, lower):
			fault(fmt.Sprintf("%s.name: Forbidden: %s may not be changed by header actions", at, h.Name))
			continue
		case slices.Contains(seen, lower):
			fault(fmt.Sprintf("%s.name: Duplicate value: %q", at, h.Name))
			continue
		}
		seen = append(seen, lower)
		switch set := h.Action.Set; {
		case h.Action.Type == routev1.Delete && set != nil:
			fault(fmt.Sprintf("%s.action.set: Forbidden: an action of type Delete sets nothing", at))
		case h.Action.Type == routev1.Delete:
			actions = append(actions, &tsujiv1.HeaderAction{Name: h.Name})
		case h.Action.Type != routev1.Set:
			fault(unsupported(at+".action.type", string(h.Action.Type), "Delete", "Set"))
		case set == nil || set.Value == "":
			fault(required(at+".action.set.value", ""))
		case total+len(set.Value) > maxHeaderBytes:
			fault(fmt.Sprintf("%s.action.set.value: Too long: all values of the list together may have no more than %d bytes", at, maxHeaderBytes))
		default:
			total += len(set.Value)
			parts, f := parseHeaderValue(set.Value, fetch)
			if f != "" {
				fault(invalid(at+".action.set.value", set.Value, f))
				continue // an action without a value would delete the header
			}
			actions = append(actions, &tsujiv1.HeaderAction{Name: h.Name, Value: parts})
		}
	}
	return actions
}

// escaped tells whether one of the actions escapes.
func escaped(lists ...[]*tsujiv1.HeaderAction) bool {
	for _, a := range slices.Concat(lists...) {
		if slices.ContainsFunc(a.GetValue(),
			func(p *tsujiv1.HeaderValuePart) bool { return p.GetHeader().GetEscape() }) {
			return true
		}
	}
	return false
}

var fetchedHeader = regexp.MustCompile(`^(req\.hdr|res\.hdr)\(([0-9A-Za-z-]{1,255})\)$`)

// flagged is the part of a value that begins with flags, up to the fetch.
var flagged = regexp.MustCompile(`^\{([-+]?[QXE](?:,[-+]?[QXE])*)\}\[`)

// escapes tells what flags come to: HAProxy escapes by +E, and neither quotes (Q) nor writes in hexadecimal (X)
// what it puts into a header.
func escapes(flags string) bool {
	e := false
	for f := range strings.SplitSeq(flags, ",") {
		e = f == "+E" || e && f != "-E"
	}
	return e
}

// parseHeaderValue takes a value apart. It is a text with %% for a percent sign, and %[…] for a fetch with
// converters, or %{…}[…] with flags: HAProxy's log-format, as much of it as OpenShift's API lets through.
func parseHeaderValue(value, fetch string) (parts []*tsujiv1.HeaderValuePart, fault string) {
	switch {
	case len(value) > maxHeaderValue:
		return nil, fmt.Sprintf("must be no longer than %d bytes", maxHeaderValue)
	case hasControl(value):
		return nil, controlRemedy
	}
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			parts = append(parts,
				&tsujiv1.HeaderValuePart{Part: &tsujiv1.HeaderValuePart_Literal{Literal: literal.String()}})
			literal.Reset()
		}
	}
	for rest := value; rest != ""; {
		text, after, found := strings.Cut(rest, "%")
		literal.WriteString(text)
		if !found {
			break
		}
		if after == "" {
			return nil, "a % stands alone: write %% for a percent sign"
		}
		escape := false
		if m := flagged.FindStringSubmatch(after); m != nil {
			escape, after = escapes(m[1]), after[len(m[0])-1:]
		}
		switch after[0] {
		case '%':
			literal.WriteByte('%')
			rest = after[1:]
		case '[':
			expr, tail, closed := strings.Cut(after[1:], "]")
			if !closed {
				return nil, "%[ is not closed by ]"
			}
			part, f := parseFetch(expr, fetch)
			if f != "" {
				return nil, f
			}
			if h := part.GetHeader(); h != nil { // the certificate is in base64, which has nothing to escape
				h.Escape = escape
			}
			flush()
			parts = append(parts, part)
			rest = tail
		case '{':
			return nil, "%{…} is not followed by […], or has other flags than Q, X and E"
		default:
			r, _ := utf8.DecodeRuneInString(after)
			return nil, fmt.Sprintf("%%%c is not supported: write %%%% for a percent sign", r)
		}
	}
	flush()
	return parts, ""
}

// parseFetch reads what stands in %[…]: a header of the same message, or the client's certificate.
func parseFetch(expr, fetch string) (*tsujiv1.HeaderValuePart, string) {
	words := strings.Split(expr, ",")
	converters := words[1:]
	for _, c := range converters {
		if c != "lower" && c != "base64" {
			return nil, fmt.Sprintf("converter %s is not supported: use lower or base64", quoted(c))
		}
	}
	if len(converters) == 0 {
		converters = nil
	}
	if words[0] == "ssl_c_der" {
		return &tsujiv1.HeaderValuePart{Part: &tsujiv1.HeaderValuePart_ClientCertificate{
			ClientCertificate: &tsujiv1.ClientCertificateFetch{Converters: converters},
		}}, ""
	}
	m := fetchedHeader.FindStringSubmatch(words[0])
	if len(m) != 3 || m[1] != fetch {
		return nil, fmt.Sprintf("%s is not supported here: use %s(NAME) or ssl_c_der", quoted(words[0]), fetch)
	}
	return &tsujiv1.HeaderValuePart{Part: &tsujiv1.HeaderValuePart_Header{
		Header: &tsujiv1.HeaderFetch{Name: m[2], Converters: converters},
	}}, ""
}
