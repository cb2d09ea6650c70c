package subnet

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Request is what a node brings to the choice of its subnet.
type Request struct {
	Holder   Holder // the node's own addresses
	Previous Key    // the subnet in its last subnet.env; zero if none
}

// Choice is what a node should claim.
type Choice struct {
	Key  Key
	Held *Record  // the record under Key that is this node's already; nil if the key is to be created
	Drop []Record // the node's other records, which go in the same step: its Leftovers
}

// FullError says that a family has no free subnet. It wraps [ErrNoFreeSubnet].
type FullError struct {
	Range Range
	Taken uint64 // how many subnets of the range are taken

	// Widest is the name of the record that takes the most of them, and Takes how
	// many: where that is more than one, somebody wrote it by hand or under
	// another config.
	Widest string
	Takes  uint64
}

func (e *FullError) Error() string {
	text := fmt.Sprintf("%v: all %d subnets of %s (/%ds, %s to %s) are taken",
		ErrNoFreeSubnet, e.Taken, e.Range.Network, e.Range.SubnetLen, e.Range.Min, e.Range.Max)
	if e.Takes > 1 {
		text += fmt.Sprintf(", %d of them by the lease %s", e.Takes, e.Widest)
	}
	return text
}

func (e *FullError) Unwrap() error { return ErrNoFreeSubnet }

// Select chooses the subnet that the node of r should claim, given all that is
// stored: the one its address already holds inside the config (a reservation
// before others, then the oldest); else, family by family, what it held when the
// config was another, or else r.Previous, if that fits and overlaps no record;
// else a free one. The free one comes from a hash of the holder's address, so
// that the same node tends to get the same subnet and contenders spread over the
// range, and avoid (subnets that a lost race just showed to be taken) moves it
// on. If all that is left is in avoid, that is tried again: the records are the
// truth.
//
// In a dual-stack network the free subnets of both families have the same place
// in their ranges, as long as there is such a pair. Nodes that choose at the same
// moment then collide in both families or in neither, and in one key if they do.
//
// Records that could not be read but whose name is a readable key still take
// their subnet. Those wider than any config could ever have cut, such as
// 0.0.0.0-0, take nothing: one slip of a writer must not keep everybody out. The
// error is a *FullError, or a *ConfigError if c is zero.
func Select(c Config, records []Record, r Request, avoid ...netip.Prefix) (Choice, error) {
	if err := c.someFamily(); err != nil {
		return Choice{}, err
	}
	var held *Record
	taken := make([]*Record, 0, len(records))
	for i := range records {
		rec := &records[i]
		k := rec.key()
		mine := rec.Err == nil && rec.Lease.Holder.Same(r.Holder)
		switch {
		case mine && c.Fits(k):
			if held == nil || preferred(*rec, *held) < 0 {
				held = rec
			}
		case mine && !rec.Reserved(): // makes way, see Leftovers
		default:
			taken = append(taken, rec)
		}
	}
	if held != nil {
		k := held.Lease.Key
		return Choice{Key: k, Held: new(*held), Drop: Leftovers(records, r.Holder, k)}, nil
	}

	v4, v6 := newPool(c.IPv4, len(taken)), newPool(c.IPv6, len(taken))
	for _, rec := range taken {
		k := rec.key()
		v4.take(rec, k.IPv4, ipv4())
		v6.take(rec, k.IPv6, ipv6())
	}
	for _, p := range avoid {
		v4.avoid = v4.occupy(v4.avoid, p)
		v6.avoid = v6.occupy(v6.avoid, p)
	}
	for _, rec := range Leftovers(records, r.Holder, Key{}) {
		v4.wish(rec.Lease.Key.IPv4)
		v6.wish(rec.Lease.Key.IPv6)
	}
	v4.wish(r.Previous.IPv4)
	v6.wish(r.Previous.IPv6)

	lot := newLot(r.Holder, len(avoid))
	pair(v4, v6, lot)
	for _, p := range []*pool{v4, v6} {
		if !p.r.IsValid() || p.chosen.IsValid() {
			continue
		}
		i, ok := lot.draw(p.n, p.taken, p.avoid)
		if !ok {
			return Choice{}, &FullError{Range: p.r, Taken: p.n, Widest: p.widest, Takes: p.takes}
		}
		p.chosen = p.r.Subnet(i)
	}
	k := Key{IPv4: v4.chosen, IPv6: v6.chosen}
	return Choice{Key: k, Drop: Leftovers(records, r.Holder, k)}, nil
}

