package netlinktest_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostgw/hostgw/netlinkx/netlinktest"
	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// newUplink is a fake kernel with eth0 up, which has 10.0.0.1/24 and fd00::1/64.
func newUplink() *netlinktest.Kernel {
	k := netlinktest.New()
	k.AddLink("eth0")
	k.SetUp("eth0", true)
	k.AddAddr("eth0", netip.MustParsePrefix("10.0.0.1/24"))
	k.AddAddr("eth0", netip.MustParsePrefix("fd00::1/64"))
	return k
}

func ExampleKernel() {
	k := netlinktest.New()
	k.AddLink("eth0")
	k.SetUp("eth0", true)
	k.AddAddr("eth0", netip.MustParsePrefix("192.0.2.1/24"))

	fmt.Println(k.AddRoute(netlinktest.Route{
		Dst:     netip.MustParsePrefix("10.5.1.0/24"),
		Gateway: netip.MustParseAddr("192.0.2.2"),
	}))
	fmt.Println(k.AddRoute(netlinktest.Route{
		Dst:     netip.MustParsePrefix("10.5.2.0/24"),
		Gateway: netip.MustParseAddr("198.51.100.1"),
	}))
	k.SetCarrier("eth0", false)
	for _, r := range k.RoutesOf(3) {
		fmt.Println(r)
	}
	// Output:
	// <nil>
	// Nexthop has invalid gateway: network is unreachable
	// 10.5.1.0/24 via 192.0.2.2 dev eth0 linkdown table 254 proto 3 scope 0 type 1
}

func TestFail(t *testing.T) {
	k := newUplink()
	w := &witness{t: t, h: k, names: map[uint32]string{2: "eth0"}}
	c := w.dial()
	for _, test := range []struct {
		err  error
		want string
	}{
		{unix.ENOMEM, "ENOMEM"},
		{fmt.Errorf("wrapped: %w", unix.ENOMEM), "ENOMEM"},
		{&netlinktest.Refusal{Errno: unix.EPERM, Text: "not today"}, "EPERM: not today"},
		{errors.New("something"), "EIO: something"},
	} {
		k.Fail(func(m netlink.Message) error {
			if k.Stats().Sockets != 1 { // it may use k
				t.Errorf("%d sockets are open", k.Stats().Sockets)
			}
			if m.Header.Type == unix.RTM_NEWROUTE {
				return test.err
			}
			return nil
		})
		_, err := c.Execute(w.routeMessage(unix.RTM_NEWROUTE, create|netlink.Acknowledge, "10.1.0.0/24 via 10.0.0.2 proto 104"))
		if got := refusal(err); got != test.want {
			t.Errorf("refused with %q, want %q", got, test.want)
		}
		if r := k.RoutesOf(104); len(r) > 0 {
			t.Errorf("%v was added", r)
		}
	}
	k.Fail(nil)
	if _, err := c.Execute(w.routeMessage(unix.RTM_NEWROUTE, create|netlink.Acknowledge, "10.1.0.0/24 via 10.0.0.2 proto 104")); err != nil {
		t.Error(err)
	}
}

func TestForcedOverrun(t *testing.T) {
	k := newUplink()
	w := &witness{t: t, h: k}
	member, other := w.dial(unix.RTNLGRP_IPV4_ROUTE), w.dial()
	add := func(dst string) {
		t.Helper()
		if err := k.AddRoute(netlinktest.Route{Dst: netip.MustParsePrefix(dst), Gateway: netip.MustParseAddr("10.0.0.2")}); err != nil {
			t.Fatal(err)
		}
	}
	k.Overrun()
	add("10.1.0.0/24") // is lost
	if _, err := member.Receive(); !errors.Is(err, unix.ENOBUFS) {
		t.Fatalf("receive after the overrun: %v", err)
	}
	for _, c := range []*netlink.Conn{member, other} {
		if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Receive(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("receive with nothing to come: %v", err)
		}
	}
	if err := member.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	add("10.2.0.0/24")
	if messages, err := member.Receive(); err != nil || len(messages) != 1 {
		t.Errorf("after the overrun: %d events, %v", len(messages), err)
	}
}

