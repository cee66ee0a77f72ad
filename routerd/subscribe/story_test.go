package subscribe

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

var update = flag.Bool("update", false, "write what happened into the stories in testdata")

// The stories in testdata: what a control plane does ("> …"), and below it what the router did. Each begins with
// a sentence. The commands:
//
//	version N [from M] NAME=WORD… -NAME…      defines version N
//	connect                                   awaits a stream, and its first request
//	send NONCE M..N [part I/K] [break=HOW]    sends a part of what leads from M to N; M is none: from nothing
//	answer                                    awaits a request
//	end CODE                                  ends the stream
//	router ends                               awaits that the router ends the stream
//	applier ok|refuse CLASS TEXT|wait|go      what Apply does from now on; go: what waits may go on
//	applying                                  awaits that Apply is called
//	disconnected                              awaits that the router notes the end of the stream
//	show                                      the calls of Apply since the last show, and what is in force
//	status                                    what the router says of itself
func TestStories(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no stories", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &story{world: newWorld(t), versions: map[string]snapshot.Snapshot{"0": {}}}
			var got strings.Builder
			for _, line := range strings.Split(strings.TrimSpace(string(want)), "\n") {
				command, ok := strings.CutPrefix(line, "> ")
				switch {
				case ok:
					fmt.Fprintf(&got, "%s\n%s", line, s.do(command))
				case strings.HasPrefix(line, "#") || line == "":
					fmt.Fprintln(&got, line)
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(got.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			} else if got.String() != string(want) {
				t.Errorf("it went otherwise (accept it with -update):\n%s\n%s", got.String(), s.log)
			}
		})
	}
}

type story struct {
	*world
	versions map[string]snapshot.Snapshot
	peer     *peer
	shown    int
}

// do does one command and returns what came of it, a line each.
func (s *story) do(command string) string {
	f := strings.Fields(command)
	switch f[0] {
	case "version":
		s.define(f[1:])
	case "connect":
		s.peer = within(s.world, "a stream", s.server.peers)
		return s.hello(within(s.world, "the first request", s.peer.requests))
	case "send":
		s.send(f[1:])
	case "answer":
		return s.answered(within(s.world, "an answer", s.peer.requests))
	case "end":
		var code codes.Code
		if err := code.UnmarshalJSON([]byte(strconv.Quote(f[1]))); err != nil {
			s.t.Fatal(err)
		}
		s.peer.end <- status.Error(code, "says the server")
		<-s.peer.over
	case "router":
		for open := true; open; {
			_, open = <-s.peer.requests
		}
	case "applier":
		s.set(f[1:])
	case "applying":
		within(s.world, "Apply", s.applier.begun)
	case "disconnected":
		s.eventually("disconnected", func() bool { return !s.client.Status().Connected })
	case "show":
		return s.show()
	case "status":
		st := s.client.Status()
		return fmt.Sprintf("connected %v, acked %s, refused %q\n", st.Connected, revision(st.Version.String()), st.Refusal.GetMessage())
	default:
		s.t.Fatalf("what is %q?", command)
	}
	return ""
}

