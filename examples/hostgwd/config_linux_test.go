package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	process "github.com/hostgw/hostgw/examples/internal/daemon"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/store/etcd"
)

// configure writes the network config into the etcd that host 0 began.
func (s *segment) configure(config string) {
	s.t.Helper()
	client, err := etcd.Dial(etcd.ClientConfig{Endpoints: []string{"unix://" + filepath.Join(s.dir, "etcd", "etcd.sock")}})
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Put(s.context(), "/coreos.com/network/config", config); err != nil {
		s.t.Fatal(err)
	}
}

// inNetwork waits until a host's subnet file names a network, and returns the subnet.
func (s *segment) inNetwork(p *process.Process, network string) (own netip.Prefix) {
	s.t.Helper()
	eventually(s.t, network+" in the subnet file", func() bool {
		env, err := p.Env(s.context())
		own = env.Key().IPv4
		return err == nil && env.Network.String() == network
	})
	return own
}

// The config changes under two running hosts, of which the second one moves if its
// lease no longer fits.
func TestConfigChanges(t *testing.T) {
	s := newSegment(t, 2)
	stays := s.begin()
	before := s.join(stays).Key().IPv4
	moves := s.start(1, "-etcd-endpoints", s.url(0), "-move-on-loss")
	moved := s.join(moves).Key().IPv4
	// routed waits until each host has the route to the other's subnet, and no other.
	routed := func(subnets ...netip.Prefix) {
		t.Helper()
		for host, p := range subnets {
			want := fmt.Sprintf("%v via %v dev eth0 proto 104", p, s.Hosts[host].IPv4)
			eventually(t, want, func() bool { return slices.Equal(s.routes(1-host, netlinkx.DefaultProtocol), []string{want}) })
		}
	}
	routed(before, moved)

	// Wider: in force at once, with the same subnets.
	s.configure(`{"Network":"192.160.0.0/12","SubnetLen":26,"SubnetMax":"192.175.0.0","Backend":{"Type":"host-gw"}}`)
	if own := s.inNetwork(stays, "192.160.0.0/12"); own != before {
		t.Errorf("has %v in a wider network, had %v", own, before)
	}
	if own := s.inNetwork(moves, "192.160.0.0/12"); own != moved {
		t.Errorf("has %v in a wider network, had %v", own, moved)
	}
	routed(before, moved)

	// Broken: refused, and told; the last good one stays in force.
	s.configure(`{"Network":"192.160.0.0/12","SubnetLen":31,"Backend":{"Type":"host-gw"}}`)
	for host := range 2 {
		eventually(t, "the broken config is a problem", func() bool {
			return strings.Contains(strings.Join(s.report(host).Problems, "\n"), "SubnetLen is 31")
		})
	}
	routed(before, moved)

	// Elsewhere: who moves does so at once; who stays says so, until its next start.
	s.configure(`{"Network":"10.7.0.0/16","SubnetLen":24,"Backend":{"Type":"host-gw"}}`)
	moved = s.inNetwork(moves, "10.7.0.0/16")
	if !netip.MustParsePrefix("10.7.0.0/16").Contains(moved.Addr()) {
		t.Errorf("moved to %v", moved)
	}
	eventually(t, "the lease that no longer fits is a problem", func() bool {
		return strings.Contains(strings.Join(s.report(0).Problems, "\n"), "no longer fits")
	})
	routed(before, moved)
	if code, err := stays.Stop(); code != exitOK || err != nil {
		t.Fatalf("stopped with status %d, %v", code, err)
	}
	again := s.begin()
	own := s.inNetwork(again, "10.7.0.0/16")
	if own.Overlaps(moved) {
		t.Errorf("leased %v, and the other host has %v", own, moved)
	}
	// The other host was without etcd meanwhile, and holds the old route for a while.
	want := fmt.Sprintf("%v via %v dev eth0 proto 104", own, s.Hosts[0].IPv4)
	eventually(t, want, func() bool { return slices.Contains(s.routes(1, netlinkx.DefaultProtocol), want) })
	if leases := s.leases(0); len(leases) != 2 {
		t.Errorf("leases %+v, want one for each host", leases)
	}
}
