package stats

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

// head is what HAProxy says first, with columns in an order of its own.
const head = "Name: HAProxy\nPid: 7\nMaxconn: 100\n\n# pxname,svname,stot,type,act,bck,last_chk,scur,status,hrsp_2xx,\n"

// read reads an answer as an Exporter does.
func read(r io.Reader) (info, []row, int, error) {
	a := newAnswers(r)
	i, err := a.info()
	if err != nil {
		return i, nil, a.failures, err
	}
	if err := a.header(); err != nil {
		return i, nil, a.failures, err
	}
	var rows []row
	for {
		var r row
		ok, err := a.next(&r)
		if !ok || err != nil {
			return i, rows, a.failures, err
		}
		r.proxy, r.server = bytes.Clone(r.proxy), bytes.Clone(r.server)
		rows = append(rows, r)
	}
}

// Columns are found by their names; texts in quotes hide nothing; what is not understood is counted, and nothing else is lost.
func TestRows(t *testing.T) {
	text := head +
		"b,BACKEND,3,1,2,1,,4,UP,,\n" +
		`b,s,5,2,1,0,"he said ""no"", and` + "\n" + `left",0,UP 1/3,9,` + "\n" +
		"l,sock,5,3,,,,0,OPEN,,\n" + // a listener, which was not asked for
		"short,1\n" +
		`b,t,5,2,1,0,"x"y,0,UP,9,` + "\n" +
		"b,u,-5,2,1,0,,99999999999999999999,DOWN 1/2,1e3,\n" +
		"\n"
	for name, r := range map[string]io.Reader{"at once": strings.NewReader(text), "byte by byte": iotest.OneByteReader(strings.NewReader(text))} {
		i, rows, failures, err := read(r)
		if err != nil || i != (info{7, 100}) || len(rows) != 3 || failures != 3+3 {
			t.Fatalf("%s: %+v, %d rows, %d failures, %v; want pid 7, 3 rows, 6 failures", name, i, len(rows), failures, err)
		}
		b, s, u := rows[0], rows[1], rows[2]
		if string(b.proxy) != "b" || b.kind != backend || b.usable != 3 || b.values[sessionsTotal] != 3 || b.values[sessions] != 4 || b.values[status] != 1 || b.have&(1<<responses2xx) != 0 {
			t.Errorf("%s: the backend is %+v", name, b)
		}
		if string(s.server) != "s" || s.kind != server || s.values[responses2xx] != 9 || s.values[status] != 1 {
			t.Errorf("%s: the server is %+v", name, s)
		}
		if u.have != 1<<status || u.values[status] != 0 {
			t.Errorf("%s: the server without numbers is %+v", name, u)
		}
	}
}

// An answer that HAProxy broke off, or that is another one, is an error.
func TestBrokenAnswers(t *testing.T) {
	whole := head + "b,BACKEND,3,1,2,1,,4,UP,,\n\n"
	for n := range len(whole) - 1 {
		if _, _, _, err := read(strings.NewReader(whole[:n])); !errors.Is(err, io.ErrUnexpectedEOF) && err == nil {
			t.Fatalf("%d of %d bytes are taken for an answer", n, len(whole))
		}
	}
	for name, text := range map[string]string{
		"no pid":         "Name: HAProxy\n\n# pxname,svname,type,\n\n",
		"refused":        "Pid: 7\n\nPermission denied\n\n",
		"a column short": "Pid: 7\n\n# pxname,svname,\n\n",
		"endless line":   "Pid: 7\n\n# pxname,svname,type,\n" + strings.Repeat("x", 2*maxRow),
		"endless quote":  "Pid: 7\n\n# pxname,svname,type,\n\"" + strings.Repeat("x\n", maxRow),
	} {
		if _, _, _, err := read(strings.NewReader(text)); err == nil {
			t.Errorf("%s: taken for an answer", name)
		}
	}
}

