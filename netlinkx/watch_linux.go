package netlinkx

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

var (
	errLinkMessage    = errors.New("malformed link message")
	errAddressMessage = errors.New("malformed address message")
)

// linkInfo is what the programmer needs to know of an interface. Like routes,
// links are read by hand: container hosts make and remove some all the time.
type linkInfo struct {
	index       int
	name        string
	mtu         int
	up, running bool
}

// decodeLinkInfo reads the payload of a link message. Those of a family are not
// about the interface itself: a bridge says with one that a port has left it, and
// the port's own index is in it.
func decodeLinkInfo(b []byte) (linkInfo, error) {
	if len(b) < unix.SizeofIfInfomsg || b[0] != unix.AF_UNSPEC {
		return linkInfo{}, errLinkMessage
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	k := linkInfo{
		index:   int(int32(binary.NativeEndian.Uint32(b[4:]))),
		up:      flags&unix.IFF_UP != 0,
		running: flags&unix.IFF_RUNNING != 0,
	}
	for b = b[unix.SizeofIfInfomsg:]; len(b) >= unix.SizeofRtAttr; {
		var kind uint16
		var value []byte
		if kind, value, b = nextAttr(b); value == nil {
			return linkInfo{}, errLinkMessage
		}
		switch kind {
		case unix.IFLA_IFNAME:
			k.name = string(bytes.TrimRight(value, "\x00"))
		case unix.IFLA_MTU:
			var mtu uint32
			if err := decodeUint32(value, &mtu); err != nil {
				return linkInfo{}, errLinkMessage
			}
			k.mtu = int(mtu)
		}
	}
	return k, nil
}

// addressInfo is an address of an interface, with the prefix length of what it
// makes on-link. On a point-to-point link that is remote instead, and the prefix
// is of the address alone.
type addressInfo struct {
	index  int
	prefix netip.Prefix
	remote netip.Prefix // zero but for point-to-point links
}

// onLink returns what an Uplink with the address has in Addrs because of it.
func (a addressInfo) onLink() []netip.Prefix {
	if a.remote.IsValid() {
		return []netip.Prefix{a.prefix, a.remote}
	}
	return []netip.Prefix{a.prefix}
}

// decodeAddressInfo reads the payload of an address message.
func decodeAddressInfo(b []byte) (addressInfo, error) {
	if len(b) < unix.SizeofIfAddrmsg {
		return addressInfo{}, errAddressMessage
	}
	family, bits := b[0], int(b[1])
	index := int(binary.NativeEndian.Uint32(b[4:]))
	var local, remote netip.Addr
	for b = b[unix.SizeofIfAddrmsg:]; len(b) >= unix.SizeofRtAttr; {
		var kind uint16
		var value []byte
		if kind, value, b = nextAttr(b); value == nil {
			return addressInfo{}, errAddressMessage
		}
		var err error
		switch kind {
		case unix.IFA_LOCAL:
			err = decodeAddr(value, family, &local)
		case unix.IFA_ADDRESS:
			err = decodeAddr(value, family, &remote)
		}
		if err != nil {
			return addressInfo{}, errAddressMessage
		}
	}
	// Of a point-to-point link IFA_ADDRESS is the other end; IPv6 only has
	// IFA_LOCAL there.
	a := addressInfo{index: index, prefix: netip.PrefixFrom(remote, bits)}
	if local.IsValid() && remote.IsValid() && local != remote {
		a.prefix, a.remote = netip.PrefixFrom(local, local.BitLen()), a.prefix.Masked()
	} else if local.IsValid() {
		a.prefix = netip.PrefixFrom(local, bits)
	}
	if !a.prefix.IsValid() || bits > a.prefix.Addr().BitLen() {
		return addressInfo{}, errAddressMessage
	}
	return a, nil
}

// follow takes a link event into account. It reports whether another interface
// has got the uplink's name, whose addresses have to be asked for.
func (t *table) follow(k linkInfo, deleted bool) (resolve bool) {
	u := t.uplink
	if deleted || !k.up {
		t.dropIndex(k.index)
	}
	switch {
	case deleted && k.index == u.Index, k.index == u.Index && k.name != u.Name:
		t.setUplink(t.without())
	case deleted, k.name != u.Name:
	case k.index != u.Index:
		return true
	default:
		u.MTU, u.Up, u.Running = k.mtu, k.up, k.running
		t.setUplink(u)
		t.again = true
	}
	return false
}

// without is the uplink while there is no interface of its name.
func (t *table) without() Uplink {
	return Uplink{Name: t.uplink.Name, IPv4: t.uplink.IPv4, IPv6: t.uplink.IPv6}
}

// readdress takes an address event into account.
func (t *table) readdress(a addressInfo, deleted bool) {
	if deleted {
		t.dropAddress(a.index, a.prefix.Addr())
	}
	if a.index != t.uplink.Index {
		return
	}
	u := t.uplink
	is := a.onLink()
	u.Addrs = slices.DeleteFunc(slices.Clone(u.Addrs), func(p netip.Prefix) bool { return slices.Contains(is, p) })
	if !deleted {
		u.Addrs = append(u.Addrs, is...)
		slices.SortFunc(u.Addrs, comparePrefix)
	}
	t.setUplink(u)
	if !deleted {
		t.again = true // also if it was known: an IPv6 address that has become usable comes again
	}
}
