package test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

// What one sample is made of. A sample is short, and those of all configurations take turns in random order, so that a
// machine that is slow for a while is slow for all of them. Each is begun with some requests that are not counted: the
// caches are another process's. Both numbers of requests are multiples of the number of clients.
const (
	planeRounds   = 10 // four times as many at 10,000 routes, for which there is an aim
	planeClientsN = 16
	planeHostsN   = 64 // that repeated URLs are on
	planeRequests = 75 * planeClientsN
	planeWarmUp   = 20 * planeClientsN
)

// BenchmarkDataPlane is the CPU time that a worker of HAProxy with one thread takes for a request, the medians of many
// short samples, in µs:
//
//	ours    what routerd renders, for routes without options. OpenShift's defaults are no options: a sticky cookie
//	        of the route's own, forwarded headers appended.
//	equal   a plain configuration, written here: one map_str on the host, and otherwise what ours does for every
//	        request, as fixed text: the same forwarded headers, and a cookie of the same name.
//	bare    equal without those headers (but X-Forwarded-For) and without a cookie
//	regex   equal, but routed by one map_reg over all routes, of the two that OpenShift's router asks over HTTP. At
//	        1,000 only: at 10,000 it takes ms.
//
// and at 10,000 routes, where it says something:
//
//	passed  ours with a passthrough route besides, for which TLS takes two hops
//	added   ours, the asked routes added at run time: their cookie is data
//	options ours with HSTS, a timeout, a rewrite, an allow list and a rate limit for every route
//
// ratio is ours to equal, the median of those of each round, and the others' ratios likewise. Repeated URLs are 64; unique
// ones are new each time, on up to 256 hosts: what differs is the way to a backend, not whether there is a connection to it
// already.
//
// new-client sends no cookie and is given one; returning-client sends its own among others (none to bare). tls-resumed
// makes a new connection for every eighth request, and resumes the session.
func BenchmarkDataPlane(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // clients and endpoints are one thread, and have one core
	cores := newPlaneCores(b)
	pods := []string{planeEndpoint(b), planeEndpoint(b)}
	for _, n := range []int{100, 1_000, 10_000} {
		planes := startPlanes(b, cores, n, pods)
		for _, load := range []planeLoad{
			{name: "http/unique/new-client", unique: true, also: []string{"regex"}},
			{name: "http/repeated/new-client", also: []string{"bare", "regex", "added", "options"}},
			{name: "tls/unique/new-client", tls: true, unique: true},
			{name: "tls/repeated/new-client", tls: true, also: []string{"passed"}},
			{name: "http/repeated/returning-client", returning: true, also: []string{"added"}},
			{name: "tls/repeated/returning-client", tls: true, returning: true},
			{name: "tls-resumed/repeated/new-client", tls: true, perConnection: 8, also: []string{"passed"}},
		} {
			if n < 10_000 && (load.returning || load.perConnection > 0) {
				continue
			}
			load.routes = n
			b.Run(fmt.Sprintf("routes=%d/%s", n, load.name), func(b *testing.B) { benchmarkPlanes(b, planes, load) })
		}
		for _, p := range planes {
			p.stop()
		}
	}
}

func benchmarkPlanes(b *testing.B, all []*plane, load planeLoad) {
	var planes []*plane
	for _, p := range all {
		if p.name == "ours" || p.name == "equal" || slices.Contains(load.also, p.name) {
			planes = append(planes, p)
		}
	}
	var clients []*planeClients
	for _, p := range planes {
		c := newPlaneClients(b, p, load)
		clients = append(clients, c)
		c.send(len(c.hosts) * planeClientsN) // connections to endpoints are made
	}
	defer func() {
		for _, c := range clients {
			c.close()
		}
	}()
	rounds := planeRounds
	if load.routes >= 10_000 {
		rounds *= 4
	}
	samples := make([][]float64, len(planes))
	for b.Loop() {
		for range rounds {
			for _, i := range rand.Perm(len(planes)) {
				clients[i].send(planeWarmUp)
				before := planes[i].cpu()
				clients[i].send(planeRequests)
				spent := planes[i].cpu() - before
				samples[i] = append(samples[i], float64(spent.Nanoseconds())/1e3/planeRequests)
			}
		}
	}
	for i, p := range planes {
		b.ReportMetric(median(samples[i]), p.name+"-µs/req")
		var ratios []float64
		for round, equal := range samples[1] {
			ratios = append(ratios, samples[i][round]/equal)
		}
		switch {
		case i == 0:
			b.ReportMetric(median(ratios), "ratio")
		case slices.Contains(load.also, p.name):
			b.ReportMetric(median(ratios), p.name+"-ratio")
		}
	}
	b.ReportMetric(0, "ns/op") // says nothing: of samples, not of requests
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}
