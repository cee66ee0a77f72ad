package render_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// A client that takes back thousands of requests on one connection (CVE-2023-44487) is shown the door where HAProxy
// can; one that takes back a hundred is served on. Others are served on every release.
func TestRapidResets(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, rapidResetsStory)
}

func rapidResetsStory(t *testing.T, binary string) {
	t.Parallel()
	rt := start(t, binary, jailed(options()),
		routeOf(simple("a", "a.example", "/", insecure, unset)), endpointsOf("ns", "a", serve(t, "a", nil)))
	most, ends := 2_000, release(t, binary).AtLeast(3, 4)
	if ends {
		most = 20_000 // there is no other end
	}
	c := newResetter(rt)
	taken := 0
	for c.reset(100) {
		if taken += 100; taken == 100 && !c.get() {
			t.Error("a client that took back 100 requests is not served any more")
		}
		if taken >= most {
			break
		}
	}
	if over := taken < most; over != ends {
		t.Errorf("the connection took %d resets", taken)
	}
	if got := rt.do("http://a.example/", "", nil).short(); got != "a /" {
		t.Errorf("another client got %s", got)
	}
}

// resetter is a client of HTTP/2 that takes requests back. It sends the next ones when it has heard of the last, so
// that nothing of what it is told is lost when its connection is closed.
type resetter struct {
	c       io.ReadWriter
	f       *http2.Framer
	request []byte
	id      uint32 // of the next stream
}

func newResetter(rt *router) *resetter {
	c := rt.dial()
	rt.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "a.example"}, {":path", "/"}} {
		// Sensitive, so that it depends on no table.
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true})
	}
	r := &resetter{c: c, f: http2.NewFramer(c, c), request: block.Bytes(), id: 1}
	_, _ = io.WriteString(c, http2.ClientPreface)
	_ = r.f.WriteSettings()
	return r
}

func (r *resetter) ask(f *http2.Framer) {
	p := http2.HeadersFrameParam{StreamID: r.id, BlockFragment: r.request, EndStream: true, EndHeaders: true}
	_ = f.WriteHeaders(p)
	r.id += 2
}

// reset asks and takes back n times, and tells whether the connection is still open to requests.
func (r *resetter) reset(n int) bool {
	var all bytes.Buffer // in one packet: each is taken back before there is an answer
	f := http2.NewFramer(&all, nil)
	for range n {
		r.ask(f)
		_ = f.WriteRSTStream(r.id-2, http2.ErrCodeCancel)
	}
	_ = f.WritePing(false, [8]byte{1})
	_, _ = r.c.Write(all.Bytes())
	return r.until(func(frame http2.Frame) bool {
		p, ok := frame.(*http2.PingFrame)
		return ok && p.IsAck()
	})
}

// get tells whether a request is answered.
func (r *resetter) get() bool {
	id := r.id
	r.ask(r.f)
	return r.until(func(frame http2.Frame) bool {
		h, ok := frame.(*http2.HeadersFrame)
		return ok && h.StreamID == id
	})
}

// until reads on until a frame is as wanted. It is false where the connection takes no more requests before that.
func (r *resetter) until(wanted func(http2.Frame) bool) bool {
	for {
		frame, err := r.f.ReadFrame()
		if _, away := frame.(*http2.GoAwayFrame); err != nil || away {
			return false
		}
		if wanted(frame) {
			return true
		}
	}
}
