package subnet

import (
	"hash/fnv"
	"math/bits"
	"slices"
)

// span is a run of a range's subnets, by their numbers, both included.
type span struct {
	first, last uint64
}

// lot draws one node's subnets. It depends on nothing but the node's address and
// the round, in every version of this package: a node that has lost all its state
// draws the same.
type lot struct {
	seed, round uint64
}

func newLot(h Holder, round int) lot {
	a := h.PublicIP
	if !a.IsValid() {
		a = h.PublicIPv6
	}
	sum := fnv.New64a()
	sum.Write(a.AsSlice())
	return lot{sum.Sum64(), uint64(round)}
}

// draw returns the number of a free one of n subnets, or false if all are taken.
// One in avoid is drawn only if there is no other.
func (l lot) draw(n uint64, taken, avoid []span) (uint64, bool) {
	if i, ok := l.from(n, merge(n, slices.Concat(taken, avoid))); ok || len(avoid) == 0 {
		return i, ok
	}
	return l.from(n, merge(n, slices.Clone(taken)))
}

// probes is how many subnets of a node's own are looked at before the free ones
// are counted.
const probes = 16

// from returns the number of one of n subnets outside of spans, which are as
// merge returns them.
//
// Each node has a sequence of subnets of its own that depends on no other node,
// and takes the first that is free: this is stable, and whoever loses a race for
// one continues far from the other losers. In a range that is nearly full it
// draws among the free ones, each with the same chance and anew each round, so
// that many nodes after few subnets do not all go for the same one.
func (l lot) from(n uint64, spans []span) (uint64, bool) {
	free := n
	for _, s := range spans {
		free -= s.last - s.first + 1
	}
	if free == 0 {
		return 0, false
	}
	for i := range uint64(probes) {
		place := l.below(n, i)
		_, taken := slices.BinarySearchFunc(spans, place, func(s span, place uint64) int {
			switch {
			case s.last < place:
				return -1
			case s.first > place:
				return 1
			}
			return 0
		})
		if !taken {
			return place, true
		}
	}
	nth := l.below(free, probes+l.round)
	for _, s := range spans {
		// So far nth counts from zero without the spans before s.
		if nth < s.first {
			break
		}
		nth += s.last - s.first + 1
	}
	return nth, true
}

// below returns the i-th number of the node's sequence, scaled to be below n.
func (l lot) below(n, i uint64) uint64 {
	// The step and the mixer are those of SplitMix64.
	z := l.seed + (i+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	hi, _ := bits.Mul64(z, n)
	return hi
}

// merge sorts spans, joins those that touch, and cuts off what is not below n.
// It reuses the slice.
func merge(n uint64, spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int {
		if a.first < b.first {
			return -1
		}
		if a.first > b.first {
			return 1
		}
		return 0
	})
	out := spans[:0]
	for _, s := range spans {
		if s.first >= n {
			break
		}
		s.last = min(s.last, n-1)
		if k := len(out) - 1; k >= 0 && s.first <= out[k].last+1 {
			out[k].last = max(out[k].last, s.last)
			continue
		}
		out = append(out, s)
	}
	return out
}
