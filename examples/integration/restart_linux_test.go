package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/examples/internal/netns"
)

// watchers look for gaps while something happens: a packet every 2 ms from each
// host's container to the next host's, and every route event.
type watchers struct {
	probers  []*netns.Prober
	monitors []*netns.RouteMonitor
}

func (w *world) watch(t *testing.T) *watchers {
	t.Helper()
	var s watchers
	for i, n := range w.nodes {
		for _, dst := range w.nodes[(i+1)%len(w.nodes)].container.IPs() {
			// Neighbours are found, and addresses checked for doubles, before
			// anything counts as lost.
			eventually(t, dst.String()+" answers", func() (bool, string) {
				r, err := n.container.Ping(t.Context(), dst, netns.PingOptions{Count: 1})
				return err == nil && r.Received() == 1, fmt.Sprint(r, err)
			})
			p, err := n.container.Probe(dst, 2*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			s.probers = append(s.probers, p)
		}
		m, err := n.MonitorRoutes()
		if err != nil {
			t.Fatal(err)
		}
		s.monitors = append(s.monitors, m)
	}
	s.flow(t)
	return &s
}

// flow waits until more packets have been answered on every path.
func (s *watchers) flow(t *testing.T) {
	t.Helper()
	for _, p := range s.probers {
		if err := p.WaitAnswered(deadline(t), 25); err != nil {
			t.Fatal(err)
		}
	}
}

// checkNothing checks that no packet was lost and no route touched.
func (s *watchers) checkNothing(t *testing.T) {
	t.Helper()
	s.checkPackets(t)
	for _, m := range s.monitors {
		events, err := m.Stop()
		if err != nil {
			t.Error(err)
		}
		for _, e := range events {
			t.Errorf("a route was touched: %v", e)
		}
	}
}

// checkPackets checks that no packet was lost.
func (s *watchers) checkPackets(t *testing.T) {
	t.Helper()
	for _, p := range s.probers {
		if r := p.Stop(); len(r.Lost) > 0 {
			t.Errorf("packets were lost: %v", r)
		} else {
			t.Log(r)
		}
	}
}

// A daemon that is killed, stopped or upgraded and started again takes its own
// subnet back, touches no route and loses no packet; nor is anything lost while
// it is away.
func TestRestart(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(t *testing.T, n *node)
	}{
		{"kill -9", func(t *testing.T, n *node) { n.daemon.Kill() }},
		{"SIGTERM", stop},
		{"SIGINT", func(t *testing.T, n *node) {
			if err := syscall.Kill(n.daemon.PID(), syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			if status, err := n.daemon.Wait(deadline(t)); err != nil || status != 0 {
				t.Fatalf("status %d, error %v; it says:\n%s", status, err, n.daemon.Log())
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, worldOptions{hosts: 3, dual: true})
			w.join(t)
			before := w.records(t)
			watch := w.watch(t)
			n := w.nodes[1]
			for range 3 {
				tt.end(t, n)
				watch.flow(t)
				w.start(t, n)
				if err := n.daemon.Ready(deadline(t)); err != nil {
					t.Fatal(err)
				}
				watch.flow(t)
			}
			watch.checkNothing(t)
			w.settle(t)
			w.checkLeases(t)
			for name, r := range w.records(t) {
				if before[name].lease != r.lease {
					t.Errorf("%s is on etcd lease %x, was on %x", name, r.lease, before[name].lease)
				}
			}
		})
	}
}

func stop(t *testing.T, n *node) {
	t.Helper()
	if status, err := n.daemon.Stop(); err != nil || status != 0 {
		t.Fatalf("status %d, error %v; it says:\n%s", status, err, n.daemon.Log())
	}
}

// Invariant 4: a peer that changes its address is re-routed without a moment
// without a route. Packets every two milliseconds see no gap, and the kernel's
// events tell of one replacement, and of no removal.
func TestPeerChangesAddress(t *testing.T) {
	w := newWorld(t, worldOptions{hosts: 2})
	w.join(t)
	first, second := w.nodes[0], w.nodes[1]
	watch := w.watch(t)
	// The second host's own daemon would put its lease right again.
	stop(t, second)
	other := netip.MustParseAddr("172.17.42.99")
	if err := second.AddAddress("eth0", netip.PrefixFrom(other, 24)); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		for _, gateway := range []netip.Addr{other, second.IPv4} {
			key := second.env.Key().String()
			w.etcd.put(t, prefix+"/subnets/"+key, `{"PublicIP":"`+gateway.String()+`","PublicIPv6":null,"BackendType":"host-gw"}`, clientv3.WithLease(w.records(t)[key].lease))
			eventually(t, "the route follows", func() (bool, string) {
				routes, err := first.Routes()
				if err != nil {
					return false, err.Error()
				}
				i := slices.IndexFunc(routes, func(r netns.Route) bool { return r.Destination == second.env.Key().IPv4 })
				return i >= 0 && routes[i].Gateway == gateway, fmt.Sprint(routes)
			})
			watch.flow(t)
		}
	}
	watch.checkPackets(t)
	events, err := watch.monitors[0].Stop()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if e.Deleted || e.Route.Destination != second.env.Key().IPv4 {
			t.Errorf("event %v", e)
		}
	}
	if len(events) != 10 {
		t.Errorf("%d events for 10 changes: %v", len(events), events)
	}
}

