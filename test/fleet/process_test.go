package fleet_test

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// patience is how long is waited for what must come, on a busy machine too.
const patience = 2 * time.Minute

// server is a server's process, as those who give it orders see it.
type server struct {
	t       testing.TB
	config  serverConfig
	process *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Scanner
	ended   chan struct{}
}

// start starts a server, which may not listen yet.
func (w *plant) start(kind string, replay int) *server {
	w.t.Helper()
	s := &server{t: w.t, ended: make(chan struct{}), config: serverConfig{
		Kind: kind, Listen: haproxytest.FreeAddress(w.t), Admin: haproxytest.FreeAddress(w.t), TLS: w.serverFiles, Pairs: w.pairs,
		Routes: w.routes, Seed: w.seed, Replay: replay,
	}}
	text, err := json.Marshal(s.config)
	if err != nil {
		w.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	s.process = exec.CommandContext(w.t.Context(), self)
	s.process.Env = append(os.Environ(), serverVariable+"="+string(text))
	log, err := os.Create(filepath.Join(w.dir, strings.ReplaceAll(kind, " ", "-")+".log"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	s.process.Stderr = log
	if s.orders, err = s.process.StdinPipe(); err != nil {
		w.t.Fatal(err)
	}
	out, err := s.process.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	s.answers = bufio.NewScanner(out)
	if err := s.process.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		s.stop()
		if content, err := os.ReadFile(log.Name()); err == nil && w.t.Failed() {
			w.t.Logf("%s said:\n%.20000s", kind, content)
		}
	})
	return s
}

// stop ends the process, and waits for it.
func (s *server) stop() {
	select {
	case <-s.ended:
		return
	default:
		close(s.ended)
	}
	_ = s.process.Process.Signal(syscall.SIGTERM)
	_ = s.process.Wait() // how it ended is in its log
}

// do has an order carried out.
func (s *server) do(o order) report {
	s.t.Helper()
	line, err := json.Marshal(o)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.orders.Write(append(line, '\n')); err != nil {
		s.t.Fatalf("%s: %v", s.config.Kind, err)
	}
	if !s.answers.Scan() {
		s.t.Fatalf("%s has ended: %v", s.config.Kind, s.answers.Err())
	}
	var r report
	if err := json.Unmarshal(s.answers.Bytes(), &r); err != nil {
		s.t.Fatal(err)
	}
	return r
}
