package netlinktest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Route is a route of a Kernel as a test reads or writes it.
type Route struct {
	Dst      netip.Prefix
	Gateway  netip.Addr // none if zero
	Link     string     // name of the interface; found by the gateway if empty
	Table    uint32     // main (254) if zero
	Protocol uint8      // boot (3), as ip route add has it, if zero
	Metric   uint32     // in IPv6 1024 if zero
	Source   netip.Addr // preferred source address; none if zero
	Scope    uint8      // as ip route add has it for such a route if zero
	Type     uint8      // RTN_*; unicast (1) if zero
	TOS      uint8
	OnLink   bool

	LinkDown bool      // the link has no carrier or is down; only read
	Hops     []NextHop // of a multipath route, whose Gateway, Link, OnLink and LinkDown are then zero
}

// NextHop is one way of a multipath route.
type NextHop struct {
	Gateway  netip.Addr
	Link     string
	OnLink   bool
	LinkDown bool
	Weight   int // 1 if zero
}

func (r Route) String() string {
	s := r.Dst.String()
	hop := func(h NextHop) {
		if h.Gateway.IsValid() {
			s += fmt.Sprintf(" via %v", h.Gateway)
		}
		if h.Link != "" {
			s += " dev " + h.Link
		}
		if h.OnLink {
			s += " onlink"
		}
		if h.LinkDown {
			s += " linkdown"
		}
	}
	if len(r.Hops) == 0 {
		hop(NextHop{Gateway: r.Gateway, Link: r.Link, OnLink: r.OnLink, LinkDown: r.LinkDown})
	}
	s += fmt.Sprintf(" table %d proto %d scope %d type %d", r.Table, r.Protocol, r.Scope, r.Type)
	if r.Metric != 0 {
		s += fmt.Sprintf(" metric %d", r.Metric)
	}
	if r.TOS != 0 {
		s += fmt.Sprintf(" tos %d", r.TOS)
	}
	if r.Source.IsValid() {
		s += fmt.Sprintf(" src %v", r.Source)
	}
	for _, h := range r.Hops {
		s += " nexthop"
		hop(h)
		s += fmt.Sprintf(" weight %d", h.Weight)
	}
	return s
}

// AddRoute adds a route as another program would (ip route add), with its
// events. The error is a *[Refusal].
func (k *Kernel) AddRoute(r Route) error {
	return k.control(netlink.Create|netlink.Excl, true, r)
}

// ReplaceRoute adds a route or replaces the one in its place (ip route replace).
func (k *Kernel) ReplaceRoute(r Route) error {
	return k.control(netlink.Create|netlink.Replace, true, r)
}

// AppendRoute adds a route behind others of its destination and metric (ip route
// append).
func (k *Kernel) AppendRoute(r Route) error {
	return k.control(netlink.Create|netlink.Append, true, r)
}

// DelRoute deletes the first route that is as r says in all that r says: a
// field that is zero matches whatever the route has.
func (k *Kernel) DelRoute(r Route) error {
	return k.control(0, false, r)
}

// controlPID is the port that requests of the control methods seem to come from.
const controlPID = 1

func (k *Kernel) control(flags netlink.HeaderFlags, add bool, r Route) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := routeRequest{
		family: unix.AF_INET6,
		dst:    r.Dst.Addr(),
		bits:   r.Dst.Bits(),
		table:  r.Table,
		tos:    r.TOS,
		route: route{
			protocol: r.Protocol,
			scope:    r.Scope,
			typ:      r.Type,
			priority: r.Metric,
			source:   r.Source,
		},
	}
	if r.Dst.Addr().Is4() {
		c.family = unix.AF_INET
	}
	hops := r.Hops
	if len(hops) == 0 && (r.Link != "" || r.Gateway.IsValid()) {
		hops = []NextHop{{Gateway: r.Gateway, Link: r.Link, OnLink: r.OnLink}}
	}
	for _, h := range hops {
		c.hops = append(c.hops, hop{gateway: h.Gateway, onlink: h.OnLink, weight: uint8(max(h.Weight, 1) - 1)})
		if h.Link != "" {
			c.hops[len(c.hops)-1].link = k.mustLink(h.Link).index
		}
	}
	c.multipath = len(r.Hops) > 0
	if c.table == 0 {
		c.table = unix.RT_TABLE_MAIN
	}
	if add {
		if c.protocol == 0 {
			c.protocol = unix.RTPROT_BOOT
		}
		if c.typ == 0 {
			c.typ = unix.RTN_UNICAST
		}
	}
	if c.scope == 0 && c.family == unix.AF_INET {
		switch {
		case !add:
			c.scope = unix.RT_SCOPE_NOWHERE
		case c.typ == unix.RTN_LOCAL:
			c.scope = unix.RT_SCOPE_HOST
		case !c.multipath && !r.Gateway.IsValid() && c.typ <= unix.RTN_MULTICAST:
			c.scope = unix.RT_SCOPE_LINK
		}
	}
	if refusal := k.changeRoute(request{pid: controlPID, seq: 1, flags: flags}, add, &c); refusal != nil {
		return refusal
	}
	return nil
}

