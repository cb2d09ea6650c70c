// Command bench measures a real hostgwd with a real etcd in a network namespace
// of its own, with ip -batch beside it in the same run, and prints the table that
// the README shows. It needs root and iproute2, and takes some minutes:
//
//	go run ./examples/bench
package main
