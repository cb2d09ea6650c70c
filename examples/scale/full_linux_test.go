package scale

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/subnet"
)

// A hundred nodes contend for the last subnet of a network: one gets it, and all
// others learn at once that there is none.
func TestLastSubnet(t *testing.T) {
	const subnets, contenders = 1000, 100
	s := startEtcd(t)
	s.put(t, prefix+"/config", network(subnets))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	last := netip.MustParsePrefix("10.0.77.0/24")
	var ops []clientv3.Op
	for i := range subnets {
		if p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24); p != last {
			value := fmt.Sprintf(`{"PublicIP":"172.31.%d.%d","PublicIPv6":null,"BackendType":"host-gw"}`, i>>8, i&255)
			ops = append(ops, clientv3.OpPut(prefix+"/subnets/"+subnet.Key{IPv4: p}.String(), value))
		}
		if len(ops) == 100 || i == subnets-1 {
			if _, err := s.client.Txn(ctx).Then(ops...).Commit(); err != nil {
				t.Fatal(err)
			}
			ops = nil
		}
	}

	c := gather(t, s, contenders, contenders)
	got := 0
	for _, n := range c.nodes {
		joined, err := n.manager.Lease(ctx)
		switch {
		case err == nil && joined.Lease.Key.IPv4 == last:
			got++
		case errors.Is(err, subnet.ErrNoFreeSubnet):
			select {
			case <-n.ended:
			case <-ctx.Done():
				t.Errorf("%v has no subnet and does not end", n.address)
			}
			if !errors.Is(n.err, subnet.ErrNoFreeSubnet) {
				t.Errorf("%v ended with %v", n.address, n.err)
			}
		default:
			t.Errorf("%v got %v, error %v", n.address, joined.Lease.Key, err)
		}
	}
	took := time.Since(c.began)
	t.Logf("%d nodes after one subnet of %d: decided after %v; %d claims, %d of them lost a race, %d calls failed", contenders, subnets,
		took.Round(time.Millisecond), c.counts.claims.Load(), c.counts.conflicts.Load(), c.counts.failures.Load())
	if got != 1 {
		t.Errorf("%d nodes got the last subnet", got)
	}
	if took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	if n := c.counts.claims.Load(); n > 2*contenders {
		t.Errorf("%d claims of %d nodes for one subnet", n, contenders)
	}
	leases, err := s.client.Leases(ctx)
	if err != nil || len(leases.Leases) != 1 {
		t.Errorf("etcd holds the etcd leases %v (%v), want the winner's alone", leases, err)
	}
}
