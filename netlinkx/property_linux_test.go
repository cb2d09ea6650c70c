package netlinkx_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostgw/hostgw/netlinkx"
)

// The numbers are those of the invariants in the design.

func TestInvariant4RestartTouchesNothing(t *testing.T) {
	n := newNamespace(t)
	n.wide()
	routes := append(manyRoutes(700), manyRoutes6(100)...)
	conflict := route("10.200.0.0/24", "192.0.2.9")
	n.ip("route add 10.200.0.0/24 via 192.0.2.8 proto static")
	config := netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial}
	w := netlinkx.Wanted{Networks: networks, Routes: append(slices.Clone(routes), conflict)}

	first := start(t, config)
	first.Set(w)
	first.reach(netlinkx.RouteInstalled, routes...)
	first.reach(netlinkx.RouteConflict, conflict)
	first.stop()

	m := n.monitor()
	second := start(t, config)
	second.Set(w)
	second.reach(netlinkx.RouteInstalled, routes...)
	second.reach(netlinkx.RouteConflict, conflict)
	second.Set(w) // equal sets cost nothing
	second.stop()
	if got := m.heard(); len(got) > 0 {
		t.Errorf("a restart caused %d events, the first %s", len(got), got[0])
	}
	if s := second.counts(); s != (netlinkx.Stats{Looks: s.Looks}) {
		t.Errorf("a restart did something: %+v", s)
	}

	// A peer that left meanwhile goes, and nothing else.
	third := start(t, config)
	third.Set(netlinkx.Wanted{Networks: networks, Routes: routes[1:]})
	third.until("one is removed", func() bool { return third.stats.Removed == 1 })
	third.stop()
	expect(t, m.heard(), "delete 10.0.0.0/28 via 172.16.1.0")
}

func TestInvariant4ReplaceWithoutGap(t *testing.T) {
	n := newNamespace(t)
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
	r.Set(netlinkx.Wanted{Networks: networks, Routes: []netlinkx.Route{route("10.5.1.0/24", "192.0.2.7"), route("fd99:0:0:4b::/64", "2001:db8::7")}})
	r.reach(netlinkx.RouteInstalled, route("10.5.1.0/24", "192.0.2.7"), route("fd99:0:0:4b::/64", "2001:db8::7"))

	m := n.monitor()
	moved := []netlinkx.Route{route("10.5.1.0/24", "192.0.2.8"), route("fd99:0:0:4b::/64", "2001:db8::8")}
	r.Change(moved, nil)
	r.reach(netlinkx.RouteInstalled, moved...)
	expect(t, m.heard(), "replace 10.5.1.0/24 via 192.0.2.8", "replace fd99:0:0:4b::/64 via 2001:db8::8")

	// A gateway that the kernel refuses leaves the old one in place.
	bad := route("10.5.1.0/24", "198.51.100.1")
	r.Change([]netlinkx.Route{bad}, nil)
	r.reach(netlinkx.RouteFailed, bad)
	expect(t, m.heard())
	expect(t, n.routes("proto 104"), "unicast 10.5.1.0/24 via 192.0.2.8 dev eth0 scope global")
	if s := r.counts(); s.Added != 2 || s.Replaced != 2 || s.Removed != 0 || s.Failed != 1 || s.Repaired != 0 {
		t.Errorf("stats %+v", s)
	}

	// A subnet that is cut anew: the new ones come before the old one goes.
	r.Set(netlinkx.Wanted{Networks: networks, Routes: []netlinkx.Route{route("10.5.1.0/25", "192.0.2.8"), route("10.5.1.128/25", "192.0.2.8"), moved[1]}})
	r.until("the old one is removed", func() bool { return r.stats.Removed == 1 })
	expect(t, m.heard(), "add 10.5.1.0/25 via 192.0.2.8", "add 10.5.1.128/25 via 192.0.2.8", "delete 10.5.1.0/24 via 192.0.2.8")
}

func TestInvariant3ForeignRoutes(t *testing.T) {
	for _, foreign := range []string{
		"10.5.1.0/24 via 192.0.2.200 proto static",
		"10.5.1.0/24 via 192.0.2.200 proto static metric 50",
		"10.5.1.0/24 via 192.0.2.7 proto bird",
		"10.5.1.0/24 via 192.0.2.200 metric 7", // protocol boot, but not as flanneld makes them
		"10.5.1.0/24 via 192.0.2.200 src 192.0.2.1",
		"10.5.1.0/24 dev eth0",
		"10.5.1.0/24 dev lo",
		"blackhole 10.5.1.0/24",
		"10.5.1.0/24 nexthop via 192.0.2.200 nexthop via 192.0.2.201",
		"fd99:0:0:4b::/64 via 2001:db8::99 proto static",
		"fd99:0:0:4b::/64 dev lo metric 5",
		"unreachable fd99:0:0:4b::/64",
	} {
		t.Run(strings.ReplaceAll(foreign, "/", "_"), func(t *testing.T) {
			n := newNamespace(t)
			ours, show := route("10.5.1.0/24", "192.0.2.7"), n.routes
			if strings.Contains(foreign, "fd99") {
				ours, show = route("fd99:0:0:4b::/64", "2001:db8::7"), n.routes6
			}
			selector := "exact " + ours.Subnet.String()
			w := netlinkx.Wanted{Networks: networks, Routes: []netlinkx.Route{ours}}

			// It was there first.
			n.ip("route add " + foreign)
			before := show(selector)
			r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
			r.Set(w)
			r.reach(netlinkx.RouteConflict, ours)
			var why *netlinkx.ForeignRouteError
			if err := r.status(ours.Subnet).Err; !errors.As(err, &why) || why.Subnet != ours.Subnet || why.Protocol == 104 {
				t.Fatalf("the reason is %v", err)
			}
			t.Log(why)
			expect(t, show(selector), before...)

			// It goes away.
			n.ip("route del " + foreign)
			r.reach(netlinkx.RouteInstalled, ours)

			// It comes beside ours: neither is touched.
			alone := show(selector)
			if _, err := n.try("", strings.Fields("route append "+foreign)...); err != nil {
				t.Fatal(err)
			}
			r.reach(netlinkx.RouteConflict, ours)
			both := show(selector)
			// IPv6 shows some as one route with two next hops.
			if multipath := strings.Contains(strings.Join(both, " "), "nexthop via "+ours.Gateway.String()); len(both) < 2 || !multipath && !slices.Contains(both, alone[0]) {
				t.Fatalf("after append: %q", both)
			}
			m := n.monitor()
			r.Set(netlinkx.Wanted{Networks: networks})
			r.until("ours is removed", func() bool { return r.stats.Removed == 1 })
			expect(t, m.heard(), fmt.Sprintf("delete %s via %s", ours.Subnet, ours.Gateway))
			r.stop()
			expect(t, show(selector), before...)
		})
	}
}

