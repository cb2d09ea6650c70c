package netlinkx_test

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// monitor hears the kernel's route events, whoever causes them.
type monitor struct {
	t testing.TB
	n *namespace

	mu     sync.Mutex
	events []string
	more   chan struct{}
}

// mark is a subnet whose events say that all before them have been heard.
const mark = "203.0.113.0/24"

func (n *namespace) monitor() *monitor {
	n.t.Helper()
	c, err := n.Dial(unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := c.SetReadBuffer(16 << 20); err != nil {
		n.t.Fatal(err)
	}
	m := &monitor{t: n.t, n: n, more: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			msgs, err := c.Receive()
			if err != nil {
				return
			}
			m.hear(msgs)
		}
	}()
	n.t.Cleanup(func() {
		c.Close()
		<-done
	})
	return m
}

func (m *monitor) hear(msgs []netlink.Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, msg := range msgs {
		var r rtnetlink.RouteMessage
		if err := r.UnmarshalBinary(msg.Data); err != nil {
			m.t.Errorf("route event: %v", err)
			continue
		}
		what := "add "
		switch {
		case msg.Header.Type == unix.RTM_DELROUTE:
			what = "delete "
		case msg.Header.Flags&netlink.Replace != 0:
			what = "replace "
		}
		if r.Protocol == unix.RTPROT_KERNEL {
			continue // they come when the kernel gets round to the link's carrier and addresses
		}
		dst, _ := netip.AddrFromSlice(r.Attributes.Dst)
		what += netip.PrefixFrom(dst, int(r.DstLength)).String()
		if gw, ok := netip.AddrFromSlice(r.Attributes.Gateway); ok {
			what += " via " + gw.String()
		}
		m.events = append(m.events, what)
	}
	select {
	case m.more <- struct{}{}:
	default:
	}
}

// heard returns the events since it was last called.
func (m *monitor) heard() []string {
	m.t.Helper()
	m.n.ip("route add blackhole " + mark)
	m.n.ip("route del blackhole " + mark)
	deadline := time.After(10 * time.Second)
	for {
		m.mu.Lock()
		events := m.events
		if slices.Contains(events, "delete "+mark) {
			m.events = nil
			m.mu.Unlock()
			return slices.DeleteFunc(events, func(e string) bool { return strings.HasSuffix(e, mark) })
		}
		m.mu.Unlock()
		select {
		case <-m.more:
		case <-deadline:
			m.t.Fatalf("waited in vain for the mark after %d events", len(events))
		}
	}
}

// dumpRoutes returns all routes of all tables.
func dumpRoutes(t testing.TB, c *netlink.Conn) []rtnetlink.RouteMessage {
	t.Helper()
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, unix.SizeofRtMsg),
	})
	if err != nil {
		t.Fatal(err)
	}
	var routes []rtnetlink.RouteMessage
	for _, m := range msgs {
		var r rtnetlink.RouteMessage
		if err := r.UnmarshalBinary(m.Data); err != nil {
			t.Fatal(err)
		}
		routes = append(routes, r)
	}
	return routes
}
