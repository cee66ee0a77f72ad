// Package fleet_test runs a fleet of light routers against a real control plane, and measures the control plane.
//
// The control plane is a process of its own: this test's binary, started again, which runs controlplane.Run on a
// synthetic cluster in memory. So what is measured of it (CPU, heap, goroutines) has nothing of the routers in it. The
// routers are as light as can be: they find the commit in a response and ack it. Only a sample of them decodes all, and
// verifies digests as routerd does.
//
// TestFleet is the short form, which looks at what must hold; TestFleetAtScale is `make bench-fleet`, which prints
// figures besides, and has go-control-plane's LinearCache do the same work. docs/scale.md tells what they mean.
package fleet_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"
)

// Flags of TestFleetAtScale.
var (
	routersFlag  = flag.Int("routers", 0, "routers; 0: TestFleetAtScale does not run")
	routesFlag   = flag.Int("routes", 10_000, "Routes in the cluster")
	changesFlag  = flag.Int("changes", 30, "changes made one by one, each when the one before is in force everywhere")
	rateFlag     = flag.Int("rate", 100, "changes a second after that")
	durationFlag = flag.Duration("duration", 60*time.Second, "how long they go on")
	seedFlag     = flag.Uint64("seed", 1, "of the cluster and of its changes")
	opponentFlag = flag.Bool("opponent", true, "have LinearCache do the same work")
	profileFlag  = flag.String("profile", "", "file for a profile of the control plane's CPU while changes are made")
)

// serverVariable has the configuration of a server, in the environment of a process that is to be one.
const serverVariable = "TSUJI_FLEET_SERVER"

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(serverVariable); ok {
		if err := serve(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	os.Exit(m.Run())
}
