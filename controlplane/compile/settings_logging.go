package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	operatorv1 "github.com/openshift/api/operator/v1"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

const (
	defaultLogLength = 1024 // bytes of a line
	minLogLength     = 480
	maxCapture       = 1024 // bytes of a header or cookie
	maxLogFormat     = 16384
)

var facilities = strings.Fields("kern user mail daemon auth syslog lpr news uucp cron auth2 ftp ntp audit alert cron2" +
	" local0 local1 local2 local3 local4 local5 local6 local7")

// accessLog compiles spec.logging.access. Where OpenShift's operator puts a container beside the router
// for Container, here HAProxy writes to its standard output.
func (s *settings) accessLog() {
	if s.spec.Logging == nil || s.spec.Logging.Access == nil {
		return
	}
	const field = "spec.logging.access."
	a := s.spec.Logging.Access
	l := &tsujiv1.AccessLog{Facility: "local1", MaxLength: defaultLogLength, LogEmptyRequests: a.LogEmptyRequests != operatorv1.LoggingPolicyIgnore}
	switch d := a.Destination; d.Type {
	case operatorv1.ContainerLoggingDestinationType:
		l.Address = "stdout"
		if d.Container != nil {
			s.logLength(l, field+"destination.container", int64(d.Container.MaxLength), 8192)
		}
	case operatorv1.SyslogLoggingDestinationType:
		if d.Syslog == nil {
			s.fault(required(field+"destination.syslog", "no access log is written"))
			return
		}
		if !s.syslog(l, field+"destination.syslog", d.Syslog) {
			return
		}
	default:
		s.fault(unsupported(field+"destination.type", string(d.Type), "Container", "Syslog"))
		return
	}
	if f := logFormatFault(a.HttpLogFormat, maxLogFormat, logFetch); f != "" {
		s.fault(invalid(field+"httpLogFormat", a.HttpLogFormat, f))
	} else {
		l.Format = a.HttpLogFormat
	}
	l.RequestHeaders = s.captures(field+"httpCaptureHeaders.request", a.HTTPCaptureHeaders.Request)
	l.ResponseHeaders = s.captures(field+"httpCaptureHeaders.response", a.HTTPCaptureHeaders.Response)
	l.Cookie = s.cookie(field+"httpCaptureCookies", a.HTTPCaptureCookies)
	s.out.AccessLog = l
}

func (s *settings) logLength(l *tsujiv1.AccessLog, field string, n, most int64) {
	switch {
	case n == 0:
	case n < minLogLength || n > most:
		s.fault(invalid(field+".maxLength", fmt.Sprint(n), fmt.Sprintf("must be between %d and %d", minLogLength, most)))
	default:
		l.MaxLength = uint32(n) // between minLogLength and most
	}
}

func (s *settings) syslog(l *tsujiv1.AccessLog, field string, d *operatorv1.SyslogLoggingDestinationParameters) bool {
	a, err := netip.ParseAddr(d.Address)
	switch {
	case err != nil || a.Zone() != "":
		s.fault(invalid(field+".address", d.Address, "must be an IP address; no access log is written"))
		return false
	case d.Port < 1 || d.Port > 65535:
		s.fault(invalid(field+".port", fmt.Sprint(d.Port), "must be between 1 and 65535; no access log is written"))
		return false
	}
	l.Address = netip.AddrPortFrom(a, uint16(d.Port)).String()
	if slices.Contains(facilities, d.Facility) {
		l.Facility = d.Facility
	} else if d.Facility != "" {
		s.fault(unsupported(field+".facility", d.Facility, facilities...))
	}
	s.logLength(l, field, int64(d.MaxLength), 4096)
	return true
}

func (s *settings) captures(field string, list []operatorv1.IngressControllerCaptureHTTPHeader) []*tsujiv1.Capture {
	var out []*tsujiv1.Capture
	for i, h := range list {
		if !headerToken.MatchString(h.Name) {
			s.fault(invalid(fmt.Sprintf("%s[%d].name", field, i), h.Name, "must be a header's name of up to 255 characters"))
			continue
		}
		if n, ok := s.captureLength(fmt.Sprintf("%s[%d].maxLength", field, i), h.MaxLength); ok {
			out = append(out, &tsujiv1.Capture{Name: h.Name, MaxLength: n})
		}
	}
	return out
}

func (s *settings) captureLength(field string, n int) (uint32, bool) {
	if n < 1 {
		s.fault(invalid(field, fmt.Sprint(n), "must be greater than or equal to 1"))
		return 0, false
	}
	return uint32(min(n, maxCapture)), true // between 1 and maxCapture
}

// cookie compiles the one cookie that is logged.
func (s *settings) cookie(field string, list []operatorv1.IngressControllerCaptureHTTPCookie) *tsujiv1.CookieCapture {
	if len(list) == 0 {
		return nil
	}
	if len(list) > 1 {
		s.fault(fmt.Sprintf("%s: Too many: %d: must have at most 1 items; the first is logged", field, len(list)))
	}
	c := list[0]
	out := &tsujiv1.CookieCapture{Prefix: c.MatchType == operatorv1.CookieMatchTypePrefix, Name: c.Name}
	if out.GetPrefix() {
		out.Name = c.NamePrefix
	}
	if !cookieName.MatchString(out.GetName()) {
		s.fault(invalid(field+"[0].name", out.GetName(), "must be a name of up to 128 letters, digits, _ and -"))
		return nil
	}
	n, ok := s.captureLength(field+"[0].maxLength", c.MaxLength)
	if !ok {
		return nil
	}
	out.MaxLength = n
	return out
}