// Leftovers returns the records of h besides that of k, those first that overlap k,
// and of these the oldest. A node holds one lease; what else bears its address is left
// from an earlier config or a backup. Reservations are the operator's, and none.
func Leftovers(records []Record, h Holder, k Key) []Record {
	var rs []Record
	for _, r := range records {
		if r.Err == nil && !r.Reserved() && r.Lease.Key != k && r.Lease.Holder.Same(h) {
			rs = append(rs, r)
		}
	}
	inWay := func(r Record) int {
		if r.Lease.Key.Overlaps(k) {
			return 0
		}
		return 1
	}
	slices.SortFunc(rs, func(a, b Record) int { return cmp.Or(inWay(a)-inWay(b), preferred(a, b)) })
	return rs
}

// preferred orders the records of one node: reservations first, then the oldest.
func preferred(a, b Record) int {
	if a.Reserved() != b.Reserved() {
		if a.Reserved() {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.Name, b.Name))
}

// pair gives both families the subnet of the same place in their ranges, as far
// as they are still without one and such a place is free.
func pair(v4, v6 *pool, lot lot) {
	switch has4, has6 := v4.chosen.IsValid(), v6.chosen.IsValid(); {
	case has4 && !has6:
		if s, ok := v4.r.span(v4.chosen); ok {
			v6.wish(v6.r.Subnet(s.first))
		}
	case has6 && !has4:
		if s, ok := v6.r.span(v6.chosen); ok {
			v4.wish(v4.r.Subnet(s.first))
		}
	case !has4 && !has6:
		taken, avoid := slices.Concat(v4.taken, v6.taken), slices.Concat(v4.avoid, v6.avoid)
		if i, ok := lot.draw(min(v4.n, v6.n), taken, avoid); ok {
			v4.chosen, v6.chosen = v4.r.Subnet(i), v6.r.Subnet(i)
		}
	}
}

// pool is one family's subnets, from which one is chosen.
type pool struct {
	r            Range
	n            uint64 // r.Len()
	taken, avoid []span // in no order; they may overlap
	chosen       netip.Prefix

	widest string // the record that takes the most
	takes  uint64
}

func newPool(r Range, taken int) *pool {
	p := &pool{r: r, n: r.Len()}
	if p.n > 0 {
		p.taken = make([]span, 0, taken)
	}
	return p
}

// key is what a record takes; one that cannot be read takes what it is named
// after, and the zero Key takes nothing.
func (r *Record) key() Key {
	if r.Err == nil {
		return r.Lease.Key
	}
	k, _ := ParseKey(r.Name)
	return k
}

// Takes reports whether r keeps k, or a part of it, from other nodes, by the rule
// of [Select]: also one that could not be read, but not one that is wider than
// any config could have cut.
func (r *Record) Takes(k Key) bool {
	own := r.key()
	return ipv4().cuts(own.IPv4) && own.IPv4.Overlaps(k.IPv4) || ipv6().cuts(own.IPv6) && own.IPv6.Overlaps(k.IPv6)
}

// cuts reports whether some config could cut subnets as long as p.
func (f family) cuts(p netip.Prefix) bool { return p.Bits() >= f.widest+minSplit }

// take notes that a record takes the subnets that prefix overlaps, unless it is
// wider than the subnets of the widest network.
func (p *pool) take(r *Record, prefix netip.Prefix, f family) {
	if !f.cuts(prefix) {
		return
	}
	before := len(p.taken)
	if p.taken = p.occupy(p.taken, prefix); len(p.taken) == before {
		return
	}
	n := p.taken[before].last - p.taken[before].first + 1
	if n > p.takes || n == p.takes && r.Name < p.widest {
		p.widest, p.takes = r.Name, n
	}
}

// occupy adds to spans the subnets that prefix overlaps.
func (p *pool) occupy(spans []span, prefix netip.Prefix) []span {
	if s, ok := p.r.span(prefix); ok {
		spans = append(spans, s)
	}
	return spans
}

// wish chooses prefix, if nothing is chosen yet and it can be had.
func (p *pool) wish(prefix netip.Prefix) {
	if p.chosen.IsValid() || !p.r.Fits(prefix) {
		return
	}
	s, ok := p.r.span(prefix)
	has := func(o span) bool { return o.first <= s.first && s.first <= o.last }
	if ok && !slices.ContainsFunc(p.taken, has) && !slices.ContainsFunc(p.avoid, has) {
		p.chosen = prefix
	}
}
