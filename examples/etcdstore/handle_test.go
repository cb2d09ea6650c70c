package etcdstore

import (
	"errors"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/examples/internal/etcdtest"
	"github.com/hostgw/hostgw/subnet"
)

// TestKilledBetween ends a claim between the grant of the etcd lease and the
// transaction, as kill -9 would: the next start must not leave that one behind.
func TestKilledBetween(t *testing.T) {
	server := etcdtest.Start(t, nil)
	network(t, server.Operator())
	m := &meter{before: func(method string) error {
		if strings.HasSuffix(method, "/Txn") {
			return errors.New("killed")
		}
		return nil
	}}
	if _, err := try(t.Context(), m.open(t, server.Endpoint()), 1); err == nil {
		t.Fatal("the claim was not spoilt")
	}
	if n := len(leasesOf(t, server.Operator())); n != 1 {
		t.Fatalf("%d etcd leases after half a claim", n)
	}
	r := take(t, open(t, server.Endpoint()), 1)
	ids := leasesOf(t, server.Operator())
	if len(ids) != 1 || !ids[clientv3.LeaseID(r.Token)] {
		t.Errorf("etcd leases %v, want only that of %+v", ids, r)
	}
}

// TestForeignHandle has the etcd lease that a node would ask for be in use for
// something else already.
func TestForeignHandle(t *testing.T) {
	server := etcdtest.Start(t, nil)
	c := server.Operator()
	network(t, c)
	store := open(t, server.Endpoint())
	r := take(t, store, 1)
	if err := store.Release(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	id := clientv3.LeaseID(r.Token)
	if _, err := clientv3.RetryLeaseClient(c).LeaseGrant(t.Context(), grantRequest(id)); err != nil {
		t.Fatal(err)
	}
	put(t, c, "/somebody/else", "1", clientv3.WithLease(id))

	r = take(t, store, 1)
	if r.Token == int64(id) {
		t.Error("claimed on somebody else's etcd lease")
	}
	if err := store.Release(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if ids := leasesOf(t, c); len(ids) != 1 || !ids[id] {
		t.Errorf("etcd leases %v, want only %v", ids, id)
	}
	if got, err := c.Get(t.Context(), "/somebody/else"); err != nil || len(got.Kvs) != 1 {
		t.Errorf("somebody else's key: %v, %v", got, err)
	}
}

// TestTTLChanged starts a node again with another TTL after it had been granted
// an etcd lease and did not come to use it.
func TestTTLChanged(t *testing.T) {
	server := etcdtest.Start(t, nil)
	c := server.Operator()
	network(t, c)
	store := open(t, server.Endpoint())
	r := take(t, store, 1)
	if err := store.Release(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	id := clientv3.LeaseID(r.Token)
	if _, err := clientv3.RetryLeaseClient(c).LeaseGrant(t.Context(), grantRequest(id)); err != nil {
		t.Fatal(err)
	}
	take(t, store, 1)
	ttl, err := c.TimeToLive(t.Context(), id)
	if err != nil || ttl.GrantedTTL != int64((24*time.Hour).Seconds()) {
		t.Errorf("the etcd lease has the TTL %v, %v", ttl.GrantedTTL, err)
	}
}

// TestFlanneld takes over the lease of a flanneld, whose etcd lease has an ID of
// etcd's choice, and moves on from it.
func TestFlanneld(t *testing.T) {
	server := etcdtest.Start(t, nil)
	c := server.Operator()
	network(t, c)
	grant, err := c.Grant(t.Context(), 86400)
	if err != nil {
		t.Fatal(err)
	}
	put(t, c, prefix+"/subnets/"+key(1).String(), `{"PublicIP":"172.16.0.1","PublicIPv6":null,"BackendType":"host-gw"}`, clientv3.WithLease(grant.ID))
	store := open(t, server.Endpoint())
	r := take(t, store, 1)
	if r.Token != int64(grant.ID) || r.Created != r.Modified {
		t.Errorf("took over %+v from etcd lease %v", r, grant.ID)
	}
	sn, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	moved, err := store.Claim(t.Context(), subnet.Claim{
		Lease:          subnet.Lease{Key: key(7), Holder: holder(1)},
		ConfigRevision: sn.Config.Revision,
		Drop:           []subnet.Record{r},
		TTL:            24 * time.Hour,
		Node:           who(1),
	})
	if err != nil {
		t.Fatal(err)
	}
	if ids := leasesOf(t, c); len(ids) != 1 || !ids[clientv3.LeaseID(moved.Token)] {
		t.Errorf("after a move the etcd leases are %v, want only that of %+v", ids, moved)
	}
}

// TestHandleLeft has an operator, with nothing but etcdctl, make a reservation of a
// lease, or delete one that was a flanneld's: neither may leave the etcd lease behind
// for the day that it lives.
func TestHandleLeft(t *testing.T) {
	server := etcdtest.Start(t, nil)
	c := server.Operator()
	network(t, c)
	store := open(t, server.Endpoint())
	value, err := holder(1).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	r := take(t, store, 1)
	ended, _ := kept(t, store, r, 1)
	put(t, c, prefix+"/subnets/"+r.Name, string(value))
	lost(t, ended)
	if r = take(t, store, 1); !r.Reserved() {
		t.Errorf("the reservation is %+v", r)
	}
	if ids := leasesOf(t, c); len(ids) != 0 {
		t.Errorf("etcd leases %v for a reservation", ids)
	}
	if u := list(t, store)[r.Name].User; u != who(1) {
		t.Errorf("the reservation is used by %+v", u)
	}
	if err := store.ReleaseKey(t.Context(), r.Name); err != nil {
		t.Fatal(err)
	}

	grant, err := c.Grant(t.Context(), 86400)
	if err != nil {
		t.Fatal(err)
	}
	put(t, c, prefix+"/subnets/"+r.Name, string(value), clientv3.WithLease(grant.ID))
	r = take(t, store, 1)
	ended, _ = kept(t, store, r, 1)
	if _, err := c.Delete(t.Context(), prefix+"/subnets/"+r.Name); err != nil {
		t.Fatal(err)
	}
	lost(t, ended)
	r = take(t, store, 1)
	if ids := leasesOf(t, c); len(ids) != 1 || !ids[clientv3.LeaseID(r.Token)] {
		t.Errorf("etcd leases %v, want only that of %+v", ids, r)
	}

	// Its own one is used again.
	ended, _ = kept(t, store, r, 1)
	if _, err := c.Delete(t.Context(), prefix+"/subnets/"+r.Name); err != nil {
		t.Fatal(err)
	}
	lost(t, ended)
	if now := take(t, store, 1); now.Token != r.Token || len(leasesOf(t, c)) != 1 {
		t.Errorf("after %+v was deleted, %+v is one of the etcd leases %v", r, now, leasesOf(t, c))
	}
}

// TestRevokeLost has a claim be applied whose answer got lost, and be made again
// by somebody who has not seen that yet: it needs an etcd lease of its own, which
// is in vain, and cannot be revoked just then. The next claim must end it.
func TestRevokeLost(t *testing.T) {
	server := etcdtest.Start(t, nil)
	network(t, server.Operator())
	m := &meter{}
	store := m.open(t, server.Endpoint())
	before, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	claim := subnet.Claim{
		Lease:          subnet.Lease{Key: key(1), Holder: holder(1)},
		ConfigRevision: before.Config.Revision,
		TTL:            24 * time.Hour,
		Node:           who(1),
	}
	spoil := func(suffix string) func(string) error {
		return func(method string) error {
			if strings.HasSuffix(method, suffix) {
				return errors.New("lost")
			}
			return nil
		}
	}
	m.after = spoil("/Txn")
	if _, err := store.Claim(t.Context(), claim); err == nil || errors.Is(err, subnet.ErrConflict) {
		t.Fatalf("the claim was not spoilt: %v", err)
	}
	m.after, m.before = nil, spoil("/LeaseRevoke")
	if _, err := store.Claim(t.Context(), claim); !errors.Is(err, subnet.ErrConflict) {
		t.Fatalf("the claim was taken back unseen: %v", err)
	}
	m.before = nil
	if n := len(leasesOf(t, server.Operator())); n != 2 {
		t.Fatalf("%d etcd leases after two claims, want one that is in vain", n)
	}
	r := take(t, store, 1)
	if ids := leasesOf(t, server.Operator()); len(ids) != 1 || !ids[clientv3.LeaseID(r.Token)] {
		t.Errorf("etcd leases %v, want only that of %+v", ids, r)
	}
}
