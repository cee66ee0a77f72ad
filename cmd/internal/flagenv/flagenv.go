// Package flagenv lets every flag of a command come from the environment too.
//
// It guarantees that a flag given on the command line wins, and that a value from the environment is parsed
// and refused as one from the command line would be.
package flagenv

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// Name returns the variable of a flag: "--state-dir" is TSUJI_STATE_DIR.
func Name(flag string) string {
	return "TSUJI_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Apply sets each flag that was not given from its variable, when that is set and not empty.
func Apply(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		value, ok := lookup(Name(f.Name))
		if failed != nil || f.Changed || !ok || value == "" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			failed = fmt.Errorf("environment variable %s: %w", Name(f.Name), err)
		}
	})
	return failed
}
