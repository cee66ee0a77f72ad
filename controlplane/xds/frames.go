package xds

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"google.golang.org/protobuf/encoding/protowire"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
	"github.com/tsuji-dev/tsuji/snapshot"
)

// Field numbers of envoy.service.discovery.v3, for what is encoded once and sent to many.
const (
	responseResources = 2 // DeltaDiscoveryResponse.resources
	responseRemoved   = 6 // DeltaDiscoveryResponse.removed_resources
	resourceVersion   = 1 // Resource.version
	resourceResource  = 2 // Resource.resource
	resourceName      = 3 // Resource.name
	anyTypeURL        = 1 // google.protobuf.Any.type_url
	anyValue          = 2 // google.protobuf.Any.value
)

// part is what one response of a series carries, its commit not included.
type part struct {
	encoded   []byte // the fields resources and removed_resources; shared by every stream, never changed
	resources int
	removed   int
}

// light is how large a part may be that is not counted while it is on its way, in bytes.
const light = 32 << 10

// cut encodes a difference into parts of at most limit bytes, and at least one part. A resource that is
// larger by itself has a part of its own. The last part is light, and may be empty: its answer comes only when the
// version is in force, and not when it was read.
func cut(d snapshot.Delta, limit int) []part {
	left := 0 // bytes not yet encoded
	entries := make([]entry, len(d.Put))
	for i, item := range d.Put {
		entries[i] = entryOf(item)
		left += entries[i].size()
	}
	for _, name := range d.Removed {
		left += removedSize(name)
	}
	var parts []part
	var p part
	room := func(n int) {
		if len(p.encoded) > 0 && len(p.encoded)+n > limit {
			parts = append(parts, p)
			p = part{}
		}
		if p.encoded == nil {
			p.encoded = make([]byte, 0, max(n, min(limit, left)))
		}
		left -= n
	}
	for _, name := range d.Removed {
		room(removedSize(name))
		p.encoded = protowire.AppendTag(p.encoded, responseRemoved, protowire.BytesType)
		p.encoded = protowire.AppendString(p.encoded, name)
		p.removed++
	}
	for _, e := range entries {
		room(e.size())
		p.encoded = e.append(p.encoded)
		p.resources++
	}
	if len(p.encoded) > light {
		parts, p = append(parts, p), part{}
	}
	return append(parts, p)
}

func removedSize(name string) int {
	return protowire.SizeTag(responseRemoved) + protowire.SizeBytes(len(name))
}

// entry is an item as a Resource of discovery, with the lengths of its nested messages.
type entry struct {
	item    snapshot.Item
	version string
	any     int // bytes of the Any
	body    int // bytes of the Resource
}

func entryOf(i snapshot.Item) entry {
	e := entry{item: i, version: i.Digest().String()}
	e.any = protowire.SizeTag(anyTypeURL) + protowire.SizeBytes(len(tsujiv1.TypeURL)) +
		protowire.SizeTag(anyValue) + protowire.SizeBytes(len(i.Encoded()))
	e.body = protowire.SizeTag(resourceVersion) + protowire.SizeBytes(len(e.version)) +
		protowire.SizeTag(resourceResource) + protowire.SizeBytes(e.any) +
		protowire.SizeTag(resourceName) + protowire.SizeBytes(len(i.Name()))
	return e
}

func (e entry) size() int { return protowire.SizeTag(responseResources) + protowire.SizeBytes(e.body) }

func (e entry) append(b []byte) []byte {
	b = protowire.AppendTag(b, responseResources, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(e.body))
	b = protowire.AppendTag(b, resourceVersion, protowire.BytesType)
	b = protowire.AppendString(b, e.version)
	b = protowire.AppendTag(b, resourceResource, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(e.any))
	b = protowire.AppendTag(b, anyTypeURL, protowire.BytesType)
	b = protowire.AppendString(b, tsujiv1.TypeURL)
	b = protowire.AppendTag(b, anyValue, protowire.BytesType)
	b = protowire.AppendBytes(b, e.item.Encoded())
	b = protowire.AppendTag(b, resourceName, protowire.BytesType)
	return protowire.AppendString(b, e.item.Name())
}

// frameKey names a difference by the contents of its two ends. From nothing at all, whole is set.
type frameKey struct {
	whole    bool
	from, to [2]snapshot.Digest
}

// frame is an encoded difference: built by the first who asks, while the others who ask wait for it.
type frame struct {
	once  sync.Once
	key   frameKey
	parts []part
	bytes int
	pins  map[*pin]struct{} // guarded by the frames' mu; who is being sent it
}

// frames holds the encoded differences that were asked for last, so that one costs the same however many
// routers receive it. It is safe for concurrent use.
type frames struct {
	part  int // the most bytes of a part
	most  int // the most bytes that are held, beyond the last one
	stray int // the most bytes that are held only because streams are being sent them

	mu     sync.Mutex
	held   *simplelru.LRU[frameKey, *frame] // guarded by mu
	bytes  int                              // guarded by mu; of all that is held and built
	strays strays                           // guarded by mu
}

// frameCount is how many differences are held at the most, however small: enough for routers at many
// different versions, a bound for the map.
const frameCount = 1024

func newFrames(partBytes, mostBytes, strayBytes int) *frames {
	f := &frames{part: partBytes, most: mostBytes, stray: strayBytes}
	held, err := simplelru.NewLRU(frameCount, func(_ frameKey, old *frame) {
		f.bytes -= old.bytes
		if len(old.pins) > 0 {
			f.strays.add(old)
		}
	})
	if err != nil {
		panic(err) // only a size that is not positive is refused
	}
	f.held = held
	return f
}

// between returns the encoded difference of two snapshots; with whole set, all of to.
func (f *frames) between(whole bool, from, to snapshot.Snapshot) *frame {
	key := frameKey{whole: whole, to: contentOf(to.Version())}
	if whole {
		from = snapshot.Snapshot{}
	} else {
		key.from = contentOf(from.Version())
	}
	f.mu.Lock()
	fr, ok := f.held.Get(key)
	if !ok {
		fr = &frame{key: key, pins: map[*pin]struct{}{}}
		f.held.Add(key, fr)
	}
	f.mu.Unlock()
	fr.once.Do(func() {
		fr.parts = cut(snapshot.Diff(from, to), f.part)
		f.account(fr)
	})
	return fr
}

// account counts a frame's bytes, and lets go of what was asked for longest ago while there are too many.
func (f *frames) account(fr *frame) {
	f.mu.Lock()
	for _, p := range fr.parts {
		fr.bytes += cap(p.encoded)
	}
	if f.holds(fr) { // it may have been let go of meanwhile
		f.bytes += fr.bytes
		for f.bytes > f.most && f.held.Len() > 1 {
			f.held.RemoveOldest()
		}
	}
	victims := f.strays.beyond(f.stray)
	f.mu.Unlock()
	giveWay(victims)
}

// holds tells whether a frame is among those that were asked for last. The caller holds mu.
func (f *frames) holds(fr *frame) bool {
	held, ok := f.held.Peek(fr.key)
	return ok && held == fr
}

func contentOf(v snapshot.Version) [2]snapshot.Digest {
	return [2]snapshot.Digest{v.Config, v.Facts}
}
