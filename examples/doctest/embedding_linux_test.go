package doctest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/netlinkx/netlinktest"
	"github.com/hostgw/hostgw/store/etcd"
	"github.com/hostgw/hostgw/store/memory"
	"github.com/hostgw/hostgw/subnet"
)

// run is the README's.
func run(ctx context.Context, client *clientv3.Client) error {
	uplink, err := netlinkx.FindUplink(ctx, netlinkx.UplinkOptions{})
	if err != nil {
		return err
	}
	m, err := hostgw.New(hostgw.Config{
		Store:  etcd.New(client, "/coreos.com/network"),
		Uplink: uplink,
	})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.Run(ctx) })
	g.Go(func() error {
		joined, err := m.Lease(ctx)
		if err == nil {
			fmt.Println("my containers live in", joined.Lease.Key.IPv4)
		}
		return err
	})
	return g.Wait()
}

var _ = run // compiled; examples/embed runs the like of it

// observer counts what an embedder may want to export.
type observer struct {
	log     *slog.Logger
	outages int
}

func (o *observer) observe(e hostgw.Event) {
	switch e := e.(type) {
	case *hostgw.LeaseEvent:
		o.log.Info("containers belong into", "subnet", e.Lease.Key, "before", e.Previous)
	case *hostgw.StoreEvent:
		if e.Err != nil {
			o.outages++
		}
	case *hostgw.RivalEvent:
		o.log.Error("another host has this one's address", "host", e.Rival.Name)
	}
}

// refused lists the peers that get no route, with the reason for each.
func refused(m *hostgw.Manager) map[string]hostgw.Reason {
	why := make(map[string]hostgw.Reason)
	for _, p := range m.Status().Peers {
		for _, r := range p.Routes {
			if r.Reason != hostgw.ReasonNone {
				why[p.Name] = r.Reason
			}
		}
	}
	return why
}

// ended says what to do about the error of Manager.Run.
func ended(err error) string {
	var lost *hostgw.SubnetLostError
	var full *subnet.FullError
	switch {
	case err == nil:
		return "its context ended"
	case errors.As(err, &lost) && lost.Err == nil:
		return fmt.Sprintf("move the containers: %s is %s's now", lost.Lost.Key, lost.Taken.Lease.Holder.PublicIP)
	case errors.As(err, &lost):
		return fmt.Sprintf("move the containers out of %s: %v", lost.Lost.Key, lost.Err)
	case errors.As(err, &full):
		return "widen the network"
	}
	return "the kernel's routes cannot be programmed: " + err.Error()
}

// dry is a route programmer that programs nothing: it takes every route for
// installed, and remembers which.
type dry struct {
	uplink netlinkx.Uplink
	wake   chan struct{} // with room for one

	mu     sync.Mutex
	wanted map[netip.Prefix]netlinkx.Route
	news   []netlinkx.RouteStatus
}

var _ hostgw.RouteProgrammer = (*dry)(nil)

func newDry(uplink netlinkx.Uplink) *dry {
	return &dry{uplink: uplink, wake: make(chan struct{}, 1), wanted: make(map[netip.Prefix]netlinkx.Route)}
}

func (d *dry) Run(ctx context.Context, report func(netlinkx.Report)) error {
	report(netlinkx.Report{Uplink: &d.uplink})
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		}
		d.mu.Lock()
		news := d.news
		d.news = nil
		d.mu.Unlock()
		report(netlinkx.Report{Routes: news})
	}
}

func (d *dry) Set(w netlinkx.Wanted) {
	d.mu.Lock()
	clear(d.wanted)
	d.mu.Unlock()
	d.Change(w.Routes, nil)
}

