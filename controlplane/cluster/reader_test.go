package cluster

import "testing"

// A service account is written as a user's name; what is none is refused, and not taken for somebody else.
func TestParseReader(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want Reader
		ok   bool
	}{
		{"", Reader{}, true},
		{"system:serviceaccount:openshift-ingress:router", Reader{"openshift-ingress", "router"}, true},
		{"system:serviceaccount:a:b.c", Reader{"a", "b.c"}, true},
		{"router", Reader{}, false},
		{"openshift-ingress/router", Reader{}, false},
		{"system:serviceaccount:router", Reader{}, false},
		{"system:serviceaccount::router", Reader{}, false},
		{"system:serviceaccount:a:b:c", Reader{}, false},
		{"system:serviceaccount:A:b", Reader{}, false},
		{"system:serviceaccounts:openshift-ingress", Reader{}, false},
	} {
		got, err := ParseReader(c.text)
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%q: %v, %v", c.text, got, err)
		}
		if c.ok && got.String() != c.text {
			t.Errorf("%q is written as %q", c.text, got)
		}
	}
}
