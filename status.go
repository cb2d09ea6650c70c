package hostgw

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/subnet"
)

// Joined is a lease that this node holds and the config it was chosen under.
type Joined struct {
	Config subnet.Config
	Lease  subnet.Lease
}

// Status is a snapshot of a Manager.
type Status struct {
	State   State
	Waiting error // why a Manager that is joining has not joined yet; nil otherwise

	Config subnet.NetworkConfig // as last seen in the store; Err may be set while the last good one stays in force
	Joined Joined               // the lease held; zero before the first
	Record subnet.Record        // the same as the store holds it

	Since   time.Time     // when the lease was first held by this run
	Renewed time.Time     // when the store last confirmed it
	TTL     time.Duration // what was left of it then; zero for a reservation
	Rival   *subnet.Node  // another process that claims this node's lease with this node's address

	Uplink netlinkx.Uplink
	Store  StoreStatus
	Counts Counts
	Peers  []Peer // ordered by name; nil in a Summary
	Routes netlinkx.Stats
}

// Counts says how many peers there are in which state. A dual-stack peer counts
// once in each that one of its routes is in, but in Installed only if all are.
type Counts struct {
	Peers     int
	Installed int // every route is in the kernel
	Pending   int // a route is wanted and was not tried yet
	Failed    int // the kernel refuses a route, or cannot hold it now
	Conflict  int // somebody else's route is in the way
	Refused   int // the peer policy gives it no route
	Missing   int // the store does not show it any more, and its routes are held
}

// State is the phase a Manager is in.
type State int

const (
	StateNew     State = iota // Run has not been called
	StateJoining              // no lease yet, or lost it and asking for it again
	StateHeld                 // lease held, routes kept
	StateStopped              // Run has returned
)

var stateNames = [...]string{
	StateNew:     "new",
	StateJoining: "joining",
	StateHeld:    "held",
	StateStopped: "stopped",
}

// String returns the state in a word: new, joining, held or stopped.
func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("state %d", int(s))
	}
	return stateNames[s]
}

// MarshalText returns what String does, so that a State reads well in JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// StoreStatus is how well the store can be heard. It cannot while the watch is broken
// or the store does not confirm the lease.
type StoreStatus struct {
	Err      error     // nil if it can be heard
	Since    time.Time // of the present state
	Revision int64     // of the last update
	Outages  uint64    // how often it could not be heard
}

// Peer is another node's lease, as this node sees it. Each family of a
// dual-stack lease has a route of its own.
type Peer struct {
	Name     string // the lease's key as stored
	Lease    subnet.Lease
	Reserved bool
	Routes   []PeerRoute // one for each family of the lease; for an unreadable one a single one with Reason set
	Missing  time.Time   // since when the store no longer shows it, while its routes are held; zero otherwise
}

// PeerRoute is a peer's route, or why there is none.
type PeerRoute struct {
	Subnet  netip.Prefix
	Gateway netip.Addr
	State   netlinkx.RouteState // meaningful if Reason is ReasonNone
	Reason  Reason              // why the peer policy gives it no route; ReasonNone if it does
	Err     error               // detail of Reason or State; nil if installed
	Since   time.Time           // of State or Reason
}
