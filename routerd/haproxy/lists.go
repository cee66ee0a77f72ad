package haproxy

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// MapSizes returns how many entries each map has, by its name. That costs the same however many they are.
func (r *Runtime) MapSizes(ctx context.Context) (map[string]int, error) {
	text, err := r.ask(ctx, Cmd("show", "map"))
	if err != nil {
		return nil, err
	}
	return parseMapSizes(text)
}

var mapSize = regexp.MustCompile(`(?m)^-?[0-9]+ \(([^()\n]+)\) .* entry_cnt=([0-9]{1,9})$`)

// parseMapSizes reads the answer of "show map" without a name.
func parseMapSizes(text string) (map[string]int, error) {
	sizes := map[string]int{}
	for _, m := range mapSize.FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			return nil, fmt.Errorf("show map: %w", err)
		}
		sizes[m[1]] = n
	}
	if len(sizes) == 0 {
		return nil, errors.New("show map: no map with its number of entries")
	}
	return sizes, nil
}

// CertificateFiles returns the names of the certificates that HAProxy has in memory, used or not; with ca those of
// the files of CA certificates. What is under way to be changed is named once.
func (r *Runtime) CertificateFiles(ctx context.Context, ca bool) ([]string, error) {
	kind := "cert"
	if ca {
		kind = "ca-file"
	}
	text, err := r.ask(ctx, Cmd("show", "ssl", kind))
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
