// Package doctest has no code but tests: of the pages in docs/ and of the README.
//
//   - Each table that repeats what the code knows (flags, exit statuses, log
//     lines, reasons, metrics, alerts) has exactly what the code has.
//   - Each Go block stands in a Go file of this module or the root module, which
//     is compiled and tested there.
//   - Each command is run, as a person would type it, on hosts made of namespaces,
//     and what a page shows of its output is what it prints.
//
// A comment before a block of commands, which a reader does not see, says how it
// is run:
//
//	<!-- run: host2 -->                      on the second host; the first is the default
//	<!-- run: host1 until "some text" -->    it goes on; the next block comes when it has printed the text
//	<!-- run: never because of this -->      it is counted and listed, and not run
//
// The commands need root, and Debian's etcd-server, etcd-client and iproute2; what
// is missing is named and the test is skipped, or fails where HOSTGW_REQUIRE_TOOLS
// is set.
package doctest
