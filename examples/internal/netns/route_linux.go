package netns

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Route is one route as the kernel tells it.
type Route struct {
	Destination netip.Prefix // 0.0.0.0/0 or ::/0 is the default route
	Gateway     netip.Addr   // zero for what is on-link
	Device      string       // name of the interface it leaves through
	Source      netip.Addr   // preferred source address; zero if none
	Type        uint8        // unix.RTN_UNICAST and so on
	Protocol    uint8        // who made it: unix.RTPROT_KERNEL and so on
	Scope       uint8
	Table       uint32
	Metric      uint32
	NextHop     uint32 // id of the next-hop object; zero if none
	Flags       uint32 // unix.RTM_F_ and unix.RTNH_F_ flags

	index uint32
}

// String writes the route as ip route does.
func (r Route) String() string {
	var b strings.Builder
	if name := routeTypes[r.Type]; name != "" {
		fmt.Fprintf(&b, "%s ", name)
	}
	switch {
	case r.Destination.Bits() == 0:
		b.WriteString("default")
	case r.Destination.IsSingleIP():
		b.WriteString(r.Destination.Addr().String())
	default:
		b.WriteString(r.Destination.String())
	}
	if r.NextHop != 0 {
		fmt.Fprintf(&b, " nhid %d", r.NextHop)
	}
	if r.Gateway.IsValid() {
		fmt.Fprintf(&b, " via %v", r.Gateway)
	}
	if r.Device != "" {
		fmt.Fprintf(&b, " dev %s", r.Device)
	}
	if r.Table != unix.RT_TABLE_MAIN {
		fmt.Fprintf(&b, " table %d", r.Table)
	}
	if r.Protocol != unix.RTPROT_BOOT {
		fmt.Fprintf(&b, " proto %s", cmp.Or(routeProtocols[r.Protocol], fmt.Sprint(r.Protocol)))
	}
	if name := routeScopes[r.Scope]; name != "" {
		fmt.Fprintf(&b, " scope %s", name)
	}
	if r.Source.IsValid() {
		fmt.Fprintf(&b, " src %v", r.Source)
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	for _, f := range routeFlags {
		if r.Flags&f.bit != 0 {
			fmt.Fprintf(&b, " %s", f.name)
		}
	}
	if r.Destination.Addr().Is6() {
		b.WriteString(" pref medium")
	}
	return b.String()
}

// The names are those of iproute2; what has none there is a number.
var (
	routeTypes = map[uint8]string{
		unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast", unix.RTN_ANYCAST: "anycast",
		unix.RTN_MULTICAST: "multicast", unix.RTN_BLACKHOLE: "blackhole",
		unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
	}
	routeProtocols = map[uint8]string{
		unix.RTPROT_REDIRECT: "redirect", unix.RTPROT_KERNEL: "kernel", unix.RTPROT_STATIC: "static",
		unix.RTPROT_RA: "ra", unix.RTPROT_DHCP: "dhcp", unix.RTPROT_BIRD: "bird", unix.RTPROT_ZEBRA: "zebra",
	}
	routeScopes = map[uint8]string{
		unix.RT_SCOPE_LINK: "link", unix.RT_SCOPE_HOST: "host", unix.RT_SCOPE_SITE: "site",
	}
	routeFlags = []struct {
		bit  uint32
		name string
	}{
		{unix.RTNH_F_DEAD, "dead"}, {unix.RTNH_F_ONLINK, "onlink"}, {unix.RTNH_F_LINKDOWN, "linkdown"},
	}
)

// rtaNextHopID is RTA_NH_ID of linux/rtnetlink.h, which package unix lacks.
const rtaNextHopID = 30

// Routes returns the main table's routes of both families, IPv4 first, in the
// kernel's order, without multicast.
func (n *Namespace) Routes() ([]Route, error) {
	var routes []Route
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		found, err := n.dumpRoutes(family)
		if err != nil {
			return nil, fmt.Errorf("listing routes of %s: %w", n.Name, err)
		}
		for _, r := range found {
			if r.Table == unix.RT_TABLE_MAIN && r.Type != unix.RTN_MULTICAST && r.Flags&unix.RTM_F_CLONED == 0 {
				routes = append(routes, r)
			}
		}
	}
	return routes, n.nameDevices(routes)
}

// AddRoute adds a route through gateway, as an operator would (protocol static).
func (n *Namespace) AddRoute(destination netip.Prefix, gateway netip.Addr, device string) error {
	m, err := n.routeRequest(unix.RTM_NEWROUTE, destination, gateway, device)
	if err != nil {
		return err
	}
	m.Header.Flags |= netlink.Create | netlink.Excl
	return n.executeRoute("adding", destination, m)
}

