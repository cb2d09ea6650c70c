package hostgw

import (
	"errors"
	"fmt"

	"github.com/hostgw/hostgw/subnet"
)

var (
	// ErrSubnetLost is wrapped by [SubnetLostError].
	ErrSubnetLost = errors.New("subnet lost to another node")

	// ErrStopped is what a method of a Manager returns that waits for something
	// which can no longer happen, because Run has returned.
	ErrStopped = errors.New("manager has stopped")

	// ErrNoLease says that a Manager that is asked to release its lease holds none.
	ErrNoLease = errors.New("no lease is held")
)

// SubnetLostError says that this node's lease vanished from the store, and that
// it cannot be had again: another node holds the subnet, or an overlapping one,
// now, or it no longer fits the config. It wraps [ErrSubnetLost].
type SubnetLostError struct {
	Lost  subnet.Lease  // what this node held
	Taken subnet.Record // who holds it now; zero if Err is set
	Err   error         // why else it cannot be had
}

func (e *SubnetLostError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("subnet lost: %v", e.Err)
	}
	return fmt.Sprintf("%v: %s of %s is now %s of %s", ErrSubnetLost,
		e.Lost.Key, address(e.Lost.Holder), e.Taken.Name, address(e.Taken.Lease.Holder))
}

func (e *SubnetLostError) Unwrap() error { return ErrSubnetLost }

// address names a holder for people.
func address(h subnet.Holder) string {
	switch {
	case h.PublicIP.IsValid():
		return h.PublicIP.String()
	case h.PublicIPv6.IsValid():
		return h.PublicIPv6.String()
	}
	return "an unknown address"
}