func TestInvariant3ForeignReplacesOurs(t *testing.T) {
	n := newNamespace(t)
	ours := []netlinkx.Route{route("10.5.1.0/24", "192.0.2.7"), route("fd99:0:0:4b::/64", "2001:db8::7")}
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
	r.Set(netlinkx.Wanted{Networks: networks, Routes: ours})
	r.reach(netlinkx.RouteInstalled, ours...)
	n.ip("route replace 10.5.1.0/24 via 192.0.2.200 proto static")
	n.ip("route replace fd99:0:0:4b::/64 via 2001:db8::99 proto static")
	r.reach(netlinkx.RouteConflict, ours...)

	// The peers move: the foreign routes stay.
	moved := []netlinkx.Route{route("10.5.1.0/24", "192.0.2.8"), route("fd99:0:0:4b::/64", "2001:db8::8")}
	r.Change(moved, nil)
	r.reach(netlinkx.RouteConflict, moved...)
	expect(t, n.routes("exact 10.5.1.0/24"), "unicast 10.5.1.0/24 via 192.0.2.200 dev eth0 proto static scope global")
	expect(t, n.routes6("exact fd99:0:0:4b::/64"), "unicast fd99:0:0:4b::/64 via 2001:db8::99 dev eth0 proto static scope global metric 1024 pref medium")
	n.ip("route del 10.5.1.0/24 via 192.0.2.200 proto static")
	n.ip("route del fd99:0:0:4b::/64 via 2001:db8::99 proto static")
	r.reach(netlinkx.RouteInstalled, moved...)
}

func TestInvariant3Takeover(t *testing.T) {
	n := newNamespace(t)
	same, other, v6 := route("10.5.1.0/24", "192.0.2.7"), route("10.5.2.0/24", "192.0.2.8"), route("fd99:0:0:4b::/64", "2001:db8::7")
	outside := route("172.31.1.0/24", "192.0.2.7")
	n.ip("route add 10.5.1.0/24 via 192.0.2.7")
	n.ip("route add 10.5.2.0/24 via 192.0.2.200")
	n.ip("route add 10.5.3.0/24 via 192.0.2.9")   // not wanted
	n.ip("route add 172.31.1.0/24 via 192.0.2.7") // outside of the networks
	n.ip("route add fd99:0:0:4b::/64 via 2001:db8::99")

	m := n.monitor()
	w := netlinkx.Wanted{Networks: networks, Routes: []netlinkx.Route{same, other, v6, outside}}
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
	r.Set(w)
	r.reach(netlinkx.RouteInstalled, same, other, v6)
	r.reach(netlinkx.RouteConflict, outside)
	got := m.heard()
	slices.Sort(got)
	expect(t, got, "replace 10.5.1.0/24 via 192.0.2.7", "replace 10.5.2.0/24 via 192.0.2.8", "replace fd99:0:0:4b::/64 via 2001:db8::7")
	expect(t, n.routes("exact 10.5.3.0/24"), "unicast 10.5.3.0/24 via 192.0.2.9 dev eth0 proto boot scope global")
	expect(t, n.routes("exact 10.5.2.0/24"), "unicast 10.5.2.0/24 via 192.0.2.8 dev eth0 proto 104 scope global")

	// An operator's hand without a protocol is the same kind of route.
	n.ip("route replace 10.5.1.0/24 via 192.0.2.200")
	r.until("it is repaired", func() bool { return r.stats.Repaired == 1 })
	expect(t, n.routes("exact 10.5.1.0/24"), "unicast 10.5.1.0/24 via 192.0.2.7 dev eth0 proto 104 scope global")
	r.stop()

	// With another metric ours comes first and then the leftover goes.
	n = newNamespace(t)
	n.ip("route add 10.5.1.0/24 via 192.0.2.200")
	m = n.monitor()
	r = start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial, Metric: 100})
	r.Set(netlinkx.Wanted{Networks: networks, Routes: []netlinkx.Route{same}})
	r.until("the leftover is removed", func() bool { return r.stats.Removed == 1 })
	r.reach(netlinkx.RouteInstalled, same)
	expect(t, m.heard(), "add 10.5.1.0/24 via 192.0.2.7", "delete 10.5.1.0/24 via 192.0.2.200")
	expect(t, n.routes("exact 10.5.1.0/24"), "unicast 10.5.1.0/24 via 192.0.2.7 dev eth0 proto 104 scope global metric 100")
}

