package test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tsuji-dev/tsuji/identity"
)

// unfinished is a message of gRPC, all of which is sent but its last byte.
type unfinished struct {
	left int // bytes that are still to be sent
	head []byte
	done func()          // all of it was sent
	ctx  context.Context // until when the last byte is waited for
}

func (u *unfinished) Read(b []byte) (int, error) {
	if n := copy(b, u.head); n > 0 {
		u.head = u.head[n:]
		return n, nil
	}
	if u.left == 0 {
		u.done()
		<-u.ctx.Done()
		return 0, io.ErrUnexpectedEOF
	}
	n := min(len(b), u.left)
	u.left -= n
	return n, nil
}

// withhold opens a connection with a certificate, and on it a call of each method whose message never ends. It returns
// when as much was sent of each as is taken, or the call was ended. The connection stays until ctx ends.
func (f *fleet) withhold(ctx context.Context, files identity.Files, methods []string) {
	f.t.Helper()
	const announced = 300 << 10
	config := f.clientTLS(files)
	config.NextProtos = []string{"h2"}
	protocols := &http.Protocols{}
	protocols.SetHTTP2(true)
	transport := &http.Transport{TLSClientConfig: config, Protocols: protocols}
	f.t.Cleanup(transport.CloseIdleConnections)
	var settled sync.WaitGroup
	for _, method := range methods {
		settled.Add(1)
		done := sync.OnceFunc(settled.Done)
		body := &unfinished{head: make([]byte, 5), left: announced - 1, done: done, ctx: ctx}
		binary.BigEndian.PutUint32(body.head[1:], announced)
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+f.controlPlane().grpc+method, body)
		if err != nil {
			f.t.Fatal(err)
		}
		q.Header.Set("Content-Type", "application/grpc")
		q.Header.Set("TE", "trailers")
		go func() {
			defer done()
			if a, err := transport.RoundTrip(q); err == nil {
				_, _ = io.Copy(io.Discard, a.Body)
				a.Body.Close()
			}
		}()
	}
	settled.Wait()
}

// trickle begins a call with a message that comes byte by byte, until the connection is ended, and returns how many bytes
// came before the control plane had read all that was sent.
func (f *fleet) trickle(files identity.Files, method string, pad []byte) (sent int) {
	f.t.Helper()
	config := f.clientTLS(files)
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", f.controlPlane().grpc, config)
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		f.t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	read := make(chan struct{}, 1)
	go func() { // settings are acknowledged when all before them was read
		defer close(read)
		for {
			got, err := framer.ReadFrame()
			if err != nil {
				return
			}
			if s, ok := got.(*http2.SettingsFrame); ok && s.IsAck() {
				read <- struct{}{}
			}
		}
	}()
	var head bytes.Buffer
	encoder := hpack.NewEncoder(&head)
	for _, h := range []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "https"}, {Name: ":path", Value: method}, {Name: ":authority", Value: "localhost"},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	} {
		_ = encoder.WriteField(h)
	}
	_, _ = io.WriteString(conn, http2.ClientPreface)
	_ = framer.WriteSettings()
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true})
	message := binary.BigEndian.AppendUint32([]byte{0}, 4<<10) // of which the window takes all, with padding some
	for message = append(message, make([]byte, 200)...); sent < len(message); sent++ {
		if pad == nil {
			err = framer.WriteData(1, false, message[sent:sent+1])
		} else {
			err = framer.WriteDataPadded(1, false, message[sent:sent+1], pad)
		}
		if err == nil {
			err = framer.WriteSettings()
		}
		if _, ok := <-read; err != nil || !ok {
			return sent
		}
	}
	return sent
}

// collect has the control plane collect its garbage.
func collect(t *testing.T, socket string) {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	a, err := (&http.Client{Transport: transport}).Get("http://profiles/debug/pprof/heap?gc=1")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if _, err := io.Copy(io.Discard, a.Body); err != nil || a.StatusCode != http.StatusOK {
		t.Fatalf("heap profile: %d, %v", a.StatusCode, err)
	}
}

// Whoever has a certificate that many routers share announces messages that never end, in as many calls on as many
// connections as it likes. The control plane does not hold them all, and ends those that come in many small frames, each
// of which takes some hundred bytes.
func TestMessagesThatNeverEnd(t *testing.T) {
	f := newFleet(t)
	socket := filepath.Join(f.dir, "profiles")
	f.controlPlane().extra = []string{"--profiles=" + socket}
	f.write("web.yaml", service("web", 80))
	f.startControlPlane()
	files := f.issue("spiffe://tsuji.local/ingress/default/zone/tok04")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	held := func() float64 {
		collect(t, socket)
		return live(t, f.controlPlane())
	}
	const check, status, stream = "/grpc.health.v1.Health/Check", "/tsuji.v1.StatusService/GetStatus",
		"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
	before := held()
	for name, pad := range map[string][]byte{"frames of one byte": nil, "padded frames of one byte": make([]byte, 255)} {
		if sent := f.trickle(files, check, pad); sent > 100 {
			t.Errorf("%s: %d were taken", name, sent)
		}
	}
	const connections = 60
	for range connections {
		f.withhold(ctx, files, []string{check, check, check, status, status, stream, stream, stream})
	}
	after := held()
	t.Logf("live heap: %.1f MB, and %.1f beside %d connections", before/1e6, after/1e6, connections)
	// Two streams of discovery on each connection, 64 other calls of the identity, and what gRPC has for a connection.
	if most := before + connections*(2*330e3+400e3) + 64*330e3; after > most {
		t.Errorf("the control plane holds %.1f MB, want at most %.1f", after/1e6, most/1e6)
	}
}
