package controlplane

import (
	"fmt"
	"testing"
	"time"

	routev1 "github.com/openshift/api/route/v1"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/release"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// serviceChanges are those of a Service and its slices, of which each has 1,000 endpoints at most.
func serviceChanges(name string, endpoints int) []cluster.Change {
	port, portName := int32(8080), "web"
	meta := metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}}
	changes := []cluster.Change{{
		Key: cluster.Key{Kind: cluster.Service, Namespace: "ns", Name: name},
		Object: &corev1.Service{
			ObjectMeta: meta, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: portName, Port: 80}}},
		},
	}}
	for from := 0; from < endpoints; from += 1000 {
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4,
			Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
		}
		slice.Name = fmt.Sprintf("%s-%d", name, from)
		for i := from; i < min(from+1000, endpoints); i++ {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 1+i>>16, i>>8&255, i&255)},
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: fmt.Sprintf("%s-%d", name, i)},
			})
		}
		key := cluster.Key{Kind: cluster.EndpointSlice, Namespace: "ns", Name: slice.Name}
		changes = append(changes, cluster.Change{Key: key, Object: slice})
	}
	return changes
}

func routeChange(i int, host, path, service string) cluster.Change {
	o := &routev1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("r", i)}}
	o.Spec.Host, o.Spec.Path = host, path
	o.Spec.To = routev1.RouteTargetReference{Kind: "Service", Name: service}
	return cluster.Change{Key: cluster.Key{Kind: cluster.Route, Namespace: "ns", Name: o.Name}, Object: o}
}

// cpu is what this process has taken of the processors so far: it does not depend on what else they do.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkBatch is what one batch of the source's changes costs the pipeline: to compile it, to look for a mishap in
// it, and to cut the next piece, in turns. During the longest of them nobody else's changes are looked at.
func BenchmarkBatch(b *testing.B) {
	for _, bulk := range []struct {
		name    string
		sizes   []int
		changes func(n int) []cluster.Change
	}{
		{"paths of one host", []int{5_000, 20_000}, func(n int) []cluster.Change {
			changes := serviceChanges("web", 2)
			for i := range n {
				changes = append(changes, routeChange(i, "x.example.com", fmt.Sprint("/p/", i), "web"))
			}
			return changes
		}},
		{"hosts with Services", []int{5_000, 20_000}, func(n int) (changes []cluster.Change) {
			for i := range n {
				name := fmt.Sprint("s", i)
				changes = append(append(changes, serviceChanges(name, 2)...), routeChange(i, name+".example.com", "", name))
			}
			return changes
		}},
		{"Services of 1,000 endpoints", []int{8, 100}, func(n int) (changes []cluster.Change) {
			for i := range n {
				name := fmt.Sprint("s", i)
				changes = append(append(changes, serviceChanges(name, 1000)...), routeChange(i, name+".example.com", "", name))
			}
			return changes
		}},
	} {
		for _, n := range bulk.sizes {
			b.Run(fmt.Sprintf("%s/n=%d", bulk.name, n), func(b *testing.B) {
				changes := bulk.changes(n)
				turns, longest, now := 0, time.Duration(0), time.Unix(0, 0)
				for b.Loop() {
					c, guard, pace := compile.New(compile.Config{Most: mostRoutes}), release.Guard{}, release.Pace{}
					turn := func(batch []cluster.Change) (later int) {
						begun := cpu(b)
						result := c.Apply(batch)
						s, _ := guard.Take(snapshot.New(1, result.Config, result.Facts), false, false, now)
						pace.Want(s)
						pace.Next(release.Routes)
						longest = max(longest, cpu(b)-begun)
						turns++
						return result.Later
					}
					turn(nil)
					for left := turn(changes); left > 0; {
						left = turn(nil)
					}
				}
				b.ReportMetric(float64(longest.Microseconds())/1000, "longest-cpu-ms")
				b.ReportMetric(float64(turns)/float64(b.N)-1, "turns/op")
			})
		}
	}
}
