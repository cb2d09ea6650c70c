package scale

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/netlinkx"
)

// Many nodes join one real etcd at the same moment. Each gets a subnet of its own
// and routes all others, and then nothing happens any more. That each join takes a
// constant number of calls is examples/etcdstore's TestCalls.
func TestMassJoin(t *testing.T) {
	nodes, whole := *nodesFlag, min(*wholeFlag, *nodesFlag)
	subnets := 2 * nodes // half of the network will be free
	s := startEtcd(t)
	s.put(t, prefix+"/config", network(subnets))
	limit := time.Minute + time.Duration(nodes)*time.Second
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()

	heap, cpu, before := heapInUse(), cpuUsed(t), s.meter(t)
	c := gather(t, s, nodes, whole)
	c.waitLeases(ctx, t)
	t.Logf("%d nodes, %d subnets: all hold a lease after %v", nodes, subnets, time.Since(c.began).Round(time.Millisecond))
	c.waitRoutes(ctx, t, whole)
	settled := time.Since(c.began)
	after := s.meter(t)
	t.Logf("all %d routes of %d nodes are in after %v", whole*(nodes-1), whole, settled.Round(time.Millisecond))
	t.Logf("claims %d: %d lost a race; %d calls failed and were made again, %d watches broke and were resumed; why: %v",
		c.counts.claims.Load(), c.counts.conflicts.Load(), c.counts.failures.Load(), c.counts.outages.Load(), c.counts.reasons)
	calls := after.since(before)
	t.Logf("calls: %v", calls)
	if c.counts.failures.Load()+c.counts.outages.Load() == 0 {
		// Each node reads what is there once, and again after each lost race; beside
		// each claim's transaction there is the one in which a keeper looks at its keys.
		claims, conflicts := int(c.counts.claims.Load()), int(c.counts.conflicts.Load())
		if calls["Range"] != nodes+conflicts || calls["LeaseGrant"] != claims || calls["LeaseRevoke"] != conflicts || calls["Txn"] > claims+nodes {
			t.Errorf("%d nodes made more calls than they need", nodes)
		}
	}
	t.Logf("CPU: nodes %v, etcd %v", (cpuUsed(t) - cpu).Round(10*time.Millisecond), (after.cpu() - before.cpu()).Round(10*time.Millisecond))
	t.Logf("memory: %s of heap a node with its fake kernel; etcd %s resident, database %s", bytes(float64(heapInUse()-heap)/float64(nodes)),
		bytes(after.metrics["process_resident_memory_bytes"]), bytes(after.metrics["etcd_mvcc_db_total_size_in_bytes"]))
	t.Logf("etcd: %v watchers, %v events sent, %v slow watchers at the end", after.metrics["etcd_debugging_mvcc_watcher_total"],
		after.metrics["etcd_debugging_mvcc_events_total"]-before.metrics["etcd_debugging_mvcc_events_total"],
		after.metrics["etcd_debugging_mvcc_slow_watcher_total"])
	fsyncs := after.metrics["etcd_disk_wal_fsync_duration_seconds_count"] - before.metrics["etcd_disk_wal_fsync_duration_seconds_count"]
	synced := after.metrics["etcd_disk_wal_fsync_duration_seconds_sum"] - before.metrics["etcd_disk_wal_fsync_duration_seconds_sum"]
	t.Logf("disk: %.0f writes of the log, %.1f ms each", fsyncs, 1000*synced/fsyncs)
	c.check(t, s, whole)
	c.checkCalm(t, s)
}

// A network loses all its state, in the store and on the hosts: most nodes get the
// subnet that they had.
func TestSameSubnetAgain(t *testing.T) {
	nodes := *nodesFlag
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute+2*time.Duration(nodes)*time.Second)
	defer cancel()
	var subnets [2]map[netip.Addr]netip.Prefix
	for life := range subnets {
		s := startEtcd(t)
		s.put(t, prefix+"/config", network(2*nodes))
		c := gather(t, s, nodes, 0) // who routes whom is not the question
		c.waitLeases(ctx, t)
		c.checkLeases(t, s)
		subnets[life] = map[netip.Addr]netip.Prefix{}
		for _, n := range c.nodes {
			subnets[life][n.address] = n.lease.Lease.Key.IPv4
		}
		c.stop()
	}
	same := 0
	for address, p := range subnets[0] {
		if subnets[1][address] == p {
			same++
		}
	}
	t.Logf("%d of %d nodes got the same subnet, in a network of twice as many", same, nodes)
	// By chance it would be one node in all. Only the order of arrival speaks
	// against all of them: with half of the subnets taken at the end, about one node
	// in five finds its first choice to be another's first choice too.
	if same < nodes*6/10 {
		t.Errorf("only %d of %d nodes got the same subnet again", same, nodes)
	}
}

