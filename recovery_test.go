package hostgw

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostgw/hostgw/store/memory"
	"github.com/hostgw/hostgw/subnet"
)

// These are what internal/simulation found, each on its own.

// A node whose watch lags hears that all leases went only when its own is there
// again. It must notice all the same that the store lost its memory.
func TestManagerHoldsThoughItIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a, b := startNode(t, server, 1), startNode(t, server, 2)
		a.wantRoutes(b)
		a.store.SetFaults(memory.Faults{Events: 10 * time.Second})
		b.store.SetFaults(memory.Faults{Err: errors.New("cut off")})
		synctest.Wait()
		server.DeleteAll()
		time.Sleep(time.Second)
		if n := len(server.Snapshot().Records); n != 1 {
			t.Fatalf("%d leases, want a's own put back before its watch tells", n)
		}
		time.Sleep(time.Minute)
		a.wantRoutes(b)
		if r := a.routes.everRemoved(); len(r) != 0 {
			t.Errorf("removed %v", r)
		}
		time.Sleep(DefaultHold)
		synctest.Wait()
		if got := a.routes.wanted(); len(got) != 0 {
			t.Errorf("routes %v after the hold time", got)
		}
	})
}

// The same for a node that is waiting for its subnet back from somebody, who is
// lost together with all others.
func TestManagerHoldsThoughItWasTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a, b := startNode(t, server, 1), startNode(t, server, 2)
		a.wantRoutes(b)
		server.Put(a.lease().Key.String(), []byte("{}"), 0)
		time.Sleep(time.Second)
		a.store.SetFaults(memory.Faults{Events: 10 * time.Second})
		b.store.SetFaults(memory.Faults{Err: errors.New("cut off")})
		synctest.Wait()
		server.DeleteAll()
		time.Sleep(time.Minute)
		a.wantRoutes(b)
		if st := a.m.Status(); st.State != StateHeld {
			t.Errorf("%v, waiting for %v", st.State, st.Waiting)
		}
		if r := a.routes.everRemoved(); len(r) != 0 {
			t.Errorf("removed %v", r)
		}
	})
}

// The same for a node that joined while it happened, and had been shown its lease
// of before.
func TestManagerHoldsThoughItJustCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a, b := startNode(t, server, 1), startNode(t, server, 2)
		a.wantRoutes(b)
		a.end()
		b.end()
		again := startNode(t, server, 1, func(c *Config) {
			c.Store.(*memory.Store).SetFaults(memory.Faults{Events: 10 * time.Second})
		})
		time.Sleep(5 * time.Second) // its first snapshot is under way
		server.DeleteAll()
		time.Sleep(6 * time.Second) // it has arrived, and a lease was created after it
		again.store.SetFaults(memory.Faults{})
		time.Sleep(time.Minute)
		again.wantRoutes(b)
		if r := again.routes.everRemoved(); len(r) != 0 {
			t.Errorf("removed %v", r)
		}
	})
}

// A restart after a wipe lets routes linger also if the answer to its first claim
// was lost, so that the second one finds a lease.
func TestManagerLingersThoughAnswerWasLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startNode(t, server, 1, func(c *Config) { c.Store.(*memory.Store).SetFaults(memory.Faults{LoseAnswers: 1}) })
		a.lease()
		synctest.Wait()
		if sets := a.routes.sets; len(sets) == 0 || !sets[0].Linger || !slices.Equal(sets[0].Own, chosen(a.lease().Key)) {
			t.Errorf("sets %+v, want the first to linger, but not on its own subnet", sets)
		}
	})
}

