package haproxy

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// Version is a version of HAProxy.
type Version struct {
	Major, Minor, Patch int
	Text                string // as HAProxy prints it: "3.4.7-1"

	// TLS is the TLS library, as it calls itself: "OpenSSL 3.5.4 30 Sep 2025". Only the program tells; of a
	// worker's version it is empty.
	TLS string
}

// String returns the version as HAProxy prints it.
func (v Version) String() string { return v.Text }

// AtLeast tells whether this is major.minor or newer.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// OldTLS tells whether the TLS library is not known to have hybrid groups, as X25519MLKEM768: OpenSSL has them
// since 3.5. HAProxy refuses a configuration that names a group which its library does not know.
func (v Version) OldTLS() bool {
	m := openSSL.FindStringSubmatch(v.TLS)
	if m == nil {
		return true
	}
	major, _ := strconv.Atoi(m[1]) // at most three digits
	minor, _ := strconv.Atoi(m[2])
	return major < 3 || major == 3 && minor < 5
}

// Capabilities is what can be done without a reload. It is told from the version, because HAProxy's own
// list of commands does not say which of them can be trusted.
type Capabilities struct {
	DynamicServers  bool // "add server" with cookies and weights; 2.6 has a command of that name that loses traffic
	DelServerWait   bool // "del server" wants "wait srv-removable" before
	DynamicBackends bool // "add backend"
}

// Capabilities tells what this version can do.
func (v Version) Capabilities() Capabilities {
	return Capabilities{
		DynamicServers:  v.AtLeast(3, 0),
		DelServerWait:   v.AtLeast(3, 3),
		DynamicBackends: v.AtLeast(3, 4),
	}
}

var (
	versionNumber = regexp.MustCompile(`^([0-9]{1,4})\.([0-9]{1,4})(?:[.-].*)?$`)
	versionPatch  = regexp.MustCompile(`^[0-9]+\.[0-9]+\.([0-9]{1,6})`)
	versionLine   = regexp.MustCompile(`(?m)^HA-?Proxy version (\S+)`)
	tlsLine       = regexp.MustCompile(`(?m)^Running on (?:OpenSSL|SSL library) version : (.+)$`)
	openSSL       = regexp.MustCompile(`^OpenSSL ([0-9]{1,3})\.([0-9]{1,3})\.`)
)

// ParseVersion reads "3.4.7-1", "2.9-dev3" and the like.
func ParseVersion(s string) (Version, error) {
	m := versionNumber.FindStringSubmatch(s)
	if m == nil {
		return Version{}, fmt.Errorf("%.80q is not a version of HAProxy", s)
	}
	v := Version{Text: s}
	v.Major, _ = strconv.Atoi(m[1]) // at most four digits
	v.Minor, _ = strconv.Atoi(m[2])
	if m := versionPatch.FindStringSubmatch(s); m != nil {
		v.Patch, _ = strconv.Atoi(m[1])
	}
	return v, nil
}

// versionTimeout is more than any program takes that is HAProxy.
const versionTimeout = time.Minute

// Version asks the program for its version, and its TLS library's.
func (p *Process) Version(ctx context.Context) (Version, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.binary, "-vv")
	cmd.Env = []string{}
	cmd.WaitDelay = time.Second // who has its output may live on
	out, err := cmd.Output()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return Version{}, fmt.Errorf("ask %s for its version: %w", p.binary, err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return Version{}, fmt.Errorf("%s does not answer -vv as HAProxy does: %.200q", p.binary, out)
	}
	v, err := ParseVersion(string(m[1]))
	if m := tlsLine.FindSubmatch(out); m != nil {
		v.TLS = string(m[1])
	}
	return v, err
}
