package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/tsuji-dev/tsuji/explain"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

func showCommand(w world) *cobra.Command {
	var c connection
	var o format
	var q tsujiv1.GetSnapshotRequest
	var name string
	cmd := &cobra.Command{
		Use:   "show [VERSION]",
		Short: "Show the resources of a version, decoded",
		Long: `show prints the resources of a version in the order of their names, without private keys: each as a YAML
document; with -o table, each on a line; with -o json, all as one message.

VERSION is one that tsuji snapshots lists, or any beginning of it that only one version has; without it,
the current version is shown.

--name is the whole name of one resource, or the beginning of several with "/" or "*" at its end. If there is none
the exit code is 1.`,
		Example: `  tsuji show --name=route/demo/hello
  tsuji show -o table --name=cert/
  tsuji show -o table --name='route/demo/hello*'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				q.Version = args[0]
			}
			q.NamePrefix = strings.TrimSuffix(name, "*")
			return c.use(cmd.Context(), cmd.Flags(), func(ctx context.Context, conn *grpc.ClientConn) error {
				s, err := wholeSnapshot(ctx, tsujiv1.NewSnapshotServiceClient(conn), &q)
				if err != nil {
					return err
				}
				if err := keepNamed(s, name); err != nil {
					return err
				}
				if o == asJSON {
					return o.print(w.out, s, nil)
				}
				remarks, err := lastGood(ctx, conn, s)
				if err != nil {
					return err
				}
				if o == asYAML {
					return documents(w.out, s, remarks)
				}
				return o.print(w.out, s, func(g *grid) { showTable(g, s, remarks) })
			})
		},
	}
	cmd.Flags().StringVar(&q.IngressController, "ingress-controller", "default", "the IngressController whose version it is")
	cmd.Flags().StringVar(&name, "name", "", `only the resource of this name (route/demo/hello), or with "/" or "*" at its end all whose names begin so (route/demo/)`)
	c.flags(cmd.Flags())
	o.flags(cmd.Flags(), asYAML)
	return cmd
}

// wholeSnapshot joins the pages, which are all of the version of the first.
func wholeSnapshot(ctx context.Context, client tsujiv1.SnapshotServiceClient, q *tsujiv1.GetSnapshotRequest) (*tsujiv1.GetSnapshotResponse, error) {
	all := &tsujiv1.GetSnapshotResponse{}
	for {
		page, err := client.GetSnapshot(ctx, q)
		if err != nil {
			return nil, err
		}
		all.Snapshot = page.GetSnapshot()
		all.Resources = append(all.Resources, page.GetResources()...)
		if q.PageToken = page.GetNextPageToken(); q.PageToken == "" {
			return all, nil
		}
	}
}

// keepNamed leaves what --name asks for of the resources whose names begin so. That there are none is an error.
func keepNamed(s *tsujiv1.GetSnapshotResponse, name string) error {
	if name == "" {
		return nil
	}
	remedy := "tsuji show -o table lists all names"
	if !strings.HasSuffix(name, "/") && !strings.HasSuffix(name, "*") {
		begins := len(s.GetResources())
		s.Resources = slices.DeleteFunc(s.GetResources(), func(r *tsujiv1.Resource) bool { return r.GetName() != name })
		if begins > 0 {
			remedy = fmt.Sprintf("--name='%s*' shows those whose names begin so (%d)", name, begins)
		}
	}
	if len(s.GetResources()) > 0 {
		return nil
	}
	return fmt.Errorf("--name=%s: version %s has no such resource: %s", name, short(s.GetSnapshot().GetVersion()), remedy)
}

// lastGood returns what is to be told of the certificates of the current version that are as they were last good, by
// name. Nothing is known of those of others.
func lastGood(ctx context.Context, conn *grpc.ClientConn, s *tsujiv1.GetSnapshotResponse) (map[string]string, error) {
	of := func(r *tsujiv1.Resource) bool { return r.GetCertificate() != nil }
	if !s.GetSnapshot().GetCurrent() || !slices.ContainsFunc(s.GetResources(), of) {
		return nil, nil
	}
	q := &tsujiv1.ListRoutesRequest{IngressController: s.GetSnapshot().GetIngressController()}
	l, err := allRoutes(ctx, tsujiv1.NewRouteServiceClient(conn), q)
	if err != nil {
		return nil, err
	}
	remarks := map[string]string{}
	for _, v := range l.GetRoutes() {
		for _, g := range v.GetLastGood() {
			if v.GetAdmitted() && remarks[g.GetResource()] == "" {
				text := fmt.Sprintf("as it was last good, since %s, for Route %s/%s: %s",
					g.GetSince().AsTime().Format(time.RFC3339), v.GetNamespace(), v.GetName(), g.GetMessage())
				remarks[g.GetResource()] = printable(strings.ReplaceAll(text, "\n", " "))
			}
		}
	}
	return remarks, nil
}

// documents writes each resource as a YAML document, with PEM as text and not in base64, after what is remarked on it.
func documents(w io.Writer, s *tsujiv1.GetSnapshotResponse, remarks map[string]string) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, "# %s of IngressController %s\n", s.GetSnapshot().GetVersion(), s.GetSnapshot().GetIngressController())
	for _, r := range s.GetResources() {
		b, err := encodeJSON(r, protojson.MarshalOptions{})
		if err != nil {
			return fmt.Errorf("%s: %w", r.GetName(), err)
		}
		if c := r.GetCertificate(); c != nil {
			if b, err = readablePEM(b, c); err != nil {
				return fmt.Errorf("%s: %w", r.GetName(), err)
			}
		}
		if b, err = yaml.JSONToYAML(b); err != nil {
			return fmt.Errorf("%s: write as YAML: %w", r.GetName(), err)
		}
		out.WriteString("---\n")
		if remark := remarks[r.GetName()]; remark != "" {
			fmt.Fprintf(&out, "# %s\n", remark)
		}
		out.Write(b)
	}
	_, err := w.Write(out.Bytes())
	return err
}

func readablePEM(document []byte, c *tsujiv1.Certificate) ([]byte, error) {
	var fields map[string]any
	if err := json.Unmarshal(document, &fields); err != nil {
		return nil, fmt.Errorf("read as JSON: %w", err)
	}
	text := map[string]string{}
	if len(c.GetChainPem()) > 0 {
		text["chainPem"] = string(c.GetChainPem())
	}
	if len(c.GetCaBundlePem()) > 0 {
		text["caBundlePem"] = string(c.GetCaBundlePem())
	}
	fields["certificate"] = text
	return json.Marshal(fields)
}

func showTable(g *grid, s *tsujiv1.GetSnapshotResponse, remarks map[string]string) {
	g.row("NAME", "CONTENT")
	for _, r := range s.GetResources() {
		content := summary(r)
		if remark := remarks[r.GetName()]; remark != "" {
			content = strings.TrimPrefix(content+"; "+remark, "; ")
		}
		g.row(r.GetName(), content)
	}
}

// summary tells in a few words what is in a resource.
func summary(r *tsujiv1.Resource) string {
	switch k := r.GetKind().(type) {
	case *tsujiv1.Resource_Route:
		var to []string
		for _, b := range k.Route.GetBackends() {
			to = append(to, fmt.Sprintf("%s (%d)", b.GetService(), b.GetWeight()))
		}
		return fmt.Sprintf("%s%s, %s, to %s", k.Route.GetHost(), shownPath(k.Route.GetPath(), k.Route.GetExact()),
			explain.Termination(k.Route.GetTermination()), strings.Join(to, ", "))
	case *tsujiv1.Resource_Endpoints:
		ready := 0
		for _, e := range k.Endpoints.GetEndpoints() {
			if e.GetReady() {
				ready++
			}
		}
		return fmt.Sprintf("%d of %s ready", ready, count(len(k.Endpoints.GetEndpoints()), "endpoint"))
	case *tsujiv1.Resource_Certificate:
		return explain.Certificate(k.Certificate)
	case *tsujiv1.Resource_Settings:
		return "settings of the IngressController"
	default:
		return ""
	}
}
