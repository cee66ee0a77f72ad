package demo

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/tsuji-dev/tsuji/identity"
)

// controlPlaneArgs are what the control plane is started with.
func (d *demo) controlPlaneArgs(source string, c credentialsOf) []string {
	return append([]string{
		"--source=dir:" + source,
		"--listen=" + d.ports.grpc(),
		"--admin=" + d.ports.admin(),
	}, tlsArgs(c.controlPlane, "--client-ca=")...)
}

// routerArgs are what a router is started with. Nobody waits for its connections, and its HAProxy goes with it.
func (d *demo) routerArgs(z zonePorts, c credentialsOf) []string {
	return append([]string{
		"--zone=" + z.name,
		"--name=" + routerName(z.name),
		"--control-plane=" + d.ports.grpc(),
		"--http=" + z.http(),
		"--https=" + z.https(),
		"--stats=" + z.stats(),
		"--admin=" + z.admin(),
		"--state-dir=" + filepath.Join(d.StateDir, z.name),
		"--haproxy=" + d.HAProxy,
		"--haproxy-tied",
		"--shutdown-delay=0s",
		"--drain-timeout=1s",
	}, tlsArgs(c.routers[z.name], "--ca=")...)
}

func tlsArgs(f identity.Files, ca string) []string {
	return []string{"--tls-cert=" + f.Cert, "--tls-key=" + f.Key, ca + f.CA}
}

// whatToTry tells what runs and what a newcomer can do with it. Each command works as it stands.
func (d *demo) whatToTry(source string, c credentialsOf, version string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	zones := d.ports.zones
	tsuji := quote(filepath.Join(d.BinDir, "tsuji"))

	line("\nBoth zones serve version %s.", version)
	line("\nAsk for the same in each zone:")
	for _, z := range zones {
		line("  curl -H 'Host: %s' http://%s/", helloHost, z.http())
	}
	line("\nThe three ways of TLS, each with a certificate of its own (%s, as well):", portOf(zones[1].https()))
	for _, host := range []string{edgeHost, reencryptHost, passthroughHost} {
		line("  %s", curlTLS(host, zones[0], c.controlPlane.CA))
	}
	line("\nEdit a file in %s, and both zones take it at once. In another terminal:", source)
	if d.StateDir != StateDir {
		line("  . %s", quote(filepath.Join(d.StateDir, envName)))
	}
	for _, args := range []string{"status", "routes", "routers", "show --name=route/demo/hello"} {
		line("  %s %s", tsuji, args)
	}
	line("\nOr with grpcurl (`make grpcurl`), which takes what there is from the server:")
	line("  %s -cacert %s -cert %s -key %s %s list", grpcurl(), quote(c.operator.CA), quote(c.operator.Cert), quote(c.operator.Key), d.ports.grpc())
	line("\nThe processes, their logs, and how to start one again that you ended:")
	for _, ch := range d.children {
		line("  %-12s  pid %-7d  %-*s  %s", ch.name, ch.cmd.Process.Pid, len(d.children[0].logFile), ch.logFile, ch.again)
	}
	line("\nexamples/demo/README.md is a walk through all of it. Ctrl-C ends everything but what you started again by hand.")
	return b.String()
}

// curlTLS is a curl line that reaches a host in a zone, and verifies its certificate.
func curlTLS(host string, z zonePorts, ca string) string {
	port := portOf(z.https())
	return fmt.Sprintf("curl --cacert %s --resolve %s:%s:127.0.0.1 https://%s:%s/", quote(ca), host, port, host, port)
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

func grpcurl() string {
	if _, err := os.Stat(".tools/bin/grpcurl"); err == nil {
		return ".tools/bin/grpcurl"
	}
	return "grpcurl"
}
