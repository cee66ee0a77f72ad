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

// AddServer adds a server, which is in maintenance at first. The arguments are words: the address, then
// keywords with their values.
func AddServer(backend, server string, arguments ...string) Op {
	return Op{Cmd(append([]string{"add", "server", backend + "/" + server}, arguments...)...), saying("New server registered")}
}

// DelServer deletes a server, which must be in maintenance and have no connections.
func DelServer(backend, server string) Op {
	return Op{Cmd("del", "server", backend+"/"+server), saying("Server deleted")}
}

// AwaitRemovable closes a server's idle connections and waits until it can be deleted, at most so many milliseconds.
// Everything else on this connection waits too, and all that is executed together may take 30 s.
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

// SetServerHealth says that a server answers. Where its health is checked that holds until the next check.
func SetServerHealth(backend, server string) Op {
	return Op{Cmd("set", "server", backend+"/"+server, "health", "up"), silent}
}

// SetServerTLS says whether new connections to a server are TLS, for which it must have been configured.
func SetServerTLS(backend, server string, on bool) Op {
	value := "off"
	if on {
		value = "on"
	}
	return Op{Cmd("set", "server", backend+"/"+server, "ssl", value), saying("server ssl setting updated")}
}

// EnableHealth starts the health check of a server that has one configured.
func EnableHealth(backend, server string) Op {
	return Op{Cmd("enable", "health", backend+"/"+server), silent}
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
	texts, err := r.askAll(ctx, commands)
	if err != nil {
		return nil, err
	}
	states := make([]map[string]ServerState, len(backends))
	for i, text := range texts {
		list, err := parseServersState(text)
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

// AdminState is why a server gets no traffic by somebody's decision.
type AdminState uint8

// The bits of an administrative state; HAProxy: "srv_admin_state".
const (
	ForcedMaint    AdminState = 0x01
	InheritedMaint AdminState = 0x02
	ConfigMaint    AdminState = 0x04
	ForcedDrain    AdminState = 0x08
	InheritedDrain AdminState = 0x10
)

// maint are the bits that a server has while it is in maintenance. That a configuration says "disabled"
// (ConfigMaint) is remembered, but does not count by itself.
const maint = ForcedMaint | InheritedMaint

// ServerState is a line of "show servers state".
type ServerState struct {
	Backend string
	Name    string
	Address netip.Addr // not valid: HAProxy has none
	Port    uint32
	Admin   AdminState
	Running bool // it gets traffic, as far as checks and decisions go
	Weight  int  // as it is now
	Checked bool // a health check is configured for it and runs
	TLS     bool // connections to it are TLS
}

// State returns the state that was decided.
func (s ServerState) State() State {
	switch {
	case s.Admin&maint != 0:
		return Maint
	case s.Admin&(ForcedDrain|InheritedDrain) != 0:
		return Drain
	default:
		return Ready
	}
}

// Values of srv_op_state of a server that gets traffic; HAProxy: SRV_ST_STARTING, SRV_ST_RUNNING.
const (
	opStarting = 1
	opRunning  = 2
)

// checkEnabled is the bit of srv_check_state that says that a check is enabled; HAProxy: CHK_ST_ENABLED.
const checkEnabled = 0x04

// parseServersState reads the answer of "show servers state".
func parseServersState(text string) ([]ServerState, error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 2 || strings.TrimSpace(lines[0]) != "1" || !strings.HasPrefix(lines[1], "# ") {
		return nil, fmt.Errorf("show servers state: %.200q", text)
	}
	column := map[string]int{}
	for i, name := range strings.Fields(lines[1][2:]) {
		column[name] = i
	}
	for _, want := range []string{"be_name", "srv_name", "srv_addr", "srv_op_state", "srv_admin_state", "srv_uweight", "srv_check_state", "srv_port", "srv_use_ssl"} {
		if _, ok := column[want]; !ok {
			return nil, fmt.Errorf("show servers state: there is no column %s", want)
		}
	}
	states := make([]ServerState, 0, len(lines)-2)
	for _, line := range lines[2:] {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) < len(column) {
			return nil, fmt.Errorf("show servers state: %d of %d columns in %.200q", len(f), len(column), line)
		}
		var nums [5]int32
		for i, name := range []string{"srv_op_state", "srv_admin_state", "srv_uweight", "srv_check_state", "srv_port"} {
			n, err := atoi32(f[column[name]])
			if err != nil || n < 0 {
				return nil, fmt.Errorf("show servers state: %s is %.40q", name, f[column[name]])
			}
			nums[i] = n
		}
		s := ServerState{
			Backend: f[column["be_name"]], Name: f[column["srv_name"]], Running: nums[0] == opStarting || nums[0] == opRunning, Admin: AdminState(nums[1]),
			Weight: int(nums[2]), Checked: nums[3]&checkEnabled != 0, Port: uint32(nums[4]), TLS: f[column["srv_use_ssl"]] == "1",
		}
		s.Address, _ = netip.ParseAddr(f[column["srv_addr"]]) // "-": it has none
		states = append(states, s)
	}
	return states, nil
}
