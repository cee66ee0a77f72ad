package controlplane

import (
	"maps"
	"slices"
	"time"

	"github.com/tsuji-dev/tsuji/controlplane/cluster"
	"github.com/tsuji-dev/tsuji/controlplane/compile"
	"github.com/tsuji-dev/tsuji/controlplane/release"
)

// defaultIngressController is served even if there never was such an object: a plain directory of Routes has none.
const defaultIngressController = "default"

// ingressController is one that is served: it has an object, or had one and has routers yet.
type ingressController struct {
	name     string
	compiler *compile.Compiler // nil: to be made
	faults   []cluster.Fault   // of the last compilation
	guard    release.Guard
	held     *release.Held // nil: nothing is
	pace     release.Pace
	due      time.Time // when something goes that waits for routers' answers, whoever has not answered; zero: nothing does

	later int // Routes that the next compilation looks at

	sent       time.Time // when something else was published last
	unanswered int       // what that weighs, with all before it that some routers had not answered

	quarantined compile.Holds // what its routers refuse
	until       time.Time     // when that changes by itself; zero: it does not

	// objects are those of its name, in whatever namespace, as its compiler has them. The last one that is deleted
	// stays here: what a selector or a CA of clients has closed must not open because its object is gone.
	objects map[cluster.Key]cluster.Change
	left    time.Time // when the last of its objects went; zero: there is one, or there never was
}

// take returns those of a batch's changes that are for its compiler: all but the deletion of its last object, which
// goes to the compiler when there is another one, or never.
func (c *ingressController) take(changes []cluster.Change, now time.Time) []cluster.Change {
	left, touched := map[cluster.Key]cluster.Change{}, false // what there is then; whether any of it is in the batch
	if c.left.IsZero() {
		maps.Copy(left, c.objects)
	}
	for _, ch := range changes {
		if !ofIngressController(ch.Key, c.name) {
			continue
		}
		touched = true
		if ch.Object == nil {
			delete(left, ch.Key)
		} else {
			left[ch.Key] = ch
		}
	}
	if !touched {
		return changes
	}
	if len(left) == 0 {
		if len(c.objects) > 0 && c.left.IsZero() {
			c.left = now
		}
		return slices.DeleteFunc(slices.Clone(changes),
			func(ch cluster.Change) bool { return ofIngressController(ch.Key, c.name) })
	}
	var due []cluster.Change // what the compiler was not told when the last one went
	for k := range c.objects {
		if _, ok := left[k]; !ok {
			due = append(due, cluster.Change{Key: k})
		}
	}
	c.objects, c.left = left, time.Time{}
	return append(due, changes...)
}

func ofIngressController(k cluster.Key, name string) bool {
	return k.Kind == cluster.IngressController && k.Name == name
}

// key names its object; of several the one in OpenShift's namespace, which is the one that counts in compile, or else
// the first. It is the one in OpenShift's namespace, too, if there is none.
func (c *ingressController) key() cluster.Key {
	keys := slices.SortedFunc(maps.Keys(c.objects), cluster.Key.Compare)
	if k := ingressControllerKey(c.name); len(keys) == 0 || slices.Contains(keys, k) {
		return k
	}
	return keys[0]
}

// annotation returns what its object says; empty: nothing.
func (c *ingressController) annotation(name string) string {
	if o, ok := c.objects[c.key()]; ok {
		return o.Object.GetAnnotations()[name]
	}
	return ""
}

// again returns when there may be something to do though nothing changed; a zero time: never.
func (c *ingressController) again(keep time.Duration, now time.Time) []time.Time {
	_, permitted, _ := release.Allowed(c.annotation(allowAnnotation), now)
	at := []time.Time{c.guard.Again(), permitted, c.until, c.due}
	if c.later > 0 {
		at = append(at, now)
	}
	if !c.left.IsZero() {
		at = append(at, now.Add(keep/10)) // the last of its routers may leave at any time
	}
	return at
}

// over tells whether its object has been gone for so long that only routers of its own can keep it.
func (c *ingressController) over(keep time.Duration, now time.Time) bool {
	return !c.left.IsZero() && now.Sub(c.left) >= keep
}

// ingressControllerKey is where OpenShift has its IngressControllers.
func ingressControllerKey(name string) cluster.Key {
	return cluster.Key{Kind: cluster.IngressController, Namespace: "openshift-ingress-operator", Name: name}
}
