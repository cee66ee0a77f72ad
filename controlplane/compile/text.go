package compile

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"k8s.io/apimachinery/pkg/util/validation"
)

// The allow lists. Whatever string of an object gets into a resource matches one of these, or is taken
// apart and put together again.
var (
	plainName   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`) // nodes, zones, targets
	portName    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
	headerToken = regexp.MustCompile("^[-!#$%&'*+.0-9A-Z^_`a-z|~]{1,255}$")
	cookieName  = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,128}$`)
	plainTarget = regexp.MustCompile(`^/(?:[A-Za-z0-9/._~!$&()*+,;=:@-]|%[0-9A-Fa-f]{2})*$`)
)

const maxPath = 1024 // bytes

const controlRemedy = "a line break or another control character is not allowed: remove it"

// isControl tells of the characters that no option may have.
func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// hasControl tells whether a text has a control character, or is not text at all.
func hasControl(s string) bool {
	return strings.IndexFunc(s, isControl) >= 0 || !utf8.ValidString(s)
}

// pathFault tells what is wrong with a path; empty: nothing.
//
// OpenShift's API: begins with "/", no "#" and no space. Beyond that only visible ASCII, which is all
// that HAProxy accepts in a request line, and no more of it than a map's line can hold.
func pathFault(p string) string {
	switch {
	case p == "":
		return ""
	case hasControl(p):
		return controlRemedy
	case p[0] != '/':
		return "path must begin with /"
	case strings.ContainsAny(p, "# "):
		return "path cannot contain # or spaces: percent-encode them"
	case len(p) > maxPath:
		return fmt.Sprintf("path must be no longer than %d bytes", maxPath)
	}
	for _, b := range []byte(p) {
		if b > '~' {
			return "path must be of visible ASCII characters: percent-encode the others"
		}
	}
	return ""
}

// cleanPath makes the path that is routed by: OpenShift's router takes a path of slashes only for none.
func cleanPath(p string) string {
	if strings.Trim(p, "/") == "" {
		return "/"
	}
	return p
}

// hostFaults tells what is wrong with a host.
func hostFaults(host string) []string {
	faults := validation.IsDNS1123Subdomain(host)
	if len(faults) > 0 {
		return faults
	}
	for label := range strings.SplitSeq(host, ".") {
		if f := validation.IsDNS1123Label(label); len(f) > 0 {
			return f
		}
	}
	return nil
}

// The messages of Kubernetes' field errors, which owners know from the API.

func invalid(field, value, detail string) string {
	return fmt.Sprintf("%s: Invalid value: %s: %s", field, quoted(value), detail)
}

func required(field, detail string) string {
	if detail == "" {
		return field + ": Required value"
	}
	return fmt.Sprintf("%s: Required value: %s", field, detail)
}

func unsupported(field, value string, supported ...string) string {
	q := make([]string, len(supported))
	for i, s := range supported {
		q[i] = strconv.Quote(s)
	}
	return fmt.Sprintf("%s: Unsupported value: %s: supported values: %s", field, quoted(value), strings.Join(q, ", "))
}

// joined joins faults as Kubernetes does.
func joined(faults []string) string {
	if len(faults) == 1 {
		return faults[0]
	}
	return "[" + strings.Join(faults, ", ") + "]"
}

// quoted quotes a value for people, cut to what a line can bear.
func quoted(s string) string {
	const most = 64
	if n := 0; len(s) > most {
		for i := range s {
			if n++; n > most {
				return strconv.Quote(s[:i]) + "…"
			}
		}
	}
	return strconv.Quote(s)
}

// printable makes a text fit for a verdict: no control characters that a terminal would act upon, valid
// UTF-8, of bounded length.
func printable(s string) string {
	const most = 4096
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, s)
}

var timeSpec = regexp.MustCompile(`^([1-9][0-9]*)(us|ms|s|m|h|d)?$`)

// maxTimeout is the longest time that HAProxy can hold, and what longer ones are clipped to.
const maxTimeout = 2147483647 * time.Millisecond

// parseTime reads OpenShift's TimeSpec: a number and a unit, milliseconds if there is none. The result is
// in whole milliseconds, rounded up, and at most maxTimeout.
func parseTime(s string) (*durationpb.Duration, bool) {
	m := timeSpec.FindStringSubmatch(s)
	if m == nil {
		return nil, false
	}
	unit := map[string]time.Duration{
		"us": time.Microsecond, "": time.Millisecond, "ms": time.Millisecond,
		"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
	}[m[2]]
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || n > int64(maxTimeout/unit) {
		return durationpb.New(maxTimeout), true
	}
	return durationpb.New(wholeMilliseconds(time.Duration(n) * unit)), true
}

// wholeMilliseconds rounds up, and clips to maxTimeout.
func wholeMilliseconds(d time.Duration) time.Duration {
	d = min(d, maxTimeout)
	if part := d % time.Millisecond; part > 0 {
		d += time.Millisecond - part
	}
	return d
}
