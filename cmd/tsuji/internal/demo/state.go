package demo

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tsuji-dev/tsuji/identity"
	"github.com/tsuji-dev/tsuji/identity/authority"
)

// operatorName is who the other commands are to the demo's control plane.
const operatorName = "demo"

// What is in the state directory, beside a log for each child. It is made again at each start.
const (
	lockName = "lock" // held while a demo runs; also tells that the directory is a demo's
	tlsName  = "tls"  // certificates and keys
	envName  = "env"  // variables for the other commands
)

// stateDir is the demo's own directory, locked.
type stateDir struct {
	path string
	lock *os.File
}

// openState makes the directory, or takes over one that an earlier demo left, and empties it.
func openState(path string) (*stateDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make --state-dir: %w", err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("read --state-dir: %w", err)
	}
	if _, err := os.Stat(filepath.Join(path, lockName)); errors.Is(err, os.ErrNotExist) && len(entries) > 0 {
		return nil, usagef("--state-dir=%s holds what is not a demo's: name an empty directory, or one that does not exist", path)
	}
	if err := os.Chmod(path, 0o700); err != nil { //nolint:gosec // a directory: 0700 is for its owner only
		return nil, fmt.Errorf("close --state-dir to others: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock --state-dir: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("another demo runs in --state-dir=%s: end it, or name another directory", path)
	}
	s := &stateDir{path: path, lock: lock}
	for _, e := range entries {
		if e.Name() == lockName {
			continue
		}
		if err := os.RemoveAll(filepath.Join(path, e.Name())); err != nil {
			s.close()
			return nil, fmt.Errorf("empty --state-dir: %w", err)
		}
	}
	return s, nil
}

// close removes what is of no use without the demo, keys above all, and unlocks. Logs stay.
func (s *stateDir) close() {
	os.Remove(filepath.Join(s.path, envName))
	os.RemoveAll(filepath.Join(s.path, tlsName))
	s.lock.Close()
}

// credentialsOf are the identities and certificates of everybody in the demo.
type credentialsOf struct {
	ca           []byte
	controlPlane identity.Files
	routers      map[string]identity.Files // by zone
	operator     identity.Files
	edge         pair            // for a Route, in a Secret
	reencrypt    pair            // for a Route, in a Secret
	backend      map[string]pair // by the name that a client asks for; "" for all others
}

// pair is a certificate with its key, PEM.
type pair struct{ cert, key []byte }

// The hosts of examples/demo that answer with a certificate.
const (
	edgeHost        = "edge.demo.example"
	reencryptHost   = "reencrypt.demo.example"
	passthroughHost = "passthrough.demo.example"
	helloHost       = "hello.demo.example"
)

// issue makes an authority and everybody's certificates. Those of Tsuji's own programs go into files.
func issue(stateDir string) (credentialsOf, error) {
	ca, err := authority.NewAuthority("Tsuji demo CA")
	if err != nil {
		return credentialsOf{}, err
	}
	c, err := issueHosts(ca)
	if err != nil {
		return c, err
	}
	c.routers = map[string]identity.Files{}
	dir := filepath.Join(stateDir, tlsName)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return c, fmt.Errorf("make a directory for certificates: %w", err)
	}
	var errs []error
	file := func(name string, id identity.ID, o authority.Options) identity.Files {
		id.TrustDomain = TrustDomain
		o.URI = id.String()
		f, err := ca.WriteFiles(dir, name, o)
		errs = append(errs, err)
		return f
	}
	// grpcurl verifies the address, too; Tsuji's own programs verify the identity.
	c.controlPlane = file("controlplane", identity.ID{Role: identity.RoleControlPlane, Name: "demo"},
		authority.Options{DNSNames: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}})
	for _, z := range portsAt(0).zones {
		c.routers[z.name] = file(z.name, identity.ID{
			Role: identity.RoleRouter, IngressController: "default", Zone: z.name, Name: routerName(z.name),
		}, authority.Options{})
	}
	c.operator = file("operator", identity.ID{Role: identity.RoleOperator, Name: operatorName}, authority.Options{})
	return c, errors.Join(errs...)
}

// issueHosts makes the certificates that Routes and backends answer with.
func issueHosts(ca *authority.Authority) (credentialsOf, error) {
	var errs []error
	host := func(names ...string) pair {
		cert, key, err := ca.Issue(authority.Options{DNSNames: names})
		errs = append(errs, err)
		return pair{cert, key}
	}
	c := credentialsOf{
		ca: ca.CertPEM(), edge: host(edgeHost), reencrypt: host(reencryptHost),
		backend: map[string]pair{
			passthroughHost: host(passthroughHost),
			"":              host("secure.demo.svc", "secure.demo.svc.cluster.local"),
		},
	}
	return c, errors.Join(errs...)
}

func routerName(zone string) string { return zone + "-1" }

// writeEnv writes what the other commands need to reach the demo, for them and for a shell.
func writeEnv(stateDir, server string, operator identity.Files) error {
	var b bytes.Buffer
	b.WriteString("# Of the tsuji demo that runs. For a shell: source this file.\n")
	for _, v := range [][2]string{
		{"TSUJI_SERVER", server},
		{"TSUJI_TLS_CERT", operator.Cert}, {"TSUJI_TLS_KEY", operator.Key}, {"TSUJI_CA", operator.CA},
	} {
		value := v[1]
		if v[0] != "TSUJI_SERVER" { // the shell may be anywhere
			abs, err := filepath.Abs(value)
			if err != nil {
				return fmt.Errorf("write %s: %w", envName, err)
			}
			value = abs
		}
		fmt.Fprintf(&b, "export %s=%s\n", v[0], quote(value))
	}
	if err := os.WriteFile(filepath.Join(stateDir, envName), b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("tell the other commands of the demo: %w", err)
	}
	return nil
}

// Env returns the variables that tell how to reach the demo whose state directory it is; none if no demo runs.
func Env(stateDir string) (map[string]string, error) {
	content, err := os.ReadFile(filepath.Join(stateDir, envName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find the demo that runs in this directory: %w", err)
	}
	env := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		name, value, ok := strings.Cut(strings.TrimPrefix(lines.Text(), "export "), "=")
		switch name {
		// Nothing else may come from a file that lies about.
		case "TSUJI_SERVER", "TSUJI_TLS_CERT", "TSUJI_TLS_KEY", "TSUJI_CA":
			if ok {
				env[name] = unquote(value)
			}
		}
	}
	return env, nil
}

// quote writes a word so that a shell reads it as it is.
func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=,@%+", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func unquote(s string) string {
	if len(s) >= 2 && s[0] == '\'' && s[len(s)-1] == '\'' {
		return strings.ReplaceAll(s[1:len(s)-1], `'\''`, "'")
	}
	return s
}
