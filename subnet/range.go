package subnet

import (
	"math"
	"net/netip"
)

// Range is one address family's part of a network: the prefix all subnets are
// cut from, how long each is, and the first and the last that may be leased.
// The zero Range is a family that is switched off. The methods expect a Range
// as [ParseConfig] and [Config.Complete] return it.
type Range struct {
	Network   netip.Prefix // masked; what every lease lies inside
	SubnetLen int          // prefix length of each subnet
	Min, Max  netip.Addr   // base address of the first and of the last subnet, both included
}

// IsValid reports whether the family is switched on.
func (r Range) IsValid() bool { return r.Network.IsValid() }

// Len returns how many subnets may be leased, at most math.MaxUint64.
func (r Range) Len() uint64 {
	bitLen := r.Network.Addr().BitLen()
	if !r.IsValid() || r.Min.BitLen() != bitLen || r.Max.BitLen() != bitLen ||
		r.SubnetLen < 0 || r.SubnetLen > bitLen || r.Max.Less(r.Min) {
		return 0
	}
	last := number(r.Max).sub(number(r.Min)).shr(r.shift()).capped()
	if last == math.MaxUint64 {
		return last
	}
	return last + 1
}

// Subnet returns the i-th subnet that may be leased, counted from zero at Min.
// It returns the zero Prefix if i is not below Len.
func (r Range) Subnet(i uint64) netip.Prefix {
	if i >= r.Len() {
		return netip.Prefix{}
	}
	base := number(r.Min).add(uint128{lo: i}.shl(r.shift()))
	return netip.PrefixFrom(base.addr(r.Min.BitLen()), r.SubnetLen)
}

// Fits reports whether p is one of the subnets that may be leased: of the right
// family and length, on the boundary, and between Min and Max.
func (r Range) Fits(p netip.Prefix) bool {
	return r.Contains(p) && p.Bits() == r.SubnetLen &&
		!p.Addr().Less(r.Min) && !r.Max.Less(p.Addr())
}

// Contains reports whether p is a masked prefix of the right family that lies
// inside Network, whether or not it is one that may be leased.
func (r Range) Contains(p netip.Prefix) bool {
	return p.IsValid() && p == p.Masked() &&
		p.Bits() >= r.Network.Bits() && r.Network.Contains(p.Addr())
}

// shift is the number of address bits inside one subnet.
func (r Range) shift() uint { return uint(r.Network.Addr().BitLen() - r.SubnetLen) }

// span returns which subnets of the range p has an address in common with, by
// their numbers, both included. What lies beyond Len is left out.
func (r Range) span(p netip.Prefix) (span, bool) {
	n := r.Len()
	if n == 0 || !p.IsValid() || p.Addr().BitLen() != r.Network.Addr().BitLen() {
		return span{}, false
	}
	size := func(length int) uint128 { // less one
		return uint128{lo: 1}.shl(uint(p.Addr().BitLen() - length)).sub(uint128{lo: 1})
	}
	first := number(p.Masked().Addr())
	last := first.add(size(p.Bits()))
	low := number(r.Min)
	high := number(r.Max).add(size(r.SubnetLen))
	if last.less(low) || high.less(first) {
		return span{}, false
	}
	var s span
	if low.less(first) {
		s.first = first.sub(low).shr(r.shift()).capped()
	}
	s.last = min(last.sub(low).shr(r.shift()).capped(), n-1)
	return s, s.first < n
}
