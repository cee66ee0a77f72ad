package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

func snapshotsCommand(w world) *cobra.Command {
	var c connection
	var o format
	var q tsujiv1.ListSnapshotsRequest
	cmd := &cobra.Command{
		Use:   "snapshots",
		Short: "List the versions that the control plane still holds",
		Long: `snapshots lists the versions that the control plane still holds, the newest first. A version is printed
short; tsuji show takes it so, or any beginning of it that only one version has.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.use(cmd.Context(), cmd.Flags(), func(ctx context.Context, conn *grpc.ClientConn) error {
				l, err := tsujiv1.NewSnapshotServiceClient(conn).ListSnapshots(ctx, &q)
				if err != nil {
					return err
				}
				return o.print(w.out, l, func(g *grid) { snapshotRows(g, w, l.GetSnapshots()) })
			})
		},
	}
	cmd.Flags().StringVar(&q.IngressController, "ingress-controller", "", "only those of this IngressController")
	c.flags(cmd.Flags())
	o.flags(cmd.Flags(), asTable)
	return cmd
}

func snapshotRows(g *grid, w world, list []*tsujiv1.SnapshotSummary) {
	g.row("CONTROLLER", "VERSION", "CURRENT", "AGE", "ROUTES", "ENDPOINTS", "CERTIFICATES")
	for _, s := range list {
		g.row(s.GetIngressController(), short(s.GetVersion()), yesNo(s.GetCurrent()), age(s.GetBuilt(), w.now()),
			number(s.GetRoutes()), number(s.GetEndpoints()), number(s.GetCertificates()))
	}
}

func number[N ~uint32 | ~uint64](n N) string { return strconv.FormatUint(uint64(n), 10) }
