package access

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"pgregory.net/rapid"
)

// sent is what a client sends over a connection.
type sent struct {
	bytes.Buffer
	framer *http2.Framer
}

func newSent() *sent {
	s := &sent{}
	s.WriteString(http2.ClientPreface)
	s.framer = http2.NewFramer(&s.Buffer, nil)
	s.framer.AllowIllegalWrites = true
	_ = s.framer.WriteSettings()
	return s
}

// announce returns a message of gRPC, of so many bytes.
func announce(size int) []byte {
	b := make([]byte, prefixBytes+size)
	binary.BigEndian.PutUint32(b[1:], uint32(size))
	return b
}

// take has frames look at all that was sent, n bytes at a time.
func (s *sent) take(n int) error {
	f := frames{}
	for b := s.Bytes(); len(b) > 0; {
		n := min(n, len(b))
		if err := f.take(b[:n], time.Unix(0, 0)); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// What nobody honest sends is found, and the rest is let in.
func TestFrames(t *testing.T) {
	t.Parallel()
	in := func(s *sent, id uint32, b []byte, size int) {
		for len(b) > 0 {
			n := min(size, len(b))
			_ = s.framer.WriteData(id, false, b[:n])
			b = b[n:]
		}
	}
	for name, c := range map[string]struct {
		send func(*sent)
		want error
	}{
		"a large message":            {func(s *sent) { in(s, 1, announce(320<<10), 16<<10) }, nil},
		"in frames of 2 KiB":         {func(s *sent) { in(s, 1, announce(320<<10), 2<<10) }, nil},
		"in frames of 1 KiB":         {func(s *sent) { in(s, 1, announce(320<<10), 1<<10) }, errFrames},
		"a small one byte by byte":   {func(s *sent) { in(s, 1, announce(10), 1) }, nil},
		"a prefix and a bit":         {func(s *sent) { in(s, 1, announce(300)[:100], 1) }, errFrames},
		"small ones without end":     {func(s *sent) { in(s, 1, bytes.Repeat(announce(20), 1000), 25) }, nil},
		"small ones in large frames": {func(s *sent) { in(s, 1, bytes.Repeat(announce(20), 5000), 16<<10) }, nil},
		"empty ones":                 {func(s *sent) { in(s, 1, bytes.Repeat(announce(0), 1000), 5) }, nil},
		"a padded frame":             {func(s *sent) { _ = s.framer.WriteDataPadded(1, false, announce(9), make([]byte, 200)) }, errPadded},
		"frames with nothing in them": {func(s *sent) {
			for range 1000 {
				_ = s.framer.WriteData(1, false, nil)
			}
		}, nil},
		"a promise of 4 GiB": {func(s *sent) { in(s, 1, append([]byte{0, 255, 255, 255, 255}, make([]byte, 2000)...), 1) }, errFrames},
		"streams one after the other": {func(s *sent) {
			for id := uint32(1); id < 1000; id += 2 {
				_ = s.framer.WriteData(id, id%4 == 1, announce(9)[:8])
				if id%4 != 1 {
					_ = s.framer.WriteRSTStream(id, http2.ErrCodeCancel)
				}
			}
			_ = s.framer.WriteData(3, false, announce(9)[8:])
		}, nil},
		"streams that are left open": {func(s *sent) {
			for id := uint32(1); id < 1000; id += 2 {
				_ = s.framer.WriteData(id, false, announce(9)[:8])
			}
			_ = s.framer.WriteData(999, false, announce(9)[8:])
			_ = s.framer.WriteData(1, false, announce(9)[8:])
		}, errForgotten},
	} {
		s := newSent()
		c.send(s)
		for _, n := range []int{1, 9, 1000, s.Len()} {
			if err := s.take(n); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("%s, %d bytes at a time: %v, want %v", name, n, err, c.want)
			}
		}
	}
}

// A message that was begun has to be finished, whatever else comes; one that was, or none, may wait for ever.
func TestMessagesTakeTime(t *testing.T) {
	t.Parallel()
	var f frames
	now := time.Unix(0, 0)
	step := func(after time.Duration, send func(*http2.Framer)) error {
		now = now.Add(after)
		var b bytes.Buffer
		send(http2.NewFramer(&b, nil))
		return f.take(b.Bytes(), now)
	}
	ping := func(fr *http2.Framer) { _ = fr.WritePing(true, [8]byte{}) }
	m := announce(10)
	if err := f.take([]byte(http2.ClientPreface), now); err != nil {
		t.Fatal(err)
	}
	for i, err := range []error{
		step(0, func(fr *http2.Framer) { _ = fr.WriteData(1, false, m) }),
		step(time.Hour, ping),
		step(time.Hour, func(fr *http2.Framer) { _ = fr.WriteData(1, false, m[:12]) }),
		step(messageTime-1, func(fr *http2.Framer) { _ = fr.WriteData(1, false, m[12:]) }),
		step(time.Hour, func(fr *http2.Framer) { _ = fr.WriteData(1, false, m[:3]) }),
	} {
		if err != nil {
			t.Errorf("step %d: %v", i, err)
		}
	}
	if err := step(messageTime+1, ping); !errors.Is(err, errMessage) {
		t.Errorf("a message that was not finished: %v", err)
	}
}

// However what comes is cut, it is judged the same.
func TestFramesAreCutAnywhere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := newSent()
		for range rapid.IntRange(0, 200).Draw(t, "frames") {
			id := uint32(1 + 2*rapid.IntRange(0, 3).Draw(t, "stream"))
			b := announce(rapid.SampledFrom([]int{0, 1, 7, 1 << 20}).Draw(t, "size"))
			b = b[min(rapid.IntRange(0, 9).Draw(t, "from"), len(b)):]
			b = b[:min(rapid.SampledFrom([]int{1, 2, 30, 3000}).Draw(t, "length"), len(b))]
			_ = s.framer.WriteData(id, rapid.Bool().Draw(t, "ends"), b)
		}
		want := s.take(s.Len())
		if got := s.take(rapid.IntRange(1, 50).Draw(t, "cut")); !errors.Is(got, want) {
			t.Fatalf("%v, and in one piece %v", got, want)
		}
	})
}

// Nothing that a peer sends brings the reader down, and what is no HTTP/2 is left to gRPC.
func FuzzFrames(f *testing.F) {
	s := newSent()
	_ = s.framer.WriteData(1, false, announce(10))
	f.Add(s.Bytes())
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var whole, single frames
		err := whole.take(b, time.Time{})
		r := bytes.NewReader(b)
		var one [1]byte
		for {
			if _, e := io.ReadFull(r, one[:]); e != nil {
				break
			}
			if e := single.take(one[:], time.Time{}); e != nil {
				if !errors.Is(err, e) {
					t.Fatalf("byte by byte: %v; whole: %v", e, err)
				}
				return
			}
		}
		if err != nil {
			t.Fatalf("whole only: %v", err)
		}
		if n := len(whole.streams); n > openStreams {
			t.Fatalf("%d streams are held", n)
		}
	})
}
