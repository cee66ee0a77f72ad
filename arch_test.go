// Package tsuji holds what is true of the whole tree: which package may import which, and what those that are pure may not do.
package tsuji

import (
	"testing"

	"github.com/tsuji-dev/tsuji/test/archtest"
)

// imports is the table of what each package may import of this module, "" being nothing. The way of a
// Route through it is ARCHITECTURE.md. A row that allows more than is used is stale, and fails too.
var imports = map[string]string{
	"proto/tsuji/v1": "snapshot",
	"snapshot":       "",
	"checkrate":      "",

	"identity":           "",
	"identity/authority": "identity",
	"admin":              "",

	"controlplane":         "admin controlplane/access controlplane/cluster controlplane/compile controlplane/fleet controlplane/inspect controlplane/quarantine controlplane/release controlplane/xds identity proto/tsuji/v1 snapshot",
	"controlplane/access":  "controlplane/fair controlplane/ratelog identity",
	"controlplane/cluster": "proto/tsuji/v1",

	"controlplane/cluster/internal/malformed": "controlplane/cluster",
	"controlplane/cluster/kube":               "controlplane/cluster controlplane/cluster/internal/malformed proto/tsuji/v1",
	"controlplane/cluster/manifests":          "controlplane/cluster controlplane/cluster/internal/malformed proto/tsuji/v1",
	"controlplane/cluster/serviceca":          "controlplane/cluster identity",

	"controlplane/compile":    "checkrate controlplane/cluster proto/tsuji/v1 snapshot",
	"controlplane/fair":       "",
	"controlplane/fleet":      "proto/tsuji/v1 snapshot",
	"controlplane/inspect":    "controlplane/cluster controlplane/compile controlplane/fleet controlplane/release proto/tsuji/v1 snapshot",
	"controlplane/quarantine": "controlplane/compile proto/tsuji/v1 snapshot",
	"controlplane/ratelog":    "",
	"controlplane/release":    "proto/tsuji/v1 snapshot",
	"controlplane/xds": "controlplane/fair controlplane/fleet controlplane/quarantine controlplane/ratelog controlplane/release " +
		"identity proto/tsuji/v1 snapshot",

	"explain": "controlplane/cluster controlplane/compile proto/tsuji/v1 routerd/render snapshot",

	"routerd":           "admin identity proto/tsuji/v1 routerd/apply routerd/haproxy routerd/health routerd/render routerd/stats routerd/store routerd/subscribe snapshot",
	"routerd/apply":     "proto/tsuji/v1 routerd/haproxy routerd/render snapshot",
	"routerd/haproxy":   "",
	"routerd/health":    "routerd/apply routerd/haproxy routerd/render",
	"routerd/render":    "checkrate proto/tsuji/v1 snapshot",
	"routerd/stats":     "",
	"routerd/store":     "snapshot",
	"routerd/subscribe": "proto/tsuji/v1 snapshot",

	"cmd/internal/flagenv": "",
	"cmd/controlplane":     "cmd/internal/flagenv controlplane controlplane/cluster controlplane/cluster/kube controlplane/cluster/manifests controlplane/cluster/serviceca",
	"cmd/routerd":          "cmd/internal/flagenv routerd",
	"cmd/tsuji": "cmd/internal/flagenv cmd/tsuji/internal/demo controlplane/cluster controlplane/cluster/manifests controlplane/compile explain identity identity/authority " +
		"proto/tsuji/v1 routerd/render snapshot",
	"cmd/tsuji/internal/demo": "identity identity/authority",

	// Stories of the whole system look at binaries from outside; what they import of the daemons besides is to compare.
	"test":              "controlplane/compile identity identity/authority proto/tsuji/v1 routerd/apply routerd/haproxy routerd/render snapshot test/haproxytest test/kubetest test/netnstest test/podtest",
	"test/archtest":     "",
	"test/certificates": "controlplane/cluster controlplane/compile proto/tsuji/v1 routerd/apply routerd/haproxy routerd/render snapshot test/certtest test/haproxytest",
	"test/certtest":     "",
	"test/deploy":       "identity identity/authority proto/tsuji/v1 test/haproxytest test/kubetest test/netnstest",
	"test/fleet":        "controlplane controlplane/cluster controlplane/compile controlplane/xds identity identity/authority proto/tsuji/v1 snapshot test/haproxytest",
	"test/fuzzroutes":   "controlplane/cluster controlplane/compile identity/authority proto/tsuji/v1 routerd/apply routerd/haproxy routerd/render snapshot test/haproxytest",
	"test/haproxytest":  "",
	"test/kubetest":     "",
	"test/netnstest":    "",
	"test/podtest":      "",
	"test/sourcetest":   "controlplane/cluster",
}