func TestStats(t *testing.T) {
	k := newUplink()
	w := &witness{t: t, h: k, names: map[uint32]string{2: "eth0"}}
	c := w.dial()
	before := k.Stats()
	first, last := w.send(c,
		w.routeMessage(unix.RTM_NEWROUTE, create, "10.1.0.0/24 via 10.0.0.2"),
		w.routeMessage(unix.RTM_NEWROUTE, create, "10.2.0.0/24 via 10.0.0.2"),
		w.routeMessage(unix.RTM_DELROUTE, netlink.Acknowledge, "10.2.0.0/24"),
	)
	w.answers(c, first, last)
	w.c = c
	w.dump()
	after := k.Stats()
	got := netlinktest.Stats{
		Sends: after.Sends - before.Sends, Receives: after.Receives - before.Receives,
		Messages: after.Messages - before.Messages, NewRoutes: after.NewRoutes - before.NewRoutes,
		DelRoutes: after.DelRoutes - before.DelRoutes, Dumps: after.Dumps - before.Dumps, Sockets: after.Sockets,
	}
	// One batch, and a dump of each family.
	if want := (netlinktest.Stats{Sends: 3, Receives: 3, Messages: 5, NewRoutes: 2, DelRoutes: 1, Dumps: 2, Sockets: 1}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	c.Close()
	if n := k.Stats().Sockets; n != 0 {
		t.Errorf("%d sockets are open after close", n)
	}
}

// A socket filter keeps messages out of the queue, as on Linux.
func TestFilter(t *testing.T) {
	both(t, func(t *testing.T, w *witness) {
		c := w.dial(unix.RTNLGRP_IPV4_ROUTE)
		program, err := bpf.Assemble([]bpf.Instruction{
			bpf.LoadAbsolute{Off: 16 + 1, Size: 1}, // the prefix length in rtmsg
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: 24, SkipTrue: 1},
			bpf.RetConstant{Val: 1<<32 - 1},
			bpf.RetConstant{Val: 0},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetBPF(program); err != nil {
			t.Fatal(err)
		}
		w.do("add 10.1.0.0/24 via 10.0.0.2")
		w.do("add 10.2.0.0/25 via 10.0.0.2")
		messages, err := c.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if got := w.words(messages[0].Data); !strings.HasPrefix(got, "10.2.0.0/25") {
			t.Errorf("got %s", got)
		}
	})
}

// Waiting for a message, with or without a deadline, does not hold up a bubble's
// clock.
func TestSynctest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newUplink()
		c, err := k.Dial(unix.RTNLGRP_LINK)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := c.SetReadDeadline(start.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Receive(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Hour {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		received := make(chan int)
		go func() {
			messages, _ := c.Receive()
			received <- len(messages)
		}()
		synctest.Wait()
		k.SetUp("eth0", false)
		if n := <-received; n != 1 {
			t.Errorf("%d events", n)
		}
		ended := make(chan error)
		go func() {
			_, err := c.Receive()
			ended <- err
		}()
		synctest.Wait()
		c.Close()
		if err := <-ended; err == nil {
			t.Error("receive went on after close")
		}
	})
}

// Many tests use a kernel from several goroutines.
func TestConcurrently(t *testing.T) {
	k := newUplink()
	events := (&witness{t: t, h: k}).dial(unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_LINK)
	heard := make(chan int)
	go func() {
		n := 0
		for {
			if _, err := events.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
				heard <- n
				return
			}
			n++
		}
	}()
	done := make(chan error)
	for i := range 4 {
		w := &witness{t: t, h: k}
		c := w.dial()
		m := w.routeMessage(unix.RTM_NEWROUTE, netlink.Create|netlink.Replace|netlink.Acknowledge, fmt.Sprintf("10.%d.0.0/16 via 10.0.0.2", i+1))
		go func() {
			for range 200 {
				if _, err := c.Execute(m); err != nil && !errors.Is(err, unix.ENETUNREACH) {
					done <- err
					return
				}
				k.Routes()
			}
			done <- nil
		}()
	}
	for range 50 {
		k.SetUp("eth0", false)
		k.SetUp("eth0", true)
		k.Overrun()
		k.Links()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	events.Close()
	if n := <-heard; n == 0 {
		t.Error("no event was heard")
	}
}

func BenchmarkRoutes(b *testing.B) {
	const n = 20000
	for b.Loop() {
		k := newUplink()
		c, err := k.Dial()
		if err != nil {
			b.Fatal(err)
		}
		for i := range n {
			if err := k.AddRoute(netlinktest.Route{
				Dst:      netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 0}), 24),
				Gateway:  netip.AddrFrom4([4]byte{10, 0, 0, byte(2 + i%200)}),
				Protocol: 104,
			}); err != nil {
				b.Fatal(err)
			}
		}
		messages, err := c.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request | netlink.Dump},
			Data:   make([]byte, unix.SizeofRtMsg),
		})
		if err != nil || len(messages) < n {
			b.Fatalf("dump of %d routes: %v", len(messages), err)
		}
		k.SetUp("eth0", false)
		if left := len(k.RoutesOf(104)); left != 0 {
			b.Fatalf("%d routes left", left)
		}
		c.Close()
	}
}
