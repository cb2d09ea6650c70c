package netlinktest

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// routeRequest is what a request about a route says.
type routeRequest struct {
	route          // dst and table are not set yet
	family    byte // AF_INET or AF_INET6
	dst       netip.Addr
	bits      int
	table     uint32
	tos       uint8
	multipath bool
}

// rtaNextHopID is RTA_NH_ID, which package unix lacks.
const rtaNextHopID = 30

func invalid(text string) *Refusal { return &Refusal{unix.EINVAL, text} }

// parseRouteRequest reads rtmsg and its attributes.
func parseRouteRequest(data []byte) (*routeRequest, *Refusal) {
	if len(data) < unix.SizeofRtMsg {
		return nil, &Refusal{Errno: unix.EINVAL}
	}
	c := &routeRequest{
		family: data[0],
		bits:   int(data[1]),
		tos:    data[3],
		table:  uint32(data[4]),
		route:  route{protocol: data[5], scope: data[6], typ: data[7]},
	}
	flags := binary.NativeEndian.Uint32(data[8:])
	switch c.family {
	case unix.AF_INET:
		c.dst = netip.IPv4Unspecified()
	case unix.AF_INET6:
		c.dst = netip.IPv6Unspecified()
		c.scope = unix.RT_SCOPE_UNIVERSE
	default:
		return nil, &Refusal{Errno: unix.EOPNOTSUPP}
	}
	size := c.dst.BitLen() / 8
	if c.bits > c.dst.BitLen() {
		return nil, invalid("Invalid prefix length")
	}
	if flags&(unix.RTNH_F_DEAD|unix.RTNH_F_LINKDOWN) != 0 {
		return nil, invalid("Invalid rtm_flags - can not contain DEAD or LINKDOWN")
	}
	var single hop
	var refusal *Refusal
	addr := func(data []byte) netip.Addr {
		a, ok := netip.AddrFromSlice(data)
		if !ok || len(data) != size {
			refusal = &Refusal{Errno: unix.EINVAL}
		}
		return a
	}
	number := func(data []byte) uint32 {
		v, ok := uint32Of(data)
		if !ok {
			refusal = &Refusal{Errno: unix.EINVAL}
		}
		return v
	}
	well := eachAttr(data[unix.SizeofRtMsg:], func(typ uint16, data []byte) bool {
		switch typ {
		case unix.RTA_DST:
			c.dst = addr(data)
		case unix.RTA_GATEWAY:
			single.gateway = addr(data)
		case unix.RTA_OIF:
			single.link = int(number(data))
		case unix.RTA_PRIORITY:
			c.priority = number(data)
		case unix.RTA_PREFSRC:
			c.source = addr(data)
		case unix.RTA_TABLE:
			c.table = number(data)
		case unix.RTA_METRICS:
			c.metrics = slices.Clone(data)
			if !eachAttr(data, func(typ uint16, data []byte) bool {
				return typ == unix.RTAX_CC_ALGO || 0 < typ && typ < unix.RTAX_CC_ALGO && len(data) == 4
			}) || len(data)%4 != 0 {
				refusal = invalid("Invalid metric type")
			}
		case unix.RTA_MULTIPATH:
			c.multipath = true
			refusal = c.parseHops(data, addr)
		case unix.RTA_VIA, rtaNextHopID, unix.RTA_ENCAP:
			refusal = &Refusal{unix.EOPNOTSUPP, "netlinktest does not know such next hops"}
		}
		return refusal == nil
	})
	if refusal != nil {
		return nil, refusal
	}
	if !well {
		return nil, &Refusal{Errno: unix.EINVAL}
	}
	if !c.multipath && single != (hop{}) {
		c.hops = []hop{single}
	}
	for i := range c.hops {
		c.hops[i].onlink = c.hops[i].onlink || flags&unix.RTNH_F_ONLINK != 0
	}
	if c.table == 0 {
		c.table = unix.RT_TABLE_MAIN
	}
	return c, nil
}

