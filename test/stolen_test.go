package test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tsuji-dev/tsuji/identity"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// thief is somebody with a router's certificate.
type thief struct {
	f     *fleet
	files identity.Files
	n     int // of streams, each of which has a router's name of its own
	mu    sync.Mutex
	ended map[codes.Code]int // guarded by mu; how its streams were ended
}

// hello is a first request with metadata of about as many bytes, which is many times larger when it is decoded.
func (h *thief) hello(size int) *discovery.DeltaDiscoveryRequest {
	h.n++
	list := &structpb.ListValue{}
	for range size / 4 {
		list.Values = append(list.Values, structpb.NewNullValue())
	}
	return &discovery.DeltaDiscoveryRequest{
		TypeUrl: tsujiv1.TypeURL, ResourceNamesSubscribe: []string{"*"},
		Node: &corev3.Node{
			Id: fmt.Sprint("thief-", h.n), Cluster: "default", Locality: &corev3.Locality{Zone: "tok04"},
			Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"instance": structpb.NewStringValue(fmt.Sprint(h.n)), "x": structpb.NewListValue(list)}},
		},
	}
}

// refusal is a nack of countless resources that say nothing.
func refusal(nonce string) *discovery.DeltaDiscoveryRequest {
	value := bytes.Repeat(protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), nil), 120<<10)
	return &discovery.DeltaDiscoveryRequest{TypeUrl: tsujiv1.TypeURL, ResponseNonce: nonce, ErrorDetail: &rpcstatus.Status{
		Message: strings.Repeat("x", 50<<10), Details: []*anypb.Any{{TypeUrl: "type.googleapis.com/tsuji.v1.Refusal", Value: value}},
	}}
}

// connect opens a connection with all the streams that it may have, each hostile in its own way, until ctx ends. Errors
// are what a thief has to expect.
func (h *thief) connect(ctx context.Context) {
	conn := h.f.dial(h.f.controlPlane(), h.files)
	client := discovery.NewAggregatedDiscoveryServiceClient(conn)
	for i, size := range []int{280 << 10, 7 << 10, 7 << 10, 7 << 10} {
		s, err := client.DeltaAggregatedResources(ctx)
		if err != nil {
			return
		}
		if s.Send(h.hello(size)) != nil || i == 1 { // the second reads nothing
			continue
		}
		go func() {
			for {
				r, err := s.Recv()
				if err != nil {
					h.mu.Lock()
					h.ended[grpcstatus.Code(err)]++
					h.mu.Unlock()
					return
				}
				_ = s.Send(refusal(r.GetNonce()))
				for range 40 {
					_ = s.Send(refusal("never sent"))
				}
			}
		}()
	}
	for range 4 {
		if w, err := healthv1.NewHealthClient(conn).Watch(ctx, &healthv1.HealthCheckRequest{Service: strings.Repeat("x", 100<<10)}); err == nil {
			_, _ = w.Recv()
		}
	}
}

// live returns what the control plane's heap had in use when it was last collected, in bytes.
func live(t *testing.T, r *replica) float64 {
	t.Helper()
	resp, err := http.Get("http://" + r.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "go_memstats_next_gc_bytes "); ok {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v / 2 // GOGC is 100
		}
	}
	t.Fatal("no figure of the heap")
	return 0
}

// Whoever has a zone's certificate opens as many connections as it likes, says, refuses and does not read what it likes:
// the control plane holds little for it, and routers of another zone follow as ever. A zone that there is not gets
// nothing. When the identity is denied its connections end, and it gets no other.
func TestAStolenCertificate(t *testing.T) {
	f := newFleet(t)
	denied := filepath.Join(f.dir, "denied")
	if err := os.WriteFile(denied, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.controlPlane().extra = []string{"--denied-peers=" + denied}
	f.write("zones.yaml", "{apiVersion: tsuji.dev/v1alpha1, kind: Zone, metadata: {name: tok04}, spec: {}}\n---\n"+
		"{apiVersion: tsuji.dev/v1alpha1, kind: Zone, metadata: {name: tok05}, spec: {}}\n")
	host, port := backend(t, "web")
	f.write("web.yaml", service("web", port, host))
	f.write("r0.yaml", route("r0", "r0.example.com", "web"))
	f.startControlPlane()
	victim := f.newRouter("tok05", "victim")
	victim.start()
	victim.ready()
	n := 0
	follows := func(changes int) (took []time.Duration) {
		t.Helper()
		for range changes {
			n++
			name := fmt.Sprint("v", n)
			begin := time.Now()
			f.write(name+".yaml", route(name, name+".example.com", "web"))
			eventually(t, name+" is served", func() error { return answers(victim.http, name+".example.com", "/", "web") })
			took = append(took, time.Since(begin))
		}
		return took
	}
	quiet := follows(10)
	before := live(t, f.controlPlane())

	const zone = "spiffe://tsuji.local/ingress/default/zone/tok04"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	h := &thief{f: f, files: f.issue(zone), ended: map[codes.Code]int{}}
	var after [2]float64
	var took []time.Duration
	for i, connections := range []int{1, 29} {
		for range connections {
			h.connect(ctx)
		}
		took = append(took, follows(10)...)
		after[i] = live(t, f.controlPlane())
	}
	t.Logf("live heap: %.0f MB, with one hostile connection %.0f, with 30 %.0f; a change took %v in quiet, %v beside them; streams ended: %v",
		before/1e6, after[0]/1e6, after[1]/1e6, summary(quiet), summary(took), h.ended)
	if most := before + 100e6; after[0] > most || after[1] > most {
		t.Errorf("the heap grew from %.0f to %.0f and %.0f bytes", before, after[0], after[1])
	}
	h.mu.Lock()
	if h.ended[codes.InvalidArgument] == 0 || h.ended[codes.ResourceExhausted] == 0 {
		t.Errorf("streams ended by %v: the thief was not hostile", h.ended)
	}
	h.mu.Unlock()
	nowhere := &thief{f: f, files: f.issue("spiffe://tsuji.local/ingress/default/zone/tok99"), ended: map[codes.Code]int{}}
	if err := nowhere.ask("tok99"); grpcstatus.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "make a Zone") {
		t.Errorf("a zone that there is not: %v", err)
	}

	if err := os.WriteFile(denied, []byte(zone+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the thief's connections end", func() error { return f.controlPlane().logged("connection ended: its peer is denied") })
	eventually(t, "the thief gets no other", func() error {
		if err := h.ask("tok04"); !strings.Contains(fmt.Sprint(err), "tls: bad certificate") {
			return fmt.Errorf("it got %w", err)
		}
		return nil
	})
	follows(3)
}

// ask opens a stream on a connection of its own, and returns why it gets nothing.
func (h *thief) ask(zone string) error {
	ctx, cancel := context.WithTimeout(h.f.t.Context(), patience)
	defer cancel()
	s, err := discovery.NewAggregatedDiscoveryServiceClient(h.f.dial(h.f.controlPlane(), h.files)).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	q := h.hello(100)
	q.Node.Locality.Zone = zone
	if err := s.Send(q); err != nil {
		return err
	}
	_, err = s.Recv()
	return err
}
