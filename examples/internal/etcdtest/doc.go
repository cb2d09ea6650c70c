// Package etcdtest runs real etcd servers on the loopback for tests, and does to
// them what happens to servers.
package etcdtest