// Whatever arrives, the reader ends, and what is exposed of it is well formed.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(head + "be_http:a:b,BACKEND,3,1,2,1,,4,UP,,\nbe_http:a:b,pod:p:s:h:1.2.3.4:80,3,2,2,1,\"a\",4,UP,7,\n\n"))
	f.Add([]byte(head + "be_tcp:a:b:2,BACKEND,3,1,2,1,,4,UP,,\nbe_tcp:a:b,BACKEND,,1,,,,,MAINT,,\n\"q\"\"\n,\\\",x,0,0,,,,,,,\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		_, rows, _, err := read(bytes.NewReader(text))
		if err != nil {
			return
		}
		table := newTable()
		table.begin()
		for i := range rows {
			table.add(&rows[i])
		}
		table.commit(1)
		var out []byte
		table.write(func(b []byte) { out = append(out, b...) })
		seen := map[string]bool{}
		for line := range bytes.Lines(out) {
			if line[0] == '#' {
				continue
			}
			i := bytes.LastIndexByte(line, ' ')
			if _, err := strconv.ParseUint(string(bytes.TrimSpace(line[i+1:])), 10, 64); err != nil || line[i-1] != '}' || seen[string(line[:i])] || !bytes.HasPrefix(line, []byte("haproxy_")) {
				t.Fatalf("%q: no sample, or there twice", line)
			}
			seen[string(line[:i])] = true
		}
	})
}

// Names of every kind become OpenShift's labels.
func TestLabels(t *testing.T) {
	for _, c := range []struct {
		kind        kind
		proxy, name string
		want        string
	}{
		{frontend, "public", "FRONTEND", `frontend="public"`},
		{backend, "be_http:ns:r", "", `backend="http",namespace="ns",route="r"`},
		{backend, "be_edge_http:ns:r:3", "", `backend="https-edge",namespace="ns",route="r"`},
		{backend, "be_secure:ns:r.example", "", `backend="https",namespace="ns",route="r.example"`},
		{backend, "be_tcp:ns:r", "", `backend="tcp",namespace="ns",route="r"`},
		{backend, "be_sni", "", `backend="other/be_sni",namespace="",route=""`},
		{backend, "be_http:ns", "", `backend="other/be_http:ns",namespace="",route=""`},
		{backend, "be_http:ns:r:x", "", `backend="http",namespace="ns",route="r:x"`},
		{server, "be_http:ns:r:2", "pod:p-1:svc:http:10.0.0.1:80", `server="10.0.0.1:80",namespace="ns",route="r",pod="p-1",service="svc"`},
		{server, "be_http:ns:r", "pod:p-1:svc::2001:db8::1:80", `server="2001:db8::1:80",namespace="ns",route="r",pod="p-1",service="svc"`},
		{server, "be_http:ns:r", "ept:svc:http:10.0.0.1:80", `server="10.0.0.1:80",namespace="ns",route="r",pod="",service="svc"`},
		{server, "be_http:ns:r", "ept:svc::2001:db8::1:80", `server="2001:db8::1:80",namespace="ns",route="r",pod="",service="svc"`},
		{server, "be_sni", "fe_sni", `server="fe_sni",namespace="",route="",pod="",service=""`},
		{frontend, "a\"\\\n\xff", "", `frontend="a\"\\\n` + "\ufffd" + `"`},
	} {
		if got := string(appendLabels(nil, c.kind, c.proxy, c.name)); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.proxy, c.name, got, c.want)
		}
	}
}

// However workers change, backends come and go, and readings break off: what is shown of a route that has a backend never goes down,
// and is never more than what was counted.
func TestCountersGoOn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table, worker := newTable(), 1
		names := []string{"be_http:a:b", "be_http:a:b:2", "be_http:a:b:3"}
		counts := map[string]uint64{names[0]: 0}
		var counted, shown uint64
		forgotten := true
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch n := rapid.SampledFrom(names).Draw(t, "name"); rapid.IntRange(0, 3).Draw(t, "step") {
			case 0: // requests
				if _, ok := counts[n]; ok {
					more := rapid.Uint64Range(0, 9).Draw(t, "requests")
					counts[n] += more
					counted += more
				}
			case 1: // a reload
				worker++
				for n := range counts {
					counts[n] = 0
				}
			case 2: // a backend comes, or goes
				if _, ok := counts[n]; ok {
					delete(counts, n)
				} else {
					counts[n] = 0
				}
			case 3: // a reading, or a part of one
				table.begin()
				for n, c := range counts {
					r := row{proxy: []byte(n), kind: backend, have: 1 << sessionsTotal}
					r.values[sessionsTotal] = c
					table.add(&r)
				}
				if rapid.Bool().Draw(t, "broken") {
					continue
				}
				table.commit(worker)
				if list := table.list(backend); len(list) > 0 {
					now := list[0].now[sessionsTotal] + list[0].carried[sessionsTotal]
					if !forgotten && now < shown || now > counted {
						t.Fatalf("%d after %d of %d", now, shown, counted)
					}
					shown, forgotten = now, false
				} else {
					shown, forgotten = 0, true
				}
			}
		}
	})
}
