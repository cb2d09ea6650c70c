package netlinkx

import (
	"errors"
	"fmt"
	"net/netip"
)

// ErrUnsupported says that this system has no netlink: only Linux has. It is
// also an [errors.ErrUnsupported].
var ErrUnsupported = fmt.Errorf("netlinkx: routes of this system: %w", errors.ErrUnsupported)

// ForeignRouteError says that a route which is not ours leads to a subnet that
// a wanted route should lead to. It is never touched; ours is added as soon as
// it goes away.
type ForeignRouteError struct {
	Subnet   netip.Prefix
	Protocol uint8      // its routing protocol number, 2 is the kernel itself, 3 boot, 4 static
	Gateway  netip.Addr // zero if it has none or several
	Index    int        // of its interface; zero if it has none or several
	Device   string     // that interface's name; empty if it is not the uplink
	Metric   uint32
}

func (e *ForeignRouteError) Error() string {
	s := fmt.Sprintf("a route to %s that is not ours is in the way: protocol %s", e.Subnet, protocolName(e.Protocol))
	if e.Gateway.IsValid() {
		s += fmt.Sprintf(" via %s", e.Gateway)
	}
	switch {
	case e.Device != "":
		s += " dev " + e.Device
	case e.Index != 0:
		s += fmt.Sprintf(" dev #%d", e.Index)
	}
	if e.Metric != 0 {
		s += fmt.Sprintf(" metric %d", e.Metric)
	}
	return s
}

// RefusedError says that the kernel refused a request about a route.
type RefusedError struct {
	Route  Route
	Reason string // the kernel's own words; empty if it gave none
	Err    error  // the error number, e.g. syscall.ENETUNREACH
}

func (e *RefusedError) Error() string {
	s := fmt.Sprintf("route to %s via %s refused: ", e.Route.Subnet, e.Route.Gateway)
	if e.Reason == "" {
		return s + e.Err.Error()
	}
	return fmt.Sprintf("%s%s (%v)", s, e.Reason, e.Err)
}

func (e *RefusedError) Unwrap() error { return e.Err }

// UplinkError says that routes cannot be, because there is no interface of the
// uplink's name or because it is down.
type UplinkError struct {
	Name string
	Down bool // it exists
}

func (e *UplinkError) Error() string {
	if e.Down {
		return "uplink " + e.Name + " is down"
	}
	return "there is no uplink " + e.Name
}

// ContendedError says that something keeps removing or altering a route of
// ours, and that it is put back less often for that.
type ContendedError struct{ Subnet netip.Prefix }

func (e *ContendedError) Error() string {
	return fmt.Sprintf("something keeps removing the route to %s", e.Subnet)
}

// InvalidRouteError says which rule a wanted route breaks.
type InvalidRouteError struct {
	Route Route
	Rule  string // a sentence fragment: "the subnet has host bits set"
}

func (e *InvalidRouteError) Error() string {
	return fmt.Sprintf("route to %s via %s: %s", e.Route.Subnet, e.Route.Gateway, e.Rule)
}
