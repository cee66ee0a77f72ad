package render

import (
	"slices"
	"strings"
)

// checkLogFormat passes the log-formats that an IngressController may set: text, HAProxy's aliases with
// their flags, and fetches of connection and request. Anything that reads the process (its environment,
// its files, Lua) does not pass.
func checkLogFormat(what, format string) error {
	if err := checkText(what, format, maxHeaderValue); err != nil {
		return err
	}
	for rest := format; ; {
		_, item, found := strings.Cut(rest, "%")
		if !found {
			return nil
		}
		if after, ok := strings.CutPrefix(item, "%"); ok {
			rest = after
			continue
		}
		n, ok := logItem(item)
		if !ok {
			return refuse(what+" at", "%"+item, "an alias or fetch of HAProxy's log-format that this router knows")
		}
		rest = item[n:]
	}
}

// logItem returns how long the item is that follows a percent sign: an alias, or a fetch in brackets.
func logItem(s string) (int, bool) {
	i := 0
	if strings.HasPrefix(s, "{") {
		end := strings.IndexByte(s, '}')
		if end < 0 || !only(s[1:end], func(c byte) bool { return isAlnum(c) || c == '+' || c == '-' || c == ',' }) {
			return 0, false
		}
		i = end + 1
	}
	if strings.HasPrefix(s[i:], "[") {
		end := strings.IndexByte(s[i:], ']')
		return i + end + 1, end > 0 && logFetch(s[i+1:i+end])
	}
	start := i
	for i < len(s) && isAlnum(s[i]) {
		i++
	}
	// HAProxy takes the longest run of letters and digits as the alias.
	return i, slices.Contains(strings.Fields(logAliases), s[start:i])
}

// logAliases are the aliases of HAProxy 2.6 and later.
const logAliases = "o T Tl Ts t ms tr trg trl Ta Tc Td Th Ti Tq TR Tr Tt Tu Tw B CC CS H HM HP HPO HQ HU HV ID ST U" +
	" ac b bc bi bp bq ci cp f fc fi fp ft lc hr hrl hs hsl pid r rc rt s sc si sp sq sslc sslv ts tsc"

// logFetches are the beginnings of the fetches that may be logged.
const logFetches = "req. res. capture. ssl_ src dst fc_ bc_ fe_ be_ txn. method path pathq query url base status" +
	" http_auth_user date uuid rand hostname unique-id lat_ns_ cpu_ns_"

func logFetch(s string) bool {
	if len(s) > maxText || !only(s, func(c byte) bool { return isAlnum(c) || strings.IndexByte("._-(),", c) >= 0 }) {
		return false
	}
	for _, name := range strings.Fields(logFetches) {
		if strings.HasPrefix(s, name) {
			return true
		}
	}
	return false
}