// Routes returns all routes of all tables, ordered by family, table and
// destination. Those to this host's own addresses are in table local (255).
func (k *Kernel) Routes() []Route {
	k.mu.Lock()
	defer k.mu.Unlock()
	var routes []Route
	for _, f := range []*fib{k.ipv4, k.ipv6} {
		for _, t := range f.sortedTables() {
			for _, list := range t.sortedRoutes() {
				for _, g := range groups(list) {
					routes = append(routes, k.snapshot(g))
				}
			}
		}
	}
	return routes
}

// RoutesOf returns those of [Kernel.Routes] that a protocol's number is on.
func (k *Kernel) RoutesOf(protocol uint8) []Route {
	return slices.DeleteFunc(k.Routes(), func(r Route) bool { return r.Protocol != protocol })
}

func (k *Kernel) snapshot(group []*route) Route {
	r := group[0]
	s := Route{
		Dst: r.dst, Table: r.table, Protocol: r.protocol, Metric: r.priority,
		Source: r.source, Scope: r.scope, Type: r.typ, TOS: r.tos,
	}
	for _, h := range groupHops(group) {
		n := NextHop{Gateway: h.gateway, OnLink: h.onlink, LinkDown: k.hopDown(h), Weight: int(h.weight) + 1}
		if l := k.links[h.link]; l != nil {
			n.Link = l.name
		}
		s.Hops = append(s.Hops, n)
	}
	if len(s.Hops) == 1 {
		h := s.Hops[0]
		s.Gateway, s.Link, s.OnLink, s.LinkDown, s.Hops = h.Gateway, h.Link, h.OnLink, h.LinkDown, nil
	}
	return s
}

func groupHops(group []*route) []hop {
	if len(group) == 1 {
		return group[0].hops
	}
	var hops []hop
	for _, r := range group {
		hops = append(hops, r.hops...)
	}
	return hops
}

func (k *Kernel) hopDown(h hop) bool {
	l := k.links[h.link]
	return l == nil || !l.running()
}

// familyOf returns r's FIB and the group that hears of it.
func (k *Kernel) familyOf(r *route) (*fib, uint32) {
	if r.ipv4() {
		return k.ipv4, unix.RTNLGRP_IPV4_ROUTE
	}
	return k.ipv6, unix.RTNLGRP_IPV6_ROUTE
}

// addOwn adds a route of the kernel's own, behind others of its destination and
// priority, if there is no such one yet.
func (k *Kernel) addOwn(f *fib, r *route) {
	list := f.table(r.table, true).routes[r.dst]
	first, end := place(list, r)
	for _, o := range list[first:end] {
		if o.same(r) {
			return
		}
	}
	flags := netlink.Create
	if r.ipv4() && first < end {
		flags |= netlink.Append
	}
	f.insert(r, end)
	k.notifyRoute(request{}, unix.RTM_NEWROUTE, flags, r, nil)
}

// deleteOwn deletes a route of the kernel's own, if it is there.
func (k *Kernel) deleteOwn(f *fib, r *route) {
	t := f.tables[r.table]
	if t == nil {
		return
	}
	for _, o := range t.routes[r.dst] {
		if o.same(r) {
			f.remove(o)
			k.notifyRoute(request{}, unix.RTM_DELROUTE, 0, o, nil)
			return
		}
	}
}

// same reports whether r and o differ in nothing but attributes without a
// meaning to the kernel.
func (r *route) same(o *route) bool {
	return r.tos == o.tos && r.typ == o.typ && r.priority == o.priority && r.protocol == o.protocol &&
		r.scope == o.scope && r.source == o.source && string(r.metrics) == string(o.metrics) &&
		slices.Equal(r.hops, o.hops)
}

