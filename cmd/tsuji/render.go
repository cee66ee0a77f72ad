package main

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tsuji-dev/tsuji/explain"
	"github.com/tsuji-dev/tsuji/identity/authority"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// renderOptions are the flags of tsuji render.
type renderOptions struct {
	ingressController  string
	http, https, stats []string
	haproxyVersion     string
	directory          string
	withKeys           bool
}

func renderCommand(w world) *cobra.Command {
	var o renderOptions
	cmd := &cobra.Command{
		Use:   "render FILES…",
		Short: "Show what HAProxy would be given for manifests",
		Long: `render compiles manifests as tsuji lint does, and prints the files that routerd would give to HAProxy:
haproxy.cfg, its maps and its list of certificates. What is refused or cannot be read is left out.

Certificates are only named, and private keys are never printed. With -o the files are written into a new
directory, 0600, certificates without their private keys; with --with-keys they are whole, and HAProxy can
check them: (cd DIR && haproxy -c -f haproxy.cfg).

The certificate for hosts that have none is made anew each time, as long as the manifests name none.`,
		Example: `  tsuji render examples/demo
  tsuji render -o /tmp/rendered --with-keys --haproxy-version=2.6 examples/demo`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.withKeys && o.directory == "" {
				return usagef("--with-keys: private keys are never printed; give a directory to write them to, with -o")
			}
			c, err := compileFiles(cmd.Context(), w, args, o.ingressController)
			if err != nil {
				return err
			}
			files, err := o.render(c.snapshot)
			if err != nil {
				return err
			}
			if text := c.leftOut(); text != "" {
				fmt.Fprintf(w.err, "tsuji: %s\n", text)
			}
			if o.directory == "" {
				return printFiles(w.out, files)
			}
			return o.write(files)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.ingressController, "ingress-controller", "default", "the IngressController whose routers it is for")
	f.StringSliceVar(&o.http, "http", []string{":80"}, "addresses for plain HTTP, [ADDRESS]:PORT or unix:PATH")
	f.StringSliceVar(&o.https, "https", []string{":443"}, "addresses for HTTPS")
	f.StringSliceVar(&o.stats, "stats", []string{":1936"}, "addresses for health and metrics")
	f.StringVar(&o.haproxyVersion, "haproxy-version", "3.4", "the release of HAProxy that it is for")
	f.StringVarP(&o.directory, "output-dir", "o", "", "write the files into this directory, which must be new")
	f.BoolVar(&o.withKeys, "with-keys", false, "with -o: write private keys, too")
	return cmd
}

var haproxyRelease = regexp.MustCompile(`^([0-9]{1,3})\.([0-9]{1,3})(\.[0-9]+)?$`)

// render returns the files, in the order of their paths.
func (o renderOptions) render(s snapshot.Snapshot) ([]render.File, error) {
	m := haproxyRelease.FindStringSubmatch(o.haproxyVersion)
	if m == nil {
		return nil, usagef("--haproxy-version=%s: want a release, as in 3.4", o.haproxyVersion)
	}
	var v render.Version
	v.Major, _ = strconv.Atoi(m[1]) // at most three digits
	v.Minor, _ = strconv.Atoi(m[2])
	pair, err := throwawayPair()
	if err != nil {
		return nil, err
	}
	r, err := render.New(render.Options{HTTP: o.http, HTTPS: o.https, Stats: o.stats, Version: v, DefaultCertificate: pair})
	if err != nil {
		return nil, usageError{err.Error()}
	}
	if _, err := r.Apply(snapshot.Diff(snapshot.Snapshot{}, s)); err != nil {
		return nil, err
	}
	files := r.Dirty()
	slices.SortFunc(files, func(a, b render.File) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

// throwawayPair makes a certificate with its key, as routerd does for hosts that have none.
func throwawayPair() ([]byte, error) {
	ca, err := authority.NewAuthority("Tsuji default certificate")
	if err != nil {
		return nil, fmt.Errorf("make a default certificate: %w", err)
	}
	cert, key, err := ca.Issue(authority.Options{DNSNames: []string{"localhost"}})
	if err != nil {
		return nil, fmt.Errorf("make a default certificate: %w", err)
	}
	return append(cert, key...), nil
}

// printFiles writes the files with a headline each. Those with certificates, and those in which there is
// nothing, are named only.
func printFiles(w io.Writer, files []render.File) error {
	var b bytes.Buffer
	var named []string
	for _, f := range files {
		switch {
		case strings.HasSuffix(f.Path, ".pem"):
			named = append(named, fmt.Sprintf("# %s: %s", f.Path, explain.Certificate(&tsujiv1.Certificate{ChainPem: f.Content})))
		case len(f.Content) == 0:
			named = append(named, fmt.Sprintf("# %s: empty", f.Path))
		default:
			fmt.Fprintf(&b, "# ==== %s\n%s\n", f.Path, printable(string(f.Content)))
		}
	}
	for _, line := range named {
		fmt.Fprintln(&b, printable(line))
	}
	_, err := w.Write(b.Bytes())
	return err
}

// write writes the files into a new directory.
func (o renderOptions) write(files []render.File) error {
	if err := os.Mkdir(o.directory, 0o700); err != nil {
		return fmt.Errorf("make a new directory for the files: %w", err)
	}
	made := []string{"run"} // where HAProxy's sockets would be
	for _, f := range files {
		made = append(made, filepath.Dir(f.Path))
	}
	var errs []error
	for _, d := range made {
		errs = append(errs, os.MkdirAll(filepath.Join(o.directory, d), 0o700))
	}
	for _, f := range files {
		content := f.Content
		if !o.withKeys && strings.HasSuffix(f.Path, ".pem") {
			content = withoutKeys(content)
		}
		errs = append(errs, os.WriteFile(filepath.Join(o.directory, f.Path), content, 0o600))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write the files: %w", err)
	}
	return nil
}

// withoutKeys returns the certificates of a PEM file, and nothing else of it.
func withoutKeys(content []byte) []byte {
	var out []byte
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
		}
	}
	return out
}