// waitRoutes waits until the whole nodes have all their routes.
func (c *crowd) waitRoutes(ctx context.Context, t *testing.T, whole int) {
	t.Helper()
	want := int64(len(c.nodes) - 1)
	for _, n := range c.nodes[:whole] {
		for n.routes.Load() != want {
			select {
			case <-ctx.Done():
				t.Fatalf("%v has %d routes, want %d; its store: %+v", n.address, n.routes.Load(), want, n.manager.Status().Store)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
}

// check checks that no two nodes hold overlapping subnets, that etcd holds what
// they hold, and that each kernel has exactly the routes to all others.
func (c *crowd) check(t *testing.T, s *server, whole int) {
	t.Helper()
	want := c.checkLeases(t, s)
	for _, n := range c.nodes[:whole] {
		own := n.lease.Lease.Key.IPv4
		got := 0
		for _, r := range n.kernel.RoutesOf(netlinkx.DefaultProtocol) {
			got++
			if holder, ok := want[r.Dst]; !ok || r.Dst == own || r.Gateway != holder {
				t.Errorf("%v has the route %v, want it via %v", n.address, r, holder)
			}
		}
		if got != len(c.nodes)-1 {
			t.Errorf("%v has %d routes, want %d", n.address, got, len(c.nodes)-1)
		}
	}
}

// checkLeases returns who holds which subnet.
func (c *crowd) checkLeases(t *testing.T, s *server) map[netip.Prefix]netip.Addr {
	t.Helper()
	holders := map[netip.Prefix]netip.Addr{}
	for _, n := range c.nodes {
		holders[n.lease.Lease.Key.IPv4] = n.address
	}
	ordered := slices.SortedFunc(maps.Keys(holders), netip.Prefix.Compare)
	for i, p := range ordered[1:] {
		if p.Overlaps(ordered[i]) {
			t.Errorf("%v and %v hold overlapping subnets %v and %v", holders[ordered[i]], holders[p], ordered[i], p)
		}
	}
	if len(holders) != len(c.nodes) {
		t.Errorf("%d nodes hold %d subnets", len(c.nodes), len(holders))
	}

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stored, err := s.client.Get(ctx, prefix+"/subnets/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range stored.Kvs {
		name := strings.TrimPrefix(string(kv.Key), prefix+"/subnets/")
		p, err := netip.ParsePrefix(strings.ReplaceAll(name, "-", "/"))
		if holder, ok := holders[p]; err != nil || !ok || !strings.Contains(string(kv.Value), fmt.Sprintf("%q", holder)) {
			t.Errorf("etcd holds %s=%s (%v), but %v is who has it", kv.Key, kv.Value, err, holder)
		}
	}
	if len(stored.Kvs) != len(c.nodes) {
		t.Errorf("etcd holds %d leases of %d nodes", len(stored.Kvs), len(c.nodes))
	}
	leases, err := s.client.Leases(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(leases.Leases) != len(c.nodes) {
		t.Errorf("etcd holds %d etcd leases of %d nodes", len(leases.Leases), len(c.nodes))
	}
	return holders
}

// checkCalm checks that a network in which nobody comes or goes costs etcd nothing
// but the signs of life that the watches ask for: no event, no read, no write.
func (c *crowd) checkCalm(t *testing.T, s *server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), *calmFlag)
	defer cancel()
	// A watch of its own tells more than the nodes' would: all keys, users' too.
	events := 0
	before, routes := s.meter(t), c.added()
	began := time.Now()
	for r := range s.client.Watch(ctx, prefix, clientv3.WithPrefix()) {
		if err := r.Err(); err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
		events += len(r.Events)
	}
	after := s.meter(t)
	if events > 0 {
		t.Errorf("%d watch events in a steady network", events)
	}
	calls := after.since(before)
	for method, n := range calls {
		switch method {
		case "Watch", "Watch failed": // this test's own
		default:
			t.Errorf("%d calls of %s in a steady network", n, method)
		}
	}
	if n := c.added(); n != routes {
		t.Errorf("%d routes were touched in a steady network", n-routes)
	}
	asked := after.metrics["etcd_network_client_grpc_received_bytes_total"] - before.metrics["etcd_network_client_grpc_received_bytes_total"]
	told := after.metrics["etcd_network_client_grpc_sent_bytes_total"] - before.metrics["etcd_network_client_grpc_sent_bytes_total"]
	took := time.Since(began)
	t.Logf("steady for %v: no events, no calls; etcd received %.0f B/s, sent %.0f B/s and used %.1f%% of a CPU", took.Round(time.Second),
		asked/took.Seconds(), told/took.Seconds(), 100*float64(after.cpu()-before.cpu())/float64(took))
}

// added is how many requests to change a route all kernels have seen.
func (c *crowd) added() int {
	total := 0
	for _, n := range c.nodes {
		s := n.kernel.Stats()
		total += s.NewRoutes + s.DelRoutes
	}
	return total
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// cpuUsed is how long this process has computed.
func cpuUsed(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func bytes(n float64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", n/(1<<20))
	default:
		return fmt.Sprintf("%.0f KiB", n/(1<<10))
	}
}
