package main

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/tsuji-dev/tsuji/cmd/tsuji/internal/demo"
)

func demoCommand(w world) *cobra.Command {
	c := demo.Config{Out: escaping{w.out}, Watch: watchControlPlane}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a control plane, two zones and two backends on this machine",
		Long: `demo runs, until Ctrl-C, a control plane over a directory of manifests, a router with its HAProxy in each
of two zones, and two small backends. They know each other by certificates that are made on the spot.

In --source it writes ` + demo.GeneratedName + `, which holds those certificates that Routes need, and removes it at
the end. In --state-dir it keeps logs, keys, and what the routers have on disk; each start begins afresh.
The commands that look at a control plane find the demo by themselves when they are run in the same
directory; elsewhere, source STATE-DIR/env first.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := demo.Run(cmd.Context(), c)
			var u demo.UsageError
			if errors.As(err, &u) {
				return usageError{u.Error()}
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Source, "source", "examples/demo", "directory of manifests")
	f.StringVar(&c.StateDir, "state-dir", demo.StateDir, "directory for logs, keys and the routers' state; made if absent")
	f.StringVar(&c.BinDir, "bin-dir", "", "directory of the controlplane and routerd to run; empty: that of this program")
	f.StringVar(&c.HAProxy, "haproxy", "", "the HAProxy to run; empty: .tools/bin/haproxy if there is one, else haproxy")
	f.IntVar(&c.PortOffset, "port-offset", 0,
		"a number added to every port, the backends' in the manifests included, which are copied then")
	return cmd
}

// escaping writes text as it may be shown. Each Write is whole characters.
type escaping struct{ w io.Writer }

// Write implements io.Writer.
func (e escaping) Write(b []byte) (int, error) {
	if _, err := io.WriteString(e.w, printable(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}
