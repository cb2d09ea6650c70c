// Package hostgw joins container hosts on one layer-2 segment into one flat
// network with nothing but kernel routes: each host leases a subnet out of the
// network from a store that all of them share, and every other host routes that
// subnet via its address. There is no encapsulation and no overlay.
//
// # The parts
//
// A [Manager] does it for one host. It is composed of three parts, each an
// interface that an embedder may replace:
//
//   - a [SubnetStore], in which the hosts lease their subnets (package
//     store/etcd, compatible with flannel's layout; package store/memory);
//   - a [LeaseWatcher], which tells what the store holds (the same packages);
//   - a [RouteProgrammer], which makes the kernel's routes equal to what is
//     wanted and keeps them so (package netlinkx).
//
// Data flows one way. The store says which leases exist; the [Policy], a pure
// function, says which of them deserve a route; the programmer makes the kernel
// equal to that set. An event from any of them is only a reason to look again,
// so that a lost, doubled or reordered one costs time and never correctness.
//
// # What a caller gets
//
// [Manager.Run] does all the work and owns every goroutine. [Manager.Lease]
// waits for this host's subnet, [Manager.Status] says at any moment what is
// leased and how each peer fares, and Config.Observe is told what happens; any
// metrics can be built on the last two. Logs go to a slog.Logger, one line for
// what happens and none for what does not.
//
// To change routes takes root or CAP_NET_ADMIN. That the host forwards packets at all,
// and what its packet filters let through, is left to the embedder.
//
// A store that cannot be reached changes nothing: routes stay, and the Manager
// catches up when it is back. A lease that is malformed, or that asks for more
// than its due, gets no route and a [Reason], and delays nobody else. When Run
// ends, lease and routes stay as they are, so that containers keep talking while
// a daemon is restarted or upgraded; the next Run takes both over untouched.
package hostgw
