package demo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// backends are the applications behind the demo's Routes: small HTTP servers, each plain and with TLS.
type backends struct {
	servers []*http.Server
	wait    sync.WaitGroup
}

// startBackends starts them. A server with TLS answers with the certificate of the name that it is asked for.
func startBackends(ctx context.Context, all []backendPorts, certificates map[string]pair) (*backends, error) {
	byName := map[string]*tls.Certificate{}
	for name, p := range certificates {
		c, err := tls.X509KeyPair(p.cert, p.key)
		if err != nil {
			return nil, fmt.Errorf("a backend's certificate for %q: %w", name, err)
		}
		byName[name] = &c
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if c, ok := byName[h.ServerName]; ok {
			return c, nil
		}
		return byName[""], nil
	}}
	b := &backends{}
	for _, p := range all {
		for _, tlsConfig := range []*tls.Config{nil, config} {
			port := p.httpPort
			if tlsConfig != nil {
				port = p.tlsPort
			}
			l, err := new(net.ListenConfig).Listen(ctx, "tcp", loopback(port))
			if err != nil {
				b.stop()
				return nil, fmt.Errorf("start %s: %w", p.name, err)
			}
			b.serve(l, &http.Server{
				Handler:           hello(p.name),
				TLSConfig:         tlsConfig.Clone(),
				ReadHeaderTimeout: 10 * time.Second,
				ErrorLog:          log.New(io.Discard, "", 0), // health checks that only connect
			})
		}
	}
	return b, nil
}

func (b *backends) serve(l net.Listener, s *http.Server) {
	b.servers = append(b.servers, s)
	b.wait.Go(func() {
		// It ends with stop, which has nobody to tell.
		if s.TLSConfig != nil {
			_ = s.ServeTLS(l, "", "")
		} else {
			_ = s.Serve(l)
		}
	})
}

// stop ends them at once: who asks is behind a router that has drained.
func (b *backends) stop() {
	var errs []error
	for _, s := range b.servers {
		errs = append(errs, s.Close())
	}
	_ = errors.Join(errs...) // closing what has ended is no error to anybody
	b.wait.Wait()
}

// hello answers with who it is, and with the request as it arrived.
func hello(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Backend", name)
		over := "plain HTTP"
		if r.TLS != nil {
			over = "TLS"
			if r.TLS.ServerName != "" {
				over += " for " + r.TLS.ServerName
			}
		}
		fmt.Fprintf(w, "Hello from %s, over %s\n\n%s %s %s\nHost: %s\n", name, over, r.Method, r.URL.RequestURI(), r.Proto, r.Host)
		for _, k := range slices.Sorted(maps.Keys(r.Header)) {
			for _, v := range r.Header[k] {
				fmt.Fprintf(w, "%s: %s\n", k, v)
			}
		}
	})
}
