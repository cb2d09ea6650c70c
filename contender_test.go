package hostgw

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/hostgw/hostgw/subnet"
)

// nthLease is the n-th lease in 10.0.0.0/8 of that length, sound and with a gateway
// of its own.
func nthLease(n, bits int) subnet.Record {
	var a, g [4]byte
	binary.BigEndian.PutUint32(a[:], 10<<24|uint32(n)<<(32-bits))
	binary.BigEndian.PutUint32(g[:], 172<<24|16<<16|uint32(n+1))
	return lease4(netip.PrefixFrom(netip.AddrFrom4(a), bits).String(), netip.AddrFrom4(g).String(), int64(n+1))
}

// sameLease is the n-th lease of one subnet of that length: the IPv6 subnet, which
// is outside the network, makes it another key.
func sameLease(n, bits int) subnet.Record {
	r := nthLease(0, bits)
	r.Lease.Key.IPv6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 14: byte(n >> 8), 15: byte(n)}), 128)
	r.Name, r.Created = r.Lease.Key.String(), int64(n+1)
	return r
}

// What a writer to the store can do to cost the most, n leases of it.
var hostile = []struct {
	name   string
	leases func(n int) []subnet.Record
}{
	{"finer", func(n int) (rs []subnet.Record) { // every length from /20 to /32
		for i := range n / 2 {
			rs = append(rs, nthLease(i, 32), nthLease(i/12, 20+i%12))
		}
		return rs
	}},
	{"same", func(n int) (rs []subnet.Record) {
		for i := range n {
			rs = append(rs, sameLease(i, 24))
		}
		return rs
	}},
	{"same above finer", func(n int) (rs []subnet.Record) {
		for i := range n / 2 {
			rs = append(rs, sameLease(i, 16), nthLease(i, 32))
		}
		return rs
	}},
}

// However leases overlap, all that can happen to n of them in one step costs some
// n, not n².
func TestPeerTableHostileCost(t *testing.T) {
	for _, h := range hostile {
		steps := func(n int) map[string]int {
			rs := h.leases(n)
			table := newPeerTable()
			table.policy = manyPolicy()
			cost := map[string]int{}
			step := func(what string, f func()) {
				table.contenders.steps = 0
				f()
				table.delta()
				cost[what] = table.contenders.steps
			}
			names := make([]string, n)
			step("put", func() { table.update(rs, nil, testTime) })
			for i := range rs {
				names[i] = rs[i].Name
				rs[i].Modified++
			}
			step("changed", func() { table.update(rs, nil, testTime) })
			step("missing", func() {
				table.miss(nil, testTime)
				table.update(nil, nil, testTime)
			})
			step("judged again", func() { table.rejudge(testTime) })
			step("deleted", func() { table.update(nil, names, testTime) })
			if len(table.peers) != 0 || table.contenders.v4 != nil || table.contenders.v6 != nil {
				t.Errorf("%s: something is left of the deleted", h.name)
			}
			return cost
		}
		few, many := steps(1000), steps(8000)
		t.Logf("%s: 1 000 leases %v, 8 000 %v", h.name, few, many)
		for what := range few {
			if many[what] > 12*few[what] { // linear is 8, quadratic 64
				t.Errorf("%s: %d steps for 1 000 leases %s, %d for 8 000", h.name, few[what], what, many[what])
			}
		}
	}
}

// What was remembered while everybody was judged is not believed afterwards.
func TestPeerTableForgetsAfterRejudge(t *testing.T) {
	table := newPeerTable()
	table.policy = manyPolicy()
	older, newer := sameLease(1, 24), sameLease(2, 24)
	table.update([]subnet.Record{older, newer}, nil, testTime)
	table.rejudge(testTime)
	table.update(nil, []string{older.Name}, testTime)
	if got := table.peers[newer.Name].routes[0].Reason; got != ReasonNone {
		t.Errorf("the older lease is gone, and the newer one's verdict is still %v", got)
	}
}

// naive are contenders that look at everything.
type naive map[claimant]netip.Prefix

func (cs naive) overlapping(p netip.Prefix) map[*peer]struct{} {
	found := map[*peer]struct{}{}
	for c, q := range cs {
		if q.Overlaps(p) {
			found[c.peer] = struct{}{}
		}
	}
	return found
}

func (cs naive) first(p netip.Prefix) (first *peer) {
	for q := range cs.overlapping(p) {
		if first == nil || q.before(first) {
			first = q
		}
	}
	return first
}

// randomPrefix is one of either family whose bits differ in a few places only, so
// that many overlap, at any depth.
func randomPrefix(r *rand.Rand) netip.Prefix {
	var b [16]byte
	for range r.IntN(4) {
		b[r.IntN(4)*r.IntN(6)] ^= 1 << r.IntN(8)
	}
	a := netip.AddrFrom16(b)
	if r.IntN(2) == 0 {
		a = netip.AddrFrom4([4]byte(b[:4]))
	}
	bits := r.IntN(a.BitLen() + 1)
	if r.IntN(2) == 0 {
		bits = a.BitLen() - r.IntN(2)
	}
	p, _ := a.Prefix(bits)
	return p
}

