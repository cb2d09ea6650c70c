// Package integration holds tests of the whole: real hostgwd processes on hosts
// made of network namespaces, a real etcd, the real kernel. They need Linux and
// root.
package integration
