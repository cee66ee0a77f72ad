package haproxy

import (
	"errors"
	"fmt"

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

	Descriptors int    // file descriptors that its configuration takes; as many as there are if that gives no number of connections
	Description string // as the configuration has it
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
		case "Ulimit-n":
			i.Descriptors, err = strconv.Atoi(value)
		case "description":
			i.Description = value
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
