package netlinkx

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// FindUplink finds the uplink as o says, and chooses the addresses under which
// peers reach this host. Of several interfaces that o fits it is the one with
// the lowest index.
//
// Of the interface's own addresses it prefers the one that decided (Address, one
// that Pattern matches, the one that the kernel would use towards Reach). Else
// the IPv4 address is the first that is global, primary and not link-local if
// there is such a one, and the IPv6 address the first that is global and not
// temporary, deprecated or tentative; a link-local IPv6 address never is.
//
// The default route is IPv4's with the lowest metric, or IPv6's if there is none
// or if only IPv6 is wanted.
//
// It looks once and does not wait for anything to appear. If there is no such
// interface, or it lacks an address that is wanted, the error is a
// *[NoUplinkError].
func FindUplink(ctx context.Context, o UplinkOptions) (Uplink, error) {
	o, pattern, err := o.complete()
	if err != nil {
		return Uplink{}, err
	}
	if err := ctx.Err(); err != nil {
		return Uplink{}, fmt.Errorf("netlinkx: find the uplink: %w", context.Cause(ctx))
	}
	c, err := dialRequests(o.Dial)
	if err != nil {
		return Uplink{}, fmt.Errorf("netlinkx: find the uplink: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer c.Close()
	defer stop()

	links, err := c.candidates()
	if err == nil {
		var u Uplink
		if u, err = c.choose(o, pattern, links); err == nil {
			return u, nil
		}
	}
	if e, ok := errors.AsType[*NoUplinkError](err); ok {
		return Uplink{}, e
	}
	return Uplink{}, fmt.Errorf("netlinkx: find the uplink: %w", whyEnded(ctx, err))
}

// candidate is an interface with its addresses in the kernel's order.
type candidate struct {
	linkInfo
	loopback bool
	addrs    []address
}

func (l *candidate) has(a netip.Addr) bool {
	return slices.ContainsFunc(l.addrs, func(b address) bool { return b.prefix.Addr() == a })
}

func (l *candidate) String() string {
	if len(l.addrs) == 0 {
		return l.name
	}
	var addrs []string
	for _, a := range l.addrs {
		addrs = append(addrs, a.prefix.String())
	}
	return fmt.Sprintf("%s (%s)", l.name, strings.Join(addrs, " "))
}

// candidates returns all interfaces, ordered by index.
func (c *requestConn) candidates() ([]*candidate, error) {
	byIndex := make(map[int]*candidate)
	filter := appendUint32(make([]byte, unix.SizeofIfInfomsg), unix.IFLA_EXT_MASK, skipStats)
	err := c.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, filter, func() { clear(byIndex) }, func(m netlink.Message) {
		k, err := decodeLinkInfo(m.Data)
		if err != nil || k.name == "" {
			return
		}
		flags := binary.NativeEndian.Uint32(m.Data[8:])
		byIndex[k.index] = &candidate{linkInfo: k, loopback: flags&unix.IFF_LOOPBACK != 0}
	})
	if err != nil {
		return nil, fmt.Errorf("dump links: %w", err)
	}
	reset := func() {
		for _, l := range byIndex {
			l.addrs = nil
		}
	}
	err = c.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, make([]byte, unix.SizeofIfAddrmsg), reset, func(m netlink.Message) {
		a, err := decodeAddress(m.Data)
		if err != nil {
			return
		}
		if l := byIndex[a.index]; l != nil {
			l.addrs = append(l.addrs, a)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("dump addresses: %w", err)
	}
	links := make([]*candidate, 0, len(byIndex))
	for _, l := range byIndex {
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b *candidate) int { return cmp.Compare(a.index, b.index) })
	return links, nil
}

// choose finds the interface among links and makes the uplink of it.
func (c *requestConn) choose(o UplinkOptions, pattern *regexp.Regexp, links []*candidate) (Uplink, error) {
	none := &NoUplinkError{}
	for _, l := range links {
		none.Have = append(none.Have, l.String())
	}
	find := func(f func(l *candidate) bool) *candidate {
		if at := slices.IndexFunc(links, f); at >= 0 {
			return links[at]
		}
		return nil
	}
	var link *candidate
	var prefer netip.Addr
	switch {
	case o.Name != "":
		none.By, none.Value = "Name", o.Name
		link = find(func(l *candidate) bool { return l.name == o.Name })
	case o.Address.IsValid():
		none.By, none.Value = "Address", o.Address.String()
		prefer = o.Address
		link = find(func(l *candidate) bool { return l.has(o.Address) })
	case pattern != nil:
		none.By, none.Value = "Pattern", o.Pattern
		link, prefer = match(pattern, links)
	case o.Reach.IsValid():
		none.By, none.Value = "Reach", o.Reach.String()
		var index int
		if index, prefer, none.Err = c.way(o.Reach); none.Err != nil {
			if op, ok := errors.AsType[*netlink.OpError](none.Err); !ok || op.Sequence == 0 {
				return Uplink{}, fmt.Errorf("ask for the way to %v: %w", o.Reach, none.Err)
			}
			return Uplink{}, none
		}
		link = find(func(l *candidate) bool { return l.index == index })
		if link != nil && link.loopback {
			// It is an address of this host.
			prefer = o.Reach
			link = find(func(l *candidate) bool { return l.has(o.Reach) })
		}
	default:
		index, err := c.defaultLink(o.IPv6 && !o.IPv4)
		if err != nil {
			return Uplink{}, err
		}
		link = find(func(l *candidate) bool { return index != 0 && l.index == index })
	}
	if link == nil {
		return Uplink{}, none
	}

	u := Uplink{Name: link.name, Index: link.index, MTU: link.mtu, Up: link.up, Running: link.running}
	for _, a := range link.addrs {
		u.Addrs = append(u.Addrs, a.onLink()...)
	}
	slices.SortFunc(u.Addrs, comparePrefix)
	u.IPv4, u.IPv6 = o.PublicIPv4, o.PublicIPv6
	if !u.IPv4.IsValid() {
		u.IPv4 = best(link.addrs, true, prefer)
	}
	if !u.IPv6.IsValid() {
		u.IPv6 = best(link.addrs, false, prefer)
	}
	switch {
	case o.IPv4 && !u.IPv4.IsValid():
		none.Family = "IPv4"
	case o.IPv6 && !u.IPv6.IsValid():
		none.Family = "IPv6"
	case !u.IPv4.IsValid() && !u.IPv6.IsValid():
		none.Family = "IPv4 or IPv6"
	default:
		return u, nil
	}
	none.Interface, none.Have = link.name, []string{link.String()}
	return Uplink{}, none
}

// match returns the first interface with an address that the pattern matches,
// and that address, else the first with such a name. The loopback interface is
// none.
func match(pattern *regexp.Regexp, links []*candidate) (*candidate, netip.Addr) {
	for _, l := range links {
		if l.loopback {
			continue
		}
		for _, a := range l.addrs {
			if ip := a.prefix.Addr(); pattern.MatchString(ip.String()) {
				return l, ip
			}
		}
	}
	for _, l := range links {
		if !l.loopback && pattern.MatchString(l.name) {
			return l, netip.Addr{}
		}
	}
	return nil, netip.Addr{}
}

// way asks the kernel through which interface a packet to a goes, and from which
// of this host's addresses.
func (c *requestConn) way(a netip.Addr) (index int, source netip.Addr, err error) {
	data := make([]byte, unix.SizeofRtMsg)
	data[0], data[1] = unix.AF_INET6, byte(a.BitLen())
	if a.Is4() {
		data[0] = unix.AF_INET
	}
	answer, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request},
		Data:   appendAddr(data, unix.RTA_DST, a),
	})
	if err != nil {
		return 0, netip.Addr{}, err
	}
	for _, m := range answer {
		if m.Header.Type != unix.RTM_NEWROUTE {
			continue
		}
		r, _, _, err := decodeRoute(m.Data)
		if err != nil {
			return 0, netip.Addr{}, err
		}
		return int(r.index), r.source, nil
	}
	return 0, netip.Addr{}, errRouteMessage
}

