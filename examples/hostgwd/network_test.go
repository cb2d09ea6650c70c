package main

import (
	"log/slog"
	"net"
	"net/url"
	"testing"

	"github.com/hostgw/hostgw/examples/internal/embedded"
	"github.com/hostgw/hostgw/examples/internal/setting"
	"github.com/hostgw/hostgw/store/etcd"
	"github.com/hostgw/hostgw/subnet"
)

func startEtcd(t *testing.T) *embedded.Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := url.URL{Scheme: "http", Host: l.Addr().String()}
	l.Close()
	s, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: []url.URL{listen}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func wished(t *testing.T, args ...string) subnet.Config {
	t.Helper()
	r, err := setting.Parse(args, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := wishedNetwork(r.Values)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Who spoke last meant it: the flags when they change, whoever wrote the store
// when it was changed behind them.
func TestSeedOwn(t *testing.T) {
	const prefix = "/coreos.com/network"
	kv := startEtcd(t).Client()
	store := etcd.New(kv, prefix)
	stored := func() subnet.Config {
		t.Helper()
		snap, err := store.Snapshot(t.Context())
		if err != nil || snap.Config.Err != nil {
			t.Fatal(err, snap.Config.Err)
		}
		return snap.Config.Config
	}
	a := wished(t, "-network", "192.168.0.0/16", "-subnet-len", "26")
	b := wished(t, "-network", "10.0.0.0/8")
	operators := wished(t, "-network", "192.168.0.0/16", "-subnet-len", "26", "-subnet-min", "192.168.1.0")
	for i, step := range []struct {
		before *subnet.Config // written by somebody else
		flags  subnet.Config
		want   seeded
		stored subnet.Config
	}{
		{nil, a, seedWritten, a},
		{nil, a, seedKept, a},
		{nil, b, seedReplaced, b},
		{nil, a, seedReplaced, a},
		{&operators, a, seedDiffers, operators},
		{nil, a, seedDiffers, operators},
		{nil, operators, seedKept, operators},
		{nil, a, seedReplaced, a},
	} {
		if step.before != nil {
			if err := store.PutConfig(t.Context(), *step.before); err != nil {
				t.Fatal(err)
			}
		}
		got, err := seedOwn(t.Context(), kv, prefix, step.flags)
		if err != nil || got != step.want || stored() != step.stored {
			t.Fatalf("step %d: %v, %v, stored %+v", i, got, err, stored())
		}
	}

	// One that cannot be read is replaced by flags that are new, not by those
	// that somebody has overruled with it.
	if _, err := kv.Put(t.Context(), prefix+"/config", "nonsense"); err != nil {
		t.Fatal(err)
	}
	if got, err := seedOwn(t.Context(), kv, prefix, a); err != nil || got != seedDiffers {
		t.Errorf("the same flags over nonsense: %v, %v", got, err)
	}
	if got, err := seedOwn(t.Context(), kv, prefix, b); err != nil || got != seedReplaced || stored() != b {
		t.Errorf("new flags over nonsense: %v, %v", got, err)
	}
}

func TestWishedNetwork(t *testing.T) {
	if c := wished(t); c != (subnet.Config{}) {
		t.Errorf("without flags: %+v", c)
	}
	if c := wished(t, "-ipv6-network", "fd99::/48"); c.IPv4.IsValid() || c.IPv6.SubnetLen != 64 {
		t.Errorf("IPv6 alone: %+v", c)
	}
	r, err := setting.Parse([]string{"-network", "10.0.0.0/30", "-subnet-len", "30"}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wishedNetwork(r.Values); exitStatus(err) != exitUsage {
		t.Errorf("a network too small: %v", err)
	}
}
