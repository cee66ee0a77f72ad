package test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// parityLimits are who may use a Route, and how much.
func parityLimits() []parityRow {
	const limits, tcp, rate, requests = "rate-limit-connections", "rate-limit-connections.concurrent-tcp", "rate-limit-connections.rate-tcp", "rate-limit-connections.rate-http"
	return []parityRow{
		{"ip_allowlist", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			p.service("tls", p.secure(p.w.site, "any"), 1)
			p.route("list", "wildcardPolicy: None", "ip_allowlist", "127.0.0.2 127.1.0.0/16 ::1 fd00:64::/32")
			p.route("some-wrong", "wildcardPolicy: None", "ip_allowlist", "nonsense 127.0.0.2 127.0.0.1/33 300.1.1.1")
			p.route("blanks", "wildcardPolicy: None", "ip_allowlist", "  127.0.0.2   192.0.2.1 ")
			p.route("preferred", "wildcardPolicy: None", "ip_allowlist", "127.0.0.2", "ip_whitelist", "127.0.0.1")
			p.route("all-wrong", "wildcardPolicy: None", "ip_allowlist", "nonsense")
			p.route("only-blanks", "wildcardPolicy: None", "ip_allowlist", "  ")
			p.route("pass", "to: {kind: Service, name: tls}, tls: {termination: passthrough}", "ip_allowlist", "127.0.0.2")
			p.route("edge", "tls: {termination: edge}", "ip_allowlist", "127.0.0.2")
			var many []string
			for i := range 62 {
				many = append(many, fmt.Sprintf("127.7.0.%d", i+1))
			}
			p.route("sixty-two", "wildcardPolicy: None", "ip_allowlist", strings.Join(many, " "))
			return func(t *testing.T) {
				for _, c := range []struct {
					url, from string
					status    int
				}{
					{"http://" + p.host("list"), "127.0.0.2", 200}, {"http://" + p.host("list"), "127.1.2.3", 200}, {"http://" + p.host("list"), "127.0.0.1", 0}, {"http://" + p.host("list"), "::1", 200},
					{"http://" + p.host("some-wrong"), "127.0.0.2", 200}, {"http://" + p.host("some-wrong"), "127.0.0.1", 0}, {"http://" + p.host("some-wrong"), "::1", 0},
					{"http://" + p.host("blanks"), "127.0.0.2", 200}, {"http://" + p.host("blanks"), "127.0.0.1", 0},
					{"http://" + p.host("preferred"), "127.0.0.2", 200}, {"http://" + p.host("preferred"), "127.0.0.1", 0},
					{"http://" + p.host("all-wrong"), "127.0.0.1", 0}, {"http://" + p.host("only-blanks"), "127.0.0.1", 0},
					{"https://" + p.host("pass"), "127.0.0.2", 200}, {"https://" + p.host("pass"), "127.0.0.1", 0},
					{"https://" + p.host("edge"), "127.0.0.2", 200}, {"https://" + p.host("edge"), "127.0.0.1", 0},
					{"http://" + p.host("sixty-two"), "127.7.0.1", 200}, {"http://" + p.host("sixty-two"), "127.7.0.62", 200}, {"http://" + p.host("sixty-two"), "127.7.0.63", 0},
				} {
					p.w.wantsOf(t, question{url: c.url + "/", from: c.from}, c.status)
				}
				p.warned(t, "all-wrong", "nobody may use the route")
				p.warned(t, "some-wrong", "is not an IP address or CIDR")
			}
		}},
		{"ip_whitelist", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			p.route("list", "wildcardPolicy: None", "ip_whitelist", "127.0.0.2")
			p.route("first-empty", "wildcardPolicy: None", "ip_whitelist", "127.0.0.2", "ip_allowlist", "")
			return func(t *testing.T) {
				for _, name := range []string{"list", "first-empty"} {
					p.w.wantsOf(t, question{url: "http://" + p.host(name) + "/", from: "127.0.0.2"}, 200)
					p.w.wantsOf(t, question{url: "http://" + p.host(name) + "/", from: "127.0.0.1"}, 0)
				}
			}
		}},
		{"rate-limit-connections", underMain, false, func(p *parity) func(*testing.T) {
			p.web(1)
			for name, v := range map[string]string{"off": "false", "wrong": "yes", "empty": ""} {
				p.route(name, "wildcardPolicy: None", limits, v, tcp, "1", rate, "1", requests, "1")
			}
			p.route("absent", "wildcardPolicy: None", tcp, "1", rate, "1", requests, "1")
			p.route("alone", "wildcardPolicy: None", limits, "true")
			for name, v := range map[string]string{"zero": "0", "negative": "-5", "text": "ten", "fraction": "1.5", "huge": "99999999999999999999"} {
				p.route("limit-"+name, "wildcardPolicy: None", limits, "1", tcp, v, rate, v, requests, v)
			}
			return func(t *testing.T) {
				for _, name := range []string{"off", "wrong", "empty", "absent", "alone", "limit-zero", "limit-negative", "limit-text", "limit-fraction", "limit-huge"} {
					p.w.spread(t, "http://"+p.host(name)+"/", 4)
				}
				p.warned(t, "wrong", "it counts as false")
				for _, name := range []string{"zero", "negative", "text", "fraction", "huge"} {
					p.warned(t, "limit-"+name, "no limit is set")
				}
			}
		}},
		{"rate-limit-connections.concurrent-tcp", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			p.service("tls", p.secure(p.w.site, "any"), 1)
			urls := map[string]string{
				"http":   "http://" + p.route("web", "wildcardPolicy: None", limits, "true", tcp, "2"),
				"edge":   "https://" + p.route("edge", "tls: {termination: edge}", limits, "t", tcp, "+2"),
				"tunnel": "https://" + p.route("pass", "to: {kind: Service, name: tls}, tls: {termination: passthrough}", limits, "TRUE", tcp, "2"),
			}
			return func(t *testing.T) {
				for kind, url := range urls {
					for _, from := range []string{"127.0.0.1", "::1"} {
						if kind != "http" && from == "::1" {
							continue // TLS is not bound there
						}
						c, err := p.w.connect(question{url: url + "/", from: from})
						if err != nil {
							t.Fatal(err)
						}
						if err := c.send("Echo-Hold: " + url + from); err != nil {
							t.Fatal(err)
						}
						p.w.echo.holding(t, url+from, 1)
						p.w.wantsOf(t, question{url: url + "/", from: from}, 0)
						if from == "127.0.0.1" {
							p.w.wantsOf(t, question{url: url + "/", from: "127.0.0.9"}, 200)
						}
						p.w.echo.release(url + from)
						if a, err := c.read(); err != nil || a.status != 200 {
							t.Errorf("%s: the first: %v %v", kind, a, err)
						}
						_ = c.Close()
						eventually(t, "there is room again", func() error {
							_, err := p.w.ask(question{url: url + "/", from: from})
							return err
						})
					}
				}
			}
		}},
		{"rate-limit-connections.rate-tcp", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			p.service("tls", p.secure(p.w.site, "any"), 1)
			urls := []string{
				"http://" + p.route("web", "wildcardPolicy: None", limits, "true", rate, "4"),
				"https://" + p.route("pass", "to: {kind: Service, name: tls}, tls: {termination: passthrough}", limits, "true", rate, "4"),
			}
			return func(t *testing.T) {
				for _, url := range urls {
					p.limited(t, question{url: url + "/"}, 3, 0)
					p.w.wantsOf(t, question{url: url + "/", from: "127.0.0.9"}, 200)
				}
				p.limited(t, question{url: urls[0] + "/", from: "::1"}, 3, 0)
			}
		}},
		{"rate-limit-connections.rate-http", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			p.service("tls", p.secure(p.w.site, "any"), 1)
			host := p.route("web", "wildcardPolicy: None", limits, "true", requests, "4")
			pass := p.route("pass", "to: {kind: Service, name: tls}, tls: {termination: passthrough}", limits, "true", requests, "1")
			return func(t *testing.T) {
				p.limited(t, question{url: "http://" + host + "/"}, 4, 0)
				p.w.wantsOf(t, question{url: "http://" + host + "/", from: "127.0.0.9"}, 200)
				p.w.spread(t, "https://"+pass+"/", 3)
			}
		}},
		{"rate-limit-status", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			codes := map[string]int{"429": 429, "403": 403, "503": 503, "418": 0}
			for code := range codes {
				p.route("r"+code, "wildcardPolicy: None", limits, "true", requests, "3", "tsuji.dev/rate-limit-status", code)
			}
			return func(t *testing.T) {
				for code, want := range codes {
					p.limited(t, question{url: "http://" + p.host("r"+code) + "/"}, 3, want)
				}
				p.warned(t, "r418", "tsuji.dev/rate-limit-status")
			}
		}},
		{"pod-concurrent-connections", underMain, true, func(p *parity) func(*testing.T) {
			p.web(1)
			one := p.route("one", "wildcardPolicy: None", "pod-concurrent-connections", "1")
			all := map[string]string{"zero": "0", "negative": "-1", "text": "one"}
			for name, v := range all {
				p.route(name, "wildcardPolicy: None", "pod-concurrent-connections", v)
			}
			return func(t *testing.T) {
				var wg sync.WaitGroup
				most := make([]int, 4)
				for i := range most {
					wg.Go(func() { most[i] = p.w.wants(t, "http://"+one+"/", 200, "Echo-Delay: 60ms").seen.Most })
				}
				wg.Wait()
				if fmt.Sprint(most) != "[1 1 1 1]" {
					t.Errorf("requests at once: %v, want one", most)
				}
				for name := range all {
					host := p.host(name)
					for range 4 {
						wg.Go(func() { p.w.wants(t, "http://"+host+"/", 200, "Echo-Hold: "+host) })
					}
					p.w.echo.holding(t, host, 4)
					p.w.echo.release(host)
					wg.Wait()
				}
				p.warned(t, "text", "no limit is set")
			}
		}},
	}
}

// limited wants so many requests within the limits' three seconds answered, and then one that is not: with a status, or with 0.
func (p *parity) limited(t *testing.T, q question, good, status int) {
	t.Helper()
	const window = 3 * time.Second
	for {
		begun := time.Now()
		for range good {
			p.w.wantsOf(t, q, 200)
		}
		a, err := p.w.ask(q)
		if time.Since(begun) < window/2 {
			if a.status != status || (status == 0) != (err != nil) {
				t.Errorf("%+v: the one above the limit: %d %q, %v; want %d", q, a.status, a.body, err, status)
			}
			return
		}
		time.Sleep(2 * window) // the machine is slow: again, when all of these are forgotten
	}
}
