package hostgw

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/subnet"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

// testPolicy is that of host 172.17.42.40 in the network of the README.
func testPolicy() Policy {
	return Policy{
		Networks: []netip.Prefix{prefix("192.168.0.0/16"), prefix("fd99::/48")},
		Own: subnet.Lease{
			Key:    subnet.Key{IPv4: prefix("192.168.1.192/26"), IPv6: prefix("fd99:0:0:4b::/64")},
			Holder: testHolder("172.17.42.40", "fd00:17:42::40"),
		},
		Uplink: netlinkx.Uplink{
			Name: "eth0", Index: 2, MTU: 1500, Up: true, Running: true,
			Addrs: []netip.Prefix{prefix("172.17.42.40/24"), prefix("fd00:17:42::40/64"), prefix("fe80::40/64")},
			IPv4:  addr("172.17.42.40"), IPv6: addr("fd00:17:42::40"),
		},
	}
}

func testHolder(v4, v6 string) subnet.Holder {
	h := subnet.Holder{BackendType: subnet.BackendType}
	if v4 != "" {
		h.PublicIP = addr(v4)
	}
	if v6 != "" {
		h.PublicIPv6 = addr(v6)
	}
	return h
}

// lease4 is a record of an IPv4 lease.
func lease4(subnet4, gateway string, created int64) subnet.Record {
	r := subnet.Record{
		Lease:   subnet.Lease{Key: subnet.Key{IPv4: prefix(subnet4)}, Holder: testHolder(gateway, "")},
		Created: created, Modified: created, Token: 1,
	}
	r.Name = r.Lease.Key.String()
	return r
}

func TestPolicyJudge(t *testing.T) {
	with := func(change func(*subnet.Record)) subnet.Record {
		r := lease4("192.168.6.192/26", "172.17.42.41", 1)
		change(&r)
		return r
	}
	key := func(v4, v6 string) func(*subnet.Record) {
		return func(r *subnet.Record) {
			r.Lease.Key = subnet.Key{}
			r.Lease.Holder = testHolder("172.17.42.41", "fd00:17:42::41")
			if v4 != "" {
				r.Lease.Key.IPv4 = prefix(v4)
			}
			if v6 != "" {
				r.Lease.Key.IPv6 = prefix(v6)
			}
		}
	}
	gateway := func(v4 string) func(*subnet.Record) {
		return func(r *subnet.Record) { r.Lease.Holder.PublicIP = addr(v4) }
	}
	gateway6 := func(v6 string) func(*subnet.Record) {
		return func(r *subnet.Record) {
			key("", "fd99:0:0:4c::/64")(r)
			r.Lease.Holder.PublicIPv6 = addr(v6)
		}
	}
	for _, tt := range []struct {
		name   string
		record subnet.Record
		want   []Reason
	}{
		{"a peer", with(func(*subnet.Record) {}), []Reason{ReasonNone}},
		{"a dual-stack peer", with(key("192.168.6.192/26", "fd99:0:0:4c::/64")), []Reason{ReasonNone, ReasonNone}},
		{"an IPv6 peer", with(key("", "fd99:0:0:4c::/64")), []Reason{ReasonNone}},
		{"link-local next hop", with(gateway6("fe80::41")), []Reason{ReasonNone}},
		{"unreadable", with(func(r *subnet.Record) { r.Err = errors.New("not JSON") }), []Reason{ReasonUnreadable}},
		{"no subnet", with(key("", "")), []Reason{ReasonUnreadable}},
		{"host bits in a key", with(func(r *subnet.Record) { r.Err = subnet.ErrHostBits }), []Reason{ReasonHostBits}},
		{"host bits in a lease", with(key("192.168.6.193/26", "")), []Reason{ReasonHostBits}},
		{"vxlan", with(func(r *subnet.Record) { r.Lease.Holder.BackendType = "vxlan" }), []Reason{ReasonOtherBackend}},
		{"default route", with(key("0.0.0.0/0", "")), []Reason{ReasonOutsideNetwork}},
		{"IPv6 default route", with(key("", "::/0")), []Reason{ReasonOutsideNetwork}},
		{"the internet", with(key("8.8.8.0/24", "")), []Reason{ReasonOutsideNetwork}},
		{"wider than the network", with(key("192.0.0.0/8", "")), []Reason{ReasonOutsideNetwork}},
		{"one family outside", with(key("192.168.6.192/26", "2001:db8::/64")), []Reason{ReasonNone, ReasonOutsideNetwork}},
		{"the whole network", with(key("192.168.0.0/16", "")), []Reason{ReasonOverlapsOwn}},
		{"our subnet", with(key("192.168.1.192/26", "")), []Reason{ReasonOverlapsOwn}},
		{"inside our subnet", with(key("192.168.1.193/32", "")), []Reason{ReasonOverlapsOwn}},
		{"our IPv6 subnet", with(key("192.168.6.192/26", "fd99:0:0:4b::/64")), []Reason{ReasonNone, ReasonOverlapsOwn}},
		{"no gateway", with(func(r *subnet.Record) { r.Lease.Holder.PublicIP = netip.Addr{} }), []Reason{ReasonGatewayNotUnicast}},
		{"multicast gateway", with(gateway("224.0.0.1")), []Reason{ReasonGatewayNotUnicast}},
		{"broadcast gateway", with(gateway("255.255.255.255")), []Reason{ReasonGatewayNotUnicast}},
		{"loopback gateway", with(gateway("127.0.0.1")), []Reason{ReasonGatewayNotUnicast}},
		{"unspecified gateway", with(gateway("0.0.0.0")), []Reason{ReasonGatewayNotUnicast}},
		{"network address as gateway", with(gateway("172.17.42.0")), []Reason{ReasonGatewayNotUnicast}},
		{"directed broadcast as gateway", with(gateway("172.17.42.255")), []Reason{ReasonGatewayNotUnicast}},
		{"gateway of the other family", with(gateway("fd00:17:42::41")), []Reason{ReasonGatewayNotUnicast}},
		{"mapped gateway", with(gateway("::ffff:172.17.42.41")), []Reason{ReasonGatewayNotUnicast}},
		{"IPv6 multicast gateway", with(gateway6("ff02::1")), []Reason{ReasonGatewayNotUnicast}},
		{"gateway with a zone", with(gateway6("fe80::41%eth0")), []Reason{ReasonGatewayNotUnicast}},
		{"own gateway", with(gateway("172.17.42.40")), []Reason{ReasonGatewayIsOwn}},
		{"own IPv6 gateway", with(gateway6("fd00:17:42::40")), []Reason{ReasonGatewayIsOwn}},
		{"gateway elsewhere", with(gateway("10.0.0.1")), []Reason{ReasonGatewayOffLink}},
		{"IPv6 gateway elsewhere", with(gateway6("2001:db8::1")), []Reason{ReasonGatewayOffLink}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			vs := testPolicy().Judge(tt.record)
			var got []Reason
			for _, v := range vs {
				got = append(got, v.Reason)
				if (v.Reason == ReasonNone) != (v.Err == nil) {
					t.Errorf("reason %v with error %v", v.Reason, v.Err)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("Judge(%+v) = %v, want %v", tt.record, got, tt.want)
			}
		})
	}
}

