package netlinktest

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Link is a network interface, as a snapshot shows it.
type Link struct {
	Name    string
	Index   int
	MTU     int
	Up      bool // administratively
	Carrier bool // a cable with something at its other end; there from the beginning
	Addrs   []netip.Prefix
}

type link struct {
	name     string
	index    int
	mtu      int
	up       bool
	carrier  bool
	loopback bool
	removed  bool       // about to be
	addrs    []*address // IPv4 in the order of coming, then IPv6
}

// Flags that the link's state shows itself by.
func (l *link) running() bool { return l.up && l.carrier }

func (k *Kernel) addLoopback() {
	k.lastIndex++
	lo := &link{name: "lo", index: k.lastIndex, mtu: 65536, up: true, carrier: true, loopback: true}
	k.links[lo.index] = lo
	k.addAddr(lo, Addr{Prefix: netip.MustParsePrefix("127.0.0.1/8"), Scope: unix.RT_SCOPE_HOST})
	k.addAddr(lo, Addr{Prefix: netip.MustParsePrefix("::1/128"), Scope: unix.RT_SCOPE_HOST})
}

// AddLink makes an Ethernet interface and returns its index, which no other
// link of k ever had. It is down, with an MTU of 1500. It panics if the name is
// taken.
func (k *Kernel) AddLink(name string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.linkByName(name) != nil {
		panic(fmt.Sprintf("netlinktest: there is a link %q already", name))
	}
	k.lastIndex++
	l := &link{name: name, index: k.lastIndex, mtu: 1500, carrier: true}
	k.links[l.index] = l
	k.notifyLink(l, unix.RTM_NEWLINK)
	return l.index
}

// RemoveLink takes an interface away, as when a network card is unplugged or a
// virtual interface deleted.
func (k *Kernel) RemoveLink(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.mustLink(name)
	if l.up {
		k.linkDown(l)
	}
	l.removed = true
	k.dropIPv6(l)
	// A primary address does not take its secondaries along here, and of those
	// that are left over only the addresses are told, not the routes.
	for _, a := range slices.Clone(l.addrs) {
		if a.primary == nil {
			k.deleteAddr(l, a)
		}
	}
	for _, a := range l.addrs {
		k.notifyAddr(l, a, unix.RTM_DELADDR)
	}
	l.addrs = nil
	k.flushIPv4(l, true)
	delete(k.links, l.index)
	k.notifyLink(l, unix.RTM_DELLINK)
}

// SetUp sets an interface administratively up or down.
func (k *Kernel) SetUp(name string, up bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.mustLink(name)
	switch {
	case up == l.up:
	case up:
		k.linkUp(l)
	default:
		k.linkDown(l)
	}
}

// SetCarrier plugs a link's cable in or out.
func (k *Kernel) SetCarrier(name string, carrier bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.mustLink(name)
	if l.carrier == carrier {
		return
	}
	l.carrier = carrier
	if !l.up {
		return
	}
	if carrier {
		k.run(l)
	}
	k.notifyLink(l, unix.RTM_NEWLINK)
}

// SetMTU changes an interface's MTU.
func (k *Kernel) SetMTU(name string, mtu int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.mustLink(name)
	l.mtu = mtu
	k.notifyLink(l, unix.RTM_NEWLINK)
}

// Rename gives an interface another name. It panics if that is taken.
func (k *Kernel) Rename(name, to string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.mustLink(name)
	if k.linkByName(to) != nil {
		panic(fmt.Sprintf("netlinktest: there is a link %q already", to))
	}
	l.name = to
	k.notifyLink(l, unix.RTM_NEWLINK)
}

// Links returns the interfaces, in the order of their indexes.
func (k *Kernel) Links() []Link {
	k.mu.Lock()
	defer k.mu.Unlock()
	var links []Link
	for _, l := range k.sortedLinks() {
		s := Link{Name: l.name, Index: l.index, MTU: l.mtu, Up: l.up, Carrier: l.carrier}
		for _, a := range l.addrs {
			s.Addrs = append(s.Addrs, a.Prefix)
		}
		links = append(links, s)
	}
	return links
}

func (k *Kernel) sortedLinks() []*link {
	links := make([]*link, 0, len(k.links))
	for _, l := range k.links {
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b *link) int { return cmp.Compare(a.index, b.index) })
	return links
}

func (k *Kernel) linkByName(name string) *link {
	for _, l := range k.links {
		if l.name == name {
			return l
		}
	}
	return nil
}

func (k *Kernel) mustLink(name string) *link {
	l := k.linkByName(name)
	if l == nil {
		panic(fmt.Sprintf("netlinktest: there is no link %q", name))
	}
	return l
}

// linkUp tells of the link twice, as Linux does: when it has been switched on
// and when it runs. In between come the routes that belong to its addresses.
func (k *Kernel) linkUp(l *link) {
	l.up = true
	k.notifyLinkFlags(l, unix.RTM_NEWLINK, false)
	for _, a := range l.addrs {
		k.addConnected(l, a)
	}
	if l.carrier {
		k.run(l)
		k.notifyLink(l, unix.RTM_NEWLINK)
	}
}

// run does to IPv6 what a link does that starts to run.
func (k *Kernel) run(l *link) {
	k.startIPv6(l)
	for _, r := range k.ipv6.through(l.index) {
		r.hops[0].dead = false
	}
}

// linkDown tells of the link, and takes its routes: the IPv4 ones silently.
func (k *Kernel) linkDown(l *link) {
	l.up = false
	k.notifyLink(l, unix.RTM_NEWLINK)
	k.flushIPv4(l, false)
	k.dropIPv6(l)
}

