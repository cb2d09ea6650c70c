package netlinkx

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

var errRouteMessage = errors.New("malformed route message")

const (
	attrNextHopID = 30     // RTA_NH_ID of linux/rtnetlink.h
	attrKindMask  = 0x3fff // NLA_TYPE_MASK of linux/netlink.h
)

// Route messages are written and read by hand: a host may have tens of
// thousands, and a router's events are none of our business a million times.

// appendRoute appends r as the payload of a request about it in table. scope
// and kind are r's own, except that a request to delete finds IPv4 routes of
// any scope. Of a route that has more to it than we know, such as a next-hop
// object, no next hop is named in a request to delete it: the kernel would not
// find it by that.
func appendRoute(b []byte, r kernelRoute, table uint32, remove bool) []byte {
	family, scope := byte(unix.AF_INET6), r.scope
	if r.subnet.Addr().Is4() {
		family = unix.AF_INET
		if remove {
			scope = unix.RT_SCOPE_NOWHERE
		}
	}
	var flags uint32
	if r.onlink && !remove {
		flags = unix.RTNH_F_ONLINK
	}
	b = append(b, family, byte(r.subnet.Bits()), 0, r.tos, shortTable(table), r.protocol, scope, r.kind)
	b = binary.NativeEndian.AppendUint32(b, flags)
	b = appendAddr(b, unix.RTA_DST, r.subnet.Addr())
	nextHop := r.plain || !remove
	if r.gateway.IsValid() && nextHop {
		b = appendAddr(b, unix.RTA_GATEWAY, r.gateway)
	}
	if r.source.IsValid() && !remove {
		b = appendAddr(b, unix.RTA_PREFSRC, r.source)
	}
	if r.index != 0 && nextHop {
		b = appendUint32(b, unix.RTA_OIF, r.index)
	}
	if r.metric != 0 {
		b = appendUint32(b, unix.RTA_PRIORITY, r.metric)
	}
	if table > 255 {
		b = appendUint32(b, unix.RTA_TABLE, table)
	}
	return b
}

// shortTable is how the fixed header, which has one byte for it, names a table.
func shortTable(table uint32) uint8 {
	if table > 255 {
		return unix.RT_TABLE_COMPAT
	}
	return uint8(table)
}

func appendAddr(b []byte, kind uint16, a netip.Addr) []byte {
	b = appendAttrHeader(b, kind, a.BitLen()/8)
	if a.Is4() {
		v := a.As4()
		return append(b, v[:]...)
	}
	v := a.As16()
	return append(b, v[:]...)
}

func appendUint32(b []byte, kind uint16, v uint32) []byte {
	return binary.NativeEndian.AppendUint32(appendAttrHeader(b, kind, 4), v)
}

func appendAttrHeader(b []byte, kind uint16, size int) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+size))
	return binary.NativeEndian.AppendUint16(b, kind)
}

// message returns the netlink message that asks for q in table. The room for
// its payload is taken from the end of buf, which is returned longer.
func (q request) message(buf []byte, table uint32) (netlink.Message, []byte) {
	m := netlink.Message{Header: netlink.Header{Type: unix.RTM_NEWROUTE, Flags: netlink.Request}}
	switch q.op {
	case opAdd:
		m.Header.Flags |= netlink.Create | netlink.Excl
	case opReplace:
		m.Header.Flags |= netlink.Create | netlink.Replace
	case opRemove:
		m.Header.Type = unix.RTM_DELROUTE
	}
	start := len(buf)
	buf = appendRoute(buf, q.route, table, q.op == opRemove)
	m.Data = buf[start:len(buf):len(buf)]
	return m, buf
}

// routeHeader is what the fixed part of a route message says: enough to skip
// most of those that do not concern us.
type routeHeader struct {
	family, bits, table, protocol, kind uint8
	cloned                              bool // a cached route, not one of the table
}

func decodeRouteHeader(b []byte) (routeHeader, error) {
	if len(b) < unix.SizeofRtMsg {
		return routeHeader{}, errRouteMessage
	}
	return routeHeader{
		family: b[0], bits: b[1], table: b[4], protocol: b[5], kind: b[7],
		cloned: binary.NativeEndian.Uint32(b[8:])&unix.RTM_F_CLONED != 0,
	}, nil
}

