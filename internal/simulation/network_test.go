package simulation

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/hostgw/hostgw/subnet"
)

// network is a network config that an operator may have written.
type network struct {
	base   int // second octet of 10.x.0.0
	length int // of an IPv4 subnet
	bits   int // the network has 2^bits IPv4 subnets
	bits6  int // and 2^bits6 IPv6 subnets; no IPv6 if zero
	last   int // number of the last IPv4 subnet that may be leased; all if zero
	no4    bool
}

// text writes n as flannel's JSON.
func (n network) text() string {
	var fields []string
	if n.no4 {
		fields = append(fields, `"EnableIPv4":false`)
	} else {
		fields = append(fields, fmt.Sprintf(`"Network":"%v","SubnetLen":%d`, n.ipv4(), n.length))
		if n.last > 0 {
			fields = append(fields, fmt.Sprintf(`"SubnetMax":"%v"`, n.subnet(n.last).Addr()))
		}
	}
	if n.bits6 > 0 {
		fields = append(fields, fmt.Sprintf(`"EnableIPv6":true,"IPv6Network":"fd99:0:%d::/%d"`, n.base, 64-n.bits6))
	}
	return `{` + strings.Join(fields, ",") + `,"Backend":{"Type":"host-gw"}}`
}

func (n network) ipv4() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n.base), 0, 0}), n.length-n.bits).Masked()
}

// subnet returns the i-th IPv4 subnet.
func (n network) subnet(i int) netip.Prefix {
	a := n.ipv4().Addr().As4()
	v := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
	v += uint32(i) << (32 - n.length)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), n.length)
}

func (n network) subnet6(i int) netip.Prefix {
	a := netip.MustParseAddr(fmt.Sprintf("fd99:0:%d::", n.base)).As16()
	a[6], a[7] = a[6]|byte(i>>8), a[7]|byte(i)
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// key returns a key that could be leased under n.
func (n network) key(r *rand.Rand) subnet.Key {
	var k subnet.Key
	if !n.no4 {
		k.IPv4 = n.subnet(1 + r.IntN(1<<n.bits-1))
	}
	if n.bits6 > 0 {
		k.IPv6 = n.subnet6(1 + r.IntN(1<<n.bits6-1))
	}
	return k
}

// firstNetwork returns a network for n hosts, more often than not a tight one.
func firstNetwork(r *rand.Rand, n int) network {
	bits := 2
	for 1<<bits <= n {
		bits++
	}
	w := network{base: 5, length: 26, bits: bits + [...]int{0, 0, 1, 2, 5}[r.IntN(5)]}
	switch r.IntN(8) {
	case 0:
		w.bits6 = w.bits + r.IntN(3)
	case 1:
		w.bits6 = max(2, w.bits-r.IntN(2))
	case 2:
		w.bits6, w.no4 = w.bits, r.IntN(3) == 0
	}
	return w
}

// next returns another network and what is different about it.
func (n network) next(r *rand.Rand) (network, string) {
	switch r.IntN(8) {
	case 0, 1:
		if n.bits < 10 {
			n.bits++
			n.last = 0
		}
		return n, "wider"
	case 2:
		if n.bits > 3 {
			n.last = 1<<(n.bits-1) + r.IntN(1<<(n.bits-1)-1)
		}
		return n, "narrower"
	case 3:
		if n.length > 24 && n.bits > 3 {
			n.length--
			n.bits--
		}
		n.last = 0
		return n, "coarser subnets"
	case 4:
		if n.length < 28 {
			n.length++
			n.bits++
		}
		n.last = 0
		return n, "finer subnets"
	case 5:
		n.base = 5 + (n.base-4)%3
		return n, "another range"
	case 6:
		switch {
		case n.no4:
			n.no4 = false
		case n.bits6 == 0:
			n.bits6 = n.bits + r.IntN(2)
		default:
			n.bits6 = 0
		}
		return n, "other families"
	}
	return n, "the same again"
}

// broken returns a config that cannot be used.
func broken(r *rand.Rand) string {
	texts := [...]string{
		`{`, `{}`, `null`, `{"Network":"nonsense"}`, `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`,
		`{"Network":"10.5.0.0/16","SubnetLen":31,"Backend":{"Type":"host-gw"}}`, `{"Network":"0.0.0.0/0","Backend":{"Type":"host-gw"}}`,
	}
	return texts[r.IntN(len(texts))]
}
