package serviceca

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/cluster/manifests"
	"github.com/tsuji-dev/tsuji/identity/authority"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The service CA comes from a file: nothing is served before it can be read, a new one takes the place of the old,
// a broken one does not, and what the directory says of the ConfigMap does not count.
func TestFile(t *testing.T) {
	t.Parallel()
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "service-ca.crt")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(path, text string) {
		t.Helper()
		must(os.WriteFile(path+".new", []byte(text), 0o600))
		must(os.Rename(path+".new", path))
	}
	ca := func() string {
		t.Helper()
		a, err := authority.NewAuthority("service")
		must(err)
		return string(a.CertPEM())
	}
	write(filepath.Join(dir, "own.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {namespace: openshift-ingress, name: service-ca-bundle}\ndata: {service-ca.crt: other}\n")
	write(filepath.Join(dir, "ns.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n")

	inner, err := manifests.NewDir(manifests.DirConfig{Path: dir, Log: slog.New(slog.DiscardHandler), Settle: time.Millisecond, Poll: 10 * time.Millisecond})
	must(err)
	s, err := New(Config{Source: inner, Path: path, Poll: 10 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	must(err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})

	var changes []cluster.Change // since the last step
	var faults []cluster.Fault
	var synced bool
	until := func(what string, done func() bool) {
		t.Helper()
		for {
			changed := s.Changed()
			var b cluster.Batch
			b, synced = s.Take()
			changes, faults = append(changes, b.Changes...), b.Faults
			if done() {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				t.Fatalf("%s: %v, faults %v", what, changes, faults)
			}
		}
	}
	is := func(want string) bool {
		return slices.ContainsFunc(changes, func(c cluster.Change) bool {
			m, ok := c.Object.(*corev1.ConfigMap)
			return ok && c.Key == key && m.Data[entry] == want
		})
	}
	fault := func() bool { return len(faults) == 1 && faults[0].Place == path }
	mended := func() bool { return len(faults) == 0 }

	until("no file", fault)
	if synced || len(changes) > 0 {
		t.Fatalf("synced %t without the file: %v", synced, changes)
	}
	first, second := ca(), ca()
	write(path, first)
	until("the file", func() bool { return synced && mended() })
	if len(changes) != 2 || changes[0].Key != key || !is(first) || changes[1].Key.Kind != cluster.Namespace {
		t.Fatalf("%v", changes)
	}

	changes = nil
	write(path, second)
	until("another", func() bool { return is(second) })
	if len(changes) != 1 {
		t.Errorf("with another came %v", changes)
	}

	for _, broken := range []string{"", "nothing", second[:len(second)/2], second + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		changes = nil
		write(path, broken)
		until("a broken file", fault)
		write(path, second)
		until("the file again", mended)
		if len(changes) > 0 || !synced {
			t.Errorf("%q changed %v", broken, changes)
		}
	}
	must(os.Chmod(path, 0o666))
	until("a file that others may write", fault)
	must(os.Chmod(path, 0o644))
	until("nobody else any more", mended)
	must(os.Remove(path))
	until("no file any more", fault)
	write(filepath.Join(dir, "own.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n")
	until("the directory", func() bool { return len(changes) == 1 && changes[0].Key.Name == "b" })
	if !synced || !fault() {
		t.Errorf("synced %t, faults %v", synced, faults)
	}
}