func TestManyLeftovers(t *testing.T) {
	n := newNamespace(t)
	n.wide()
	routes := manyRoutes(1500)
	if _, err := n.try(ipBatch(routes), "-batch", "-"); err != nil {
		t.Fatal(err)
	}
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
	r.Set(netlinkx.Wanted{Networks: networks, Routes: routes})
	r.reach(netlinkx.RouteInstalled, routes...)
	expect(t, n.routes("root 10.0.0.0/8 proto boot"))
	if s := r.counts(); s.Replaced != netlinkx.PlainRoutes || s.Added != 1500-netlinkx.PlainRoutes || s.Removed != s.Added {
		t.Errorf("stats %+v", s)
	}
}

// A route that somebody deletes or alters is put back.
func TestRepair(t *testing.T) {
	n := newNamespace(t)
	n.ip("address add 192.0.2.2/24 dev eth0")
	ours := []netlinkx.Route{route("10.5.1.0/24", "192.0.2.7"), route("fd99:0:0:4b::/64", "2001:db8::7")}
	const four = "unicast 10.5.1.0/24 via 192.0.2.7 dev eth0 proto 104 scope global"
	const six = "unicast fd99:0:0:4b::/64 via 2001:db8::7 dev eth0 proto 104 scope global metric 1024 pref medium"
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
	r.Set(netlinkx.Wanted{Networks: networks, Routes: ours})
	r.reach(netlinkx.RouteInstalled, ours...)
	for i, command := range []string{
		"route del 10.5.1.0/24",
		"route del fd99:0:0:4b::/64",
		"route replace 10.5.1.0/24 via 192.0.2.66 proto 104",
		"route replace 10.5.1.0/24 via 192.0.2.7 src 192.0.2.2 proto 104",
		"route replace 10.5.1.0/24 via 192.0.2.7 mtu 1400 proto 104",
		"route replace 10.5.1.0/24 proto 104 nexthop via 192.0.2.7 nexthop via 192.0.2.66",
		"route replace blackhole 10.5.1.0/24 proto 104",
		"route replace 10.5.1.0/24 dev lo proto 104",
		"route replace fd99:0:0:4b::/64 via 2001:db8::66 proto 104",
		"route flush proto 104",
	} {
		n.ip(command)
		r.until("after "+command, func() bool { return r.stats.Repaired > uint64(i) })
		expect(t, n.routes("exact 10.5.1.0/24"), four)
		expect(t, n.routes6("exact fd99:0:0:4b::/64"), six)
		r.reach(netlinkx.RouteInstalled, ours...)
	}
	// What is ours and not wanted goes, also beside what is.
	removed := r.counts().Removed
	n.ip("route add 10.5.1.0/24 via 192.0.2.66 proto 104 metric 9")
	r.until("the surplus is removed", func() bool { return r.stats.Removed == removed+1 })
	n.ip("route add 10.5.9.0/24 via 192.0.2.66 proto 104")
	r.until("what is not wanted is removed", func() bool { return r.stats.Removed == removed+2 })
	n.ip("route append fd99:0:0:4b::/64 via 2001:db8::66 proto 104")
	r.until("the second next hop is removed", func() bool { return r.stats.Removed == removed+3 })
	expect(t, n.routes6("exact fd99:0:0:4b::/64"), six)
	expect(t, n.routes("proto 104"), strings.Replace(four, " proto 104", "", 1))
}

// TestRepairTime deletes a route 500 times. The limit is loose, for machines
// that do other things at the same time: BenchmarkRepair says how long it takes.
func TestRepairTime(t *testing.T) {
	n := newNamespace(t)
	n.wide()
	routes := manyRoutes(1000)
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial, Logger: slog.New(slog.DiscardHandler)})
	r.Set(netlinkx.Wanted{Networks: networks, Routes: routes})
	r.reach(netlinkx.RouteInstalled, routes...)
	times := newDeleter(t, n).repairs(routes, 500)
	t.Logf("put back after: median %v, 99th percentile %v, worst %v", times[250], times[495], times[499])
	if times[495] > 50*time.Millisecond {
		t.Errorf("the 99th percentile is %v", times[495])
	}
}

// deleter deletes routes and hears when they come back, each on a socket of its
// own, so that nothing of the programmer's is in the way.
type deleter struct {
	t              testing.TB
	events, socket *netlink.Conn
}

func newDeleter(t testing.TB, n *namespace) *deleter {
	t.Helper()
	d := &deleter{t: t}
	var err error
	if d.events, err = n.Dial(unix.RTNLGRP_IPV4_ROUTE); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.events.Close() })
	if d.socket, err = n.Dial(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.socket.Close() })
	return d
}

