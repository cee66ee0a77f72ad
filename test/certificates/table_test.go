package certificates_test

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"math/big"
	"strings"

	"github.com/tsuji-dev/tsuji/test/certtest"
)

// oddity is a certificate that somebody may bring along: as one of a chain, as what the chain begins with unless it has
// a key of its own, and among the CA certificates that endpoints are verified with.
type oddity struct {
	name string
	certtest.Certificate
	// chain and bundle are a part of the verdict in these places; empty: it is admitted.
	chain, bundle string
	// though says why it is refused in a chain although every HAProxy would load it; empty: one would not.
	though string
	// silent: HAProxy has it in a bundle, and does not print its fingerprint.
	silent bool
}

const (
	goReads     = "OpenShift's router reads certificates with crypto/x509, and so does the compiler"
	ourBound    = "a bound: docs/limits.md"
	answers     = "it would break the answers of HAProxy's runtime socket"
	neverSigns  = "a key that signs nothing verifies nothing"
	unknownKey  = "cannot be used to sign"
	unsupported = "is not supported: use"
	tooLong     = "names are too many or too long"
)

func oddities() []oddity {
	var list []oddity
	list = append(list, rsaKeys()...)
	list = append(list, curves()...)
	list = append(list, otherKeys()...)
	list = append(list, signatures()...)
	list = append(list, names()...)
	list = append(list, restOfThem()...)
	for i := range list {
		if list[i].Issuer == nil {
			list[i].Issuer = certtest.Name(certtest.UTF8, "another")
		}
	}
	return list
}

var (
	oidRSA  = certtest.OID(1, 2, 840, 113549, 1, 1, 1)
	oidPSS  = certtest.OID(1, 2, 840, 113549, 1, 1, 10)
	oidEC   = certtest.OID(1, 2, 840, 10045, 2, 1)
	oidDSA  = certtest.OID(1, 2, 840, 10040, 4, 1)
	oidP256 = certtest.OID(1, 2, 840, 10045, 3, 1, 7)
)

// ofBits is an odd number of so many bits.
func ofBits(bits int) *big.Int {
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits))
	return n.Sub(n, big.NewInt(1))
}

func rsaKey(bits int, exponent *big.Int) []byte {
	return certtest.Sequence(certtest.Integer(ofBits(bits)), certtest.Integer(exponent))
}

func withKey(key []byte) certtest.Certificate { return certtest.Certificate{Key: key} }

func rsaKeys() (list []oddity) {
	f4 := big.NewInt(65537)
	rsa := func(name, chain, bundle, though string, key []byte, parameters ...[]byte) {
		list = append(list, oddity{name: "RSA " + name, Certificate: withKey(certtest.Key(key, append([][]byte{oidRSA}, parameters...)...)), chain: chain, bundle: bundle, though: though})
	}
	for _, bits := range []int{512, 1024} {
		rsa(fmt.Sprint(bits), "too short", "", "", rsaKey(bits, f4), certtest.Null())
	}
	rsa("2040", "too short", "", "below 2047 bits nobody makes keys; OpenSSL rounds up", rsaKey(2040, f4), certtest.Null())
	for _, bits := range []int{2047, 2048, 4096, 8192} {
		rsa(fmt.Sprint(bits), "", "", "", rsaKey(bits, f4), certtest.Null())
	}
	for _, bits := range []int{8193, 16384, 16385, 100_000} {
		rsa(fmt.Sprint(bits), "too long", "", ourBound, rsaKey(bits, f4), certtest.Null())
	}
	for _, e := range []*big.Int{big.NewInt(1), big.NewInt(2), big.NewInt(3), ofBits(62)} {
		rsa("exponent of "+fmt.Sprint(e.BitLen()), "", "", "", rsaKey(2048, e), certtest.Null())
	}
	rsa("exponent too large for Go", "invalid RSA public exponent", "invalid RSA public exponent", goReads, rsaKey(2048, ofBits(65)), certtest.Null())
	rsa("without NULL", "missing NULL", "missing NULL", goReads, rsaKey(2048, f4))
	rsa("garbage", "invalid RSA", "invalid RSA", "", []byte("x"), certtest.Null())

	pss := func(name, fault string, key []byte, parameters ...[]byte) {
		list = append(list, oddity{
			name: "RSA-PSS " + name, Certificate: withKey(certtest.Key(key, append([][]byte{oidPSS}, parameters...)...)),
			chain: fault, bundle: fault, silent: true,
		})
	}
	key := rsaKey(2048, f4)
	pss("without parameters", "", key)
	pss("with default parameters", "", key, certtest.Sequence())
	pss("with SHA-256", "", key, pssWith(32, digestSHA256))
	pss("with SHA-1", "", key, pssWith(20, digestSHA1))
	pss("with NULL", "cannot be read", key, certtest.Null())
	pss("with an unknown digest", "cannot be read", key, pssWith(20, certtest.OID(1, 2, 3, 4)))
	pss("1024", "too short", rsaKey(1024, f4))
	pss("garbage", "cannot be read", []byte("x"))
	return list
}

