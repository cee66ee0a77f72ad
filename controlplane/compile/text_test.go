package compile

import (
	"strings"
	"testing"
	"time"
)

// OpenShift's TimeSpec, in whole milliseconds, clipped to what HAProxy can hold.
func TestTimes(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"1": time.Millisecond, "1ms": time.Millisecond, "1us": time.Millisecond, "1001us": 2 * time.Millisecond,
		"30s": 30 * time.Second, "5m": 5 * time.Minute, "2h": 2 * time.Hour, "1d": 24 * time.Hour,
		"2147483647": maxTimeout, "2147483648": maxTimeout, "25d": maxTimeout, "99999999999999999999h": maxTimeout,
		"0": 0, "0s": 0, "": 0, "s": 0, "-1s": 0, "1.5s": 0, "1 s": 0, "1S": 0, "01s": 0, "1s\n": 0, "1w": 0,
	} {
		d, ok := parseTime(in)
		if ok != (want > 0) || d.AsDuration() != want {
			t.Errorf("%q: %v %t, want %v", in, d.AsDuration(), ok, want)
		}
	}
}

// What is said of a value is one short line, whatever the value is.
func TestValuesInMessages(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a\nb":                   `"a\nb"`,
		"\x1b[31m\xff":           `"\x1b[31m\xff"`,
		strings.Repeat("辻", 100): `"` + strings.Repeat("辻", 64) + `"…`,
		strings.Repeat("a", 64):  `"` + strings.Repeat("a", 64) + `"`,
	} {
		if got := quoted(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
	if got := printable("a\x00\x1b\xffb" + strings.Repeat("x", 5000)); strings.ContainsAny(got, "\x00\x1b") || len(got) > 4200 {
		t.Errorf("%q", got)
	}
}

// The strings that HSTS may be; what is not among them would go into a header.
func TestHSTSGrammar(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{
		"max-age=1": true, `max-age="1"`: true, "MAX-AGE = 1 ; PRELOAD": true, "preload;includeSubDomains;max-age=1": true,
		"max-age=1;": true, "max-age=1;includeSubDomains;preload ;": true,
		"": false, "max-age": false, "max-age=-1": false, "max-age=1;;": false, "max-age=1'": false,
		"max-age=1\n": false, "max-age=1;\tpreload": false, "max-age=1 evil": false,
	} {
		if got := hstsValue.MatchString(in); got != want {
			t.Errorf("%q: %t", in, got)
		}
	}
}

// A name that could not be an IngressController's is refused.
func TestConfig(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{"": true, "default": true, "shard-1.internal": true, "A": false, "a/b": false, "a\n": false} {
		if err := (Config{IngressController: name}).Validate(); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}
