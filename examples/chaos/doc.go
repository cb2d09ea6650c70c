// Package chaos breaks a real network in every way that its parts break, while
// packets go from every container to every other one, and checks that only what
// physically must be lost is lost: a three-member etcd, ten hosts with real
// kernels and real hostgwd processes, and a container on each. It needs Linux and
// root.
//
//	go test ./examples/chaos -v -chaos.rounds=20 -timeout=1h
package chaos
