package haproxy

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tsuji-dev/tsuji/test/certtest"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

const forged = "\nSHA1 FingerPrint: 0123456789012345678901234567890123456789\nSubject: /CN=x\nIssuer: /CN=x\nOCSP Response Key: \n\n> "

// odd are certificates whose text looks like something that HAProxy says, or of which HAProxy does not say all.
var odd = map[string]certtest.Pair{
	"a serial number":           {Names: []string{"x\nSerial: 1"}},
	"a prompt":                  {Names: []string{"a\n> b"}},
	"the end of an answer":      {Names: []string{"a\n\n> \nb"}},
	"a prompt and nothing else": {Common: "\n> "},
	"a whole answer":            {Common: "x\n\n> Filename: certs/first.pem\nStatus: Used\nSerial: 01\n"},
	"a refusal":                 {Common: "x\n> [3]: Can't remove the certificate: certificate 'x' doesn't exist!\n\n> "},
	"a fingerprint":             {Common: "x\nSHA1 FingerPrint: 00112233"},
	"a fingerprint, and long":   {Names: append([]string{"x" + forged}, certtest.Many(1200, 22)...)},
	"too many names":            {Names: certtest.Many(1200, 22)},
	"long names":                {Names: certtest.Many(100, 200)},
	"a key that cannot sign":    {X25519: true},
}

// What HAProxy says of certificates is read whatever stands in them, each by itself; that it has others is seen.
func TestOddCertificates(t *testing.T) { haproxytest.Each(t, oddCertificatesStory) }

func oddCertificatesStory(t *testing.T, binary string) {
	p, dir := setup(t, binary, nil)
	binds, files := "", []string{"certs/first.pem"}
	want := map[string]CertificateInfo{}
	add := func(file string, o certtest.Pair) {
		t.Helper()
		chain, key := o.Make()
		write(t, dir, file, string(chain)+string(key))
		binds += fmt.Sprintf("  bind unix@run/tls%d.sock ssl crt %s\n", len(want), file)
		info, err := Identify(chain)
		must(t, err)
		want[file] = info[0]
	}
	add("certs/first.pem", certtest.Pair{Common: "first", Names: []string{"first.test"}})
	names := map[string]string{}
	for what, o := range odd {
		file := fmt.Sprintf("certs/odd%d.pem", len(names))
		if !o.X25519 { // with that there is no certificate of a server
			add(file, o)
			names[file], files = what, append(files, file, "certs/first.pem", "certs/none.pem")
		}
	}
	change(t, dir, "  default_backend b\n", binds+"  default_backend b\n")
	start(t, p)
	r, ctx := connect(t, p), t.Context()
	got, err := r.Certificates(ctx, files...)
	must(t, err)
	var refused *RefusedError
	for i, file := range files {
		switch w, ok := want[file]; {
		case !ok && !errors.As(got[i].Err, &refused):
			t.Errorf("%s: %+v", file, got[i])
		case ok && (got[i].Err != nil || !got[i].Is(w)):
			t.Errorf("%s, %s: %+v, want %+v", file, names[file], got[i], w)
		case ok && file == "certs/first.pem" && got[i].SHA1 == "":
			t.Errorf("%s: no fingerprint", file)
		}
		if file != "certs/first.pem" && got[i].Err == nil && got[i].Is(want["certs/first.pem"]) {
			t.Errorf("%s is taken for another", file)
		}
	}
	if i, err := r.Info(ctx); err != nil || i.PID != r.PID() {
		t.Errorf("then: %+v, %v", i, err)
	}
	if list, err := r.CertificateFiles(ctx, false); err != nil || len(list) < len(want) {
		t.Errorf("%q, %v", list, err)
	}
}

// A file of CA certificates is compared one by one, whatever stands in them. It goes in by commands that fit, where there
// are several for that.
func TestOddCAs(t *testing.T) { haproxytest.Each(t, oddCAsStory) }

func oddCAsStory(t *testing.T, binary string) {
	p, _ := setup(t, binary, nil)
	start(t, p)
	r, ctx := connect(t, p), t.Context()
	const file, buffer = "ca/odd.pem", 16384
	other, _ := certtest.Pair{Common: "other"}.Make()
	pem := string(other)
	for _, o := range odd {
		if len(o.Names) > 1 && !r.Version().AtLeast(3, 4) {
			continue // beyond the buffer by itself
		}
		chain, _ := o.Make()
		pem += string(chain)
	}
	for i := range 60 {
		if r.Version().AtLeast(3, 0) || i < 3 {
			chain, _ := certtest.Pair{Common: "plain"}.Make()
			pem += string(chain)
		}
	}
	want, err := Identify([]byte(pem))
	must(t, err)
	ops := append(append([]Op{NewCA(file)}, SetCA(file, pem, r.Version(), buffer)...), CommitCA(file))
	if many := len(ops) > 3; many != r.Version().AtLeast(3, 0) {
		t.Errorf("%d commands", len(ops))
	}
	must(t, r.Do(ctx, ops...))
	compare := func(list []CertificateInfo, differs bool) {
		t.Helper()
		if what, err := r.CA(ctx, file, list); err != nil || (what != "") != differs {
			t.Errorf("%q, %v", what, err)
		}
	}
	compare(want, false)
	compare(append(want, want[0]), false)
	compare(want[1:], true)
	stranger, _ := certtest.Pair{Common: "stranger"}.Make()
	more, err := Identify(stranger)
	must(t, err)
	compare(append(want, more...), true)
	compare(append(want[:len(want)-1:len(want)-1], more...), true)
}

