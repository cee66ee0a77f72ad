package main

import (
	"strings"
	"testing"
)

// All that is missing is told at once, by the names of the flags.
func TestMissingFlags(t *testing.T) {
	for _, f := range []string{"TSUJI_SOURCE", "TSUJI_TLS_CERT", "TSUJI_INSECURE"} {
		t.Setenv(f, "")
	}
	cmd := command()
	cmd.SetArgs([]string{"--listen=9400", "--external-certificate-reader=x"})
	err := cmd.ExecuteContext(t.Context())
	if err == nil {
		t.Fatal("it runs")
	}
	for _, want := range []string{"--source=: want kube, or dir:PATH", "--tls-cert, --tls-key, --client-ca", "as in --listen=:9400", "--external-certificate-reader: "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
