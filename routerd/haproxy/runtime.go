package haproxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// ErrClosed says that a Runtime is of no use any more: its connection broke, or Close was called. What
// the commands that were under way have done is not known.
var ErrClosed = errors.New("the connection to HAProxy's worker is closed")

// RefusedError says that HAProxy answered a command with something else than success.
type RefusedError struct {
	Command string // without its payload, which may be a private key
	Answer  string
	File    string // of certificates, that the command was about; empty: none
}

// Content returns what HAProxy says of certificates that it cannot use; empty: the refusal is not about what is in
// them.
func (e *RefusedError) Content() string { return unusable(e.Answer) }

// unusable returns the line of a text in which HAProxy says that it cannot use a certificate; empty: there is none.
func unusable(text string) string {
	for line := range strings.Lines(text) {
		for _, says := range []string{"unable to load ", "inconsistencies between "} {
			if i := strings.Index(line, says); i >= 0 {
				return strings.TrimSpace(line[i:])
			}
		}
	}
	return ""
}

// Error gives the command and the answer.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("HAProxy refuses %.200q: %.500s", e.Command,
		strings.ReplaceAll(strings.TrimSpace(e.Answer), "\n", " "))
}

// AnswerError says that an answer of HAProxy's does not fit its question: what was asked is not known.
type AnswerError struct {
	Question string
	Why      string
	Answer   string
}

// Error gives the question, what is wrong with the answer, and how the answer begins.
func (e *AnswerError) Error() string {
	return fmt.Sprintf("HAProxy's answer to %.200q %s: %.200q", e.Question, e.Why, e.Answer)
}

// Command is one command of the runtime API. The zero Command is not valid.
type Command struct {
	line    string
	payload string // with its lines' ends and the empty line; empty: none
	foreign bool   // its answer may hold text that somebody else chose, line breaks included
	file    string // of certificates, whose content HAProxy judges by this command; empty: none
	err     error
}

// Cmd makes a command from words. A word may hold anything but control characters: what has a meaning
// to HAProxy is escaped.
func Cmd(words ...string) Command {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		if err := appendWord(&b, w); err != nil {
			return Command{err: fmt.Errorf("command %.60q: %w", words[0], err)}
		}
	}
	if b.Len() == 0 || b.Len() > maxBatch {
		return Command{err: fmt.Errorf("command of %d bytes: want 1 to %d", b.Len(), maxBatch)}
	}
	return Command{line: b.String()}
}

// appendWord escapes a word. "<<" after a blank would announce a payload, where HAProxy looks after the last one of a
// command, whether that is escaped (3.0, 3.4) or not.
func appendWord(b *strings.Builder, w string) error {
	if w == "" {
		return errors.New("a word is empty")
	}
	if strings.HasPrefix(w, "<<") || strings.Contains(w, " <<") {
		return errors.New(`a word has "<<" at its beginning or after a blank`)
	}
	for i := range len(w) {
		switch c := w[i]; {
		case c < 0x20 || c == 0x7f:
			return fmt.Errorf("a word holds the control character %#02x", c)
		case c == ' ' || c == ';' || c == '\\':
			b.WriteByte('\\')
		}
		b.WriteByte(w[i])
	}
	return nil
}

// With adds a payload, which is taken literally. It may not hold an empty line, which would end it.
func (c Command) With(payload string) Command {
	payload = strings.TrimRight(payload, "\n")
	switch {
	case c.err != nil:
	case payload == "" || strings.HasPrefix(payload, "\n") || strings.Contains(payload, "\n\n"):
		c.err = fmt.Errorf("command %.60q: the payload is empty or holds an empty line", c.line)
	case strings.ContainsAny(payload, "\x00\r"):
		c.err = fmt.Errorf("command %.60q: the payload holds NUL or CR", c.line)
	default:
		c.payload = payload + "\n\n"
	}
	return c
}

// String returns the command without its payload.
func (c Command) String() string { return c.line }

// len is how many bytes the command has on its way, its payload included.
func (c Command) len() int { return len(c.line) + len(" <<\n") + len(c.payload) }

func (c Command) append(b []byte) []byte {
	b = append(b, c.line...)
	if c.payload != "" {
		b = append(b, " <<"...)
	}
	b = append(b, '\n')
	return append(b, c.payload...)
}

