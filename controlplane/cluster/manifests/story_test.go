package manifests

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
)

var update = flag.Bool("update", false, "write what the stories say into testdata")

// Every story in testdata: files are written, removed and renamed, the directory is read, and what Take
// then returns is written down. Sections named "write FILE" write it; "run" holds lines of "remove FILE",
// "rename FILE FILE", "link FILE TARGET", "mkdir DIR", "fifo FILE"; "batch" is what is taken.
func TestStories(t *testing.T) {
	stories, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(stories) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, path := range stories {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			story, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			var logged bytes.Buffer
			clock := time.UnixMilli(0)
			d := newDir(t, DirConfig{Path: dir, Log: slog.New(slog.NewTextHandler(&logged, nil)), Now: func() time.Time { return clock }})
			for i, section := range story.Files {
				name, _ := strings.CutPrefix(section.Name, "write ")
				switch section.Name {
				case "run":
					script(t, dir, string(section.Data))
				case "batch":
					clock = clock.Add(time.Second)
					d.read(t.Context(), func(string) {})
					got := strings.ReplaceAll(transcript(d), dir, "DIR")
					if *update {
						story.Files[i].Data = []byte(got)
					} else if diff := cmp.Diff(string(section.Data), got); diff != "" {
						t.Errorf("batch in section %d (-want +got):\n%s", i+1, diff)
					}
				default:
					file := filepath.Join(dir, name)
					must(t, os.MkdirAll(filepath.Dir(file), 0o755))
					must(t, os.WriteFile(file, section.Data, 0o644))
				}
			}
			if *update {
				must(t, os.WriteFile(path, txtar.Format(story), 0o644))
			}
			for _, secret := range []string{"hunter2", "aHVudGVyMg"} { // the one secret of all stories
				for i, section := range story.Files {
					for line := range strings.Lines(string(section.Data)) {
						if section.Name == "batch" && strings.HasPrefix(line, "!") && strings.Contains(line, secret) {
							t.Errorf("section %d tells a secret", i+1)
						}
					}
				}
				if strings.Contains(logged.String(), secret) {
					t.Errorf("the log tells a secret:\n%s", &logged)
				}
			}
		})
	}
}

// script does what a person or a volume would do to files.
func script(t *testing.T, dir, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		path := filepath.Join(dir, words[1])
		switch words[0] {
		case "remove":
			must(t, os.RemoveAll(path))
		case "rename":
			must(t, os.Rename(path, filepath.Join(dir, words[2])))
		case "link":
			_ = os.Remove(path)
			must(t, os.Symlink(words[2], path))
		case "mkdir":
			must(t, os.MkdirAll(path, 0o755))
		case "fifo":
			must(t, unix.Mkfifo(path, 0o644))
		default:
			t.Fatalf("no such command: %s", line)
		}
	}
}

// transcript takes what is new and writes it down: "+" an object as it is now, "-" one that is gone, "!" a
// fault.
func transcript(s cluster.Source) string {
	b, synced := s.Take()
	var out strings.Builder
	if !synced {
		out.WriteString("not synced\n")
	} else {
		fmt.Fprintf(&out, "revision %d\n", b.Revision)
	}
	for _, c := range b.Changes {
		if c.Object == nil {
			fmt.Fprintf(&out, "- %s\n", c.Key)
			continue
		}
		fmt.Fprintf(&out, "+ %s %s\n", c.Key, brief(c))
	}
	for _, f := range b.Faults {
		fmt.Fprintf(&out, "! %s\n", f)
	}
	return out.String()
}

// brief is an object in JSON without what its key says already.
func brief(c cluster.Change) string {
	text, err := json.Marshal(c.Object)
	if err != nil {
		return err.Error()
	}
	var o map[string]any
	if err := json.Unmarshal(text, &o); err != nil {
		return err.Error()
	}
	delete(o, "apiVersion")
	delete(o, "kind")
	if m, ok := o["metadata"].(map[string]any); ok {
		delete(m, "name")
		delete(m, "namespace")
		if len(m) == 0 {
			delete(o, "metadata")
		}
	}
	for k, v := range o {
		if m, ok := v.(map[string]any); ok && len(m) == 0 || v == nil {
			delete(o, k)
		}
	}
	if text, err = json.Marshal(o); err != nil {
		return err.Error()
	}
	return string(text)
}

func newDir(t testing.TB, c DirConfig) *Dir {
	t.Helper()
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	d, err := NewDir(c)
	must(t, err)
	return d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
