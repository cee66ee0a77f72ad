package podtest

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"slices"
	"sync"
	"testing"
	"time"
)

// Load is a steady load on one URL: clients without cookies, and with.
type Load struct {
	stop func()

	mu    sync.Mutex
	since Answers // guarded by mu
	asked []int   // guarded by mu; by client, how many answers it has had
}

// Answers is what a Load was answered.
type Answers struct {
	Count   int
	Failed  []string // why
	Slowest time.Duration
	By      map[string]int // by the Pod's name
}

// NewLoad asks for a URL all the time, on a connection to the router's address for each request, whatever the URL's host
// is. It ends with the test, if not before.
func NewLoad(t testing.TB, url, address string, clients int) *Load {
	l := &Load{since: Answers{By: map[string]int{}}, asked: make([]int, clients)}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for n := range clients {
		c := client(address)
		if n%2 == 0 {
			c.Jar, _ = cookiejar.New(nil) // fails never
		}
		running.Go(func() {
			for ctx.Err() == nil {
				begun := time.Now()
				pod, err := get(ctx, c, url)
				if ctx.Err() != nil {
					return
				}
				l.took(n, pod, err, time.Since(begun))
				select {
				case <-time.After(5 * time.Millisecond): // the load's pace
				case <-ctx.Done():
				}
			}
		})
	}
	l.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(l.stop)
	return l
}

func (l *Load) took(client int, pod string, err error, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked[client]++
	l.since.Count++
	l.since.By[pod]++
	l.since.Slowest = max(l.since.Slowest, d)
	if err != nil {
		l.since.Failed = append(l.since.Failed, err.Error())
	}
}

// Stop ends the load. What was asked last may not be answered any more, and does not count.
func (l *Load) Stop() { l.stop() }

// Over waits until all that is under way was answered, and forgets what was answered until then.
func (l *Load) Over(t testing.TB) {
	t.Helper()
	l.mu.Lock()
	before := slices.Clone(l.asked)
	l.mu.Unlock()
	Eventually(t, "what was asked before is answered", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for i, n := range before {
			if l.asked[i] == n {
				return false
			}
		}
		return true
	})
	l.Answers()
}

// Answers returns what was answered since it was called last.
func (l *Load) Answers() Answers {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.since
	l.since = Answers{By: map[string]int{}}
	return a
}

// MustServe fails the test if there was a request since the last Answers that failed, or none.
func (l *Load) MustServe(t testing.TB, when string) Answers {
	t.Helper()
	a := l.Answers()
	if len(a.Failed) > 0 || a.Count == 0 {
		t.Errorf("%s: %d of %d requests failed, the first: %q", when, len(a.Failed), a.Count, append(a.Failed, "")[0])
	}
	t.Logf("%s: %d requests, the slowest %v, %v", when, a.Count, a.Slowest, a.By)
	return a
}

func client(address string) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, //nolint:gosec // which endpoint answers is told by the answer
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}}
}

func get(ctx context.Context, c *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d", res.StatusCode)
	}
	return string(body), err
}
