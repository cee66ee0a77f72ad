package test

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// Two replicas serve at once, and print equal digests at rest. One is killed under load, and its routers go to the
// other, which sends them nothing; it comes back, and the other is killed. No request fails, and changes go on.
func TestTwoReplicas(t *testing.T) {
	onBoth(t, twoReplicas)
}

func twoReplicas(t *testing.T, f *fleet) {
	f.addReplica()
	tok04 := served(t, f, 30)
	tok05 := f.newRouter("tok05", "router-b")
	tok05.start()
	tok05.ready()
	ops := []*grpc.ClientConn{f.operatorOf(f.replicas[0]), f.operatorOf(f.replicas[1])}
	agree := func() error {
		var versions []string
		for _, op := range ops {
			s, err := tsujiv1.NewSnapshotServiceClient(op).ListSnapshots(t.Context(), &tsujiv1.ListSnapshotsRequest{}, grpc.WaitForReady(true))
			if err != nil {
				return err
			}
			for _, v := range s.GetSnapshots() {
				if v.GetCurrent() {
					versions = append(versions, digests(v.GetVersion()))
				}
			}
		}
		if len(versions) != 2 || versions[0] != versions[1] {
			return fmt.Errorf("the replicas serve %q", versions)
		}
		return nil
	}
	eventually(t, "the replicas agree", agree)

	stop := load(t, tok04.http, "r3.example.com")
	for _, name := range []string{"router-a", "router-b"} {
		eventually(t, name+" is connected", func() error { _, err := f.connectedTo(ops, name); return err })
	}
	for round := range 2 {
		victim, err := f.connectedTo(ops, "router-a")
		if err != nil {
			t.Fatal(err)
		}
		other := 1 - victim
		f.replicas[victim].kill()
		f.converged(ops[other], "router-a", "router-b")
		for name, r := range f.routers(ops[other]) {
			if name == "router-a" && (r.GetResourcesSent() != 0 || r.GetResponsesSent() != 0) {
				t.Errorf("round %d: %s moved and was sent %d resources in %d responses, want none", round, name, r.GetResourcesSent(), r.GetResponsesSent())
			}
		}
		host := fmt.Sprintf("new%d.example.com", round)
		f.write(fmt.Sprintf("new%d.yaml", round), route(fmt.Sprintf("new%d", round), host, "web"))
		for _, r := range []*router{tok04, tok05} {
			eventually(t, r.name+" follows the replica that is left", func() error { return answers(r.http, host, "/", "pod") })
		}
		f.startReplica(f.replicas[victim])
		f.readyReplica(f.replicas[victim])
		eventually(t, "the replicas agree again", agree)
	}
	if sent, failed := stop(); len(failed) > 0 || sent < loadLeast {
		t.Errorf("%d requests, of which failed: %v", sent, failed)
	}
}

// connectedTo returns which replica the router is connected to.
func (f *fleet) connectedTo(ops []*grpc.ClientConn, name string) (int, error) {
	for i, op := range ops {
		if f.routers(op)[name].GetConnected() {
			return i, nil
		}
	}
	return 0, errors.New("to none")
}
