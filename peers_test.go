package hostgw

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/subnet"
)

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// A peer that changes its address is one changed route, never a removal.
func TestPeerTableChangesGateway(t *testing.T) {
	table := newPeerTable()
	table.policy = testPolicy()
	table.update([]subnet.Record{lease4("192.168.6.192/26", "172.17.42.41", 1)}, nil, testTime)
	table.delta()
	moved := lease4("192.168.6.192/26", "172.17.42.77", 1)
	moved.Modified = 2
	table.update([]subnet.Record{moved}, nil, testTime)
	put, remove := table.delta()
	want := netlinkx.Route{Subnet: prefix("192.168.6.192/26"), Gateway: addr("172.17.42.77")}
	if len(put) != 1 || put[0] != want || len(remove) != 0 {
		t.Errorf("delta = %v, %v; want only %v put", put, remove, want)
	}
}

// A peer that a snapshot lacks keeps its route while it is held, gives way to a
// living peer that now has its addresses, and goes when the time is over.
func TestPeerTableHold(t *testing.T) {
	table := newPeerTable()
	table.policy = testPolicy()
	a, b := lease4("192.168.6.0/26", "172.17.42.41", 1), lease4("192.168.6.64/26", "172.17.42.42", 2)
	table.update([]subnet.Record{a, b}, nil, testTime)
	table.delta()

	if missing, gone := table.miss(nil, testTime); len(gone) != 0 || len(missing) != 2 {
		t.Errorf("peers with routes went at once: %v; %d are missing", gone, len(missing))
	}
	heir := lease4("192.168.6.0/25", "172.17.42.43", 99)
	table.update([]subnet.Record{heir}, nil, testTime)
	put, remove := table.delta()
	if len(put) != 1 || put[0].Gateway != addr("172.17.42.43") || len(remove) != 2 {
		t.Errorf("delta = %v, %v; want the heir's route for those of the missing", put, remove)
	}
	if names, next := table.expired(testTime.Add(-time.Second)); len(names) != 0 || !next.Equal(testTime) {
		t.Errorf("before the time: expired %v, next %v", names, next)
	}
	if names, _ := table.expired(testTime); len(names) != 2 {
		t.Errorf("after the time: expired %v, want both", names)
	}
	table.update([]subnet.Record{a}, []string{heir.Name}, testTime)
	if put, _ := table.delta(); len(put) != 2 {
		t.Errorf("a is back and b still held: put %v, want both routes", put)
	}
}

// A snapshot that says nothing new changes nothing and wakes nobody.
func TestPeerTableSameSnapshot(t *testing.T) {
	table := newPeerTable()
	table.policy = testPolicy()
	rs := []subnet.Record{lease4("192.168.6.0/26", "172.17.42.41", 1), lease4("9.9.9.0/24", "172.17.42.42", 2)}
	table.update(rs, nil, testTime)
	table.delta()
	if touched := table.update(rs, nil, testTime); len(touched) != 0 {
		t.Errorf("touched %d peers", len(touched))
	}
	if put, remove := table.delta(); len(put)+len(remove) != 0 {
		t.Errorf("delta = %v, %v", put, remove)
	}
}

func TestPeerTableCounts(t *testing.T) {
	table := newPeerTable()
	table.policy = testPolicy()
	var rs []subnet.Record
	for i, gateway := range []string{"172.17.42.41", "172.17.42.42", "172.17.42.43", "172.17.42.44"} {
		rs = append(rs, lease4(fmt.Sprintf("192.168.6.%d/26", 64*i), gateway, int64(i)))
	}
	half := lease4("192.168.9.0/26", "172.17.42.45", 9) // its other family is refused
	half.Lease.Key.IPv6, half.Lease.Holder.PublicIPv6 = prefix("2001:db8::/64"), addr("fd00:17:42::45")
	half.Name = half.Lease.Key.String()
	table.update(append(rs, half), nil, testTime)
	table.delta()
	for i, s := range []netlinkx.RouteState{netlinkx.RouteInstalled, netlinkx.RouteInstalled, netlinkx.RouteFailed, netlinkx.RouteConflict} {
		r := netlinkx.Route{Subnet: rs[i].Lease.Key.IPv4, Gateway: rs[i].Lease.Holder.PublicIP}
		if table.report(netlinkx.RouteStatus{Route: r, State: s}) == nil {
			t.Fatalf("%v is not wanted", r)
		}
	}
	table.miss(map[string]struct{}{rs[0].Name: {}, rs[2].Name: {}, rs[3].Name: {}, half.Name: {}}, testTime)
	want := Counts{Peers: 5, Installed: 2, Failed: 1, Conflict: 1, Pending: 1, Refused: 1, Missing: 1}
	if got := table.count(); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

func manyLeases(n int) []subnet.Record {
	rs := make([]subnet.Record, n)
	for i := range rs {
		s := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		g := netip.AddrFrom4([4]byte{172, 16 + byte(i>>16), byte(i >> 8), byte(i)})
		rs[i] = subnet.Record{
			Name:    fmt.Sprintf("10.%d.%d.0-24", byte(i>>8), byte(i)),
			Lease:   subnet.Lease{Key: subnet.Key{IPv4: s}, Holder: subnet.Holder{PublicIP: g, BackendType: subnet.BackendType}},
			Created: int64(i + 1), Modified: int64(i + 1), Token: 1,
		}
	}
	return rs
}

func manyPolicy() Policy {
	p := testPolicy()
	p.Networks = []netip.Prefix{prefix("10.0.0.0/8")}
	p.Own = subnet.Lease{Key: subnet.Key{IPv4: prefix("10.255.0.0/24")}, Holder: testHolder("172.31.255.254", "")}
	p.Uplink.Addrs = []netip.Prefix{prefix("172.31.255.254/12")}
	p.Uplink.IPv4 = addr("172.31.255.254")
	return p
}

func BenchmarkPeerTable(b *testing.B) {
	for _, n := range []int{1000, 10000, 20000} {
		rs := manyLeases(n)
		b.Run(fmt.Sprintf("snapshot-%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				table := newPeerTable()
				table.policy = manyPolicy()
				table.update(rs, nil, testTime)
				if put, _ := table.delta(); len(put) < n-5 {
					b.Fatalf("%d routes of %d", len(put), n)
				}
			}
		})
		b.Run(fmt.Sprintf("change-in-%d", n), func(b *testing.B) {
			table := newPeerTable()
			table.policy = manyPolicy()
			table.update(rs, nil, testTime)
			table.delta()
			r := rs[n/2]
			b.ReportAllocs()
			for b.Loop() {
				r.Modified++
				table.update([]subnet.Record{r}, nil, testTime)
				table.delta()
			}
		})
	}
}
