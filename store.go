package hostgw

import (
	"context"
	"net/netip"

	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/subnet"
)

// SubnetStore is where the hosts of a network lease their subnets from each
// other. Package store/etcd and store/memory are implementations;
// store/storetest holds an outside one to this contract.
//
// Methods may be called concurrently. Each returns early with an error that
// wraps ctx's if ctx ends. Any error other than those named is taken for an
// outage: the Manager says so once, and tries again until it passes.
type SubnetStore interface {
	// Snapshot reads the config and every lease as of one revision, and never
	// an older one than an earlier call to the same store has shown.
	Snapshot(ctx context.Context) (subnet.Snapshot, error)

	// Claim writes c.Lease in one indivisible step, provided that the config is
	// still the one of c.ConfigRevision, that the key does not exist (c.Held
	// nil) or is as c.Held saw it, and that each of c.Drop, of which there are at
	// most 32, is as last seen; what c.Seen asks for besides, subnet.Claim says. Else
	// nothing is written and the error wraps subnet.ErrConflict.
	//
	// A key that is created expires c.TTL after it was last kept alive. One that
	// is taken back stays on what keeps it alive already, and a reservation
	// stays a reservation. A value that would not change is not written, so that
	// no watcher wakes up. Claiming again after an answer that got lost must not
	// leave anything behind: no second handle that only expires by itself.
	//
	// The record returned is for Keep and Release.
	Claim(ctx context.Context, c subnet.Claim) (subnet.Record, error)

	// Keep keeps a claimed record alive. It blocks until ctx ends, and then
	// returns nil, or until the store says that the record is gone or another
	// node's, and then returns an error that wraps subnet.ErrLeaseLost. It
	// outlives outages and refusals by itself. renewed, which may be nil, is called
	// from one goroutine at a time: whenever the store has confirmed the lease;
	// when a rival shows up or has gone; and once, with Err, when the store begins
	// not to confirm the lease, whether it cannot be reached or refuses.
	Keep(ctx context.Context, r subnet.Record, node subnet.Node, renewed func(subnet.Renewal)) error

	// Release gives the record's subnet back at once. A record that is gone, or
	// another node's, is left alone, without an error. A reservation stays.
	Release(ctx context.Context, r subnet.Record) error
}

// LeaseWatcher tells what the store holds: first one whole snapshot, then
// every change, for ever. A gap in the history is answered with a fresh
// snapshot, never with silence.
type LeaseWatcher interface {
	// Watch calls deliver, one call at a time, with what the store holds and
	// then with each change, in the order of revisions, until ctx ends, and then
	// returns nil. deliver may block; the watcher waits for it. While the store
	// cannot be heard it delivers one Update with Err and goes on trying; an
	// implementation may instead return an error, after which the Manager calls
	// Watch again a little later.
	Watch(ctx context.Context, deliver func(subnet.Update)) error
}

// RouteProgrammer makes the kernel's routes equal to a wanted set, and keeps
// them so whoever changes them. *netlinkx.Programmer is the real one;
// netlinkx/programmertest holds an outside one to this contract.
type RouteProgrammer interface {
	// Run does the work until ctx ends, and then returns nil after the last of
	// its goroutines has ended. Routes stay in the kernel. It touches no route
	// before the first Set. It calls report, one call at a time, with the uplink
	// when it first sees it and whenever it changes, and with the state of each
	// wanted route whenever that changes; what has been reported is so until
	// reported otherwise. It must be called once.
	Run(ctx context.Context, report func(netlinkx.Report)) error

	// Set replaces the wanted set; Change adds to it and removes from it. Both
	// return at once, also before Run, and may be called concurrently; the last
	// call for a subnet counts. A route that is asked for again has its state
	// reported again, and nothing else happens to it. The caller must not change
	// the slices afterwards.
	Set(w netlinkx.Wanted)
	Change(put []netlinkx.Route, remove []netip.Prefix)
}
