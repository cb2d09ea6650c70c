package netlinkx

import (
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
)

// DefaultProtocol is the routing protocol number that marks our routes, 'h' in
// ASCII. No routing daemon's number in iproute2's rt_protos or in FRR, BIRD,
// Calico, Cilium or systemd is 104. To have ip route print it by name:
//
//	echo '104 hostgw' > /etc/iproute2/rt_protos.d/hostgw.conf
const DefaultProtocol = 104

// DialFunc opens a netlink socket of the routing family (NETLINK_ROUTE) that
// has joined the given multicast groups (RTNLGRP_*).
type DialFunc func(groups ...uint32) (*netlink.Conn, error)

// Config is how a Programmer programs. Only Uplink is needed.
type Config struct {
	Uplink Uplink // as FindUplink found it; followed by name from then on

	Protocol uint8      // DefaultProtocol if zero. Two programmers on one host need two
	Table    uint32     // routing table; main (254) if zero
	Metric   uint32     // priority of the first routes of each family; the kernel's default if zero. See PlainRoutes for what comes after many
	Source   netip.Addr // preferred source address of IPv4 routes; none if zero
	SourceV6 netip.Addr // the same of IPv6 routes
	OnLink   bool       // tell the kernel that gateways are on the uplink though no address says so (hosts with a /32)

	Resync time.Duration // interval of the full look that no event asked for; a minute if zero, none if negative
	Logger *slog.Logger  // slog.Default() if nil
	Dial   DialFunc      // the running kernel in this network namespace if nil; netlinktest.Kernel.Dial in tests
}

// PlainRoutes is how many IPv4 routes a Programmer keeps at Config.Metric before
// it goes on with higher ones, FurtherRoutes at each. See [Programmer].
const (
	PlainRoutes   = 512
	FurtherRoutes = 128
)

// metricClasses bounds how far metrics spread above Config.Metric. A route of
// ours whose metric lies within is where an earlier run may have put it.
const metricClasses = 1024

const (
	tableMain  = 254
	tableLocal = 255
)

// complete returns c with its defaults filled in, or an error that names the
// field that breaks a rule. needUplink is false for what works without one.
func (c Config) complete(needUplink bool) (Config, error) {
	fail := func(field string, value any, rule string) (Config, error) {
		return Config{}, fmt.Errorf("netlinkx: %s %v: %s", field, value, rule)
	}
	if c.Protocol == 0 {
		c.Protocol = DefaultProtocol
	}
	if c.Protocol <= protocolStatic {
		return fail("Protocol", c.Protocol, "must be above 4, which is where the kernel's own and static routes end")
	}
	if c.Table == 0 {
		c.Table = tableMain
	}
	if c.Table == tableLocal {
		return fail("Table", c.Table, "must not be the kernel's table of local addresses")
	}
	if c.Metric > math.MaxUint32-metricClasses {
		return fail("Metric", c.Metric, fmt.Sprintf("must be at most %d", uint32(math.MaxUint32-metricClasses)))
	}
	if a := c.Source; a.IsValid() && (!a.Is4() || !unicast(a)) {
		return fail("Source", a, "must be an IPv4 unicast address")
	}
	if a := c.SourceV6; a.IsValid() && (!a.Is6() || a.Is4In6() || a.Zone() != "" || !unicast(a)) {
		return fail("SourceV6", a, "must be an IPv6 unicast address without a zone")
	}
	if needUplink {
		if n := c.Uplink.Name; n == "" || len(n) > 15 {
			return fail("Uplink.Name", fmt.Sprintf("%q", n), "must be an interface name of 1 to 15 bytes")
		}
	}
	if c.Resync == 0 {
		c.Resync = time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Dial == nil {
		c.Dial = dialKernel
	}
	return c, nil
}

func unicast(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// UplinkOptions say which interface is the uplink. The first that is set
// decides: Name, Address, Pattern, Reach; with none of them it is the interface
// of the default route.
type UplinkOptions struct {
	Name    string     // interface name
	Address netip.Addr // the interface that has this address
	Pattern string     // regular expression on the interface's name or one of its addresses
	Reach   netip.Addr // the interface through which this address is reached

	// IPv4 and IPv6 say which families the uplink must have an address of; with
	// both false it must have one of either.
	IPv4, IPv6 bool

	// PublicIPv4 and PublicIPv6 are published instead of the interface's own
	// address (hosts behind one-to-one NAT).
	PublicIPv4, PublicIPv6 netip.Addr

	Dial DialFunc // the running kernel if nil
}