// repairs deletes routes in turn and returns, sorted, how long each was away.
func (d *deleter) repairs(routes []netlinkx.Route, tries int) []time.Duration {
	d.t.Helper()
	var times []time.Duration
	for i := range tries {
		a := routes[i%len(routes)].Subnet.Addr().As4()
		m := netlink.Message{
			Header: netlink.Header{Type: unix.RTM_DELROUTE, Flags: netlink.Request | netlink.Acknowledge},
			Data: []byte{
				unix.AF_INET, byte(routes[i%len(routes)].Subnet.Bits()), 0, 0, unix.RT_TABLE_MAIN, 104, unix.RT_SCOPE_NOWHERE, 0,
				0, 0, 0, 0,
				8, 0, unix.RTA_DST, 0, a[0], a[1], a[2], a[3],
			},
		}
		began := time.Now()
		if _, err := d.socket.Execute(m); err != nil {
			d.t.Fatal(err)
		}
		for back := false; !back; {
			msgs, err := d.events.Receive()
			if err != nil {
				d.t.Fatal(err)
			}
			back = msgs[0].Header.Type == unix.RTM_NEWROUTE
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	return times
}

func TestLinkFlap(t *testing.T) {
	n := newNamespace(t)
	n.wide()
	routes := manyRoutes(1000)
	six := route("fd99:0:0:4b::/64", "2001:db8::7")
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
	r.Set(netlinkx.Wanted{Networks: networks, Routes: append(slices.Clone(routes), six)})
	r.reach(netlinkx.RouteInstalled, append(slices.Clone(routes), six)...)

	n.ip("link set eth0 down")
	r.reach(netlinkx.RouteFailed, routes...)
	var down *netlinkx.UplinkError
	if err := r.status(routes[0].Subnet).Err; !errors.As(err, &down) || !down.Down {
		t.Errorf("while the link is down the reason is %v", err)
	}
	r.until("the uplink is down", func() bool { return !r.uplink.Up })
	expect(t, n.routes("proto 104"))
	began := time.Now()
	n.ip("link set eth0 up")
	r.reach(netlinkx.RouteInstalled, routes...)
	t.Logf("%d routes back %v after ip link set up was called", len(routes), time.Since(began))
	if got := n.routes("proto 104"); len(got) != len(routes) {
		t.Errorf("%d of %d routes are back", len(got), len(routes))
	}
	if s := r.counts(); s.Repaired != uint64(len(routes)) || s.Found != 0 {
		t.Errorf("stats %+v", s)
	}

	// IPv6 lost its addresses with the link.
	r.reach(netlinkx.RouteFailed, six)
	t.Log(r.status(six.Subnet).Err)
	n.ip("address add 2001:db8::1/64 dev eth0 nodad")
	r.reach(netlinkx.RouteInstalled, six)

	// Down and up at once, more often than the programmer can follow.
	var flaps []string
	for range 20 {
		flaps = append(flaps, "link set eth0 down", "link set eth0 up")
	}
	n.batch(flaps...)
	n.ip("address add 2001:db8::1/64 dev eth0 nodad")
	n.settled(r, append(slices.Clone(routes), six))

	// A carrier that is lost takes nothing away.
	m := n.monitor()
	n.ip("link set wire0 down")
	r.until("the uplink has no carrier", func() bool { return !r.uplink.Running })
	n.ip("link set wire0 up")
	r.until("the uplink has a carrier", func() bool { return r.uplink.Running })
	m.heard() // the kernel's own IPv6 routes come and go
	n.settled(r, append(slices.Clone(routes), six))
}

// settled waits until the kernel holds routes, each once and through its
// gateway, and no other of ours, and the programmer says so.
func (n *namespace) settled(r *running, routes []netlinkx.Route) {
	n.t.Helper()
	var want []string
	for _, w := range routes {
		want = append(want, fmt.Sprintf("unicast %s via %s dev eth0", w.Subnet, w.Gateway))
	}
	slices.Sort(want)
	deadline := time.Now().Add(10 * time.Second)
	for {
		r.reach(netlinkx.RouteInstalled, routes...)
		var got []string
		for _, line := range append(n.routes("proto 104"), n.routes6("proto 104")...) {
			got = append(got, strings.Join(strings.Fields(line)[:min(6, len(strings.Fields(line)))], " "))
		}
		slices.Sort(got)
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("the kernel holds %d routes, not the %d wanted; stats %+v", len(got), len(want), r.counts())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestUplinkMadeAgain(t *testing.T) {
	n := newNamespace(t)
	ours := []netlinkx.Route{route("10.5.1.0/24", "192.0.2.7"), route("fd99:0:0:4b::/64", "2001:db8::7")}
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
	r.Set(netlinkx.Wanted{Networks: networks, Routes: ours})
	r.reach(netlinkx.RouteInstalled, ours...)
	before := r.uplink.Index

	n.ip("link del eth0")
	r.reach(netlinkx.RouteFailed, ours...)
	r.until("the uplink is gone", func() bool { return r.uplink.Index == 0 && r.uplink.Name == "eth0" })
	n.addUplink()
	r.reach(netlinkx.RouteInstalled, ours...)
	r.until("the uplink is back", func() bool {
		return r.uplink.Index > before && r.uplink.Up && r.uplink.IPv4 == netip.MustParseAddr("192.0.2.1") && len(r.uplink.Addrs) >= 2
	})
	n.settled(r, ours)

	// Another interface takes over the name while the old one still has routes.
	n.ip("link set eth0 name old0")
	r.until("the uplink is gone", func() bool { return r.uplink.Index == 0 })
	n.ip("address del 192.0.2.1/24 dev old0")
	n.ip("address del 2001:db8::1/64 dev old0")
	n.ip("link set wire0 name wire9")
	n.addUplink()
	r.reach(netlinkx.RouteInstalled, ours...)
	n.settled(r, ours)
	for _, line := range n.routes("exact 10.5.1.0/24") {
		if !strings.Contains(line, "dev eth0") {
			t.Error(line)
		}
	}
}

func TestUplinkComesLate(t *testing.T) {
	n := newNamespace(t)
	n.ip("link del eth0")
	ours := route("10.5.1.0/24", "192.0.2.7")
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
	r.Set(netlinkx.Wanted{Networks: networks, Routes: []netlinkx.Route{ours}})
	r.reach(netlinkx.RouteFailed, ours)
	n.addUplink()
	r.reach(netlinkx.RouteInstalled, ours)
}

func TestAddressRemovedAndBack(t *testing.T) {
	n := newNamespace(t)
	ours := route("10.5.1.0/24", "192.0.2.7")
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
	r.Set(netlinkx.Wanted{Networks: networks, Routes: []netlinkx.Route{ours}})
	r.reach(netlinkx.RouteInstalled, ours)
	n.ip("address del 192.0.2.1/24 dev eth0")
	r.reach(netlinkx.RouteFailed, ours)
	var refused *netlinkx.RefusedError
	err := r.status(ours.Subnet).Err
	if !errors.As(err, &refused) || refused.Reason != "Nexthop has invalid gateway" || !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("the reason is %v", err)
	}
	n.ip("address add 192.0.2.1/24 dev eth0")
	r.reach(netlinkx.RouteInstalled, ours)

	// What makes a gateway reachable need not be an address.
	far := route("10.5.2.0/24", "198.51.100.7")
	r.Change([]netlinkx.Route{far}, nil)
	r.reach(netlinkx.RouteFailed, far)
	n.ip("route add 198.51.100.7/32 dev eth0")
	r.reach(netlinkx.RouteInstalled, far)
	if s := r.counts(); s.Found != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestPreferredSource(t *testing.T) {
	n := newNamespace(t)
	n.ip("address add 192.0.2.50/32 dev eth0")
	n.ip("address add 2001:db8::50/128 dev eth0 nodad")
	ours := []netlinkx.Route{route("10.5.1.0/24", "192.0.2.7"), route("fd99:0:0:4b::/64", "2001:db8::7")}
	r := start(t, netlinkx.Config{
		Uplink: n.uplink(), Dial: n.Dial,
		Source: netip.MustParseAddr("192.0.2.50"), SourceV6: netip.MustParseAddr("2001:db8::50"),
	})
	w := netlinkx.Wanted{Networks: networks, Routes: ours}
	r.Set(w)
	r.reach(netlinkx.RouteInstalled, ours...)
	expect(t, n.routes("exact 10.5.1.0/24"), "unicast 10.5.1.0/24 via 192.0.2.7 dev eth0 proto 104 scope global src 192.0.2.50")
	expect(t, n.routes6("exact fd99:0:0:4b::/64"), "unicast fd99:0:0:4b::/64 via 2001:db8::7 dev eth0 proto 104 scope global src 2001:db8::50 metric 1024 pref medium")
	// Without the address the kernel drops the IPv4 route and does not say so.
	n.ip("address del 192.0.2.50/32 dev eth0")
	r.reach(netlinkx.RouteFailed, ours[0])
	n.ip("address add 192.0.2.50/32 dev eth0")
	r.reach(netlinkx.RouteInstalled, ours...)
	n.settled(r, ours)
	r.stop()

	// Another config changes the routes in place.
	m := n.monitor()
	r = start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
	r.Set(w)
	r.reach(netlinkx.RouteInstalled, ours...)
	expect(t, m.heard(), "replace 10.5.1.0/24 via 192.0.2.7", "replace fd99:0:0:4b::/64 via 2001:db8::7")
	expect(t, n.routes("exact 10.5.1.0/24"), "unicast 10.5.1.0/24 via 192.0.2.7 dev eth0 proto 104 scope global")
	expect(t, n.routes6("exact fd99:0:0:4b::/64"), "unicast fd99:0:0:4b::/64 via 2001:db8::7 dev eth0 proto 104 scope global metric 1024 pref medium")
}

func TestOnLinkGateways(t *testing.T) {
	n := newNamespace(t)
	n.ip("address flush dev eth0 scope global")
	n.ip("address add 198.51.100.1/32 dev eth0")
	ours := []netlinkx.Route{route("10.5.1.0/24", "198.51.100.7"), route("fd99:0:0:4b::/64", "2001:db8:1::7")}
	w := netlinkx.Wanted{Networks: networks, Routes: ours}
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
	r.Set(w)
	r.reach(netlinkx.RouteFailed, ours...)
	r.stop()
	config := netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial, OnLink: true}
	r = start(t, config)
	r.Set(w)
	r.reach(netlinkx.RouteInstalled, ours...)
	expect(t, n.routes("exact 10.5.1.0/24"), "unicast 10.5.1.0/24 via 198.51.100.7 dev eth0 proto 104 scope global onlink")
	r.stop()
	m := n.monitor()
	r = start(t, config)
	r.Set(w)
	r.reach(netlinkx.RouteInstalled, ours...)
	expect(t, m.heard())
}

func TestOtherTableProtocolAndMetric(t *testing.T) {
	for _, table := range []uint32{100, 1000} {
		n := newNamespace(t)
		ours := []netlinkx.Route{route("10.5.1.0/24", "192.0.2.7"), route("fd99:0:0:4b::/64", "2001:db8::7")}
		n.ip("route add 10.5.1.0/24 via 192.0.2.200 proto static") // in main: no matter
		config := netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial, Table: table, Protocol: 77, Metric: 70}
		w := netlinkx.Wanted{Networks: networks, Routes: ours}
		r := start(t, config)
		r.Set(w)
		r.reach(netlinkx.RouteInstalled, ours...)
		in := fmt.Sprint("table ", table)
		expect(t, n.routes(in), "unicast 10.5.1.0/24 via 192.0.2.7 dev eth0 proto 77 scope global metric 70")
		n.ip("route del 10.5.1.0/24 metric 70 " + in)
		r.until("it is repaired", func() bool { return r.stats.Repaired == 1 })
		n.ip("-6 route del fd99:0:0:4b::/64 " + in)
		r.until("both are repaired", func() bool { return r.stats.Repaired == 2 })
		r.stop()
		m := n.monitor()
		r = start(t, config)
		r.Set(w)
		r.reach(netlinkx.RouteInstalled, ours...)
		expect(t, m.heard())
		r.stop()

		// A higher metric moves the routes without a gap.
		config.Metric = 5000
		r = start(t, config)
		r.Set(w)
		r.until("the old ones are removed", func() bool { return r.stats.Removed == 2 })
		got := m.heard()
		expect(t, got, "add 10.5.1.0/24 via 192.0.2.7", "add fd99:0:0:4b::/64 via 2001:db8::7",
			"delete 10.5.1.0/24 via 192.0.2.7", "delete fd99:0:0:4b::/64 via 2001:db8::7")
		r.stop()

		removed, err := netlinkx.Cleanup(t.Context(), netlinkx.Config{Protocol: 77, Dial: n.Dial})
		if err != nil || removed != 2 {
			t.Errorf("Cleanup removed %d: %v", removed, err)
		}
		if got := m.heard(); len(got) != 2 {
			t.Errorf("events of Cleanup: %q", got)
		}
	}
}

func TestMetricsSpread(t *testing.T) {
	n := newNamespace(t)
	n.wide()
	routes := manyRoutes(2500)
	config := netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial, Metric: 10}
	r := start(t, config)
	// What comes first is plain.
	r.Set(netlinkx.Wanted{Networks: networks, Routes: routes[:300]})
	r.reach(netlinkx.RouteInstalled, routes[:300]...)
	r.Set(netlinkx.Wanted{Networks: networks, Routes: routes})
	r.reach(netlinkx.RouteInstalled, routes...)
	count := map[string]int{}
	for _, line := range n.routes("proto 104") {
		_, metric, _ := strings.Cut(line, "metric ")
		count[metric]++
	}
	want := map[string]int{"10": netlinkx.PlainRoutes}
	for i, left := 11, 2500-netlinkx.PlainRoutes; left > 0; i++ {
		want[fmt.Sprint(i)] = min(left, netlinkx.FurtherRoutes)
		left -= netlinkx.FurtherRoutes
	}
	if fmt.Sprint(count) != fmt.Sprint(want) {
		t.Errorf("routes by metric: %v\nwant %v", count, want)
	}

	// A foreign route of whatever metric is a conflict.
	n.ip(fmt.Sprintf("route add %s via 192.0.2.200 proto static metric 3", routes[2000].Subnet))
	r.reach(netlinkx.RouteConflict, routes[2000])
	n.ip(fmt.Sprintf("route del %s via 192.0.2.200 proto static metric 3", routes[2000].Subnet))
	r.reach(netlinkx.RouteInstalled, routes...)

	// Room is used again.
	r.Change(nil, []netip.Prefix{routes[0].Subnet})
	r.until("one is removed", func() bool { return r.stats.Removed == 1 })
	r.Change([]netlinkx.Route{routes[0]}, nil)
	r.until("it is added", func() bool { return r.stats.Added == 2501 })
	expect(t, n.routes("exact "+routes[0].Subnet.String()), fmt.Sprintf("unicast %s via %s dev eth0 proto 104 scope global metric 10", routes[0].Subnet, routes[0].Gateway))
}

func TestInvariant6OneBadOfAThousand(t *testing.T) {
	n := newNamespace(t)
	n.wide()
	routes := manyRoutes(1000)
	bad := []int{0, 255, 256, 500, 999} // also the last of a batch
	w := slices.Clone(routes)
	for _, i := range bad {
		w[i].Gateway = netip.MustParseAddr("203.0.113.9")
	}
	invalid := []netlinkx.Route{
		{Subnet: netip.MustParsePrefix("10.250.0.7/24"), Gateway: netip.MustParseAddr("192.0.2.7")},
		{Subnet: netip.MustParsePrefix("10.251.0.0/24"), Gateway: netip.MustParseAddr("2001:db8::7")},
		{Subnet: netip.MustParsePrefix("10.252.0.0/24")},
		{Subnet: netip.MustParsePrefix("10.253.0.0/24"), Gateway: netip.MustParseAddr("224.0.0.1")},
		{Subnet: netip.MustParsePrefix("::ffff:10.254.0.0/120"), Gateway: netip.MustParseAddr("192.0.2.7")},
		{Gateway: netip.MustParseAddr("192.0.2.7")},
	}
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
	r.Set(netlinkx.Wanted{Networks: networks, Routes: append(slices.Clone(w), invalid...)})
	r.reach(netlinkx.RouteFailed, invalid...)
	for i := range w {
		if slices.Contains(bad, i) {
			r.reach(netlinkx.RouteFailed, w[i])
			if err := r.status(w[i].Subnet).Err; err == nil || !strings.Contains(err.Error(), "Nexthop has invalid gateway") {
				t.Errorf("the reason is %v", err)
			}
		} else {
			r.reach(netlinkx.RouteInstalled, w[i])
		}
	}
	for _, v := range invalid {
		var why *netlinkx.InvalidRouteError
		if err := r.status(v.Subnet).Err; !errors.As(err, &why) {
			t.Errorf("%v: %v", v, err)
		}
	}
	if got := len(n.routes("proto 104")); got != 995 {
		t.Errorf("the kernel holds %d routes", got)
	}
	// They heal by themselves.
	n.ip("address add 203.0.113.1/24 dev eth0")
	r.reach(netlinkx.RouteInstalled, w...)
}

// All requests refused at once must not overrun the request socket.
func TestManyRefusals(t *testing.T) {
	n := newNamespace(t)
	routes := manyRoutes(2000) // without n.wide(): no gateway is on-link
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
	r.Set(netlinkx.Wanted{Networks: networks, Routes: routes})
	r.reach(netlinkx.RouteFailed, routes...)
	if s := r.counts(); s.Failed != 2000 || s.Looks != 1 {
		t.Errorf("stats %+v", s)
	}
	// Nothing is tried again while nothing changes; then all is.
	n.wide()
	r.reach(netlinkx.RouteInstalled, routes...)
	if s := r.counts(); s.Added != 2000 {
		t.Errorf("stats %+v", s)
	}
}

// sockets remembers what it dialled, to do things to the sockets of a Programmer.
type sockets struct {
	n *namespace
	sync.Mutex
	requests, events *netlink.Conn
}

func (s *sockets) Dial(groups ...uint32) (*netlink.Conn, error) {
	c, err := s.n.Dial(groups...)
	s.Lock()
	defer s.Unlock()
	if len(groups) > 0 {
		s.events = c
	} else {
		s.requests = c
	}
	return c, err
}

func TestAnswersLost(t *testing.T) {
	n := newNamespace(t)
	s := &sockets{n: n}
	routes := manyRoutes(1000)
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: s.Dial})
	r.until("it runs", func() bool { return r.uplink != nil })
	if err := s.requests.SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	good := route("10.5.1.0/24", "192.0.2.7")
	// With refusals of all but one, most answers are lost.
	r.Set(netlinkx.Wanted{Networks: networks, Routes: append(routes, good)})
	r.reach(netlinkx.RouteFailed, routes...)
	r.reach(netlinkx.RouteInstalled, good)
	if got := len(n.routes("proto 104")); got != 1 {
		t.Errorf("the kernel holds %d routes", got)
	}
}

