package haproxy

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Alert is one fault that HAProxy found in its configuration.
type Alert struct {
	File    string // as named in the configuration; empty: HAProxy named none
	Line    int    // in that file; zero: HAProxy named none
	Message string
}

var quotedFile = regexp.MustCompile(`(?:ca-file|file|loaded|Context) '([^']+)'`)

// Certificate returns the file of certificates that HAProxy cannot use, if that is the fault.
func (a Alert) Certificate() (file string, ok bool) {
	for _, says := range []string{"unable to load ", "inconsistencies between ", "Couldn't open the ca-file "} {
		if _, after, found := strings.Cut(a.Message, says); found {
			if m := quotedFile.FindStringSubmatch(says + after); m != nil {
				return m[1], true
			}
		}
	}
	return "", false
}

// CheckError says that HAProxy refuses its configuration.
type CheckError struct {
	Alerts []Alert
	Output string // all that HAProxy wrote
}

// Error names the first fault, which is the cause as a rule.
func (e *CheckError) Error() string {
	if len(e.Alerts) == 0 {
		return fmt.Sprintf("HAProxy refuses its configuration: %.500s", strings.TrimSpace(e.Output))
	}
	return fmt.Sprintf("HAProxy refuses its configuration: %.500s", e.Alerts[0].Message)
}

// Check lets HAProxy read its configuration without using it. When it refuses the error is a *CheckError. One elsewhere
// cannot be asked.
func (p *Process) Check(ctx context.Context) error { return p.CheckFile(ctx, ConfigFile) }

// CheckFile is Check for another configuration in HAProxy's directory.
func (p *Process) CheckFile(ctx context.Context, name string) error {
	if p.cfg.Elsewhere {
		return errElsewhere
	}
	cmd := exec.CommandContext(ctx, p.binary, "-c", "-f", name)
	cmd.Dir = p.cfg.Dir
	cmd.Env = []string{}
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("check HAProxy's configuration: %w", context.Cause(ctx))
	case errors.As(err, &exit) && exit.Exited():
		return &CheckError{Alerts: parseAlerts(string(out)), Output: string(out)}
	default:
		return fmt.Errorf("check HAProxy's configuration: %w", err)
	}
}

// Address tells whether HAProxy could not listen where it was told to, and found no other fault.
func (e *CheckError) Address() bool {
	address := false
	for _, a := range e.Alerts {
		switch {
		case strings.HasPrefix(a.Message, "Binding ["):
			address = true
		case !strings.Contains(a.Message, "protocols failed to start their listeners"):
			return false
		}
	}
	return address
}

var (
	place = regexp.MustCompile(`\[([^\[\]\s:]+):([0-9]{1,9})\]`)
	// said matches what only repeats that there were faults.
	said = regexp.MustCompile(`^(config : )?(Error\(s\) found in configuration file|Fatal errors found in configuration)`)
)

// parseAlerts finds the faults in what HAProxy wrote. A message may go on in lines without a head.
func parseAlerts(out string) []Alert {
	var alerts []Alert
	inside := false
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\r\n")
		m := own.FindStringSubmatch(line)
		switch {
		case len(m) > 1 && (m[1] == "ALERT" || m[1] == "EMERG"):
			if inside = !said.MatchString(m[3]); inside {
				alerts = append(alerts, Alert{Message: strings.TrimPrefix(m[3], "config : ")})
			}
		case m != nil:
			inside = false
		case inside && strings.TrimSpace(line) != "":
			alerts[len(alerts)-1].Message += " " + strings.TrimSpace(line)
		}
	}
	for i := range alerts {
		// Of several places the last is the closest: "parsing [haproxy.cfg:7] : file [crt-list.txt:1]".
		for _, m := range place.FindAllStringSubmatch(alerts[i].Message, -1) {
			alerts[i].File = m[1]
			alerts[i].Line, _ = strconv.Atoi(m[2]) // at most nine digits
		}
	}
	return alerts
}