func (s *story) define(f []string) {
	n, err := strconv.ParseUint(f[0], 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	from := snapshot.Snapshot{}
	if f = f[1:]; f[0] == "from" {
		from, f = s.versions[f[1]], f[2:]
	}
	var d snapshot.Delta
	for _, w := range f {
		if name, word, ok := strings.Cut(w, "="); ok {
			d.Put = append(d.Put, resource(s.t, name, word))
		} else {
			d.Removed = append(d.Removed, w[1:])
		}
	}
	s.versions[fmt.Sprint(n)] = from.Apply(n, d)
}

func (s *story) hello(r *discovery.DeltaDiscoveryRequest) string {
	n := r.GetNode()
	meta := n.GetMetadata().GetFields()
	line := fmt.Sprintf("%s/%s/%s instance %s routerd %s haproxy %s subscribes %v", n.GetCluster(), n.GetLocality().GetZone(), n.GetId(),
		meta["instance"].GetStringValue(), meta["routerd_version"].GetStringValue(), meta["haproxy_version"].GetStringValue(), r.GetResourceNamesSubscribe())
	if v, ok := r.GetInitialResourceVersions()["commit"]; ok {
		line += ", in force " + revision(v)
	}
	if o := meta["observed"].GetStructValue().GetFields(); o != nil {
		line += fmt.Sprintf(", observed %s %s", o["epoch"].GetStringValue(), o["kinds"].GetStructValue().GetFields()["Route"].GetStringValue())
	}
	return line + "\n"
}

func revision(version string) string {
	v, err := snapshot.ParseVersion(version)
	if err != nil {
		return err.Error()
	}
	if v.IsZero() {
		return "nothing"
	}
	return fmt.Sprint(v.Revision)
}

func (s *story) answered(r *discovery.DeltaDiscoveryRequest) string {
	if r.GetNode() != nil || len(r.GetResourceNamesSubscribe()) > 0 || r.GetTypeUrl() != tsujiv1.TypeURL {
		s.t.Errorf("an answer that is more than that: %v", r)
	}
	e := r.GetErrorDetail()
	if e == nil {
		return "ack " + r.GetResponseNonce() + "\n"
	}
	var refusal tsujiv1.Refusal
	if err := e.GetDetails()[0].UnmarshalTo(&refusal); err != nil {
		s.t.Fatal(err)
	}
	text := fmt.Sprintf("nack %s %v: %s of version %s: %s\n", r.GetResponseNonce(), codes.Code(e.GetCode()),
		strings.TrimPrefix(refusal.GetClass().String(), "REFUSAL_CLASS_"), revision(refusal.GetVersion()), refusal.GetMessage())
	for _, res := range refusal.GetResources() {
		text += fmt.Sprintf("  %s (%d bytes of digest): %s\n", res.GetResource(), len(res.GetDigest()), strings.ReplaceAll(res.GetMessage(), "\u00a0", " "))
	}
	return text
}

func (s *story) send(f []string) {
	from, to, _ := strings.Cut(f[1], "..")
	i, k := 1, 1
	how := ""
	for _, w := range f[2:] {
		if h, ok := strings.CutPrefix(w, "break="); ok {
			how = h
		} else if w != "part" {
			if _, err := fmt.Sscanf(w, "%d/%d", &i, &k); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	r := parts(s.t, from == "none", s.versions[from], s.versions[to], k)[i-1]
	r.Nonce = f[0]
	s.damage(r, how)
	s.peer.send <- r
}

// damage makes a response wrong in one way.
func (s *story) damage(r *discovery.DeltaDiscoveryResponse, how string) {
	if how == "" {
		return
	}
	commit := func(change func(*tsujiv1.Commit)) {
		c := commitOf(s.t, r)
		change(c)
		setCommit(s.t, r, c)
	}
	switch how {
	case "type":
		r.TypeUrl = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	case "nonce":
		r.Nonce = ""
	case "resource-type":
		r.Resources[0].Resource.TypeUrl = "type.googleapis.com/tsuji.v1.Route"
	case "content":
		r.Resources[0].Resource.Value = append([]byte{}, r.Resources[0].Resource.Value[1:]...)
	case "twice":
		r.Resources = append(r.Resources, r.Resources[0])
	case "removed-twice":
		r.RemovedResources = append(r.RemovedResources, r.GetResources()[0].GetName())
	case "uncommit":
		r.RemovedResources = append(r.RemovedResources, "commit")
	case "commits":
		r.Resources = append(r.Resources, r.Resources[len(r.Resources)-1])
	case "missing":
		r.Resources = r.Resources[1:]
	case "extra":
		i := resource(s.t, "route/x/extra", "x")
		r.Resources = append(r.Resources, wire(i.Name(), i.Digest().String(), i.Encoded()))
	case "exchanged": // as many resources, but another
		i := resource(s.t, "route/x/other", "x")
		r.Resources[0] = wire(i.Name(), i.Digest().String(), i.Encoded())
	case "count":
		commit(func(c *tsujiv1.Commit) { c.Resources++ })
	case "digest":
		commit(func(c *tsujiv1.Commit) { c.FactsDigest[0] ^= 1 })
	case "version":
		commit(func(c *tsujiv1.Commit) { c.Version = "7" })
	case "base":
		commit(func(c *tsujiv1.Commit) { c.Base = "7" })
	default:
		s.t.Fatalf("break=%s?", how)
	}
}

func (s *story) set(f []string) {
	s.applier.mu.Lock()
	defer s.applier.mu.Unlock()
	switch f[0] {
	case "ok":
		s.applier.refusal = nil
	case "refuse":
		class := tsujiv1.RefusalClass(tsujiv1.RefusalClass_value["REFUSAL_CLASS_"+f[1]])
		s.applier.refusal = &tsujiv1.Refusal{Class: class, Message: strings.Join(f[2:], " ")}
	case "wait":
		s.applier.gate = make(chan struct{})
	case "go":
		close(s.applier.gate)
		s.applier.gate = nil
	}
}

func (s *story) show() string {
	s.applier.mu.Lock()
	defer s.applier.mu.Unlock()
	var lines []string
	lines = append(lines, s.applier.calls[s.shown:]...)
	s.shown = len(s.applier.calls)
	in := "nothing in force"
	if s.applier.ok {
		var names []string
		for _, i := range s.applier.held.Sorted() {
			names = append(names, i.Name())
		}
		sort.Strings(names)
		in = fmt.Sprintf("in force %d: %s", s.applier.held.Version().Revision, strings.Join(names, " "))
	}
	return strings.Join(append(lines, in), "\n") + "\n"
}
