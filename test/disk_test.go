package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The disk is full, or has no inode left. What needs a file, as a change of Settings does, is refused and tried again, ever more
// rarely; what needs none comes into force all the same. When there is room again, so does the rest.
func TestDiskFull(t *testing.T) {
	for what, fill := range map[string]func(t *testing.T, dir string){"of content": fillSpace, "of inodes": fillInodes} {
		t.Run(what, func(t *testing.T) { diskFull(t, fill) })
	}
}

func diskFull(t *testing.T, fill func(t *testing.T, dir string)) {
	f := newFleet(t)
	write := func(pod string) {
		t.Helper()
		ip, port := backend(t, pod)
		f.write("web.yaml", service("web", port, ip)+route("r0", "r0.example.com", "web")+route(pod, pod+".example.com", "web"))
	}
	write("first")
	f.write("settings.yaml", tuned(2000))
	f.startControlPlane()
	r := f.newRouter("tok04", "router-a")
	if err := os.Mkdir(r.stateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", r.stateDir, "tmpfs", 0, "mode=0700,size=4m,nr_inodes=200"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.killHAProxy() // which is known by the directory
		_ = syscall.Unmount(r.stateDir, syscall.MNT_DETACH)
	})
	r.start()
	r.ready()
	op := f.operator()
	f.converged(op, "router-a")

	full := filepath.Join(r.stateDir, "full")
	if err := os.Mkdir(full, 0o700); err != nil {
		t.Fatal(err)
	}
	fill(t, full)
	write("second")
	eventually(t, "an endpoint moves", func() error { return answers(r.http, "r0.example.com", "/", "second") })
	f.write("settings.yaml", tuned(2001))
	eventually(t, "the Settings are refused", func() error {
		if f.routers(op)["router-a"].GetRefusal() == nil {
			return errNotYet
		}
		return nil
	})
	for n := range 20 {
		pod := fmt.Sprintf("pod-%d", n)
		write(pod)
		eventually(t, "an endpoint moves and a Route comes, though a reload was refused", func() error {
			return errors.Join(answers(r.http, "r0.example.com", "/", pod), answers(r.http, pod+".example.com", "/", pod))
		})
	}
	if tries, err := strconv.Atoi(metric(t, r, `tsuji_apply_snapshots_total{method="reload",result="failed"}`)); err != nil || tries > 5 {
		t.Errorf("%d tries to reload beside 20 changes, %v", tries, err)
	}
	if err := os.RemoveAll(full); err != nil {
		t.Fatal(err)
	}
	f.converged(op, "router-a")
	eventually(t, "the Settings are in force", func() error {
		b, err := os.ReadFile(filepath.Join(r.stateDir, "haproxy", "haproxy.cfg"))
		if err == nil && !strings.Contains(string(b), "maxconn 2001") {
			err = errNotYet
		}
		return err
	})
	r.endBoth() // what was recorded is what is in force
	r.start()
	eventually(t, "the last endpoint is served from the store", func() error { return answers(r.http, "r0.example.com", "/", "pod-19") })
}

// tuned is an IngressController with another program.
func tuned(connections int) string {
	return fmt.Sprintf(`apiVersion: operator.openshift.io/v1
kind: IngressController
metadata: {name: default, namespace: openshift-ingress-operator}
spec: {tuningOptions: {maxConnections: %d}}
`, connections)
}

func fillSpace(t *testing.T, dir string) {
	t.Helper()
	out, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for err == nil {
		_, err = out.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

func fillInodes(t *testing.T, dir string) {
	t.Helper()
	var err error
	for n := 0; err == nil; n++ {
		err = os.WriteFile(filepath.Join(dir, fmt.Sprint(n)), nil, 0o600)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}
