package hostgw

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/subnet"
)

// Reason is why the peer policy gives a lease no route.
type Reason int

// The reasons, roughly in the order in which they are looked for: the first that
// applies is the one that is told.
const (
	ReasonNone              Reason = iota // it gets one
	ReasonUnreadable                      // key or value do not parse
	ReasonHostBits                        // the subnet has bits set past its length
	ReasonOtherBackend                    // a flannel backend other than host-gw, which plain routes cannot reach
	ReasonOutsideNetwork                  // not inside the configured network, or of a family that is switched off
	ReasonGatewayNotUnicast               // no address of the subnet's family, or one that no host can have
	ReasonOverlapsOwn                     // has addresses of this node's own subnet
	ReasonOverlapsUplink                  // has addresses of a network that is on-link on the uplink
	ReasonGatewayIsOwn                    // the gateway is this node's own address
	ReasonOverlapsPeer                    // an older lease has the same addresses
	ReasonGatewayOffLink                  // not on this layer 2: the gateway is in no network of the uplink
)

var reasonNames = [...]string{
	ReasonNone:              "none",
	ReasonUnreadable:        "unreadable",
	ReasonHostBits:          "host bits set",
	ReasonOtherBackend:      "other backend",
	ReasonOutsideNetwork:    "outside the network",
	ReasonGatewayNotUnicast: "gateway not unicast",
	ReasonOverlapsOwn:       "overlaps own subnet",
	ReasonOverlapsUplink:    "overlaps uplink network",
	ReasonGatewayIsOwn:      "gateway is own address",
	ReasonOverlapsPeer:      "overlaps another peer",
	ReasonGatewayOffLink:    "gateway not on-link",
}

// String returns the reason in words, e.g. "gateway not on-link".
func (r Reason) String() string {
	if r < 0 || int(r) >= len(reasonNames) {
		return fmt.Sprintf("reason %d", int(r))
	}
	return reasonNames[r]
}

// MarshalText returns what String does, so that a Reason reads well in JSON.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Policy decides which lease gets which route. A host's other traffic is safe
// from whoever can write to the store as far as the Policy says so: what it lets
// through are subnets of the container network, and next hops on this segment.
type Policy struct {
	// Networks are the container networks that leases must lie inside: those of
	// the config, and while a config change is under way those of the one before.
	Networks []netip.Prefix

	Own    subnet.Lease    // this node's own lease
	Uplink netlinkx.Uplink // as it is now
	OnLink bool            // take every unicast gateway for on-link (netlinkx.Config.OnLink)
}

// Verdict is what the Policy says of one family of one lease.
type Verdict struct {
	Route  netlinkx.Route // to be programmed if Reason is ReasonNone
	Reason Reason
	Err    error // Reason in detail; nil if ReasonNone
}

// Judge says what becomes of one lease, without regard to other peers: a
// verdict for each family of a readable one, else a single verdict. It is a
// pure function.
func (p Policy) Judge(r subnet.Record) []Verdict {
	if r.Err != nil {
		reason := ReasonUnreadable
		if errors.Is(r.Err, subnet.ErrHostBits) {
			reason = ReasonHostBits
		}
		return []Verdict{{Reason: reason, Err: r.Err}}
	}
	var vs []Verdict
	for route := range routes(r.Lease) {
		v := Verdict{Route: route}
		if v.Reason, v.Err = p.sound(r.Lease, route); v.Reason == ReasonNone {
			v.Reason, v.Err = p.local(route)
		}
		if v.Reason == ReasonNone {
			v.Reason, v.Err = p.reachable(route.Gateway)
		}
		vs = append(vs, v)
	}
	if vs == nil {
		return []Verdict{{Reason: ReasonUnreadable, Err: errors.New("lease has no subnet")}}
	}
	return vs
}

// routes yields the route that each family of a lease asks for.
func routes(l subnet.Lease) func(yield func(netlinkx.Route) bool) {
	return func(yield func(netlinkx.Route) bool) {
		if l.Key.IPv4.IsValid() && !yield(netlinkx.Route{Subnet: l.Key.IPv4, Gateway: l.Holder.PublicIP}) {
			return
		}
		if l.Key.IPv6.IsValid() {
			yield(netlinkx.Route{Subnet: l.Key.IPv6, Gateway: l.Holder.PublicIPv6})
		}
	}
}