func (c *routeRequest) parseHops(data []byte, addr func([]byte) netip.Addr) *Refusal {
	for len(data) >= unix.SizeofRtNexthop {
		n := int(binary.NativeEndian.Uint16(data))
		if n < unix.SizeofRtNexthop || n > len(data) {
			return invalid("Invalid nexthop configuration - extra data after nexthops")
		}
		h := hop{
			onlink: data[2]&unix.RTNH_F_ONLINK != 0,
			weight: data[3],
			link:   int(binary.NativeEndian.Uint32(data[4:])),
		}
		if !eachAttr(data[unix.SizeofRtNexthop:n], func(typ uint16, data []byte) bool {
			if typ == unix.RTA_GATEWAY {
				h.gateway = addr(data)
			}
			return true
		}) {
			return &Refusal{Errno: unix.EINVAL}
		}
		c.hops = append(c.hops, h)
		data = data[min(align(n), len(data)):]
	}
	if len(c.hops) == 0 {
		return invalid("Invalid nexthop configuration - no valid nexthops")
	}
	return nil
}

// changeRoute adds, replaces or deletes.
func (k *Kernel) changeRoute(req request, add bool, c *routeRequest) *Refusal {
	p := netip.PrefixFrom(c.dst, c.bits)
	c.route.dst, c.route.table, c.route.tos = p.Masked(), c.table, c.tos
	f := k.ipv6
	if c.family == unix.AF_INET {
		f = k.ipv4
		if p != p.Masked() {
			return invalid("Invalid prefix for given prefix length")
		}
	}
	// A table comes to be with the first attempt to add to it, even one that
	// fails.
	t := f.table(c.table, add)
	if t == nil {
		return &Refusal{unix.ESRCH, "FIB table does not exist"}
	}
	if c.family == unix.AF_INET {
		if add {
			return k.addIPv4(req, c, t)
		}
		return k.deleteIPv4(req, c, t)
	}
	// IPv6 has no scopes, no type of service, and drops host bits.
	c.route.tos, c.route.scope = 0, 0
	if add {
		return k.addIPv6(req, c, t)
	}
	return k.deleteIPv6(req, c, t)
}

// withoutHops reports whether a route type leads nowhere.
func withoutHops(typ uint8) bool {
	switch typ {
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		return true
	}
	return false
}

func (k *Kernel) addIPv4(req request, c *routeRequest, t *table) *Refusal {
	r := c.route
	if r.scope > unix.RT_SCOPE_HOST || r.typ == unix.RTN_LOCAL && r.scope < unix.RT_SCOPE_HOST || r.typ == unix.RTN_BROADCAST && r.scope < unix.RT_SCOPE_LINK {
		return invalid("Invalid scope")
	}
	if withoutHops(r.typ) {
		if len(r.hops) > 0 {
			return invalid("Gateway, device and multipath can not be specified for this route type")
		}
	} else {
		if len(r.hops) == 0 {
			return &Refusal{Errno: unix.ENODEV}
		}
		for i := range r.hops {
			if refusal := k.checkIPv4(&r.hops[i], r.table, r.scope); refusal != nil {
				return refusal
			}
		}
	}
	if r.source.IsValid() && !k.own(r.source) {
		return invalid("Invalid prefsrc address")
	}

	list := t.routes[r.dst]
	// The routes in whose place this one would be: of the same type of service
	// and priority. The protocol does not matter.
	first, end := place(list, &r)
	identical := slices.IndexFunc(list[first:end], r.same)
	if first == end {
		if req.flags&netlink.Create == 0 {
			return &Refusal{Errno: unix.ENOENT}
		}
		k.ipv4.insert(&r, first)
		k.notifyRoute(req, unix.RTM_NEWROUTE, netlink.Create, &r, nil)
		return nil
	}
	switch {
	case req.flags&netlink.Excl != 0:
		return &Refusal{Errno: unix.EEXIST}
	case req.flags&netlink.Replace != 0:
		if identical == 0 {
			return nil
		}
		if identical >= 0 {
			return &Refusal{Errno: unix.EEXIST}
		}
		k.ipv4.remove(list[first])
		k.ipv4.insert(&r, first)
		k.notifyRoute(req, unix.RTM_NEWROUTE, netlink.Replace, &r, nil)
	case identical >= 0:
		return &Refusal{Errno: unix.EEXIST}
	case req.flags&netlink.Create == 0:
		return &Refusal{Errno: unix.ENOENT}
	case req.flags&netlink.Append != 0:
		k.ipv4.insert(&r, end)
		k.notifyRoute(req, unix.RTM_NEWROUTE, netlink.Create|netlink.Append, &r, nil)
	default:
		k.ipv4.insert(&r, first)
		k.notifyRoute(req, unix.RTM_NEWROUTE, netlink.Create, &r, nil)
	}
	return nil
}

