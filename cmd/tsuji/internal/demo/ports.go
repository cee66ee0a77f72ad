package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
)

// ports are those of everything in the demo, the offset added. They are documented, so they are fixed.
type ports struct {
	offset    int
	grpcPort  int
	adminPort int
	zones     []zonePorts
	backends  []backendPorts
}

type zonePorts struct {
	name                                      string
	httpPort, httpsPort, statsPort, adminPort int
}

type backendPorts struct {
	name              string
	httpPort, tlsPort int
}

// highestPort is the highest of all without an offset.
const highestPort = 15936

func portsAt(offset int) ports {
	return ports{
		offset: offset, grpcPort: 9400 + offset, adminPort: 9401 + offset,
		zones: []zonePorts{
			{"tok04", 14080 + offset, 14443 + offset, 14936 + offset, 9402 + offset},
			{"tok05", 15080 + offset, 15443 + offset, 15936 + offset, 9403 + offset},
		},
		backends: []backendPorts{
			{"backend-a", 14801 + offset, 14811 + offset},
			{"backend-b", 14802 + offset, 14812 + offset},
		},
	}
}

// PortsFree reports the ports of a demo with this offset that something else listens on.
func PortsFree(ctx context.Context, offset int) error { return portsAt(offset).free(ctx) }

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (p ports) grpc() string      { return loopback(p.grpcPort) }
func (p ports) admin() string     { return loopback(p.adminPort) }
func (z zonePorts) http() string  { return loopback(z.httpPort) }
func (z zonePorts) https() string { return loopback(z.httpsPort) }
func (z zonePorts) stats() string { return loopback(z.statsPort) }
func (z zonePorts) admin() string { return loopback(z.adminPort) }

// free reports all of the ports that something else listens on: it is clearer than a child that does not start.
func (p ports) free(ctx context.Context) error {
	all := []int{p.grpcPort, p.adminPort}
	for _, z := range p.zones {
		all = append(all, z.httpPort, z.httpsPort, z.statsPort, z.adminPort)
	}
	for _, b := range p.backends {
		all = append(all, b.httpPort, b.tlsPort)
	}
	var errs []error
	for _, port := range all {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", loopback(port))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := l.Close(); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("%w\nDoes another demo run? --port-offset=N adds N to every port", errors.Join(errs...))
	}
	return nil
}
