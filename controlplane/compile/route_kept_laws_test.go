package compile_test

import (
	"bytes"
	"encoding/pem"
	"strings"
	"testing"

	routev1 "github.com/openshift/api/route/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// external draws a Route with the certificate of a Secret, from a world of few.
func (u universe) external(t *rapid.T) metav1.Object {
	r := &routev1.Route{ObjectMeta: meta(t, "r1", "r2", "r3")}
	r.UID = types.UID(pick(t, "uid", "a", "a", "a", "b"))
	r.Labels = map[string]string{"shard": pick(t, "shard", "a", "a", "a", "b")}
	r.Spec.Host = r.Name + pick(t, "host", ".example.com", ".example.com", ".example.com", ".w.example.com")
	r.Spec.Path = pick(t, "path", "", "/p", "wrong")
	r.Spec.To = routev1.RouteTargetReference{Kind: "Service", Name: pick(t, "to", "s1", "s2")}
	r.Spec.TLS = &routev1.TLSConfig{
		Termination:         routev1.TLSTerminationEdge,
		ExternalCertificate: &routev1.LocalObjectReference{Name: pick(t, "secret", "t1", "t1", "t1", "t2")},
		CACertificate:       pick(t, "ca", "", "", "", u.certs["ca.crt"]),
	}
	return r
}

// keptModel is what may be kept for a Route, by what happened to it and to its Secret alone.
type keptModel struct {
	wants string // object, host and reference; what was seen is for this
	seen  bool   // since that is so, and the right to read the Secret is there, the Secret was good
}

// Whatever happens, in whatever order: a Route has another certificate than that of its Secret only if that cannot be used,
// and then the one that this Secret had last; only if it was good for this object, host and reference; and never after the
// right to read it was withdrawn. A Secret that vanishes takes no Route away. And what is kept is an input.
func TestWhatStaysIsTheRoutesOwn(t *testing.T) {
	t.Parallel()
	u := newUniverse(t)
	stayed := 0
	law := func(t *rapid.T) {
		reader := pick(t, "reader", cluster.Reader{}, cluster.Reader{}, router)
		w := newWorld(reader)
		w.apply()
		model := map[cluster.Key]keptModel{}
		last := map[cluster.Key][]byte{} // what Secrets had when they were last good
		kinds := []func(*rapid.T) metav1.Object{u.external, u.external, u.secret, u.secret, u.secret, u.ingressController, u.ingress, u.ingressClass}
		if reader == router {
			kinds = append(kinds, u.role, u.role, u.binding)
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			var changes []cluster.Change
			for range pick(t, "changes", 1, 1, 1, 3) {
				o := pick(t, "kind", kinds...)(t)
				if c := put(o); pick(t, "gone", false, false, true) {
					changes = append(changes, gone(o))
				} else {
					changes = append(changes, c)
				}
			}
			before := map[cluster.Key]*tsujiv1.RouteVerdict{}
			for k, v := range w.verdicts {
				before[k] = v
			}
			w.apply(changes...)
			checkReferences(t, w.last)
			stayed += checkKept(t, w, model, last)
			if len(changes) == 1 && changes[0].Key.Kind == cluster.Secret {
				for k, v := range before {
					if v.GetAdmitted() && !w.verdicts[k].GetAdmitted() && !strings.Contains(w.verdicts[k].GetMessage(), "caCertificate") {
						t.Errorf("%v took %s away: %v", changes[0].Key, k, w.verdicts[k])
					}
				}
			}
		}
		fresh, _ := fromNothing(t, w, reader)
		equal(t, w, fresh)
	}
	for range 8 { // in one of fifteen nothing stays
		rapid.Check(t, law)
	}
	if stayed == 0 {
		t.Error("nothing ever stayed")
	}
}

// checkKept follows what may be kept, and compares what is. It returns how many Routes have something that is.
func checkKept(t *rapid.T, w *world, model map[cluster.Key]keptModel, last map[cluster.Key][]byte) (stayed int) {
	t.Helper()
	for k, o := range w.objects {
		if s, ok := o.(*corev1.Secret); ok && s.Type == corev1.SecretTypeTLS {
			if block, _ := pem.Decode(s.Data["tls.crt"]); block != nil {
				last[k] = block.Bytes
			}
		}
	}
	for k := range model {
		if w.objects[k] == nil {
			delete(model, k)
		}
	}
	for k, o := range w.objects {
		r, ok := o.(*routev1.Route)
		if !ok || r.Spec.TLS == nil {
			continue
		}
		name := cluster.Key{Kind: cluster.Secret, Namespace: r.Namespace, Name: r.Spec.TLS.ExternalCertificate.Name}
		v := w.verdicts[k]
		m := keptModel{wants: strings.Join([]string{string(r.UID), v.GetHost(), name.Name, r.Spec.TLS.CACertificate}, "\x00")}
		if was := model[k]; was.wants == m.wants && !strings.Contains(v.GetMessage(), "Forbidden") {
			m.seen = was.seen
		}
		s, _ := w.objects[name].(*corev1.Secret)
		good := s != nil && s.Type == corev1.SecretTypeTLS && len(s.Data["tls.key"]) > 0
		m.seen = (m.seen || good) && !strings.Contains(v.GetMessage(), "Forbidden")
		model[k] = m
		if !v.GetAdmitted() {
			continue
		}
		stale := len(v.GetLastGood()) > 0
		if stale {
			stayed++
		}
		item, _ := w.last.Config.Get(tsujiv1.RouteName(r.Namespace, r.Name))
		route, err := tsujiv1.Decode(item)
		if err != nil {
			t.Fatal(err)
		}
		item, _ = w.last.Facts.Get(route.GetRoute().GetCertificate())
		certificate, err := tsujiv1.Decode(item)
		if err != nil {
			t.Fatal(err)
		}
		leaf, _ := pem.Decode(certificate.GetCertificate().GetChainPem())
		if stale == good || stale && !m.seen || leaf == nil || !bytes.Equal(leaf.Bytes, last[name]) {
			t.Errorf("%s is served with another certificate than it may have: good %t, model %v, verdict %v", k, good, m, v)
		}
	}
	return stayed
}
