package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/tsuji-dev/tsuji/cmd/internal/flagenv"
	"github.com/tsuji-dev/tsuji/cmd/tsuji/internal/demo"
	"github.com/tsuji-dev/tsuji/identity"
)

// maxAnswer is the largest answer that is accepted. The control plane's pages are far smaller; a list of
// all routers has no pages.
const maxAnswer = 64 << 20

// connection says which control plane to ask, and how.
type connection struct {
	server      string
	tls         identity.Files
	trustDomain string
	insecure    bool
	timeout     time.Duration
}

// credentialFlags say how to connect. When none of them is given, a running demo's are taken.
var credentialFlags = []string{"tls-cert", "tls-key", "ca", "insecure"}

func (c *connection) flags(f *pflag.FlagSet) {
	f.StringVar(&c.server, "server", "127.0.0.1:9400", "the control plane's gRPC address, HOST:PORT or unix:PATH")
	f.StringVar(&c.tls.Cert, "tls-cert", "", "file of an operator's certificate, PEM")
	f.StringVar(&c.tls.Key, "tls-key", "", "file of its private key, PEM")
	f.StringVar(&c.tls.CA, "ca", "", "file of the CA certificates that the control plane is verified with, PEM")
	f.StringVar(&c.trustDomain, "trust-domain", demo.TrustDomain, "SPIFFE trust domain of all identities")
	f.BoolVar(&c.insecure, "insecure", false, "no TLS: for a control plane that runs with --insecure")
	f.DurationVar(&c.timeout, "timeout", 10*time.Second, "how long to wait for an answer")
}

// use runs ask with a connection to the control plane, and says of its errors what to do about them.
func (c *connection) use(ctx context.Context, f *pflag.FlagSet, ask func(context.Context, *grpc.ClientConn) error) error {
	if err := c.fromDemo(f); err != nil {
		return err
	}
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.explain(ask(ctx, conn))
}

// fromDemo takes what is not given from the demo in the current directory, when no credentials are given.
func (c *connection) fromDemo(f *pflag.FlagSet) error {
	for _, name := range credentialFlags {
		if f.Changed(name) { // by the command line or the environment
			return nil
		}
	}
	env, err := demo.Env(demo.StateDir)
	if err != nil {
		return err
	}
	return flagenv.Apply(f, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
}

// dial makes a connection, which is established with the first question.
func (c *connection) dial(more ...grpc.DialOption) (*grpc.ClientConn, error) {
	creds, err := c.credentials()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(c.server, append(more,
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithUserAgent("tsuji/"+version))...)
	if err != nil {
		return nil, usagef("--server=%s: %v", c.server, err)
	}
	return conn, nil
}

func (c *connection) credentials() (credentials.TransportCredentials, error) {
	given := c.tls != identity.Files{}
	switch {
	case c.insecure && given:
		return nil, usagef("--insecure and a certificate exclude each other: leave out --insecure, or --tls-cert, --tls-key and --ca")
	case c.insecure:
		return insecure.NewCredentials(), nil
	case !given:
		return nil, usagef("how to connect to %s is not said, and no demo runs in this directory: give --tls-cert, --tls-key and --ca "+
			"(or TSUJI_TLS_CERT, TSUJI_TLS_KEY and TSUJI_CA), or --insecure; `make demo` starts a demo", c.server)
	}
	if err := c.tls.Validate(); err != nil {
		return nil, usagef("--tls-cert, --tls-key and --ca: %v", err)
	}
	keeper, err := identity.Load(c.tls, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, fmt.Errorf("--tls-cert, --tls-key and --ca: %w", err)
	}
	return credentials.NewTLS(keeper.ClientTLS(c.trustDomain, acceptControlPlane)), nil
}

func acceptControlPlane(id identity.ID) error {
	if id.Role != identity.RoleControlPlane {
		return fmt.Errorf("%s is not a control plane", id)
	}
	return nil
}

// explain adds to a gRPC error what the user can do.
func (c *connection) explain(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch s.Code() {
	case codes.Unavailable:
		return fmt.Errorf("cannot connect to %s: %s\nIs a control plane running there (`make demo` starts one)? --server names another; "+
			"--ca, --trust-domain and --insecure must suit it", c.server, s.Message())
	case codes.DeadlineExceeded:
		return fmt.Errorf("no answer from %s in %s: --timeout allows more", c.server, c.timeout)
	case codes.Unauthenticated, codes.PermissionDenied:
		return fmt.Errorf("%s refused: %s\nInspection takes an operator's certificate, spiffe://%s/operator/NAME: see --tls-cert",
			c.server, s.Message(), c.trustDomain)
	case codes.Unimplemented:
		return fmt.Errorf("%s does not know this question: %s\nIs it a control plane, and of this version (%s)?", c.server, s.Message(), version)
	case codes.ResourceExhausted:
		return fmt.Errorf("%s: %s", c.server, s.Message())
	default:
		return errors.New(s.Message())
	}
}
