package netlinktest_test

import (
	"slices"
	"strings"
	"testing"
)

// step is one thing done to a kernel, and what has to come of it on the fake one
// as on the real one.
type step struct {
	do      string   // in the words of witness.do
	refused string   // error number and the kernel's text; "" if it is to be done
	events  []string // all of them, sorted; nil if another step tells about them
	kept    []string // beginnings of routes that have to be there after it
	gone    []string // beginnings of routes that must not be there
}

func silent() []string { return []string{} }

// facts are what the design builds on. Each is a row of steps on a fresh kernel
// whose eth0 and eth1 are up and have carrier.
var facts = []struct {
	name  string
	steps []step
}{
	{"replacing an IPv4 route ignores the protocol", []step{
		{do: "addr 10.0.0.1/24 eth0"},
		{do: "add 10.1.0.0/24 via 10.0.0.9 proto 4"},
		{do: "replace 10.1.0.0/24 via 10.0.0.2 proto 104 metric 5",
			events: []string{"+10.1.0.0/24 via 10.0.0.2 dev eth0 proto 104 metric 5 (asked)"},
			kept:   []string{"10.1.0.0/24 via 10.0.0.9"}},
		{do: "replace 10.1.0.0/24 via 10.0.0.2 proto 104",
			events: []string{"=10.1.0.0/24 via 10.0.0.2 dev eth0 proto 104 (asked)"},
			gone:   []string{"10.1.0.0/24 via 10.0.0.9"}},
		{do: "replace 10.1.0.0/24 via 10.0.0.2 proto 104", events: silent()},
	}},
	{"replacing an IPv4 route with one that stands behind another fails", []step{
		{do: "addr 10.0.0.1/24 eth0"},
		{do: "add 10.1.0.0/24 via 10.0.0.3 proto 4"},
		{do: "append 10.1.0.0/24 via 10.0.0.2 proto 104",
			events: []string{"&10.1.0.0/24 via 10.0.0.2 dev eth0 proto 104 (asked)"}},
		{do: "replace 10.1.0.0/24 via 10.0.0.2 proto 104", refused: "EEXIST", events: silent()},
		{do: "replace 10.1.0.0/24 via 10.0.0.4 proto 104",
			events: []string{"=10.1.0.0/24 via 10.0.0.4 dev eth0 proto 104 (asked)"},
			kept:   []string{"10.1.0.0/24 via 10.0.0.2"},
			gone:   []string{"10.1.0.0/24 via 10.0.0.3"}},
	}},
	{"adding an IPv4 route", []step{
		{do: "addr 10.0.0.1/24 eth0"},
		{do: "add 10.1.0.0/24 via 10.0.0.3 proto 4",
			events: []string{"+10.1.0.0/24 via 10.0.0.3 dev eth0 proto 4 (asked)"}},
		{do: "add 10.1.0.0/24 via 10.0.0.2 proto 104", refused: "EEXIST", events: silent()},
		{do: "add 10.1.0.0/24 via 10.0.0.2 proto 104 metric 1"},
		{do: "prepend 10.1.0.0/24 via 10.0.0.2 proto 104"},
		{do: "prepend 10.1.0.0/24 via 10.0.0.3 proto 4", refused: "EEXIST"},
		{do: "change 10.2.0.0/24 via 10.0.0.2", refused: "ENOENT"},
		{do: "add 10.1.0.7/24 via 10.0.0.2", refused: "EINVAL: Invalid prefix for given prefix length"},
		{do: "add 10.3.0.0/24 via 10.0.0.2 src 10.7.7.7", refused: "EINVAL: Invalid prefsrc address"},
		{do: "add 10.3.0.0/24", refused: "ENODEV"},
		{do: "add 10.3.0.0/24 via 10.0.0.2 scope 254", refused: "EINVAL: Route with host scope can not have a gateway"},
		{do: "add 10.3.0.0/24 via 10.0.0.2 scope 255", refused: "EINVAL: Invalid scope"},
		{do: "add local 10.3.0.0/24 dev eth0 scope 253", refused: "EINVAL: Invalid scope"},
	}},
	{"deleting an IPv4 route", []step{
		{do: "addr 10.0.0.1/24 eth0"},
		{do: "add 10.1.0.0/24 via 10.0.0.3 proto 4 metric 7"},
		{do: "del 10.1.0.0/24 proto 104", refused: "ESRCH", events: silent()},
		{do: "del 10.1.0.0/24 via 10.0.0.2 proto 4", refused: "ESRCH"},
		{do: "del 10.1.0.0/24 dev eth1 proto 4", refused: "ESRCH"},
		{do: "del 10.1.0.0/24 proto 4 metric 8", refused: "ESRCH"},
		{do: "del 10.1.0.0/24 proto 4 src 10.0.0.1", refused: "ESRCH"},
		{do: "del 10.1.0.0/24 proto 4 scope 253", refused: "ESRCH"},
		{do: "del 10.1.0.0/24 proto 4 table 99", refused: "ESRCH: FIB table does not exist"},
		{do: "del 10.1.0.7/24", refused: "EINVAL: Invalid prefix for given prefix length"},
		{do: "del 10.1.0.0/24",
			events: []string{"-10.1.0.0/24 via 10.0.0.3 dev eth0 proto 4 metric 7 (asked)"}},
		{do: "del 10.1.0.0/24", refused: "ESRCH"},
	}},
	{"IPv4 gateways", []step{
		{do: "addr 10.0.0.1/24 eth0"},
		{do: "add 10.1.0.0/24 via 10.9.9.9 dev eth0", refused: "ENETUNREACH: Nexthop has invalid gateway", events: silent()},
		{do: "add 10.1.0.0/24 via 10.9.9.9", refused: "ENETUNREACH: Nexthop has invalid gateway"},
		{do: "add 10.1.0.0/24 via 10.0.0.255", refused: "EINVAL: Nexthop has invalid gateway"},
		{do: "add 10.1.0.0/24 via 10.0.0.1 dev eth0 onlink", refused: "EINVAL: Nexthop has invalid gateway"},
		{do: "add 10.1.0.0/24 via 10.9.9.9 onlink", refused: "ENODEV: Nexthop device required for onlink"},
		{do: "add 10.1.0.0/24 via 10.0.0.2 dev eth1", refused: "ENETUNREACH: Nexthop has invalid gateway"},
		// The next is a route to itself.
		{do: "add 10.1.0.0/24 via 10.0.0.1",
			events: []string{"+10.1.0.0/24 via 10.0.0.1 dev eth0 proto 3 (asked)"}},
		{do: "add 10.2.0.0/24 via 10.9.9.9 dev eth0 onlink",
			events: []string{"+10.2.0.0/24 via 10.9.9.9 dev eth0 onlink proto 3 (asked)"}},
		// A gateway that is only reached through another does not do.
		{do: "add 10.9.0.0/16 via 10.0.0.2"},
		{do: "add 10.3.0.0/24 via 10.9.9.9", refused: "ENETUNREACH: Nexthop has invalid gateway"},
	}},
	{"a link that is down", []step{
		{do: "addr 10.0.0.1/24 eth0"},
		{do: "addr fd00::1/64 eth0"},
		{do: "down eth0"},
		{do: "add 10.1.0.0/24 via 10.0.0.2 dev eth0", refused: "ENETUNREACH: Nexthop has invalid gateway"},
		{do: "add 10.1.0.0/24 via 10.0.0.2 dev eth0 onlink", refused: "ENETDOWN: Nexthop device is not up"},
		{do: "add 10.1.0.0/24 dev eth0", refused: "ENETDOWN: Device for nexthop is not up"},
		{do: "add fd01::/64 via fd00::2 dev eth0", refused: "EHOSTUNREACH"},
		{do: "add fd01::/64 via fd00::2 dev eth0 onlink", refused: "ENETDOWN: Nexthop device is not up"},
	}},
	{"setting a link down and up", []step{
		{do: "addr 10.0.0.1/24 eth0"},
		{do: "addr fd00::1/64 eth0"},
		{do: "add 10.1.0.0/24 via 10.0.0.2 proto 104"},
		{do: "add 10.2.0.0/24 via 10.0.0.3 proto 4"},
		{do: "add fd01::/64 via fd00::2 proto 104"},
		{do: "down eth0",
			events: []string{
				// Not a word about IPv4.
				"-addr fd00::1/64 eth0",
				"-fd00::/64 dev eth0 proto 2 metric 256",
				"-fd01::/64 via fd00::2 dev eth0 proto 104 metric 1024",
				"-local fd00::1/128 dev eth0 proto 2 table 255",
				"-multicast ff00::/8 dev eth0 proto 2 table 255 metric 256",
				"link eth0 up=false running=false mtu=1500",
			},
			kept: []string{"local 10.0.0.1/32 dev eth0"},
			gone: []string{"10.0.0.0/24", "10.1.0.0/24", "10.2.0.0/24", "fd01::/64", "broadcast 10.0.0.255"}},
		{do: "up eth0",
			events: []string{
				"+10.0.0.0/24 dev eth0 proto 2 scope 253 src 10.0.0.1",
				"+broadcast 10.0.0.255/32 dev eth0 proto 2 scope 253 table 255 src 10.0.0.1",
				"+multicast ff00::/8 dev eth0 proto 2 table 255 metric 256",
				"link eth0 up=true running=true mtu=1500",
			},
			kept: []string{"10.0.0.0/24 dev eth0"},
			gone: []string{"10.1.0.0/24", "fd00::/64", "fd01::/64"}},
	}},
	{"losing carrier keeps the routes", []step{
		{do: "addr 10.0.0.1/24 eth0"},
		{do: "addr fd00::1/64 eth0"},
		{do: "add 10.1.0.0/24 via 10.0.0.2 proto 104"},
		{do: "add fd01::/64 via fd00::2 proto 104"},
		{do: "unplug eth0",
			events: []string{"link eth0 up=true running=false mtu=1500"},
			kept: []string{
				"10.0.0.0/24 dev eth0 linkdown",
				"10.1.0.0/24 via 10.0.0.2 dev eth0 linkdown",
				"fd01::/64 via fd00::2 dev eth0 linkdown",
			}},
		{do: "add 10.2.0.0/24 via 10.0.0.2 proto 104",
			events: []string{"+10.2.0.0/24 via 10.0.0.2 dev eth0 linkdown proto 104 (asked)"}},
		{do: "plug eth0",
			events: []string{"link eth0 up=true running=true mtu=1500"},
			kept:   []string{"10.1.0.0/24 via 10.0.0.2 dev eth0 proto", "10.2.0.0/24 via 10.0.0.2 dev eth0 proto"}},
	}},
	{"deleting the last IPv4 address of a link deletes all its routes", []step{
		{do: "addr 10.0.0.1/24 eth0"},
		{do: "add 10.1.0.0/24 via 10.0.0.2 proto 104"},
		{do: "add 10.2.0.0/24 via 10.9.9.9 dev eth0 onlink"},
		{do: "deladdr 10.0.0.1/24 eth0",
			events: []string{
				"-10.0.0.0/24 dev eth0 proto 2 scope 253 src 10.0.0.1",
				"-addr 10.0.0.1/24 eth0",
				"-broadcast 10.0.0.255/32 dev eth0 proto 2 scope 253 table 255 src 10.0.0.1",
				"-local 10.0.0.1/32 dev eth0 proto 2 scope 254 table 255 src 10.0.0.1",
			},
			gone: []string{"10.1.0.0/24", "10.2.0.0/24"}},
		{do: "addr 10.0.0.1/24 eth0",
			events: []string{
				"+10.0.0.0/24 dev eth0 proto 2 scope 253 src 10.0.0.1",
				"+addr 10.0.0.1/24 eth0",
				"+broadcast 10.0.0.255/32 dev eth0 proto 2 scope 253 table 255 src 10.0.0.1",
				"+local 10.0.0.1/32 dev eth0 proto 2 scope 254 table 255 src 10.0.0.1",
			}},
	}},
	{"deleting one of a link's IPv4 addresses keeps routes that resolved through it", []step{
		{do: "addr 10.0.0.1/24 eth0"},
		{do: "addr 10.5.0.1/24 eth0"},
		{do: "add 10.1.0.0/24 via 10.0.0.2 proto 104"},
		{do: "deladdr 10.0.0.1/24 eth0", kept: []string{"10.1.0.0/24 via 10.0.0.2 dev eth0"}, gone: []string{"10.0.0.0/24"}},
		{do: "add 10.2.0.0/24 via 10.0.0.2 proto 104", refused: "ENETUNREACH: Nexthop has invalid gateway"},
	}},
	{"deleting an IPv4 address deletes the main table's routes that prefer it as their source", []step{
		{do: "addr 10.0.0.1/24 eth0"},
		{do: "addr 10.5.0.1/24 eth0"},
		{do: "add 10.1.0.0/24 via 10.0.0.2 proto 104 src 10.5.0.1"},
		{do: "add 10.1.0.0/24 via 10.0.0.2 proto 104 src 10.5.0.1 table 100"},
		{do: "deladdr 10.5.0.1/24 eth0",
			events: []string{
				"-10.1.0.0/24 via 10.0.0.2 dev eth0 proto 104 src 10.5.0.1",
				"-10.5.0.0/24 dev eth0 proto 2 scope 253 src 10.5.0.1",
				"-addr 10.5.0.1/24 eth0",
				"-broadcast 10.5.0.255/32 dev eth0 proto 2 scope 253 table 255 src 10.5.0.1",
				"-local 10.5.0.1/32 dev eth0 proto 2 scope 254 table 255 src 10.5.0.1",
			},
			kept: []string{"10.1.0.0/24 via 10.0.0.2 dev eth0 proto 104 table 100"}},
	}},
	{"deleting a primary IPv4 address deletes its secondaries", []step{
		{do: "addr 10.0.0.1/24 eth0"},
		{do: "addr 10.0.0.9/24 eth0",
			events: []string{
				"+addr 10.0.0.9/24 eth0 secondary",
				"+local 10.0.0.9/32 dev eth0 proto 2 scope 254 table 255 src 10.0.0.1",
			}},
		{do: "add 10.1.0.0/24 via 10.0.0.2 proto 104"},
		{do: "deladdr 10.0.0.1/24 eth0", gone: []string{"10.1.0.0/24", "10.0.0.0/24", "local 10.0.0.9"}},
	}},
	{"deleting an IPv6 address keeps routes that resolved through it", []step{
		{do: "addr fd00::1/64 eth0",
			events: []string{
				"+addr fd00::1/64 eth0",
				"+fd00::/64 dev eth0 proto 2 metric 256",
				"+local fd00::1/128 dev eth0 proto 2 table 255",
			}},
		{do: "add fd01::/64 via fd00::2 proto 104"},
		{do: "add fd02::/64 via fd00::2 proto 104 src fd00::1"},
		{do: "deladdr fd00::1/64 eth0",
			events: []string{
				"-addr fd00::1/64 eth0",
				"-fd00::/64 dev eth0 proto 2 metric 256",
				"-local fd00::1/128 dev eth0 proto 2 table 255",
			},
			// The second has lost its source without an event.
			kept: []string{"fd01::/64 via fd00::2 dev eth0 proto 104 metric 1024", "fd02::/64 via fd00::2 dev eth0 proto 104 metric 1024"},
			gone: []string{"fd02::/64 via fd00::2 dev eth0 proto 104 metric 1024 src"}},
	}},
	{"an IPv6 route through another link loses its source too, unless the address goes with its link", []step{
		{do: "addr fd00::1/64 eth0"},
		{do: "addr fd00:1::1/64 eth1"},
		{do: "add fd01::/64 via fd00::2 proto 104 src fd00:1::1"},
		{do: "deladdr fd00:1::1/64 eth1", gone: []string{"fd01::/64 via fd00::2 dev eth0 proto 104 metric 1024 src"}},
		{do: "addr fd00:1::1/64 eth1"},
		{do: "replace fd01::/64 via fd00::2 proto 104 src fd00:1::1"},
		{do: "down eth1", kept: []string{"fd01::/64 via fd00::2 dev eth0 proto 104 metric 1024 src fd00:1::1"}},
	}},
	{"removing a link and making it again", []step{
		{do: "addr 10.0.0.1/24 eth0"},
		{do: "addr 10.0.0.9/24 eth0"},
		{do: "addr fd00::1/64 eth0"},
		{do: "add 10.1.0.0/24 via 10.0.0.2 proto 104"},
		{do: "add fd01::/64 via fd00::2 proto 104"},
		{do: "remove eth0",
			events: []string{
				"-addr 10.0.0.1/24 eth0",
				"-addr 10.0.0.9/24 eth0 secondary",
				"-addr fd00::1/64 eth0",
				"-fd00::/64 dev eth0 proto 2 metric 256",
				"-fd01::/64 via fd00::2 dev eth0 proto 104 metric 1024",
				"-link eth0",
				"-local 10.0.0.1/32 dev eth0 proto 2 scope 254 table 255 src 10.0.0.1",
				"-local fd00::1/128 dev eth0 proto 2 table 255",
				"-multicast ff00::/8 dev eth0 proto 2 table 255 metric 256",
			},
			gone: []string{"10.", "fd"}},
		{do: "add 10.1.0.0/24 via 10.0.0.2 dev eth0", refused: "ENETUNREACH: Nexthop has invalid gateway"},
		{do: "add fd01::/64 via fd00::2 dev eth0", refused: "ENODEV"},
		{do: "create eth0", events: []string{"link eth0 up=false running=false mtu=1500"}},
		{do: "up eth0"},
		{do: "addr 10.0.0.1/24 eth0"},
		{do: "add 10.1.0.0/24 via 10.0.0.2 dev eth0 proto 104", kept: []string{"10.1.0.0/24 via 10.0.0.2 dev eth0"}},
	}},
	{"adding an IPv6 route with another gateway", []step{
		{do: "addr fd00::1/64 eth0"},
		{do: "add fd01::/64 via fd00::2 proto 104",
			events: []string{"+fd01::/64 via fd00::2 dev eth0 proto 104 metric 1024 (asked)"}},
		{do: "add fd01::/64 via fd00::3 proto 104", refused: "EEXIST", events: silent()},
		{do: "append fd01::/64 via fd00::2 proto 4", refused: "EEXIST"},
		{do: "append fd01::/64 via fd00::3 proto 4",
			events: []string{"&fd01::/64 proto 4 metric 1024 nexthop via fd00::3 dev eth0 nexthop via fd00::2 dev eth0 (asked)"},
			kept:   []string{"fd01::/64 proto 104 metric 1024 nexthop via fd00::2 dev eth0 nexthop via fd00::3 dev eth0"}},
		// Without the flag for it, it joins the others too.
		{do: "prepend fd01::/64 via fd00::4 proto 4",
			events: []string{"+fd01::/64 proto 4 metric 1024 nexthop via fd00::4 dev eth0 nexthop via fd00::2 dev eth0 nexthop via fd00::3 dev eth0 (asked)"}},
		{do: "del fd01::/64 via fd00::3 proto 104", refused: "ESRCH"},
		{do: "del fd01::/64 via fd00::3 proto 4",
			events: []string{"-fd01::/64 via fd00::3 dev eth0 proto 4 metric 1024 (asked)"}},
		{do: "replace fd01::/64 via fd00::8 proto 106",
			events: []string{"=fd01::/64 via fd00::8 dev eth0 proto 106 metric 1024 (asked)"},
			kept:   []string{"fd01::/64 via fd00::8 dev eth0"}},
		{do: "replace fd01::/64 via fd00::8 proto 106",
			events: []string{"=fd01::/64 via fd00::8 dev eth0 proto 106 metric 1024 (asked)"}},
		{do: "append fd01::/64 via fd00::9 proto 104"},
		{do: "del fd01::/64 proto 106",
			events: []string{"-fd01::/64 proto 106 metric 1024 nexthop via fd00::8 dev eth0 nexthop via fd00::9 dev eth0 (asked)"},
			gone:   []string{"fd01::/64"}},
	}},
	{"replacing and deleting IPv6 routes", []step{
		{do: "addr fd00::1/64 eth0"},
		{do: "add fd01::5/64 via fd00::2 proto 4 metric 7",
			events: []string{"+fd01::/64 via fd00::2 dev eth0 proto 4 metric 7 (asked)"}},
		{do: "replace fd01::/64 via fd00::3 proto 104",
			events: []string{"+fd01::/64 via fd00::3 dev eth0 proto 104 metric 1024 (asked)"}},
		{do: "replace fd01::/64 via fd00::3 proto 104 metric 7",
			events: []string{"=fd01::/64 via fd00::3 dev eth0 proto 104 metric 7 (asked)"}},
		{do: "change fd02::/64 via fd00::3", refused: "ENOENT: Can not replace route - no match found"},
		{do: "del fd01::/64 proto 4", refused: "ESRCH", events: silent()},
		{do: "del fd01::/64 metric 8", refused: "ESRCH"},
		{do: "del fd01::/64 proto 104 table 99", refused: "ESRCH: FIB table does not exist"},
		{do: "del fd01::/64 proto 104 metric 1024",
			events: []string{"-fd01::/64 via fd00::3 dev eth0 proto 104 metric 1024 (asked)"}},
		{do: "del fd01::/64",
			events: []string{"-fd01::/64 via fd00::3 dev eth0 proto 104 metric 7 (asked)"}},
	}},
	{"IPv6 gateways", []step{
		{do: "addr fd00::1/64 eth0"},
		{do: "add fd01::/64 via fd09::1", refused: "EHOSTUNREACH", events: silent()},
		{do: "add fd01::/64 via fd09::1 dev eth0", refused: "EHOSTUNREACH"},
		{do: "add fd01::/64 via fd00::2 dev eth1", refused: "EHOSTUNREACH"},
		{do: "add fd01::/64 via fd00::1", refused: "EINVAL: Gateway can not be a local address"},
		{do: "add fd01::/64 via ff02::1 dev eth0", refused: "EINVAL: Invalid gateway address"},
		{do: "add fd01::/64 via fd09::1 onlink", refused: "ENODEV: Nexthop device required for onlink"},
		{do: "add fd01::/64 via fd00::2 dev eth1 onlink", refused: "EINVAL: Nexthop has invalid gateway or device mismatch"},
		{do: "add fd01::/64 via fe80::2", refused: "EINVAL: Egress device not specified"},
		{do: "add fd01::/64 via fe80::2 dev eth0"},
		{do: "add fd02::/64 via fd09::1 dev eth0 onlink",
			events: []string{"+fd02::/64 via fd09::1 dev eth0 onlink proto 3 metric 1024 (asked)"}},
		{do: "add fd03::/64 via fd00::2 src fd00::7", refused: "EINVAL: Invalid source address"},
	}},
	{"an address that comes while its link is down", []step{
		{do: "down eth0"},
		{do: "addr 10.0.0.1/24 eth0",
			events: []string{"+addr 10.0.0.1/24 eth0", "+local 10.0.0.1/32 dev eth0 proto 2 scope 254 table 255 src 10.0.0.1"}},
		{do: "addr fd00::1/64 eth0",
			events: []string{"+addr fd00::1/64 eth0", "+local fd00::1/128 dev eth0 proto 2 table 255"}},
		{do: "up eth0", kept: []string{"10.0.0.0/24 dev eth0", "fd00::/64 dev eth0"}},
	}},
	{"the same subnet on two links", []step{
		{do: "addr 10.0.0.1/24 eth0"},
		{do: "addr 10.0.0.5/24 eth1"},
		{do: "add 10.1.0.0/24 via 10.0.0.2 proto 104", kept: []string{"10.1.0.0/24 via 10.0.0.2 dev eth0"}},
		{do: "add 10.2.0.0/24 via 10.0.0.2 dev eth1 proto 104"},
		{do: "deladdr 10.0.0.1/24 eth0", kept: []string{"10.2.0.0/24 via 10.0.0.2 dev eth1"}, gone: []string{"10.1.0.0/24"}},
	}},
	{"routes that lead nowhere", []step{
		{do: "add blackhole 10.1.0.0/24 proto 4", events: []string{"+blackhole 10.1.0.0/24 proto 4 (asked)"}},
		{do: "addr 10.0.0.1/24 eth0"},
		{do: "add unreachable 10.0.0.128/25 proto 4"},
		// Only routes to what is on-link tell whether a gateway can be reached.
		{do: "add 10.2.0.0/24 via 10.0.0.200", kept: []string{"10.2.0.0/24 via 10.0.0.200 dev eth0"}},
		{do: "add unreachable 10.0.0.64/26 proto 4 scope 253"},
		{do: "add 10.3.0.0/24 via 10.0.0.100", refused: "EHOSTUNREACH: Nexthop has invalid gateway"},
		{do: "del 10.1.0.0/24 proto 4", events: []string{"-blackhole 10.1.0.0/24 proto 4 (asked)"}},
	}},
	{"other things that happen to a link", []step{
		{do: "addr 10.0.0.1/24 eth0"},
		{do: "add 10.1.0.0/24 via 10.0.0.2 proto 104"},
		{do: "mtu eth0 1400", events: []string{"link eth0 up=true running=true mtu=1400"}, kept: []string{"10.1.0.0/24"}},
	}},
}

