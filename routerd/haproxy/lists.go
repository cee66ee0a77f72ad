package haproxy

import (
	"context"
	"strings"
)

// CertificateFiles returns the names of the certificates that HAProxy has in memory, used or not; with ca those of
// the files of CA certificates. What is under way to be changed is named once.
func (r *Runtime) CertificateFiles(ctx context.Context, ca bool) ([]string, error) {
	kind := "cert"
	if ca {
		kind = "ca-file"
	}
	text, err := r.ask(ctx, Cmd("show", "ssl", kind).asking()) // somebody may have given one an odd name by hand
	if err != nil {
		return nil, err
	}
	return parseCertificateFiles(text), nil
}

// parseCertificateFiles reads the answer of "show ssl cert" or "show ssl ca-file" without a name: comments, a name with
// "*" before it for what is under way, and "a.pem - 1 certificate(s)" for files of CA certificates.
func parseCertificateFiles(text string) []string {
	var files []string
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name != "" && !strings.HasPrefix(name, "#") && !strings.HasPrefix(name, "*") {
			files = append(files, name)
		}
	}
	return files
}
