package snapshot

import (
	"crypto/sha256"
	"encoding/binary"
	"iter"
	"slices"
	"strings"
)

// The trie: depth levels of fanout children, chosen by the nibbles of a hash of the name, then a leaf
// with the few items that share them. The depth is fixed so that a set's form depends on its content
// only. 65,536 leaves keep them short up to some hundred thousand resources. Who picks names on purpose
// to fill one leaf makes that leaf's updates slower, not the digest weaker.
const (
	depth  = 4
	fanout = 16
)

// node is an inner node (children set) or a leaf (items set). It is immutable once the Editor that owns
// it has returned its Set.
type node struct {
	digest   Digest
	children *[fanout]*node
	items    []Item  // in the order of names
	owner    *Editor // who may still change it; nil once published
}

// Set is an immutable set of items with distinct names. The zero Set is empty.
type Set struct {
	root *node
	len  int
}

// emptyDigest is the digest of the empty set: of an inner node without children.
var emptyDigest = (&node{children: new([fanout]*node)}).sum()

// Len returns the number of items.
func (s Set) Len() int { return s.len }

// Digest returns the root digest.
func (s Set) Digest() Digest {
	if s.root == nil {
		return emptyDigest
	}
	return s.root.digest
}

// Get returns the item of this name.
func (s Set) Get(name string) (Item, bool) {
	n, path := s.root, pathOf(name)
	for level := 0; n != nil; level++ {
		if level == depth {
			if i, ok := n.find(name); ok {
				return n.items[i], true
			}
			return Item{}, false
		}
		n = n.children[path[level]]
	}
	return Item{}, false
}

// All yields every item, in an order that is the same for equal sets and is not that of the names.
func (s Set) All() iter.Seq[Item] {
	return func(yield func(Item) bool) { s.root.walk(yield) }
}

// With returns a set that also has the items, in place of those of the same names.
func (s Set) With(items ...Item) Set {
	e := s.Edit()
	for _, i := range items {
		e.Put(i)
	}
	return e.Set()
}

// Without returns a set that has nothing of these names.
func (s Set) Without(names ...string) Set {
	e := s.Edit()
	for _, n := range names {
		e.Remove(n)
	}
	return e.Set()
}

// Apply returns the set that the difference leads to.
func (s Set) Apply(d Delta) Set {
	e := s.Edit()
	for _, i := range d.Put {
		e.Put(i)
	}
	for _, n := range d.Removed {
		e.Remove(n)
	}
	return e.Set()
}

// Edit returns an editor that starts from s, which stays as it is.
func (s Set) Edit() *Editor { return &Editor{root: s.root, len: s.len} }

// Editor collects changes to a set, and digests each changed node once. It is for one goroutine, and
// finished by Set.
type Editor struct {
	root *node
	len  int
}

// Put adds the item, in place of one of the same name.
func (e *Editor) Put(item Item) {
	path := pathOf(item.name)
	at := &e.root
	for level := range depth {
		n := e.own(*at, false)
		*at = n
		at = &n.children[path[level]]
	}
	leaf := e.own(*at, true)
	*at = leaf
	if i, ok := leaf.find(item.name); ok {
		leaf.items[i] = item
	} else {
		leaf.items = slices.Insert(leaf.items, i, item)
		e.len++
	}
}

// Remove removes the item of this name, if there is one.
func (e *Editor) Remove(name string) {
	if _, ok := (Set{root: e.root}).Get(name); !ok {
		return
	}
	e.root = e.remove(e.root, name, pathOf(name), 0)
	e.len--
}

// remove returns n without the name, which is there; nil if nothing is left.
func (e *Editor) remove(n *node, name string, path [depth]byte, level int) *node {
	n = e.own(n, level == depth)
	if level == depth {
		i, _ := n.find(name)
		n.items = slices.Delete(n.items, i, i+1)
		if len(n.items) == 0 {
			return nil
		}
		return n
	}
	c := &n.children[path[level]]
	*c = e.remove(*c, name, path, level+1)
	for _, c := range n.children {
		if c != nil {
			return n
		}
	}
	return nil
}