var (
	digestSHA1   = certtest.OID(1, 3, 14, 3, 2, 26)
	digestSHA224 = certtest.OID(2, 16, 840, 1, 101, 3, 4, 2, 4)
	digestSHA256 = certtest.OID(2, 16, 840, 1, 101, 3, 4, 2, 1)
)

func pssWith(salt int64, digest []byte) []byte {
	hash := certtest.Sequence(digest, certtest.Null())
	return certtest.Sequence(certtest.TLV(0xa0, hash), certtest.TLV(0xa1, certtest.Sequence(certtest.OID(1, 2, 840, 113549, 1, 1, 8), hash)),
		certtest.TLV(0xa2, certtest.Integer(big.NewInt(salt))))
}

func curves() (list []oddity) {
	for _, c := range []elliptic.Curve{elliptic.P224(), elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			panic(err)
		}
		list = append(list, oddity{name: c.Params().Name, Certificate: withKey(certtest.PublicKey(k.Public()))})
	}
	point, err := certtest.NewKey().PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	ec := func(name, fault, though string, point []byte, parameters ...[]byte) {
		list = append(list, oddity{name: "EC " + name, Certificate: withKey(certtest.Key(point, append([][]byte{oidEC}, parameters...)...)), chain: fault, bundle: fault, though: though})
	}
	ec("point that is on no curve", "not on curve", "", append([]byte{4}, make([]byte, 64)...), oidP256)
	ec("compressed point", "invalid uncompressed public key", goReads, append([]byte{2 + point[64]&1}, point[1:33]...), oidP256)
	ec("secp256k1", "unsupported elliptic curve", "", point, certtest.OID(1, 3, 132, 0, 10))
	ec("prime192v1", "unsupported elliptic curve", "", point[:49], certtest.OID(1, 2, 840, 10045, 3, 1, 1))
	ec("without parameters", "invalid ECDSA parameters", "", point)
	ec("with NULL", "invalid ECDSA parameters", "", point, certtest.Null())
	p := elliptic.P256().Params()
	ec("explicit parameters", "invalid ECDSA parameters", goReads, point, certtest.Sequence(certtest.Integer(big.NewInt(1)),
		certtest.Sequence(certtest.OID(1, 2, 840, 10045, 1, 1), certtest.Integer(p.P)),
		certtest.Sequence(certtest.TLV(4, new(big.Int).Sub(p.P, big.NewInt(3)).Bytes()), certtest.TLV(4, p.B.Bytes())),
		certtest.TLV(4, append(append([]byte{4}, p.Gx.Bytes()...), p.Gy.Bytes()...)), certtest.Integer(p.N), certtest.Integer(big.NewInt(1))))
	return list
}

