// Package etcdstore holds the tests of store/etcd that need a real etcd, which
// the root module must not depend on.
package etcdstore
