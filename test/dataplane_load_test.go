package test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsuji-dev/tsuji/routerd/haproxy"
)

// plane is one HAProxy under measurement.
type plane struct {
	name        string
	http, https string
	haproxy     *haproxy.Process
	pid         int // the worker's
}

func (p *plane) stop() { p.haproxy.Kill() }

// cpu returns the CPU time that the worker has taken so far, in the resolution of the scheduler.
func (p *plane) cpu() time.Duration {
	var total time.Duration
	for _, task := range tasks(p.pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/schedstat", p.pid, task))
		if err != nil {
			continue // a thread that has ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		if nanoseconds, err := strconv.ParseInt(first, 10, 64); err == nil {
			total += time.Duration(nanoseconds)
		}
	}
	return total
}

// tasks are the threads of a process.
func tasks(pid int) (ids []int) {
	dirs, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid)) // the pattern is good
	for _, dir := range dirs {
		if id, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// planeCores keeps HAProxy on a core of its own, if there are two. Otherwise the scheduler's choice of the moment costs
// more than what is measured.
type planeCores struct{ own unix.CPUSet }

// newPlaneCores takes the last core away from this process until the benchmark has ended.
func newPlaneCores(b *testing.B) planeCores {
	b.Helper()
	var all, rest unix.CPUSet
	var c planeCores
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		b.Fatal(err)
	}
	if all.Count() < 2 {
		return planeCores{own: all}
	}
	for i := range 64 * len(all) {
		switch {
		case !all.IsSet(i): // not ours
		case rest.Count() < all.Count()-1:
			rest.Set(i)
		default:
			c.own.Set(i)
		}
	}
	setCores(b, os.Getpid(), rest)
	b.Cleanup(func() { setCores(b, os.Getpid(), all) })
	return c
}

func (c planeCores) pin(b *testing.B, pid int) {
	b.Helper()
	setCores(b, pid, c.own)
}

func setCores(b *testing.B, pid int, cores unix.CPUSet) {
	b.Helper()
	for _, task := range tasks(pid) {
		if err := unix.SchedSetaffinity(task, &cores); err != nil && !errors.Is(err, unix.ESRCH) {
			b.Fatal(err)
		}
	}
}

// planeAnswer is what endpoints answer; planeEnd is how every answer ends, whatever HAProxy adds.
const (
	planeAnswer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
	planeEnd    = "\r\n\r\nok"
)

