// Package netns builds small networks out of Linux network namespaces, and looks
// at them, in pure Go: nothing but a kernel is needed, no ip, ping, traceroute or
// tcpdump.
//
// A [Namespace] lives as long as the process that made it, at most: nothing but
// an open file holds it, so that even a killed test leaves nothing behind. A
// [Segment] is some hosts on one layer-2 segment, each a Namespace; a [Container]
// is a Namespace behind a host's docker0 bridge.
//
// What a person would type has a method: Ping, Trace, Routes (ip route), Capture
// (tcpdump), MonitorRoutes (ip monitor) and Probe, a ping that finds the gaps.
//
// Making namespaces takes CAP_SYS_ADMIN and CAP_NET_ADMIN: root's, or those one
// has in a user namespace of one's own.
package netns
