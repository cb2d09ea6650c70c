// Package status is what hostgwd tells about itself over its unix socket: the
// report, its JSON, its table for people, and both ends of the socket.
package status

import (
	"net/netip"
	"slices"
	"time"

	"github.com/hostgw/hostgw"
)

// Report is the answer to GET /status.
type Report struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Time    time.Time `json:"time"` // when the report was made

	State    string   `json:"state"`             // waiting, joining, held, stopped
	Ready    bool     `json:"ready"`             // subnet file written and first set of routes in
	Waiting  string   `json:"waiting,omitempty"` // what it waits for
	Problems []string `json:"problems,omitempty"`

	Network    []netip.Prefix `json:"network,omitempty"`
	SubnetFile string         `json:"subnetFile"`
	Lease      *Lease         `json:"lease,omitempty"`
	Uplink     *Uplink        `json:"uplink,omitempty"`
	Store      Store          `json:"store"`
	Peers      []Peer         `json:"peers"`
	Counters   Counters       `json:"counters"`
}

// Lease is this host's.
type Lease struct {
	Name     string         `json:"name"` // its key in the store
	Subnets  []netip.Prefix `json:"subnets"`
	Gateways []netip.Addr   `json:"gateways"` // where the other hosts reach it
	Reserved bool           `json:"reserved"`
	Since    time.Time      `json:"since"`
	Renewed  time.Time      `json:"renewed"`
	Seconds  float64        `json:"secondsLeft,omitempty"` // none for a reservation
	Rival    string         `json:"rival,omitempty"`
}

// Uplink is the interface to the other hosts.
type Uplink struct {
	Name      string         `json:"name"`
	Index     int            `json:"index"`
	MTU       int            `json:"mtu"`
	Up        bool           `json:"up"`
	Running   bool           `json:"running"`
	Addresses []netip.Prefix `json:"addresses"`
}

// Store is where the leases are.
type Store struct {
	Endpoints []string  `json:"endpoints"`
	Embedded  bool      `json:"embedded"` // it runs in this process
	Prefix    string    `json:"prefix"`
	Heard     bool      `json:"heard"`
	Error     string    `json:"error,omitempty"`
	Since     time.Time `json:"since,omitzero"`
	Revision  int64     `json:"revision"`
	Outages   uint64    `json:"outages"`
}

// Peer is another host's lease.
type Peer struct {
	Name     string    `json:"name"`
	Reserved bool      `json:"reserved"`
	Missing  time.Time `json:"missing,omitzero"` // since when the store does not show it
	Routes   []Route   `json:"routes"`
}

// subnet is the first one of a peer; zero if it cannot be read.
func (p Peer) subnet() netip.Prefix {
	if len(p.Routes) == 0 {
		return netip.Prefix{}
	}
	return p.Routes[0].Subnet
}

// Route is a peer's route in one address family, or why there is none.
type Route struct {
	Subnet  netip.Prefix `json:"subnet,omitzero"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	State   string       `json:"state"`            // of a netlinkx.RouteState, or none
	Reason  string       `json:"reason,omitempty"` // why there is none
	Error   string       `json:"error,omitempty"`
	Since   time.Time    `json:"since"`
}

// NoRoute is the State of a Route that the peer policy does not want.
const NoRoute = "none"

// Counters are the route programmer's.
type Counters struct {
	Added    uint64 `json:"added"`
	Replaced uint64 `json:"replaced"`
	Removed  uint64 `json:"removed"`
	Failed   uint64 `json:"failed"`
	Repaired uint64 `json:"repaired"`
	Looks    uint64 `json:"looks"`
	Overruns uint64 `json:"overruns"`
	Found    uint64 `json:"found"`
}

// Fill writes what a Manager says into r, as of now.
func (r *Report) Fill(s hostgw.Status, now time.Time) {
	r.State = s.State.String()
	if s.Waiting != nil {
		r.Waiting = s.Waiting.Error()
	}
	for _, n := range []netip.Prefix{s.Config.Config.IPv4.Network, s.Config.Config.IPv6.Network} {
		if n.IsValid() {
			r.Network = append(r.Network, n)
		}
	}
	if s.Config.Err != nil && s.Config.Revision != 0 {
		r.Problems = append(r.Problems, "the config in the store is refused and the last good one stays in force: "+s.Config.Err.Error())
	}
	r.fillLease(s, now)
	if s.Uplink.Name != "" {
		u := s.Uplink
		r.Uplink = &Uplink{u.Name, u.Index, u.MTU, u.Up, u.Running, u.Addrs}
	}
	r.Store.Heard = s.Store.Err == nil
	if s.Store.Err != nil {
		r.Store.Error = s.Store.Err.Error()
	}
	r.Store.Since, r.Store.Revision, r.Store.Outages = s.Store.Since, s.Store.Revision, s.Store.Outages
	r.Peers = make([]Peer, 0, len(s.Peers))
	for _, p := range s.Peers {
		r.Peers = append(r.Peers, NewPeer(p))
	}
	// By number, as lease ls does; what cannot be read comes first, by name.
	slices.SortStableFunc(r.Peers, func(a, b Peer) int { return a.subnet().Compare(b.subnet()) })
	c := s.Routes
	r.Counters = Counters{c.Added, c.Replaced, c.Removed, c.Failed, c.Repaired, c.Looks, c.Overruns, c.Found}
}

func (r *Report) fillLease(s hostgw.Status, now time.Time) {
	k, h := s.Joined.Lease.Key, s.Joined.Lease.Holder
	if !k.IPv4.IsValid() && !k.IPv6.IsValid() {
		return
	}
	l := &Lease{Name: k.String(), Reserved: s.Record.Reserved(), Since: s.Since, Renewed: s.Renewed}
	for _, p := range []netip.Prefix{k.IPv4, k.IPv6} {
		if p.IsValid() {
			l.Subnets = append(l.Subnets, p)
		}
	}
	for _, a := range []netip.Addr{h.PublicIP, h.PublicIPv6} {
		if a.IsValid() {
			l.Gateways = append(l.Gateways, a)
		}
	}
	if s.State == hostgw.StateHeld && !s.Config.Config.Fits(k) {
		r.Problems = append(r.Problems, "this host's lease "+l.Name+" no longer fits the config in the store, and is kept for now")
	}
	if s.TTL > 0 {
		l.Seconds = max(0, (s.TTL - now.Sub(s.Renewed)).Seconds())
	}
	if s.Rival != nil {
		l.Rival = s.Rival.Name
		r.Problems = append(r.Problems, "another process, on "+s.Rival.Name+", claims this host's lease with this host's address")
	}
	r.Lease = l
}

// NewPeer reports a peer of a Manager.
func NewPeer(p hostgw.Peer) Peer {
	out := Peer{Name: p.Name, Reserved: p.Reserved, Missing: p.Missing, Routes: make([]Route, 0, len(p.Routes))}
	for _, pr := range p.Routes {
		rt := Route{Subnet: pr.Subnet, Gateway: pr.Gateway, State: NoRoute, Since: pr.Since}
		if pr.Reason == hostgw.ReasonNone {
			rt.State = pr.State.String()
		} else {
			rt.Reason = pr.Reason.String()
		}
		if pr.Err != nil {
			rt.Error = pr.Err.Error()
		}
		out.Routes = append(out.Routes, rt)
	}
	return out
}

// RoutesIn reports whether the first set of routes was written: the kernel was
// looked at, and no wanted route is still to be tried.
func RoutesIn(s hostgw.Status) bool {
	return s.State == hostgw.StateHeld && s.Routes.Looks > 0 && s.Counts.Pending == 0
}