// planeEndpoint answers every request, cheaply, until the benchmark ends. It returns its address.
func planeEndpoint(b *testing.B) string {
	b.Helper()
	l, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				request := make([]byte, 16<<10)
				for n := 0; ; {
					m, err := c.Read(request[n:])
					if err != nil {
						return
					}
					if n += m; bytes.HasSuffix(request[:n], []byte("\r\n\r\n")) {
						n = 0
						if _, err := c.Write([]byte(planeAnswer)); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

func splitAddress(b *testing.B, address string) (host string, port uint32) {
	b.Helper()
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		b.Fatal(err)
	}
	return a.Addr().String(), uint32(a.Port())
}

// planeHost is the host of route i, as routeOf has it.
func planeHost(i int) string { return routeOf(i).GetRoute().GetHost() }

// planeHosts are so many of all hosts, or all that there are.
func planeHosts(n, routes int) (hosts []string) {
	n = min(n, routes)
	for i := range n {
		hosts = append(hosts, planeHost(i*routes/n))
	}
	return hosts
}

// planeCertificate is a certificate and its key for the hosts of all routes.
func planeCertificate(b *testing.B) []byte {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"*.example.com"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
}

// planeLoad is one kind of requests.
type planeLoad struct {
	name          string
	routes        int
	tls           bool
	unique        bool     // a URL that was never seen, each time
	returning     bool     // with the cookie that the host has set
	perConnection int      // requests on one connection; zero: all
	also          []string // planes that take part besides ours and the plain ones
}

// planeClients are the clients of one plane. They are few, and always busy.
type planeClients struct {
	b       *testing.B
	p       *plane
	load    planeLoad
	hosts   []string
	cookies []string // by host; empty: none
	tls     *tls.Config
	list    []*planeClient
	serial  int // of the next unique URL
}

type planeClient struct {
	all  *planeClients
	conn net.Conn
	sent int // on this connection
	out  []byte
	in   [16 << 10]byte
}

// newPlaneClients connects clients to a plane.
func newPlaneClients(b *testing.B, p *plane, load planeLoad) *planeClients {
	b.Helper()
	c := &planeClients{b: b, p: p, load: load, tls: &tls.Config{
		InsecureSkipVerify: true, ServerName: planeHost(0), ClientSessionCache: tls.NewLRUClientSessionCache(8),
	}}
	hosts := planeHostsN
	if load.unique {
		hosts = 256
	}
	c.hosts = planeHosts(hosts, load.routes)
	for range planeClientsN {
		c.list = append(c.list, &planeClient{all: c})
	}
	if load.returning && p.name != "bare" {
		c.learn()
	}
	return c
}

// learn asks every host once, and keeps the cookies.
func (c *planeClients) learn() {
	var cookies []string // not sent before all are known
	for i := range c.hosts {
		answer, err := c.list[0].ask(c.b.Context(), i)
		if err != nil {
			c.b.Fatal(err)
		}
		cookie := setCookie(answer)
		if cookie == "" {
			c.b.Fatalf("%s sets no cookie: %q", c.p.name, answer)
		}
		cookies = append(cookies, cookie)
	}
	c.cookies = cookies
}

// setCookie returns name and value of the cookie that an answer sets.
func setCookie(answer []byte) string {
	for line := range strings.Lines(string(answer)) {
		if name, value, _ := strings.Cut(line, ": "); strings.EqualFold(name, "set-cookie") {
			cookie, _, _ := strings.Cut(value, ";")
			return cookie
		}
	}
	return ""
}

// send has n requests answered.
func (c *planeClients) send(n int) {
	var all sync.WaitGroup
	for k, client := range c.list {
		first := c.serial + k
		all.Go(func() {
			for i := 0; i < n; i += len(c.list) {
				answer, err := client.ask(c.b.Context(), first+i)
				if err != nil {
					c.b.Errorf("%s: %v", c.p.name, err)
					return
				}
				if c.cookies != nil && setCookie(answer) != "" {
					c.b.Errorf("%s does not know its cookie: %q", c.p.name, answer)
					return
				}
			}
		})
	}
	all.Wait()
	c.serial += n
	if c.b.Failed() {
		c.b.FailNow()
	}
}

func (c *planeClients) close() {
	for _, client := range c.list {
		if client.conn != nil {
			client.conn.Close()
		}
	}
}

// ask sends request number i and returns the answer, which is good until the next one.
func (c *planeClient) ask(ctx context.Context, i int) ([]byte, error) {
	load := c.all.load
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	host := i % len(c.all.hosts)
	c.out = append(c.out[:0], "GET /api/v1/items"...)
	if load.unique {
		c.out = strconv.AppendInt(append(c.out, '/'), int64(i), 10)
	}
	c.out = append(append(c.out, " HTTP/1.1\r\nHost: "...), c.all.hosts[host]...)
	c.out = append(c.out, "\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"+
		"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n"+
		"Accept-Encoding: gzip, deflate, br, zstd\r\nReferer: https://www.example.com/start\r\nSec-Fetch-Mode: navigate\r\n"...)
	if c.all.cookies != nil {
		c.out = append(c.out, "Cookie: session=4d5b6ce0d1f84b0e; "...)
		c.out = append(append(c.out, c.all.cookies[host]...), "; theme=dark\r\n"...)
	}
	if _, err := c.conn.Write(append(c.out, "\r\n"...)); err != nil {
		return nil, err
	}
	c.sent++
	for n := 0; ; {
		m, err := c.conn.Read(c.in[n:])
		if err != nil {
			return nil, fmt.Errorf("%w after %q", err, c.in[:n])
		}
		if n += m; bytes.HasSuffix(c.in[:n], []byte(planeEnd)) {
			return c.in[:n], nil
		}
		if !bytes.HasPrefix(c.in[:n], []byte("HTTP/1.1 200 ")) {
			return nil, fmt.Errorf("an answer begins with %q", c.in[:n])
		}
	}
}

// connect makes a connection where there is none that may be used.
func (c *planeClient) connect(ctx context.Context) error {
	if c.conn != nil {
		if limit := c.all.load.perConnection; limit == 0 || c.sent < limit {
			return nil
		}
		c.conn.Close()
	}
	var err error
	c.sent = 0
	if c.all.load.tls {
		c.conn, err = (&tls.Dialer{Config: c.all.tls}).DialContext(ctx, "tcp", c.all.p.https)
	} else {
		c.conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", c.all.p.http)
	}
	return err
}
