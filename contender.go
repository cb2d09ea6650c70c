package hostgw

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// contenders are the sound leases by subnet: those that take part when subnets
// overlap. Each family is a binary trie without nodes that nothing hangs on, so
// what overlaps a subnet is on the path to it or below it.
//
// Whoever can write to the store can put thousands of leases on one subnet, and
// thousands more inside it: all of them overlap, and looking at every pair would
// hold the Manager's lock for seconds. So a round, which ends with forget, goes
// through no crowd twice: it remembers where it has been, and who was first there.
type contenders struct {
	v4, v6 *contended

	at, below memo // of a node's own claimants; of those and all below it

	steps int // nodes and claimants looked at, for tests
}

// contended is a node: a subnet that somebody claims, or the narrowest one around
// what its two halves hold.
type contended struct {
	bits  bitString
	child [2]*contended // by the first bit past those of the node
	one   claimant      // if any: in an honest network nobody else has the subnet
	more  map[claimant]struct{}
}

// memo is what a round remembers. It stays empty where no leases overlap.
type memo struct {
	yielded map[*contended]struct{}
	first   map[*contended]*peer
}

// add adds a claimant to those of p, and calls f as overlapping does.
func (cs *contenders) add(p netip.Prefix, c claimant, f func(*peer)) {
	s := bitsOf(p)
	link := cs.root(p)
	for {
		n := *link
		if n == nil {
			n = &contended{bits: s}
			*link = n
		}
		cs.steps++
		switch common := n.bits.common(s); {
		case common < n.bits.len: // s is above n or beside it
			up := &contended{bits: s.first(common)}
			up.child[n.bits.bit(common)] = n
			*link = up
		case common < s.len:
			if n.claimed() {
				cs.yield(n, f)
			}
			link = &n.child[s.bit(common)]
		default:
			n.add(c)
			cs.yieldBelow(n, f)
			return
		}
	}
}

func (n *contended) add(c claimant) {
	switch {
	case n.one.peer == nil:
		n.one = c
	case n.more == nil:
		n.more = map[claimant]struct{}{c: {}}
	default:
		n.more[c] = struct{}{}
	}
}

// remove takes a claimant away from those of p, and calls f as overlapping does.
func (cs *contenders) remove(p netip.Prefix, c claimant, f func(*peer)) {
	root := cs.root(p)
	*root = cs.without(*root, bitsOf(p), c, f)
}

// without returns what stands in n's place when c does not claim s any more.
func (cs *contenders) without(n *contended, s bitString, c claimant, f func(*peer)) *contended {
	if n == nil || n.bits.common(s) < n.bits.len {
		return n
	}
	cs.steps++
	if n.bits.len == s.len {
		n.remove(c)
		n = n.needed()
		cs.yieldBelow(n, f)
		return n
	}
	if n.claimed() {
		cs.yield(n, f)
	}
	half := &n.child[s.bit(n.bits.len)]
	*half = cs.without(*half, s, c, f)
	return n.needed()
}

func (n *contended) remove(c claimant) {
	if n.one == c {
		n.one = claimant{}
		return
	}
	delete(n.more, c)
	if len(n.more) == 0 {
		n.more = nil // a map that was large stays so
	}
}

// needed returns n, or if nothing hangs on it what is below it.
func (n *contended) needed() *contended {
	switch {
	case n.claimed():
		return n
	case n.child[0] == nil:
		return n.child[1]
	case n.child[1] == nil:
		return n.child[0]
	}
	return n
}

// claimants yields those who claim p itself.
func (cs *contenders) claimants(p netip.Prefix) func(yield func(claimant) bool) {
	return func(yield func(claimant) bool) {
		s := bitsOf(p)
		if n := cs.find(p, func(*contended) {}); n != nil && n.bits == s {
			n.claimants(yield)
		}
	}
}

func (n *contended) claimants(yield func(claimant) bool) {
	if n.one.peer != nil && !yield(n.one) || n.more == nil {
		return
	}
	for c := range n.more {
		if !yield(c) {
			return
		}
	}
}

// overlapping calls f with the peers that have an address of p. It may leave out
// those that were added in this round, and those that it, add or remove has called
// an f with: a round has one set of peers to collect.
func (cs *contenders) overlapping(p netip.Prefix, f func(*peer)) {
	n := cs.find(p, func(n *contended) { cs.yield(n, f) })
	cs.yieldBelow(n, f)
}

func (cs *contenders) yield(n *contended, f func(*peer)) {
	if n.more != nil && !add(&cs.at.yielded, n) {
		return
	}
	for c := range n.claimants {
		cs.steps++
		f(c.peer)
	}
}

func (cs *contenders) yieldBelow(n *contended, f func(*peer)) {
	if n == nil || !n.leaf() && !add(&cs.below.yielded, n) {
		return
	}
	cs.steps++
	cs.yield(n, f)
	for _, half := range n.child {
		cs.yieldBelow(half, f)
	}
}

