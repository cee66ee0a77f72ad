// Command tsuji looks at a control plane and its routers, and runs a demonstration of both.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsuji-dev/tsuji/cmd/internal/flagenv"
)

// version is set by the linker.
var version = "unreleased"

func main() {
	// The first signal ends what runs in good order; the second, through the default again, at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	p := newProgram(world{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.LookupEnv, now: time.Now})
	os.Exit(p.run(ctx, os.Args[1:]))
}

// world is what a command sees of the process it runs in.
type world struct {
	in       io.Reader
	out, err io.Writer
	env      func(name string) (string, bool)
	now      func() time.Time
}

// The exit codes, which scripts rely on.
const (
	exitOK    = 0
	exitError = 1 // what was asked for could not be done, or the answer is no
	exitUsage = 2 // it was not understood
)

// errUsage marks a mistake in how the command was called that only shows once it runs.
var errUsage = errors.New("usage")

// errFindings ends a command that did what was asked for, and whose answer is no. Why, it has printed.
var errFindings = errors.New("there are findings")

// program is the whole command line, to be run once.
type program struct {
	w       world
	root    *cobra.Command
	started bool // the command line was understood
}

func newProgram(w world) *program {
	root := &cobra.Command{
		Use:   "tsuji",
		Short: "Look at Tsuji's control plane and routers",
		Long: `tsuji looks at a control plane: what it compiled, what it refused and why, and which router serves
which version. tsuji demo runs one with two zones on this machine. tsuji lint, tsuji render and
tsuji explain --files need none: they look at manifests.

Every flag can also come from an environment variable: --tls-cert is TSUJI_TLS_CERT. With neither, the
commands look at the demo that was started in the current directory.

Exit codes: 0 done, 1 an error, or something that tsuji lint found, 2 the command line was not understood.`,
		Args:          cobra.NoArgs,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		demoCommand(w),
		statusCommand(w),
		routersCommand(w),
		routesCommand(w),
		snapshotsCommand(w),
		showCommand(w),
		explainCommand(w),
		lintCommand(w),
		renderCommand(w),
		versionCommand(w),
	)
	root.SetOut(w.out)
	root.SetErr(w.err)
	p := &program{w: w, root: root}
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := flagenv.Apply(cmd.Flags(), w.env); err != nil {
			return err
		}
		p.started = true
		return nil
	}
	return p
}

// run runs the command that the arguments name, and returns the exit code.
func (p *program) run(ctx context.Context, args []string) int {
	p.root.SetArgs(args)
	cmd, err := p.root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errFindings):
		return exitError
	case !p.started || errors.Is(err, errUsage):
		fmt.Fprintf(p.w.err, "tsuji: %s\nSee %s --help.\n", printable(err.Error()), cmd.CommandPath())
		return exitUsage
	default:
		fmt.Fprintf(p.w.err, "tsuji: %s\n", printable(err.Error()))
		return exitError
	}
}

// usagef returns an error that ends the command with exitUsage.
func usagef(format string, args ...any) error {
	return usageError{fmt.Sprintf(format, args...)}
}

type usageError struct{ text string }

func (e usageError) Error() string        { return e.text }
func (e usageError) Is(target error) bool { return target == errUsage }
