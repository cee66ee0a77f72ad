package tsujiv1_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

func one(name string) *tsujiv1.Resource {
	r := &tsujiv1.Resource{Name: name}
	switch {
	case name == tsujiv1.SettingsName:
		r.Kind = &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{
			IngressController: "default", Http2: true, Timeouts: &tsujiv1.Timeouts{Connect: durationpb.New(5e9)},
		}}
	case name == tsujiv1.CommitName:
		r.Kind = &tsujiv1.Resource_Commit{Commit: &tsujiv1.Commit{Version: "x", Resources: 3}}
	case strings.HasPrefix(name, "route/"):
		r.RequiredFeatures = []string{"a", "b"}
		r.Kind = &tsujiv1.Resource_Route{Route: &tsujiv1.Route{
			Namespace: "shop", Name: "web", Host: "shop.example", Path: "/", Termination: 1,
			Backends: []*tsujiv1.BackendRef{{}}, Timeouts: &tsujiv1.RouteTimeouts{Server: durationpb.New(30e9)},
		}}
	case strings.HasPrefix(name, "endpoints/"):
		r.Kind = &tsujiv1.Resource_Endpoints{Endpoints: &tsujiv1.Endpoints{
			Namespace: "shop", Service: "web", Port: "http",
			Endpoints: []*tsujiv1.Endpoint{{Address: "192.0.2.1", Port: 8080, Ready: true, Zone: "tok04"}},
		}}
	default:
		r = withKey()
		r.Name = name
	}
	return r
}

// Names are what the design says, and Decode reads what Encode wrote under each of them.
func TestEncodeDecode(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct{ text, kind string }{
		tsujiv1.SettingsName:                                        {"settings", "Settings"},
		tsujiv1.CommitName:                                          {"commit", "Commit"},
		tsujiv1.RouteName("shop", "web"):                            {"route/shop/web", "Route"},
		tsujiv1.EndpointsName("shop", "web", tsujiv1.AnyPort):       {"endpoints/shop/web/*", "Endpoints"},
		tsujiv1.CertificateName("shop", tsujiv1.FromSecret, "wild"): {"cert/shop/secret:wild", "Certificate"},
	} {
		if name != want.text {
			t.Errorf("a name is %q, want %q", name, want.text)
		}
		in := one(name)
		item, err := tsujiv1.Encode(in)
		if err != nil {
			t.Fatal(err)
		}
		out, err := tsujiv1.Decode(item)
		if err != nil || !proto.Equal(in, out) || out.KindName() != want.kind || item.Name() != name {
			t.Errorf("%s: decoded %v, %v", name, out, err)
		}
	}
}

// Decode refuses what is not a resource, is another's, or has a kind that its name does not allow. Its
// message names the resource and holds nothing of its content.
func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	encoded := func(name string, r *tsujiv1.Resource) snapshot.Item {
		b, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return snapshot.NewItem(name, b)
	}
	renamed := func(r *tsujiv1.Resource, name string) *tsujiv1.Resource {
		r.Name = name
		return r
	}
	for what, item := range map[string]snapshot.Item{
		"no message":             snapshot.NewItem("cert/shop/route:web", []byte(secret)),
		"cut short":              snapshot.NewItem("route/shop/web", []byte{0x0a, 0x20, 'x'}),
		"nothing at all":         snapshot.NewItem("", nil),
		"another's name":         encoded("cert/shop/route:other", withKey()),
		"a route named settings": encoded("settings", renamed(one("route/shop/web"), "settings")),
		"a key named route":      encoded("route/shop/web", renamed(withKey(), "route/shop/web")),
		"a commit named cert":    encoded("cert/x", renamed(one("commit"), "cert/x")),
		"no kind":                encoded("route/shop/web", &tsujiv1.Resource{Name: "route/shop/web"}),
		"unknown first segment":  encoded("gateway/x", renamed(one("route/shop/web"), "gateway/x")),
		"prefix alone":           encoded("route/", renamed(one("route/shop/web"), "route/")),
		"settings with a tail":   encoded("settings/x", renamed(one("settings"), "settings/x")),
		"commit with a tail":     encoded("commit/x", renamed(one("commit"), "commit/x")),
	} {
		_, err := tsujiv1.Decode(item)
		if err == nil {
			t.Errorf("%s: decoded", what)
			continue
		}
		if leaks(err.Error()) {
			t.Errorf("%s: the message shows content: %v", what, err)
		}
	}
}

// A name that is not UTF-8 cannot be encoded, and is refused rather than mended.
func TestEncodeRefuses(t *testing.T) {
	t.Parallel()
	if _, err := tsujiv1.Encode(&tsujiv1.Resource{Name: "route/\xff/x"}); err == nil {
		t.Error("encoded")
	}
}

// The digests of one resource of each kind. If this fails, equal resources are encoded differently than by
// the release before: raise snapshot.Epoch, which makes every router receive everything once, and put the
// new digests here. A new field that these resources do not have changes nothing.
func TestGoldenDigests(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"settings":             "f71dd532e3b31372188357d70f72391f7ee552fe385b03f4c942c4a1c1a74228",
		"route/shop/web":       "ed21c19fe4c2879b36272e8a2deb64d352947a9a5552978d15ad17f97ba56b62",
		"endpoints/shop/web/*": "1fd314b96cb6af94064240e16382b92aa80785ab139675b33b1d980fc8da40d3",
		"cert/shop/route:web":  "006401f4e3874abbec58680eb77e76488addad7cd7b91c64c1013638d4773e46",
	} {
		item, err := tsujiv1.Encode(one(name))
		if err != nil {
			t.Fatal(err)
		}
		if got := item.Digest().String(); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// Whatever comes from the wire, Decode returns: an error, or a resource whose name fits its kind.
func FuzzDecode(f *testing.F) {
	for _, name := range []string{"settings", "commit", "route/shop/web", "endpoints/shop/web/*", "cert/shop/route:web"} {
		item, err := tsujiv1.Encode(one(name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(name, item.Encoded())
	}
	f.Add("", []byte{})
	f.Fuzz(func(t *testing.T, name string, encoded []byte) {
		r, err := tsujiv1.Decode(snapshot.NewItem(name, encoded))
		if err != nil {
			return
		}
		if r.GetName() != name || r.KindName() == "unknown" {
			t.Errorf("decoded %q as a %s named %q", name, r.KindName(), r.GetName())
		}
		again, err := tsujiv1.Encode(r)
		if err != nil {
			t.Fatalf("what was decoded cannot be encoded: %v", err)
		}
		if back, err := tsujiv1.Decode(again); err != nil || !proto.Equal(back, r) {
			t.Errorf("decoded again: %v", err)
		}
	})
}
