package render

import (
	"fmt"
	"io/fs"
	"strings"
)

// A HAProxy that somebody else runs has a user of its own, and no program here that could be asked what its machine is
// like. What it begins with says that of it, and what follows repeats it: as the description that "show info" tells.

// Machine is what HAProxy's machine is like.
type Machine struct {
	Descriptors int  // file descriptors that HAProxy may have open; 0: it is not known
	OldTLS      bool // see Options
}

const (
	describedFirst  = "tsuji-first" // by what it begins with
	describedHybrid = "-hybrid"     // and its TLS library knows hybrid groups
	describedFiles  = "tsuji-files-"
)

// First returns what a HAProxy elsewhere begins with while there is nothing that it could serve: it can be talked to,
// binds no address, and says what its machine is like.
func First() []byte {
	return []byte("# Written by routerd, for HAProxy to begin with: it serves nothing, and waits to be reloaded.\nglobal\n" +
		".if openssl_version_atleast(3.5.0)\n  description " + describedFirst + describedHybrid + "\n" +
		".else\n  description " + describedFirst + "\n.endif\n" +
		Options{Elsewhere: true}.adminSocket() + fmt.Sprintf("  tune.bufsize %d\n", defaultBufferSize))
}

// adminSocket returns the lines of the runtime API's socket. One elsewhere belongs to HAProxy's user, and routerd is in
// its group.
func (o Options) adminSocket() string {
	mode := "600"
	if o.Elsewhere {
		mode = "660"
	}
	return "  stats socket unix@run/admin.sock mode " + mode + " level admin expose-fd listeners\n  stats timeout 1h\n"
}

// description returns what HAProxy is to say of its machine when it is asked again.
func (o Options) description() string {
	d := fmt.Sprintf("%s%d", describedFiles, o.FileDescriptors)
	if !o.OldTLS {
		d += describedHybrid
	}
	return d
}

// MachineOf reads what a worker says of itself: the description, and the number of its file descriptors, which is that
// of its machine where no configuration has lowered it. Nobody's life depends on it being true: HAProxy alone says it.
func MachineOf(description string, descriptors int) Machine {
	what, hybrid := strings.CutSuffix(description, describedHybrid)
	m := Machine{Descriptors: descriptors, OldTLS: !hybrid}
	if what != describedFirst {
		n := 0
		if _, err := fmt.Sscanf(what, describedFiles+"%d", &n); err == nil && n > 0 {
			m.Descriptors = n
		}
	}
	return m
}

// fileMode is the mode of the files: they are for HAProxy's user alone, or for its group where that is another user than
// routerd's.
func (o Options) fileMode() fs.FileMode {
	if o.Elsewhere {
		return 0o640
	}
	return 0o600
}

// metricsSocket is where routerd listens, for the backend of the metrics. Elsewhere that is out of the reach of
// HAProxy's user, but for connecting.
func (o Options) metricsSocket() string {
	switch {
	case o.Jail:
		return "unix@/metrics.sock"
	case o.Elsewhere:
		return "unix@metrics.sock"
	}
	return "unix@run/metrics.sock"
}