// notifyRoute tells of r. Of an IPv6 route that is one of several next hops the
// others, given as siblings, are told too.
func (k *Kernel) notifyRoute(req request, typ netlink.HeaderType, flags netlink.HeaderFlags, r *route, siblings []*route) {
	_, group := k.familyOf(r)
	k.notify(req, group, typ, flags, func() []byte {
		return k.routeData(append([]*route{r}, siblings...))
	})
}

// routeData writes a group of routes as rtmsg and attributes.
func (k *Kernel) routeData(group []*route) []byte {
	r := group[0]
	hops := groupHops(group)
	family := byte(unix.AF_INET6)
	if r.ipv4() {
		family = unix.AF_INET
	}
	var flags uint32
	if len(hops) == 1 {
		flags = uint32(k.hopFlags(hops[0], r))
	}
	short := byte(unix.RT_TABLE_COMPAT)
	if r.table < 256 {
		short = byte(r.table)
	}
	b := make([]byte, 0, 96)
	b = append(b, family, byte(r.dst.Bits()), 0, r.tos, short, r.protocol, r.scope, r.typ)
	b = binary.NativeEndian.AppendUint32(b, flags)
	b = appendUint32(b, unix.RTA_TABLE, r.table)
	if r.dst.Bits() > 0 {
		b = appendAddr(b, unix.RTA_DST, r.dst.Addr())
	}
	if r.priority != 0 || !r.ipv4() {
		b = appendUint32(b, unix.RTA_PRIORITY, r.priority)
	}
	if len(r.metrics) > 0 {
		b = appendAttr(b, unix.RTA_METRICS|unix.NLA_F_NESTED, r.metrics...)
	}
	if r.source.IsValid() {
		b = appendAddr(b, unix.RTA_PREFSRC, r.source)
	}
	switch {
	case len(hops) == 1:
		if hops[0].gateway.IsValid() {
			b = appendGateway(b, family, hops[0].gateway)
		}
		b = appendUint32(b, unix.RTA_OIF, uint32(hops[0].link))
	case len(hops) > 1:
		var nested []byte
		for _, h := range hops {
			var attrs []byte
			if h.gateway.IsValid() {
				attrs = appendGateway(nil, family, h.gateway)
			}
			nested = binary.NativeEndian.AppendUint16(nested, uint16(unix.SizeofRtNexthop+len(attrs)))
			nested = append(nested, k.hopFlags(h, r), h.weight)
			nested = binary.NativeEndian.AppendUint32(nested, uint32(h.link))
			nested = append(nested, attrs...)
		}
		b = appendAttr(b, unix.RTA_MULTIPATH, nested...)
	}
	if !r.ipv4() {
		b = appendAttr(b, unix.RTA_PREF, 0)
	}
	return b
}

// appendGateway writes a gateway, which for IPv4 through IPv6 is RTA_VIA.
func appendGateway(b []byte, family byte, a netip.Addr) []byte {
	if family == unix.AF_INET && a.Is6() {
		return appendAttr(b, unix.RTA_VIA, append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET6), a.AsSlice()...)...)
	}
	return appendAddr(b, unix.RTA_GATEWAY, a)
}

func (k *Kernel) hopFlags(h hop, r *route) byte {
	var flags byte
	if h.onlink {
		flags |= unix.RTNH_F_ONLINK
	}
	if l := k.links[h.link]; l != nil && r.typ != unix.RTN_LOCAL {
		dead := h.dead || r.ipv4() && !l.up
		if dead {
			flags |= unix.RTNH_F_DEAD
		}
		if dead || !l.carrier {
			flags |= unix.RTNH_F_LINKDOWN
		}
	}
	return flags
}

