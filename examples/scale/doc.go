// Package scale holds the tests of large networks: hundreds or thousands of
// Managers, each with its own connection to one real etcd, its own fake kernel and
// the real route programmer on it. What they measured is in docs/scale.md.
//
//	go test ./examples/scale -v -scale.nodes=1000 -timeout=20m
package scale
