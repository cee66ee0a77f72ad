// Package ratelog writes log lines that a peer can cause, at a bounded rate.
//
// It guarantees that each peer gets a few lines of each kind at once and then one now and then, that all together have
// a bound, and that the next line tells how many of its kind and peer were left out.
//
// Do not assume that everything is in the log: what must be counted has a metric.
package ratelog

import (
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// What a peer, and what all of them together may write.
const (
	peerBurst  = 30               // lines of a kind at once
	peerEvery  = 10 * time.Second // and then one
	totalBurst = 200              // lines at once, of all peers
	totalEvery = 100 * time.Millisecond
	peers      = 1024 // kinds and peers that are known at a time; who wrote longest ago is forgotten
)

// Log writes to another log. It is safe for concurrent use.
type Log struct {
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	total budget                        // guarded by mu
	known *simplelru.LRU[line, *budget] // guarded by mu
}

// line is a kind of line, by its message, of a peer.
type line struct{ message, peer string }

// budget is a bucket of tokens. Guarded by the log's mu.
type budget struct {
	spent   float64 // tokens
	at      time.Time
	leftOut int // lines since the last that was written
}

// New makes a log that writes to another.
func New(log *slog.Logger, now func() time.Time) *Log {
	known, err := simplelru.NewLRU[line, *budget](peers, nil)
	if err != nil {
		panic(err) // only a size that is not positive is refused
	}
	return &Log{log: log, now: now, known: known}
}

// Warn writes a line that a peer caused, unless it caused too many of that message.
func (l *Log) Warn(peer, message string, attributes ...any) {
	l.write(l.log.Warn, peer, message, attributes)
}

// Error is Warn for what somebody has to do something about.
func (l *Log) Error(peer, message string, attributes ...any) {
	l.write(l.log.Error, peer, message, attributes)
}

// Info is Warn for what is in order.
func (l *Log) Info(peer, message string, attributes ...any) {
	l.write(l.log.Info, peer, message, attributes)
}

func (l *Log) write(to func(string, ...any), peer, message string, attributes []any) {
	leftOut, ok := l.admit(line{message, peer})
	if !ok {
		return
	}
	if leftOut > 0 {
		attributes = append(attributes[:len(attributes):len(attributes)], "left_out", leftOut)
	}
	to(message, attributes...)
}

// admit tells whether a line is written, and how many were not since the last one.
func (l *Log) admit(of line) (leftOut int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	b, known := l.known.Get(of)
	if !known {
		b = &budget{}
		l.known.Add(of, b)
	}
	if !b.has(peerBurst, peerEvery, now) || !l.total.has(totalBurst, totalEvery, now) {
		b.leftOut++
		return 0, false
	}
	b.spent++
	l.total.spent++
	leftOut, b.leftOut = b.leftOut, 0
	return leftOut, true
}

// has tells whether there is a token.
func (b *budget) has(burst float64, every time.Duration, now time.Time) bool {
	if passed := now.Sub(b.at); passed > 0 {
		b.spent = max(0, b.spent-float64(passed)/float64(every))
	}
	b.at = now
	return b.spent+1 <= burst
}
