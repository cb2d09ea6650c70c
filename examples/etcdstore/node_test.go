package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/store/etcd"
	"github.com/hostgw/hostgw/subnet"
)

const prefix = "/coreos.com/network"

const configText = `{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"host-gw"}}`

// network stores the config.
func network(t *testing.T, c *clientv3.Client) {
	t.Helper()
	put(t, c, prefix+"/config", configText)
}

func put(t *testing.T, c *clientv3.Client, key, value string, options ...clientv3.OpOption) {
	t.Helper()
	if _, err := c.Put(t.Context(), key, value, options...); err != nil {
		t.Fatal(err)
	}
}

func address(i int) netip.Addr { return netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}) }

func key(i int) subnet.Key {
	return subnet.Key{IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)}
}

func leaseKey(i int) string { return prefix + "/subnets/" + key(i).String() }

func holder(i int) subnet.Holder {
	return subnet.Holder{PublicIP: address(i), BackendType: subnet.BackendType}
}

func who(i int) subnet.Node {
	return subnet.Node{Name: fmt.Sprintf("host%d", i), Instance: fmt.Sprintf("%x", i)}
}

// take has the i-th node take the i-th subnet, or take it back. It tries until
// the store can be reached.
func take(t *testing.T, s *etcd.Store, i int) subnet.Record {
	t.Helper()
	for begin := time.Now(); ; {
		r, err := try(t.Context(), s, i)
		if err == nil {
			return r
		}
		if errors.Is(err, subnet.ErrConflict) || time.Since(begin) > patience {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func try(ctx context.Context, s *etcd.Store, i int) (subnet.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	sn, err := s.Snapshot(ctx)
	if err != nil {
		return subnet.Record{}, err
	}
	c := subnet.Claim{
		Lease:          subnet.Lease{Key: key(i), Holder: holder(i)},
		ConfigRevision: sn.Config.Revision,
		TTL:            24 * time.Hour,
		Node:           who(i),
	}
	for _, r := range sn.Records {
		if r.Lease.Key == c.Lease.Key && r.Err == nil {
			c.Held = &r
		}
	}
	return s.Claim(ctx, c)
}

// takeFor has the i-th node create the i-th subnet's lease with that TTL.
func takeFor(t *testing.T, s *etcd.Store, i int, ttl time.Duration) subnet.Record {
	t.Helper()
	sn, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Claim(t.Context(), subnet.Claim{
		Lease:          subnet.Lease{Key: key(i), Holder: holder(i)},
		ConfigRevision: sn.Config.Revision,
		TTL:            ttl,
		Node:           who(i),
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// named is how a listener shows what take takes.
func named(i int) string { return fmt.Sprintf("%v=%v", key(i), address(i)) }

// open returns a store of its own at an endpoint.
func open(t *testing.T, endpoint string) *etcd.Store {
	t.Helper()
	return etcd.New(dial(t, etcd.ClientConfig{Endpoints: []string{endpoint}}), prefix)
}

// grantRequest asks for an etcd lease with that ID, for a minute.
func grantRequest(id clientv3.LeaseID) *pb.LeaseGrantRequest {
	return &pb.LeaseGrantRequest{ID: int64(id), TTL: 60}
}
