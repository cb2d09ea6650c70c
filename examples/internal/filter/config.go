package filter

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"
)

// DefaultResync is how often rules are compared with the kernel's though no
// event asked for it, as in flanneld.
const DefaultResync = 5 * time.Second

// Config says which rules are wanted.
type Config struct {
	// IPv4 and IPv6 are what the rules are about. The zero Family has no rules.
	// While both are zero nothing is touched at all, so that the rules of an
	// earlier run stay until the lease is known.
	IPv4, IPv6 Family

	Masquerade    bool // translate what leaves the network (-ip-masq)
	NoFullyRandom bool // keep source ports where possible when translating (-ip-masq-fully-random-disable)
	Forward       bool // accept what is forwarded, and forward (-iptables-forward-rules)

	// Uplink is the name of the interface through which the peers are reached.
	// It narrows the exception in somebody else's chain down to traffic through
	// it; every interface if empty.
	Uplink string

	Resync time.Duration // interval of the look that no event asked for; DefaultResync if zero, none if negative. Update does not change it
	Logger *slog.Logger  // slog.Default() if nil. Update does not change it
}

// Family is the network in one address family.
type Family struct {
	Network netip.Prefix // what every node's subnet is cut from, masked
	Subnet  netip.Prefix // this node's own part of it, masked
}

func (f Family) isZero() bool { return f == Family{} }

func (c Config) check() error {
	if err := c.IPv4.check("IPv4", netip.Addr.Is4); err != nil {
		return err
	}
	if err := c.IPv6.check("IPv6", func(a netip.Addr) bool { return a.Is6() && !a.Is4In6() }); err != nil {
		return err
	}
	// The kernel's IFNAMSIZ is 16, with the terminating zero.
	if len(c.Uplink) > 15 || strings.ContainsRune(c.Uplink, 0) {
		return fmt.Errorf("uplink %q: must be an interface name of at most 15 bytes", c.Uplink)
	}
	return nil
}

func (f Family) check(name string, belongs func(netip.Addr) bool) error {
	if f.isZero() {
		return nil
	}
	for _, part := range []struct {
		what string
		p    netip.Prefix
	}{{"network", f.Network}, {"subnet", f.Subnet}} {
		switch p := part.p; {
		case !p.IsValid() || !belongs(p.Addr()):
			return fmt.Errorf("%s %s %v: must be an %s prefix", name, part.what, p, name)
		case p != p.Masked():
			return fmt.Errorf("%s %s %v: must be masked, as in %v", name, part.what, p, p.Masked())
		case p.Bits() == 0:
			return fmt.Errorf("%s %s %v: must not be everything", name, part.what, p)
		}
	}
	if f.Subnet.Bits() < f.Network.Bits() || !f.Network.Contains(f.Subnet.Addr()) {
		return fmt.Errorf("%s subnet %v: must lie inside the network %v", name, f.Subnet, f.Network)
	}
	return nil
}