// dumpRoutes filters by family, and by table, interface, protocol and type where
// the socket checks its requests strictly.
func (k *Kernel) dumpRoutes(req request, data []byte) *Refusal {
	var rtm [unix.SizeofRtMsg]byte
	strict := req.from.has(netlink.GetStrictCheck)
	if len(data) < len(rtm) && strict {
		k.endDump(req, &Refusal{unix.EINVAL, "Invalid header for FIB dump request"})
		return nil
	}
	copy(rtm[:], data)
	family := rtm[0]
	var id uint32
	var link int
	var protocol, typ uint8
	var flags netlink.HeaderFlags
	if strict {
		if rtm[1] != 0 || rtm[2] != 0 || rtm[3] != 0 || rtm[6] != 0 {
			k.endDump(req, &Refusal{unix.EINVAL, "Invalid values in header for FIB dump request"})
			return nil
		}
		id, protocol, typ = uint32(rtm[4]), rtm[5], rtm[7]
		known := true
		eachAttr(data[len(rtm):], func(t uint16, data []byte) bool {
			v, ok := uint32Of(data)
			switch {
			case t == unix.RTA_TABLE && ok:
				id = v
			case t == unix.RTA_OIF && ok:
				link = int(v)
			default:
				known = false
			}
			return known
		})
		if !known {
			k.endDump(req, &Refusal{unix.EINVAL, "Unsupported attribute in dump request"})
			return nil
		}
		if link != 0 && k.links[link] == nil {
			k.endDump(req, &Refusal{Errno: unix.ENODEV})
			return nil
		}
		if id != 0 || link != 0 || protocol != 0 || typ != 0 {
			flags = netlink.DumpFiltered
		}
	}
	var items [][]byte
	for i, f := range []*fib{k.ipv4, k.ipv6} {
		if f == k.ipv4 && family == unix.AF_INET6 || f == k.ipv6 && family == unix.AF_INET {
			continue
		}
		if id != 0 && f.tables[id] == nil && family != unix.AF_UNSPEC {
			k.endDump(req, &Refusal{unix.ENOENT, []string{"ipv4", "ipv6"}[i] + ": FIB table does not exist"})
			return nil
		}
		for _, t := range f.sortedTables() {
			if id != 0 && t.id != id {
				continue
			}
			for _, list := range t.sortedRoutes() {
				for _, g := range dumped(list) {
					r := g[0]
					if protocol != 0 && r.protocol != protocol || typ != 0 && r.typ != typ ||
						link != 0 && !slices.ContainsFunc(groupHops(g), func(h hop) bool { return h.link == link }) {
						continue
					}
					items = append(items, k.routeData(g))
				}
			}
		}
	}
	k.dump(req, unix.RTM_NEWROUTE, flags, items)
	return nil
}

// reply answers a request for one thing.
func (k *Kernel) reply(req request, typ netlink.HeaderType, data []byte) {
	req.from.deliver([]netlink.Message{{
		Header: netlink.Header{
			Length:   uint32(unix.NLMSG_HDRLEN + len(data)),
			Type:     typ,
			Sequence: req.seq,
			PID:      req.pid,
		},
		Data: data,
	}})
}

// getRoute answers which way a packet to one address goes.
func (k *Kernel) getRoute(req request, data []byte) *Refusal {
	c, r := parseRouteRequest(data)
	if r != nil {
		return r
	}
	f := k.ipv6
	if c.family == unix.AF_INET {
		f = k.ipv4
	}
	var link int
	if len(c.hops) > 0 {
		link = c.hops[0].link
	}
	got, errno := k.lookup(f, 0, c.dst, link, unix.RT_SCOPE_UNIVERSE)
	if errno != 0 {
		return &Refusal{Errno: errno}
	}
	way := *got.r
	way.dst = netip.PrefixFrom(c.dst, c.dst.BitLen())
	way.hops = []hop{got.h}
	if way.ipv4() {
		// The answer is about a packet: most of what the route is called is
		// not told.
		way.protocol, way.scope, way.priority, way.table = 0, 0, 0, unix.RT_TABLE_MAIN
	}
	if got.r.typ == unix.RTN_LOCAL {
		way.table = unix.RT_TABLE_LOCAL
		way.hops = []hop{{link: 1}}
	}
	if !way.source.IsValid() {
		way.source = k.sourceFor(got, c.dst)
	}
	reply := k.routeData([]*route{&way})
	if way.ipv4() {
		binary.NativeEndian.PutUint32(reply[8:], binary.NativeEndian.Uint32(reply[8:])|unix.RTM_F_CLONED)
	}
	k.reply(req, unix.RTM_NEWROUTE, reply)
	return nil
}

// sourceFor chooses the source of a packet that takes a route which names none:
// the address next to where it goes, else the first.
func (k *Kernel) sourceFor(got found, dst netip.Addr) netip.Addr {
	if got.r.typ == unix.RTN_LOCAL {
		return dst
	}
	next := dst
	if got.h.gateway.IsValid() {
		next = got.h.gateway
	}
	var first netip.Addr
	for _, a := range k.links[got.h.link].addrs {
		own := a.Prefix.Addr()
		if own.Is4() != dst.Is4() || a.primary != nil {
			continue
		}
		if a.Prefix.Contains(next) {
			return own
		}
		if !first.IsValid() {
			first = own
		}
	}
	return first
}
