package stats

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// terminations are the prefixes of a route's backend, and what OpenShift's label "backend" says of them.
var terminations = map[string]string{"be_http": "http", "be_edge_http": "https-edge", "be_secure": "https", "be_tcp": "tcp"}

// appendLabels appends the labels of an object, as OpenShift's router names them:
//
//	frontend{frontend}
//	backend{backend="http|https-edge|https|tcp|other/<name>",namespace,route}
//	server{server="<address>:<port>",namespace,route,pod,service}
//
// The number at the end of a route's backend tells it from its predecessor that still drains; both have the same labels.
func appendLabels(b []byte, k kind, proxy, name string) []byte {
	if k == frontend {
		return appendLabel(b, "frontend", proxy)
	}
	known, namespace, route := splitBackend(proxy)
	if k == backend {
		if known == "" {
			known = "other/" + proxy
		}
		b = appendLabel(b, "backend", known)
	} else {
		b = appendLabel(b, "server", splitServer(name).address)
	}
	b = appendLabel(append(b, ','), "namespace", namespace)
	b = appendLabel(append(b, ','), "route", route)
	if k == server {
		s := splitServer(name)
		b = appendLabel(append(b, ','), "pod", s.pod)
		b = appendLabel(append(b, ','), "service", s.service)
	}
	return b
}

// splitBackend takes the name of a route's backend apart: be_http:<namespace>:<route>, or be_http:<namespace>:<route>:<number>
// while a predecessor drains; neither a namespace nor a Route has ":" in its name. Of another backend all is empty.
func splitBackend(name string) (termination, namespace, route string) {
	prefix, rest, _ := strings.Cut(name, ":")
	namespace, route, ok := strings.Cut(rest, ":")
	if termination = terminations[prefix]; termination == "" || !ok {
		return "", "", ""
	}
	if plain, number, ok := strings.Cut(route, ":"); ok {
		if _, err := strconv.ParseUint(number, 10, 64); err == nil {
			route = plain
		}
	}
	return termination, namespace, route
}

type serverName struct{ pod, service, address string }

// splitServer takes the name of a server apart: pod:<pod>:<service>:<port name>:<address>:<port>, or
// ept:<service>:… with no Pod. Of another server the name is the address.
func splitServer(name string) serverName {
	switch part := strings.SplitN(name, ":", 5); {
	case part[0] == "pod" && len(part) == 5:
		return serverName{part[1], part[2], part[4]}
	case part[0] == "ept" && len(part) >= 4:
		return serverName{"", part[1], strings.Join(part[3:], ":")}
	default:
		return serverName{address: name}
	}
}

// appendLabel appends a label in the syntax of Prometheus' text format. What is not UTF-8 would spoil the whole answer.
func appendLabel(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, '=', '"')
	for _, r := range value { // of what is not UTF-8 the replacement character
		switch r {
		case '\\', '"':
			b = append(b, '\\', byte(r))
		case '\n':
			b = append(b, '\\', 'n')
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}
