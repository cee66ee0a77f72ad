package haproxy

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// State is the state of a server that somebody decided.
type State string

// The states of servers.
const (
	Ready State = "ready"
	Drain State = "drain" // nothing but what belongs to its sessions
	Maint State = "maint" // nothing new at all
)

// Op is a command together with what HAProxy says when it has succeeded. Ops go together through Do.
type Op struct {
	command Command
	ok      func(Answer) bool
}

// String returns the command without its payload.
func (o Op) String() string { return o.command.String() }

// silent is how commands succeed that have nothing to say.
func silent(a Answer) bool { return a.text == "" }

// saying returns what is true of answers that hold one of the texts.
func saying(texts ...string) func(Answer) bool {
	return func(a Answer) bool {
		if a.severity >= 0 && a.severity <= 3 {
			return false
		}
		for _, t := range texts {
			if strings.Contains(a.text, t) {
				return true
			}
		}
		return false
	}
}

// AddServer adds a server, which is in maintenance at first. The arguments are words: the address, then
// keywords with their values.
func AddServer(backend, server string, arguments ...string) Op {
	return Op{Cmd(append([]string{"add", "server", backend + "/" + server}, arguments...)...), saying("New server registered")}
}

// DelServer deletes a server, which must be in maintenance and have no connections.
func DelServer(backend, server string) Op {
	return Op{Cmd("del", "server", backend+"/"+server), saying("Server deleted")}
}

// AwaitRemovable waits until a server can be deleted, at most so many milliseconds. Everything else on
// this connection waits too.
func AwaitRemovable(backend, server string, milliseconds int) Op {
	return Op{Cmd("wait", strconv.Itoa(milliseconds)+"ms", "srv-removable", backend+"/"+server), saying("Done.")}
}

// SetServerWeight sets a server's weight, 0 to 256.
func SetServerWeight(backend, server string, weight int) Op {
	return Op{Cmd("set", "server", backend+"/"+server, "weight", strconv.Itoa(weight)), silent}
}

// SetServerState sets a server's administrative state.
func SetServerState(backend, server string, state State) Op {
	return Op{Cmd("set", "server", backend+"/"+server, "state", string(state)), silent}
}

// SetServerAddr moves a server. Connections that it has are not moved. HAProxy only queues the move: what it
// reports of the server is the old address for a moment.
func SetServerAddr(backend, server string, addr netip.AddrPort) Op {
	return Op{
		Cmd("set", "server", backend+"/"+server, "addr", addr.Addr().String(), "port", strconv.Itoa(int(addr.Port()))),
		saying(" changed from ", "nothing changed", "no need to change"),
	}
}

// EnableHealth starts the health check of a server that has one configured.
func EnableHealth(backend, server string) Op {
	return Op{Cmd("enable", "health", backend+"/"+server), silent}
}

// SetMap changes an entry of a map that is there. The value may not be empty.
func SetMap(file, key, value string) Op {
	return Op{Cmd("set", "map", file, key, value), silent}
}

// SetCertificate begins to replace a certificate that the configuration uses: PEM, chain and key.
func SetCertificate(file, pem string) Op {
	return Op{Cmd("set", "ssl", "cert", file).With(compact(pem)), saying("Transaction created for", "Transaction updated for")}
}

// CommitCertificate puts what SetCertificate brought into use.
func CommitCertificate(file string) Op {
	return Op{Cmd("commit", "ssl", "cert", file), saying("Success!")}
}

// SetCA begins to replace a file of CA certificates that the configuration uses.
func SetCA(file, pem string) Op {
	return Op{Cmd("set", "ssl", "ca-file", file).With(compact(pem)), saying("ransaction created for", "ransaction updated for")}
}

// CommitCA puts what SetCA brought into use, for servers that are added from then on. Those that are there
// go on with what they have (seen with 3.4.7): a reload is needed for them.
func CommitCA(file string) Op {
	return Op{Cmd("commit", "ssl", "ca-file", file), saying("Success!")}
}