// What fits is taken, to the last byte that is said to fit, and answered: also where an answer begins with another's.
func TestFits(t *testing.T) { haproxytest.Each(t, fitsStory) }

func fitsStory(t *testing.T, binary string) {
	for _, buffer := range []int{16384, 32768} {
		p, dir := setup(t, binary, nil)
		change(t, dir, "global\n", "global\n  tune.bufsize "+map[int]string{16384: "16384\n  tune.maxrewrite 8192\n", 32768: "32768\n  tune.maxrewrite 1024\n"}[buffer])
		start(t, p)
		r, ctx := connect(t, p), t.Context()
		const file = "certs/a.pem"
		must(t, r.Do(ctx, NewCertificate(file)))
		chain, key := certtest.Pair{Common: "a"}.Make()
		pair := string(chain) + string(key)
		for _, short := range []int{0, 1, 2, 100, 1000} {
			room := buffer - bufferKept - SetCertificate(file, pair).command.len() - short
			op := SetCertificate(file, strings.Repeat("#\n", room/2)+"#"[:room%2]+pair)
			if !op.Fits(buffer) || short == 0 && SetCertificate(file, strings.Repeat("#\n", room/2+1)+pair).Fits(buffer) {
				t.Fatalf("%d bytes", op.command.len())
			}
			if room%2 == 1 {
				op = SetCertificate(file, strings.Repeat("#\n", room/2-1)+"##\n"+pair)
			}
			must(t, r.Do(ctx, op, CommitCertificate(file)))
		}
	}
}

// An answer with foreign text ends before what only the connection knows, and nowhere else.
func TestReadOn(t *testing.T) {
	end := endLine("WORD")
	text := "Filename: x\n\n> a\n> > b\n" + strings.Repeat("y", 40) + "\n> [3]: Can't remove the certificate: certificate 'OTHER' doesn't exist!\n> \n"
	r := bufio.NewReaderSize(strings.NewReader(text+end+"\n\n\n> next\n> "), 16)
	first, err := readAnswer(r)
	must(t, err)
	got, err := readOn(r, first, end)
	must(t, err)
	if d := cmp.Diff(text, got); d != "" {
		t.Error(d)
	}
	if next, err := readAnswer(r); next != "next\n" || err != nil {
		t.Errorf("then %q, %v", next, err)
	}
	if _, err := readOn(bufio.NewReader(strings.NewReader("x\n> ")), "", end); err == nil {
		t.Error("an answer without end")
	}
}

// What does not fit the question is said to, and is nobody's.
func TestParseCertificate(t *testing.T) {
	const head = "Filename: a\nStatus: Used\n"
	const dates = "notBefore: Nov 29 18:26:37 2026 GMT\nnotAfter: Nov 30 18:26:37 2027 GMT\n"
	const sum = "0123456789ABCDEF0123456789ABCDEF01234567"
	for text, want := range map[string]CertificateInfo{
		"":                           {},
		"Filename: b\nSerial: 01\n":  {},
		head + "Status: Empty":       {},
		head + "Serial: x\n" + dates: {},
		head + "Serial: \n" + dates:  {},
		head + "Serial: 01\n":        {},
		head + "Serial: 01\nSubject Alternative Name: DNS:x\n" + dates:             {},
		head + "Serial: 01\n" + dates + "Algorithm: ":                              {Serial: "01"},
		head + "Serial: 01\n" + dates + printLabel + sum:                           {Serial: "01", SHA1: sum},
		head + "Serial: 01\n" + dates + printLabel + sum + "0":                     {Serial: "01"},
		head + "Serial: 01\n" + dates + printLabel + sum + "\n" + printLabel + sum: {Serial: "01"},
	} {
		got, why := parseCertificate(text, "a")
		if (why == "") != (want.Serial != "") || why == "" && (got.Serial != want.Serial || got.SHA1 != want.SHA1) {
			t.Errorf("%q: %+v, %s", text, got, why)
		}
	}
}

// FuzzReadOn: no text ends an answer before its end.
func FuzzReadOn(f *testing.F) {
	for _, o := range odd {
		f.Add(o.Common)
		if len(o.Names) > 0 {
			f.Add(o.Names[0])
		}
	}
	f.Add(endLine("") + "\n")
	f.Fuzz(func(t *testing.T, s string) {
		end := endLine("THE WORD")
		text := "Filename: " + s + "\n"
		if strings.Contains(text, "THE WORD") || strings.HasPrefix(text, "+ ") {
			t.Skip()
		}
		r := bufio.NewReaderSize(strings.NewReader(text+end+"\n\n> "), 16)
		got, err := readAnswer(r)
		if err == nil {
			got, err = readOn(r, got, end)
		}
		if got != text || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
}