func otherKeys() (list []oddity) {
	add := func(o oddity, key []byte) {
		o.Certificate = withKey(key)
		list = append(list, o)
	}
	dsa := func(prime, subgroup int, fault string) {
		add(oddity{name: fmt.Sprintf("DSA %d/%d", prime, subgroup), chain: fault}, certtest.Key(certtest.Integer(ofBits(prime-1)), oidDSA,
			certtest.Sequence(certtest.Integer(ofBits(prime)), certtest.Integer(ofBits(subgroup)), certtest.Integer(big.NewInt(2)))))
	}
	dsa(512, 160, "too short")
	dsa(1024, 160, "too short")
	dsa(2048, 160, "too short")
	dsa(2048, 224, "")
	dsa(3072, 256, "")
	add(oddity{name: "DSA without parameters", chain: "invalid DSA parameters", bundle: "invalid DSA parameters"}, certtest.Key(certtest.Integer(ofBits(2048)), oidDSA))

	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	x, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	add(oddity{name: "Ed25519", silent: true}, certtest.PublicKey(ed))
	add(oddity{name: "Ed25519 with NULL", chain: "illegal parameters", bundle: "illegal parameters"}, certtest.Key(ed, certtest.OID(1, 3, 101, 112), certtest.Null()))
	add(oddity{name: "Ed448", silent: true}, certtest.Key(make([]byte, 57), certtest.OID(1, 3, 101, 113)))
	add(oddity{name: "Ed448 that is too short", chain: "cannot be read", bundle: "cannot be read"}, certtest.Key(make([]byte, 56), certtest.OID(1, 3, 101, 113)))
	add(oddity{name: "X25519", chain: unknownKey, bundle: unknownKey, though: neverSigns}, certtest.PublicKey(x.PublicKey()))
	add(oddity{name: "X448", chain: unknownKey, bundle: unknownKey, though: neverSigns}, certtest.Key(make([]byte, 56), certtest.OID(1, 3, 101, 111)))
	add(oddity{name: "Diffie-Hellman", chain: unknownKey, bundle: unknownKey, though: neverSigns}, certtest.Key(certtest.Integer(ofBits(2047)),
		certtest.OID(1, 2, 840, 113549, 1, 3, 1), certtest.Sequence(certtest.Integer(ofBits(2048)), certtest.Integer(big.NewInt(2)))))
	add(oddity{name: "ML-DSA-44", chain: unknownKey, bundle: unknownKey}, certtest.Key(make([]byte, 1312), certtest.OID(2, 16, 840, 1, 101, 3, 4, 3, 17)))
	add(oddity{name: "ML-DSA-65", chain: unknownKey, bundle: unknownKey}, certtest.Key(make([]byte, 1952), certtest.OID(2, 16, 840, 1, 101, 3, 4, 3, 18)))
	add(oddity{name: "GOST", chain: unknownKey, bundle: unknownKey}, certtest.Key(make([]byte, 64), certtest.OID(1, 2, 643, 7, 1, 1, 1, 1)))
	add(oddity{name: "algorithm that nobody knows", chain: unknownKey, bundle: unknownKey}, certtest.Key([]byte("x"), certtest.OID(1, 2, 3, 4)))
	add(oddity{name: "algorithm of no name, with 10,000 bytes", chain: unknownKey, bundle: unknownKey}, certtest.Key(make([]byte, 10_000), certtest.OID(1, 2, 3)))
	return list
}

