// Package blackhole keeps the routes that drop what is sent to addresses of
// this host's own subnet that no container has. Without them such packets
// follow the default route, and may come back from there for as long as they
// live.
package blackhole

// Protocol marks the routes as ours. It is not the one of the routes to the
// peers: whoever keeps those removes whatever carries their number and is no
// peer's.
const Protocol = 105

// metric lets every other route to the subnet, such as a bridge's, go first.
const metric = 1<<32 - 2
