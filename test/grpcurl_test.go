package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tsuji-dev/tsuji/identity"
)

// grpcurl looks at a control plane with no proto file: with an operator's certificate it lists the services, decodes a
// snapshot's resources and shows what each router acked; with a router's it may not. Keys are in no answer.
func TestGrpcurl(t *testing.T) {
	onBoth(t, withGrpcurl)
}

func withGrpcurl(t *testing.T, f *fleet) {
	served(t, f, 3)
	operator := f.issue("spiffe://tsuji.local/operator/test")
	for _, want := range []struct {
		args  []string
		words []string
	}{
		{[]string{"list"}, []string{"tsuji.v1.SnapshotService", "tsuji.v1.FleetService", "envoy.service.discovery.v3.AggregatedDiscoveryService", "grpc.health.v1.Health"}},
		{[]string{"describe", "tsuji.v1.Route"}, []string{"message Route", "termination"}},
		{[]string{"tsuji.v1.SnapshotService/GetSnapshot"}, []string{`"route/shop/r1"`, `"r1.example.com"`, `"TERMINATION_INSECURE"`, `"endpoints/shop/web/*"`}},
		{[]string{"tsuji.v1.FleetService/ListRouters"}, []string{`"router-a"`, `"tok04"`, `"ackedVersion"`}},
		{[]string{"grpc.health.v1.Health/Check"}, []string{"SERVING"}},
	} {
		out, err := f.grpcurl(operator, want.args...)
		if err != nil {
			t.Errorf("grpcurl %v as operator: %v\n%s", want.args, err, out)
		}
		for _, w := range want.words {
			if !strings.Contains(out, w) {
				t.Errorf("grpcurl %v as operator does not show %s:\n%s", want.args, w, out)
			}
		}
	}
	asRouter := f.issue("spiffe://tsuji.local/ingress/default/zone/tok04/router/router-a")
	for _, args := range [][]string{{"list"}, {"tsuji.v1.SnapshotService/GetSnapshot"}, {"tsuji.v1.FleetService/ListRouters"}} {
		if out, err := f.grpcurl(asRouter, args...); err == nil || !strings.Contains(out, "PermissionDenied") && !strings.Contains(out, "permission") {
			t.Errorf("grpcurl %v as a router: %v, want permission denied\n%s", args, err, out)
		}
	}
}

// grpcurl runs the tool that `make tools` built, or GRPCURL names.
func (f *fleet) grpcurl(files identity.Files, args ...string) (string, error) {
	f.t.Helper()
	path := os.Getenv("GRPCURL")
	if path == "" {
		path, _ = filepath.Abs("../.tools/bin/grpcurl")
	}
	if _, err := os.Stat(path); err != nil {
		f.t.Fatalf("no grpcurl: %v; run `make tools`", err)
	}
	out, err := exec.Command(path, append([]string{"-cacert", files.CA, "-cert", files.Cert, "-key", files.Key, f.controlPlane().grpc}, args...)...).CombinedOutput()
	return string(out), err
}
