package etcd

import (
	"net/netip"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/hostgw/hostgw/subnet"
)

func TestLayout(t *testing.T) {
	for given, want := range map[string]string{
		"/coreos.com/network":   "/coreos.com/network/config",
		"coreos.com/network":    "/coreos.com/network/config",
		"//coreos.com/network/": "/coreos.com/network/config",
		"/a":                    "/a/config",
		"":                      "/config",
		"/":                     "/config",
	} {
		if got := newLayout(given).config(); got != want {
			t.Errorf("the config under %q is %q, want %q", given, got, want)
		}
	}

	l := newLayout("/a")
	if got := l.lease("10.9.7.0-24"); got != "/a/subnets/10.9.7.0-24" {
		t.Errorf("a lease is at %q", got)
	}
	in := func(at span, key string) bool { return at.key <= key && key < at.end }
	for key, want := range map[string]bool{
		l.config():              true,
		l.lease("10.9.7.0-24"):  true,
		l.lease("fd00::-64"):    true,
		l.lease("\xff\xff\xff"): true,
		l.user("10.9.7.0-24"):   false, // would wake every peer
		"/a/subnets0":           false,
		"/b/config":             false,
	} {
		if got := in(l.all(), key); got != want {
			t.Errorf("the range watched includes %q: %v", key, got)
		}
	}
	for key, want := range map[string]string{
		"/a/subnets/10.9.7.0-24": "10.9.7.0-24",
		"/a/subnets/":            "",
		"/a/config":              "-",
		"/b/subnets/10.9.7.0-24": "-",
		"/a":                     "-",
	} {
		got, ok := l.leaseName([]byte(key))
		if !ok {
			got = "-"
		}
		if got != want {
			t.Errorf("the lease name of %q is %q, want %q", key, got, want)
		}
	}
}

func TestLeaseID(t *testing.T) {
	node := func(v4, v6 string) (h subnet.Holder) {
		if v4 != "" {
			h.PublicIP = netip.MustParseAddr(v4)
		}
		if v6 != "" {
			h.PublicIPv6 = netip.MustParseAddr(v6)
		}
		return h
	}
	l := newLayout("/a")
	one := l.leaseID(node("192.0.2.1", ""), 0)
	if one <= 0 || one != newLayout("a/").leaseID(node("192.0.2.1", "fd00::1"), 0) {
		t.Errorf("the same node gets another ID than %x", one)
	}
	seen := map[int64]string{one: "one"}
	for what, id := range map[string]int64{
		"another node":    l.leaseID(node("192.0.2.2", ""), 0),
		"an IPv6 node":    l.leaseID(node("", "fd00::1"), 0),
		"another network": newLayout("/b").leaseID(node("192.0.2.1", ""), 0),
		"another choice":  l.leaseID(node("192.0.2.1", ""), 1),
	} {
		if other, ok := seen[id]; ok || id <= 0 {
			t.Errorf("%s has the ID %x, as has %s", what, id, other)
		}
		seen[id] = what
	}
	// It must never change: the next release has to find what this one left.
	if one != 0x10d24e5d636a1924 {
		t.Errorf("the ID of 192.0.2.1 in /a is %#x", one)
	}
}

func TestSnapshotAndUpdate(t *testing.T) {
	l := &Store{layout: newLayout("/a")}
	kv := func(key, value string, lease int64) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), CreateRevision: 3, ModRevision: 4, Lease: lease}
	}
	const config = `{"Network":"10.9.0.0/16","Backend":{"Type":"host-gw"}}`
	const value = `{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"host-gw"}`
	kvs := []*mvccpb.KeyValue{
		kv("/a/config", config, 0),
		kv("/a/other", "not ours", 0),
		kv("/a/subnets/10.9.7.0-24", value, 5),
		kv("/a/subnets/10.9.8.0-24", value, 0),
		kv("/a/subnets/what", "ever", 6),
	}
	sn := l.snapshot(kvs, 9)
	if sn.Config.Err != nil || sn.Config.Revision != 4 || sn.Revision != 9 || len(sn.Records) != 3 {
		t.Fatalf("snapshot: %+v", sn)
	}
	if r := sn.Records[0]; r.Err != nil || r.Name != "10.9.7.0-24" || r.Token != 5 || r.Created != 3 || r.Modified != 4 || r.Reserved() {
		t.Errorf("a lease: %+v", r)
	}
	if r := sn.Records[1]; r.Err != nil || !r.Reserved() {
		t.Errorf("a reservation: %+v", r)
	}
	if r := sn.Records[2]; r.Err == nil || r.Name != "what" {
		t.Errorf("an unreadable lease: %+v", r)
	}

	put := func(kv *mvccpb.KeyValue) *mvccpb.Event { return &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: kv} }
	gone := func(key string) *mvccpb.Event {
		return &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: 5}}
	}
	u := l.update(latest([]*mvccpb.Event{
		put(kvs[0]), put(kvs[1]), put(kvs[2]), put(kvs[3]), put(kvs[4]),
		gone("/a/subnets/10.9.8.0-24"), gone("/a/config"), gone("/a/subnets/what"), put(kvs[4]),
	}))
	if u.Config == nil || u.Config.Err != subnet.ErrNoConfig || u.Config.Revision != 0 {
		t.Errorf("the config that was deleted: %+v", u.Config)
	}
	if len(u.Put) != 2 || u.Put[0].Name != "10.9.7.0-24" || u.Put[1].Name != "what" {
		t.Errorf("put: %+v", u.Put)
	}
	if len(u.Deleted) != 1 || u.Deleted[0] != "10.9.8.0-24" {
		t.Errorf("deleted: %v", u.Deleted)
	}
	if empty := l.snapshot([]*mvccpb.KeyValue{{Key: []byte("/a/config"), ModRevision: 2}}, 2); empty.Config.Err == nil || empty.Config.Err == subnet.ErrNoConfig {
		t.Errorf("an empty config: %+v", empty.Config)
	}
}

// FuzzUser shows that a rival's value cannot do harm.
func FuzzUser(f *testing.F) {
	f.Add(encodeUser(subnet.Node{Name: "host", Instance: "1"}))
	f.Add([]byte(`{"Node":1}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		n := decodeUser(value)
		if again := decodeUser(encodeUser(n)); again != n {
			t.Errorf("%q is read as %+v and then as %+v", value, n, again)
		}
	})
}
