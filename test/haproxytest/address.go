package haproxytest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// FreeAddress returns an address on loopback that is the test's until it ends. Its port is below those that the
// system hands out to clients, so that none takes it by chance, and no other test is given it at the same time: HAProxy
// would share it with another HAProxy, and nobody would notice.
func FreeAddress(t testing.TB) string {
	t.Helper()
	var config net.ListenConfig
	for range 1000 {
		port := 10_000 + rand.N(22_000)                                                           //nolint:gosec // nothing rests on nobody guessing it
		mark, err := config.Listen(t.Context(), "unix", fmt.Sprintf("@tsuji-test-port-%d", port)) // is gone with the process
		if err != nil {
			continue
		}
		l, err := config.Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			mark.Close()
			continue
		}
		l.Close()
		t.Cleanup(func() { mark.Close() })
		return l.Addr().String()
	}
	t.Fatal("there is no free port")
	return ""
}
