package netlinkx

import (
	"net/netip"
	"testing"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// What is written by hand reads as meant, by hand and by rtnetlink.
func TestRouteMessage(t *testing.T) {
	full := held("10.5.1.0/24 192.0.2.7", at(70000))
	full.source, full.onlink = netip.MustParseAddr("192.0.2.1"), true
	full6 := held("fd99:0:0:1::/64 2001:db8::7")
	full6.source, full6.onlink = netip.MustParseAddr("2001:db8::1"), true
	for _, r := range []kernelRoute{held("10.5.1.0/24 192.0.2.7"), held("0.0.0.0/0 192.0.2.7"), held("::/0 2001:db8::7"), full, full6} {
		for _, table := range []uint32{254, 100000} {
			b := appendRoute(nil, r, table, false)
			got, more, in, err := decodeRoute(b)
			if err != nil || got != r || in != table || more != nil {
				t.Errorf("%+v in table %d reads as %+v in table %d: %v", r, table, got, in, err)
			}
			var m rtnetlink.RouteMessage
			if err := m.UnmarshalBinary(b); err != nil {
				t.Fatal(err)
			}
			gw, _ := netip.AddrFromSlice(m.Attributes.Gateway)
			if int(m.DstLength) != r.subnet.Bits() || gw != r.gateway || m.Attributes.OutIface != r.index ||
				m.Attributes.Priority != r.metric || m.Protocol != r.protocol || m.Type != r.kind {
				t.Errorf("rtnetlink reads %+v as %+v", r, m)
			}
		}
	}
}

// IPv6 next hops are routes of their own.
func TestRouteMessageNextHops(t *testing.T) {
	m := rtnetlink.RouteMessage{
		Family: unix.AF_INET6, DstLength: 64, Table: 254, Protocol: 104, Type: 1,
		Attributes: rtnetlink.RouteAttributes{
			Dst: netip.MustParseAddr("fd99:0:0:1::").AsSlice(), Priority: 1024,
			Multipath: []rtnetlink.NextHop{
				{Hop: rtnetlink.RTNextHop{IfIndex: 2}, Gateway: netip.MustParseAddr("2001:db8::7").AsSlice()},
				{Hop: rtnetlink.RTNextHop{IfIndex: 3}, Gateway: netip.MustParseAddr("2001:db8::8").AsSlice()},
			},
		},
	}
	b, err := m.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	r, more, _, err := decodeRoute(b)
	if err != nil || r.plain || len(more) != 2 ||
		more[0] != held("fd99:0:0:1::/64 2001:db8::7") || more[1] != held("fd99:0:0:1::/64 2001:db8::8", through(3)) {
		t.Errorf("read as %+v, %+v: %v", r, more, err)
	}
}

func FuzzDecodeRoute(f *testing.F) {
	f.Add(appendRoute(nil, held("10.5.1.0/24 192.0.2.7"), 254, false))
	f.Add(appendRoute(nil, held("fd99:0:0:1::/64 2001:db8::7"), 1000, false))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, more, table, err := decodeRoute(b)
		if err != nil {
			return
		}
		for _, r := range append(more, r) {
			if !r.subnet.IsValid() || r.subnet != r.subnet.Masked() {
				t.Fatalf("subnet %v", r.subnet)
			}
			if r.gateway.IsValid() && r.gateway.Is4() != r.subnet.Addr().Is4() {
				t.Fatalf("subnet %v, gateway %v", r.subnet, r.gateway)
			}
		}
		if len(more) > 0 || !r.plain {
			return
		}
		// What has been read and can be written reads the same again.
		again, _, in, err := decodeRoute(appendRoute(nil, r, table, false))
		if r.metric == 0 || r.index == 0 || table == 0 || err != nil {
			return
		}
		if again != r || in != table {
			t.Fatalf("%+v in table %d reads as %+v in table %d", r, table, again, in)
		}
	})
}

