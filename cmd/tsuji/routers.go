package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

func routersCommand(w world) *cobra.Command {
	var c connection
	var o format
	var q tsujiv1.ListRoutersRequest
	cmd := &cobra.Command{
		Use:   "routers",
		Short: "List the routers, and which version each of them serves",
		Long: `routers lists the routers that are, or lately were, connected to this control plane.

ACKED is the version that is in force and verified at the router; TARGET is the one it should have.
STATE is one of
  current  it serves what it should
  behind   it is being sent what it should serve
  refused  it refused a version and stays on what was good; why is told below the table
  gone     it is not connected; what it serves, it goes on serving`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.use(cmd.Context(), cmd.Flags(), func(ctx context.Context, conn *grpc.ClientConn) error {
				l, err := tsujiv1.NewFleetServiceClient(conn).ListRouters(ctx, &q)
				if err != nil {
					return err
				}
				return o.print(w.out, l, func(g *grid) { routersTable(g, w, l.GetRouters()) })
			})
		},
	}
	cmd.Flags().StringVar(&q.IngressController, "ingress-controller", "", "only those of this IngressController")
	cmd.Flags().StringVar(&q.Zone, "zone", "", "only those of this zone")
	c.flags(cmd.Flags())
	o.flags(cmd.Flags(), asTable)
	return cmd
}

func routersTable(g *grid, w world, list []*tsujiv1.Router) {
	g.row("CONTROLLER", "ZONE", "NAME", "STATE", "SINCE", "ACKED", "TARGET", "RESPONSES", "RESOURCES", "HAPROXY")
	for _, r := range list {
		g.row(r.GetIngressController(), r.GetZone(), r.GetName(), routerState(r), age(r.GetSince(), w.now()),
			short(r.GetAckedVersion()), short(r.GetTargetVersion()),
			number(r.GetResponsesSent()), number(r.GetResourcesSent()), r.GetHaproxyVersion())
	}
	for _, r := range list {
		if r.GetDuplicate() {
			g.text("\n%s/%s: another process with the same name is connected too: give each router a --name of its own",
				r.GetZone(), r.GetName())
		}
		if wanted := r.GetConnectionsWanted(); wanted > 0 {
			g.text("\n%s/%s: its file descriptors allow %d connections, and maxConnections is %d: raise the limit of routerd (ulimit -n), or lower maxConnections",
				r.GetZone(), r.GetName(), r.GetConnectionsAllowed(), wanted)
		}
		f := r.GetRefusal()
		if f == nil {
			continue
		}
		g.text("\n%s/%s refused %s (%s): %s", r.GetZone(), r.GetName(), short(f.GetVersion()),
			refusalClass(f.GetClass()), f.GetMessage())
		for _, at := range f.GetResources() {
			g.text("  %s: %s", at.GetResource(), at.GetMessage())
		}
	}
}

// routerState sums a router up in one word.
func routerState(r *tsujiv1.Router) string {
	switch {
	case !r.GetConnected():
		return "gone"
	case sameVersion(r.GetAckedVersion(), r.GetTargetVersion()):
		return "current"
	case r.GetRefusal() != nil:
		return "refused"
	default:
		return "behind"
	}
}

func refusalClass(c tsujiv1.RefusalClass) string {
	return strings.ToLower(strings.TrimPrefix(c.String(), "REFUSAL_CLASS_"))
}
