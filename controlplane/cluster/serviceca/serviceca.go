// Package serviceca puts a file in the place of the ConfigMap that has the service CA, over any source.
//
// It guarantees that a broken file changes nothing: what was read last stays, and the file is a fault. Nothing is
// handed on before it was read once. Do not assume that a change of the file shows in a batch's revisions.
package serviceca

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/identity"
)

// Config is what a File needs.
type Config struct {
	// Source is where everything else comes from.
	Source cluster.Source
	// Path is the file: CA certificates, PEM.
	Path string
	// Poll is how often the file is looked at; zero: 5 s.
	Poll time.Duration
	// Log is told when the file is read, and when it cannot be.
	Log *slog.Logger
}

// Validate returns everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	if c.Source == nil {
		errs = append(errs, errors.New("no source"))
	}
	if c.Path == "" {
		errs = append(errs, errors.New("no path of a file"))
	}
	if c.Poll < 0 {
		errs = append(errs, errors.New("a negative duration"))
	}
	if c.Log == nil {
		errs = append(errs, errors.New("no logger"))
	}
	return errors.Join(errs...)
}

// File is another source as it is, but for the ConfigMap with the CA that signs the certificates of
// Services: that has the content of a file, and what the other says of it does not count. It is not
// synced before the file was read once. A file that cannot be read any more, or has no certificate, is a fault, and
// what was read last stays. A file that changes does not count in Observed, Reached and Revision.
type File struct {
	c Config

	mu      sync.Mutex     // guards what follows
	text    string         // the file's content when it was last good; empty: it never was
	fault   *cluster.Fault // of the file as it is
	given   string         // what was handed out of it
	held    map[cluster.Key]cluster.Change
	fresh   bool          // Take has something new
	changed chan struct{} // closed when fresh
	taken   chan struct{} // closed by the next Take
}

var _ cluster.Source = (*File)(nil)

// New returns a source that reads nothing before it is run.
func New(c Config) (*File, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("file of the service CA: %w", err)
	}
	if c.Poll == 0 {
		c.Poll = 5 * time.Second
	}
	return &File{
		c: c, held: map[cluster.Key]cluster.Change{}, changed: make(chan struct{}), taken: make(chan struct{}),
	}, nil
}

// key is where OpenShift's operator has that CA.
var key = cluster.Key{Kind: cluster.ConfigMap, Namespace: cluster.CertificateNamespace, Name: cluster.ServiceCA}

// entry is the name of the CA certificates in ConfigMap service-ca-bundle of openshift-ingress.
const entry = "service-ca.crt"

// String implements [cluster.Source]: it is the other source's.
func (s *File) String() string { return s.c.Source.String() }

// Changed implements [cluster.Source].
func (s *File) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Take implements [cluster.Source].
func (s *File) Take() (cluster.Batch, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fresh {
		s.fresh, s.changed = false, make(chan struct{})
	}
	close(s.taken)
	s.taken = make(chan struct{})

	b, synced := s.c.Source.Take()
	for _, c := range b.Changes {
		if c.Key != key {
			s.held[c.Key] = c
		}
	}
	b.Changes = nil
	b.Faults = slices.DeleteFunc(slices.Clone(b.Faults), func(f cluster.Fault) bool { return f.Place == key.String() })
	if s.fault != nil {
		b.Faults = cluster.SortFaults(append(b.Faults, *s.fault))
	}
	if !synced || s.text == "" {
		return cluster.Batch{Faults: b.Faults}, false
	}
	if s.given != s.text {
		m := &corev1.ConfigMap{Data: map[string]string{entry: s.text}}
		m.Namespace, m.Name = key.Namespace, key.Name
		s.held[key] = cluster.Change{Key: key, Object: m}
		s.given = s.text
	}
	b.Changes = slices.SortedFunc(maps.Values(s.held), func(x, y cluster.Change) int { return x.Key.Compare(y.Key) })
	s.held = map[cluster.Key]cluster.Change{}
	return b, true
}

// Run implements [cluster.Source].
func (s *File) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.c.Source.Run(ctx) })
	g.Go(func() error {
		s.forward(ctx)
		return nil
	})
	g.Go(func() error {
		poll := time.NewTicker(s.c.Poll)
		defer poll.Stop()
		for {
			s.read()
			select {
			case <-ctx.Done():
				return nil
			case <-poll.C:
			}
		}
	})
	return g.Wait() //nolint:wrapcheck // the other source's
}

// forward says that there is something new whenever the other source does, until ctx ends.
func (s *File) forward(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.c.Source.Changed():
		}
		s.mu.Lock()
		s.signalLocked()
		taken := s.taken
		s.mu.Unlock()
		select { // what Changed returns stays closed until then
		case <-ctx.Done():
			return
		case <-taken:
		}
	}
}

// signalLocked says that Take has something new. The caller holds mu.
func (s *File) signalLocked() {
	if !s.fresh {
		s.fresh = true
		close(s.changed)
	}
}

// read looks at the file.
func (s *File) read() {
	text, err := s.content()
	s.mu.Lock()
	defer s.mu.Unlock()
	var fault *cluster.Fault
	if err != nil {
		if failed, ok := errors.AsType[*fs.PathError](err); ok {
			err = failed.Err // the fault's place names the path
		}
		meanwhile := "what was read before stays in force"
		if s.text == "" {
			meanwhile = "nothing is served before"
		}
		fault = &cluster.Fault{
			Place: s.c.Path, Message: fmt.Sprintf("the service CA cannot be read: %v; %s", err, meanwhile),
			Remedy: "is the volume mounted? Put the CA certificates there, PEM; or do without --service-ca-file",
		}
	}
	if (fault == nil) != (s.fault == nil) || fault != nil && *fault != *s.fault {
		before, now := []cluster.Fault{}, []cluster.Fault{}
		if s.fault != nil {
			before = append(before, *s.fault)
		}
		if fault != nil {
			now = append(now, *fault)
		}
		cluster.LogFaults(s.c.Log, s.String(), before, now)
		s.fault = fault
		s.signalLocked()
	}
	if err == nil && string(text) != s.text {
		s.text = string(text)
		s.c.Log.Info("read the service CA", "path", s.c.Path)
		s.signalLocked()
	}
}

// content returns what is in the file, if nobody else may have written it and it can be used.
func (s *File) content() ([]byte, error) {
	info, err := os.Stat(s.c.Path)
	if err != nil {
		return nil, err //nolint:wrapcheck // read tells the path
	}
	if err := identity.CheckWriters(info, os.Geteuid()); err != nil {
		return nil, err //nolint:wrapcheck // as above
	}
	text, err := os.ReadFile(s.c.Path)
	if err == nil && !hasCertificate(text) {
		err = errors.New("there is no certificate in it")
	}
	return text, err //nolint:wrapcheck // as above
}

// hasCertificate tells whether there is a certificate in PEM text, and none that cannot be parsed: half of a
// file is not used.
func hasCertificate(text []byte) bool {
	found := false
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return false
		}
		found = true
	}
	return found
}