// asking returns the command as a question whose answer may hold foreign text: names in a certificate, for one. Such an
// answer may have a line that looks like the prompt after it, or like anything else that HAProxy says. So it ends where
// the answer to a second command begins, which repeats a word that only this connection knows.
func (c Command) asking() Command {
	c.foreign = true
	return c
}

// about says that HAProxy judges by the command what is in a file of certificates.
func (c Command) about(file string) Command {
	c.file = file
	return c
}

// endCommand is that second command before HAProxy 3.4, which has a better one. There is no certificate of the name,
// and HAProxy says so, unless certificates are locked (ErrLocked): then the answer to the first command is that they
// are.
const endCommand = "del ssl cert "

// endLine is how its answer begins.
func endLine(word string) string {
	return "> [3]: Can't remove the certificate: certificate '" + word + "' doesn't exist!"
}

// end returns the second command, and how its answer begins.
func (r *Runtime) end() (command, line string) {
	if r.info.Version.AtLeast(3, 4) {
		return "echo " + r.word, "> [6]: " + r.word
	}
	return endCommand + r.word, endLine(r.word)
}

// refusing is how an answer begins that is HAProxy's own words and nothing else: a refusal.
const refusing = "[3]: "

// ErrLocked says that HAProxy tells nothing of certificates, and takes none: somebody else's command about them has not
// ended. One whose output nobody reads does not.
var ErrLocked = errors.New("certificates are locked by a command on HAProxy's admin socket whose output is not read")

// lockedAnswer is what HAProxy says then, on every release.
const lockedAnswer = "Operations on certificates are currently locked!"

const (
	// maxBatch is how many bytes of commands are under way at once: what every version takes at once, and
	// so few that both sides cannot be waiting for each other to read.
	maxBatch = 8000
	// maxAnswer bounds an answer. "show servers state" of 100,000 servers has some 15 MB.
	maxAnswer = 256 << 20
	// execTimeout bounds Exec when its context has no deadline.
	execTimeout = 30 * time.Second
)

// Runtime is a connection to one worker's admin socket. It never connects again by itself: another worker
// is another state. It is safe for concurrent use; commands of one Exec are not mixed with another's.
type Runtime struct {
	info Info
	word string // ends answers that may hold foreign text; nobody else knows it

	mu     sync.Mutex
	conn   net.Conn      // guarded by mu
	r      *bufio.Reader // guarded by mu
	broken error         // guarded by mu; not nil: conn is closed
}

// Connect connects to the worker that listens on the admin socket now.
func (p *Process) Connect(ctx context.Context) (*Runtime, error) {
	conn, err := p.dial(ctx, AdminSocket)
	if err != nil {
		return nil, err
	}
	r := &Runtime{conn: conn, r: bufio.NewReaderSize(conn, 32<<10), word: rand.Text()}
	if err := r.greet(ctx); err != nil {
		r.Close()
		return nil, fmt.Errorf("talk to HAProxy's worker: %w", err)
	}
	return r, nil
}

// greet makes the connection lasting, and asks whom it leads to. Every answer ends with a prompt from
// the first on.
func (r *Runtime) greet(ctx context.Context) error {
	answers, err := r.Exec(ctx, Cmd("prompt"), Cmd("set", "severity-output", "number"),
		Cmd("set", "timeout", "cli", "1d"))
	if err != nil {
		return err
	}
	for i, a := range answers {
		if a.text != "" {
			return &RefusedError{Command: []string{"prompt", "set severity-output", "set timeout cli"}[i],
				Answer: a.text}
		}
	}
	r.info, err = r.Info(ctx)
	return err
}

// PID returns the worker's process.
func (r *Runtime) PID() int { return r.info.PID }

// Stopping tells whether the worker was stopping already when it was connected to.
func (r *Runtime) Stopping() bool { return r.info.Stopping }

// Version returns the worker's version.
func (r *Runtime) Version() Version { return r.info.Version }

// Close closes the connection.
func (r *Runtime) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail(errors.New("by us"))
}

// fail closes the connection, for the reason given. mu is held.
func (r *Runtime) fail(reason error) {
	if r.broken == nil {
		r.broken = reason
		r.conn.Close()
	}
}

