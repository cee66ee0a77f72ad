package compile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// What a log-format may consist of besides text: HAProxy's aliases, and fetches that read nothing but the
// connection, the request and the response. HAProxy refuses a fetch where what it reads is not there: when
// a request is logged its headers are gone but for those captured, and when it gets its id there is no
// response yet. An id goes into a header, so that nothing is in it whose bytes a client chose freely.
var (
	logItem    = regexp.MustCompile(`^(?:\{[-+]?[QXE](?:,[-+]?[QXE])*\})?(?:\[([^\]]*)\]|([A-Za-z]+[0-9]*))`)
	logAliases = strings.Fields("o T Tl Ts t ms tr trg trl Ta Tc Td Th Ti Tq TR Tr Tt Tu Tw B CC CS H HM HP HPO HQ HU HV ID ST U" +
		" ac b bc bi bp bq ci cp f fc fi fp ft lc hr hrl hs hsl pid r rc rt s sc si sp sq sslc sslv ts tsc")

	logFetch = fetches(anyFetch + `|capture\.res\.hdr\([0-9]{1,2}\)|capture\.res\.ver|status|unique-id|be_name|be_id` +
		`|ssl_fc_sni|ssl_c_verify|ssl_c_[si]_dn(?:\([a-zA-Z]{1,20}\))?|ssl_c_(?:serial|sha1),hex`)
	requestFetch = fetches(anyFetch + `|req\.f?hdr\([0-9A-Za-z-]{1,255}\)|req\.cook\([0-9A-Za-z_-]{1,128}\)|path|pathq|query|url|base|req\.ver`)
)

const anyFetch = `capture\.req\.hdr\([0-9]{1,2}\)|capture\.req\.(?:method|uri|ver)|ssl_fc|ssl_fc_(?:cipher|protocol|alpn)` +
	`|src|src_port|dst|dst_port|method|uuid|hostname|fc_http_major|fc_rtt|fe_name|fe_id|fe_conn|date|rand`

func fetches(alternatives string) *regexp.Regexp {
	return regexp.MustCompile(`^(?:` + alternatives + `)(?:,(?:lower|upper|base64))*$`)
}

// logFormatFault tells what is wrong with a log-format; empty: nothing.
func logFormatFault(format string, most int, fetch *regexp.Regexp) string {
	switch {
	case len(format) > most:
		return fmt.Sprintf("must be no longer than %d bytes", most)
	case hasControl(format):
		return controlRemedy
	}
	for rest := format; ; {
		_, item, found := strings.Cut(rest, "%")
		if !found {
			return ""
		}
		if after, ok := strings.CutPrefix(item, "%"); ok {
			rest = after
			continue
		}
		m := logItem.FindStringSubmatch(item)
		if len(m) != 3 || m[2] != "" && !slices.Contains(logAliases, m[2]) || m[2] == "" && !fetch.MatchString(m[1]) {
			return quoted("%"+item) + " is not an alias or a fetch that can be used here: write %% for a percent sign"
		}
		rest = item[len(m[0]):]
	}
}
