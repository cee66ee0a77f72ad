package render

import (
	"strconv"
	"strings"
)

// Successor returns the n-th name of a route's backend in HAProxy: NAME, then NAME:2, NAME:3. A backend that
// replaces another of its route while that one drains needs one of its own. HAProxy takes letters, digits and "-_.:"
// in names (3.4.7 refuses "~"), and what comes after the prefix, a namespace and a name, has no ":".
//
// In rules Logical is field(1,:,3), on every release.
func Successor(name string, n int) string {
	if n <= 1 {
		return name
	}
	return name + ":" + strconv.Itoa(n)
}

// Logical returns the name of the route's backend that a backend of HAProxy stands for.
func Logical(actual string) string {
	parts := strings.SplitN(actual, ":", 4)
	return strings.Join(parts[:min(len(parts), 3)], ":")
}