// The store being away changes nothing: not for daemons that run, nor for one
// that is started meanwhile; and all catch up when it is back.
func TestStoreAway(t *testing.T) {
	w := newWorld(t, worldOptions{hosts: 3})
	w.nodes = w.nodes[:2] // the third one comes later
	w.join(t)
	watch := w.watch(t)
	w.etcd.kill()
	watch.flow(t)
	w.nodes[1].daemon.Kill()
	w.start(t, w.nodes[1])
	if err := w.nodes[1].daemon.WaitLog(deadline(t), "waiting"); err != nil {
		t.Fatal(err)
	}
	watch.flow(t)
	w.etcd.start(t)
	if err := w.nodes[1].daemon.Ready(deadline(t)); err != nil {
		t.Fatal(err)
	}
	watch.flow(t)
	watch.checkNothing(t)

	third := &node{Host: w.Hosts[2]}
	w.nodes = append(w.nodes, third)
	w.start(t, third)
	w.settle(t)
	w.addContainer(t, third)
	w.checkLeases(t)
	w.checkTraffic(t)
}

// Somebody deletes all leases: each host puts its own back, and meanwhile no
// packet is lost.
func TestLeasesDeleted(t *testing.T) {
	w := newWorld(t, worldOptions{hosts: 3})
	w.join(t)
	before := w.records(t)
	watch := w.watch(t)
	if _, err := w.etcd.client.Delete(t.Context(), prefix+"/subnets/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all leases are back", func() (bool, string) {
		records := w.records(t)
		for name := range before {
			if _, ok := records[name]; !ok {
				return false, name + " is missing"
			}
		}
		return true, ""
	})
	watch.flow(t)
	watch.checkNothing(t)
	w.settle(t)
	w.checkTraffic(t)
}

// A peer that leaves for good loses its route, and only it.
func TestPeerLeaves(t *testing.T) {
	w := newWorld(t, worldOptions{hosts: 3})
	w.join(t)
	gone := w.nodes[2]
	stop(t, gone)
	subnet := gone.env.Subnet.Masked()
	if got := w.ownRoutes(t, w.nodes[0]); len(got) != 2 {
		t.Errorf("a stopped peer's route is gone: %q", got)
	}
	monitor, err := w.nodes[0].MonitorRoutes()
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range w.records(t) {
		if r.value["PublicIP"] == gone.IPv4.String() {
			if _, err := w.etcd.client.Revoke(t.Context(), r.lease); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	gone.daemon = nil // wanted no more
	w.settle(t)
	events, err := monitor.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != 1 || !events[0].Deleted || events[0].Route.Destination != subnet {
		t.Errorf("got %v, want one event: %v deleted", events, subnet)
	}
}
