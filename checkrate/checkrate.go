// Package checkrate decides how often the health of a namespace's servers is checked, where its Routes ask for more
// checks than one namespace may have. Routers do as it says, and the control plane tells owners of Routes.
//
// It guarantees that the result is a function of what the Routes of the namespace ask for, and that what one Route asks
// for makes a difference to four others at most.
package checkrate

import (
	"math/bits"
	"time"
)

const (
	// perCheck is a check each second in the unit of rates.
	perCheck = 1 << 20
	// Most is how many checks a second the Routes of a namespace may have: a tenth of a core of HAProxy's.
	Most = 640
	// MostOfOne is what one of them may have, so that a large one leaves something to small ones.
	MostOfOne = 512
	// widest is the class of that.
	widest = 29
	// Longest is where an interval is not lengthened any more: 50,000 servers are 14 checks a second then.
	Longest = time.Hour
)

// Counts are how many Routes of a namespace there are of each class: one of class c asks for 2^c units at most, and for
// more than half as many.
type Counts [64]int

// Class returns how many checks a Route asks for, of which so many servers are to be checked so often; -1: for none.
func Class(servers int, interval time.Duration) int {
	if servers == 0 || interval <= 0 {
		return -1
	}
	units := uint64(servers) * uint64(time.Second/time.Millisecond) * perCheck
	each := uint64(max(1, interval/time.Millisecond))
	return bits.Len64((units+each-1)/each - 1)
}

// Add counts so many more Routes of a class.
func (c *Counts) Add(class, more int) {
	if class >= 0 {
		c[class] += more
	}
}

// Share is what each Route of a namespace may have. It is comparable.
type Share struct {
	base  int    // the class that each of them may have
	whole int    // those that ask for this class at most may have the next one
	last  string // so may those that ask for the class after that, up to this name
}

// Share returns what each Route may have so that all together have no more than the bound: as large a class as all may
// have, and the next one for as many as there is room for, those first that ask for less. So those that ask for little
// keep what they ask for, whatever others do, and room that comes or goes makes a difference to as many Routes as it has
// room for. names returns those that ask for a class, sorted; it may be called once.
func (c *Counts) Share(names func(class int) []string) Share {
	base, left := widest, 0
	for ; base >= 0; base-- {
		left = Most * perCheck
		for class, n := range c {
			left -= n << min(class, base)
		}
		if left >= 0 {
			break
		}
	}
	s := Share{base: max(base, 0), whole: max(base, 0)}
	if base < 0 || base == widest {
		return s
	}
	for room := left >> s.base; s.whole+1 < len(c); s.whole++ {
		n := c[s.whole+1]
		if n > room {
			if room > 0 {
				s.last = names(s.whole + 1)[room-1]
			}
			break
		}
		room -= n
	}
	return s
}

// Doublings returns how often the interval of a Route that asks for a class is doubled.
func (s Share) Doublings(name string, class int, interval time.Duration) int {
	allowed := s.base
	if class > s.base && (class <= s.whole || class == s.whole+1 && name <= s.last) {
		allowed++
	}
	n := 0
	for class-n > allowed && interval<<n < Longest {
		n++
	}
	return n
}