// add adds n to a set and reports whether it was not there.
func add(set *map[*contended]struct{}, n *contended) bool {
	if _, ok := (*set)[n]; ok {
		return false
	}
	if *set == nil {
		*set = map[*contended]struct{}{}
	}
	(*set)[n] = struct{}{}
	return true
}

// anyIn reports whether f is true of one of those who claim p or a part of it.
func (cs *contenders) anyIn(p netip.Prefix, f func(claimant) bool) bool {
	return cs.find(p, func(*contended) {}).any(f)
}

func (n *contended) any(f func(claimant) bool) bool {
	if n == nil {
		return false
	}
	for c := range n.claimants {
		if f(c) {
			return true
		}
	}
	return n.child[0].any(f) || n.child[1].any(f)
}

// first returns the peer whose claim to addresses of p goes before all others;
// nil if there is none. From the first call until forget, nothing may be added or
// removed, and no claim's rank may change.
func (cs *contenders) first(p netip.Prefix) *peer {
	var first *peer
	n := cs.find(p, func(n *contended) { first = firstOf(first, cs.firstAt(n)) })
	return firstOf(first, cs.firstBelow(n))
}

func (cs *contenders) firstAt(n *contended) *peer {
	if n.more == nil {
		return n.one.peer
	}
	first, ok := cs.at.first[n]
	if ok {
		return first
	}
	for c := range n.claimants {
		cs.steps++
		first = firstOf(first, c.peer)
	}
	cs.at.remember(n, first)
	return first
}

func (cs *contenders) firstBelow(n *contended) *peer {
	if n == nil {
		return nil
	}
	cs.steps++
	if n.leaf() {
		return cs.firstAt(n)
	}
	first, ok := cs.below.first[n]
	if ok {
		return first
	}
	first = cs.firstAt(n)
	for _, half := range n.child {
		first = firstOf(first, cs.firstBelow(half))
	}
	cs.below.remember(n, first)
	return first
}

func (m *memo) remember(n *contended, first *peer) {
	if m.first == nil {
		m.first = map[*contended]*peer{}
	}
	m.first[n] = first
}

// firstOf returns the one of two peers whose claim goes before the other's. Each
// may be nil.
func firstOf(a, b *peer) *peer {
	if a == nil || b != nil && b.before(a) {
		return b
	}
	return a
}

// forget ends the round.
func (cs *contenders) forget() { cs.at, cs.below = memo{}, memo{} }

// find calls above with each claimed node above p, and returns the highest one that is p
// or below it; nil if there is none.
func (cs *contenders) find(p netip.Prefix, above func(*contended)) *contended {
	s := bitsOf(p)
	for n := *cs.root(p); n != nil; {
		cs.steps++
		switch common := n.bits.common(s); {
		case common == s.len:
			return n
		case common < n.bits.len:
			return nil
		}
		if n.claimed() {
			above(n)
		}
		n = n.child[s.bit(n.bits.len)]
	}
	return nil
}

func (cs *contenders) root(p netip.Prefix) **contended {
	if p.Addr().Is4() {
		return &cs.v4
	}
	return &cs.v6
}

func (n *contended) claimed() bool { return n.one.peer != nil || n.more != nil }

func (n *contended) leaf() bool { return n.child == [2]*contended{} }

// bitString is a prefix of either family as its bits, the first one highest in
// hi. Those past its length are zero.
type bitString struct {
	hi, lo uint64
	len    int
}

// bitsOf returns the bits of a masked prefix.
func bitsOf(p netip.Prefix) bitString {
	if p.Addr().Is4() {
		a := p.Addr().As4()
		return bitString{hi: uint64(binary.BigEndian.Uint32(a[:])) << 32, len: p.Bits()}
	}
	a := p.Addr().As16()
	return bitString{hi: binary.BigEndian.Uint64(a[:8]), lo: binary.BigEndian.Uint64(a[8:]), len: p.Bits()}
}

// bit returns the i-th bit, the first being the 0th.
func (s bitString) bit(i int) uint64 {
	if i < 64 {
		return s.hi >> (63 - i) & 1
	}
	return s.lo >> (127 - i) & 1
}

// common returns how many bits s and o have in common before the first that differs.
func (s bitString) common(o bitString) int {
	n := bits.LeadingZeros64(s.hi ^ o.hi)
	if n == 64 {
		n += bits.LeadingZeros64(s.lo ^ o.lo)
	}
	return min(n, s.len, o.len)
}

// first returns the first n bits.
func (s bitString) first(n int) bitString {
	// Shifts by 64 and more give zero.
	return bitString{hi: s.hi &^ (^uint64(0) >> n), lo: s.lo &^ (^uint64(0) >> max(n-64, 0)), len: n}
}