// checkIPv4 finds out whether a next hop can be reached, and through which link.
func (k *Kernel) checkIPv4(h *hop, table uint32, scope uint8) *Refusal {
	if !h.gateway.IsValid() || h.gateway.IsUnspecified() {
		h.gateway = netip.Addr{}
		if h.onlink {
			return invalid("Invalid flags for nexthop - PERVASIVE and ONLINK can not be set")
		}
		l := k.links[h.link]
		if l == nil {
			return &Refusal{Errno: unix.ENODEV}
		}
		if !l.up {
			return &Refusal{unix.ENETDOWN, "Device for nexthop is not up"}
		}
		h.scope = unix.RT_SCOPE_HOST
		return nil
	}
	if scope == unix.RT_SCOPE_HOST {
		return invalid("Route with host scope can not have a gateway")
	}
	const badGateway = "Nexthop has invalid gateway"
	if h.onlink {
		if scope >= unix.RT_SCOPE_LINK {
			return invalid("Nexthop has invalid scope")
		}
		l := k.links[h.link]
		switch {
		case l == nil:
			return &Refusal{unix.ENODEV, "Nexthop device required for onlink"}
		case !l.up:
			return &Refusal{unix.ENETDOWN, "Nexthop device is not up"}
		}
		got, errno := k.lookup(k.ipv4, unix.RT_TABLE_LOCAL, h.gateway, 0, 0)
		if h.gateway.IsMulticast() || errno == 0 && got.r.typ != unix.RTN_UNICAST {
			return invalid(badGateway)
		}
		h.scope = unix.RT_SCOPE_LINK
		return nil
	}
	got, errno := k.lookup(k.ipv4, table, h.gateway, h.link, max(scope+1, unix.RT_SCOPE_LINK))
	if errno != 0 {
		return &Refusal{errno, badGateway}
	}
	if got.r.typ != unix.RTN_UNICAST && got.r.typ != unix.RTN_LOCAL {
		return invalid(badGateway)
	}
	h.link, h.scope = got.h.link, got.r.scope
	if !k.links[h.link].up {
		return &Refusal{Errno: unix.ENETDOWN}
	}
	return nil
}

func (k *Kernel) deleteIPv4(req request, c *routeRequest, t *table) *Refusal {
	for _, o := range t.routes[c.route.dst] {
		if o.tos == c.tos && c.matches(o) && (c.scope == unix.RT_SCOPE_NOWHERE || c.scope == o.scope) &&
			(!c.source.IsValid() || c.source == o.source) && (c.typ == 0 || c.typ == o.typ) {
			k.ipv4.remove(o)
			k.notifyRoute(req, unix.RTM_DELROUTE, 0, o, nil)
			return nil
		}
	}
	return &Refusal{Errno: unix.ESRCH}
}

