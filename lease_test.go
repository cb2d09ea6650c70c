package hostgw

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostgw/hostgw/store/memory"
	"github.com/hostgw/hostgw/subnet"
)

// refusing is a store whose reads are refused while bad is set, each time in other
// words, while its watch and its keeping go on.
type refusing struct {
	*memory.Store
	bad   *atomic.Bool
	tries int
}

func (r *refusing) Snapshot(ctx context.Context) (subnet.Snapshot, error) {
	if r.bad.Load() {
		r.tries++
		return subnet.Snapshot{}, fmt.Errorf("read tcp 10.0.0.1:%d: connection reset", 32768+r.tries)
	}
	return r.Store.Snapshot(ctx)
}

func refusingReads(bad *atomic.Bool) func(*Config) {
	return func(c *Config) {
		c.Watcher = c.Store.(LeaseWatcher)
		c.Store = &refusing{Store: c.Store.(*memory.Store), bad: bad}
	}
}

// A node that hears that its lease is gone does not believe to hold it, even though
// the store refuses to say more.
func TestLeaseLostWithoutReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		var bad atomic.Bool
		a := startNode(t, server, 1, refusingReads(&bad))
		k := a.lease().Key
		synctest.Wait()
		bad.Store(true)
		server.Delete(k.String())
		server.Put(k.String(), []byte(`{"PublicIP":"172.17.42.99","PublicIPv6":null,"BackendType":"host-gw"}`), 100*time.Hour)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		st := a.m.Status()
		if st.State != StateJoining || st.Waiting == nil {
			t.Errorf("%v, waiting for %v", st.State, st.Waiting)
		}
		if n := a.log.count("waiting to join"); n != 1 {
			t.Errorf("%d lines of waiting in ten minutes: %q", n, a.log.lines)
		}
	})
}

// unkept is a store that refuses to confirm a lease until kept is closed.
type unkept struct {
	*memory.Store
	kept chan struct{}
}

func (u *unkept) Keep(ctx context.Context, r subnet.Record, n subnet.Node, renewed func(subnet.Renewal)) error {
	renewed(subnet.Renewal{Err: errors.New("permission denied")})
	select {
	case <-ctx.Done():
		return nil
	case <-u.kept:
		return u.Store.Keep(ctx, r, n, renewed)
	}
}

// A store that refuses to confirm the lease is away, though its watch can be heard.
func TestLeaseNotConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		kept := make(chan struct{})
		a := startNode(t, server, 1, func(c *Config) { c.Store = &unkept{c.Store.(*memory.Store), kept} })
		b := startNode(t, server, 2)
		a.wantRoutes(b)
		if st := a.m.Status(); st.State != StateHeld || st.Store.Err == nil || st.Store.Outages != 1 {
			t.Errorf("%v, store %+v", st.State, st.Store)
		}
		a.store.SetFaults(memory.Faults{Err: errors.New("away")}) // the watch too, which makes no difference
		time.Sleep(time.Second)
		a.store.SetFaults(memory.Faults{})
		time.Sleep(time.Second)
		close(kept)
		time.Sleep(time.Second)
		synctest.Wait()
		if st := a.m.Status(); st.Store.Err != nil || st.Store.Outages != 1 || st.Renewed.IsZero() {
			t.Errorf("store %+v, renewed %v", st.Store, st.Renewed)
		}
		if es := kinds[*StoreEvent](a); len(es) != 2 || es[0].Err == nil || es[1].Err != nil {
			t.Errorf("events %+v", es)
		}
		if a.log.count("store cannot be heard") != 1 || a.log.count("store can be heard again") != 1 {
			t.Errorf("log %q", a.log.lines)
		}
	})
}

// After a backup brought back what a node wrote in an earlier life, it says again
// how it is reached now.
func TestLeaseRestoredAsItWas(t *testing.T) {
	t.Run("other backend", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := testServer(t)
			server.Put("192.168.7.0-26", []byte(`{"PublicIP":"172.17.42.41","PublicIPv6":null,"BackendType":"vxlan"}`), 24*time.Hour)
			backup := server.Backup()
			a, b := startNode(t, server, 1), startNode(t, server, 2)
			b.wantRoutes(a)
			server.Restore(backup)
			time.Sleep(time.Second)
			b.wantRoutes(a)
		})
	})
	t.Run("other address", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := memory.NewServer()
			server.SetConfig(testNetwork(t, dualNetwork))
			a, b := startNode(t, server, 1, dual("fd00::1")), startNode(t, server, 2, dual("fd00::2"))
			a.lease()
			b.lease()
			synctest.Wait()
			backup := server.Backup()
			a.end()
			again := startNode(t, server, 1, dual("fd00::11"))
			k := again.lease().Key
			time.Sleep(time.Second)
			server.Restore(backup)
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if got := b.routes.wanted()[k.IPv6.String()]; got != "fd00::11" {
				t.Errorf("%v is routed via %s", k.IPv6, got)
			}
		})
	})
}

