// Lab shows hostgw at work on one machine, with nothing installed but Go: some
// hosts on one layer-2 segment, each a network namespace with a real hostgwd in
// it, and a container on each host.
//
//	go run ./examples/lab [-nodes N] [-ipv6] [-keep] [-v]
//
// It prints what a person would look at, and at the end whether it works; the
// exit status says the same (0 or 1). It leaves nothing behind, and needs no root
// where the kernel lets users make user namespaces.
package main