// flushIPv4 silently deletes the IPv4 routes that have no next hop left but
// through l. Those to this host's own addresses stay if own is false.
func (k *Kernel) flushIPv4(l *link, own bool) {
	for _, r := range k.ipv4.through(l.index) {
		if r.typ == unix.RTN_LOCAL && !own {
			continue
		}
		alive := slices.ContainsFunc(r.hops, func(h hop) bool {
			other := k.links[h.link]
			return h.link != l.index && other != nil && other.up
		})
		if !alive {
			k.ipv4.remove(r)
		}
	}
}

// dropIPv6 deletes the IPv6 routes through l, and its addresses. A next hop of a
// multipath route is only marked as dead as long as another one is not, and the
// link is there.
func (k *Kernel) dropIPv6(l *link) {
	for _, r := range k.ipv6.through(l.index) {
		if !slices.Contains(k.ipv6.tables[r.table].routes[r.dst], r) {
			continue // went with another next hop
		}
		siblings := k.siblings(r)
		alive := slices.ContainsFunc(siblings, func(o *route) bool {
			return o.hops[0].link != l.index && !o.hops[0].dead
		})
		if alive && !l.removed {
			r.hops[0].dead = true
			continue
		}
		k.dropRoute(r)
		if !l.removed {
			for _, o := range siblings {
				k.dropRoute(o)
			}
		}
	}
	for _, a := range slices.Clone(l.addrs) {
		if a.ipv4() {
			continue
		}
		l.addrs = slices.DeleteFunc(l.addrs, func(b *address) bool { return a == b })
		k.notifyAddr(l, a, unix.RTM_DELADDR)
	}
}

func (k *Kernel) dropRoute(r *route) {
	k.ipv6.remove(r)
	k.notifyRoute(request{}, unix.RTM_DELROUTE, 0, r, nil)
}

// startIPv6 adds the IPv6 route that a link has from when it first runs, or gets
// an address.
func (k *Kernel) startIPv6(l *link) {
	if l.loopback {
		return
	}
	multicast := &route{
		dst:      netip.MustParsePrefix("ff00::/8"),
		table:    unix.RT_TABLE_LOCAL,
		protocol: unix.RTPROT_KERNEL,
		typ:      unix.RTN_MULTICAST,
		priority: connectedMetric,
		hops:     []hop{{link: l.index}},
	}
	k.addOwn(k.ipv6, multicast)
}

func (k *Kernel) notifyLink(l *link, typ netlink.HeaderType) {
	k.notifyLinkFlags(l, typ, l.running())
}

func (k *Kernel) notifyLinkFlags(l *link, typ netlink.HeaderType, running bool) {
	k.notify(request{}, unix.RTNLGRP_LINK, typ, 0, func() []byte {
		b := linkData(l, running)
		if typ == unix.RTM_DELLINK {
			// The event says that every flag may have changed.
			binary.NativeEndian.PutUint32(b[12:], 0xffffffff)
		}
		return b
	})
}

const (
	operDown = 2
	operUp   = 6
)

func linkData(l *link, running bool) []byte {
	flags := uint32(unix.IFF_BROADCAST | unix.IFF_MULTICAST)
	device := uint16(unix.ARPHRD_ETHER)
	if l.loopback {
		flags = unix.IFF_LOOPBACK
		device = unix.ARPHRD_LOOPBACK
	}
	oper := byte(operDown)
	if l.up {
		flags |= unix.IFF_UP
		if l.carrier {
			flags |= unix.IFF_LOWER_UP
		}
	}
	if running {
		flags |= unix.IFF_RUNNING
		oper = operUp
	}
	b := make([]byte, 0, 128)
	b = append(b, unix.AF_UNSPEC, 0)
	b = binary.NativeEndian.AppendUint16(b, device)
	b = binary.NativeEndian.AppendUint32(b, uint32(l.index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = appendString(b, unix.IFLA_IFNAME, l.name)
	b = appendUint32(b, unix.IFLA_TXQLEN, 1000)
	b = appendAttr(b, unix.IFLA_OPERSTATE, oper)
	b = appendUint32(b, unix.IFLA_MTU, uint32(l.mtu))
	carrier := byte(0)
	if l.up && l.carrier {
		carrier = 1
	}
	b = appendAttr(b, unix.IFLA_CARRIER, carrier)
	mac := []byte{2, 0, 0, 0, byte(l.index >> 8), byte(l.index)}
	if l.loopback {
		mac = make([]byte, 6)
	}
	return appendAttr(b, unix.IFLA_ADDRESS, mac...)
}

func (k *Kernel) dumpLinks(req request) *Refusal {
	var items [][]byte
	for _, l := range k.sortedLinks() {
		items = append(items, linkData(l, l.running()))
	}
	k.dump(req, unix.RTM_NEWLINK, 0, items)
	return nil
}

// getLink answers a request for one link, by index or by name.
func (k *Kernel) getLink(req request, data []byte) *Refusal {
	if len(data) < unix.SizeofIfInfomsg {
		return &Refusal{Errno: unix.EINVAL}
	}
	l := k.links[int(binary.NativeEndian.Uint32(data[4:]))]
	var name string
	eachAttr(data[unix.SizeofIfInfomsg:], func(typ uint16, data []byte) bool {
		if typ == unix.IFLA_IFNAME {
			name = strings.TrimRight(string(data), "\x00")
		}
		return true
	})
	if l == nil && name != "" {
		l = k.linkByName(name)
	}
	if l == nil {
		return &Refusal{Errno: unix.ENODEV}
	}
	k.reply(req, unix.RTM_NEWLINK, linkData(l, l.running()))
	return nil
}
