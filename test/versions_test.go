package test

import (
	"fmt"
	"testing"

	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// On every release of HAProxy that is supported the four terminations answer, renewed certificates need no reload, and
// Routes and endpoints come, move and go under load without a failed request: by which way is docs/haproxy-versions.md's.
func TestEachHAProxy(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, binary string) {
		t.Run("terminations", func(t *testing.T) {
			f := newFleet(t)
			f.haproxy = binary
			terminations(t, f)
		})
		t.Run("changes", func(t *testing.T) {
			f := newFleet(t)
			f.haproxy = binary
			changesUnderLoad(t, f)
		})
	})
}

func changesUnderLoad(t *testing.T, f *fleet) {
	r := served(t, f, 5)
	op := f.operator()
	ip, first := backend(t, "first")
	_, second := backend(t, "second")
	stop := load(t, r.http, "r3.example.com")
	for round := range 3 {
		name := fmt.Sprintf("changing%d", round)
		host := name + ".example.com"
		for _, to := range []struct {
			name string
			port int
		}{{"first", first}, {"second", second}} {
			f.write(name+".yaml", service(name, to.port, ip)+route(name, host, name))
			eventually(t, "traffic follows the endpoint", func() error { return answers(r.http, host, "/", to.name) })
		}
		f.remove(name + ".yaml")
		eventually(t, "the removed route is gone", func() error {
			code, _, err := get(r.http, host, "/")
			if err == nil && code != 503 {
				err = fmt.Errorf("%d", code)
			}
			return err
		})
		f.converged(op, "router-a")
	}
	if sent, failed := stop(); len(failed) > 0 || sent < loadLeast {
		t.Errorf("%d requests, of which failed: %v", sent, failed)
	}
}