func FuzzDecodeLinkAndAddress(f *testing.F) {
	link := rtnetlink.LinkMessage{Index: 2, Flags: 1, Attributes: &rtnetlink.LinkAttributes{Name: "eth0", MTU: 1500}}
	b, err := link.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	if k, err := decodeLinkInfo(b); err != nil || k != (linkInfo{index: 2, name: "eth0", mtu: 1500, up: true}) {
		f.Fatalf("%+v: %v", k, err)
	}
	f.Add(b)
	address := rtnetlink.AddressMessage{Family: unix.AF_INET, PrefixLength: 24, Index: 2, Attributes: &rtnetlink.AddressAttributes{
		Address: netip.MustParseAddr("192.0.2.2").AsSlice(), Local: netip.MustParseAddr("192.0.2.1").AsSlice(),
	}}
	if b, err = address.MarshalBinary(); err != nil {
		f.Fatal(err)
	}
	want := addressInfo{index: 2, prefix: netip.MustParsePrefix("192.0.2.1/32"), remote: netip.MustParsePrefix("192.0.2.0/24")}
	if a, err := decodeAddressInfo(b); err != nil || a != want {
		f.Fatalf("%+v: %v", a, err)
	}
	f.Add(b)
	// A port leaving a bridge is told with the port's index, and is not its end.
	if b, err = link.MarshalBinary(); err != nil {
		f.Fatal(err)
	}
	b[0] = unix.AF_BRIDGE
	if k, err := decodeLinkInfo(b); err == nil {
		f.Fatalf("a bridge's message reads as %+v", k)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeLinkInfo(b)
		if a, err := decodeAddressInfo(b); err == nil && !a.prefix.IsValid() {
			t.Fatalf("%+v", a)
		}
	})
}

// Whatever a socket delivers, events are only what concerns us.
func TestListenerSkips(t *testing.T) {
	l := &listener{own: 7, table: 254}
	message := func(r kernelRoute, table uint32, edit func(*netlink.Message)) netlink.Message {
		m := netlink.Message{Header: netlink.Header{Type: unix.RTM_NEWROUTE}, Data: appendRoute(nil, r, table, false)}
		if edit != nil {
			edit(&m)
		}
		return m
	}
	ours, foreign := held("10.5.1.0/24 192.0.2.7"), held("10.5.1.0/24 192.0.2.7", of(4))
	if _, ok := l.decode(message(ours, 254, nil)); ok {
		t.Error("an event from before the first Set is passed on")
	}
	l.scope.Store(&scope{protocol: 104, networks: testWanted().Networks})
	elsewhere := held("172.16.1.0/24 192.0.2.7")
	for _, c := range []struct {
		what string
		m    netlink.Message
		want bool
	}{
		{"ours", message(ours, 254, nil), true},
		{"ours elsewhere", message(elsewhere, 254, nil), true},
		{"foreign", message(foreign, 254, nil), true},
		{"foreign elsewhere", message(held("172.16.1.0/24 192.0.2.7", of(4)), 254, nil), false},
		{"ours in another table", message(ours, 100, nil), false},
		{"ours in a table of a large number", message(ours, 1000, nil), false},
		{"our own echo", message(ours, 254, func(m *netlink.Message) { m.Header.PID = 7 }), false},
		{"cached", message(ours, 254, func(m *netlink.Message) { m.Data[9] = unix.RTM_F_CLONED >> 8 }), false},
		{"cut off", message(ours, 254, func(m *netlink.Message) { m.Data = m.Data[:11] }), false},
		{"wrong type", message(ours, 254, func(m *netlink.Message) { m.Header.Type = unix.RTM_NEWRULE }), false},
		{"on-link elsewhere", message(kernelRoute{subnet: netip.MustParsePrefix("198.51.100.0/24"), index: 2, protocol: 4, kind: routeUnicast}, 254, nil), true},
	} {
		if _, ok := l.decode(c.m); ok != c.want {
			t.Errorf("%s: passed on %v, want %v", c.what, ok, c.want)
		}
	}
}

// BenchmarkForeignChurn is what another router's events cost us each.
func BenchmarkForeignChurn(b *testing.B) {
	l := &listener{own: 7, table: 254}
	l.scope.Store(&scope{protocol: 104, networks: testWanted().Networks})
	m := netlink.Message{
		Header: netlink.Header{Type: unix.RTM_NEWROUTE},
		Data:   appendRoute(nil, held("203.0.113.0/24 192.0.2.7", of(186)), 254, false),
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := l.decode(m); ok {
			b.Fatal("it concerns us")
		}
	}
}
