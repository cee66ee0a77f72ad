package apply_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// A Route that came at run time does with cookies what one does that is in haproxy.cfg, whatever clients and endpoints send: of
// cookies of the name, however often they come and in how many headers, the first that names an endpoint chooses it, none of
// them reaches it, and what it sets of that name reaches nobody.
func TestCookiesAgree(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, binary string) {
		t.Parallel()
		w := newWorld(t, binary)
		r := w.router(options{})
		needsBackends(t, r)
		rounds := 300
		if os.Getenv("TSUJI_LONG") != "" {
			rounds = 20_000
		}
		c := newCookies(t, w, r)
		for seed := range uint64(rounds) {
			c.compare(rand.New(rand.NewPCG(seed, 11)))
		}
		for _, lines := range [][]string{
			{"SID=" + c.values[1] + "; SID=x"}, {"SID=x; SID=" + c.values[1]}, {"a=b; SID=" + c.values[0] + "; SID=" + c.values[2] + "; c=d"},
			{"XSID=" + c.values[0] + "; SIDX=" + c.values[1]}, {`SID="` + c.values[1] + `"`}, {`a="; SID=` + c.values[0] + `"; SID=` + c.values[2]},
			{"a=b", "SID=" + c.values[2], "c=d"}, {"SID=x", "SID=" + c.values[1]},
			{strings.Repeat("SID=x;", 1000) + "SID=" + c.values[1]}, {strings.Repeat("a=b; ", 1500) + "SID=" + c.values[1]},
		} {
			c.same(lines, []string{"SID=mine; Path=/", "other=1"})
		}
	})
}

// cookies are two Routes of one Service and with one cookie: one from haproxy.cfg, and one that came at run time.
type cookies struct {
	t      *testing.T
	w      *world
	client *http.Client
	values []string // of the endpoints
}

func newCookies(t *testing.T, w *world, r *router) *cookies {
	c := &cookies{t: t, w: w, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	var ends []*tsujiv1.Endpoint
	for i := range 3 {
		ends = append(ends, serveHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Set-Cookie"] = r.Header["X-Set"]
			fmt.Fprintln(w, i)
			fmt.Fprint(w, strings.Join(r.Header["Cookie"], "\n"))
		})))
	}
	sticky := func(name string) *tsujiv1.Resource {
		res := route(name, service("x", 1))
		res.GetRoute().Cookie = &tsujiv1.Cookie{Name: "SID"}
		res.GetRoute().Balance = tsujiv1.Balance_BALANCE_ROUND_ROBIN
		return res
	}
	r.put(sticky("static"), endpoints("x", ends...))
	before := r.reloads()
	r.put(sticky("static"), sticky("late"), endpoints("x", ends...))
	if r.reloads() != before {
		t.Fatal("a route did not come at run time")
	}
	for known := map[string]bool{}; len(known) < len(ends); {
		value := c.ask("static", nil, nil).inserted
		if known[value] = true; len(known) > len(c.values) {
			c.values = append(c.values, value)
		}
	}
	return c
}

// reply is what came of a request.
type reply struct {
	Status   int
	Endpoint string // that a cookie chose; empty: none did
	Cookies  string // that the endpoint got
	Others   []string
	inserted string // the value of the Route's own cookie; empty: none was set
}

func (c *cookies) ask(host string, lines, sets []string) reply {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, "http://"+c.w.http+"/", nil)
	must(c.t, err)
	req.Host = host + ".test"
	if req.Header["X-Set"] = sets; len(lines) > 0 {
		req.Header["Cookie"] = lines
	}
	res, err := c.client.Do(req)
	must(c.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	must(c.t, err)
	got := reply{Status: res.StatusCode}
	for _, set := range res.Header["Set-Cookie"] {
		if value, own := strings.CutPrefix(set, "SID="); own && got.inserted == "" {
			got.inserted, _, _ = strings.Cut(value, ";")
		} else {
			got.Others = append(got.Others, set)
		}
	}
	got.Endpoint, got.Cookies, _ = strings.Cut(string(body), "\n")
	if got.inserted != "" {
		got.Endpoint = ""
	}
	if len(lines) > 1 { // which become one
		var list []string
		for part := range strings.FieldsFuncSeq(got.Cookies, func(r rune) bool { return r == ';' || r == ',' || r == '\n' }) {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
		got.Cookies = strings.Join(list, "; ")
	}
	return got
}

func (c *cookies) same(lines, sets []string) {
	c.t.Helper()
	static, late := c.ask("static", lines, sets), c.ask("late", lines, sets)
	if d := cmp.Diff(static, late, cmp.AllowUnexported(reply{}), cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".inserted" }, cmp.Comparer(
		func(a, b string) bool { return (a == "") == (b == "") }))); d != "" {
		c.t.Errorf("Cookie: %q, and the endpoint's Set-Cookie: %q: from haproxy.cfg (-) and at run time (+):\n%s", lines, sets, d)
	}
}

// compare asks both with random cookies.
func (c *cookies) compare(random *rand.Rand) {
	c.t.Helper()
	one := func(of ...string) string { return of[random.IntN(len(of))] }
	values := append([]string{"x", "", "1|2", `"a; SID=1"`, `"` + c.values[1] + `"`, `a"b,c"d`}, c.values...)
	lines := make([]string, []int{0, 1, 1, 1, 1, 2, 3, 6}[random.IntN(8)])
	names := []string{"SID", "SID", "SID", "XSID", "SIDX", "sid", "a", "SID ", " SID", "b c", ""}
	if len(lines) == 1 { // the end of a header is that of a value in quotes, and of what belongs to a cookie
		values, names = append(values, `"a\"b; SID=`+c.values[0]), append(names, "$SID")
	}
	for i := range lines {
		for range random.IntN(6) {
			lines[i] += one(names...)
			if random.IntN(10) > 0 {
				lines[i] += one("=", "=", "= ", " = ") + one(values...)
			}
			lines[i] += one("; ", "; ", ";", ",", " ; ", ";;", "; \t")
		}
		if random.IntN(2) == 0 {
			lines[i] = strings.TrimRight(lines[i], ";, \t")
		}
	}
	sets := make([]string, random.IntN(4))
	for i := range sets {
		sets[i] = one("SID=x; Path=/", "SID =y", "XSID=1", "SIDX=2", "other=1; SID=2", "a|b=c|d", "SID=a|b", "sid=3")
	}
	c.same(lines, sets)
}