// rules are what holds of every package, beside the table.
var rules = archtest.Rules{
	Module: "github.com/tsuji-dev/tsuji", Imports: imports, Tests: "test",
	Only: []archtest.Only{
		{Path: "k8s.io/", Who: "controlplane/cluster/ controlplane/compile test/", Why: "Kubernetes types end at compile"},
		{Path: "github.com/openshift/", Who: "controlplane/cluster/ controlplane/compile test/", Why: "OpenShift's types end at compile"},
		{Path: "k8s.io/client-go/", Who: "controlplane/cluster/kube test/", Why: "one package speaks with the API server"},
		{Path: "os/exec", Who: "routerd/haproxy cmd/tsuji/internal/demo test/", Why: "processes are started by routerd/haproxy, and by the demo"},
		{
			Path: "google.golang.org/grpc/codes", Who: "controlplane/access controlplane/inspect controlplane/xds routerd/subscribe cmd/tsuji proto/tsuji/v1 test/",
			Why: "gRPC codes stay at the doors, and in what is generated",
		},
	},
	// These are functions of their input: they see no clock, chance, environment, file, socket or log.
	Pure: []string{
		"checkrate", "snapshot", "controlplane/cluster/internal/malformed", "controlplane/compile", "controlplane/release", "controlplane/fleet",
		"routerd/render", "explain",
	},
	Impure: []archtest.Ban{
		{Path: "os/"}, {Path: "io/ioutil"}, {Path: "path/filepath"}, {Path: "syscall"}, {Path: "golang.org/x/sys/"}, {Path: "runtime/"}, {Path: "unsafe"}, {Path: "C"},
		{Path: "time", Names: "Now Sleep After AfterFunc Tick NewTimer NewTicker Since Until Local LoadLocation"},
		{Path: "net", But: "SplitHostPort JoinHostPort"}, {Path: "net/http/"}, {Path: "net/rpc/"}, {Path: "net/smtp"}, {Path: "google.golang.org/grpc/"},
		{Path: "crypto/tls", Names: "Dial DialWithDialer Listen LoadX509KeyPair"}, {Path: "crypto/x509", Names: "SystemCertPool"},
		{Path: "log/"}, {Path: "math/rand/"}, {Path: "crypto/rand"},
		{Path: "fmt", Names: "Print Printf Println Scan Scanf Scanln"},
		{Path: "context", Names: "WithTimeout WithTimeoutCause WithDeadline WithDeadlineCause AfterFunc"},
		{Path: "golang.org/x/sync/"}, {Path: "k8s.io/client-go/"}, {Path: "k8s.io/klog/"}, {Path: "github.com/prometheus/"},
	},
	StandardOnly: []string{"checkrate", "snapshot", "identity"},
}

// Every package imports what its row allows, every row is used, and those that are pure are.
func TestImports(t *testing.T) {
	faults, err := archtest.Check(".", rules)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		t.Error(f)
	}
}

// The tests that documents name exist.
func TestMentions(t *testing.T) {
	documents, err := archtest.Documents(".")
	if err != nil || len(documents) < 10 {
		t.Fatal(documents, err)
	}
	faults, err := archtest.Mentions(".", documents...)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		t.Error(f)
	}
}
