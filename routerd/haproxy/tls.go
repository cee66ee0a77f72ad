package haproxy

import "strings"

// NewCertificate makes an empty certificate; its content comes by SetCertificate and CommitCertificate.
func NewCertificate(file string) Op {
	return Op{Cmd("new", "ssl", "cert", file), saying("New empty certificate store")}
}

// DelCertificate forgets a certificate, which nothing may use. Its file is left as it is.
func DelCertificate(file string) Op {
	return Op{Cmd("del", "ssl", "cert", file), saying("deleted!")}
}

// NewCA makes an empty file of CA certificates; its content comes by SetCA and CommitCA.
func NewCA(file string) Op {
	return Op{Cmd("new", "ssl", "ca-file", file), saying("New CA file created")}
}

// DelCA forgets a file of CA certificates, which nothing in the configuration may use. Servers that were added with it
// do not count, and go on with what they have. The file itself is left as it is.
func DelCA(file string) Op {
	return Op{Cmd("del", "ssl", "ca-file", file), saying("deleted!")}
}

// SetCertificate begins to replace a certificate that HAProxy has: PEM, chain and key.
func SetCertificate(file, pem string) Op {
	return Op{Cmd("set", "ssl", "cert", file).With(compact(pem)).about(file),
		saying("Transaction created for", "Transaction updated for")}
}

// CommitCertificate puts what SetCertificate brought into use.
func CommitCertificate(file string) Op {
	return Op{Cmd("commit", "ssl", "cert", file).about(file), saying("Success!")}
}

// AbortCertificate forgets what SetCertificate brought, by whichever connection. HAProxy has one such transaction at a
// time.
func AbortCertificate(file string) Op {
	return Op{Cmd("abort", "ssl", "cert", file), saying("Transaction aborted")}
}

// SetCA begins to replace a file of CA certificates that HAProxy has. They go in as many commands as a buffer of so
// many bytes (tune.bufsize) wants; before HAProxy 3.0 in one, whether it fits or not.
func SetCA(file, pem string, v Version, buffer int) []Op {
	const end = "-----END CERTIFICATE-----\n"
	pem = compact(pem)
	var ops []Op
	for verb, room := "set", buffer-bufferKept-len(file)-maxCAWords; pem != ""; verb = "add" {
		n := len(pem)
		if i := strings.LastIndex(pem[:min(max(room, 0), n)], end); v.AtLeast(3, 0) && n > room && i >= 0 {
			n = i + len(end)
		} else if i := strings.Index(pem, end); v.AtLeast(3, 0) && n > room && i >= 0 {
			n = i + len(end) // one at least
		}
		ops = append(ops, Op{Cmd(verb, "ssl", "ca-file", file).With(pem[:n]).about(file),
			saying("ransaction created for", "ransaction updated for")})
		pem = pem[n:]
	}
	return ops
}

// maxCAWords is what a command of SetCA has beside the file's name and its payload.
const maxCAWords = len("set ssl ca-file  <<\n\n")

// CommitCA puts what SetCA brought into use, for servers that are added from then on. Those that are there
// go on with what they have (seen with 3.4.7): give other certificates another path, and other servers.
func CommitCA(file string) Op {
	return Op{Cmd("commit", "ssl", "ca-file", file).about(file), saying("Success!")}
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

// bufferKept is how much of a buffer is left alone. One byte is enough on 2.6.12, 3.0.11 and 3.4.7, whatever
// tune.maxrewrite says.
const bufferKept = 64

// Fits tells whether HAProxy takes the operation through a buffer of so many bytes (tune.bufsize), its payload
// included. What does not fit 2.6 answers by closing the connection, 3.0 by a refusal. 3.4 takes up to 128 kB and yet
// never answers at some lengths, which are around multiples of the buffer's: so this holds for every release.
func (o Op) Fits(buffer int) bool { return o.command.len() <= buffer-bufferKept }

// MostPEM is how many bytes of PEM go through a buffer of so many bytes, whatever its file is called.
func MostPEM(buffer int) int { return buffer - bufferKept - maxFileWords }

// maxFileWords is more than a command about a file has beside its payload: the longest names have 170 bytes.
const maxFileWords = 256

// Unfit returns the first of some operations that does not fit; false: all do.
func Unfit(buffer int, ops ...Op) (Op, bool) {
	for _, o := range ops {
		if !o.Fits(buffer) {
			return o, true
		}
	}
	return Op{}, false
}