func TestPolicyOverlapsUplink(t *testing.T) {
	p := testPolicy()
	p.Networks = []netip.Prefix{prefix("172.16.0.0/12")}
	for s, want := range map[string]Reason{
		"172.17.42.0/24":   ReasonOverlapsUplink,
		"172.17.42.128/25": ReasonOverlapsUplink,
		"172.17.0.0/16":    ReasonOverlapsUplink,
		"172.17.43.0/24":   ReasonNone,
	} {
		if got := p.Judge(lease4(s, "172.17.42.41", 1))[0].Reason; got != want {
			t.Errorf("subnet %s: %v, want %v", s, got, want)
		}
	}
}

func TestPolicyOnLink(t *testing.T) {
	p := testPolicy()
	p.Uplink.Addrs = []netip.Prefix{prefix("172.17.42.40/32")}
	r := lease4("192.168.6.192/26", "172.17.42.41", 1)
	if got := p.Judge(r)[0].Reason; got != ReasonGatewayOffLink {
		t.Errorf("with a /32 uplink: %v, want %v", got, ReasonGatewayOffLink)
	}
	p.OnLink = true
	if got := p.Judge(r)[0].Reason; got != ReasonNone {
		t.Errorf("with OnLink: %v, want a route", got)
	}
}

// Which of two overlapping leases wins is the same on every node: the older one,
// whatever the order they are heard of in, and a lease that is wrong in itself
// is in nobody's way.
func TestPolicyOverlapsPeer(t *testing.T) {
	older := lease4("192.168.6.0/24", "172.17.42.41", 5)
	newer := lease4("192.168.6.192/26", "172.17.42.42", 9)
	other := lease4("192.168.7.0/26", "172.17.42.43", 10)
	unsound := lease4("192.168.0.0/16", "224.0.0.1", 1)
	want := map[string]Reason{
		older.Name: ReasonNone, newer.Name: ReasonOverlapsPeer, other.Name: ReasonNone,
		unsound.Name: ReasonGatewayNotUnicast,
	}
	rs := []subnet.Record{older, newer, other, unsound}
	for range 4 {
		rs = append(rs[1:], rs[0])
		p := testPolicy()
		for _, peer := range p.Peers(rs) {
			if got := peer.Routes[0].Reason; got != want[peer.Name] {
				t.Errorf("order %v: %s gets %v, want %v", names(rs), peer.Name, got, want[peer.Name])
			}
		}
	}
}

func names(rs []subnet.Record) (ns []string) {
	for _, r := range rs {
		ns = append(ns, r.Name)
	}
	return ns
}

