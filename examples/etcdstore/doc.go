// Package etcdstore holds the tests that need a real etcd, which the root module
// must not depend on: of store/etcd, and of whole Managers on it when it fails.
package etcdstore