func (d *dry) Change(put []netlinkx.Route, remove []netip.Prefix) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range remove {
		delete(d.wanted, p)
	}
	for _, r := range put {
		d.wanted[r.Subnet] = r
		d.news = append(d.news, netlinkx.RouteStatus{Route: r, State: netlinkx.RouteInstalled, Since: time.Now()})
	}
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// A Manager on a fake kernel, in simulated time: a host that is silent for a day
// loses its lease, and its route goes.
func TestSilentPeerLosesItsRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kernel := netlinktest.New()
		kernel.AddLink("eth0")
		kernel.SetUp("eth0", true)
		kernel.AddAddr("eth0", netip.MustParsePrefix("172.17.42.40/24"))
		uplink, err := netlinkx.FindUplink(t.Context(), netlinkx.UplinkOptions{Name: "eth0", Dial: kernel.Dial})
		if err != nil {
			t.Fatal(err)
		}
		programmer, err := netlinkx.NewProgrammer(netlinkx.Config{Uplink: uplink, Dial: kernel.Dial})
		if err != nil {
			t.Fatal(err)
		}
		server := memory.NewServer()
		server.PutConfig([]byte(`{"Network":"192.168.0.0/16","SubnetLen":26,"Backend":{"Type":"host-gw"}}`))
		server.Put("192.168.6.192-26", []byte(`{"PublicIP":"172.17.42.41","PublicIPv6":null,"BackendType":"host-gw"}`), 24*time.Hour)

		m, err := hostgw.New(hostgw.Config{Store: server.Client(), Uplink: uplink, Programmer: programmer})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()

		routed := func() int {
			synctest.Wait() // until everybody waits for something
			return len(kernel.RoutesOf(netlinkx.DefaultProtocol))
		}
		if n := routed(); n != 1 {
			t.Errorf("%d routes, want the peer's", n)
		}
		time.Sleep(24 * time.Hour) // takes no time
		if n := routed(); n != 0 {
			t.Errorf("%d routes after the peer's lease ran out, want none", n)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The pieces above that the page shows work together.
func TestPieces(t *testing.T) {
	d, uplink := newDepot(), netlinkx.Uplink{
		Name: "eth0", IPv4: netip.MustParseAddr("172.17.42.40"), Up: true, Running: true,
		Addrs: []netip.Prefix{netip.MustParsePrefix("172.17.42.40/24")},
	}
	d.putConfig(`{"Network":"192.168.0.0/16","SubnetLen":26,"Backend":{"Type":"host-gw"}}`)
	d.putLease("192.168.6.192-26", `{"PublicIP":"172.17.42.41","PublicIPv6":null,"BackendType":"host-gw"}`)
	d.putLease("192.168.7.0-26", `{"PublicIP":"172.17.43.1","PublicIPv6":null,"BackendType":"host-gw"}`)
	p, o := newDry(uplink), &observer{log: slog.New(slog.DiscardHandler)}
	installed := make(chan struct{})
	m, err := hostgw.New(hostgw.Config{
		Store: d, Uplink: uplink, Programmer: p, Logger: o.log,
		Observe: func(e hostgw.Event) {
			o.observe(e)
			if _, ok := e.(*hostgw.RouteEvent); ok {
				close(installed) // there is one peer with a route
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	if _, err := m.Lease(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case <-installed:
	case <-time.After(10 * time.Second):
		t.Fatal("no route is reported")
	}
	if got := refused(m); len(got) != 1 || got["192.168.7.0-26"] != hostgw.ReasonGatewayOffLink {
		t.Errorf("refused are %v", got)
	}
	if s := m.Status().Peers[0].Routes[0]; s.State != netlinkx.RouteInstalled || len(p.wanted) != 1 {
		t.Errorf("the route is %v; wanted are %v", s.State, p.wanted)
	}
	stop()
	if got := ended(<-done); got != "its context ended" || o.outages != 0 {
		t.Errorf("%s, after %d outages", got, o.outages)
	}
	key := subnet.Key{IPv4: netip.MustParsePrefix("192.168.1.192/26")}
	lost := &hostgw.SubnetLostError{Lost: subnet.Lease{Key: key}}
	lost.Taken.Lease.Holder.PublicIP = uplink.IPv4
	if got := ended(fmt.Errorf("leasing: %w", lost)); got != "move the containers: 192.168.1.192-26 is 172.17.42.40's now" {
		t.Error(got)
	}
}
