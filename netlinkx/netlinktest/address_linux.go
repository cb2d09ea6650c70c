package netlinktest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Addr is an interface's address with what [Kernel.AddAddress] may say of it.
type Addr struct {
	Prefix netip.Prefix // the address with its prefix length
	Flags  uint32       // IFA_F_*; the kernel adds IFA_F_PERMANENT, and IFA_F_SECONDARY where it is one
	Scope  uint8        // RT_SCOPE_*; universe if zero, link for fe80::/10
}

type address struct {
	Addr
	primary *address // that this one is a secondary of; nil if it is none
}

func (a *address) ipv4() bool { return a.Prefix.Addr().Is4() }

// AddAddr gives an interface an address. It panics if the interface has it
// already.
func (k *Kernel) AddAddr(link string, p netip.Prefix) { k.AddAddress(link, Addr{Prefix: p}) }

// AddAddress is [Kernel.AddAddr] for an address with flags or a scope. A second
// IPv4 address out of the subnet of another is a secondary one.
func (k *Kernel) AddAddress(link string, a Addr) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.mustLink(link)
	if k.findAddr(l, a.Prefix) != nil {
		panic(fmt.Sprintf("netlinktest: link %q has the address %v already", link, a.Prefix))
	}
	if a.Scope == 0 && a.Prefix.Addr().Is6() && a.Prefix.Addr().IsLinkLocalUnicast() {
		a.Scope = unix.RT_SCOPE_LINK
	}
	k.addAddr(l, a)
}

// DelAddr takes an address from an interface, and with an IPv4 one its
// secondaries.
func (k *Kernel) DelAddr(link string, p netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.mustLink(link)
	a := k.findAddr(l, p)
	if a == nil {
		panic(fmt.Sprintf("netlinktest: link %q does not have the address %v", link, p))
	}
	k.deleteAddr(l, a)
}

func (k *Kernel) findAddr(l *link, p netip.Prefix) *address {
	for _, a := range l.addrs {
		if a.Prefix == p {
			return a
		}
	}
	return nil
}

func (k *Kernel) addAddr(l *link, given Addr) {
	a := &address{Addr: given}
	a.Flags |= unix.IFA_F_PERMANENT
	at := len(l.addrs)
	if a.ipv4() {
		at = slices.IndexFunc(l.addrs, func(b *address) bool { return !b.ipv4() })
		if at < 0 {
			at = len(l.addrs)
		}
		for _, b := range l.addrs {
			if b.primary == nil && b.Prefix.Masked() == a.Prefix.Masked() {
				a.primary = b
				a.Flags |= unix.IFA_F_SECONDARY
			}
		}
	}
	l.addrs = slices.Insert(l.addrs, at, a)

	// Linux tells of an IPv4 address before its routes, and of an IPv6 one
	// between them.
	if a.ipv4() {
		k.notifyAddr(l, a, unix.RTM_NEWADDR)
		k.addOwn(k.ipv4, localRoute(l, a))
		if l.up && a.primary == nil {
			k.addConnected(l, a)
		}
		return
	}
	if l.up {
		k.startIPv6(l)
		k.addConnected(l, a)
	}
	k.notifyAddr(l, a, unix.RTM_NEWADDR)
	k.addOwn(k.ipv6, localRoute(l, a))
}

func (k *Kernel) deleteAddr(l *link, a *address) {
	for _, b := range slices.Clone(l.addrs) {
		if b.primary == a && !l.removed {
			k.deleteAddr(l, b)
		}
	}
	l.addrs = slices.DeleteFunc(l.addrs, func(b *address) bool { return a == b })
	k.notifyAddr(l, a, unix.RTM_DELADDR)
	if !a.ipv4() {
		k.deleteOwn(k.ipv6, localRoute(l, a))
		if !slices.ContainsFunc(l.addrs, func(b *address) bool { return b.Prefix.Masked() == a.Prefix.Masked() }) {
			k.deleteOwn(k.ipv6, connectedRoute(l, a))
		}
		// Routes through the subnet that was connected stay, and one that
		// named the address as its source loses that without a word.
		for _, r := range k.ipv6.withSource(a.Prefix.Addr()) {
			k.ipv6.dropSource(r)
		}
		return
	}
	if a.primary == nil {
		for _, r := range a.subnetRoutes(l) {
			k.deleteOwn(k.ipv4, r)
		}
	}
	if k.own(a.Prefix.Addr()) {
		return
	}
	k.deleteOwn(k.ipv4, localRoute(l, a))
	for _, r := range k.ipv4.withSource(a.Prefix.Addr()) {
		if r.table != unix.RT_TABLE_MAIN {
			continue
		}
		k.ipv4.remove(r)
		k.notifyRoute(request{}, unix.RTM_DELROUTE, 0, r, nil)
	}
	if !slices.ContainsFunc(l.addrs, (*address).ipv4) {
		// With its last address a link loses IPv4 altogether, and every
		// route through it goes, silently. As long as there is another, the
		// routes stay, also those whose gateway is no longer on-link.
		k.flushIPv4(l, true)
	}
}

// own reports whether a is an address of any link.
func (k *Kernel) own(a netip.Addr) bool {
	for _, l := range k.links {
		for _, b := range l.addrs {
			if b.Prefix.Addr() == a {
				return true
			}
		}
	}
	return false
}