// compact takes empty lines out of PEM, because one would end the payload.
func compact(pem string) string {
	var b strings.Builder
	for line := range strings.Lines(pem) {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString(line)
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// Do executes operations in order. The error is a *RefusedError for the first that HAProxy refused; those
// after it were executed all the same.
func (r *Runtime) Do(ctx context.Context, ops ...Op) error {
	commands := make([]Command, len(ops))
	for i, o := range ops {
		commands[i] = o.command
	}
	answers, err := r.Exec(ctx, commands...)
	if err != nil {
		return err
	}
	for i, a := range answers {
		if !ops[i].ok(a) {
			return &RefusedError{Command: ops[i].String(), Answer: a.text}
		}
	}
	return nil
}

// ask executes one command whose answer is data.
func (r *Runtime) ask(ctx context.Context, c Command) (string, error) {
	answers, err := r.Exec(ctx, c)
	if err != nil {
		return "", err
	}
	if a := answers[0]; a.severity >= 0 {
		return "", &RefusedError{Command: c.String(), Answer: a.text}
	}
	return answers[0].text, nil
}

// Info asks the worker about itself.
func (r *Runtime) Info(ctx context.Context) (Info, error) {
	text, err := r.ask(ctx, Cmd("show", "info"))
	if err != nil {
		return Info{}, err
	}
	return parseInfo(text)
}

// ServersState returns the servers of every backend.
func (r *Runtime) ServersState(ctx context.Context) ([]ServerState, error) {
	text, err := r.ask(ctx, Cmd("show", "servers", "state"))
	if err != nil {
		return nil, err
	}
	return parseServersState(text)
}

// BackendsState returns the servers, by name, of some backends, in the order of the backends.
func (r *Runtime) BackendsState(ctx context.Context, backends ...string) ([]map[string]ServerState, error) {
	commands := make([]Command, len(backends))
	for i, b := range backends {
		commands[i] = Cmd("show", "servers", "state", b)
	}
	answers, err := r.Exec(ctx, commands...)
	if err != nil {
		return nil, err
	}
	states := make([]map[string]ServerState, len(backends))
	for i, a := range answers {
		if a.severity >= 0 {
			return nil, &RefusedError{Command: commands[i].String(), Answer: a.text}
		}
		list, err := parseServersState(a.text)
		if err != nil {
			return nil, fmt.Errorf("backend %s: %w", backends[i], err)
		}
		states[i] = make(map[string]ServerState, len(list))
		for _, s := range list {
			states[i][s.Name] = s
		}
	}
	return states, nil
}

// ShowMap returns the entries of a map.
func (r *Runtime) ShowMap(ctx context.Context, file string) ([]MapEntry, error) {
	text, err := r.ask(ctx, Cmd("show", "map", file))
	if err != nil {
		return nil, err
	}
	return parseMap(text)
}

// GetMap looks a key up as the map would for a request.
func (r *Runtime) GetMap(ctx context.Context, file, key string) (value string, found bool, err error) {
	text, err := r.ask(ctx, Cmd("get", "map", file, key))
	if err != nil {
		return "", false, err
	}
	return parseGetMap(text)
}

// Certificate returns what HAProxy holds in memory under the name of a certificate's file.
func (r *Runtime) Certificate(ctx context.Context, file string) (CertificateInfo, error) {
	text, err := r.ask(ctx, Cmd("show", "ssl", "cert", file))
	if err != nil {
		return CertificateInfo{}, err
	}
	certs, err := parseCertificates(text)
	if err != nil {
		return CertificateInfo{}, err
	}
	if len(certs) != 1 {
		return CertificateInfo{}, fmt.Errorf("show ssl cert %s: %d certificates", file, len(certs))
	}
	return certs[0], nil
}

// CA returns what HAProxy holds in memory under the name of a file of CA certificates.
func (r *Runtime) CA(ctx context.Context, file string) ([]CertificateInfo, error) {
	text, err := r.ask(ctx, Cmd("show", "ssl", "ca-file", file))
	if err != nil {
		return nil, err
	}
	return parseCertificates(text)
}

// AbortCertificate gives up what SetCertificate began. That there was nothing is no error.
func (r *Runtime) AbortCertificate(ctx context.Context, file string) error {
	_, err := r.Exec(ctx, Cmd("abort", "ssl", "cert", file))
	return err
}

// AbortCA gives up what SetCA began. That there was nothing is no error.
func (r *Runtime) AbortCA(ctx context.Context, file string) error {
	_, err := r.Exec(ctx, Cmd("abort", "ssl", "ca-file", file))
	return err
}
