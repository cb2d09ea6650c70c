package filter

import (
	"fmt"
	"net/netip"
	"time"
)

// Status is what a Filter knows of its rules.
type Status struct {
	Applied bool      // the kernel held every wanted rule at the last look
	Since   time.Time // of Applied; zero before the first look
	Err     error     // why the last look or the last change failed; nil if it did not

	// Exceptions are the chains of others that hold an exception of ours, as in
	// "ip filter DOCKER-USER".
	Exceptions []string

	// Problems are why packets may be dropped although every rule of ours is in
	// place: *ForwardingError, *DropError, *DirectAccessError, *LegacyError.
	Problems []error

	Repairs uint64 // how often rules were put right after somebody else's change
}

// ForwardingError says that the kernel does not forward packets.
type ForwardingError struct {
	Setting string // as sysctl spells it, e.g. "net.ipv4.ip_forward"
	Err     error  // why it could not be read or switched on; nil if nobody asked for that
}

func (e *ForwardingError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s cannot be switched on: %v", e.Setting, e.Err)
	}
	return fmt.Sprintf("%s is 0: this host forwards no packets", e.Setting)
}

func (e *ForwardingError) Unwrap() error { return e.Err }

// DropError says that a chain of somebody else's drops what it does not accept
// itself, and that it holds no effective exception of ours.
type DropError struct {
	Chain   string // as in "inet filter forward"
	Rule    bool   // it is a rule for every packet, before our exception, that drops; else the chain's policy
	Network netip.Prefix
}

func (e *DropError) Error() string {
	why := "has the policy drop"
	if e.Rule {
		why = "drops every packet that reaches its end"
	}
	return fmt.Sprintf("chain %s %s: it must accept what is forwarded from and to %v", e.Chain, why, e.Network)
}

// DirectAccessError says that a rule in table raw drops what another host sends
// to this node's containers. Docker 28 and later makes such rules unless it is
// told not to.
type DirectAccessError struct {
	Chain  string // as in "ip raw PREROUTING"
	Subnet netip.Prefix
}

func (e *DirectAccessError) Error() string {
	return fmt.Sprintf("chain %s drops what other hosts send to containers in %v: start dockerd with --allow-direct-routing or --iptables=false", e.Chain, e.Subnet)
}

// LegacyError says that iptables-legacy rules are in force, which nftables
// neither shows nor changes.
type LegacyError struct {
	Command string // "iptables-legacy" or "ip6tables-legacy"
	Policy  string // of its FORWARD chain; "" if the command is not installed or failed
	Network netip.Prefix
}

func (e *LegacyError) Error() string {
	if e.Policy == "" {
		return fmt.Sprintf("a filter table of %s is in force: its FORWARD chain must accept traffic from and to %v", e.Command, e.Network)
	}
	return fmt.Sprintf("%s's FORWARD chain has the policy %s: it must accept traffic from and to %v", e.Command, e.Policy, e.Network)
}
