package haproxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// HAProxy writes to a FIFO that it holds open for reading too. So nobody has to read it: with no reader
// up to 64 kB wait for the next one, more is dropped, and a write neither blocks nor fails fatally. There
// is no file that grows, and nothing to rotate.

// openOutput opens the FIFO for HAProxy, and makes it if need be.
func openOutput(path string) (*os.File, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() != os.ModeNamedPipe {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make FIFO %s: %w", path, err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

const (
	maxLine     = 2048 // bytes of a line that are logged
	keptLines   = 100  // lines that are kept to explain a failure
	linesPerSec = 200  // lines of HAProxy's own that are logged in a second
)

// output reads the FIFO until its last writer has gone, or until stop.
type output struct {
	log  *slog.Logger
	file *os.File
	done chan struct{}

	mu    sync.Mutex
	lines []string // guarded by mu; the last of HAProxy's own lines
	count int      // guarded by mu; of all lines that were kept at some time

	// Only the reading goroutine uses these.
	second time.Time
	logged int
	hushed int
}

// follow begins to read. A FIFO that cannot be opened is logged and otherwise ignored: it is not worth
// an outage.
func follow(path string, log *slog.Logger) *output {
	o := &output{log: log, done: make(chan struct{})}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		log.Warn("what HAProxy says cannot be read", "path", path, "error", err)
		close(o.done)
		return o
	}
	o.file = os.NewFile(uintptr(fd), path)
	go func() {
		defer close(o.done)
		o.read(o.file)
	}()
	return o
}

// stop ends the reading and waits for that.
func (o *output) stop() {
	if o.file != nil {
		o.file.Close()
	}
	<-o.done
}

// drain returns the last lines once HAProxy has ended, and so said all that it had to.
func (o *output) drain() string {
	select {
	case <-o.done:
	case <-time.After(time.Second): // an old worker may still hold the FIFO
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.lines, "\n")
}

// mark returns a place in the output, for since.
func (o *output) mark() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.count
}

// since returns the lines after a mark that end with one that holds the text; or what there is, if none comes
// within a second. HAProxy has written it already, but it may not have been read yet.
func (o *output) since(mark int, text string) string {
	for begun := time.Now(); ; time.Sleep(time.Millisecond) {
		o.mu.Lock()
		s := strings.Join(o.lines[len(o.lines)-min(o.count-mark, len(o.lines)):], "\n")
		o.mu.Unlock()
		if strings.Contains(s, text) || time.Since(begun) > time.Second {
			return s
		}
	}
}

func (o *output) read(r io.Reader) {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := br.ReadSlice('\n')
		if len(line) > 0 {
			o.line(strings.ToValidUTF8(string(bytes.TrimRight(line, "\r\n")), "�"))
		}
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a long line
			_, err = br.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

// own matches what HAProxy says of itself; anything else is an access log.
var own = regexp.MustCompile(`^\[([A-Z]+)\] +\(([0-9]+)\) : (.*)$`)

func (o *output) line(s string) {
	m := own.FindStringSubmatch(s)
	if m == nil {
		if s != "" {
			o.keep(s)
			o.log.Info(s, "from", "haproxy")
		}
		return
	}
	o.keep(s)
	level := levelOf(m[1], m[3])
	if now := time.Now(); now.Sub(o.second) >= time.Second {
		if o.hushed > 0 {
			o.log.Warn("HAProxy said more than is logged", "lines", o.hushed)
		}
		o.second, o.logged, o.hushed = now, 0, 0
	}
	if o.logged++; o.logged > linesPerSec {
		o.hushed++
		return
	}
	o.log.Log(context.Background(), level, m[3], "from", "haproxy", "pid", m[2])
}

var (
	// constant matches warnings about what routerd does all day, a line for each backend or server: reloads, and
	// endpoints that come and go.
	constant = regexp.MustCompile(`^(Proxy \S+ stopped|Server \S+ is (UP/READY \(leaving forced|going DOWN for maintenance))`)
	// ordinary matches warnings and alerts about what is meant to happen: workers and masters that end when they are
	// told to (143 and 130 are how SIGTERM and SIGINT end one), and Routes that have no endpoints.
	ordinary = regexp.MustCompile(`^(Exiting Master process|All workers exited\. Exiting\.\.\. \((0|143|130)\)` +
		`|(Current|Former) worker \([0-9]+\) exited with code (0|143|130) |backend '\S+' has no server available!)`)
)

// levelOf returns the level of what HAProxy says of itself.
func levelOf(level, message string) slog.Level {
	switch {
	case level != "ALERT" && level != "EMERG" && level != "WARNING", constant.MatchString(message):
		return slog.LevelDebug
	case ordinary.MatchString(message):
		return slog.LevelInfo
	case level == "WARNING":
		return slog.LevelWarn
	default:
		return slog.LevelError
	}
}

func (o *output) keep(s string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.count++
	if len(o.lines) == keptLines {
		copy(o.lines, o.lines[1:])
		o.lines = o.lines[:keptLines-1]
	}
	o.lines = append(o.lines, s)
}
