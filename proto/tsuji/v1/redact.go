package tsujiv1

import (
	"encoding/json"
	"fmt"
	"log/slog"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// redacted is what stands for a private key wherever one is printed.
const redacted = "[redacted]"

// Redact returns the resource without its private key: the resource itself if it has none. Inspection
// answers with what Redact returns.
func Redact(r *Resource) *Resource {
	if r.GetCertificate().GetPrivateKey() == nil {
		return r
	}
	c := proto.CloneOf(r)
	c.GetCertificate().PrivateKey = nil
	return c
}

// Format writes [redacted] under every verb.
func (x *PrivateKey) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(redacted)) }

// LogValue returns [redacted].
func (x *PrivateKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON writes "[redacted]".
func (x *PrivateKey) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// Format writes the certificate with its key redacted, under every verb.
func (x *Certificate) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(x.redactedText())) }

// LogValue returns the certificate with its key redacted.
func (x *Certificate) LogValue() slog.Value { return slog.StringValue(x.redactedText()) }

// MarshalJSON writes the redacted text as a string.
func (x *Certificate) MarshalJSON() ([]byte, error) { return json.Marshal(x.redactedText()) }

// Format writes the resource, with a private key redacted, under every verb.
func (x *Resource) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(x.redactedText())) }

// LogValue returns the resource, with a private key redacted.
func (x *Resource) LogValue() slog.Value { return slog.StringValue(x.redactedText()) }

// MarshalJSON writes the redacted text as a string.
func (x *Resource) MarshalJSON() ([]byte, error) { return json.Marshal(x.redactedText()) }

func (x *Certificate) redactedText() string {
	if x == nil {
		return "<nil>"
	}
	c := proto.CloneOf(x)
	if c.PrivateKey != nil {
		c.PrivateKey.Pem = []byte(redacted)
	}
	return prototext.MarshalOptions{}.Format(c)
}

func (x *Resource) redactedText() string {
	if x == nil {
		return "<nil>"
	}
	c := x
	if x.GetCertificate().GetPrivateKey() != nil {
		c = proto.CloneOf(x)
		c.GetCertificate().GetPrivateKey().Pem = []byte(redacted)
	}
	return prototext.MarshalOptions{}.Format(c)
}
