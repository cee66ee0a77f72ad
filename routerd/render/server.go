package render

import (
	"strconv"
	"strings"
)

// Server is one server of a backend: an address behind one of the route's Services.
type Server struct {
	Name    string // as OpenShift's router names it: pod:<pod>:<service>:<port name>:<address>:<port>
	ID      uint32 // made from the name, so that hashing over ids does not depend on order
	Address string // IPv4, or IPv6 without brackets
	Port    uint32
	Weight  int    // 0 to 256; 0: no new traffic, sessions with its cookie go on
	Cookie  string // the value of the sticky cookie; empty in mode tcp

	// Params are the other keywords and their values, in HAProxy's words: "ssl", "verify", "required".
	// They are words of this package's own making and need no quoting.
	Params []string

	// Checked says that Params ask for health checks.
	Checked bool
}

// Line returns the server's line in a backend, without indentation or line end.
func (s Server) Line() string {
	return "server " + s.Name + " " + s.words(s.Address)
}

// AddCommand returns what adds the server to a backend at run time. The server starts in maintenance.
func (s Server) AddCommand(backend string) string {
	return "add server " + backend + "/" + s.Name + " " + s.words(s.Address)
}

// HostPort returns address and port, an IPv6 address in brackets.
func (s Server) HostPort() string {
	if strings.Contains(s.Address, ":") {
		return "[" + s.Address + "]:" + strconv.FormatUint(uint64(s.Port), 10)
	}
	return s.Address + ":" + strconv.FormatUint(uint64(s.Port), 10)
}

func (s Server) words(string) string {
	w := make([]string, 0, 7+len(s.Params))
	w = append(w, s.HostPort(), "id", strconv.FormatUint(uint64(s.ID), 10))
	if s.Cookie != "" {
		w = append(w, "cookie", s.Cookie)
	}
	w = append(w, "weight", strconv.Itoa(s.Weight))
	return strings.Join(append(w, s.Params...), " ")
}