// A lease that is in the store again is taken back, whether or not it fits.
func TestManagerTakesBackWhatNoLongerFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startNode(t, server, 1)
		k := a.lease().Key
		server.SetConfig(testNetwork(t, `{"Network":"10.7.0.0/16","Backend":{"Type":"host-gw"}}`))
		server.Delete(k.String())
		time.Sleep(time.Second)
		server.Put(k.String(), []byte(`{"PublicIP":"172.17.42.41","PublicIPv6":null,"BackendType":"host-gw"}`), time.Hour)
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		if st := a.m.Status(); st.State != StateHeld || st.Record.Lease.Key != k || len(server.Snapshot().Records) != 1 {
			t.Errorf("%v with %s, store %v; want %v held and kept", st.State, st.Record.Name, server.Snapshot().Records, k)
		}
	})
}

// A node that holds its lease waits for nothing, also while it cannot look how
// the lease stands.
func TestManagerHeldWaitsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startNode(t, server, 1)
		k := a.lease().Key
		a.store.SetFaults(memory.Faults{Request: 10 * time.Second})
		server.Put(k.String(), []byte(`{"PublicIP":"172.17.42.41","PublicIPv6":null,"BackendType":"host-gw","Note":1}`), 0)
		time.Sleep(5 * time.Second) // a snapshot is under way
		a.store.SetFaults(memory.Faults{Err: errors.New("cut off")})
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := a.m.Status(); st.State != StateHeld || st.Waiting != nil {
			t.Errorf("%v, waiting for %v", st.State, st.Waiting)
		}
		if n := a.log.count("waiting to join"); n != 0 {
			t.Errorf("%d log lines of waiting", n)
		}
	})
}

// A claim that was on its way while the store lost everything must not meet
// another config under the same revision.
func TestManagersOverlapNeverAfterWipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memory.NewServer()
		config := func(length int) {
			server.PutConfig(fmt.Appendf(nil, `{"Network":"10.0.0.0/26","SubnetLen":%d,"Backend":{"Type":"host-gw"}}`, length))
		}
		config(30)
		slow := startNode(t, server, 1, func(c *Config) {
			c.Store.(*memory.Store).SetFaults(memory.Faults{Request: time.Minute})
		})
		time.Sleep(time.Second)
		server.Wipe()
		config(28)
		var nodes []*testNode
		for i := range 3 {
			nodes = append(nodes, startNode(t, server, 2+i))
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		slow.end()
		for _, n := range nodes {
			n.lease()
		}
		records := server.Snapshot().Records
		for i, r := range records {
			for _, o := range records[:i] {
				if r.Lease.Key.Overlaps(o.Lease.Key) {
					t.Errorf("%s of %v overlaps %s of %v", r.Name, r.Lease.Holder.PublicIP, o.Name, o.Lease.Holder.PublicIP)
				}
			}
		}
	})
}

// Of two overlapping peers that the store shows no more, the one that it showed
// last keeps the route; and one that it shows has it at once.
func TestPeerTableMissingYields(t *testing.T) {
	table := newPeerTable()
	table.policy = testPolicy()
	dead, living := lease4("192.168.6.0/25", "172.17.42.41", 1), lease4("192.168.6.0/26", "172.17.42.42", 2)
	routed := func() (gateway string) {
		for _, r := range table.wantedRoutes() {
			gateway += r.Gateway.String()
		}
		return gateway
	}
	table.update([]subnet.Record{dead, living}, nil, testTime)
	table.delta()
	if got := routed(); got != "172.17.42.41" {
		t.Fatalf("route through %s, want the older lease's", got)
	}
	table.miss(map[string]struct{}{living.Name: {}}, testTime)
	table.update([]subnet.Record{living}, nil, testTime)
	table.delta()
	if got := routed(); got != "172.17.42.42" {
		t.Errorf("route through %s, want that of the lease which is there", got)
	}
	table.miss(nil, testTime.Add(time.Minute))
	table.missAgain(testTime.Add(2 * time.Minute))
	table.update(nil, nil, testTime.Add(2*time.Minute))
	table.delta()
	if got := routed(); got != "172.17.42.42" {
		t.Errorf("route through %s, want that of the lease which was there last", got)
	}
}
