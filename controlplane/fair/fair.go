// Package fair shares what is scarce among peers.
//
// It guarantees that whoever holds most gives way first: an identity, and of one identity a host. So who comes and
// holds nothing finds room, however much others ask for, while they are not very many.
//
// Do not assume that peers get equal shares: who asks for less leaves the rest to others.
package fair

import (
	"net"
	"net/netip"
	"sync"
)

// Peer is who asks for something.
type Peer struct {
	Identity string // of its certificate; routers may share one
	Host     string // where it connects from: see [HostOf]
}

// HostOf returns the host of an address, by which peers of one identity are told apart: an IPv4 address, or the network
// of 64 bits that one machine has all addresses of in IPv6. Empty: there is none, as with a unix socket.
func HostOf(address string) string {
	text, _, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return text
	}
	if ip = ip.Unmap().WithZone(""); ip.Is4() {
		return ip.String()
	}
	network, err := ip.Prefix(64)
	if err != nil {
		return ip.String()
	}
	return network.String()
}

// Places are a bounded number of places for each of many keys. It is safe for concurrent use.
type Places struct {
	mu  sync.Mutex
	all map[string]map[string][]*Place // guarded by mu; by key and host, those taken first before others
}

// Place is one that is taken.
type Place struct {
	of        *Places
	key, host string
	giveWay   func()
}

// NewPlaces makes an empty set.
func NewPlaces() *Places { return &Places{all: map[string]map[string][]*Place{}} }

// Enter takes a place of a key, of which there are as many as most says. Where all are taken the oldest of the host
// with the most places gives way, which its giveWay is called for, if the newcomer's host has fewer then all the same.
// If not, ok is false.
func (p *Places) Enter(key, host string, most int, giveWay func()) (place *Place, ok bool) {
	place, victim := p.enter(key, host, most, giveWay, false)
	if victim != nil {
		victim.giveWay()
	}
	return place, place != nil
}

// Push takes a place as Enter does, but the oldest gives way to a newcomer of its own host too: for what is held for a
// short time by whoever is honest.
func (p *Places) Push(key, host string, most int, giveWay func()) *Place {
	place, victim := p.enter(key, host, most, giveWay, true)
	if victim != nil {
		victim.giveWay()
	}
	return place
}

func (p *Places) enter(key, host string, most int, giveWay func(), push bool) (place, victim *Place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken, busiest := 0, host
	for h, places := range p.all[key] {
		taken += len(places)
		if n := len(p.all[key][busiest]); len(places) > n || len(places) == n && h < busiest && busiest != host {
			busiest = h
		}
	}
	if taken >= most {
		if !push && len(p.all[key][host])+1 >= len(p.all[key][busiest]) {
			return nil, nil
		}
		victim = p.all[key][busiest][0]
		victim.leave()
	}
	if p.all[key] == nil {
		p.all[key] = map[string][]*Place{}
	}
	place = &Place{of: p, key: key, host: host, giveWay: giveWay}
	p.all[key][host] = append(p.all[key][host], place)
	return place, victim
}

// Leave gives a place back. It may be called more than once.
func (pl *Place) Leave() {
	pl.of.mu.Lock()
	defer pl.of.mu.Unlock()
	pl.leave()
}

// leave is Leave for who holds mu.
func (pl *Place) leave() {
	hosts := pl.of.all[pl.key]
	places := hosts[pl.host]
	for i, other := range places {
		if other == pl {
			hosts[pl.host] = append(places[:i:i], places[i+1:]...)
			break
		}
	}
	if len(hosts[pl.host]) == 0 {
		delete(hosts, pl.host)
	}
	if len(hosts) == 0 {
		delete(pl.of.all, pl.key)
	}
}
