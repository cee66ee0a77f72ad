package xds_test

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tsuji-dev/tsuji/controlplane/fleet"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	"github.com/tsuji-dev/tsuji/controlplane/xds"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// nulls is metadata of about as many bytes, which takes twenty times as much when it is decoded.
func nulls(size int) *structpb.Value {
	list := &structpb.ListValue{}
	for range size / 4 {
		list.Values = append(list.Values, structpb.NewNullValue())
	}
	return structpb.NewListValue(list)
}

// hostile are requests that are in order, and as large as they may be.
func hostile(router string) (hello, answer *discovery.DeltaDiscoveryRequest) {
	node := nodeOf(routerID("tok04", router))
	node.Metadata.Fields["of a newer release"] = nulls(7 << 10)
	hello = &discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: tsujiv1.TypeURL, ResourceNamesSubscribe: []string{"*"}}
	refusal := bytes.Repeat(protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), nil), 100<<10)
	refusal = protowire.AppendTag(refusal, 4, protowire.BytesType)
	refusal = protowire.AppendString(refusal, strings.Repeat("x", 200<<10))
	answer = &discovery.DeltaDiscoveryRequest{TypeUrl: tsujiv1.TypeURL, ErrorDetail: &rpcstatus.Status{
		Details: []*anypb.Any{{TypeUrl: "type.googleapis.com/tsuji.v1.Refusal", Value: refusal}},
	}}
	return hello, answer
}

// What a stream says of itself and refuses costs no more than a router's own stream does by much, however large it is
// and how small its parts are: that is not held.
func TestAStreamHoldsLittle(t *testing.T) { // not parallel: it measures the heap
	const streams = 50
	s := snapshotOf(1, "route/a/1=x")
	per := func(ordinary bool) float64 {
		board, routers := release.NewBoard(1), fleet.New(fleet.Config{})
		board.Publish("default", release.Target{Snapshot: s}, time.Now())
		server := xds.New(believing(board, routers))
		before := heap()
		pipes := make([]*pipe, streams)
		for i := range pipes {
			hello, answer := hostile(fmt.Sprint("r", i))
			if ordinary {
				hello.Node = nodeOf(routerID("tok04", fmt.Sprint("r", i)))
				answer.ErrorDetail = nil
			}
			pipes[i], _ = dial(server)
			pipes[i].in <- hello
			answer.ResponseNonce = (<-pipes[i].out).GetNonce()
			pipes[i].in <- answer
			stale := &discovery.DeltaDiscoveryRequest{TypeUrl: tsujiv1.TypeURL, ErrorDetail: answer.GetErrorDetail()}
			pipes[i].in <- stale // taken only when the answer was done with
			pipes[i].in <- stale // and this when the other was
		}
		used := heap() - before
		for _, p := range pipes {
			close(p.in)
		}
		server.Drain()
		runtime.KeepAlive(routers)
		return float64(used) / streams
	}
	usual, worst := per(true), per(false)
	t.Logf("a router's stream holds %.0f KiB, a hostile one %.0f", usual/1024, worst/1024)
	if worst > usual+64<<10 {
		t.Errorf("a hostile stream holds %.0f bytes, a router's %.0f", worst, usual)
	}
}

// A request that is out of bounds is refused before it is decoded, with the field and what to do. What is not known
// here, within the bounds, is passed over: a newer router may send it.
func TestRequestsAreHeldToBounds(t *testing.T) {
	t.Parallel()
	board, routers := release.NewBoard(1), fleet.New(fleet.Config{})
	board.Publish("default", release.Target{Snapshot: snapshotOf(1, "route/a/1=x")}, time.Now())
	config := believing(board, routers)
	config.AckTimeout = patience
	server := xds.New(config)
	t.Cleanup(server.Drain)
	newer := func(q *discovery.DeltaDiscoveryRequest) {
		q.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 100, protowire.BytesType), strings.Repeat("x", 100<<10)))
		q.Node.Metadata.Fields["more"] = structpb.NewStringValue(strings.Repeat("x", 4<<10))
	}
	for name, c := range map[string]struct {
		change func(*discovery.DeltaDiscoveryRequest)
		want   string // empty: it is accepted
	}{
		"a newer router": {newer, ""},
		"a large node":   {func(q *discovery.DeltaDiscoveryRequest) { q.Node.Metadata.Fields["x"] = nulls(400 << 10) }, "node has 4"},
		"a long name": {func(q *discovery.DeltaDiscoveryRequest) {
			q.ResourceNamesSubscribe = []string{strings.Repeat("x", 400<<10)}
		}, "beside node"},
		"countless names": {func(q *discovery.DeltaDiscoveryRequest) { q.ResourceNamesSubscribe = make([]string, 200_000) }, "more than 32 fields"},
		"versions": {func(q *discovery.DeltaDiscoveryRequest) {
			q.InitialResourceVersions = map[string]string{}
			for i := range 1000 {
				q.InitialResourceVersions[fmt.Sprint(i)] = ""
			}
		}, "more than 32 fields"},
		"a long nonce": {func(q *discovery.DeltaDiscoveryRequest) { q.ResponseNonce = strings.Repeat("x", 100<<10) }, "beside node"},
	} {
		hello, _ := hostile("r1")
		hello.Node = nodeOf(routerID("tok04", "r1"))
		c.change(hello)
		p, wait := dial(server)
		p.in <- hello
		if c.want == "" {
			<-p.out
			close(p.in)
			continue
		}
		err := wait()
		if s := grpcstatus.Convert(err); s.Code() != codes.InvalidArgument || !strings.Contains(s.Message(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
