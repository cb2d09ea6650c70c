package netlinkx

import (
	"fmt"
	"net/netip"
	"time"
)

// Route is one route that is wanted: to a peer's subnet through the peer. Where
// it goes (uplink, table, protocol, metric, source) is the Programmer's config.
type Route struct {
	Subnet  netip.Prefix // masked
	Gateway netip.Addr   // same family
}

// check returns the rule that r breaks, or nil.
func (r Route) check() error {
	s, g := r.Subnet, r.Gateway
	var rule string
	switch {
	case !s.IsValid():
		rule = "the subnet is not a prefix"
	case s.Addr().Is4In6() || g.Is4In6():
		rule = "an IPv4 address is written as IPv6"
	case s != s.Masked():
		rule = "the subnet has host bits set"
	case !g.IsValid():
		rule = "the gateway is missing"
	case g.Is4() != s.Addr().Is4():
		rule = "the gateway is of another address family than the subnet"
	case g.Zone() != "":
		rule = "the gateway has a zone"
	case !unicast(g):
		rule = "the gateway is not a unicast address"
	default:
		return nil
	}
	return &InvalidRouteError{Route: r, Rule: rule}
}

// Wanted is the whole set of routes that the kernel should hold.
type Wanted struct {
	// Networks are what the wanted subnets are cut from. Inside them a leftover
	// of flanneld's (protocol boot, through an on-link gateway on the uplink)
	// may be taken over. Routes outside of all Networks work too, but each
	// change to them costs a full look at the kernel's table.
	Networks []netip.Prefix
	Routes   []Route // of two routes to one subnet the later one counts

	// Linger leaves routes of ours that an earlier run put into the kernel, and
	// that are not in Routes, where they are until a Set without it: while it is
	// not certain that who is not in the store has left. Those that overlap one
	// of Own, this node's own subnets, go nevertheless.
	Linger bool
	Own    []netip.Prefix
}

// RouteState says how far a wanted route is.
type RouteState int

const (
	RoutePending   RouteState = iota // not tried yet
	RouteInstalled                   // in the kernel
	RouteFailed                      // the kernel refused it, or cannot hold it now; Err says why. It is tried again when something changes
	RouteConflict                    // somebody else's route to the same subnet is in the way; Err is a *ForeignRouteError
)

// String returns one word: pending, installed, failed or conflict.
func (s RouteState) String() string {
	switch s {
	case RoutePending:
		return "pending"
	case RouteInstalled:
		return "installed"
	case RouteFailed:
		return "failed"
	case RouteConflict:
		return "conflict"
	}
	return fmt.Sprintf("RouteState(%d)", int(s))
}

// RouteStatus is the state of one wanted route.
type RouteStatus struct {
	Route Route
	State RouteState
	Err   error     // nil if installed or pending
	Since time.Time // when it came into this state
}

// Report is news from a programmer. Fields that are nil or empty have no news.
type Report struct {
	Uplink *Uplink       // as it now is
	Routes []RouteStatus // those whose state changed; a route no longer wanted is not mentioned again
	Stats  Stats         // always set
}

// Stats counts what a programmer did since it was made.
type Stats struct {
	Added, Replaced, Removed uint64 // routes, successful requests
	Failed                   uint64 // requests the kernel refused
	Repaired                 uint64 // of Added and Replaced: put right after somebody else's change
	Looks                    uint64 // full dumps: at start, when the networks change, in doubt, after an overrun, periodic
	Overruns                 uint64 // event socket overruns
	Found                    uint64 // differences that a periodic look found and no event had told; zero in normal life
}