// matches reports whether o is as a deletion wants it, in what both families
// look at: what is not said matches everything.
func (c *routeRequest) matches(o *route) bool {
	if c.protocol != 0 && c.protocol != o.protocol || c.priority != 0 && c.priority != o.priority {
		return false
	}
	if c.multipath && len(c.hops) != len(o.hops) {
		return false
	}
	for i, h := range c.hops {
		if i >= len(o.hops) {
			return false
		}
		if h.link != 0 && h.link != o.hops[i].link || h.gateway.IsValid() && h.gateway != o.hops[i].gateway {
			return false
		}
	}
	return true
}

// defaultIPv6Metric is the metric of IPv6 routes that are added without one.
const defaultIPv6Metric = 1024

func (k *Kernel) addIPv6(req request, c *routeRequest, t *table) *Refusal {
	if c.priority == 0 {
		c.priority = defaultIPv6Metric
	}
	if withoutHops(c.typ) {
		// Such routes lead to the loopback interface.
		c.hops = []hop{{link: 1}}
	}
	if len(c.hops) == 0 {
		return &Refusal{Errno: unix.ENODEV}
	}
	parts := make([]*route, len(c.hops))
	for i, h := range c.hops {
		if !withoutHops(c.typ) {
			if refusal := k.checkIPv6(&h, c.table); refusal != nil {
				return refusal
			}
		}
		if c.source.IsValid() && !k.own(c.source) {
			return invalid("Invalid source address")
		}
		r := c.route
		r.hops = []hop{h}
		parts[i] = &r
	}
	var flags netlink.HeaderFlags
	for i, r := range parts {
		f, refusal := k.insertIPv6(t, req.flags, r)
		if refusal != nil {
			for _, done := range parts[:i] {
				k.ipv6.remove(done)
			}
			return refusal
		}
		if i == 0 {
			flags = f
		}
		// The further next hops join the first.
		req.flags = req.flags&^(netlink.Excl|netlink.Replace) | netlink.Create
	}
	k.notifyRoute(req, unix.RTM_NEWROUTE, flags, parts[0], k.siblings(parts[0]))
	return nil
}

// siblings returns the other next hops of r's multipath route.
func (k *Kernel) siblings(r *route) []*route {
	if !r.ecmp() {
		return nil
	}
	var others []*route
	for _, o := range k.ipv6.tables[r.table].routes[r.dst] {
		if o != r && o.ecmp() && o.priority == r.priority {
			others = append(others, o)
		}
	}
	return others
}

// insertIPv6 puts one next hop in, and returns the flags that its event has.
func (k *Kernel) insertIPv6(t *table, flags netlink.HeaderFlags, r *route) (netlink.HeaderFlags, *Refusal) {
	list := t.routes[r.dst]
	first, end := place(list, r)
	if flags&netlink.Replace == 0 {
		for _, o := range list[first:end] {
			if flags&netlink.Excl != 0 || o.hops[0].gateway == r.hops[0].gateway && o.hops[0].link == r.hops[0].link {
				return 0, &Refusal{Errno: unix.EEXIST}
			}
		}
		k.ipv6.insert(r, end)
		return netlink.Create | flags&netlink.Append, nil
	}
	switch {
	case len(list) == 0 && flags&netlink.Create == 0:
		return 0, &Refusal{unix.ENOENT, "Can not replace route - no match found"}
	case first == end && flags&netlink.Create == 0:
		return 0, &Refusal{Errno: unix.ENOENT}
	case first == end:
		k.ipv6.insert(r, first)
		return netlink.Create, nil
	}
	// What is replaced is the first with the same metric that has a gateway too,
	// or has none either, else just the first; and a multipath route whole.
	at := first + max(0, slices.IndexFunc(list[first:end], func(o *route) bool { return o.ecmp() == r.ecmp() }))
	old := list[at]
	others := k.siblings(old)
	k.ipv6.remove(old)
	k.ipv6.insert(r, at)
	for _, o := range others {
		k.ipv6.remove(o)
	}
	return netlink.Replace, nil
}

