package snapshot

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// Epoch is the schema epoch: part of every digest, and raised only when an equal resource would be
// encoded differently than by the release before (a field renumbered, a default written out, another
// order). Raising it makes every router receive everything once. A golden test of digests fails when
// it should have been raised.
const Epoch = 1

// Digest is a SHA-256 digest of a resource, or of a set.
type Digest [sha256.Size]byte

// String returns 64 hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Short returns the first 8 hexadecimal digits, for people.
func (d Digest) Short() string { return hex.EncodeToString(d[:4]) }

var errDigest = errors.New("want 64 hexadecimal digits")

// ParseDigest reads what String wrote.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != hex.EncodedLen(len(d)) {
		return Digest{}, fmt.Errorf("digest %.80q: %w", s, errDigest)
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return Digest{}, fmt.Errorf("digest %.80q: %w", s, errDigest)
	}
	return d, nil
}

// DigestFromBytes makes a digest of 32 bytes.
func DigestFromBytes(b []byte) (Digest, error) {
	var d Digest
	if len(b) != len(d) {
		return Digest{}, fmt.Errorf("digest of %d bytes: want %d", len(b), len(d))
	}
	copy(d[:], b)
	return d, nil
}

// Item is one resource of a set: a name and its encoded content. It is immutable, and marshalled once,
// however many sets hold it and however many routers receive it.
type Item struct {
	name   string
	digest Digest
	// A function, because fmt does not call Format on what it finds in an unexported field of another
	// struct but prints the fields one by one, and of a function nothing but its address.
	encoded func() []byte
}

// NewItem makes an item. The caller must not change encoded afterwards.
func NewItem(name string, encoded []byte) Item {
	h := sha256.New()
	var head [12]byte
	binary.BigEndian.PutUint32(head[:4], Epoch)
	binary.BigEndian.PutUint64(head[4:], uint64(len(name)))
	h.Write(head[:])
	h.Write([]byte(name))
	h.Write(encoded)
	i := Item{name: name, encoded: func() []byte { return encoded }}
	h.Sum(i.digest[:0])
	return i
}

// Name returns the resource's name.
func (i Item) Name() string { return i.name }

// Digest returns the digest of schema epoch, name and content.
func (i Item) Digest() Digest { return i.digest }

// Encoded returns the content, which must not be changed.
func (i Item) Encoded() []byte {
	if i.encoded == nil {
		return nil
	}
	return i.encoded()
}

// Format writes the name and the short digest under every verb: the content may be a private key.
func (i Item) Format(s fmt.State, _ rune) {
	fmt.Fprintf(s, "%s@%s", i.name, i.digest.Short())
}
