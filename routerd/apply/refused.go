package apply

import (
	"errors"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/routerd/render"
	"github.com/tsuji-dev/tsuji/snapshot"
)

const (
	refusalsKept = 4096            // contents that are remembered
	refusalsLast = 5 * time.Minute // what HAProxy may refuse because of something else with it is tried again after that
)

// refusals remembers what HAProxy has refused, by resource and content, in this life of routerd: what is offered again
// is refused without being tried. Other Settings may change what HAProxy says, another release comes with another
// routerd's life.
type refusals struct {
	list *lru.Cache[refusalKey, refusalMade]
}

type refusalKey struct {
	resource          string
	content, settings snapshot.Digest
}

type refusalMade struct {
	err   *render.ResourceError
	until time.Time // zero: for good
}

func newRefusals() refusals {
	list, err := lru.New[refusalKey, refusalMade](refusalsKept)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return refusals{list}
}

// key returns what a resource's content is remembered by; false: the snapshot does not have it.
func (r refusals) key(s snapshot.Snapshot, resource string) (refusalKey, bool) {
	k := refusalKey{resource: resource}
	i, ok := s.Get(resource)
	if !ok {
		return k, false
	}
	k.content = i.Digest()
	if settings, ok := s.Get(tsujiv1.SettingsName); ok {
		k.settings = settings.Digest()
	}
	return k, true
}

// known returns the refusals of what a difference brings of a snapshot, joined; nil: it brings nothing that was
// refused.
func (r refusals) known(next snapshot.Snapshot, d snapshot.Delta) error {
	if r.list.Len() == 0 {
		return nil
	}
	var errs []error
	now := time.Now()
	for _, i := range d.Put {
		k, _ := r.key(next, i.Name())
		made, ok := r.list.Get(k)
		switch {
		case !ok:
		case !made.until.IsZero() && now.After(made.until):
			r.list.Remove(k)
		default:
			errs = append(errs, made.err)
		}
	}
	return errors.Join(errs...)
}

// add remembers whose content was refused. What HAProxy says of a certificate depends on nothing else.
func (r refusals) add(next snapshot.Snapshot, err error) {
	each(err, func(e *render.ResourceError) {
		k, ok := r.key(next, e.Resource)
		if !ok {
			return
		}
		made := refusalMade{err: e}
		if !strings.HasPrefix(e.Resource, "cert/") {
			made.until = time.Now().Add(refusalsLast)
		}
		r.list.Add(k, made)
	})
}