// checkIPv6 is checkIPv4 for IPv6.
func (k *Kernel) checkIPv6(h *hop, table uint32) *Refusal {
	l := k.links[h.link]
	if h.link != 0 && l == nil {
		return &Refusal{Errno: unix.ENODEV}
	}
	if h.onlink {
		if l == nil {
			return &Refusal{unix.ENODEV, "Nexthop device required for onlink"}
		}
		if !l.up {
			return &Refusal{unix.ENETDOWN, "Nexthop device is not up"}
		}
	}
	if h.gateway.IsValid() && !h.gateway.IsUnspecified() {
		const local = "Gateway can not be a local address"
		if l != nil && k.ownIPv6(h.gateway, l) {
			return invalid(local)
		}
		if !h.gateway.IsLinkLocalUnicast() {
			if h.gateway.IsMulticast() || h.gateway.IsLoopback() {
				return invalid("Invalid gateway address")
			}
			if h.onlink {
				// The main table may not say that the gateway is elsewhere,
				// unless that is its default route.
				if list := k.ipv6.tables[unix.RT_TABLE_MAIN].match(h.gateway); len(list) > 0 &&
					!list[0].dst.Addr().IsUnspecified() && !withoutHops(list[0].typ) &&
					!slices.ContainsFunc(list, func(o *route) bool { return o.typ == unix.RTN_UNICAST && o.hops[0].link == h.link }) {
					return invalid("Nexthop has invalid gateway or device mismatch")
				}
			} else {
				// A route in the table itself that will not do is not the last
				// word.
				got, errno, ok := k.lookupTable(k.ipv6.tables[table], h.gateway, h.link, 0)
				if !ok || errno != 0 || got.h.gateway.IsValid() {
					got, errno = k.lookup(k.ipv6, 0, h.gateway, h.link, 0)
				}
				if errno != 0 || got.h.gateway.IsValid() {
					return &Refusal{Errno: unix.EHOSTUNREACH}
				}
				if l == nil {
					l = k.links[got.h.link]
				}
			}
		}
		switch {
		case l == nil:
			return invalid("Egress device not specified")
		case h.link == 0 && k.ownIPv6(h.gateway, l):
			return invalid(local)
		case l.loopback:
			return invalid("Egress device can not be loopback device for this route")
		}
	} else {
		h.gateway = netip.Addr{}
	}
	if l == nil {
		return &Refusal{Errno: unix.ENODEV}
	}
	if !l.up {
		return &Refusal{unix.ENETDOWN, "Nexthop device is not up"}
	}
	h.link = l.index
	return nil
}

// ownIPv6 reports whether a gateway is this host's own: for a link-local one,
// on that link.
func (k *Kernel) ownIPv6(a netip.Addr, l *link) bool {
	on := func(l *link) bool {
		return slices.ContainsFunc(l.addrs, func(b *address) bool { return b.Prefix.Addr() == a })
	}
	if a.IsLinkLocalUnicast() {
		return on(l)
	}
	for _, l := range k.links {
		if on(l) {
			return true
		}
	}
	return false
}

func (k *Kernel) deleteIPv6(req request, c *routeRequest, t *table) *Refusal {
	for _, o := range t.routes[c.route.dst] {
		if c.typ == unix.RTN_LOCAL && o.typ != c.typ || !c.matches(o) {
			continue
		}
		// A gateway deletes that next hop; none deletes the route whole.
		named := len(c.hops) > 0 && c.hops[0].gateway.IsValid()
		var others []*route
		if !named {
			others = k.siblings(o)
		}
		k.ipv6.remove(o)
		for _, s := range others {
			k.ipv6.remove(s)
		}
		k.notifyRoute(req, unix.RTM_DELROUTE, 0, o, others)
		return nil
	}
	return &Refusal{Errno: unix.ESRCH}
}
