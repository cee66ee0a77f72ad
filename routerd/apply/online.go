package apply

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // how HAProxy identifies certificates; nothing rests on its strength
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// maxOperations is where a reload becomes cheaper than commands: one takes some 10 µs with its read-back, a
// reload 100 ms with 100 routes and 550 ms with 10,000 (BenchmarkApply), and leaves an old worker behind.
const maxOperations = 10_000

// onlineEnough tells whether commands can make a change. New CA certificates reach only servers that are
// added after them (seen with 3.4.7), so they cost a reload.
func onlineEnough(c render.Change) bool {
	return len(c.Reload) == 0 && len(c.CAs) == 0
}

// server names a server in HAProxy.
type server struct{ backend, name string }

// plan is a change as commands, in the order make before break, and what HAProxy says when it is made.
type plan struct {
	make  []haproxy.Op // certificates, and servers that come
	shift []haproxy.Op // weights, and servers that go

	backends     []render.BackendServers
	certificates map[string]string // path → fingerprint
	revived      []server
	left         map[server]render.Server
}

// newPlan plans a change, given the servers that are waiting to be deleted.
func newPlan(c render.Change, can haproxy.Capabilities, leaving map[server]*leaver) (*plan, error) {
	p := &plan{backends: c.Servers, certificates: map[string]string{}, left: map[server]render.Server{}}
	for _, f := range c.Certificates {
		prints, err := fingerprints(f.New)
		if err != nil {
			return nil, fmt.Errorf("certificate %s: %w", f.Path, err)
		}
		p.certificates[f.Path] = prints[0]
		p.make = append(p.make, haproxy.SetCertificate(f.Path, string(f.New)), haproxy.CommitCertificate(f.Path))
	}
	for _, b := range c.Servers {
		if err := p.planBackend(b, can, leaving); err != nil {
			return nil, fmt.Errorf("backend %s: %w", b.Backend, err)
		}
	}
	if n := len(p.make) + len(p.shift); n > maxOperations {
		return nil, fmt.Errorf("%d operations are more than a reload costs", n)
	}
	return p, nil
}

func (p *plan) planBackend(b render.BackendServers, can haproxy.Capabilities, leaving map[server]*leaver) error {
	before := make(map[string]render.Server, len(b.Old))
	for _, s := range b.Old {
		before[s.Name] = s
	}
	for _, s := range b.New {
		old, ok := before[s.Name]
		delete(before, s.Name)
		l := leaving[server{b.Backend, s.Name}]
		switch {
		case ok && old.Weight != s.Weight:
			p.shift = append(p.shift, haproxy.SetServerWeight(b.Backend, s.Name, s.Weight))
		case ok:
		case l != nil:
			if l.server == nil || !sameButWeight(*l.server, s) {
				return fmt.Errorf("server %s comes back as another while the one that left still has connections", s.Name)
			}
			p.revived = append(p.revived, server{b.Backend, s.Name})
			p.make = append(p.make, haproxy.SetServerWeight(b.Backend, s.Name, s.Weight), haproxy.SetServerState(b.Backend, s.Name, haproxy.Ready))
		case !can.DynamicServers:
			return errors.New("this HAProxy cannot add servers at run time")
		default:
			p.make = append(p.make, add(b.Backend, s)...)
		}
	}
	for name, s := range before {
		p.left[server{b.Backend, name}] = s
		p.shift = append(p.shift, haproxy.SetServerState(b.Backend, name, haproxy.Maint))
	}
	return nil
}

// add returns what adds a server and gives it traffic. It comes in maintenance, and unchecked. Setting the
// weight makes a backend that hashes take notice of it (haproxy#3413).
func add(backend string, s render.Server) []haproxy.Op {
	words := strings.Fields(s.AddCommand(backend))
	ops := []haproxy.Op{
		haproxy.AddServer(backend, s.Name, words[3:]...),
		haproxy.SetServerWeight(backend, s.Name, s.Weight),
	}
	if s.Checked() {
		ops = append(ops, haproxy.EnableHealth(backend, s.Name))
	}
	return append(ops, haproxy.SetServerState(backend, s.Name, haproxy.Ready))
}

func sameButWeight(a, b render.Server) bool {
	b.Weight = a.Weight
	return a.Line() == b.Line()
}

// notOnline says that a change is not to be made by commands. Nothing was begun.
type notOnline struct{ error }

