package access

import (
	"crypto/tls"
	"log/slog"
	"time"

	"google.golang.org/grpc/credentials"
)

// Prefixes returns the first column of the table.
func Prefixes() []string {
	var all []string
	for _, r := range rights() {
		all = append(all, r.prefix)
	}
	return all
}

// CredentialsAt is Credentials with another clock.
func CredentialsAt(config *tls.Config, log *slog.Logger, now func() time.Time) credentials.TransportCredentials {
	return newHandshakes(config, log, now)
}