func signatures() (list []oddity) {
	// Signed by another, or by itself as far as names go.
	signed := func(name, fault string, parts ...[]byte) {
		list = append(list, oddity{name: "signature " + name, Certificate: certtest.Certificate{Signature: certtest.Sequence(parts...)}, chain: fault})
	}
	bySelf := func(name, fault string, parts ...[]byte) {
		self := certtest.Name(certtest.UTF8, "self")
		list = append(list, oddity{name: "signature of its own, " + name, Certificate: certtest.Certificate{Subject: self, Issuer: self, Signature: certtest.Sequence(parts...)}, chain: fault})
	}
	rsaWith := func(n int) []byte { return certtest.OID(1, 2, 840, 113549, 1, 1, n) }
	nist := func(n int) []byte { return certtest.OID(2, 16, 840, 1, 101, 3, 4, 3, n) }
	for _, s := range []struct {
		name, fault, self string // the fault of one by itself, whose key is EC
		parts             [][]byte
	}{
		{"ECDSA with SHA-1", "SHA1", "", [][]byte{certtest.OID(1, 2, 840, 10045, 4, 1)}},
		{"ECDSA with SHA-224", "", "", [][]byte{certtest.OID(1, 2, 840, 10045, 4, 3, 1)}},
		{"ECDSA with SHA-512", "", "", [][]byte{certtest.OID(1, 2, 840, 10045, 4, 3, 4)}},
		{"ECDSA with SHA3-256", unsupported, "-", [][]byte{nist(10)}},
		{"RSA with MD2", unsupported, unsupported, [][]byte{rsaWith(2), certtest.Null()}},
		{"RSA with MD4", unsupported, unsupported, [][]byte{rsaWith(3), certtest.Null()}},
		{"RSA with MD5", "MD5", "MD5", [][]byte{rsaWith(4), certtest.Null()}},
		{"RSA with SHA-1", "SHA1", "SHA1", [][]byte{rsaWith(5), certtest.Null()}},
		{"RSA with SHA-224", "", "", [][]byte{rsaWith(14), certtest.Null()}},
		{"RSA with SHA-256", "", "", [][]byte{rsaWith(11), certtest.Null()}},
		{"RSA with SHA-256, without NULL", "", "", [][]byte{rsaWith(11)}},
		{"RSA with SHA-512/256", unsupported, unsupported, [][]byte{rsaWith(16), certtest.Null()}},
		{"RSA with SHA3-224", "", "", [][]byte{nist(13), certtest.Null()}},
		{"RSA with SHA3-512", "", "", [][]byte{nist(16), certtest.Null()}},
		{"RSA with RIPEMD-160", unsupported, unsupported, [][]byte{certtest.OID(1, 3, 36, 3, 3, 1, 2), certtest.Null()}},
		{"DSA with SHA-1", "SHA1", "SHA1", [][]byte{certtest.OID(1, 2, 840, 10040, 4, 3)}},
		{"DSA with SHA-224", "", "", [][]byte{nist(1)}},
		{"DSA with SHA-256", "", "", [][]byte{nist(2)}},
		{"Ed25519", "", "", [][]byte{certtest.OID(1, 3, 101, 112)}},
		{"Ed448", "", "", [][]byte{certtest.OID(1, 3, 101, 113)}},
		{"RSA-PSS without parameters", unsupported, unsupported, [][]byte{oidPSS}},
		{"RSA-PSS with SHA-1", unsupported, unsupported, [][]byte{oidPSS, certtest.Sequence()}},
		{"RSA-PSS with SHA-224", "", "", [][]byte{oidPSS, pssWith(28, digestSHA224)}},
		{"RSA-PSS with SHA-256", "", "", [][]byte{oidPSS, pssWith(32, digestSHA256)}},
		{"RSA-PSS with SHA-256 and a short salt", "", "", [][]byte{oidPSS, pssWith(20, digestSHA256)}},
		{"RSA-PSS with a negative salt", unsupported, unsupported, [][]byte{oidPSS, pssWith(-1, digestSHA256)}},
		{"ML-DSA-44", unsupported, unsupported, [][]byte{nist(17)}},
		{"of an algorithm that nobody knows", unsupported, unsupported, [][]byte{certtest.OID(1, 2, 3, 4)}},
	} {
		signed(s.name, s.fault, s.parts...)
		if s.self != "-" { // of its own it is of the key's kind, and OpenSSL looks no further only where it knows the algorithm
			bySelf(s.name, s.self, s.parts...)
		}
	}
	for i := range list {
		if f := list[i].chain; f != unsupported { // and what is weak OpenShift's router refuses anywhere
			list[i].bundle = f
		}
	}
	return list
}

