package access

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// gRPC makes a buffer of its own for each frame of a message that it waits for, as large as the frame with its padding:
// one byte in a frame takes a hundred times that. So a peer could hold as much memory as it likes by messages that never
// end, within all bounds of connections, streams and sizes. What a client sends is looked at before gRPC sees it.

const (
	// A message has at most messageFrames frames, and one more for each frameBytes: gRPC's clients fill 16 KiB as far as
	// the window lets them.
	messageFrames = 16
	frameBytes    = 2 << 10
	// messageTime is how long a message may take once it has begun: at 10 KiB a second, as long as it takes.
	messageTime = 30 * time.Second
	// openStreams is how many streams are looked at; those that were opened first are forgotten before others. A
	// connection has eight at a time, of which some that the server has ended may not have been ended by the peer.
	openStreams = 64
)

// Of HTTP/2 (RFC 9113, 3.4, 4.1 and 6.1) and of gRPC.
const (
	prefaceBytes = 24
	headerBytes  = 9
	prefixBytes  = 5
	typeData     = 0
	typeReset    = 3
	flagEnd      = 0x1
	flagPadded   = 0x8
)

var (
	errPadded    = errors.New("a DATA frame is padded: gRPC pads none")
	errForgotten = fmt.Errorf("DATA for a stream that was opened before %d others", openStreams)
	errFrames    = errors.New("a message comes in too many frames: send more bytes in each")
	errMessage   = fmt.Errorf("a message was not finished within %s", messageTime)
)

// frames follows what a client sends over a connection of HTTP/2, however it is cut, and finds what nobody honest sends.
// Whether it is HTTP/2 at all is for gRPC to say.
type frames struct {
	head    [prefaceBytes]byte // of the preface first, and then of each frame
	have    int
	begun   bool // the preface is over
	left    int  // bytes of the frame's payload that are still to come
	id      uint32
	ends    bool     // the frame is the last of its stream
	data    *message // nil: the frame is no DATA
	streams map[uint32]*message
	last    uint32 // the highest of the streams that were forgotten
}

// message is the message of a stream that comes in.
type message struct {
	prefix [prefixBytes]byte
	have   int // bytes of prefix; none: no message has begun
	left   int // bytes of the message, once the prefix is whole
	frames int
	begun  time.Time
}

// take looks at what has come.
func (f *frames) take(b []byte, now time.Time) error {
	for len(b) > 0 {
		if f.left > 0 {
			n := min(f.left, len(b))
			if f.data != nil {
				f.data.take(b[:n], now)
			}
			f.left -= n
			b = b[n:]
			f.over()
			continue
		}
		want := headerBytes
		if !f.begun {
			want = prefaceBytes
		}
		n := copy(f.head[f.have:want], b)
		f.have += n
		b = b[n:]
		if f.have < want {
			break
		}
		f.have = 0
		if !f.begun {
			f.begun = true
			continue
		}
		if err := f.begin(); err != nil {
			return err
		}
		f.over()
	}
	for _, m := range f.streams {
		if m.have > 0 && now.Sub(m.begun) > messageTime {
			return errMessage
		}
	}
	return nil
}

// begin begins a frame.
func (f *frames) begin() error {
	kind, flags := f.head[3], f.head[4]
	f.left = int(f.head[0])<<16 | int(f.head[1])<<8 | int(f.head[2])
	f.id = binary.BigEndian.Uint32(f.head[5:]) &^ (1 << 31)
	f.data, f.ends = nil, kind == typeReset
	if kind != typeData {
		return nil
	}
	if flags&flagPadded != 0 {
		return errPadded
	}
	f.ends = flags&flagEnd != 0
	if f.left == 0 {
		return nil
	}
	var err error
	if f.data, err = f.stream(f.id); err != nil {
		return err
	}
	if f.data.have > 0 {
		return f.data.frame()
	}
	return nil
}

// stream returns the message that comes in a stream.
func (f *frames) stream(id uint32) (*message, error) {
	if m, ok := f.streams[id]; ok {
		return m, nil
	}
	if id <= f.last {
		return nil, errForgotten
	}
	if f.streams == nil {
		f.streams = map[uint32]*message{}
	}
	m := &message{}
	f.streams[id] = m
	if len(f.streams) > openStreams {
		oldest := id
		for other := range f.streams {
			oldest = min(oldest, other)
		}
		delete(f.streams, oldest)
		f.last = oldest
	}
	return m, nil
}

// over forgets a stream whose last frame is over.
func (f *frames) over() {
	if f.left == 0 && f.ends {
		delete(f.streams, f.id)
		f.ends = false
	}
}

// frame counts a further frame of a message.
func (m *message) frame() error {
	m.frames++
	size := 0
	if m.have == prefixBytes {
		size = min(int(binary.BigEndian.Uint32(m.prefix[1:])), 1<<20) // gRPC refuses larger ones
	}
	if m.frames > messageFrames+size/frameBytes {
		return errFrames
	}
	return nil
}

// take reads bytes of the stream: messages, each after its prefix.
func (m *message) take(b []byte, now time.Time) {
	for len(b) > 0 {
		if m.have == 0 { // another begins in this frame
			m.frames, m.begun = 1, now
		}
		if m.have < prefixBytes {
			n := copy(m.prefix[m.have:], b)
			m.have += n
			b = b[n:]
			m.left = int(binary.BigEndian.Uint32(m.prefix[1:]))
		} else {
			n := min(m.left, len(b))
			m.left -= n
			b = b[n:]
		}
		if m.have == prefixBytes && m.left == 0 {
			m.have = 0
		}
	}
}
