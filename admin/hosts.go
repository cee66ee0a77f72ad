package admin

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// ours tells whether a request's Host may be the name of an admin address. A page in somebody's browser can have its
// own name lead here (DNS rebinding), and then reads whatever answers to that name. Names that nobody can register for
// that are let in: an address, as the kubelet and Prometheus use it; localhost; a name without a domain; a Service's.
// So are those that the operator lists.
func ours(host string, listed []string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	for _, l := range listed {
		if host == strings.ToLower(l) {
			return true
		}
	}
	// Browsers look localhost and what is below it up themselves. svc and cluster.local are no domains of the
	// Internet's.
	for _, local := range []string{".localhost", ".svc", ".svc.cluster.local"} {
		if strings.HasSuffix(host, local) {
			return true
		}
	}
	return !strings.Contains(host, ".") // browsers send no empty one
}

// CheckHosts tells what is wrong with names that are let in besides.
func CheckHosts(hosts []string) error {
	for _, h := range hosts {
		if h == "" || strings.ContainsAny(h, ":/*@ []") || strings.Trim(h, ".") != h {
			return fmt.Errorf("%q: want a name without a port, as in metrics.example.com", h)
		}
	}
	return nil
}

// onlyOurs answers 421 for a Host that is not ours.
func onlyOurs(listed []string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !ours(r.Host, listed) {
			http.Error(w, fmt.Sprintf("host %.100q is not known here: ask by address, or list it in --admin-hosts", r.Host), http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}