// decodeRoute reads the payload of a route message, and the table it is about.
//
// IPv6 shows several routes through gateways, of one subnet and one metric, as
// one with several next hops, whoever added which. They are read as what they
// are: more are the routes of all next hops. IPv4 keeps them together.
func decodeRoute(b []byte) (r kernelRoute, more []kernelRoute, table uint32, err error) {
	h, err := decodeRouteHeader(b)
	if err != nil {
		return kernelRoute{}, nil, 0, err
	}
	fail := func() (kernelRoute, []kernelRoute, uint32, error) { return kernelRoute{}, nil, 0, errRouteMessage }
	r = kernelRoute{
		protocol: h.protocol,
		kind:     h.kind,
		scope:    b[6],
		tos:      b[3],
		onlink:   binary.NativeEndian.Uint32(b[8:])&unix.RTNH_F_ONLINK != 0,
		plain:    b[2] == 0, // no source prefix
	}
	table = uint32(h.table)
	var hops []byte
	var dst netip.Addr
	switch h.family {
	case unix.AF_INET:
		dst = netip.IPv4Unspecified()
	case unix.AF_INET6:
		dst = netip.IPv6Unspecified()
	default:
		return fail()
	}
	for b = b[unix.SizeofRtMsg:]; len(b) >= unix.SizeofRtAttr; {
		var kind uint16
		var value []byte
		if kind, value, b = nextAttr(b); value == nil {
			return fail()
		}
		switch kind {
		case unix.RTA_DST:
			err = decodeAddr(value, h.family, &dst)
		case unix.RTA_GATEWAY:
			err = decodeAddr(value, h.family, &r.gateway)
		case unix.RTA_PREFSRC:
			err = decodeAddr(value, h.family, &r.source)
		case unix.RTA_OIF:
			err = decodeUint32(value, &r.index)
		case unix.RTA_PRIORITY:
			err = decodeUint32(value, &r.metric)
		case unix.RTA_TABLE:
			err = decodeUint32(value, &table)
		case unix.RTA_MULTIPATH:
			r.plain, hops = false, value
		case unix.RTA_VIA, unix.RTA_FLOW, unix.RTA_ENCAP, attrNextHopID, unix.RTA_EXPIRES, unix.RTA_METRICS:
			r.plain = false
		}
		if err != nil {
			return fail()
		}
	}
	p, err := dst.Prefix(int(h.bits))
	if err != nil {
		return fail()
	}
	r.subnet = p
	if h.family == unix.AF_INET6 && hops != nil {
		if more, err = decodeHops(hops, r); err != nil {
			return fail()
		}
	}
	return r, more, table, nil
}

// decodeHops reads the next hops of an IPv6 route, as routes that are otherwise
// like r.
func decodeHops(b []byte, r kernelRoute) ([]kernelRoute, error) {
	var hops []kernelRoute
	for len(b) >= unix.SizeofRtNexthop {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtNexthop || size > len(b) {
			return nil, errRouteMessage
		}
		h := r
		h.plain = true
		h.onlink = b[2]&unix.RTNH_F_ONLINK != 0
		h.index = binary.NativeEndian.Uint32(b[4:])
		for attrs := b[unix.SizeofRtNexthop:size]; len(attrs) >= unix.SizeofRtAttr; {
			var kind uint16
			var value []byte
			if kind, value, attrs = nextAttr(attrs); value == nil {
				return nil, errRouteMessage
			}
			switch kind {
			case unix.RTA_GATEWAY:
				if err := decodeAddr(value, unix.AF_INET6, &h.gateway); err != nil {
					return nil, err
				}
			default:
				h.plain = false
			}
		}
		hops = append(hops, h)
		b = b[min(len(b), (size+3)&^3):]
	}
	return hops, nil
}

// nextAttr splits the first attribute off b, which must hold a header. The
// value is nil if the length is not possible.
func nextAttr(b []byte) (kind uint16, value, rest []byte) {
	size := int(binary.NativeEndian.Uint16(b))
	if size < unix.SizeofRtAttr || size > len(b) {
		return 0, nil, nil
	}
	kind = binary.NativeEndian.Uint16(b[2:]) & attrKindMask
	return kind, b[unix.SizeofRtAttr:size], b[min(len(b), (size+3)&^3):]
}

func decodeAddr(b []byte, family uint8, a *netip.Addr) error {
	switch {
	case family == unix.AF_INET && len(b) == 4:
		*a = netip.AddrFrom4([4]byte(b))
	case family == unix.AF_INET6 && len(b) == 16:
		*a = netip.AddrFrom16([16]byte(b))
	default:
		return errRouteMessage
	}
	return nil
}

func decodeUint32(b []byte, v *uint32) error {
	if len(b) != 4 {
		return errRouteMessage
	}
	*v = binary.NativeEndian.Uint32(b)
	return nil
}