// Two hosts that share one of two addresses do not race each other for ever.
func TestLeaseOfTwoHalfTwins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memory.NewServer()
		server.SetConfig(testNetwork(t, dualNetwork))
		a, b := startNode(t, server, 1, dual("fd00::1")), startNode(t, server, 1, dual("fd00::2"))
		a.lease()
		b.lease()
		time.Sleep(time.Minute)
		before := server.Snapshot().Revision
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := server.Snapshot().Revision - before; n > 0 {
			t.Errorf("%d writes in an hour", n)
		}
		if a.m.Status().Rival == nil && b.m.Status().Rival == nil {
			t.Error("neither knows of the other")
		}
	})
}

// A claim that was given up and arrives late leaves no second lease.
func TestLeaseClaimedLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startNode(t, server, 1)
		k := a.lease().Key
		synctest.Wait()
		server.Put("192.168.7.0-26", []byte(`{"PublicIP":"172.17.42.41","PublicIPv6":null,"BackendType":"host-gw"}`), 24*time.Hour)
		server.Put("192.168.8.0-26", []byte(`{"PublicIP":"172.17.42.41","PublicIPv6":null,"BackendType":"host-gw"}`), 0)
		time.Sleep(time.Second)
		synctest.Wait()
		var names []string
		for _, r := range server.Snapshot().Records {
			names = append(names, r.Name)
		}
		if want := []string{k.String(), "192.168.8.0-26"}; !slices.Equal(names, want) {
			t.Errorf("the store holds %q, want the lease and the reservation %q", names, want)
		}
		if n := a.log.count("lease is gone"); n != 0 || a.m.Status().State != StateHeld {
			t.Errorf("log %q", a.log.lines)
		}
	})
}

// The time in which the others may put things right does not run while they cannot.
func TestLeaseLostInOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a, b := startNode(t, server, 1), startNode(t, server, 2)
		a.wantRoutes(b)
		k := a.lease().Key
		away := memory.Faults{Err: errors.New("away")}
		b.store.SetFaults(away)
		synctest.Wait()
		server.DeleteAll()
		server.Put(k.String(), []byte(`{"PublicIP":"172.17.42.42","PublicIPv6":null,"BackendType":"host-gw"}`), 24*time.Hour)
		time.Sleep(time.Second)
		a.store.SetFaults(away)
		time.Sleep(10 * time.Second)
		a.store.SetFaults(memory.Faults{})
		time.Sleep(1200 * time.Millisecond)
		b.store.SetFaults(memory.Faults{}) // and drops what it does not hold
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := a.m.Status(); st.State != StateHeld || st.Record.Lease.Key != k {
			t.Errorf("%v: %v", st.State, a.end())
		}
	})
}

// A backup from when somebody who is dead by now held the subnet leaves an operator
// the hold time to release it.
func TestLeaseOfTheDeadRestored(t *testing.T) {
	t.Run("released", func(t *testing.T) { testLeaseOfTheDead(t, true) })
	t.Run("left", func(t *testing.T) { testLeaseOfTheDead(t, false) })
}

func testLeaseOfTheDead(t *testing.T, released bool) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		dead := startNode(t, server, 1)
		k := dead.lease().Key
		backup := server.Backup()
		dead.end()
		if err := dead.m.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		a := startNode(t, server, 2, func(c *Config) { c.Previous = k })
		b := startNode(t, server, 3)
		b.wantRoutes(a)
		if a.lease().Key != k {
			t.Fatalf("leased %v, want %v", a.lease().Key, k)
		}
		time.Sleep(time.Second)
		server.Restore(backup)
		time.Sleep(DefaultHold - time.Second)
		synctest.Wait()
		if st := a.m.Status(); st.State != StateJoining || !errors.Is(st.Waiting, ErrSubnetLost) {
			t.Errorf("%v, waiting for %v", st.State, st.Waiting)
		}
		if !released {
			time.Sleep(5 * time.Second)
			if err := <-a.done; !errors.Is(err, ErrSubnetLost) {
				t.Errorf("ended with %v", err)
			}
			a.done <- nil // for who ends it
			return
		}
		server.Delete(k.String())
		time.Sleep(time.Second)
		b.wantRoutes(a)
		if st := a.m.Status(); st.State != StateHeld || st.Record.Lease.Key != k {
			t.Errorf("%v with %s", st.State, st.Record.Name)
		}
	})
}

// What Status returns is the caller's, and a Manager that has stopped waits for
// nothing.
func TestStatusIsTheCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startNode(t, server, 1)
		a.lease()
		server.Put("192.168.7.0-26", []byte(`{"PublicIP":"172.17.42.99","BackendType":"vxlan","BackendData":{"VNI":1}}`), 0)
		time.Sleep(time.Second)
		synctest.Wait()
		data := func() []byte { return a.m.Status().Peers[0].Lease.Holder.BackendData }
		copy(data(), "XXXX")
		if got := string(data()); got != `{"VNI":1}` {
			t.Errorf("the caller's change shows: %s", got)
		}

		waits := startNode(t, memory.NewServer(), 2)
		time.Sleep(time.Second)
		waits.end()
		if st := waits.m.Status(); st.State != StateStopped || st.Waiting != nil {
			t.Errorf("%v, waiting for %v", st.State, st.Waiting)
		}
	})
}