func TestOverrun(t *testing.T) {
	n := newNamespace(t)
	s := &sockets{n: n}
	ours := []netlinkx.Route{route("10.5.1.0/24", "192.0.2.7"), route("fd99:0:0:4b::/64", "2001:db8::7")}
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: s.Dial})
	r.Set(netlinkx.Wanted{Networks: networks, Routes: ours})
	r.reach(netlinkx.RouteInstalled, ours...)
	if err := s.events.SetReadBuffer(1); err != nil {
		t.Fatal(err)
	}
	var flood []string
	for i := range 2000 {
		flood = append(flood, fmt.Sprintf("route add blackhole 203.0.%d.%d/32", 113+i>>8, i&255))
	}
	flood = append(flood, "route del 10.5.1.0/24", "route del fd99:0:0:4b::/64")
	n.batch(flood...)
	r.until("the overrun is noticed", func() bool { return r.stats.Overruns > 0 })
	n.settled(r, ours)
	r.until("they are repaired", func() bool { return r.stats.Repaired == 2 })
	if s := r.counts(); s.Looks < 2 || s.Found != 0 {
		t.Errorf("stats %+v", s)
	}
}

// A periodic look finds nothing while events tell everything, however much goes
// on around it.
func TestResyncFindsNothing(t *testing.T) {
	n := newNamespace(t)
	n.wide()
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial, Resync: 3 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	n.churn(r)
	looks := r.counts().Looks
	r.until("it has looked some more", func() bool { return r.stats.Looks > looks+10 })
	if s := r.counts(); s.Found != 0 || s.Repaired == 0 {
		t.Errorf("stats %+v", s)
	}
}