func names() (list []oddity) {
	// What breaks a line breaks an answer; what is no text is none to crypto/x509.
	add := func(name, fault, though string, c certtest.Certificate) {
		list = append(list, oddity{name: name, Certificate: c, chain: fault, bundle: fault, though: though})
	}
	subject := func(fault, though string, tag byte, text string, attribute ...int) {
		add(fmt.Sprintf("subject %d %.20q", tag, text), fault, though, certtest.Certificate{Subject: certtest.Name(tag, text, attribute...)})
	}
	const control = "control character"
	subject("", "", certtest.UTF8, "日本 — ü")
	subject("", "", certtest.T61, "a\xe4b")
	subject("", "", certtest.BMP, "\x00a\x65\xe5")
	subject("", "", certtest.UTF8, "unknown attribute", 1, 2, 3, 4, 5)
	subject(control, answers, certtest.UTF8, "x\nSerial: 1")
	subject(control, answers, certtest.UTF8, "a\n> b")
	subject(control, answers, certtest.UTF8, "a\n\n> \nb")
	subject(control, answers, certtest.UTF8, "a\rb")
	subject(control, answers, certtest.UTF8, "a\x00b")
	subject(control, answers, certtest.UTF8, "a\x7fb")
	subject(control, answers, certtest.T61, "a\nb")
	subject(control, answers, certtest.IA5, "a\nb", 1, 2, 840, 113549, 1, 9, 1)
	subject(control, answers, certtest.BMP, "\x00a\x00\n\x00b")
	subject(control, answers, certtest.BMP, "\x0a\x05\x00b")
	subject("invalid", goReads, certtest.Printable, "a_b@c\n")
	subject("invalid", "", certtest.UTF8, "a\xff")
	subject("unsupported string type", goReads, certtest.Universal, "\x00\x00\x00a")
	add("issuer with a line break", control, answers, certtest.Certificate{Issuer: certtest.Name(certtest.UTF8, "x\nSHA1 FingerPrint: 00")})
	add("empty subject", "", "", certtest.Certificate{Subject: certtest.Sequence()})

	alternative := func(name, fault, though string, names ...[]byte) {
		add("alternative name, "+name, fault, though, certtest.Certificate{Names: names})
	}
	for _, n := range []string{"a.example.com", "*.example.com", "*", "*.*.b", "!a", "a b", "", strings.Repeat("a", 300), "-", "a;b", "<<"} {
		alternative(fmt.Sprintf("DNS %.20q", n), "", "", certtest.DNS(n))
	}
	for _, n := range []string{"x\nSerial: 1", "a\n> b", "a\n\n> \nb", "a\x00b", "a\tb", "\x1b[2J"} {
		alternative(fmt.Sprintf("DNS %q", n), control, answers, certtest.DNS(n))
	}
	alternative("DNS that is no ASCII", "malformed", goReads, certtest.DNS("\xff"))
	alternative("URI", "", "", certtest.URI("spiffe://a/b"))
	alternative("URI with a line break", "cannot parse URI", goReads, certtest.URI("http://a/\nb"))
	alternative("email with a line break", control, answers, certtest.Email("a\nb@c"))
	alternative("IP addresses", "", "", certtest.TLV(0x87, []byte{192, 0, 2, 1}), certtest.TLV(0x87, make([]byte, 16)))
	alternative("IP address of three bytes", "cannot parse IP address", goReads, certtest.TLV(0x87, []byte{1, 2, 3}))
	alternative("directory", "", "", certtest.TLV(0xa4, certtest.Name(certtest.UTF8, "a")))
	alternative("directory with a line break", control, answers, certtest.TLV(0xa4, certtest.Name(certtest.UTF8, "a\nb")))
	upn := func(text string) []byte {
		return certtest.TLV(0xa0, certtest.OID(1, 3, 6, 1, 4, 1, 311, 20, 2, 3), certtest.TLV(0xa0, certtest.TLV(certtest.UTF8, []byte(text))))
	}
	alternative("other", "", "", upn("a@b"))
	alternative("other with a line break", control, answers, upn("a\nb"))
	alternative("registered number", "", "", certtest.TLV(0x88, []byte{42, 3, 4}))

	alternative("440 of 22 characters", "", "", manyNames(440, 22)...)
	alternative("1,200 of 22 characters", tooLong, ourBound, manyNames(1200, 22)...)
	alternative("60 of 220 characters", "", "", manyNames(60, 220)...)
	alternative("100 of 220 characters", tooLong, ourBound, manyNames(100, 220)...)
	alternative("one of 13,000 characters", "", "", certtest.DNS(strings.Repeat("a", 13_000)))
	alternative("one of 20,000 characters", tooLong, ourBound, certtest.DNS(strings.Repeat("a", 20_000)))
	add("subject of 8,000 bytes", "", "", certtest.Certificate{Subject: longName(8_000)})
	add("subject of 20,000 bytes", tooLong, ourBound, certtest.Certificate{Subject: longName(20_000)})
	add("issuer of 20,000 bytes", tooLong, ourBound, certtest.Certificate{Issuer: longName(20_000)})
	return list
}

