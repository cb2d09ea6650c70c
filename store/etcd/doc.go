// Package etcd is a subnet store and lease watcher on etcd's v3 API, 3.4 and
// later, in flannel's layout, so that hosts that run flanneld share the network:
//
//	<prefix>/config           the network config
//	<prefix>/subnets/<key>    a lease, on an etcd lease; a reservation is on none
//	<prefix>/users/<key>      which process claims it: hostgw's own
//
// The last one lets two hosts that were given the same address find out about
// each other. It lies outside the range that peers watch and flanneld reads.
//
// Under etcd's authentication a node's user needs to read and write all of
// <prefix>/:
//
//	etcdctl role grant-permission node readwrite --prefix /coreos.com/network/
//
// The calls go to etcd's gRPC services directly and not through the methods of
// clientv3, which retry by themselves and out of sight. Here a caller is to be
// told at once, and why, that the store is away; and a watch that comes back must
// be able to tell a server that still has the history from one that was wiped or
// restored and has, by chance, gone on to higher revisions.
package etcd
