package xds

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// What is kept of a refusal: it is shown to people, and one per router is held.
const (
	maxMessage = 4 << 10 // bytes of its message
	maxFault   = 1 << 10 // bytes of the message on one resource
	maxRefused = 64      // resources
)

// refusalOf reads what a nack says. Who says nothing of use is taken to have a trouble of its own.
func refusalOf(r *discovery.DeltaDiscoveryRequest) *tsujiv1.Refusal {
	refusal := &tsujiv1.Refusal{}
	for _, d := range r.GetErrorDetail().GetDetails() {
		if d.MessageIs(refusal) && anypb.UnmarshalTo(d, refusal, proto.UnmarshalOptions{DiscardUnknown: true}) == nil {
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
	faults := refusal.GetResources()
	faults = faults[:min(len(faults), maxRefused)]
	for _, f := range faults {
		f.Resource, f.Message = shorten(f.GetResource(), maxFault), shorten(f.GetMessage(), maxFault)
		f.Digest = f.GetDigest()[:min(len(f.GetDigest()), len(snapshot.Digest{}))]
	}
	refusal.Resources = slices.Clip(faults)
	return refusal
}

// shorten cuts a text to at most n bytes, and not inside a character: what is not UTF-8 could not be shown.
func shorten(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "")
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