// manyNames are DNS names of so many characters each.
func manyNames(n, length int) [][]byte {
	list := make([][]byte, n)
	for i := range list {
		list[i] = certtest.DNS(fmt.Sprintf("%0*d.example.com", length-len(".example.com"), i))
	}
	return list
}

// longName is a distinguished name whose values have so many bytes in all.
func longName(bytes int) []byte {
	var parts [][]byte
	for ; bytes > 0; bytes -= 60 {
		parts = append(parts, certtest.TLV(0x31, certtest.Sequence(certtest.OID(2, 5, 4, 11), certtest.TLV(certtest.UTF8, []byte(strings.Repeat("x", min(60, bytes)))))))
	}
	return certtest.Sequence(parts...)
}

func restOfThem() (list []oddity) {
	add := func(name, fault, though string, c certtest.Certificate) {
		list = append(list, oddity{name: name, Certificate: c, chain: fault, bundle: fault, though: though})
	}
	serial := func(bytes int, fault, though string) {
		add(fmt.Sprintf("serial number of %d bytes", bytes), fault, though, certtest.Certificate{Serial: ofBits(bytes*8 - 1)})
	}
	serial(20, "", "")
	serial(64, "", "")
	serial(65, "serial number", ourBound)
	serial(9000, "serial number", "HAProxy crashes when it is asked for it")
	add("serial number zero", "", "", certtest.Certificate{Serial: new(big.Int)})
	add("negative serial number", "negative serial number", goReads, certtest.Certificate{Serial: big.NewInt(-5)})

	extension := func(name, fault, though string, extensions ...[]byte) {
		add("extension, "+name, fault, though, certtest.Certificate{Extensions: extensions})
	}
	garbage := func(name string, id ...int) {
		extension(name+", garbage", "", "", certtest.Extension([]byte("x"), id...))
	}
	garbage("type of Netscape's", 2, 16, 840, 1, 113730, 1, 1)
	garbage("proxy certificate", 1, 3, 6, 1, 5, 5, 7, 1, 14)
	garbage("address blocks", 1, 3, 6, 1, 5, 5, 7, 1, 7)
	garbage("issuer's alternative names", 2, 5, 29, 18)
	garbage("of no name", 1, 2, 3)
	extension("key usage, garbage", "invalid key usage", goReads, certtest.Extension([]byte("x"), 2, 5, 29, 15))
	extension("twice", "duplicate extension", goReads, certtest.Extension([]byte("x"), 1, 2, 3), certtest.Extension([]byte("x"), 1, 2, 3))
	extension("critical and unknown", "", "", certtest.Sequence(certtest.OID(1, 2, 3), []byte{1, 1, 0xff}, certtest.TLV(4, []byte("x"))))
	extension("no alternative names", "", "", certtest.Extension(certtest.Sequence(), 2, 5, 29, 17))
	extension("30,000 bytes", "", "", certtest.Extension(make([]byte, 30_000), 1, 2, 3))
	return list
}
