package release

import (
	"fmt"

	"github.com/tsuji-dev/tsuji/snapshot"
)

// A drop of fewer routes than this is never held: small clusters change by halves all the time.
const smallDrop = 20

// Held says that a snapshot was kept from routers because it would drop most of their routes at once, as a source
// that lost its objects does. It is let through when the drop is gone, or allowed.
type Held struct {
	Config snapshot.Digest // of the config that is held
	Before int             // routes that are served
	After  int             // routes that it would leave
}

// Allow is what allows the drop: the beginning of the digest of just this config, so that no permission is left behind
// for another.
func (h Held) Allow() string { return h.Config.Short() }

// String tells what is held.
func (h Held) String() string {
	return fmt.Sprintf("%d of %d routes would go at once", h.Before-h.After, h.Before)
}

// Guard returns what may take current's place when next was compiled: next, as a rule. If that would drop more than half
// of the routes, and more than 20, and allow is not what [Held.Allow] asks for, the config stays; facts flow all the
// same, and those that only the config that stays needs are kept.
func Guard(current, next snapshot.Snapshot, allow string) (snapshot.Snapshot, *Held) {
	// The Settings are always there, so the difference of lengths is that of routes.
	before, after := current.Config().Len()-1, next.Config().Len()-1
	if before-after <= smallDrop || 2*after >= before {
		return next, nil
	}
	h := &Held{Config: next.Config().Digest(), Before: before, After: after}
	if allow == h.Allow() {
		return next, nil
	}
	facts := next.Facts().Edit()
	for _, name := range snapshot.DiffSets(current.Facts(), next.Facts()).Removed {
		if kept, ok := current.Facts().Get(name); ok {
			facts.Put(kept)
		}
	}
	return snapshot.New(next.Version().Revision, current.Config(), facts.Set()), h
}
