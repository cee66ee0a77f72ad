package snapshot

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The digests of fixed content. If this fails, equal resources are digested differently than by the
// release before: raise Epoch, which makes every router receive everything once, and put the new digests
// here. If only Epoch was raised, the new digests are what is wanted.
func TestGoldenDigests(t *testing.T) {
	t.Parallel()
	route := NewItem("route/shop/web", []byte("a route"))
	cert := NewItem("cert/shop/route:web", []byte("a certificate"))
	s := New(7, Set{}.With(NewItem("settings", []byte("settings")), route), Set{}.With(cert))
	for what, c := range map[string]struct{ got, want string }{
		"item":  {route.Digest().String(), "e88349d18902bc3c08b0b6726e6efa1a53b148109f4391a08bff4f2dfba5a4b7"},
		"empty": {Set{}.Digest().String(), "4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a"},
		"whole": {s.Version().String(), "7-1fd4c5620d277081a8ad5a759f1dc991a4b7bcab354a069e4339fec9e1b18ec7+523f2db4d36c70ad0c31e6e7a5b66f88711f524dca7c58b404ecc4e921731068"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %s, want %s", what, c.got, c.want)
		}
	}
}

// A version says the same after it was printed and read.
func TestVersionRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) (d Digest) {
			copy(d[:], rapid.SliceOfN(rapid.Byte(), len(d), len(d)).Draw(t, label))
			return d
		}
		v := Version{Revision: rapid.Uint64().Draw(t, "revision"), Config: draw("config"), Facts: draw("facts")}
		got, err := ParseVersion(v.String())
		if err != nil || got != v {
			t.Fatalf("ParseVersion(%q) = %v, %v", v, got, err)
		}
		if short := v.Short(); !v.IsZero() && !strings.HasPrefix(short, fmt.Sprint(v.Revision, "-")) {
			t.Fatalf("Short() = %q", short)
		}
		if d, err := DigestFromBytes(v.Config[:]); err != nil || d != v.Config {
			t.Fatalf("DigestFromBytes: %v, %v", d, err)
		}
	})
}

// The zero version is the empty string; an empty snapshot has a version all the same.
func TestZeroVersion(t *testing.T) {
	t.Parallel()
	v, err := ParseVersion("")
	if err != nil || !v.IsZero() || v.String() != "" || v.Short() != "" {
		t.Errorf("ParseVersion(\"\") = %+v, %v", v, err)
	}
	if empty := (Snapshot{}).Version(); empty.IsZero() || empty.Equal(v) {
		t.Errorf("the empty snapshot has version %q", empty)
	}
}

// Revisions are for people: versions are equal when their digests are.
func TestRevisionDoesNotCount(t *testing.T) {
	t.Parallel()
	s := Set{}.With(NewItem("settings", []byte("x")))
	a, b := New(1, s, Set{}).Version(), New(math.MaxUint64, s, Set{}).Version()
	if !a.Equal(b) || a.Equal(New(1, Set{}, s).Version()) {
		t.Error("versions are compared by something else than their two digests")
	}
}

// Only what String prints is read.
func TestParseVersionRefuses(t *testing.T) {
	t.Parallel()
	d := strings.Repeat("ab", 32)
	for _, s := range []string{
		"-", "+", "1", "1-" + d, "1-" + d + "+", "1-+" + d, "1+" + d + "-" + d,
		"-" + d + "+" + d, "-1-" + d + "+" + d, "+1-" + d + "+" + d, "01-" + d + "+" + d, " 1-" + d + "+" + d,
		"18446744073709551616-" + d + "+" + d,
		"1-" + d + "+" + d + "0", "1-" + d[1:] + "+" + d, "1-" + d + "+" + strings.ToUpper(d), "1-" + d + "+" + d + "\n",
		"1-" + d[:62] + "zz+" + d,
		"0-" + strings.Repeat("0", 64) + "+" + strings.Repeat("0", 64),
	} {
		if v, err := ParseVersion(s); err == nil {
			t.Errorf("ParseVersion(%q) = %v", s, v)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, 31), make([]byte, 33)} {
		if _, err := DigestFromBytes(b); err == nil {
			t.Errorf("DigestFromBytes of %d bytes: no error", len(b))
		}
	}
}

// What is refused does not fill the log: a message quotes the beginning only.
func TestParseVersionErrorIsShort(t *testing.T) {
	t.Parallel()
	_, err := ParseVersion(strings.Repeat("\x00", 1<<20))
	if err == nil || len(err.Error()) > 2000 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

func FuzzParseVersion(f *testing.F) {
	f.Add("")
	f.Add("7-" + strings.Repeat("0a", 32) + "+" + strings.Repeat("f1", 32))
	f.Add("0-" + strings.Repeat("0", 64) + "+" + strings.Repeat("0", 64))
	f.Add("007-+")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseVersion(s)
		if err == nil && v.String() != s {
			t.Errorf("%q was read as %q", s, v)
		}
	})
}

// Settings and routes are config, all else is facts, a name that merely begins like one too.
func TestPartOf(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Part{
		"settings": Config, "route/a/b": Config, "endpoints/a/b/c": Facts, "cert/a/route:b": Facts,
		"routes/a": Facts, "settings/x": Facts, "": Facts,
	} {
		if got := PartOf(name); got != want {
			t.Errorf("PartOf(%q) = %d, want %d", name, got, want)
		}
	}
}