// TestFacts holds the fake kernel and the real one to the facts, and the fake one
// to the real one's whole outcome of each step, also what the facts leave out.
func TestFacts(t *testing.T) {
	for _, fact := range facts {
		t.Run(fact.name, func(t *testing.T) {
			t.Run("fake", func(t *testing.T) {
				w := newWitness(t, newFake())
				for _, s := range fact.steps {
					check(t, s, w.do(s.do))
				}
			})
			t.Run("real", func(t *testing.T) {
				real, fake := newWitness(t, newNamespace(t)), newWitness(t, newFake())
				for _, s := range fact.steps {
					got := real.do(s.do)
					check(t, s, got)
					if drift := compare(fake.do(s.do), got); drift != "" {
						t.Errorf("%s\n%s", s.do, drift)
					}
				}
			})
		})
	}
}

func check(t *testing.T, s step, got outcome) {
	t.Helper()
	if got.refused != s.refused {
		t.Errorf("%s: refused with %q, want %q", s.do, got.refused, s.refused)
	}
	if s.events != nil && !slices.Equal(got.events, s.events) {
		t.Errorf("%s: events\n\t%s\nwant\n\t%s", s.do, strings.Join(got.events, "\n\t"), strings.Join(s.events, "\n\t"))
	}
	there := func(beginning string) bool {
		return slices.ContainsFunc(got.routes, func(r string) bool { return strings.HasPrefix(r, beginning) })
	}
	for _, b := range s.kept {
		if !there(b) {
			t.Errorf("%s: no route %s... is there:\n\t%s", s.do, b, strings.Join(got.routes, "\n\t"))
		}
	}
	for _, b := range s.gone {
		if there(b) {
			t.Errorf("%s: a route %s... is there:\n\t%s", s.do, b, strings.Join(got.routes, "\n\t"))
		}
	}
}