// Set returns the edited set. The editor must not be used any more.
func (e *Editor) Set() Set {
	e.publish(e.root)
	return Set{root: e.root, len: e.len}
}

// publish digests what the editor changed, and gives up its ownership.
func (e *Editor) publish(n *node) {
	if n == nil || n.owner != e {
		return
	}
	if n.children != nil {
		for _, c := range n.children {
			e.publish(c)
		}
	}
	n.digest = n.sum()
	n.owner = nil
}

// own returns n if the editor may change it, else a copy that it may.
func (e *Editor) own(n *node, leaf bool) *node {
	switch {
	case n == nil && leaf:
		return &node{owner: e}
	case n == nil:
		return &node{owner: e, children: new([fanout]*node)}
	case n.owner == e:
		return n
	case leaf:
		return &node{owner: e, items: slices.Clone(n.items)}
	default:
		children := *n.children
		return &node{owner: e, children: &children}
	}
}

// DiffSets returns what leads from one set to the other.
func DiffSets(from, to Set) Delta {
	var d Delta
	d.diff(from.root, to.root)
	d.sort()
	return d
}

func (d *Delta) diff(from, to *node) {
	switch {
	case from == to, from != nil && to != nil && from.digest == to.digest:
	case from == nil:
		to.walk(func(i Item) bool { d.Put = append(d.Put, i); return true })
	case to == nil:
		from.walk(func(i Item) bool { d.Removed = append(d.Removed, i.name); return true })
	case from.children != nil:
		for i := range fanout {
			d.diff(from.children[i], to.children[i])
		}
	default:
		d.diffLeaves(from.items, to.items)
	}
}

// diffLeaves merges two lists that are in the order of names.
func (d *Delta) diffLeaves(from, to []Item) {
	for len(from) > 0 || len(to) > 0 {
		switch {
		case len(to) == 0 || len(from) > 0 && from[0].name < to[0].name:
			d.Removed = append(d.Removed, from[0].name)
			from = from[1:]
		case len(from) == 0 || to[0].name < from[0].name:
			d.Put = append(d.Put, to[0])
			to = to[1:]
		default:
			if from[0].digest != to[0].digest {
				d.Put = append(d.Put, to[0])
			}
			from, to = from[1:], to[1:]
		}
	}
}

func (n *node) walk(yield func(Item) bool) bool {
	if n == nil {
		return true
	}
	for _, i := range n.items {
		if !yield(i) {
			return false
		}
	}
	if n.children != nil {
		for _, c := range n.children {
			if !c.walk(yield) {
				return false
			}
		}
	}
	return true
}

// find returns where the name is in a leaf, or would be.
func (n *node) find(name string) (int, bool) {
	return slices.BinarySearchFunc(n.items, name, func(i Item, name string) int { return strings.Compare(i.name, name) })
}

// sum computes a node's digest: of the items' names and digests, or of the present children's digests.
// The first byte tells the two apart.
func (n *node) sum() Digest {
	b := make([]byte, 0, 1+fanout*(1+sha256.Size))
	if n.children == nil {
		b = append(b, 0)
		for _, i := range n.items {
			b = binary.BigEndian.AppendUint32(b, uint32(len(i.name)))
			b = append(b, i.name...)
			b = append(b, i.digest[:]...)
		}
		return sha256.Sum256(b)
	}
	b = append(b, 1)
	for i, c := range n.children {
		if c != nil {
			b = append(b, byte(i))
			b = append(b, c.digest[:]...)
		}
	}
	return sha256.Sum256(b)
}

// pathOf returns the way to the leaf of a name: the leading nibbles of its hash.
func pathOf(name string) [depth]byte {
	h := sha256.Sum256([]byte(name))
	var p [depth]byte
	for i := range p {
		p[i] = h[i/2] >> (4 * (1 - i%2)) & 0xf
	}
	return p
}
