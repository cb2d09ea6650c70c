package hostgw

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostgw/hostgw/store/memory"
	"github.com/hostgw/hostgw/subnet"
)

// own is what testNode 1 writes.
const own = `{"PublicIP":"172.17.42.41","PublicIPv6":null,"BackendType":"host-gw"}`

// before has a node ask for a subnet that it had once.
func before(name string) func(*Config) {
	return func(c *Config) { c.Previous, _ = subnet.ParseKey(name) }
}

// latent gives a node a store with latency, so that what goes round and round does not
// do so in no time.
func latent(c *Config) {
	const d = time.Millisecond
	c.Store.(*memory.Store).SetFaults(memory.Faults{Request: d, Answer: d, Events: d})
}

// A rival stays known while a node looks how its lease stands.
func TestRivalStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a, b := startNode(t, server, 1), startNode(t, server, 1)
		a.lease()
		b.lease()
		time.Sleep(5 * time.Minute)
		for range 3 {
			server.Put("192.168.7.0-26", []byte(own), 24*time.Hour)
			time.Sleep(10 * time.Minute)
		}
		synctest.Wait()
		for _, n := range []*testNode{a, b} {
			if told, gone := n.log.count("another process claims"), n.log.count("no other process claims"); told != 1 || gone != 0 {
				t.Errorf("the rival is told %d times and gone %d times", told, gone)
			}
		}
	})
}

// And it has gone once it has stopped.
func TestRivalGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a, b := startNode(t, server, 1), startNode(t, server, 1)
		a.lease()
		b.lease()
		time.Sleep(5 * time.Minute)
		b.end()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if st := a.m.Status(); st.Rival != nil || a.log.count("no other process claims") != 1 {
			t.Errorf("rival %+v, log %q", st.Rival, a.log.lines)
		}
	})
}

// Two processes with one address that came to hold two subnets drop each other's, but
// do not keep the whole network busy with it.
func TestRivalOnAnotherSubnet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startNode(t, server, 1, func(c *Config) { c.TTL = time.Minute })
		a.lease()
		a.store.SetFaults(memory.Faults{Err: errors.New("away")})
		time.Sleep(10 * time.Minute)
		startNode(t, server, 1, latent, before("192.168.8.0-26")).lease()
		time.Sleep(time.Minute)
		a.store.SetFaults(memory.Faults{Request: time.Millisecond, Answer: time.Millisecond, Events: time.Millisecond})
		time.Sleep(time.Minute)
		was := server.Snapshot().Revision
		time.Sleep(10 * time.Second)
		if n := server.Snapshot().Revision - was; n > 40 {
			t.Errorf("%d writes in ten seconds", n)
		}
	})
}

// A claim of its own that arrives late, just while a node joins, is given back too.
func TestLeaseClaimedLateWhileJoining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startClaiming(t, server)
		server.Put("192.168.7.0-26", []byte(own), 24*time.Hour)
		time.Sleep(time.Minute)
		a.lease()
		if rs := server.Snapshot().Records; len(rs) != 1 {
			t.Errorf("%d leases bear this node's address", len(rs))
		}
	})
}

// stuckRelease is a store that does not answer who gives a lease back.
type stuckRelease struct{ *memory.Store }

func (s stuckRelease) Release(ctx context.Context, r subnet.Record) error {
	<-ctx.Done()
	return ctx.Err()
}

// A lease is kept alive also while others that bear its node's address cannot be given
// back.
func TestLeaseKeptWhileReleasing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startNode(t, server, 1, func(c *Config) {
			c.TTL = 30 * time.Second
			c.Watcher = c.Store.(LeaseWatcher)
			c.Store = stuckRelease{c.Store.(*memory.Store)}
		})
		a.lease()
		synctest.Wait()
		for i := range 10 {
			server.Put(fmt.Sprintf("192.168.1%d.0-26", i), []byte(own), 24*time.Hour)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := a.log.count("lease is gone"); n > 0 {
			t.Errorf("lost %d times: %q", n, a.log.lines)
		}
	})
}

// A look that cannot be made is told, as nobody keeps the lease meanwhile.
func TestLeaseLookedForInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		var bad atomic.Bool
		a := startNode(t, server, 1, refusingReads(&bad))
		a.lease()
		synctest.Wait()
		bad.Store(true)
		server.Put("192.168.7.0-26", []byte(own), 100*time.Hour)
		time.Sleep(time.Hour)
		synctest.Wait()
		if st := a.m.Status(); st.Store.Err == nil || st.Store.Outages != 1 {
			t.Errorf("store %+v", st.Store)
		}
		bad.Store(false)
		time.Sleep(time.Second)
		synctest.Wait()
		if st := a.m.Status(); st.Store.Err != nil || a.log.count("store can be heard again") != 1 {
			t.Errorf("store %+v, log %q", st.Store, a.log.lines)
		}
	})
}

// After a wipe somebody new has taken the subnet: its node stops once the hold time is
// over, however often the store is away meanwhile.
func TestLeaseTakenAfterWipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		for range 20 { // some history
			server.Put("192.168.9.0-26", []byte("{}"), time.Hour)
			server.Delete("192.168.9.0-26")
		}
		a := startNode(t, server, 1)
		k := a.lease().Key
		a.store.SetFaults(memory.Faults{Err: errors.New("away")})
		server.Wipe()
		server.SetConfig(testNetwork(t))
		startNode(t, server, 2, before(k.String())).lease()
		time.Sleep(time.Second)
		a.store.SetFaults(memory.Faults{})
		time.Sleep(DefaultHold + 5*time.Second)
		synctest.Wait()
		if st := a.m.Status(); st.State != StateStopped {
			t.Errorf("%v, waiting for %v", st.State, st.Waiting)
		}
	})
}
