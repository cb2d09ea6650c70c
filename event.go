package hostgw

import (
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/subnet"
)

// Event is something that happened to a Manager: one of *StateEvent, *LeaseEvent,
// *StoreEvent, *ConfigEvent, *PeerEvent, *RivalEvent, *RouteEvent.
type Event interface{ event() }

// StateEvent says that the Manager came into another state: StateHeld when the
// lease is held, for the first time or again, StateJoining when it was lost.
type StateEvent struct{ State State }

// LeaseEvent says that this node holds a lease it did not hold before: the
// first one, or another one (Previous) after a move.
type LeaseEvent struct {
	Joined
	Previous subnet.Key // zero for the first
}

// StoreEvent says that the store cannot be heard (Err) or can be again (nil), see
// StoreStatus.
type StoreEvent struct{ Err error }

// ConfigEvent says that the network config in the store changed.
type ConfigEvent struct {
	Config subnet.NetworkConfig
	Fits   bool // whether this node's lease still fits
}

// PeerEvent says that a peer came, changed, is missing from the store (then
// Peer.Missing is set) or went (Gone).
type PeerEvent struct {
	Peer Peer
	Gone bool
}

// RivalEvent says that another process claims this node's lease with this
// node's address. That it has gone is told by Status.Rival alone.
type RivalEvent struct{ Rival subnet.Node }

// RouteEvent says that routes reached another state in the kernel.
type RouteEvent struct {
	Routes []netlinkx.RouteStatus
	Stats  netlinkx.Stats
}

func (*StateEvent) event()  {}
func (*LeaseEvent) event()  {}
func (*StoreEvent) event()  {}
func (*ConfigEvent) event() {}
func (*PeerEvent) event()   {}
func (*RivalEvent) event()  {}
func (*RouteEvent) event()  {}
