package hostgw

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostgw/hostgw/store/memory"
	"github.com/hostgw/hostgw/subnet"
)

const (
	widerNetwork = `{"Network":"192.160.0.0/12","SubnetLen":26,"Backend":{"Type":"host-gw"}}`
	otherNetwork = `{"Network":"10.7.0.0/16","Backend":{"Type":"host-gw"}}`
	dualNetwork  = `{"Network":"192.168.0.0/16","SubnetLen":26,"EnableIPv6":true,"IPv6Network":"fd99::/48","Backend":{"Type":"host-gw"}}`
)

// dual gives a node an IPv6 address too.
func dual(ipv6 string) func(*Config) {
	return func(c *Config) {
		c.Uplink.IPv6 = netip.MustParseAddr(ipv6)
		c.Uplink.Addrs = append(c.Uplink.Addrs, netip.PrefixFrom(c.Uplink.IPv6, 64))
	}
}

func moving(c *Config) { c.Move = true }

// startClaiming starts a node that has claimed its lease and has no answer yet, while
// its watch is prompt.
func startClaiming(t *testing.T, server *memory.Server) *testNode {
	t.Helper()
	a := startNode(t, server, 1, func(c *Config) {
		c.Watcher = server.Client()
		c.Store.(*memory.Store).SetFaults(memory.Faults{Answer: time.Second})
	})
	time.Sleep(500 * time.Millisecond)
	if n := len(server.Snapshot().Records); n != 1 {
		t.Fatalf("%d records, want the claimed one", n)
	}
	return a
}

// told returns the config that an observer of n takes to be in force.
func told(n *testNode) (c subnet.Config) {
	for _, e := range n.events {
		switch e := e.(type) {
		case *LeaseEvent:
			c = e.Joined.Config
		case *ConfigEvent:
			if e.Config.Err == nil && e.Fits {
				c = e.Config.Config
			}
		}
	}
	return c
}

// A config that comes while the node waits for one is told, as subnet.env depends
// on it.
func TestConfigWidenedWhileJoining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startNode(t, server, 1)
		k := a.lease().Key
		server.Wipe()
		time.Sleep(time.Second)
		wide := testNetwork(t, widerNetwork)
		server.SetConfig(wide)
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := a.m.Status(); st.State != StateHeld || st.Record.Lease.Key != k || st.Joined.Config != wide {
			t.Errorf("%v with %s under %v", st.State, st.Record.Name, st.Joined.Config.Networks())
		}
		if got := told(a); got != wide {
			t.Errorf("the observer knows %v", got.Networks())
		}
	})
}

// So is one that the watch shows before the answer to the claim has arrived.
func TestConfigWidenedWhileClaiming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startClaiming(t, server)
		wide := testNetwork(t, widerNetwork)
		server.SetConfig(wide)
		time.Sleep(time.Minute)
		a.lease()
		synctest.Wait()
		if st := a.m.Status(); st.Joined.Config != wide {
			t.Errorf("joined %v", st.Joined.Config.Networks())
		}
		if got := told(a); got != wide {
			t.Errorf("the observer knows %v", got.Networks())
		}
	})
}

// A change that the lease no longer fits is reported once, in the log and by an
// event, and the lease kept.
func TestConfigNoLongerFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a, b := startNode(t, server, 1), startNode(t, server, 2)
		a.wantRoutes(b)
		k := a.lease().Key
		server.SetConfig(testNetwork(t, otherNetwork))
		time.Sleep(100 * time.Hour)
		a.wantRoutes(b)
		if st := a.m.Status(); st.State != StateHeld || st.Record.Lease.Key != k {
			t.Errorf("%v with %s", st.State, st.Record.Name)
		}
		es := kinds[*ConfigEvent](a)
		if len(es) != 1 || es[0].Fits || a.log.count("no longer fits and is kept until the next start") != 1 {
			t.Errorf("events %+v, log %q", es, a.log.lines)
		}
	})
}

// A network of an earlier config is open only for as long as somebody lives in it.
func TestConfigClosesNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a, b, c := startNode(t, server, 1, moving), startNode(t, server, 2, moving), startNode(t, server, 3)
		a.wantRoutes(b, c)
		server.SetConfig(testNetwork(t, otherNetwork))
		time.Sleep(time.Minute)
		a.wantRoutes(b, c)
		late := func(name string) {
			server.Put(name, []byte(`{"PublicIP":"172.17.42.99","PublicIPv6":null,"BackendType":"host-gw"}`), 0)
			time.Sleep(time.Second)
		}
		late("192.168.77.0-26")
		if got := a.routes.wanted(); got["192.168.77.0/26"] != "172.17.42.99" {
			t.Errorf("routes %v while c still lives in the earlier network", got)
		}
		server.Delete("192.168.77.0-26")
		if err := c.end(); err != nil {
			t.Fatal(err)
		}
		if err := c.m.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		late("192.168.77.64-26")
		a.wantRoutes(b)
	})
}