// sound says what is wrong with a lease in itself, whichever node looks at it:
// it is the same on all of them, and so is which of two overlapping leases wins,
// since only sound ones take part.
func (p Policy) sound(l subnet.Lease, r netlinkx.Route) (Reason, error) {
	if r.Subnet != r.Subnet.Masked() {
		return ReasonHostBits, fmt.Errorf("subnet %s: %w", r.Subnet, subnet.ErrHostBits)
	}
	if t := l.Holder.BackendType; t != subnet.BackendType {
		return ReasonOtherBackend, fmt.Errorf("backend %q, must be %q", t, subnet.BackendType)
	}
	inside := func(n netip.Prefix) bool {
		return n.Bits() <= r.Subnet.Bits() && n.Contains(r.Subnet.Addr())
	}
	if !slices.ContainsFunc(p.Networks, inside) {
		return ReasonOutsideNetwork, fmt.Errorf("subnet %s is not inside %v", r.Subnet, p.Networks)
	}
	g := r.Gateway
	switch {
	case !g.IsValid():
		return ReasonGatewayNotUnicast, fmt.Errorf("no gateway for subnet %s", r.Subnet)
	case g.Is4() != r.Subnet.Addr().Is4(), g.Is4In6(), g.Zone() != "":
		return ReasonGatewayNotUnicast, fmt.Errorf("gateway %s is not of the family of subnet %s", g, r.Subnet)
	case g.IsUnspecified(), g.IsLoopback(), g.IsMulticast(), g == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return ReasonGatewayNotUnicast, fmt.Errorf("gateway %s is not a unicast address", g)
	}
	return ReasonNone, nil
}

// local says whether a sound lease would take something of this node's away.
func (p Policy) local(r netlinkx.Route) (Reason, error) {
	for own := range routes(p.Own) {
		if r.Subnet.Overlaps(own.Subnet) {
			return ReasonOverlapsOwn, fmt.Errorf("subnet %s overlaps this node's %s", r.Subnet, own.Subnet)
		}
	}
	for _, a := range p.Uplink.Addrs {
		if r.Subnet.Overlaps(a.Masked()) {
			return ReasonOverlapsUplink, fmt.Errorf("subnet %s overlaps %s on uplink %s", r.Subnet, a.Masked(), p.Uplink.Name)
		}
	}
	if r.Subnet.Contains(r.Gateway) {
		return ReasonOverlapsUplink, fmt.Errorf("subnet %s contains its own gateway %s", r.Subnet, r.Gateway)
	}
	isGateway := func(a netip.Prefix) bool { return a.Addr() == r.Gateway }
	if r.Gateway == p.Uplink.IPv4 || r.Gateway == p.Uplink.IPv6 || slices.ContainsFunc(p.Uplink.Addrs, isGateway) {
		return ReasonGatewayIsOwn, fmt.Errorf("gateway %s is this node's own address", r.Gateway)
	}
	return ReasonNone, nil
}

// reachable says whether a gateway is on this layer 2, as far as the uplink's
// addresses tell.
func (p Policy) reachable(g netip.Addr) (Reason, error) {
	for _, a := range p.Uplink.Addrs {
		if !a.Contains(g) {
			continue
		}
		// A network's first and last IPv4 address are no host's, but on a /31 and a /32.
		if net := a.Masked(); g.Is4() && net.Bits() < 31 && (g == net.Addr() || g == lastAddr(net)) {
			return ReasonGatewayNotUnicast, fmt.Errorf("gateway %s is the network or broadcast address of %s", g, net)
		}
		return ReasonNone, nil
	}
	if p.OnLink {
		return ReasonNone, nil
	}
	return ReasonGatewayOffLink, fmt.Errorf("gateway %s is in no network of uplink %s %v: not on this layer 2",
		g, p.Uplink.Name, p.Uplink.Addrs)
}

// lastAddr returns the last address of a masked IPv4 prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := range b {
		host := min(max(8*(i+1)-p.Bits(), 0), 8)
		b[i] |= byte(1<<host - 1)
	}
	return netip.AddrFrom4(b)
}
