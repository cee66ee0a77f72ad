package haproxy

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Words reach HAProxy as one word each, and what cannot is refused.
func TestCmd(t *testing.T) {
	for _, test := range []struct{ word, want string }{
		{"a", "x a"}, {"a b;c", `x a\ b\;c`}, {`\`, `x \\`}, {"a<<", "x a<<"}, {"辻", "x 辻"},
		{"", ""}, {"<<", ""}, {"v <<x", ""}, {"v  <<", ""}, {"v <<x y", ""}, {"a\nb", ""}, {"a\tb", ""},
		{"\x7f", ""}, {"\x00", ""}, {strings.Repeat("x", maxBatch), ""},
	} {
		if got := Cmd("x", test.word); got.line != test.want || (got.err == nil) != (test.want != "") {
			t.Errorf("%.20q: %q, %v", test.word, got.line, got.err)
		}
	}
	for _, payload := range []string{"", "\n", "a\n\nb", "\na", "a\r\nb", "\x00"} {
		if Cmd("x").With(payload).err == nil {
			t.Errorf("payload %q was taken", payload)
		}
	}
	if got := string(Cmd("x", "y").With("a\nb").append(nil)); got != "x y <<\na\nb\n\n" {
		t.Errorf("%q", got)
	}
}

// Answers end at the prompt, whatever they hold.
func TestReadAnswer(t *testing.T) {
	r := bufio.NewReaderSize(strings.NewReader("\n> a > b\nc\n\n> + + [3]: no\n\n> "+strings.Repeat("x", 100)+"> \n\n> cut"), 16)
	var got []string
	for {
		a, err := readAnswer(r)
		if err != nil {
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Error(err)
			}
			break
		}
		got = append(got, a)
	}
	want := []string{"\n", "a > b\nc\n\n", "[3]: no\n\n", strings.Repeat("x", 100) + "> \n\n"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestParseProcesses(t *testing.T) {
	const after = "#<PID> <type> <reloads> <uptime> <version>\n10 master 3 [failed: 1] 0d00h02m27s 3.4.7-1\n# workers\n"
	for _, test := range []struct {
		out  string
		want Processes
	}{
		{after + "12 worker 0 0d 3.4\n# old workers\n11 worker 1 0d 3.4\n", Processes{10, 12, []int{11}, 3, 1}},
		{after + "# old workers\n11 worker 2 0d 3.4\n12 worker 1 0d 3.4\n", Processes{10, 12, []int{11}, 3, 1}},
		{after, Processes{Master: 10, Reloads: 3, Failed: 1}},
	} {
		got, err := parseProcesses(test.out)
		if d := cmp.Diff(test.want, got); d != "" || err != nil {
			t.Errorf("%v %s", err, d)
		}
	}
	for _, bad := range []string{"", "x master 1", "1 master x", "-1 master 0"} {
		if _, err := parseProcesses(bad); err == nil {
			t.Errorf("%q was understood", bad)
		}
	}
}

func TestParseAlerts(t *testing.T) {
	const out = `[NOTICE]   (5828) : haproxy version is 3.4.7-1
[ALERT]    (5828) : config : parsing [haproxy.cfg:16] : balance only supports 'roundrobin'.
[ALERT]    (5828) : config : parsing [haproxy.cfg:7] : 'bind' : processing [crt-list.txt:3] : 
  unable to load certificate
[WARNING]  (5828) : config : [haproxy.cfg:1] a warning
[ALERT]    (5828) : Binding [haproxy.cfg:2] for frontend f: cannot bind socket
[ALERT]    (5828) : config : Error(s) found in configuration file : haproxy.cfg
[ALERT]    (5828) : config : Fatal errors found in configuration.
`
	want := []Alert{
		{"haproxy.cfg", 16, "parsing [haproxy.cfg:16] : balance only supports 'roundrobin'."},
		{"crt-list.txt", 3, "parsing [haproxy.cfg:7] : 'bind' : processing [crt-list.txt:3] :  unable to load certificate"},
		{"haproxy.cfg", 2, "Binding [haproxy.cfg:2] for frontend f: cannot bind socket"},
	}
	if d := cmp.Diff(want, parseAlerts(out)); d != "" {
		t.Error(d)
	}
}

func TestParseVersion(t *testing.T) {
	for in, want := range map[string]Version{
		"3.4.7-1": {Major: 3, Minor: 4, Patch: 7, Text: "3.4.7-1"}, "2.9-dev3": {Major: 2, Minor: 9, Text: "2.9-dev3"}, "2.6.12": {Major: 2, Minor: 6, Patch: 12, Text: "2.6.12"}, "3.5": {Major: 3, Minor: 5, Text: "3.5"},
	} {
		if got, err := ParseVersion(in); err != nil || got != want {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "3", "x.y", "99999.1", "3.4x"} {
		if _, err := ParseVersion(bad); err == nil {
			t.Errorf("%q is a version", bad)
		}
	}
}

// What HAProxy calls a warning or an alert although it is meant to happen is logged as neither.
func TestLevels(t *testing.T) {
	for _, test := range []struct {
		level, message string
		want           slog.Level
	}{
		{"NOTICE", "Loading success.", slog.LevelDebug},
		{"WARNING", "Proxy be_http:ns:a stopped (cumulated conns: FE: 0, BE: 1).", slog.LevelDebug},
		{"WARNING", "Server be_http:ns:a/pod:a is UP/READY (leaving forced maintenance).", slog.LevelDebug},
		{"WARNING", "Exiting Master process...", slog.LevelInfo},
		{"WARNING", "All workers exited. Exiting... (0)", slog.LevelInfo},
		{"WARNING", "All workers exited. Exiting... (137)", slog.LevelWarn},
		{"WARNING", "Former worker (12) exited with code 0 (Exit)", slog.LevelInfo},
		{"ALERT", "Current worker (12) exited with code 143 (Terminated)", slog.LevelInfo},
		{"WARNING", "Former worker (12) exited with code 139 (Segmentation fault)", slog.LevelWarn},
		{"ALERT", "Current worker (12) exited with code 137 (Killed)", slog.LevelError},
		{"ALERT", "backend 'be_http:ns:b' has no server available!", slog.LevelInfo},
		{"EMERG", "backend 'be_http:ns:b' has no server available!", slog.LevelInfo},
		{"ALERT", "Failed to get the sockets from the old process!", slog.LevelError},
		{"WARNING", "Loading failure!", slog.LevelWarn},
	} {
		if got := levelOf(test.level, test.message); got != test.want {
			t.Errorf("%s %s: %v, want %v", test.level, test.message, got, test.want)
		}
	}
}

// Hybrid groups are in OpenSSL since 3.5.
func TestOldTLS(t *testing.T) {
	for library, want := range map[string]bool{
		"OpenSSL 3.0.20 7 Apr 2026": true, "OpenSSL 3.5.7 9 Jun 2026": false, "OpenSSL 4.0.0": false, "OpenSSL 1.1.1w": true, "": true,
		"OpenSSL 1.1.1 (compatible; AWS-LC 1.29.0)": true,
	} {
		if got := (Version{TLS: library}).OldTLS(); got != want {
			t.Errorf("%s: %v", library, got)
		}
	}
}

// What is not the answer that was asked for is an error, not an empty list.
func TestParseOther(t *testing.T) {
	for _, bad := range []string{"", "\n", "x", "# pxname,svname\n", "# pxname,svname,scur,econ,eresp,status\nb,s1,0,x,0,UP\n", "# pxname,svname,scur,econ,eresp,status\nb,s1\n"} {
		if got, err := parseStats(bad); err == nil {
			t.Errorf("statistics %q: %v", bad, got)
		}
	}
	for _, bad := range []string{"", "b\n", "[3]: no"} {
		if got, err := parseBackends(bad); err == nil {
			t.Errorf("backends %q: %v", bad, got)
		}
	}
	for _, bad := range []string{"", "a.pem:1\n", "# l\na.pem\n", "# l\na.pem:x\n", "# l\na.pem:1 [alpn h2 a.test\n", "# l\n:1\n"} {
		if got, err := parseCrtList(bad); err == nil {
			t.Errorf("crt-list %q: %v", bad, got)
		}
	}
	for _, bad := range []string{"", "x", "type=str, case=sensitive, found=yes", `type=str, case=sensitive, found=no, idx=tree, key="k", value="v", type="str"`} {
		if got, err := parseGetMap(bad, "k"); err == nil {
			t.Errorf("map %q: %v", bad, got)
		}
	}
	const stats = "# pxname,svname,qcur,scur,econ,eresp,status,wretr,wredis,new\nb,s1,,3,1,2,DOWN 1/2,4,5,\"a,b\"\nc,s1,,0,0,0,UP,0,0,\n"
	want := map[string]map[string]ServerStats{"b": {"s1": {1, 2, 3, "DOWN 1/2", 9}}, "c": {"s1": {Status: "UP"}}}
	got, err := parseStats(stats)
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(err, d)
	}
}

// The keys of a stick table are read, and nothing else is taken for one.
func TestParseTableKeys(t *testing.T) {
	t.Parallel()
	const table = "# table: suspects, type: string, size:10240, used:2\n0x7f1dbd0: key=be_tcp:ns:a use=1 exp=57368 shard=0 gpc0=1 gpc1=0\n\n"
	if keys, err := parseTableKeys(table); err != nil || len(keys) != 1 || keys[0] != "be_tcp:ns:a" {
		t.Errorf("%q, %v", keys, err)
	}
	if keys, err := parseTableKeys("key=x use=1\n"); err == nil {
		t.Errorf("%q", keys)
	}
}

// Whatever a worker or a master says, the parsers return.
func FuzzParse(f *testing.F) {
	f.Add("[3]: No such server.\n\n> ")
	f.Add("1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_check_state srv_port\n3 b 1 s1 ::1 2 0 10 6 80\n\n> ")
	f.Add("0x7f94 version a b\n0x1 k\n\n> ")
	f.Add("type=str, case=sensitive, found=yes, idx=tree, key=\"version\", value=\"a\", type=\"str\"\n\n> ")
	f.Add("type=str, case=sensitive, found=no\ntype=beg, case=sensitive, found=yes, idx=tree, key=\"v\", value=\"a\", type=\"str\"\n\n> ")
	f.Add("# pxname,svname,scur,econ,eresp,status\nb,s1,0,0,0,no check\n\n> ")
	f.Add("# name\nb\n\n> ")
	f.Add("# certs/list.txt\ncerts/a.pem:2 [alpn h2 ] a.test\ncerts/a.pem:3\n\n> ")
	f.Add("Filename: a\nStatus: Used\nSerial: 54A8\nSHA1 FingerPrint: 1A0C\n\n> ")
	f.Add("Pid: 1\nVersion: 3.4.7-1\nUptime_sec: 3\nStopping: 0\n\n> ")
	f.Add("Success=0\n--\n[ALERT]    (1) : config : [haproxy.cfg:1] x\n  y\n")
	f.Add("1 master 0\n2 worker 0\n")
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := readAnswer(bufio.NewReaderSize(strings.NewReader(s), 16)); err == nil {
			_ = parseAnswer(a)
		}
		a := parseAnswer(s)
		if p, err := parseProcesses(s); err == nil && p.Master <= 0 {
			t.Errorf("master %d", p.Master)
		}
		if i, err := parseInfo(a.text); err == nil && i.PID <= 0 {
			t.Errorf("pid %d", i.PID)
		}
		_ = parseReload(s)
		_, _ = parseServersState(a.text)
		_, _ = parseMap(a.text)
		if v, err := parseGetMap(a.text, "version"); err == nil && !v.Found && v.Value != "" {
			t.Errorf("not found, but %q", v.Value)
		}
		_, _ = parseStats(a.text)
		_, _ = parseBackends(a.text)
		_, _ = parseCrtList(a.text)
		if c, why := parseCertificate(a.text, "a"); why == "" && (c.Serial == "" || len(c.SHA1) != 0 && len(c.SHA1) != 40) {
			t.Errorf("%+v", c)
		}
		_, _ = ParseVersion(s)
	})
}
