package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

func statusCommand(w world) *cobra.Command {
	var c connection
	var o format
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell how the control plane is doing, and what is wrong in its source",
		Long: `status tells whether the source of objects is followed, what is wrong in it (file, line and remedy),
what is served, and how many routers have it.

The exit code tells whether the control plane answered: faults in the source are no error of the command.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.use(cmd.Context(), cmd.Flags(), func(ctx context.Context, conn *grpc.ClientConn) error {
				s, err := tsujiv1.NewStatusServiceClient(conn).GetStatus(ctx, &tsujiv1.GetStatusRequest{})
				if err != nil {
					return err
				}
				return o.print(w.out, s, func(g *grid) { statusTable(g, w, c.server, s) })
			})
		},
	}
	c.flags(cmd.Flags())
	o.flags(cmd.Flags(), asTable)
	return cmd
}

func statusTable(g *grid, w world, server string, s *tsujiv1.GetStatusResponse) {
	g.fact("Control plane", "%s at %s", s.GetControlplaneVersion(), server)
	if s.GetSynced() {
		g.fact("Source", "%s", s.GetSource())
	} else {
		g.fact("Source", "%s, not yet read whole: nothing is served before", s.GetSource())
	}
	refused := ""
	if s.GetRoutesRefused() > 0 {
		refused = " (tsuji routes --refused)"
	}
	warned := ""
	if s.GetRoutesWarned() > 0 {
		warned = fmt.Sprintf(", %d of them with warnings (tsuji routes --warned)", s.GetRoutesWarned())
	}
	if n := s.GetRoutesLastGood(); n > 0 {
		warned += fmt.Sprintf(", %d as they were last good, since something that they refer to is not", n)
	}
	none := ""
	if s.GetSynced() && s.GetRoutesAdmitted()+s.GetRoutesRefused() == 0 {
		none = ": there are no Routes in the source, and nothing is served"
	}
	g.fact("Routes", "%d admitted%s, %d refused%s%s", s.GetRoutesAdmitted(), warned, s.GetRoutesRefused(), refused,
		none)
	g.fact("Routers", "%d connected, %d of them current", s.GetRoutersConnected(), s.GetRoutersCurrent())
	if len(s.GetSnapshots()) > 0 {
		g.text("")
		snapshotRows(g, w, s.GetSnapshots())
	}
	for _, v := range s.GetSnapshots() {
		if v.GetWaiting() > 0 {
			g.text("\n%s: version %s is on the way to another, and %s still to be sent", v.GetIngressController(),
				short(v.GetVersion()),
				count(int(v.GetWaiting()), "resource"))
		}
	}
	if faults := s.GetFaults(); len(faults) > 0 {
		g.text("\n%s; all else is in force on the routers that are current:", count(len(faults), "fault"))
		for _, f := range faults {
			place := f.GetPlace()
			if f.GetLine() > 0 {
				place = fmt.Sprintf("%s:%d", place, f.GetLine())
			}
			g.text("  %s: %s", place, f.GetMessage())
			if f.GetRemedy() != "" {
				g.text("    to do: %s", f.GetRemedy())
			}
		}
	}
}