// Answer is what HAProxy answered to one command.
type Answer struct {
	text     string // without the severity and the empty line that ends it
	severity int    // as syslog counts, 3 is an error; -1: the answer has none
}

// Exec executes commands in order, and returns as many answers. An error says that the connection broke
// or the context ended; the Runtime is closed then, and some of the commands may have been executed. That
// HAProxy refused a command is no error here: it is for who knows the command to read the answer.
func (r *Runtime) Exec(ctx context.Context, commands ...Command) ([]Answer, error) {
	for _, c := range commands {
		if c.err != nil {
			return nil, c.err
		}
		if c.line == "" {
			return nil, errors.New("a command is empty")
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil {
		return nil, fmt.Errorf("%w: %w", ErrClosed, r.broken)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = r.conn.SetDeadline(time.Unix(1, 0)) })
	answers, err := r.exec(commands)
	if !stop() && err == nil {
		err = errors.New("the deadline has passed") // and the connection has it
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		r.fail(err)
		return nil, fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return answers, nil
}

func (r *Runtime) exec(commands []Command) ([]Answer, error) {
	answers := make([]Answer, 0, len(commands))
	end, endLine := r.end()
	var batch []byte
	for len(commands) > 0 {
		batch = batch[:0]
		n := 0
		for n < len(commands) && (n == 0 || len(batch)+commands[n].len()+len(end)+1 <= maxBatch) {
			batch = commands[n].append(batch)
			if commands[n].foreign {
				batch = append(append(batch, end...), '\n')
			}
			n++
		}
		if _, err := r.conn.Write(batch); err != nil {
			return nil, err
		}
		for _, c := range commands[:n] {
			raw, err := readAnswer(r.r)
			switch {
			case !c.foreign || err != nil:
			case strings.HasPrefix(raw, refusing):
				_, err = readAnswer(r.r) // of the second command, whatever it says
			default:
				raw, err = readOn(r.r, raw, endLine)
			}
			if err != nil {
				return nil, err
			}
			answers = append(answers, parseAnswer(raw))
		}
		commands = commands[n:]
	}
	return answers, nil
}

var errAnswer = fmt.Errorf("an answer has more than %d bytes", maxAnswer)

// readAnswer reads up to the prompt that follows an answer: "> " at the beginning of a line. No answer has such a line
// that holds only what HAProxy says by itself; for others there is readOn. While a payload arrives in pieces HAProxy
// prompts for more with "+ ".
func readAnswer(r *bufio.Reader) (string, error) {
	var b []byte
	start := true // of a line
	for first := true; ; {
		if start {
			p, err := r.Peek(2)
			if err != nil {
				return "", eof(err)
			}
			if first && bytes.Equal(p, []byte("+ ")) {
				_, _ = r.Discard(2)
				continue
			}
			if bytes.Equal(p, []byte("> ")) {
				_, _ = r.Discard(2)
				return string(b), nil
			}
		}
		line, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return "", eof(err)
		}
		b = append(b, line...)
		if len(b) > maxAnswer {
			return "", errAnswer
		}
		start, first = err == nil, false
	}
}

// readOn goes on reading an answer of which readAnswer has read the part before the first line that looks like a
// prompt: it ends before the line that begins with end, the answer to the command after it, which is read too.
func readOn(r *bufio.Reader, read, end string) (string, error) {
	b := []byte(read)
	for mark := end[len("> "):]; ; mark = end {
		line, err := readLine(r, maxAnswer-len(b))
		if err != nil {
			return "", err
		}
		if bytes.HasPrefix(line, []byte(mark)) {
			_, err := readAnswer(r)
			return string(b), err
		}
		if len(mark) < len(end) {
			b = append(b, "> "...) // which readAnswer has taken for a prompt
		}
		b = append(b, line...)
	}
}

// readLine reads a line of at most so many bytes, with its end.
func readLine(r *bufio.Reader, most int) ([]byte, error) {
	var b []byte
	for {
		line, err := r.ReadSlice('\n')
		b = append(b, line...)
		switch {
		case len(b) > most:
			return nil, errAnswer
		case err == nil:
			return b, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, eof(err)
		}
	}
}

// eof says that an end in the middle is one.
func eof(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
