// Package netlinktest is a Linux routing kernel for tests, in memory. A
// [Kernel] speaks netlink messages, so that code made for the real one runs on
// it unchanged, without root and without a socket:
//
//	k := netlinktest.New()
//	k.AddLink("eth0")
//	k.SetUp("eth0", true)
//	k.AddAddr("eth0", netip.MustParsePrefix("192.0.2.1/24"))
//	p, err := netlinkx.NewProgrammer(netlinkx.Config{Uplink: uplink, Dial: k.Dial})
//
// It answers dumps of links, addresses and routes, takes routes in, and tells
// the members of multicast groups what changes. It refuses what Linux refuses,
// with the same error numbers and texts, and it is silent where Linux is: when a
// link goes down its IPv4 routes are gone without an event. The tests of this
// package do the same things to a Kernel and to the real one and compare.
//
// What it does not know: policy rules, next-hop objects, duplicate address
// detection (addresses are permanent at once, whatever flags they carry),
// link-local addresses that come by themselves, and requests that change links
// or addresses (a test does that with the methods of [Kernel]).
//
// Everything blocks on condition variables, so a Kernel made inside a
// testing/synctest bubble works there. Netlink error numbers only exist on
// Linux: elsewhere the package is empty.
package netlinktest
