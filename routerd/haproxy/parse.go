package haproxy

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// parseAnswer takes the severity off an answer: "[3]: No such server." It is only a hint: an unknown
// command has 6, and a successful "set server addr" has 4.
func parseAnswer(raw string) Answer {
	a := Answer{text: strings.Trim(raw, "\n"), severity: -1}
	if len(a.text) >= 4 && a.text[0] == '[' && a.text[1] >= '0' && a.text[1] <= '7' && a.text[2:4] == "]:" {
		a.severity = int(a.text[1] - '0')
		a.text = strings.TrimPrefix(a.text[4:], " ")
	}
	return a
}

// parseReload reads the answer of "reload" of HAProxy 2.7 or later.
func parseReload(out string) error {
	verdict, log, _ := strings.Cut(out, "\n")
	switch strings.TrimSpace(verdict) {
	case "Success=1":
		return nil
	case "Success=0":
		return &CheckError{Alerts: parseAlerts(log), Output: strings.TrimPrefix(log, "--\n")}
	default:
		return fmt.Errorf("the master does not say whether it succeeded (want Success=0 or 1): %.200q", out)
	}
}

var failedReloads = regexp.MustCompile(`\[failed: ([0-9]{1,9})\]`)

// parseProcesses reads the answer of "show proc". After a reload that failed the worker that serves is
// listed with the old ones; the youngest of those is it.
func parseProcesses(out string) (Processes, error) {
	var p Processes
	youngest := -1 // its number of reloads
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(line, "#") {
			continue
		}
		pid, err := strconv.Atoi(f[0])
		if err != nil || pid <= 0 {
			return Processes{}, fmt.Errorf("show proc: %.100q does not begin with a process", line)
		}
		reloads, err := strconv.Atoi(f[2])
		if err != nil {
			return Processes{}, fmt.Errorf("show proc: %.100q has no number of reloads", line)
		}
		switch f[1] {
		case "master":
			p.Master, p.Reloads = pid, reloads
			if m := failedReloads.FindStringSubmatch(line); m != nil {
				p.Failed, _ = strconv.Atoi(m[1]) // at most nine digits
			}
		case "worker":
			if youngest < 0 || reloads < youngest {
				if p.Worker != 0 {
					p.Old = append(p.Old, p.Worker)
				}
				p.Worker, youngest = pid, reloads
			} else {
				p.Old = append(p.Old, pid)
			}
		}
	}
	if p.Master == 0 {
		return Processes{}, fmt.Errorf("show proc: no master in %.200q", out)
	}
	return p, nil
}

// Info is what a worker says of itself.
type Info struct {
	PID      int
	Version  Version
	Uptime   time.Duration // in whole seconds
	Stopping bool          // it was replaced, and only finishes what it has
}

func parseInfo(text string) (Info, error) {
	var i Info
	var errs []error
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		value = strings.TrimSpace(value)
		var err error
		switch key {
		case "Pid":
			i.PID, err = strconv.Atoi(value)
		case "Version":
			i.Version, err = ParseVersion(value)
		case "Uptime_sec":
			var s int32
			s, err = atoi32(value)
			i.Uptime = time.Duration(s) * time.Second
		case "Stopping":
			i.Stopping = value != "0"
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}
	if i.PID <= 0 {
		errs = append(errs, errors.New("no pid"))
	}
	if len(errs) > 0 {
		return Info{}, fmt.Errorf("show info: %w", errors.Join(errs...))
	}
	return i, nil
}

func atoi32(s string) (int32, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	return int32(n), err
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
	for _, want := range []string{"be_name", "srv_name", "srv_addr", "srv_op_state", "srv_admin_state", "srv_uweight", "srv_check_state", "srv_port"} {
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
			Backend: f[column["be_name"]], Name: f[column["srv_name"]], Running: nums[0] != 0, Admin: AdminState(nums[1]),
			Weight: int(nums[2]), Checked: nums[3]&checkEnabled != 0, Port: uint32(nums[4]),
		}
		s.Address, _ = netip.ParseAddr(f[column["srv_addr"]]) // "-": it has none
		states = append(states, s)
	}
	return states, nil
}

// MapEntry is a line of a map.
type MapEntry struct{ Key, Value string }

// parseMap reads the answer of "show map": a reference, the key, and what follows.
func parseMap(text string) ([]MapEntry, error) {
	var entries []MapEntry
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			continue
		}
		ref, rest, ok := strings.Cut(line, " ")
		if !ok || !strings.HasPrefix(ref, "0x") {
			return nil, fmt.Errorf("show map: %.100q", line)
		}
		key, value, _ := strings.Cut(rest, " ")
		entries = append(entries, MapEntry{key, value})
	}
	return entries, nil
}

var mapValue = regexp.MustCompile(`(?s), found=(yes|no)(?:, idx=[a-z]+, key=".*?", value="(.*)", type="[a-z0-9]*"$|$)`)

// parseGetMap reads the answer of "get map".
func parseGetMap(text string) (value string, found bool, err error) {
	m := mapValue.FindStringSubmatch(strings.TrimRight(text, "\n"))
	if m == nil {
		return "", false, fmt.Errorf("get map: %.200q", text)
	}
	return m[2], m[1] == "yes", nil
}

// CertificateInfo identifies a certificate as HAProxy has it in memory.
type CertificateInfo struct {
	Serial string // hexadecimal, upper case
	SHA1   string // of the leaf's DER, hexadecimal, upper case
	Used   bool
}

// parseCertificates reads the answer of "show ssl cert X" or "show ssl ca-file X".
func parseCertificates(text string) ([]CertificateInfo, error) {
	var certs []CertificateInfo
	used := false
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Status":
			used = value == "Used"
		case "Serial":
			certs = append(certs, CertificateInfo{Serial: value})
		case "SHA1 FingerPrint":
			if len(certs) == 0 {
				return nil, errors.New("show ssl: a fingerprint without a serial number")
			}
			if _, err := hex.DecodeString(value); err != nil {
				return nil, fmt.Errorf("show ssl: fingerprint %.100q: %w", value, err)
			}
			certs[len(certs)-1].SHA1 = value
		}
	}
	for i := range certs {
		certs[i].Used = used
	}
	return certs, nil
}
