package xds

import (
	"bytes"
	"cmp"
	"fmt"
	"strings"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// What is kept of a refusal: it is shown to people, and one per router is held.
const (
	maxMessage = 4 << 10  // bytes of its message
	maxFault   = 1 << 10  // bytes of the message on one resource
	maxRefused = 64       // resources
	maxTexts   = 16 << 10 // bytes of all messages together; those beyond are cut to restText
	restText   = 64
)

// refusalResources is the field number of Refusal.resources.
const refusalResources = 3

// refusalOf reads what a nack says. Who says nothing of use is taken to have a trouble of its own.
func refusalOf(r *discovery.DeltaDiscoveryRequest) *tsujiv1.Refusal {
	refusal := &tsujiv1.Refusal{}
	for _, d := range r.GetErrorDetail().GetDetails() {
		if d.MessageIs(refusal) && (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(trim(d.GetValue()), refusal) == nil {
			break
		}
		refusal.Reset()
	}
	switch refusal.GetClass() {
	case tsujiv1.RefusalClass_REFUSAL_CLASS_CONTENT, tsujiv1.RefusalClass_REFUSAL_CLASS_UNSUPPORTED:
	default:
		refusal.Class = tsujiv1.RefusalClass_REFUSAL_CLASS_LOCAL
	}
	refusal.Message = shorten(cmp.Or(refusal.GetMessage(), r.GetErrorDetail().GetMessage()), maxMessage)
	left := maxTexts - len(refusal.GetMessage())
	for _, f := range refusal.GetResources() {
		f.Resource, f.Message = shorten(f.GetResource(), maxFault),
			shorten(f.GetMessage(), min(maxFault, max(left, restText)))
		left -= len(f.GetMessage())
		f.Digest = bytes.Clone(f.GetDigest()[:min(len(f.GetDigest()), len(snapshot.Digest{}))])
		f.InForceDigest = bytes.Clone(f.GetInForceDigest()[:min(len(f.GetInForceDigest()), len(snapshot.Digest{}))])
	}
	return refusal
}

// trim leaves the resources of an encoded refusal out that are too many: decoded, one that says nothing takes a hundred
// times its bytes.
func trim(refusal []byte) []byte {
	kept, resources := refusal[:0:0], 0
	for rest := refusal; len(rest) > 0; {
		number, _, n := protowire.ConsumeField(rest)
		if n < 0 {
			return refusal // it is not decoded either
		}
		if number == refusalResources {
			resources++
		}
		if number != refusalResources || resources <= maxRefused {
			kept = append(kept, rest[:n]...)
		}
		rest = rest[n:]
	}
	return kept
}

// shorten cuts a text to at most n bytes, and not inside a character: what is not UTF-8 could not be shown. What is cut
// off is not held.
func shorten(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.Clone(strings.ToValidUTF8(text[:n], ""))
}

// className is a refusal's class as metrics and logs name it.
func className(c tsujiv1.RefusalClass) string {
	switch c {
	case tsujiv1.RefusalClass_REFUSAL_CLASS_CONTENT:
		return "content"
	case tsujiv1.RefusalClass_REFUSAL_CLASS_UNSUPPORTED:
		return "unsupported"
	default:
		return "local"
	}
}

// names lists the resources at fault, for a log.
func names(r *tsujiv1.Refusal) []string {
	all := make([]string, len(r.GetResources()))
	for i, f := range r.GetResources() {
		all[i] = fmt.Sprintf("%.300s", f.GetResource())
	}
	return all
}