func TestContenders(t *testing.T) {
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 0))
		var cs contenders
		all := naive{}
		var order []claimant // those of all, to draw from
		told, want, added := map[*peer]struct{}{}, map[*peer]struct{}{}, map[*peer]struct{}{}
		tell := func(p *peer) { told[p] = struct{}{} }
		for i := range 3000 {
			grow := i%1000 < 600 // and then shrink
			switch {
			case len(order) == 0 || r.IntN(10) < 3 == !grow:
				p := &peer{record: subnet.Record{Name: fmt.Sprint(i), Created: int64(r.IntN(50))}}
				if r.IntN(4) == 0 {
					p.seen = testTime.Add(time.Duration(r.IntN(3)))
				}
				if r.IntN(4) == 0 {
					p.missing = testTime
				}
				c, s := claimant{p, r.IntN(2)}, randomPrefix(r)
				if len(order) > 0 && r.IntN(3) == 0 {
					s = all[order[r.IntN(len(order))]]
				}
				cs.add(s, c, tell)
				maps.Copy(want, all.overlapping(s))
				all[c], added[p] = s, struct{}{}
				order = append(order, c)
			default:
				k := r.IntN(len(order))
				c := order[k]
				order[k] = order[len(order)-1]
				order = order[:len(order)-1]
				s := all[c]
				delete(all, c)
				cs.remove(s, c, tell)
				maps.Copy(want, all.overlapping(s))
			}
			if r.IntN(10) == 0 {
				s := randomPrefix(r)
				cs.overlapping(s, tell)
				maps.Copy(want, all.overlapping(s))
			}
			if r.IntN(5) != 0 {
				continue
			}

			// The round ends: everybody was told of who is not new.
			for p := range told {
				if _, ok := want[p]; !ok && !isIn(added, p) {
					t.Fatalf("seed %d, step %d: told of %s, which nothing overlaps", seed, i, p.record.Name)
				}
			}
			for p := range want {
				if !isIn(told, p) && !isIn(added, p) {
					t.Fatalf("seed %d, step %d: not told of %s", seed, i, p.record.Name)
				}
			}
			for range 5 {
				s := randomPrefix(r)
				if got, want := cs.first(s), all.first(s); got != want {
					t.Fatalf("seed %d, step %d: first of %s is %v, want %v", seed, i, s, got, want)
				}
			}
			cs.forget()
			clear(told)
			clear(want)
			clear(added)

			s := randomPrefix(r)
			if len(order) > 0 && r.IntN(2) == 0 {
				s = all[order[r.IntN(len(order))]]
			}
			for range 2 { // looking changes nothing
				cs.overlapping(s, tell)
				if want := all.overlapping(s); !maps.Equal(told, want) {
					t.Fatalf("seed %d, step %d: %d overlap %s, want %d", seed, i, len(told), s, len(want))
				}
				cs.forget()
				clear(told)
			}
			same := map[claimant]struct{}{}
			for c := range cs.claimants(s) {
				same[c] = struct{}{}
				for d := range cs.claimants(s) { // nor does looking meanwhile
					if all[d] != s {
						t.Fatalf("seed %d, step %d: %v claims %s, not %s", seed, i, d, all[d], s)
					}
					break
				}
			}
			for c, p := range all {
				if isIn(same, c) != (p == s) {
					t.Fatalf("seed %d, step %d: %v claims %s; for %s: %v", seed, i, c, p, s, isIn(same, c))
				}
			}
			checkNodes(t, cs.v4, all)
			checkNodes(t, cs.v6, all)
		}
		for c, s := range all {
			cs.remove(s, c, tell)
		}
		if cs.v4 != nil || cs.v6 != nil {
			t.Fatalf("seed %d: nodes are left", seed)
		}
	}
}

func isIn[K comparable](set map[K]struct{}, k K) bool {
	_, ok := set[k]
	return ok
}

// checkNodes checks that each node is needed, and in its place.
func checkNodes(t *testing.T, n *contended, all naive) {
	t.Helper()
	if n == nil {
		return
	}
	if !n.claimed() && slices.Contains(n.child[:], nil) {
		t.Fatalf("nobody needs node %+v", n.bits)
	}
	if n.bits != n.bits.first(n.bits.len) {
		t.Fatalf("node %+v has bits past its length", n.bits)
	}
	for c := range n.claimants {
		if bitsOf(all[c]) != n.bits {
			t.Fatalf("a claimant of %s is at %+v", all[c], n.bits)
		}
	}
	for i, half := range n.child {
		if half != nil && (half.bits.len <= n.bits.len || half.bits.first(n.bits.len) != n.bits || half.bits.bit(n.bits.len) != uint64(i)) {
			t.Fatalf("node %+v is below %+v, half %d", half.bits, n.bits, i)
		}
		checkNodes(t, half, all)
	}
}

func BenchmarkHostileSnapshot(b *testing.B) {
	for _, h := range hostile {
		for _, n := range []int{2000, 4000, 8000} {
			rs := h.leases(n)
			b.Run(fmt.Sprintf("%s-%d", h.name, n), func(b *testing.B) {
				for b.Loop() {
					table := newPeerTable()
					table.policy = manyPolicy()
					table.update(rs, nil, testTime)
					table.delta()
				}
			})
		}
	}
}

// BenchmarkPeerMemory measures what a table of 10 000 peers keeps, without their records.
func BenchmarkPeerMemory(b *testing.B) {
	const n = 10000
	rs := manyLeases(n)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		before := heap()
		table := newPeerTable()
		table.policy = manyPolicy()
		table.update(rs, nil, testTime)
		table.delta()
		b.ReportMetric(float64(heap()-before)/n, "B/peer")
		runtime.KeepAlive(table)
	}
	runtime.KeepAlive(rs)
}
