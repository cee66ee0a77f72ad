package test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

func largeSlices(w *tenants) []deed {
	var out []deed
	add := func(what string, do func(w *tenants)) { out = append(out, deed{what: what, do: do}) }
	large := func(slices, endpoints, addresses, length int) func(*tenants) {
		return func(w *tenants) { w.write("large", w.largeService("large", "", slices, endpoints, addresses, length)) }
	}
	add("1,000 endpoints of 40 addresses, with long names", large(1, 1000, 40, 240))
	add("1,000 endpoints of 100 addresses", large(1, 1000, 100, 10))
	add("one endpoint of 100 addresses", large(1, 1, 100, 240))
	add("twenty slices of 100 endpoints", large(20, 100, 1, 240))
	add("the same endpoint a thousand times", func(w *tenants) {
		one := largeSlice("same", "same-1", 1, 1, 10, "")
		head, endpoint, _ := strings.Cut(strings.TrimSuffix(one, "---\n"), "endpoints:\n")
		w.write("same", head+"endpoints:\n"+strings.Repeat(endpoint, 1000)+"---\n"+strings.Replace(w.largeService("same", "", 0, 0, 0, 0), "name: web}", "name: same}", 1))
	})
	add("no endpoint at all, and then a thousand", func(w *tenants) {
		w.write("large", w.largeService("large", "", 1, 0, 0, 0))
		w.victimAdds(w.t, 1)
		w.write("large", w.largeService("large", "", 1, 1000, 1, 60))
	})
	return out
}

func doubleCookies(w *tenants) []deed {
	three := []*pod{w.pods.start("three"), w.pods.start("three"), w.pods.start("three")}
	set := func(w *tenants) {
		w.write("sticky", in(hostileNamespace, podService("sticky", three, nil))+
			strings.Replace(w.route("sticky", "router.openshift.io/cookie_name: SERVERID"), "kind: Service, name: web}", "kind: Service, name: sticky}", 1))
	}
	var out []deed
	for what, cookie := range map[string]string{
		"the right one first":      "SERVERID=%s; SERVERID=x",
		"another name that begins": "SERVERIDX=x; SERVERID=%s",
		"another name that ends":   "XSERVERID=x; SERVERID=%s",
		"with much around":         "a=b; SERVERID=%s; c=d; SERVERID=; e=SERVERID=f",
		"without a blank":          "SERVERID=%s;SERVERID=x;",
	} {
		out = append(out, deed{what: what, do: func(w *tenants) {
			set(w)
			const host = "sticky.hostile" + domain
			var value, by string
			eventually(w.t, "a cookie is given", func() error {
				a, err := w.traffic.askWith(host, "")
				if err != nil || a.code != 200 {
					return fmt.Errorf("%d: %w", a.code, cmp.Or(err, errNotYet))
				}
				given := a.header.Get("Set-Cookie")
				_, value, _ = strings.Cut(strings.SplitN(given, ";", 2)[0], "=")
				if by = a.pod; value == "" {
					return fmt.Errorf("no value in %q", given)
				}
				return nil
			})
			for range 6 {
				a, err := w.traffic.askWith(host, fmt.Sprintf(cookie, value))
				if err != nil || a.pod != by {
					w.t.Errorf("with Cookie %q: %q %v, want %q", fmt.Sprintf(cookie, value), a.pod, err, by)
				}
			}
		}})
	}
	slices.SortFunc(out, func(a, b deed) int { return strings.Compare(a.what, b.what) })
	return out
}

// askWith asks a host for its root, with cookies.
func (l *traffic) askWith(host, cookie string) (answer, error) {
	c, err := l.dial(l.ctx, "http", host, false)
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	resp, body, err := c.ask(host, "/", cookie)
	if err != nil {
		return answer{}, err
	}
	return read(resp, body), nil
}

// chained is an edge Route of the tenant's with a chain of some 45 kB, more than a command carries, that is new each
// time.
func (w *tenants) chained(m *mint, name string) string {
	p := m.named(name + ".hostile" + domain)
	return w.edge(name, pair{slices.Concat(p.cert, m.bulk(40<<10)), p.key})
}

// copied is a Route of the tenant's with a header that reads from the message: another one each time is another
// profile.
func (w *tenants) copied(name string, i int) string {
	set := fmt.Sprintf(`{name: X-H%d, action: {type: Set, set: {value: "%%[req.hdr(host),lower]%d"}}}`, i, i)
	return w.route(name, "", "httpHeaders: {actions: {request: ["+set+"]}}")
}

// reloadsInTurn are changes that are a reload each, where nothing bounds that. Before HAProxy 3.4 the victim's hosts
// are, too: there are as many as the pace allows, so that the workers that they leave behind are bounded by time.
func reloadsInTurn(w *tenants) []deed {
	m := newMint(w.t)
	return []deed{{what: "certificates, headers and timeouts in turn", do: func(w *tenants) {
		const edits = 9
		before, began := w.counted(w.t).reloads, time.Now()
		for i := range edits {
			timeout := fmt.Sprintf("haproxy.router.openshift.io/timeout-tunnel: %dms", 5001+i)
			w.write("edited", []string{
				w.chained(m, "edited"), w.copied("edited", i), w.route("edited", timeout, "tls: {termination: passthrough}"),
			}[i%3])
			w.victimAdds(w.t, 1)
		}
		// Four follow each other freely, three with less than five seconds before them, and one is under way.
		if n, most := w.counted(w.t).reloads-before, 4+3+1+time.Since(began).Seconds()/5; n > most {
			w.t.Errorf("%v reloads in %v, want %v at most", n, time.Since(began), most)
		}
		if n := w.sum(w.t, w.r, "tsuji_apply_old_workers"); n > 50 {
			w.t.Errorf("%v old workers", n)
		}
	}}}
}

func manyProfiles(w *tenants) []deed {
	m := newMint(w.t)
	var out []deed
	add := func(what string, edit func(i int) string) {
		edits := 51
		if len(out) > 0 && !long() {
			edits = 15
		}
		out = append(out, deed{what: what, do: func(w *tenants) {
			for i := range edits {
				w.write("edited", edit(i))
				w.took = append(w.took, w.victimAdds(w.t, 1)...) // or else several edits would be one
			}
		}})
	}
	add("timeout-tunnel of a passthrough Route", func(i int) string {
		return w.route("edited", fmt.Sprintf("haproxy.router.openshift.io/timeout-tunnel: %dms", 5001+i), "tls: {termination: passthrough}")
	})
	add("timeout", func(i int) string {
		return w.route("odd-edited", fmt.Sprintf("haproxy.router.openshift.io/timeout: %dms", 5001+i))
	})
	add("the name of the cookie", func(i int) string {
		return w.route("odd-edited", fmt.Sprintf("router.openshift.io/cookie_name: cookie%d", i))
	})
	add("a header from another", func(i int) string { return w.copied("odd-edited", i) })
	add("a chain of 45 kB", func(int) string { return w.chained(m, "odd-edited") })
	add("connections of a Pod", func(i int) string {
		return w.route("odd-edited", fmt.Sprintf(`haproxy.router.openshift.io/pod-concurrent-connections: "%d"`, 1000+i))
	})
	add("the balance, to and fro", func(i int) string {
		return w.route("odd-edited", "haproxy.router.openshift.io/balance: "+[]string{"roundrobin", "leastconn", "source", "random"}[i%4])
	})
	add("the interval of checks", func(i int) string {
		return w.route("odd-edited", fmt.Sprintf("%s: %dms", checkInterval, 5001+i))
	})
	return out
}
