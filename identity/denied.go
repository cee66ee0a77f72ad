package identity

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"strings"
	"sync"
	"time"
)

// Denied are the peers that are turned away though their certificates are good, as a file names them, one a line:
//
//	# router tok04-1 was broken into on 30 November
//	spiffe://tsuji.local/ingress/default/zone/tok04/router/tok04-1
//	serial=7B03C1A5
//
// An identity is one as it stands in certificates, and a serial number is hexadecimal, as "openssl x509 -noout -serial"
// prints it. Blank lines, and those that begin with #, say nothing. The file is read again when it changes; while it
// cannot be read, or has something else in it, what was read before stays. It is safe for concurrent use.
type Denied struct {
	path, trustDomain string
	log               *slog.Logger

	mu         sync.Mutex
	read       []byte              // guarded by mu; the file as it is in force
	identities map[string]struct{} // guarded by mu
	serials    map[string]struct{} // guarded by mu; in decimal
	trouble    string              // guarded by mu; what is wrong with the file now, as logged
}

// LoadDenied reads the file. With no path nobody is denied.
func LoadDenied(path, trustDomain string, log *slog.Logger) (*Denied, error) {
	d := &Denied{path: path, trustDomain: trustDomain, log: log}
	if path == "" {
		return d, nil
	}
	if _, err := d.look(); err != nil {
		return nil, err
	}
	return d, nil
}

// Run looks at the file every second, and calls changed when other peers are denied, until ctx ends.
func (d *Denied) Run(ctx context.Context, changed func()) error {
	if d.path == "" {
		return nil
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if other, err := d.look(); err == nil && other {
			changed()
		}
	}
}

// look reads the file, and tells whether it says something else than before.
func (d *Denied) look() (other bool, err error) {
	var b []byte
	info, err := os.Stat(d.path)
	if err == nil {
		err = CheckWriters(info, os.Geteuid()) // who may write it could let anybody in again
	}
	if err == nil {
		b, err = readFile(d.path)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil && d.trouble == "" && d.identities != nil && bytes.Equal(b, d.read) {
		return false, nil
	}
	var identities, serials map[string]struct{}
	if err == nil {
		identities, serials, err = parseDenied(b, d.trustDomain)
	}
	if err != nil {
		err = fmt.Errorf("denied peers %s: %w", d.path, err)
		if err.Error() != d.trouble {
			d.trouble = err.Error()
			d.log.Error("the file of denied peers cannot be used; what was read before stays in force", "err", err)
		}
		return false, err
	}
	d.read, d.identities, d.serials, d.trouble = b, identities, serials, ""
	d.log.Info("file of denied peers read", "file", d.path, "identities", len(identities), "serials", len(serials))
	return true, nil
}

// Denies tells whether a certificate is denied, by an error that says by what.
func (d *Denied) Denies(c *x509.Certificate) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.serials[c.SerialNumber.String()]; ok {
		return fmt.Errorf("certificate with serial number %X of %q is denied", c.SerialNumber, c.Subject)
	}
	if len(d.identities) == 0 {
		return nil
	}
	names, err := uris(c)
	if err != nil {
		return fmt.Errorf("certificate %q: %w", c.Subject, err)
	}
	for _, name := range names {
		if _, ok := d.identities[name]; ok {
			return fmt.Errorf("identity %s is denied", name)
		}
	}
	return nil
}

// parseDenied reads the lines of a file of denied peers. One that is not understood fails the whole: who is meant by it
// would not be turned away.
func parseDenied(b []byte, trustDomain string) (identities, serials map[string]struct{}, err error) {
	identities, serials = map[string]struct{}{}, map[string]struct{}{}
	var errs []error
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, maxFile)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		text, ok := strings.CutPrefix(line, "serial=")
		if !ok {
			if _, err := Parse(line, trustDomain); err != nil {
				errs = append(errs, fmt.Errorf("line %d: %w; or serial=HEX", n, err))
			}
			identities[line] = struct{}{}
			continue
		}
		serial, ok := new(big.Int).SetString(strings.ReplaceAll(text, ":", ""), 16)
		if !ok || serial.Sign() < 0 || strings.ContainsAny(text, "+_") {
			errs = append(errs, fmt.Errorf("line %d: serial number %.80q: want it as openssl x509 -noout -serial prints it", n, text))
			continue
		}
		serials[serial.String()] = struct{}{}
	}
	if err := lines.Err(); err != nil {
		errs = append(errs, err)
	}
	return identities, serials, errors.Join(errs[:min(len(errs), 10)]...)
}
