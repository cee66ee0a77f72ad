package render

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// This file is the only way from a resource's strings into HAProxy's files. Names and hosts pass only if
// every byte is of a list; free text (header values, log formats, HSTS) passes without control characters
// and is written in single quotes, where HAProxy expands nothing; numbers, addresses and durations are
// parsed and written anew. What does not pass is an error, and nothing of it is written.

// Limits on the length of text, in bytes.
const (
	maxText        = 1024  // whatever has no limit of its own
	maxHeaderValue = 16384 // as the Route API has it
	maxHeaderName  = 255
	maxName        = 253 // of an object, or a host
	maxLabel       = 63
)

// quoted writes text as one word of the configuration. In single quotes HAProxy's parser knows no escape
// and no variable.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// literal writes text so that a log-format yields just that text.
func literal(text string) string { return strings.ReplaceAll(text, "%", "%%") }

// only tells whether every byte of s is allowed.
func only(s string, allowed func(byte) bool) bool {
	for i := range len(s) {
		if !allowed(s[i]) {
			return false
		}
	}
	return true
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func isAlnum(c byte) bool { return isLower(c) || c >= 'A' && c <= 'Z' }

func isPathByte(c byte) bool { return isAlnum(c) || strings.IndexByte("/._-+", c) >= 0 }

// isText is every byte but the control characters. Above 0x7f it is UTF-8's business.
func isText(c byte) bool { return c >= 0x20 && c != 0x7f }

// isTokenByte is what a header's name consists of (RFC 9110: token).
func isTokenByte(c byte) bool { return isAlnum(c) || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 }

func isServerByte(c byte) bool { return isAlnum(c) || c == '-' || c == '.' || c == '_' }

func isCookieByte(c byte) bool { return isAlnum(c) || c == '-' || c == '_' }

// refuse is the error for text that does not pass. It shows at most the beginning, escaped.
func refuse(what, text, want string) error {
	return fmt.Errorf("%s %.80q: want %s", what, text, want)
}

// checkDNSName passes DNS-1123 subdomains: the names of namespaces, routes and hosts.
func checkDNSName(what, name string) error {
	err := refuse(what, name, "a lower-case DNS name")
	if len(name) > maxName {
		return err
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' ||
			!only(label, func(c byte) bool { return isLower(c) || c == '-' }) {
			return err
		}
	}
	return nil
}

// checkObjectName passes the names of objects: DNS-1123 subdomains whose labels may be of any length.
func checkObjectName(what, name string) error {
	if name == "" || len(name) > maxName || name[0] == '.' ||
		!only(name, func(c byte) bool { return isLower(c) || c == '-' || c == '.' }) {
		return refuse(what, name, "an object's name")
	}
	return nil
}

// checkServerPart passes what a server's name may be put together from; it may be empty.
func checkServerPart(what, s string) error {
	if len(s) > maxName || !only(s, isServerByte) {
		return refuse(what, s, "letters, digits and ._-")
	}
	return nil
}

// checkPath passes a URL's path. Without "#" it can be a key in a map whose lookups end in "#".
func checkPath(what, path string) error {
	if !strings.HasPrefix(path, "/") || len(path) > maxText ||
		!only(path, func(c byte) bool { return isText(c) && c != ' ' && c != '#' }) {
		return refuse(what, path, "a path that begins with / and has no blank or #")
	}
	return nil
}

func checkHeaderName(what, name string) error {
	if name == "" || len(name) > maxHeaderName || !only(name, isTokenByte) {
		return refuse(what, name, "a header's name")
	}
	return nil
}

func checkCookieName(what, name string) error {
	if name == "" || len(name) > maxText || !only(name, isCookieByte) {
		return refuse(what, name, "letters, digits, - and _")
	}
	return nil
}

func checkText(what, s string, limit int) error {
	if len(s) > limit || !only(s, isText) {
		return refuse(what, s, fmt.Sprintf("at most %d bytes, no control characters", limit))
	}
	return nil
}

// checkWords passes non-empty lists of words that need no quotes, as in OpenSSL's lists of ciphers.
func checkWords(what string, words []string, extra string) error {
	for _, w := range words {
		if w == "" || len(w) > maxText ||
			!only(w, func(c byte) bool { return isAlnum(c) || strings.IndexByte(extra, c) >= 0 }) {
			return refuse(what, w, "letters, digits and "+extra)
		}
	}
	return nil
}

// checkHSTS passes what a Strict-Transport-Security header is made of.
func checkHSTS(value string) error {
	if len(value) > maxText ||
		!only(value, func(c byte) bool { return isAlnum(c) || strings.IndexByte(`-=;" `, c) >= 0 }) {
		return refuse("hsts", value, "a Strict-Transport-Security value")
	}
	return nil
}

// maxTimeout is the longest time that HAProxy takes.
const maxTimeout = (1<<31 - 1) * time.Millisecond

// millis writes a time in milliseconds, rounded up and at most maxTimeout. An absent one is otherwise.
func millis(what string, d *durationpb.Duration, otherwise time.Duration) (string, error) {
	t := otherwise
	if d != nil {
		if err := d.CheckValid(); err != nil {
			return "", fmt.Errorf("%s: %w", what, err)
		}
		t = d.AsDuration()
	}
	if t <= 0 {
		return "", fmt.Errorf("%s %v: want more than 0", what, t)
	}
	return milliseconds(min(t, maxTimeout)), nil
}

// milliseconds writes a time as HAProxy reads it, rounded up.
func milliseconds(t time.Duration) string {
	return fmt.Sprintf("%dms", (t+time.Millisecond-1)/time.Millisecond)
}

// headerValue writes the parts of a header's value as one quoted log-format. fetch is what reads a header
// of the same message: req.hdr or res.hdr.
//
// A client's certificate is bytes that its owner chose: it is always written in base64, also where a
// Route does not ask, since raw it could end the header and begin another.
func headerValue(parts []*tsujiv1.HeaderValuePart, fetch string) (string, error) {
	var b strings.Builder
	for _, p := range parts {
		switch p := p.GetPart().(type) {
		case *tsujiv1.HeaderValuePart_Literal:
			if err := checkText("header value", p.Literal, maxHeaderValue); err != nil {
				return "", err
			}
			b.WriteString(literal(p.Literal))
		case *tsujiv1.HeaderValuePart_Header:
			n := p.Header.GetName()
			if n == "" || len(n) > maxHeaderName || !only(n, func(c byte) bool { return isAlnum(c) || c == '-' }) {
				return "", refuse("header value: name of a header", n, "letters, digits and -")
			}
			c, err := converters(p.Header.GetConverters())
			if err != nil {
				return "", err
			}
			b.WriteString("%")
			if p.Header.GetEscape() {
				b.WriteString("{+E}")
			}
			b.WriteString("[" + fetch + "(" + n + ")" + c + "]")
		case *tsujiv1.HeaderValuePart_ClientCertificate:
			c, err := converters(p.ClientCertificate.GetConverters())
			if err != nil {
				return "", err
			}
			if !strings.Contains(c, ",base64") {
				c += ",base64"
			}
			b.WriteString("%[ssl_c_der" + c + "]")
		default:
			return "", errors.New("header value: a part of a kind that this router does not know")
		}
	}
	if b.Len() > 2*maxHeaderValue { // escapes and base64 have made it longer than the API let it be
		return "", fmt.Errorf("header value of %d bytes: want at most %d", b.Len(), 2*maxHeaderValue)
	}
	return quoted(b.String()), nil
}

func converters(list []string) (string, error) {
	var b strings.Builder
	for _, c := range list {
		if c != "lower" && c != "base64" {
			return "", refuse("header value: converter", c, "lower or base64")
		}
		b.WriteString("," + c)
	}
	return b.String(), nil
}

// headerActions writes header changes as rules, one a line.
func headerActions(b *strings.Builder, rule, fetch string, actions []*tsujiv1.HeaderAction) error {
	for _, a := range actions {
		if err := checkHeaderName("header", a.GetName()); err != nil {
			return err
		}
		if len(a.GetValue()) == 0 {
			fmt.Fprintf(b, "  %s del-header %s\n", rule, quoted(a.GetName()))
			continue
		}
		v, err := headerValue(a.GetValue(), fetch)
		if err != nil {
			return fmt.Errorf("header %s: %w", a.GetName(), err)
		}
		fmt.Fprintf(b, "  %s set-header %s %s\n", rule, quoted(a.GetName()), v)
	}
	return nil
}
