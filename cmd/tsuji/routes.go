package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/tsuji-dev/tsuji/explain"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

func routesCommand(w world) *cobra.Command {
	var c connection
	var o format
	var q tsujiv1.ListRoutesRequest
	var warned bool
	cmd := &cobra.Command{
		Use:   "routes",
		Short: "List the Routes, those made of Ingresses too, and why those are not served that are not",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.use(cmd.Context(), cmd.Flags(), func(ctx context.Context, conn *grpc.ClientConn) error {
				l, err := allRoutes(ctx, tsujiv1.NewRouteServiceClient(conn), &q)
				if err != nil {
					return err
				}
				if warned {
					l.Routes = slices.DeleteFunc(l.GetRoutes(),
						func(v *tsujiv1.RouteVerdict) bool { return len(v.GetWarnings()) == 0 })
				}
				return o.print(w.out, l, func(g *grid) { routesTable(g, l.GetRoutes()) })
			})
		},
	}
	cmd.Flags().StringVar(&q.IngressController, "ingress-controller", "", "only those of this IngressController")
	cmd.Flags().StringVarP(&q.Namespace, "namespace", "n", "", "only Routes of this namespace")
	cmd.Flags().BoolVar(&q.RefusedOnly, "refused", false, "only Routes that are not admitted")
	cmd.Flags().BoolVar(&warned, "warned", false, "only Routes with warnings")
	c.flags(cmd.Flags())
	o.flags(cmd.Flags(), asTable)
	return cmd
}

// allRoutes joins the pages.
func allRoutes(ctx context.Context, client tsujiv1.RouteServiceClient,
	q *tsujiv1.ListRoutesRequest) (*tsujiv1.ListRoutesResponse, error) {
	all := &tsujiv1.ListRoutesResponse{}
	for {
		page, err := client.ListRoutes(ctx, q)
		if err != nil {
			return nil, err
		}
		all.Routes = append(all.Routes, page.GetRoutes()...)
		if q.PageToken = page.GetNextPageToken(); q.PageToken == "" {
			return all, nil
		}
	}
}

func routesTable(g *grid, list []*tsujiv1.RouteVerdict) {
	g.row("CONTROLLER", "NAMESPACE", "NAME", "HOST", "PATH", "TERMINATION", "ADMITTED", "REASON", "MESSAGE")
	for _, r := range list {
		message := r.GetMessage()
		if of := explain.MadeOf(r); of != "" {
			message = strings.TrimSuffix("of "+of+": "+message, ": ")
		}
		if list := explain.Remarks(r); len(list) > 0 {
			message = strings.TrimPrefix(message+"; warning: "+strings.Join(list, "; warning: "), "; ")
		}
		g.row(r.GetIngressController(), r.GetNamespace(), r.GetName(), r.GetHost(),
			shownPath(r.GetPath(), r.GetExact()), explain.Termination(r.GetTermination()),
			yesNo(r.GetAdmitted()), r.GetReason(), message)
	}
}
