// Package simulation runs whole clusters through thousands of schedules of
// everything that can go wrong, and checks after each step what must always hold.
// It is all tests; there is nothing to import.
//
// A schedule follows from a seed: how many hosts there are (5 to 50), how tight
// and of which families their network is, how long leases live and how long
// missing peers are held, which troubles there are and how often, and each step.
// It runs in a testing/synctest bubble of its own. What is real in it: the
// Managers, the memory store, and in one schedule out of ten the route programmer
// of netlinkx on the fake kernel of netlinkx/netlinktest. In the others a model
// of both takes their place, which does what hostgw.RouteProgrammer says and no
// more; it is three times as fast. Each host has a latency of its own, so that
// what happens at the same moment happens in the same order when a schedule is
// replayed, as far as Go's scheduler lets it.
//
//	go test ./internal/simulation                                # 10 000 schedules
//	go test ./internal/simulation -simulation.seed=42 -v         # one, with all that happens in it
//	go test ./internal/simulation -simulation.duration=1h -timeout=0 -run='Simulation$' -simulation.first=1000000
//	go test ./internal/simulation -simulation.kernel=real        # all on the real programmer
//
// # The troubles
//
// Daemons start, stop with and without giving their subnet back, are killed with
// messages under way that arrive all the same, and restart with and without their
// subnet.env, alone or all at once. Hosts are cut off from the store, alone or all;
// requests, answers and events are slow; answers are lost; events come again.
// The config is widened, narrowed, cut anew, moved elsewhere, given other
// families, written again, broken and deleted. Operators delete leases, one and
// all, and put malformed, hostile, overlapping, stolen and reserved ones. The
// store is wiped, restored from an old backup, and forgets its history. Uplinks
// flap, go down, and get and lose addresses; hosts get new ones; routes are
// deleted by hand, and foreign ones come and go. Leases live for seconds or
// minutes, so that they do expire.
//
// All hosts of a bubble share one clock, and none can be set back. What a clock
// can do to a Manager is modelled by what it can see of it: pauses in which
// everything with a time limit becomes overdue at once, and messages that arrive
// long after the time in which they would have meant something.
//
// # What is checked
//
// The numbers are those of the invariants that the design states. A ledger hears
// from the store of every single change, before anybody else, and from the
// kernels of every route that a daemon changes.
//
//  1. One holder. At each revision of the store: no Manager creates a lease that
//     overlaps another (but one that an operator put there after the snapshot
//     that the claim was chosen from); none rewrites or deletes a key that is not
//     its node's; none expires that its node could have kept. A node that ends
//     with a lost subnet or a full network is right about that. A node that has
//     had no trouble for a while holds what the store says, and no two of them
//     what overlaps. A node that is cut off may believe to hold what has expired:
//     that is what a time to live means.
//  2. Only honest routes. In every kernel, after each step: inside a network that
//     was configured, not the host's own subnet or its uplink's network, through
//     a gateway that is on-link and not its own; never to what no lease said. In
//     a kernel that has settled: exactly what the store's leases ask for by rules
//     written down here once more, and nothing else but what is held for peers
//     that may come back.
//  3. Only our routes. Foreign routes are what they were made.
//  4. No gap. Each removal of a route by a daemon is judged when it happens. It
//     needs a reason: that lease alone was deleted, expired or given to somebody
//     since the daemon last could hear of it; another contends for the subnet;
//     the host itself changed. A lease that changes hands in one step is
//     rerouted in one step.
//  5. The store being away changes nothing, and what it lost at one moment keeps
//     its routes until the hold time has passed in which it could have come back.
//  6. A malformed peer is shown with its reason, the others with their state.
//  7. Nothing is left behind: when all is healed and the dead have expired, each
//     node that runs has one lease, the others none; all goroutines end.
//
// # Whether it would notice
//
// TestTeeth builds the module with one known mistake at a time, and each must be
// caught within two thousand schedules.
package simulation
