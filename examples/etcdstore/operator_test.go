package etcdstore

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/examples/internal/etcdtest"
	"github.com/hostgw/hostgw/store/etcd"
	"github.com/hostgw/hostgw/subnet"
)

func list(t *testing.T, s *etcd.Store) map[string]etcd.Listed {
	t.Helper()
	_, all, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]etcd.Listed{}
	for _, l := range all {
		byName[l.Name] = l
	}
	return byName
}

func TestInitConfig(t *testing.T) {
	server := etcdtest.Start(t, nil)
	store := open(t, server.Endpoint())
	if _, err := store.Reserve(t.Context(), subnet.Lease{Key: key(1), Holder: holder(1)}); !errors.Is(err, subnet.ErrNoConfig) {
		t.Errorf("Reserve without a config: %v", err)
	}
	small := subnet.Config{IPv4: subnet.Range{Network: netip.MustParsePrefix("10.1.0.0/16")}}
	large := subnet.Config{IPv4: subnet.Range{Network: netip.MustParsePrefix("10.0.0.0/8")}}
	is := func(want string) {
		t.Helper()
		sn, err := store.Snapshot(t.Context())
		if err != nil || sn.Config.Err != nil || sn.Config.Config.IPv4.Network.String() != want || sn.Config.Config.IPv4.SubnetLen != 24 {
			t.Errorf("the config is %+v, %v; want %s", sn.Config, err, want)
		}
	}
	if done, err := store.InitConfig(t.Context(), small); err != nil || !done {
		t.Errorf("InitConfig: %v, %v", done, err)
	}
	is("10.1.0.0/16")
	if done, err := store.InitConfig(t.Context(), large); err != nil || done {
		t.Errorf("InitConfig when there is one: %v, %v", done, err)
	}
	is("10.1.0.0/16")
	if err := store.PutConfig(t.Context(), large); err != nil {
		t.Error(err)
	}
	is("10.0.0.0/8")
	var broken *subnet.ConfigError
	if err := store.PutConfig(t.Context(), subnet.Config{}); !errors.As(err, &broken) {
		t.Errorf("PutConfig of nothing: %v", err)
	}
}

func TestReserveAndRelease(t *testing.T) {
	server := etcdtest.Start(t, nil)
	network(t, server.Operator())
	store := open(t, server.Endpoint())
	r := take(t, store, 1)
	take(t, store, 2)
	ended, _ := kept(t, store, r, 1)

	all := list(t, store)
	if l := all[r.Name]; len(all) != 2 || l.Reserved() || l.Left < 23*time.Hour || l.Left > 24*time.Hour || l.User != who(1) {
		t.Errorf("listed %+v of %d", l, len(all))
	}

	// The node that has it: its lease becomes the reservation, under its feet.
	reserved, err := store.Reserve(t.Context(), r.Lease)
	if err != nil || !reserved.Reserved() || reserved.Created != r.Created {
		t.Fatalf("Reserve: %+v, %v", reserved, err)
	}
	lost(t, ended)
	if got := take(t, store, 1); !got.Reserved() || got.Modified != reserved.Modified {
		t.Errorf("took back the reservation %+v as %+v", reserved, got)
	}
	if ids := leasesOf(t, server.Operator()); ids[clientv3.LeaseID(r.Token)] {
		t.Error("the etcd lease of the lease that became a reservation is left behind")
	}

	refuse := func(k, why string, want error) {
		t.Helper()
		at, err := subnet.ParseKey(k)
		if err != nil {
			t.Fatal(err)
		}
		_, err = store.Reserve(t.Context(), subnet.Lease{Key: at, Holder: holder(9)})
		if err == nil || !strings.Contains(err.Error(), why) || want != nil && !errors.Is(err, want) {
			t.Errorf("Reserve(%s): %v, want: %s", k, err, why)
		}
	}
	refuse(key(1).String(), "overlaps 10.0.1.0-24", nil)
	refuse(key(2).String(), "overlaps 10.0.2.0-24", nil)
	refuse("10.0.2.128-25", "overlaps 10.0.2.0-24", nil)
	refuse("10.0.0.0-16", "overlaps", nil)
	refuse("11.0.0.0-24", "not inside", nil)
	refuse("fd00::-64", "not inside", nil)

	if err := store.ReleaseKey(t.Context(), key(2).String()); err != nil {
		t.Error(err)
	}
	if err := store.ReleaseKey(t.Context(), key(1).String()); err != nil {
		t.Error(err)
	}
	if err := store.ReleaseKey(t.Context(), key(1).String()); !errors.Is(err, etcd.ErrNoLease) {
		t.Errorf("releasing it again: %v", err)
	}
	if all := list(t, store); len(all) != 0 {
		t.Errorf("after all were released: %v", all)
	}
	if ids := leasesOf(t, server.Operator()); len(ids) != 0 {
		t.Errorf("etcd leases left behind: %v", ids)
	}
	if got, err := server.Operator().Get(t.Context(), prefix, clientv3.WithPrefix()); err != nil || len(got.Kvs) != 1 {
		t.Errorf("left behind: %v, %v", got.Kvs, err)
	}
}

// TestReserveBusy reserves while others come and go, just between its look and its
// write.
func TestReserveBusy(t *testing.T) {
	server := etcdtest.Start(t, nil)
	network(t, server.Operator())
	others := 0
	m := &meter{before: func(method string) error {
		if others > 0 && strings.HasSuffix(method, "/Txn") {
			others--
			put(t, server.Operator(), prefix+"/subnets/"+key(9).String(), `{"PublicIP":"172.16.0.9","BackendType":"host-gw"}`)
		}
		return nil
	}}
	store := m.open(t, server.Endpoint())
	others = 9
	if _, err := store.Reserve(t.Context(), subnet.Lease{Key: key(1), Holder: holder(1)}); err != nil {
		t.Errorf("the store was changed nine times: %v", err)
	}
	others = 1000
	if _, err := store.Reserve(t.Context(), subnet.Lease{Key: key(2), Holder: holder(2)}); !errors.Is(err, subnet.ErrConflict) || others != 990 {
		t.Errorf("the store was changed each time: %v, after %d times", err, 1000-others)
	}
}

// TestReserveOffGrid reserves what the config would not cut while a node is
// about to claim a subnet inside it.
func TestReserveOffGrid(t *testing.T) {
	server := etcdtest.Start(t, nil)
	network(t, server.Operator())
	store := open(t, server.Endpoint())
	sn, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wide, err := subnet.ParseKey("10.0.0.0-16")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Reserve(t.Context(), subnet.Lease{Key: wide, Holder: holder(9)}); err != nil {
		t.Fatal(err)
	}
	_, err = store.Claim(t.Context(), subnet.Claim{
		Lease:          subnet.Lease{Key: key(7), Holder: holder(1)},
		ConfigRevision: sn.Config.Revision,
		TTL:            time.Hour,
		Node:           who(1),
	})
	if !errors.Is(err, subnet.ErrConflict) {
		t.Errorf("a claim chosen before the reservation: %v, want a conflict", err)
	}
	after, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after.Config.Config != sn.Config.Config || after.Config.Err != nil {
		t.Errorf("the config was changed from %+v to %+v", sn.Config, after.Config)
	}
	if names := slices.Collect(func(yield func(string) bool) {
		for _, r := range after.Records {
			yield(r.Name)
		}
	}); !slices.Equal(names, []string{wide.String()}) {
		t.Errorf("the leases are %v", names)
	}
}
