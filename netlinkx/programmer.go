package netlinkx

import (
	"errors"
	"net/netip"
	"sync"
)

// Programmer is the route programmer on the Linux kernel: it makes the kernel's
// routes equal to what is wanted, and keeps them so by listening to the kernel.
//
// # Whose routes
//
// Every route it writes carries Config.Protocol, and it changes and removes no
// other, in no other table than Config.Table. At the start it takes stock: routes
// of its protocol that are wanted and right stay untouched, so that a restart
// causes not one event; those that are not wanted go. A route of anybody else's
// to exactly the same subnet, whatever its metric, keeps ours from being added
// ([ForeignRouteError]) until it goes away. If ours was there first it stays,
// and follows its gateway, but is reported as being in conflict all the same.
//
// The exception is what flanneld leaves: a route of protocol boot to a subnet
// inside Wanted.Networks, of the default metric, through an on-link gateway on
// the uplink, with nothing else to it. If the subnet is wanted the leftover is
// replaced by ours in one step, also if it leads to another gateway. A leftover
// that is not wanted stays: nothing tells it from a route somebody set by hand.
// "ip route replace" without a protocol makes such a route out of ours, and is
// undone by this rule.
//
// # No gap
//
// A route that changes is replaced in one step. Routes are added before others
// are removed. A wanted route that the kernel refuses to change stays what it was.
//
// # When somebody interferes
//
// What the kernel tells about routes, links and addresses is acted on at once. A
// route that the kernel refused is tried again when the uplink, its addresses
// or what is on-link changes, and in each periodic look, never in between. If
// something keeps removing a route, it is put back at once a thousand times, and
// ten times a second from then on.
//
// A link that goes down drops its routes; one that only lost its carrier does
// not. Both are followed.
//
// # Metrics of large networks
//
// The kernel finds out whether an IPv4 route's next hop is known already in a
// hash table that does not hash the gateway, so that N routes through one
// interface at one metric cost it O(N²): 10 000 take more than a second, 20 000
// more than five. Up to [PlainRoutes] IPv4 routes are at the base metric, which is
// Config.Metric, so that networks of the usual size look plain. From then on
// each [FurtherRoutes] routes are one metric higher: 20 000 routes use 154 metrics
// in a row. Routes that are in the kernel keep the metric they have. No two routes
// of ours are to one subnet, so that the metric decides nothing among them.
//
// Next-hop objects (ip nexthop) make it linear too, and so does a metric hashed
// from the subnet: ip -batch adds 20 000 routes in 0.29 s with metrics in a row,
// in 0.27 s with hashed ones, in 0.45 s with objects, and in more than 5 s plain.
// Objects are a second table to be kept right, need a kernel of 5.3 or later and
// show as numbers in ip route; hashed metrics make small networks look odd. IPv6
// is linear by itself and has one metric.
//
// All methods may be called concurrently.
type Programmer struct {
	config Config

	mu      sync.Mutex
	started bool
	pending pending
	hasSet  bool          // Set has been called
	wake    chan struct{} // capacity one: pending is not empty
}

// NewProgrammer checks c and returns a Programmer that is not running yet.
func NewProgrammer(c Config) (*Programmer, error) {
	c, err := c.complete(true)
	if err != nil {
		return nil, err
	}
	return &Programmer{config: c, wake: make(chan struct{}, 1)}, nil
}

// Set makes w the wanted set. It returns at once; equal sets cost nothing. The
// caller must not change w's slices afterwards.
func (p *Programmer) Set(w Wanted) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending = pending{set: &w}
	p.hasSet = true
	p.signal()
}

// Change adds routes to the wanted set, or changes their gateways, and removes
// others. A subnet that is in both put and remove is put. It returns at once.
// Before the first Set it does nothing that lasts, as Set replaces everything.
func (p *Programmer) Change(put []Route, remove []netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.hasSet {
		return
	}
	p.pending.add(put, remove)
	p.signal()
}

func (p *Programmer) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take returns what is pending.
func (p *Programmer) take() pending {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.pending
	p.pending = pending{}
	return q
}

// start reports whether Run may go on: it is to be called once.
func (p *Programmer) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.started {
		return errors.New("netlinkx: Programmer.Run called twice")
	}
	p.started = true
	return nil
}