// Events alone lead to the same end.
func TestChurnWithoutResync(t *testing.T) {
	n := newNamespace(t)
	n.wide()
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial, Resync: -1, Logger: slog.New(slog.DiscardHandler)})
	n.churn(r)
	t.Logf("%+v", r.counts())
}

// churn lets ip delete, replace and add routes and flap the link while r is told
// to change others, and waits until all is as r was last told.
func (n *namespace) churn(r *running) {
	t := n.t
	t.Helper()
	routes := manyRoutes(500)
	r.Set(netlinkx.Wanted{Networks: networks, Routes: routes})
	r.reach(netlinkx.RouteInstalled, routes...)
	var commands []string
	for i := range 1000 {
		commands = append(commands,
			"route del "+routes[i%100].Subnet.String(),
			fmt.Sprintf("route replace %s via 192.0.2.9 proto 104", routes[100+i%50].Subnet),
			fmt.Sprintf("route add 10.99.%d.0/24 via 192.0.2.9 proto static", i%256),
			fmt.Sprintf("route del 10.99.%d.0/24 via 192.0.2.9 proto static", i%256),
			fmt.Sprintf("route add %s via 192.0.2.9 proto static metric 3", routes[200+i%200].Subnet),
			fmt.Sprintf("route del %s via 192.0.2.9 proto static metric 3", routes[200+i%200].Subnet),
		)
		switch {
		case i%100 == 50:
			commands = append(commands, "link set eth0 down", "link set eth0 up")
		case i%100 == 70:
			commands = append(commands, "address del 172.16.0.1/12 dev eth0", "address add 172.16.0.1/12 dev eth0")
		}
	}
	var wait sync.WaitGroup
	var stop atomic.Bool
	wait.Go(func() {
		for i := 0; !stop.Load(); i++ {
			r.Change([]netlinkx.Route{{Subnet: routes[200+i%100].Subnet, Gateway: routes[i%200].Gateway}}, nil)
			r.Change(nil, []netip.Prefix{routes[300+i%100].Subnet})
			time.Sleep(100 * time.Microsecond)
			r.Change([]netlinkx.Route{routes[300+i%100]}, nil)
		}
	})
	// A route that is away when ip wants to delete it is no error here.
	if _, err := n.try(strings.Join(commands, "\n"), "-force", "-batch", "-"); err != nil && !strings.Contains(err.Error(), "exit status 1") {
		t.Error(err)
	}
	stop.Store(true)
	wait.Wait()
	r.Set(netlinkx.Wanted{Networks: networks, Routes: routes})
	n.settled(r, routes)
}