// defaultLink returns the index of the interface of the default route, or zero
// if there is none.
func (c *requestConn) defaultLink(onlyIPv6 bool) (int, error) {
	families := []byte{unix.AF_INET, unix.AF_INET6}
	if onlyIPv6 {
		families = families[1:]
	}
	for _, family := range families {
		index, lowest := 0, uint32(0)
		each := func(m netlink.Message) {
			r, more, table, err := decodeRoute(m.Data)
			if err != nil || m.Data[0] != family || table != tableMain || r.subnet.Bits() != 0 || r.kind != routeUnicast || r.tos != 0 {
				return
			}
			via := int(r.index)
			if len(more) > 0 {
				via = int(more[0].index)
			} else if via == 0 {
				via = firstHop(m.Data)
			}
			if via != 0 && (index == 0 || r.metric < lowest) {
				index, lowest = via, r.metric
			}
		}
		filter := make([]byte, unix.SizeofRtMsg)
		filter[0] = family
		filter = appendUint32(filter, unix.RTA_TABLE, tableMain)
		err := c.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, filter, func() { index, lowest = 0, 0 }, each)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return 0, fmt.Errorf("dump routes: %w", err)
		}
		if index != 0 {
			return index, nil
		}
	}
	return 0, nil
}

// firstHop returns the interface of the first next hop in a route message that
// has been decoded before, or zero.
func firstHop(b []byte) int {
	for b = b[unix.SizeofRtMsg:]; len(b) >= unix.SizeofRtAttr; {
		var kind uint16
		var value []byte
		if kind, value, b = nextAttr(b); value == nil {
			return 0
		}
		if kind == unix.RTA_MULTIPATH && len(value) >= unix.SizeofRtNexthop {
			return int(int32(binary.NativeEndian.Uint32(value[4:])))
		}
	}
	return 0
}