// DeleteRoute deletes the route to destination in the main table, whoever made it.
func (n *Namespace) DeleteRoute(destination netip.Prefix) error {
	m, err := n.routeRequest(unix.RTM_DELROUTE, destination, netip.Addr{}, "")
	if err != nil {
		return err
	}
	return n.executeRoute("deleting", destination, m)
}

func (n *Namespace) routeRequest(kind netlink.HeaderType, destination netip.Prefix, gateway netip.Addr, device string) (netlink.Message, error) {
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[1] = family(destination.Addr()), uint8(destination.Bits())
	header[4] = unix.RT_TABLE_MAIN
	header[6] = unix.RT_SCOPE_NOWHERE // any, for a deletion
	attributes := netlink.NewAttributeEncoder()
	attributes.Bytes(unix.RTA_DST, destination.Masked().Addr().AsSlice())
	if kind == unix.RTM_NEWROUTE {
		index, err := n.index(device)
		if err != nil {
			return netlink.Message{}, err
		}
		header[5], header[6], header[7] = unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
		attributes.Bytes(unix.RTA_GATEWAY, gateway.AsSlice())
		attributes.Uint32(unix.RTA_OIF, index)
	}
	data, err := attributes.Encode()
	return netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(header, data...),
	}, err
}

func (n *Namespace) executeRoute(doing string, destination netip.Prefix, m netlink.Message) error {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: int(n.file.Fd())})
	if err == nil {
		_, err = c.Execute(m)
		c.Close()
	}
	if err != nil {
		return fmt.Errorf("%s route to %v in %s: %w", doing, destination, n.Name, err)
	}
	return nil
}

func (n *Namespace) dumpRoutes(family uint8) ([]Route, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: int(n.file.Fd())})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	request := make([]byte, unix.SizeofRtMsg)
	request[0] = family
	messages, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request | netlink.Dump},
		Data:   request,
	})
	if err != nil {
		return nil, err
	}
	var routes []Route
	for _, m := range messages {
		r, err := parseRoute(m.Data)
		if err != nil {
			return nil, err
		}
		routes = append(routes, r)
	}
	return routes, nil
}

// nameDevices fills in the routes' devices. One that is gone by now stays nameless.
func (n *Namespace) nameDevices(routes []Route) error {
	names := make(map[uint32]string)
	err := n.Do(func() error {
		interfaces, err := net.Interfaces()
		for _, i := range interfaces {
			names[uint32(i.Index)] = i.Name
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("listing interfaces of %s: %w", n.Name, err)
	}
	for i := range routes {
		routes[i].Device = names[routes[i].index]
	}
	return nil
}

// parseRoute reads the body of a route message (struct rtmsg and attributes).
func parseRoute(data []byte) (Route, error) {
	if len(data) < unix.SizeofRtMsg {
		return Route{}, fmt.Errorf("route message of %d bytes: at least %d are needed", len(data), unix.SizeofRtMsg)
	}
	r := Route{
		Table:    uint32(data[4]),
		Protocol: data[5],
		Scope:    data[6],
		Type:     data[7],
		Flags:    binary.NativeEndian.Uint32(data[8:]),
	}
	destination := netip.IPv4Unspecified()
	if data[0] == unix.AF_INET6 {
		destination = netip.IPv6Unspecified()
	}
	attributes, err := netlink.NewAttributeDecoder(data[unix.SizeofRtMsg:])
	if err != nil {
		return Route{}, fmt.Errorf("route message: %w", err)
	}
	for attributes.Next() {
		switch attributes.Type() {
		case unix.RTA_DST:
			destination, _ = netip.AddrFromSlice(attributes.Bytes())
		case unix.RTA_GATEWAY:
			r.Gateway, _ = netip.AddrFromSlice(attributes.Bytes())
		case unix.RTA_PREFSRC:
			r.Source, _ = netip.AddrFromSlice(attributes.Bytes())
		case unix.RTA_OIF:
			r.index = attributes.Uint32()
		case unix.RTA_TABLE:
			r.Table = attributes.Uint32()
		case unix.RTA_PRIORITY:
			r.Metric = attributes.Uint32()
		case rtaNextHopID:
			r.NextHop = attributes.Uint32()
		}
	}
	if err := attributes.Err(); err != nil {
		return Route{}, fmt.Errorf("route message: %w", err)
	}
	r.Destination = netip.PrefixFrom(destination, int(data[1]))
	return r, nil
}
