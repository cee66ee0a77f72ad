package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/cluster/manifests"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// compiled is what a control plane with --source=dir would make of manifests.
type compiled struct {
	manifests.Contents
	verdicts []*tsujiv1.RouteVerdict // by namespace and name
	snapshot snapshot.Snapshot
	now      time.Time // when that was
}

// compileFiles reads and compiles manifests for one IngressController.
func compileFiles(ctx context.Context, w world, paths []string, ingressController string) (*compiled, error) {
	// As with a directory source, endpoints on this machine are let in.
	config := compile.Config{IngressController: ingressController, AllowLoopbackEndpoints: true}
	if err := config.Validate(); err != nil {
		return nil, usagef("--ingress-controller: %v", err)
	}
	m, err := manifests.Read(ctx, paths, w.in)
	if err != nil {
		return nil, usageError{err.Error()}
	}
	if len(m.Changes) == 0 && len(m.Faults) == 0 {
		m.Faults = []cluster.Fault{{
			Place: strings.Join(paths, " "), Message: "there is no object in it",
			Remedy: "give manifests of " + kinds(),
		}}
	}
	r := compile.New(config).Apply(m.Changes)
	served := snapshot.New(0, r.Config, r.Facts)
	for _, f := range slices.Concat(r.Faults, compile.PassingFaults("IngressController "+ingressController, served, w.now())) { // of the IngressController, which compile names; here it stands in a file
		for key, at := range m.Places {
			if key.String() == f.Place {
				f.Message, f.Place, f.Line = key.String()+": "+f.Message, at.Path, at.Line
				break
			}
		}
		m.Faults = append(m.Faults, f)
	}
	return &compiled{Contents: m, verdicts: r.Verdicts, snapshot: served, now: w.now()}, nil
}

// told returns the verdicts with what a control plane tells beside them. Manifests without any EndpointSlice do not
// mean that there are none.
func (c *compiled) told() []*tsujiv1.RouteVerdict {
	s := c.snapshot
	if !slices.ContainsFunc(c.Changes, func(ch cluster.Change) bool { return ch.Key.Kind == cluster.EndpointSlice }) {
		s = snapshot.Snapshot{}
	}
	told, passing := make([]*tsujiv1.RouteVerdict, 0, len(c.verdicts)), compile.NewPassing(s, c.now)
	for _, v := range c.verdicts {
		v = proto.CloneOf(v)
		v.Warnings = append(v.Warnings, passing.Of(v)...)
		told = append(told, v)
	}
	return told
}

// kinds lists the kinds of object that are read.
func kinds() string {
	var names []string
	for _, k := range cluster.Kinds() {
		if k == cluster.IngressConfig { // not what it is called in a manifest
			k = "Ingress (of config.openshift.io)"
		}
		names = append(names, string(k))
	}
	return strings.Join(names, ", ")
}

// writtenIn returns the key of the object that a Route is in: itself, or the Ingress that it was made of.
func writtenIn(v *tsujiv1.RouteVerdict) cluster.Key {
	if s := v.GetSource(); s != nil {
		return cluster.Key{Kind: cluster.Kind(s.GetKind()), Namespace: v.GetNamespace(), Name: s.GetName()}
	}
	return cluster.Key{Kind: cluster.Route, Namespace: v.GetNamespace(), Name: v.GetName()}
}

// written returns the same for a Route by its name.
func (c *compiled) written(namespace, name string) cluster.Key {
	at := &tsujiv1.RouteVerdict{Namespace: namespace, Name: name}
	if i, ok := slices.BinarySearchFunc(c.verdicts, at, func(a, b *tsujiv1.RouteVerdict) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	}); ok {
		at = c.verdicts[i]
	}
	return writtenIn(at)
}

// refused counts the Routes that are not admitted.
func (c *compiled) refused() int {
	n := 0
	for _, v := range c.verdicts {
		if !v.GetAdmitted() {
			n++
		}
	}
	return n
}

// leftOut tells, for people, what of the manifests is not in the snapshot; empty: nothing.
func (c *compiled) leftOut() string {
	var parts []string
	if n := len(c.Faults); n > 0 {
		parts = append(parts, count(n, "fault"))
	}
	if n := c.refused(); n > 0 {
		parts = append(parts, count(n, "refused Route"))
	}
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf("left out: %s; tsuji lint tells more", strings.Join(parts, ", "))
}
