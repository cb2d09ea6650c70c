package scale

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/grpclog"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/netlinkx/netlinktest"
	"github.com/hostgw/hostgw/store/etcd"
	"github.com/hostgw/hostgw/subnet"
)

var (
	nodesFlag = flag.Int("scale.nodes", 200, "how many nodes join at the same moment")
	wholeFlag = flag.Int("scale.whole", 2000, "how many of the nodes keep all peers and routes; the others hear all events and keep their own lease only")
	calmFlag  = flag.Duration("scale.calm", 5*time.Second, "how long the steady network is watched")
)

const (
	prefix = "/cluster.hostgw/network"

	// patience is how long anything small may take on a busy machine.
	patience = 30 * time.Second
)

func TestMain(m *testing.M) {
	if where := os.Getenv(etcdVariable); where != "" {
		os.Exit(runEtcd(where))
	}
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(discard{}, discard{}, discard{}))
	os.Exit(m.Run())
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// network is the config of a network of n subnets: /24s from 10.0.0.0 on.
func network(n int) string {
	last := netip.AddrFrom4([4]byte{10, byte((n - 1) >> 8), byte(n - 1), 0})
	return fmt.Sprintf(`{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.0.0.0","SubnetMax":"%v","Backend":{"Type":"host-gw"}}`, last)
}

// hostAddress is the address of the i-th node, on one segment with all others.
func hostAddress(i int) netip.Addr {
	i++ // the network's own address is no host's
	return netip.AddrFrom4([4]byte{172, byte(16 + i>>16), byte(i >> 8), byte(i)})
}

// node is a host: a Manager with a connection of its own, and a fake kernel.
type node struct {
	address netip.Addr
	kernel  *netlinktest.Kernel
	manager *hostgw.Manager
	client  *clientv3.Client
	counts  *counts

	routes atomic.Int64 // in the kernel, as the programmer reports
	lease  hostgw.Joined
	err    error // what Run returned
	ended  chan struct{}
}

// counts is what the nodes met between them.
type counts struct {
	claims, conflicts, failures, outages atomic.Int64

	mu      sync.Mutex
	reasons map[string]int // why calls failed and watches broke
}

func (c *counts) failed(of *atomic.Int64, err error) {
	of.Add(1)
	text := err.Error()
	text = text[strings.LastIndex(text, "etcd: ")+len("etcd: "):] // without which lease it was
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reasons == nil {
		c.reasons = map[string]int{}
	}
	c.reasons[text]++
}

// newNode makes a node that is not running yet. One that is not whole does without
// the peers, whose number is what memory goes with; to etcd it is like the others.
func newNode(t *testing.T, s *server, i int, c *counts, whole bool) *node {
	t.Helper()
	n := &node{address: hostAddress(i), kernel: netlinktest.New(), counts: c, ended: make(chan struct{})}
	on := netip.PrefixFrom(n.address, 12)
	n.kernel.AddLink("eth0")
	n.kernel.SetUp("eth0", true)
	n.kernel.AddAddr("eth0", on)
	uplink, err := netlinkx.FindUplink(t.Context(), netlinkx.UplinkOptions{Name: "eth0", Dial: n.kernel.Dial})
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	programmer, err := netlinkx.NewProgrammer(netlinkx.Config{Uplink: uplink, Dial: n.kernel.Dial, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	if n.client, err = etcd.Dial(etcd.ClientConfig{Endpoints: []string{s.endpoint}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.client.Close() })
	store := etcd.New(n.client, prefix)
	var watcher hostgw.LeaseWatcher = store
	var hold time.Duration
	if !whole {
		watcher, hold = &lonely{LeaseWatcher: store, address: n.address}, 1
	}
	n.manager, err = hostgw.New(hostgw.Config{
		Store:      countingStore{store, c},
		Watcher:    watcher,
		Hold:       hold,
		Uplink:     uplink,
		Programmer: programmer,
		Node:       subnet.Node{Name: fmt.Sprintf("host%d", i)},
		Logger:     logger,
		Observe: func(e hostgw.Event) {
			switch e := e.(type) {
			case *hostgw.RouteEvent:
				n.routes.Store(int64(e.Stats.Added) - int64(e.Stats.Removed))
			case *hostgw.StoreEvent:
				if e.Err != nil {
					c.failed(&c.outages, e.Err)
				}
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// countingStore counts what claims come to.
type countingStore struct {
	*etcd.Store
	counts *counts
}

func (s countingStore) Claim(ctx context.Context, c subnet.Claim) (subnet.Record, error) {
	s.counts.claims.Add(1)
	r, err := s.Store.Claim(ctx, c)
	switch {
	case errors.Is(err, subnet.ErrConflict):
		s.counts.conflicts.Add(1)
	case err != nil && ctx.Err() == nil:
		s.counts.failed(&s.counts.failures, err)
	}
	return r, err
}

func (s countingStore) Snapshot(ctx context.Context) (subnet.Snapshot, error) {
	sn, err := s.Store.Snapshot(ctx)
	if err != nil && ctx.Err() == nil {
		s.counts.failed(&s.counts.failures, err)
	}
	return sn, err
}

// lonely is a watcher that shows the first snapshot, for the node to choose from,
// and from then on no lease but those of one address.
type lonely struct {
	hostgw.LeaseWatcher
	address netip.Addr
}

func (l *lonely) Watch(ctx context.Context, deliver func(subnet.Update)) error {
	others := func(r subnet.Record) bool { return r.Lease.Holder.PublicIP != l.address }
	begun := false
	return l.LeaseWatcher.Watch(ctx, func(u subnet.Update) {
		if u.Snapshot != nil && !begun {
			begun = true
			deliver(u)
		}
		if u.Snapshot != nil {
			s := *u.Snapshot
			s.Records = deleteFunc(s.Records, others)
			u.Snapshot = &s
		}
		u.Put, u.Deleted = deleteFunc(u.Put, others), nil
		deliver(u)
	})
}

// deleteFunc is slices.DeleteFunc on a copy.
func deleteFunc(all []subnet.Record, drop func(subnet.Record) bool) []subnet.Record {
	var left []subnet.Record
	for _, r := range all {
		if !drop(r) {
			left = append(left, r)
		}
	}
	return left
}

// crowd is nodes that run.
type crowd struct {
	nodes  []*node
	counts counts
	stop   context.CancelFunc
	began  time.Time
}

// gather makes n nodes, of which the first whole are whole, and then has all of
// them join at the same moment.
func gather(t *testing.T, s *server, n, whole int) *crowd {
	t.Helper()
	c := &crowd{}
	for i := range n {
		c.nodes = append(c.nodes, newNode(t, s, i, &c.counts, i < whole))
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	c.stop = func() {
		stop()
		running.Wait()
		for _, n := range c.nodes {
			n.client.Close()
		}
	}
	t.Cleanup(c.stop)
	start := make(chan struct{})
	for _, n := range c.nodes {
		running.Go(func() {
			defer close(n.ended)
			<-start
			n.err = n.manager.Run(ctx)
		})
	}
	c.began = time.Now()
	close(start)
	return c
}

// waitLeases waits until every node holds a lease.
func (c *crowd) waitLeases(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, n := range c.nodes {
		var err error
		if n.lease, err = n.manager.Lease(ctx); err != nil {
			t.Fatalf("%v: %v; %+v", n.address, err, n.manager.Status().Waiting)
		}
	}
}