// addConnected adds the routes that a link which is up has for an address: to
// its subnet, and to the subnet's broadcast address.
func (k *Kernel) addConnected(l *link, a *address) {
	if a.Flags&unix.IFA_F_NOPREFIXROUTE != 0 {
		return
	}
	if !a.ipv4() {
		if a.Prefix.Bits() < 128 {
			k.addOwn(k.ipv6, connectedRoute(l, a))
		}
		return
	}
	if a.primary != nil {
		return
	}
	for _, r := range a.subnetRoutes(l) {
		k.addOwn(k.ipv4, r)
	}
}

// connectedMetric is the metric of the IPv6 routes that the kernel makes.
const connectedMetric = 256

func localRoute(l *link, a *address) *route {
	r := &route{
		dst:      netip.PrefixFrom(a.Prefix.Addr(), a.Prefix.Addr().BitLen()),
		table:    unix.RT_TABLE_LOCAL,
		protocol: unix.RTPROT_KERNEL,
		typ:      unix.RTN_LOCAL,
		hops:     []hop{{link: l.index, scope: unix.RT_SCOPE_NOWHERE}},
	}
	if a.ipv4() {
		r.scope = unix.RT_SCOPE_HOST
		r.source = a.Prefix.Addr()
		if a.primary != nil {
			r.source = a.primary.Prefix.Addr()
		}
	}
	return r
}

func connectedRoute(l *link, a *address) *route {
	r := &route{
		dst:      a.Prefix.Masked(),
		table:    unix.RT_TABLE_MAIN,
		protocol: unix.RTPROT_KERNEL,
		typ:      unix.RTN_UNICAST,
		hops:     []hop{{link: l.index, scope: unix.RT_SCOPE_HOST}},
	}
	if a.ipv4() {
		r.scope = unix.RT_SCOPE_LINK
		r.source = a.Prefix.Addr()
		if l.loopback {
			r.table, r.typ, r.scope = unix.RT_TABLE_LOCAL, unix.RTN_LOCAL, unix.RT_SCOPE_HOST
		}
	} else {
		r.priority = connectedMetric
	}
	return r
}

// subnetRoutes are the IPv4 routes of a's subnet: none for a single address, and
// no broadcast for two.
func (a *address) subnetRoutes(l *link) []*route {
	bits := a.Prefix.Bits()
	if bits == 32 {
		return nil
	}
	connected := connectedRoute(l, a)
	if bits == 31 {
		return []*route{connected}
	}
	last := connected.dst.Addr().As4()
	binary.BigEndian.PutUint32(last[:], binary.BigEndian.Uint32(last[:])|^uint32(0)>>bits)
	broadcast := &route{
		dst:      netip.PrefixFrom(netip.AddrFrom4(last), 32),
		table:    unix.RT_TABLE_LOCAL,
		protocol: unix.RTPROT_KERNEL,
		typ:      unix.RTN_BROADCAST,
		scope:    unix.RT_SCOPE_LINK,
		source:   a.Prefix.Addr(),
		hops:     []hop{{link: l.index, scope: unix.RT_SCOPE_HOST}},
	}
	return []*route{connected, broadcast}
}

func (k *Kernel) notifyAddr(l *link, a *address, typ netlink.HeaderType) {
	group := uint32(unix.RTNLGRP_IPV6_IFADDR)
	if a.ipv4() {
		group = unix.RTNLGRP_IPV4_IFADDR
	}
	k.notify(request{}, group, typ, 0, func() []byte { return addrData(l, a) })
}

func addrData(l *link, a *address) []byte {
	family := byte(unix.AF_INET6)
	if a.ipv4() {
		family = unix.AF_INET
	}
	b := make([]byte, 0, 80)
	b = append(b, family, byte(a.Prefix.Bits()), byte(a.Flags), a.Scope)
	b = binary.NativeEndian.AppendUint32(b, uint32(l.index))
	b = appendAddr(b, unix.IFA_ADDRESS, a.Prefix.Addr())
	if a.ipv4() {
		b = appendAddr(b, unix.IFA_LOCAL, a.Prefix.Addr())
		b = appendString(b, unix.IFA_LABEL, l.name)
	}
	return appendUint32(b, unix.IFA_FLAGS, a.Flags)
}

// dumpAddrs filters by family, and by the interface's index where the socket
// checks its requests strictly.
func (k *Kernel) dumpAddrs(req request, data []byte) *Refusal {
	strict := req.from.has(netlink.GetStrictCheck)
	if len(data) < unix.SizeofIfAddrmsg {
		if strict {
			k.endDump(req, &Refusal{unix.EINVAL, "ipv4: Invalid header for address dump request"})
			return nil
		}
		data = make([]byte, unix.SizeofIfAddrmsg)
	}
	family := data[0]
	index := 0
	var flags netlink.HeaderFlags
	if strict {
		index = int(binary.NativeEndian.Uint32(data[4:]))
		if index != 0 {
			flags = netlink.DumpFiltered
		}
		if index != 0 && k.links[index] == nil {
			k.endDump(req, &Refusal{Errno: unix.ENODEV})
			return nil
		}
	}
	var items [][]byte
	for _, ipv4 := range []bool{true, false} {
		if family == unix.AF_INET6 && ipv4 || family == unix.AF_INET && !ipv4 {
			continue
		}
		for _, l := range k.sortedLinks() {
			for _, a := range l.addrs {
				if a.ipv4() == ipv4 && (index == 0 || index == l.index) {
					items = append(items, addrData(l, a))
				}
			}
		}
	}
	k.dump(req, unix.RTM_NEWADDR, flags, items)
	return nil
}
