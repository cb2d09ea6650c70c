package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/examples/internal/daemon"
	"github.com/hostgw/hostgw/examples/internal/embedded"
	"github.com/hostgw/hostgw/examples/internal/netns"
	"github.com/hostgw/hostgw/netlinkx"
)

const (
	endpoint = "127.0.0.1:2379" // in the host's namespace
	prefix   = "/coreos.com/network"
	config   = `{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"host-gw"}}`
	patience = time.Minute
)

// bench is an etcd, a hostgwd program, and one host on a segment with room for a
// million gateways.
type bench struct {
	dir     string
	program string
	etcd    *embedded.Server
	host    *netns.Namespace
	segment *netns.Namespace
}

func newBench(ctx context.Context, program string) (*bench, error) {
	dir, err := os.MkdirTemp("", "hostgw-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{dir: dir, program: program}
	if program == "" {
		if b.program, err = daemon.Build(ctx, dir, os.Stderr); err != nil {
			return nil, errors.Join(err, b.close())
		}
	}
	if err := b.newHost(); err != nil {
		return nil, errors.Join(err, b.close())
	}
	// It listens in the host's namespace, where hostgwd finds it over TCP.
	err = b.host.Do(func() (err error) {
		b.etcd, err = embedded.Start(ctx, embedded.Config{
			Dir:    filepath.Join(dir, "etcd"),
			Listen: []url.URL{{Scheme: "http", Host: endpoint}},
			Logger: slog.New(slog.DiscardHandler),
		})
		return err
	})
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *bench) newHost() (err error) {
	if b.segment, err = netns.New("bench-segment"); err != nil {
		return err
	}
	if b.host, err = netns.New("bench-host"); err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return b.host.AddVeth("eth0", b.segment, "peer", 1500) },
		func() error { return b.host.AddAddress("eth0", netip.MustParsePrefix("172.16.0.1/12")) },
		func() error { return b.segment.SetUp("peer") },
		func() error { return b.host.SetUp("eth0") },
		func() error { return b.host.WaitRunning("eth0") },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) close() error {
	if b.host != nil {
		_ = b.host.Close()
	}
	if b.segment != nil {
		_ = b.segment.Close()
	}
	if b.etcd != nil {
		b.etcd.Close()
	}
	return os.RemoveAll(b.dir)
}

// peer returns the subnet and the gateway of the i-th peer.
func peer(i int) (netip.Prefix, netip.Addr) {
	i++ // the first subnet is never leased, and the first gateway is the host
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24),
		netip.AddrFrom4([4]byte{172, 17 + byte(i>>16), byte(i >> 8), byte(i)})
}

// moved is another gateway of the i-th peer.
func moved(i, times int) netip.Addr {
	_, g := peer(i)
	a := g.As4()
	a[1] += 4 * byte(1+times%2)
	return netip.AddrFrom4(a)
}

func putLease(i int, gateway netip.Addr) clientv3.Op {
	subnet, _ := peer(i)
	return clientv3.OpPut(
		prefix+"/subnets/"+subnet.Addr().String()+"-"+strconv.Itoa(subnet.Bits()),
		`{"PublicIP":"`+gateway.String()+`","PublicIPv6":null,"BackendType":"host-gw"}`)
}

// fill makes etcd hold the config and the leases of n peers, and nothing else.
func (b *bench) fill(ctx context.Context, n int) error {
	c := b.etcd.Client()
	if _, err := c.Delete(ctx, prefix, clientv3.WithPrefix()); err != nil {
		return err
	}
	if _, err := c.Put(ctx, prefix+"/config", config); err != nil {
		return err
	}
	for some := range slices.Chunk(indices(n), 100) {
		var ops []clientv3.Op
		for _, i := range some {
			_, gateway := peer(i)
			ops = append(ops, putLease(i, gateway))
		}
		if _, err := c.Txn(ctx).Then(ops...).Commit(); err != nil {
			return fmt.Errorf("filling etcd: %w", err)
		}
	}
	return nil
}

func indices(n int) []int {
	is := make([]int, n)
	for i := range is {
		is[i] = i
	}
	return is
}

// start starts hostgwd on the host, without a subnet.env of an earlier run.
func (b *bench) start() (*daemon.Process, error) {
	dir := filepath.Join(b.dir, "host")
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	return daemon.Start(b.host, daemon.Options{
		Program: b.program,
		Dir:     dir,
		Args:    []string{"-etcd-endpoints", "http://" + endpoint, "-iface", "eth0", "-iptables-forward-rules=false"},
	})
}

// joined starts hostgwd with n peers and waits until it has their routes.
func (b *bench) joined(ctx context.Context, n int) (*daemon.Process, error) {
	if err := b.fill(ctx, n); err != nil {
		return nil, err
	}
	events, err := b.listen()
	if err != nil {
		return nil, err
	}
	defer events.close()
	p, err := b.start()
	if err != nil {
		return nil, err
	}
	if _, err := events.wait(ctx, n, added); err != nil {
		p.Kill()
		return nil, fmt.Errorf("waiting for %d routes: %w; hostgwd says:\n%s", n, err, p.Log())
	}
	return p, nil
}

// flush removes all routes that are not the kernel's own.
func (b *bench) flush() error {
	for _, protocol := range []uint8{netlinkx.DefaultProtocol, 3} {
		if err := b.ip(nil, "route", "flush", "proto", strconv.Itoa(int(protocol))); err != nil {
			return err
		}
	}
	return nil
}
