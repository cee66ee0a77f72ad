package flagenv

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// A flag comes from the command line, else from its variable, else from its default; a bad variable is named.
func TestApply(t *testing.T) {
	env := map[string]string{"TSUJI_STATE_DIR": "/from/env", "TSUJI_ZONE": "tok05", "TSUJI_EMPTY": ""}
	lookup := func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	flags := pflag.NewFlagSet("t", pflag.ContinueOnError)
	dir := flags.String("state-dir", "", "")
	zone := flags.String("zone", "", "")
	empty := flags.String("empty", "default", "")
	delay := flags.Duration("shutdown-delay", time.Second, "")
	if err := flags.Parse([]string{"--zone=tok04"}); err != nil {
		t.Fatal(err)
	}
	if err := Apply(flags, lookup); err != nil {
		t.Fatal(err)
	}
	if *dir != "/from/env" || *zone != "tok04" || *empty != "default" || *delay != time.Second {
		t.Errorf("got dir %q zone %q empty %q delay %v", *dir, *zone, *empty, *delay)
	}
	env["TSUJI_SHUTDOWN_DELAY"] = "soon"
	if err := Apply(flags, lookup); err == nil || !strings.Contains(err.Error(), "TSUJI_SHUTDOWN_DELAY") {
		t.Errorf("a bad variable gave %v, want an error that names TSUJI_SHUTDOWN_DELAY", err)
	}
}