// A node that is to move takes another lease of the families that the config has,
// and nothing of the old one is left.
func TestConfigSwapsFamilies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startNode(t, server, 1, dual("fd00::1"), moving)
		a.lease()
		server.SetConfig(testNetwork(t, `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd99::/48","Backend":{"Type":"host-gw"}}`))
		time.Sleep(time.Minute)
		synctest.Wait()
		rs := server.Snapshot().Records
		if len(rs) != 1 || rs[0].Lease.Key.IPv4.IsValid() {
			t.Errorf("records %v", rs)
		}
	})
}

// A node that is to move and finds no other lease keeps the one that it has.
func TestConfigLeavesNowhereToMove(t *testing.T) {
	for name, text := range map[string]string{
		"full":           `{"Network":"10.0.0.0/28","SubnetLen":30,"Backend":{"Type":"host-gw"}}`,
		"without family": dualNetwork,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := testServer(t)
				var nodes []*testNode
				for i := range 5 {
					nodes = append(nodes, startNode(t, server, 1+i, moving))
				}
				for _, n := range nodes {
					n.lease()
				}
				server.SetConfig(testNetwork(t, text))
				time.Sleep(100 * time.Hour)
				synctest.Wait()
				stayed := 0
				for _, n := range nodes {
					st := n.m.Status()
					if st.State != StateHeld {
						t.Errorf("%v, waiting for %v: %v", st.State, st.Waiting, n.end())
					}
					stayed += n.log.count("no other lease to move to")
				}
				if stayed == 0 || len(server.Snapshot().Records) != len(nodes) {
					t.Errorf("%d say that they stay, and %d leases are left", stayed, len(server.Snapshot().Records))
				}
			})
		})
	}
}

// It tries again when that config comes again, and has room by then.
func TestConfigHasRoomLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startNode(t, server, 1, moving)
		k := a.lease().Key
		full := testNetwork(t, `{"Network":"10.0.0.0/28","SubnetLen":30,"Backend":{"Type":"host-gw"}}`)
		names := []string{"10.0.0.0-30", "10.0.0.4-30", "10.0.0.8-30", "10.0.0.12-30"}
		for _, n := range names {
			server.Put(n, []byte("{}"), 0)
		}
		server.SetConfig(full)
		time.Sleep(time.Minute)
		if a.log.count("no other lease to move to") != 1 || a.m.Status().Record.Lease.Key != k {
			t.Fatalf("log %q", a.log.lines)
		}
		server.SetConfig(testNetwork(t))
		time.Sleep(time.Minute)
		for _, n := range names {
			server.Delete(n)
		}
		server.SetConfig(full)
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := a.m.Status(); !full.Fits(st.Record.Lease.Key) {
			t.Errorf("still %s; log %q", st.Record.Name, a.log.lines)
		}
	})
}

// A config that once did not fit, and comes again between a claim and its answer, is
// told like another one.
func TestConfigNoLongerFitsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startNode(t, server, 1, func(c *Config) { c.Watcher = server.Client() })
		k := a.lease().Key
		server.SetConfig(testNetwork(t, otherNetwork))
		time.Sleep(time.Minute)
		server.SetConfig(testNetwork(t))
		time.Sleep(time.Minute)
		told := len(kinds[*ConfigEvent](a))
		a.store.SetFaults(memory.Faults{Answer: time.Second})
		server.Delete(k.String())
		for len(server.Snapshot().Records) == 0 {
			time.Sleep(50 * time.Millisecond)
		}
		server.SetConfig(testNetwork(t, otherNetwork))
		time.Sleep(time.Minute)
		es := kinds[*ConfigEvent](a)[told:]
		if len(es) != 1 || es[0].Fits {
			t.Errorf("told %+v; log %q", es, a.log.lines)
		}
	})
}

// A node takes its own record back also if the config has a family that the node
// has no address of.
func TestConfigWithAnotherFamily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startNode(t, server, 1)
		k := a.lease().Key
		server.SetConfig(testNetwork(t, dualNetwork))
		time.Sleep(time.Second)
		server.Put(k.String(), []byte(`{"PublicIP":"172.17.42.41","PublicIPv6":null,"BackendType":"host-gw"}`), 0)
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		if st := a.m.Status(); st.State != StateHeld || !st.Record.Reserved() {
			t.Errorf("%v, waiting for %v", st.State, st.Waiting)
		}
	})
}