// online makes a change by commands, and reads back what it touched. After an error it is not known what
// HAProxy runs, unless nothing was begun.
func (a *Applier) online(ctx context.Context, c render.Change, v snapshot.Version) error {
	if err := a.connectInForce(ctx); err != nil {
		return err
	}
	w := a.worker
	can := w.Version().Capabilities()
	p, err := newPlan(c, can, a.leaving)
	if err != nil {
		return &notOnline{err}
	}
	a.suspect = true
	// A revived server is not the janitor's any more, whatever comes.
	for _, s := range p.revived {
		delete(a.leaving, s)
	}
	applying := haproxy.SetMap(stampMap, versionKey, "applying "+v.String())
	if err := w.Do(ctx, append([]haproxy.Op{applying}, p.make...)...); err != nil {
		return fmt.Errorf("add what is new: %w", err)
	}
	if err := w.Do(ctx, p.shift...); err != nil {
		return fmt.Errorf("take away what is old: %w", err)
	}
	if err := a.readBack(ctx, p); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if err := w.Do(ctx, haproxy.SetMap(stampMap, versionKey, v.String())); err != nil {
		return fmt.Errorf("set the stamp: %w", err)
	}
	if err := a.verifyStamp(ctx, v.String()); err != nil {
		return err
	}
	if i, err := w.Info(ctx); err != nil || i.Stopping {
		return errors.Join(errors.New("HAProxy was reloaded in the meantime"), err)
	}
	a.suspect = false
	now := time.Now()
	for s, was := range p.left {
		a.leaving[s] = &leaver{server: &was, since: now, due: firstTry(can, now)}
	}
	a.cfg.Metrics.Leaving.Set(float64(len(a.leaving)))
	a.touched = now
	if a.stale.IsZero() {
		a.stale = now
	}
	return nil
}

// connectInForce makes sure of a connection to a worker that runs the snapshot in force.
func (a *Applier) connectInForce(ctx context.Context) error {
	known := a.worker
	if err := a.connect(ctx); err != nil {
		return err
	}
	if a.worker == known {
		return nil
	}
	s, _ := a.InForce()
	return a.verifyStamp(ctx, s.Version().String())
}

// readBack compares what was touched with what HAProxy has.
func (a *Applier) readBack(ctx context.Context, p *plan) error {
	if len(p.backends) > 0 {
		names := make([]string, len(p.backends))
		for i, b := range p.backends {
			names[i] = b.Backend
		}
		states, err := a.worker.BackendsState(ctx, names...)
		if err != nil {
			return err //nolint:wrapcheck // says what was asked
		}
		for i, b := range p.backends {
			if err := a.compare(p, b, states[i]); err != nil {
				return fmt.Errorf("backend %s: %w", b.Backend, err)
			}
		}
	}
	for path, want := range p.certificates {
		got, err := a.worker.Certificate(ctx, path)
		if err != nil {
			return err //nolint:wrapcheck // says what was asked
		}
		if got.SHA1 != want {
			return fmt.Errorf("certificate %s is %s, not %s", path, got.SHA1, want)
		}
	}
	return nil
}

// compare compares a backend's servers. Those that are there beyond the wanted ones must be on their way out.
func (a *Applier) compare(p *plan, b render.BackendServers, have map[string]haproxy.ServerState) error {
	for _, s := range b.New {
		h, ok := have[s.Name]
		want, err := netip.ParseAddr(s.Address)
		switch {
		case err != nil:
			return fmt.Errorf("server %s: %w", s.Name, err)
		case !ok:
			return fmt.Errorf("server %s is not there", s.Name)
		case h.Address.Unmap() != want.Unmap() || h.Port != s.Port:
			return fmt.Errorf("server %s is at %s port %d, not %s", s.Name, h.Address, h.Port, s.HostPort())
		case h.Weight != s.Weight:
			return fmt.Errorf("server %s has weight %d, not %d", s.Name, h.Weight, s.Weight)
		case h.State() != haproxy.Ready:
			return fmt.Errorf("server %s is in state %s", s.Name, h.State())
		}
		delete(have, s.Name)
	}
	for name, h := range have {
		s := server{b.Backend, name}
		_, goes := p.left[s]
		if !goes && a.leaving[s] == nil || h.State() != haproxy.Maint {
			return fmt.Errorf("server %s should not be there, and is in state %s", name, h.State())
		}
	}
	return nil
}

// fingerprints returns the SHA-1 of each certificate of a PEM file, as HAProxy prints it.
func fingerprints(content []byte) ([]string, error) {
	var prints []string
	for rest := bytes.Clone(content); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type == "CERTIFICATE" {
			sum := sha1.Sum(b.Bytes)
			prints = append(prints, strings.ToUpper(hex.EncodeToString(sum[:])))
		}
	}
	if len(prints) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return slices.Clip(prints), nil
}
