package etcdstore

import (
	"fmt"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/examples/internal/etcdtest"
	"github.com/hostgw/hostgw/subnet"
)

// TestManagerExpired has a node be out of reach for longer than its lease lives. Its
// peer takes it for one that has left, and its own routes stay. It is back within a
// second.
func TestManagerExpired(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, nil)
	network(t, s.Operator())
	p := etcdtest.StartProxy(t, s.Address())
	other := manage(t, peer, at(s.Endpoint()))
	m := manage(t, self, at(p.Endpoint()), ttl(3*time.Second))
	other.awaits("it is routed", func() bool { return other.routes(self) })
	m.awaits("its peer is routed", func() bool { return m.routes(peer) })
	before := m.Status().Record

	p.Freeze()
	p.Cut()
	expired := other.awaits("its lease has expired", func() bool { return !other.routes(self) })
	t.Logf("expired after %v", expired.Round(time.Millisecond))
	p.Thaw()
	returned := time.Now()
	other.awaits("it is routed again", func() bool { return other.routes(self) })
	soon(t, time.Since(returned))
	m.awaits("it knows its lease", func() bool {
		return m.held() && m.heard() && m.Status().Record.Created == created(t, s.Operator(), self)
	})
	if now := m.Status().Record; now.Lease.Key != before.Lease.Key || now.Created == before.Created {
		t.Errorf("its lease was %+v and is %+v", before, now)
	}
	if n := m.kernel.Stats().DelRoutes; n > 0 || !m.routes(peer) {
		t.Errorf("it removed %d routes", n)
	}
	if b, e := m.log.count(saysBegin), m.log.count(saysEnd); b != 1 || e != 1 {
		t.Errorf("said %d times that the outage began and %d times that it ended, want once each", b, e)
	}
}

// TestManagerStoresNoTime looks at everything that a node leaves in etcd: there is no
// time in it that another host's clock could disagree with. How long the lease lives
// is etcd's to count, in seconds from when it was granted.
func TestManagerStoresNoTime(t *testing.T) {
	s := etcdtest.Start(t, nil)
	network(t, s.Operator())
	m := manage(t, self, at(s.Endpoint()))
	all, err := s.Operator().Get(t.Context(), "\x00", clientv3.WithFromKey())
	if err != nil {
		t.Fatal(err)
	}
	name := m.Status().Record.Name
	lease := fmt.Sprintf(`{"PublicIP":"%v","PublicIPv6":null,"BackendType":"host-gw"}`, address(self))
	user := fmt.Sprintf(`{"Node":%q,"Instance":%q}`, who(self).Name, who(self).Instance)
	want := map[string]string{prefix + "/subnets/" + name: lease, prefix + "/users/" + name: user}
	for _, kv := range all.Kvs {
		key := string(kv.Key)
		if key == prefix+"/config" {
			continue
		}
		if string(kv.Value) != want[key] {
			t.Errorf("etcd holds %s=%s, want %q", key, kv.Value, want[key])
		}
		delete(want, key)
	}
	if len(want) > 0 {
		t.Errorf("etcd does not hold %v", want)
	}
}

// TestManagerClaimedLate has a claim of an earlier try arrive when the node holds
// another lease already, on the same etcd lease. It is given back, and nothing else is.
func TestManagerClaimedLate(t *testing.T) {
	s := etcdtest.Start(t, nil)
	network(t, s.Operator())
	m := manage(t, self, at(s.Endpoint()))
	before := m.Status().Record
	value, err := holder(self).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	other := prefix + "/subnets/" + key(77).String()
	put(t, s.Operator(), other, string(value), clientv3.WithLease(clientv3.LeaseID(before.Token)))
	m.awaits("it is given back", func() bool {
		got, err := s.Operator().Get(t.Context(), other)
		return err == nil && len(got.Kvs) == 0
	})
	if now := m.Status().Record; !m.held() || now.Created != before.Created || created(t, s.Operator(), self) != before.Created {
		t.Errorf("its lease was %+v and is %+v", before, now)
	}
	if ids := leasesOf(t, s.Operator()); len(ids) != 1 {
		t.Errorf("etcd leases %v", ids)
	}
}

// TestManagerTwins has two hosts with one address. Each names the other, once.
func TestManagerTwins(t *testing.T) {
	s := etcdtest.Start(t, nil)
	network(t, s.Operator())
	twin := subnet.Node{Name: "twin", Instance: "of host1"}
	a := manage(t, self, at(s.Endpoint()))
	b := manage(t, self, at(s.Endpoint()), func(c *hostgw.Config) { c.Node = twin })
	told := func(m *manager, name string) func() bool {
		return func() bool { r := m.Status().Rival; return r != nil && r.Name == name && len(m.rivalsTold()) > 0 }
	}
	a.awaits("it knows its twin", told(a, "twin"))
	b.awaits("it knows its twin", told(b, "host1"))
	time.Sleep(2 * time.Second) // in which they could answer each other for ever
	for m, name := range map[*manager]string{a: "twin", b: "host1"} {
		if got := m.rivalsTold(); !slices.Equal(got, []string{name}) {
			t.Errorf("told of the rivals %q, want %q once", got, name)
		}
		if n := m.log.count("ERROR another process claims this node's lease"); n != 1 || m.log.count("ERROR") != 1 || m.log.count("other="+name) != 1 {
			t.Errorf("want one line about %s and no other error in\n%s", name, m.log)
		}
	}
}