// FuzzPolicy builds leases out of arbitrary bytes and checks what invariant 2
// says of everything the policy lets through.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte{192, 168, 6, 192, 26, 172, 17, 42, 41}, []byte{})
	f.Add([]byte{0, 0, 0, 0, 0, 172, 17, 42, 41}, make([]byte, 33))
	f.Add([]byte{192, 168, 0, 0, 16, 172, 17, 42, 255}, append(append(addr("fd99:0:0:4b::").AsSlice(), 64), addr("fe80::1").AsSlice()...))
	f.Fuzz(func(t *testing.T, v4, v6 []byte) {
		var r subnet.Record
		r.Lease.Holder.BackendType = subnet.BackendType
		if len(v4) >= 9 {
			a := netip.AddrFrom4([4]byte(v4))
			r.Lease.Key.IPv4 = netip.PrefixFrom(a, int(v4[4])%33)
			r.Lease.Holder.PublicIP = netip.AddrFrom4([4]byte(v4[5:]))
		}
		if len(v6) >= 33 {
			a := netip.AddrFrom16([16]byte(v6))
			r.Lease.Key.IPv6 = netip.PrefixFrom(a, int(v6[16])%129)
			r.Lease.Holder.PublicIPv6 = netip.AddrFrom16([16]byte(v6[17:]))
		}
		p := testPolicy()
		for _, v := range p.Judge(r) {
			if v.Reason != ReasonNone {
				if v.Err == nil {
					t.Fatalf("%v without detail", v.Reason)
				}
				continue
			}
			s, g := v.Route.Subnet, v.Route.Gateway
			inside := false
			for _, n := range p.Networks {
				inside = inside || n.Contains(s.Addr()) && n.Bits() <= s.Bits()
			}
			onLink := false
			for _, a := range p.Uplink.Addrs {
				onLink = onLink || a.Contains(g)
				if a.Addr() == g || a.Overlaps(s) {
					t.Fatalf("%v takes something of uplink %v", v.Route, a)
				}
			}
			switch {
			case !inside, s != s.Masked(), s.Addr().Is4() != g.Is4():
				t.Fatalf("%v is not a subnet of %v", v.Route, p.Networks)
			case s.Overlaps(p.Own.Key.IPv4), s.Overlaps(p.Own.Key.IPv6):
				t.Fatalf("%v overlaps own %v", v.Route, p.Own.Key)
			case !onLink, g.IsMulticast(), g.IsUnspecified(), g.IsLoopback():
				t.Fatalf("%v has a gateway that is no peer", v.Route)
			}
		}
	})
}

// The table keeps incrementally what Policy.Peers computes from scratch:
// whatever is put and deleted in whatever order, both agree.
func FuzzPeerTable(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 250, 251, 252, 1, 1, 1, 1, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		table := newPeerTable()
		table.policy = testPolicy()
		stored := map[string]subnet.Record{}
		kernel := map[netip.Prefix]netlinkx.Route{}
		for i := 0; i+3 <= len(ops); i += 3 {
			op := binary.BigEndian.Uint16(ops[i:])
			bits := 22 + int(ops[i+2]%6)
			s, _ := netip.AddrFrom4([4]byte{192, 168, byte(op>>8) % 8, byte(op)}).Prefix(bits)
			r := lease4(s.String(), netip.AddrFrom4([4]byte{172, 17, 42, 41 + ops[i+2]%4}).String(), int64(1+i))
			if ops[i+2] >= 200 {
				delete(stored, r.Name)
				table.update(nil, []string{r.Name}, testTime)
			} else {
				stored[r.Name] = r
				table.update([]subnet.Record{r}, nil, testTime)
			}
			put, remove := table.delta()
			for _, s := range remove {
				delete(kernel, s)
			}
			for _, r := range put {
				kernel[r.Subnet] = r
			}
		}
		var all []subnet.Record
		for _, r := range stored {
			all = append(all, r)
		}
		want := map[netip.Prefix]netlinkx.Route{}
		reasons := map[string]Reason{}
		for _, p := range testPolicy().Peers(all) {
			for _, r := range p.Routes {
				reasons[p.Name] = r.Reason
				if r.Reason == ReasonNone {
					want[r.Subnet] = netlinkx.Route{Subnet: r.Subnet, Gateway: r.Gateway}
				}
			}
		}
		for _, p := range table.list() {
			if got := p.Routes[0].Reason; got != reasons[p.Name] {
				t.Errorf("%s: %v, from scratch %v", p.Name, got, reasons[p.Name])
			}
		}
		if len(kernel) != len(want) {
			t.Errorf("%d routes, from scratch %d", len(kernel), len(want))
		}
		for s, r := range want {
			if kernel[s] != r {
				t.Errorf("%s: route %v, from scratch %v", s, kernel[s], r)
			}
			for o := range want {
				if o != s && o.Overlaps(s) {
					t.Errorf("routes to %s and %s overlap", s, o)
				}
			}
		}
	})
}
