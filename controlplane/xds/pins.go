package xds

import (
	"slices"

	"github.com/tsuji-dev/tsuji/controlplane/fair"
)

// pin holds a frame for a stream that is being sent it.
type pin struct {
	frame   *frame
	peer    fair.Peer
	giveWay func() // ends the stream
}

// strays are the frames that are held only because they are pinned, in the order in which they became so. A stream that
// answers slowly pins one, and whoever opens many streams while versions come and go could pin as many.
type strays struct {
	frames []*frame
	bytes  int
}

// pin holds a frame until it is released. If too many bytes are held only for streams, some of them give way.
func (f *frames) pin(fr *frame, peer fair.Peer, end func()) *pin {
	p := &pin{frame: fr, peer: peer, giveWay: end}
	f.mu.Lock()
	fr.pins[p] = struct{}{}
	if !f.holds(fr) && !slices.Contains(f.strays.frames, fr) {
		f.strays.add(fr)
	}
	victims := f.strays.beyond(f.stray)
	f.mu.Unlock()
	giveWay(victims)
	return p
}

// release lets go of what is pinned. It may be called more than once, and with nil.
func (f *frames) release(p *pin) {
	if p == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.strays.release(p)
}

func giveWay(victims []*pin) {
	for _, v := range victims {
		v.giveWay()
	}
}

func (s *strays) add(fr *frame) {
	s.frames = append(s.frames, fr)
	s.bytes += fr.bytes
}

func (s *strays) release(p *pin) {
	delete(p.frame.pins, p)
	if i := slices.Index(s.frames, p.frame); i >= 0 && len(p.frame.pins) == 0 {
		s.frames = slices.Delete(s.frames, i, i+1)
		s.bytes -= p.frame.bytes
	}
}

// beyond releases pins until no more bytes are held than most, and returns whose. Of the identity that holds most, and
// of its host that does, the oldest goes first: who holds little is not harmed by others.
func (s *strays) beyond(most int) (victims []*pin) {
	for s.bytes > most {
		held := map[fair.Peer]int{} // by peer, and with no host of all of an identity
		for _, fr := range s.frames {
			counted := map[fair.Peer]bool{}
			for p := range fr.pins {
				for _, of := range []fair.Peer{p.peer, {Identity: p.peer.Identity}} {
					if !counted[of] {
						counted[of] = true
						held[of] += fr.bytes
					}
				}
			}
		}
		var most *pin
		for _, fr := range s.frames {
			for p := range fr.pins {
				if most == nil || more(held, p.peer, most.peer) {
					most = p
				}
			}
		}
		for p := range most.frame.pins {
			if p.peer == most.peer {
				s.release(p)
				victims = append(victims, p)
			}
		}
	}
	return victims
}

// more tells whether a's identity holds more than b's, or its host does if they are equal.
func more(held map[fair.Peer]int, a, b fair.Peer) bool {
	if x, y := held[fair.Peer{Identity: a.Identity}], held[fair.Peer{Identity: b.Identity}]; x != y {
		return x > y
	}
	return held[a] > held[b]
}
