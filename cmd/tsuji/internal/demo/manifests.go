package demo

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/tsuji-dev/tsuji/identity/authority"
)

// GeneratedName is the name of the manifest that the demo writes beside those of its source.
const GeneratedName = "generated.yaml"

// generatedMark begins that file, so that a user's own of the same name is never written over.
const generatedMark = "# Made by `tsuji demo`"

const generatedHead = generatedMark + ` at each start, and removed at its end: the certificates in it are of the demo's
# own authority, and what holds them cannot be written beforehand. Edits last until the next start.
`

// manifests completes the source with what only the demo knows, and returns the directory to serve from:
// the source itself, or with other ports a copy of it in the state directory.
func (d *demo) manifests(c credentialsOf) (string, error) {
	source := d.Source
	if d.PortOffset != 0 {
		source = filepath.Join(d.StateDir, "manifests")
		if err := copyManifests(d.Source, source, d.PortOffset); err != nil {
			return "", fmt.Errorf("copy %s with other ports: %w", d.Source, err)
		}
	}
	content, err := generated(c)
	if err != nil {
		return "", err
	}
	if err := writeGenerated(filepath.Join(source, GeneratedName), content); err != nil {
		return "", err
	}
	return source, nil
}

// Manifests writes to a directory, which it makes, what a demo of this source serves. No demo runs for it.
func Manifests(source, target string, ca *authority.Authority) error {
	c, err := issueHosts(ca)
	if err != nil {
		return err
	}
	if err := copyManifests(source, target, 0); err != nil {
		return fmt.Errorf("copy %s: %w", source, err)
	}
	content, err := generated(c)
	if err != nil {
		return err
	}
	return writeGenerated(filepath.Join(target, GeneratedName), content)
}

// generated returns the manifest with what depends on certificates: the Secrets, and the one Route that
// holds a certificate authority's.
func generated(c credentialsOf) ([]byte, error) {
	type object = map[string]any
	secret := func(name string, p pair) object {
		return object{
			"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
			"metadata":   object{"name": name, "namespace": "demo"},
			"stringData": object{"tls.crt": string(p.cert), "tls.key": string(p.key)},
		}
	}
	reencrypt := object{
		"apiVersion": "route.openshift.io/v1", "kind": "Route",
		"metadata": object{"name": "reencrypt", "namespace": "demo", "creationTimestamp": "2026-01-05T09:00:03Z"},
		"spec": object{
			"host": reencryptHost,
			"to":   object{"kind": "Service", "name": "hello-a", "weight": 100},
			"port": object{"targetPort": "https"},
			"tls": object{
				"termination":                   "reencrypt",
				"insecureEdgeTerminationPolicy": "Allow",
				"externalCertificate":           object{"name": "reencrypt-tls"},
				"destinationCACertificate":      string(c.ca),
			},
			"wildcardPolicy": "None",
		},
	}
	var b bytes.Buffer
	b.WriteString(generatedHead)
	for _, part := range []struct {
		comment string
		object  object
	}{
		{"The certificate of " + edgeHost + ", which edge.yaml refers to.", secret("edge-tls", c.edge)},
		{"The certificate of " + reencryptHost + ", which the Route below refers to.", secret("reencrypt-tls", c.reencrypt)},
		{"TLS ends at the router, and TLS begins again there: the backend's certificate must be of the authority below.", reencrypt},
	} {
		text, err := yaml.Marshal(part.object)
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", GeneratedName, err)
		}
		fmt.Fprintf(&b, "---\n# %s\n%s", part.comment, text)
	}
	return b.Bytes(), nil
}

// writeGenerated puts the file, 0600, in its place at once: who watches the directory never sees half of it.
func writeGenerated(path string, content []byte) error {
	switch old, err := os.ReadFile(path); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return fmt.Errorf("write %s: %w", path, err)
	case !bytes.HasPrefix(old, []byte(generatedMark)):
		return fmt.Errorf("%s was not made by tsuji demo, and it would write there: rename yours", path)
	}
	t, err := os.CreateTemp(filepath.Dir(path), ".generated-*") // 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(t.Name())
	_, err = t.Write(content)
	if err = errors.Join(err, t.Close()); err == nil {
		err = os.Rename(t.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// backendPort matches the ports of the demo's backends, as they stand in the manifests.
var backendPort = regexp.MustCompile(`\b148[01][12]\b`)

// copyManifests copies what the control plane would read, with the backends' ports moved.
func copyManifests(from, to string, offset int) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case path != from && strings.HasPrefix(e.Name(), "."): // hidden
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case e.IsDir():
			return os.Mkdir(target, 0o700)
		case rel == GeneratedName || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)):
			return nil // of another demo, or no manifest
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		moved := backendPort.ReplaceAllFunc(content, func(b []byte) []byte {
			n, _ := strconv.Atoi(string(b)) // five digits, the pattern says
			return strconv.AppendInt(nil, int64(n+offset), 10)
		})
		return os.WriteFile(target, moved, 0o600)
	})
}
