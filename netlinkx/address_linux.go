package netlinkx

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// address is an interface's address with what tells a good one to be reached
// under from others.
type address struct {
	addressInfo
	flags uint32 // IFA_F_*
	scope uint8  // RT_SCOPE_*
}

// decodeAddress reads the payload of an address message.
func decodeAddress(b []byte) (address, error) {
	info, err := decodeAddressInfo(b)
	if err != nil {
		return address{}, err
	}
	a := address{addressInfo: info, flags: uint32(b[2]), scope: b[3]}
	for b = b[unix.SizeofIfAddrmsg:]; len(b) >= unix.SizeofRtAttr; {
		var kind uint16
		var value []byte
		if kind, value, b = nextAttr(b); value == nil {
			return address{}, errAddressMessage
		}
		// The header has room for the first eight flags only.
		if kind == unix.IFA_FLAGS && len(value) == 4 {
			a.flags = binary.NativeEndian.Uint32(value)
		}
	}
	return a, nil
}

// rank orders the addresses of an interface by how well peers can reach it under
// them: the lowest is the best, a negative one will not do at all.
func (a address) rank() int {
	ip := a.prefix.Addr()
	switch {
	case !ip.IsGlobalUnicast() && !(ip.Is4() && ip.IsLinkLocalUnicast()):
		return -1
	case a.scope >= unix.RT_SCOPE_HOST:
		return -1
	case ip.Is6() && a.flags&unix.IFA_F_DADFAILED != 0:
		return -1
	}
	rank := 0
	add := func(bad bool, by int) {
		if bad {
			rank += by
		}
	}
	add(ip.IsLinkLocalUnicast(), 16)
	add(a.scope != unix.RT_SCOPE_UNIVERSE, 8)
	// It is soon gone, or may yet turn out to be somebody else's.
	add(ip.Is6() && a.flags&unix.IFA_F_TENTATIVE != 0, 4)
	add(a.flags&unix.IFA_F_DEPRECATED != 0, 2)
	// One bit means secondary for IPv4 and temporary for IPv6.
	add(a.flags&unix.IFA_F_SECONDARY != 0, 1)
	return rank
}

// best returns the address of a family under which peers reach an interface
// best, or the zero Addr. One that is preferred is taken whatever its rank, if
// it will do at all.
func best(addrs []address, ipv4 bool, prefer netip.Addr) netip.Addr {
	var found netip.Addr
	lowest := 0
	for _, a := range addrs {
		ip, rank := a.prefix.Addr(), a.rank()
		if ip.Is4() != ipv4 || rank < 0 {
			continue
		}
		if ip == prefer {
			return ip
		}
		if !found.IsValid() || rank < lowest {
			found, lowest = ip, rank
		}
	}
	return found
}