// A periodic look finds what no event has told.
func TestResyncFinds(t *testing.T) {
	n := newNamespace(t)
	s := &sockets{n: n}
	ours := []netlinkx.Route{route("10.5.1.0/24", "192.0.2.7"), route("10.5.2.0/24", "192.0.2.7")}
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: s.Dial, Resync: 10 * time.Millisecond})
	r.Set(netlinkx.Wanted{Networks: networks, Routes: ours})
	r.reach(netlinkx.RouteInstalled, ours...)
	if err := s.events.LeaveGroup(unix.RTNLGRP_IPV4_ROUTE); err != nil {
		t.Fatal(err)
	}
	n.ip("route del 10.5.1.0/24")
	r.until("it is repaired", func() bool { return r.stats.Repaired == 1 })
	n.settled(r, ours)
	if s := r.counts(); s.Found != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestPlanAndCleanup(t *testing.T) {
	n := newNamespace(t)
	config := netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial}
	r := start(t, config)
	first := []netlinkx.Route{route("10.5.1.0/24", "192.0.2.7"), route("10.5.2.0/24", "192.0.2.7"), route("10.5.3.0/24", "192.0.2.7")}
	r.Set(netlinkx.Wanted{Networks: networks, Routes: first})
	r.reach(netlinkx.RouteInstalled, first...)
	r.stop()
	n.ip("route add 10.5.4.0/24 via 192.0.2.200 proto static")
	n.ip("route add 10.5.5.0/24 via 192.0.2.200")
	w := netlinkx.Wanted{Networks: networks, Routes: []netlinkx.Route{
		first[0], route("10.5.2.0/24", "192.0.2.8"), route("10.5.4.0/24", "192.0.2.7"), route("10.5.5.0/24", "192.0.2.7"), route("fd99:0:0:4b::/64", "2001:db8::7"),
	}}
	m := n.monitor()
	plan, err := netlinkx.Plan(t.Context(), config, w)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, m.heard())
	var got []string
	for _, c := range plan {
		got = append(got, fmt.Sprint(c.Kind, " ", c.Route.Subnet, " ", c.Route.Gateway, " ", c.Before, " ", c.TakeOver, " ", c.Err != nil))
	}
	expect(t, got,
		"replace 10.5.2.0/24 192.0.2.8 192.0.2.7 false false",
		"remove 10.5.3.0/24 192.0.2.7 invalid IP false false",
		"nothing 10.5.4.0/24 192.0.2.7 invalid IP false true",
		"replace 10.5.5.0/24 192.0.2.7 192.0.2.200 true false",
		"add fd99:0:0:4b::/64 2001:db8::7 invalid IP false false",
	)
	r = start(t, config)
	r.Set(w)
	r.reach(netlinkx.RouteInstalled, w.Routes[0], w.Routes[1], w.Routes[3], w.Routes[4])
	r.until("one is removed", func() bool { return r.stats.Removed == 1 })
	plan, err = netlinkx.Plan(t.Context(), config, w)
	if err != nil || len(plan) != 1 || plan[0].Kind != netlinkx.ChangeNothing {
		t.Errorf("after the start the plan is %v: %v", plan, err)
	}
	r.stop()
	removed, err := netlinkx.Cleanup(t.Context(), netlinkx.Config{Dial: n.Dial})
	if err != nil || removed != 4 {
		t.Errorf("Cleanup removed %d: %v", removed, err)
	}
	expect(t, n.routes("root 10.0.0.0/8"), "unicast 10.5.4.0/24 via 192.0.2.200 dev eth0 proto static scope global")
}
