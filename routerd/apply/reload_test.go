package apply_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/test/haproxytest"
)

// What a reload costs clients that keep their connections. Where idle connections are closed only after a last response
// it costs nothing. Where they are closed at once, as OpenShift has it, a request may be on its way to a connection that
// is being closed: a client may send it again if it is a GET, and Go's does; a POST fails, but no endpoint has seen it.
func TestReloadKeptConnections(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, binary string) {
		for policy, deferred := range map[string]bool{"Immediate": false, "Deferred": true} {
			t.Run(policy, func(t *testing.T) { keptConnectionsStory(t, binary, deferred) })
		}
	})
}

func keptConnectionsStory(t *testing.T, binary string, deferred bool) {
	const reloads, clients = 10, 4
	w := newWorld(t, binary)
	r := w.router(options{})
	var seen sync.Map // requests that came to the endpoint
	ep := endpoints("a", serveHandler(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		seen.Store(r.Header.Get("X-Request"), true)
	})))
	load := func(round int) {
		t.Helper()
		r.put(route("a"), ep, &tsujiv1.Resource{Name: tsujiv1.SettingsName, Kind: &tsujiv1.Resource_Settings{Settings: &tsujiv1.Settings{
			IdleCloseOnResponse: deferred, Tuning: &tsujiv1.Tuning{MaxConnections: uint32(500 + round)},
		}}})
	}
	load(0)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var work sync.WaitGroup
	var sent, failed [2]atomic.Int64 // GETs, POSTs
	for n := range 2 * clients {
		kind, method := n%2, []string{http.MethodGet, http.MethodPost}[n%2]
		work.Go(func() {
			transport := &http.Transport{} // of its own: one connection that is kept
			defer transport.CloseIdleConnections()
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("%d-%d", n, i)
				err := request(transport, method, w.http, id)
				sent[kind].Add(1)
				if err == nil {
					continue
				}
				if failed[kind].Add(1); kind == 0 || deferred {
					t.Errorf("%s %s: %v", method, id, err)
				}
				if _, came := seen.Load(id); came {
					t.Errorf("%s %s failed (%v), though it came to the endpoint", method, id, err)
				}
			}
		})
	}
	for round := range reloads {
		before := [2]int64{sent[0].Load(), sent[1].Load()}
		eventually(t, "clients are at it", func() bool { return sent[0].Load() > before[0]+100 && sent[1].Load() > before[1]+100 })
		load(round + 1)
	}
	stop()
	work.Wait()
	if n := r.reloads(); n != reloads {
		t.Errorf("%v reloads", n)
	}
	t.Logf("%d of %d GETs and %d of %d POSTs failed over %d reloads", failed[0].Load(), sent[0].Load(), failed[1].Load(), sent[1].Load(), reloads)
}

// request sends one request with a body over the connection that is kept.
func request(transport *http.Transport, method, address, id string) error {
	req, err := http.NewRequest(method, "http://"+address+"/", nil)
	if err != nil {
		return err
	}
	if method == http.MethodPost {
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader("body")), 4
	}
	req.Host = "a.test"
	req.Header.Set("X-Request", id)
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("%d: %w", res.StatusCode, err)
	}
	return nil
}
