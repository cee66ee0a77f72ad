package manifests

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

// FuzzReadFile: whatever stands in a file, nothing panics, other files' objects stay, what the file held
// stays or is replaced, and faults are lines of it.
func FuzzReadFile(f *testing.F) {
	for _, s := range []string{
		"", "kind: [", "---\n...\n--- \n%YAML 1.2\n", "a: &a [*a]", "{}", "{\"kind\":\"List\",\"apiVersion\":\"v1\",\"items\":[{}]}", "\xef\xbb\xbf{",
		"apiVersion: v1\nkind: List\nitems:\n- \n  - a\n-\n", manifest("a", "1") + "---\n" + manifest("other", "2"), "? {a: b}\n: c\n",
		"apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n  spec: {ports: [{port: x}]}\n",
		"kind: RouteList\napiVersion: route.openshift.io/v1\nitems:\n- metadata: {name: b}\n  spec: {to: {weight: 1.5}}\n",
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, content []byte, isJSON bool) {
		dir := t.TempDir()
		name := "m.yaml"
		if isJSON {
			name = "m.json"
		}
		write(t, filepath.Join(dir, "a.yaml"), manifest("first", "1"))
		write(t, filepath.Join(dir, name), manifest("was", "1"))
		if isJSON {
			write(t, filepath.Join(dir, name), `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"was"}}`)
		}
		d := newDir(t, DirConfig{Path: dir})
		d.read(t.Context(), func(string) {})
		d.Take()
		write(t, filepath.Join(dir, name), string(content))
		d.read(t.Context(), func(string) {})
		b, synced := d.Take()
		if !synced {
			t.Fatal("not synced")
		}
		if o := d.current[cluster.Key{Kind: cluster.ConfigMap, Namespace: "default", Name: "first"}]; o == nil || o.GetLabels()["v"] != "1" {
			t.Fatal("another file's object changed")
		}
		lines := strings.Count(string(content), "\n") + 1
		for _, fault := range b.Faults {
			if fault.Message == "" || fault.Remedy == "" || fault.Line < 0 || fault.Line > lines {
				t.Fatalf("%d lines, fault %+v", lines, fault)
			}
		}
		again := newDir(t, DirConfig{Path: dir})
		again.read(t.Context(), func(string) {})
		for key := range again.current {
			if d.current[key] == nil {
				t.Fatalf("%s is read by a fresh source only", key)
			}
		}
	})
}
