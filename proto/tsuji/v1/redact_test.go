package tsujiv1_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

const secret = "MIIEsecretKEYmaterial"

func withKey() *tsujiv1.Resource {
	return &tsujiv1.Resource{
		Name: "cert/shop/route:web",
		Kind: &tsujiv1.Resource_Certificate{Certificate: &tsujiv1.Certificate{
			ChainPem:   []byte("the chain"),
			PrivateKey: &tsujiv1.PrivateKey{Pem: []byte(secret)},
		}},
	}
}

// leaks tells whether text holds the secret in any of the forms that Go prints bytes in.
func leaks(text string) bool {
	var decimal, hexes, octal []string
	for _, b := range []byte(secret) {
		decimal = append(decimal, fmt.Sprint(b))
		hexes = append(hexes, fmt.Sprintf("0x%x", b))
		octal = append(octal, fmt.Sprintf("%o", b))
	}
	for _, form := range []string{
		secret, hex.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte(secret)),
		strings.Join(decimal, " "), strings.Join(decimal, ","), strings.Join(hexes, ", "), strings.Join(octal, " "),
	} {
		if strings.Contains(strings.ToLower(text), strings.ToLower(form[:len(form)*2/3])) {
			return true
		}
	}
	return false
}

// printed is what is printed: messages with a key, by themselves and inside of other things.
func printed() map[string]any {
	r := withKey()
	c := r.GetCertificate()
	type holder struct {
		Resource *tsujiv1.Resource
		Key      *tsujiv1.PrivateKey
		Any      any
	}
	h := holder{r, c.GetPrivateKey(), c}
	return map[string]any{
		"resource":          r,
		"certificate":       c,
		"key":               c.GetPrivateKey(),
		"slice":             []*tsujiv1.Resource{r, r},
		"map":               map[string]*tsujiv1.Certificate{"x": c},
		"struct":            h,
		"pointer to struct": &h,
		"kind":              r.GetKind(),
		"error":             fmt.Errorf("apply %v: %w", r, errors.New("no")),
	}
}

// No verb shows a private key, wherever the message is.
func TestVerbsHideKeys(t *testing.T) {
	t.Parallel()
	for what, value := range printed() {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%c", "%08v"} {
			if got := fmt.Sprintf(verb, value); leaks(got) {
				t.Errorf("%s of %s shows the key: %s", verb, what, got)
			}
		}
		if got := fmt.Sprint(value) + fmt.Sprintln(value); leaks(got) {
			t.Errorf("Sprint of %s shows the key: %s", what, got)
		}
	}
}

// Neither does JSON, nor a log, as a message's own attribute, in a group, or as a value of any kind.
func TestLogsAndJSONHideKeys(t *testing.T) {
	t.Parallel()
	for what, value := range printed() {
		b, err := json.Marshal(value)
		if err != nil {
			t.Errorf("marshal %s: %v", what, err)
		}
		var text, js bytes.Buffer
		for _, h := range []slog.Handler{slog.NewTextHandler(&text, nil), slog.NewJSONHandler(&js, nil)} {
			l := slog.New(h)
			l.Info("said", "value", value)
			l.With("value", value).WithGroup("g").Info("said", slog.Group("h", "value", value))
		}
		for how, got := range map[string]string{"JSON": string(b), "a text log": text.String(), "a JSON log": js.String()} {
			if leaks(got) {
				t.Errorf("%s of %s shows the key: %s", how, what, got)
			}
		}
	}
}

// What is not secret can still be read, and a nil message is printed without a fuss.
func TestPrintingShowsTheRest(t *testing.T) {
	t.Parallel()
	got := fmt.Sprint(withKey())
	for _, want := range []string{"cert/shop/route:web", "the chain", "[redacted]"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %s", want, got)
		}
	}
	route := &tsujiv1.Resource{Name: "route/shop/web", Kind: &tsujiv1.Resource_Route{Route: &tsujiv1.Route{Host: "shop.example"}}}
	if got := fmt.Sprint(route); !strings.Contains(got, "shop.example") {
		t.Errorf("a route prints as %s", got)
	}
	for _, v := range []any{(*tsujiv1.Resource)(nil), (*tsujiv1.Certificate)(nil), (*tsujiv1.PrivateKey)(nil)} {
		if got := fmt.Sprintf("%v %+v %s", v, v, v); strings.Contains(got, "PANIC") {
			t.Errorf("a nil %T prints as %s", v, got)
		}
	}
}

// Redact takes the key out of a copy, leaves the rest and the original, and does not copy without need.
func TestRedact(t *testing.T) {
	t.Parallel()
	r := withKey()
	got := tsujiv1.Redact(r)
	if b, _ := proto.Marshal(got); bytes.Contains(b, []byte(secret)) {
		t.Error("the key is in the redacted resource")
	}
	if got.GetName() != r.GetName() || string(got.GetCertificate().GetChainPem()) != "the chain" {
		t.Errorf("redacted: %v", got)
	}
	if string(r.GetCertificate().GetPrivateKey().GetPem()) != secret {
		t.Error("the original lost its key")
	}
	if tsujiv1.Redact(got) != got || tsujiv1.Redact(nil) != nil {
		t.Error("a resource without a key was copied")
	}
}
