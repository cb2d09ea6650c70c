package hostgw

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/store/memory"
	"github.com/hostgw/hostgw/subnet"
)

// recorder is a RouteProgrammer that programs nothing and remembers everything.
type recorder struct {
	wake chan struct{}

	mu      sync.Mutex
	routes  map[netip.Prefix]netlinkx.Route
	changed []netip.Prefix // to be reported
	removed []netip.Prefix // ever
	sets    []netlinkx.Wanted
	uplink  *netlinkx.Uplink // to be reported
	state   netlinkx.RouteState
}

func newRecorder() *recorder {
	return &recorder{
		wake: make(chan struct{}, 1), routes: map[netip.Prefix]netlinkx.Route{}, state: netlinkx.RouteInstalled,
	}
}

func (p *recorder) Run(ctx context.Context, report func(netlinkx.Report)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		}
		p.mu.Lock()
		r := netlinkx.Report{Uplink: p.uplink}
		p.uplink = nil
		for _, s := range p.changed {
			if route, ok := p.routes[s]; ok {
				r.Routes = append(r.Routes, netlinkx.RouteStatus{Route: route, State: p.state, Since: time.Now()})
			}
		}
		p.changed = nil
		p.mu.Unlock()
		report(r)
	}
}

func (p *recorder) notify() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *recorder) Set(w netlinkx.Wanted) {
	p.mu.Lock()
	p.sets = append(p.sets, w)
	stay := map[netip.Prefix]bool{}
	var put []netlinkx.Route
	for _, r := range w.Routes {
		stay[r.Subnet] = true
		put = append(put, r)
	}
	var remove []netip.Prefix
	for s := range p.routes {
		if !stay[s] { // what lingers are routes of earlier runs, of which there are none here
			remove = append(remove, s)
		}
	}
	p.mu.Unlock()
	p.Change(put, remove)
}

func (p *recorder) Change(put []netlinkx.Route, remove []netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range remove {
		if _, ok := p.routes[s]; ok {
			delete(p.routes, s)
			p.removed = append(p.removed, s)
		}
	}
	for _, r := range put {
		p.routes[r.Subnet] = r
		p.changed = append(p.changed, r.Subnet)
	}
	p.notify()
}

func (p *recorder) setUplink(u netlinkx.Uplink) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.uplink = &u
	p.notify()
}

// wanted returns the gateways by subnet.
func (p *recorder) wanted() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := map[string]string{}
	for s, r := range p.routes {
		m[s.String()] = r.Gateway.String()
	}
	return m
}

func (p *recorder) everRemoved() []netip.Prefix {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.removed)
}

// logBook is a slog.Handler that keeps the messages at Info and above.
type logBook struct {
	mu    sync.Mutex
	lines []string
}

func (b *logBook) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (b *logBook) WithAttrs([]slog.Attr) slog.Handler           { return b }
func (b *logBook) WithGroup(string) slog.Handler                { return b }
func (b *logBook) Handle(_ context.Context, r slog.Record) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	b.lines = append(b.lines, line)
	return nil
}

func (b *logBook) count(part string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, l := range b.lines {
		if strings.Contains(l, part) {
			n++
		}
	}
	return n
}

// testNode is a Manager in a network, run in a synctest bubble.
type testNode struct {
	t      *testing.T
	m      *Manager
	store  *memory.Store
	routes *recorder
	log    *logBook
	events []Event // read after synctest.Wait only
	stop   context.CancelFunc
	done   chan error
}

// testNetwork is the config of the README.
func testNetwork(t *testing.T, text ...string) subnet.Config {
	t.Helper()
	text = append(text, `{"Network":"192.168.0.0/16","SubnetLen":26,"SubnetMin":"192.168.0.64","SubnetMax":"192.168.250.192","Backend":{"Type":"host-gw"}}`)
	c, err := subnet.ParseConfig([]byte(text[0]))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func startNode(t *testing.T, server *memory.Server, host int, change ...func(*Config)) *testNode {
	t.Helper()
	n := &testNode{t: t, store: server.Client(), routes: newRecorder(), log: &logBook{}, done: make(chan error, 1)}
	a := netip.AddrFrom4([4]byte{172, 17, 42, byte(40 + host)})
	c := Config{
		Store: n.store,
		Uplink: netlinkx.Uplink{
			Name: "eth0", Index: 2, Up: true, Running: true, IPv4: a, Addrs: []netip.Prefix{netip.PrefixFrom(a, 24)},
		},
		Programmer: n.routes,
		Node:       subnet.Node{Name: fmt.Sprintf("host-%d", host), Instance: fmt.Sprintf("%p", n)},
		Logger:     slog.New(n.log),
		Observe:    func(e Event) { n.events = append(n.events, e) },
	}
	for _, f := range change {
		f(&c)
	}
	m, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	n.m = m
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	go func() { n.done <- m.Run(ctx) }()
	t.Cleanup(func() { n.end() })
	return n
}

// end stops the node and returns what Run returned.
func (n *testNode) end() error {
	n.stop()
	err := <-n.done
	n.done <- err
	return err
}

func (n *testNode) lease() subnet.Lease {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	j, err := n.m.Lease(ctx)
	if err != nil {
		n.t.Fatalf("no lease: %v; status %+v", err, n.m.Status())
	}
	return j.Lease
}

// wantRoutes checks that the node wants exactly the routes to the others.
func (n *testNode) wantRoutes(others ...*testNode) {
	n.t.Helper()
	synctest.Wait()
	want := map[string]string{}
	for _, o := range others {
		l := o.lease()
		want[l.Key.IPv4.String()] = l.Holder.PublicIP.String()
	}
	if got := n.routes.wanted(); !maps.Equal(got, want) {
		n.t.Errorf("%s wants routes %v, want %v", n.m.c.Node.Name, got, want)
	}
}

func testServer(t *testing.T) *memory.Server {
	s := memory.NewServer()
	s.SetConfig(testNetwork(t))
	return s
}

func TestManagersRouteEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a, b, c := startNode(t, server, 1), startNode(t, server, 2), startNode(t, server, 3)
		a.wantRoutes(b, c)
		b.wantRoutes(a, c)
		c.wantRoutes(a, b)
		st := a.m.Status()
		if st.State != StateHeld || st.Waiting != nil || st.Store.Err != nil || len(st.Peers) != 2 {
			t.Errorf("status %+v", st)
		}
		for _, p := range st.Peers {
			if len(p.Routes) != 1 || p.Routes[0].State != netlinkx.RouteInstalled || p.Routes[0].Reason != ReasonNone {
				t.Errorf("peer %+v, want its route installed", p)
			}
		}
		server.Delete(c.lease().Key.String())
		_ = c.end()
		server.Delete(c.lease().Key.String())
		a.wantRoutes(b)
	})
}

// Invariant 4: a restart takes the same lease back without writing anything, and
// touches no route.
func TestManagerRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a, b := startNode(t, server, 1), startNode(t, server, 2)
		a.wantRoutes(b)
		before := a.lease()
		if err := a.end(); err != nil {
			t.Errorf("Run = %v after its context ended", err)
		}
		time.Sleep(time.Hour)
		revision := server.Snapshot().Revision
		again := startNode(t, server, 1)
		again.wantRoutes(b)
		if again.lease().Key != before.Key {
			t.Errorf("lease %v after a restart, was %v", again.lease(), before)
		}
		synctest.Wait()
		if r := server.Snapshot().Revision; r != revision {
			t.Errorf("a restart wrote to the store: revision %d, was %d", r, revision)
		}
		time.Sleep(100 * time.Hour)
		if err := server.Snapshot().Records; len(err) != 2 {
			t.Errorf("records %v after days, want both kept alive", err)
		}
	})
}

func TestManagerWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memory.NewServer()
		a := startNode(t, server, 1)
		away := errors.New("no route to host")
		a.store.SetFaults(memory.Faults{Err: away})
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := a.m.Status(); st.State != StateJoining || st.Waiting == nil {
			t.Errorf("state %v waiting for %v", st.State, st.Waiting)
		}
		a.store.SetFaults(memory.Faults{})
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := a.m.Status(); !errors.Is(st.Waiting, subnet.ErrNoConfig) {
			t.Errorf("waiting for %v, want %v", st.Waiting, subnet.ErrNoConfig)
		}
		if n := a.log.count("waiting to join"); n > 2 {
			t.Errorf("%d log lines of waiting", n)
		}
		server.PutConfig([]byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`))
		time.Sleep(time.Second)
		synctest.Wait()
		var bad *subnet.ConfigError
		if st := a.m.Status(); !errors.As(st.Waiting, &bad) {
			t.Errorf("waiting for %v, want the config's error", st.Waiting)
		}
		server.SetConfig(testNetwork(t))
		start := time.Now()
		a.lease()
		if d := time.Since(start); d > time.Second {
			t.Errorf("joined %v after the config was there", d)
		}
	})
}

// Invariant 5: an outage removes nothing, says so once, and is caught up with.
func TestManagerOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a, b := startNode(t, server, 1), startNode(t, server, 2)
		a.wantRoutes(b)
		a.store.SetFaults(memory.Faults{Err: errors.New("connection refused")})
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		if st := a.m.Status(); st.Store.Err == nil || st.State != StateHeld {
			t.Errorf("status %+v during an outage", st.Store)
		}
		a.wantRoutes(b)
		c := startNode(t, server, 3)
		c.lease()
		a.store.SetFaults(memory.Faults{})
		time.Sleep(time.Second)
		a.wantRoutes(b, c)
		if n := a.log.count("store cannot be heard"); n != 1 {
			t.Errorf("%d log lines when the outage began", n)
		}
		if n := a.log.count("store can be heard again"); n != 1 {
			t.Errorf("%d log lines when it ended", n)
		}
		if r := a.routes.everRemoved(); len(r) != 0 {
			t.Errorf("routes removed: %v", r)
		}
	})
}

func TestManagerPutsLeaseBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a, b := startNode(t, server, 1), startNode(t, server, 2)
		b.wantRoutes(a)
		before := a.lease().Key
		server.Delete(before.String())
		time.Sleep(time.Second)
		b.wantRoutes(a)
		if got := a.m.Status(); got.Joined.Lease.Key != before || got.State != StateHeld {
			t.Errorf("after its lease was deleted: %v %v, want %v held again", got.State, got.Joined.Lease.Key, before)
		}
	})
}

// Invariant 5: a store that forgot everything costs no route, whether it comes
// back empty or deletes all that is in it, and however long the config takes.
func TestManagersSurviveWipe(t *testing.T) {
	for name, wipe := range map[string]func(*memory.Server){
		"restarted empty": func(s *memory.Server) { s.Wipe() },
		"restarted empty, config much later": func(s *memory.Server) {
			s.Wipe()
			time.Sleep(time.Hour)
		},
		"an old backup": func(s *memory.Server) { s.Restore(memory.NewServer().Backup()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := testServer(t)
				a, b, c := startNode(t, server, 1), startNode(t, server, 2), startNode(t, server, 3)
				a.wantRoutes(b, c)
				wipe(server)
				time.Sleep(time.Second)
				a.wantRoutes(b, c)
				server.SetConfig(testNetwork(t))
				time.Sleep(2 * time.Second)
				if n := len(server.Snapshot().Records); n != 3 {
					t.Errorf("%d records after the wipe, want all three put back", n)
				}
				time.Sleep(time.Hour)
				for _, n := range []*testNode{a, b, c} {
					n.wantRoutes(slices.DeleteFunc([]*testNode{a, b, c}, func(o *testNode) bool { return o == n })...)
					if r := n.routes.everRemoved(); len(r) != 0 {
						t.Errorf("%s removed %v", n.m.c.Node.Name, r)
					}
				}
			})
		})
	}
}

// A peer that died with the store's memory is let go after the hold time.
func TestManagerLetsGoAfterHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a, b, c := startNode(t, server, 1), startNode(t, server, 2), startNode(t, server, 3)
		a.wantRoutes(b, c)
		c.end()
		server.Wipe()
		server.SetConfig(testNetwork(t))
		time.Sleep(DefaultHold - time.Second)
		a.wantRoutes(b, c)
		if i := slices.IndexFunc(a.m.Status().Peers, func(p Peer) bool { return !p.Missing.IsZero() }); i < 0 {
			t.Error("no peer is shown as missing")
		}
		time.Sleep(5 * time.Second)
		a.wantRoutes(b)
	})
}

func TestManagerSubnetLost(t *testing.T) {
	steal := func(t *testing.T, server *memory.Server, from *testNode) subnet.Key {
		k := from.lease().Key
		from.store.SetFaults(memory.Faults{Err: errors.New("away")})
		synctest.Wait()
		server.Delete(k.String())
		server.Put(k.String(), []byte(`{"PublicIP":"172.17.42.99","PublicIPv6":null,"BackendType":"host-gw"}`), 24*time.Hour)
		from.store.SetFaults(memory.Faults{})
		return k
	}
	t.Run("stop", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := testServer(t)
			a := startNode(t, server, 1)
			k := steal(t, server, a)
			time.Sleep(time.Minute)
			synctest.Wait()
			err := a.end()
			var lost *SubnetLostError
			if !errors.Is(err, ErrSubnetLost) || !errors.As(err, &lost) {
				t.Fatalf("Run = %v, want %v", err, ErrSubnetLost)
			}
			if lost.Lost.Key != k || lost.Taken.Name != k.String() || !strings.Contains(err.Error(), "172.17.42.99") || !strings.Contains(err.Error(), "172.17.42.41") {
				t.Errorf("error %q, want both names", err)
			}
		})
	})
	t.Run("move", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := testServer(t)
			a := startNode(t, server, 1, func(c *Config) { c.Move = true })
			k := steal(t, server, a)
			time.Sleep(time.Minute)
			synctest.Wait()
			st := a.m.Status()
			if st.State != StateHeld || st.Joined.Lease.Key == k {
				t.Errorf("%v with %v, want another subnet held", st.State, st.Joined.Lease.Key)
			}
			var moved *LeaseEvent
			for _, e := range a.events {
				if l, ok := e.(*LeaseEvent); ok {
					moved = l
				}
			}
			if moved == nil || moved.Previous != k || moved.Lease.Key != st.Joined.Lease.Key {
				t.Errorf("last lease event %+v", moved)
			}
			if got := a.routes.wanted()[k.IPv4.String()]; got != "172.17.42.99" {
				t.Errorf("route to the lost subnet via %q, want its new holder", got)
			}
		})
	})
}

func TestManagerRival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startNode(t, server, 1)
		a.lease()
		b := startNode(t, server, 1, func(c *Config) { c.Node.Name = "twin" })
		b.lease()
		time.Sleep(time.Second)
		synctest.Wait()
		for n, other := range map[*testNode]string{a: "twin", b: "host-1"} {
			if r := n.m.Status().Rival; r == nil || r.Name != other {
				t.Errorf("%s sees rival %+v, want %s", n.m.c.Node.Name, r, other)
			}
		}
	})
}

func TestManagerConfigChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a, b := startNode(t, server, 1), startNode(t, server, 2)
		mover := startNode(t, server, 3, func(c *Config) { c.Move = true })
		a.wantRoutes(b, mover)
		old := mover.lease().Key

		server.PutConfig([]byte(`{"Network":"nonsense"}`))
		time.Sleep(time.Minute)
		a.wantRoutes(b, mover)
		if st := a.m.Status(); st.Config.Err == nil || st.Config.Config != testNetwork(t) {
			t.Errorf("config %+v, want the error and the last good one", st.Config)
		}

		server.SetConfig(testNetwork(t, `{"Network":"192.168.0.0/16","SubnetLen":26,"Backend":{"Type":"host-gw"}}`))
		time.Sleep(time.Minute)
		a.wantRoutes(b, mover)
		if mover.lease().Key != old {
			t.Errorf("a wider range made a node move")
		}

		server.SetConfig(testNetwork(t, `{"Network":"10.7.0.0/16","Backend":{"Type":"host-gw"}}`))
		time.Sleep(time.Minute)
		synctest.Wait()
		if k := mover.lease().Key; !prefix("10.7.0.0/16").Overlaps(k.IPv4) {
			t.Errorf("the node that moves holds %v", k)
		}
		a.wantRoutes(b, mover)
		b.wantRoutes(a, mover)
		again := b.lease().Key
		b.end()
		b2 := startNode(t, server, 2)
		if k := b2.lease().Key; k == again || !prefix("10.7.0.0/16").Overlaps(k.IPv4) {
			t.Errorf("restarted under the new config: %v", k)
		}
		a.wantRoutes(b2, mover)
		for _, r := range server.Snapshot().Records {
			if r.Lease.Key == again || r.Lease.Key == old {
				t.Errorf("%s is still there after its node moved", r.Name)
			}
		}
	})
}

func TestManagerFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memory.NewServer()
		server.SetConfig(testNetwork(t, `{"Network":"10.0.0.0/28","SubnetLen":30,"Backend":{"Type":"host-gw"}}`))
		var nodes []*testNode
		for i := range 5 {
			nodes = append(nodes, startNode(t, server, i))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		full := 0
		for _, n := range nodes {
			if err := n.end(); errors.Is(err, subnet.ErrNoFreeSubnet) {
				full++
			} else if err != nil {
				t.Error(err)
			}
		}
		if full != 2 || len(server.Snapshot().Records) != 3 {
			t.Errorf("%d of 5 found no subnet and %d leases, want 2 and 3", full, len(server.Snapshot().Records))
		}
	})
}

func TestManagerRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startNode(t, server, 1)
		a.lease()
		a.end()
		if err := a.m.Release(context.Background()); err != nil {
			t.Error(err)
		}
		if n := len(server.Snapshot().Records); n != 0 {
			t.Errorf("%d records after the release", n)
		}
		if err := a.m.Release(context.Background()); !errors.Is(err, ErrNoLease) {
			t.Errorf("second release: %v, want %v", err, ErrNoLease)
		}
	})
}

// What an uplink's addresses make reachable or not is seen when they change.
func TestManagerUplinkChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		server.Put("192.168.77.0-26", []byte(`{"PublicIP":"10.1.1.1","PublicIPv6":null,"BackendType":"host-gw"}`), 0)
		a, b := startNode(t, server, 1), startNode(t, server, 2)
		a.wantRoutes(b)
		up := a.m.Status().Uplink
		reason := func() (reasons []Reason) {
			synctest.Wait()
			for _, p := range a.m.Status().Peers {
				reasons = append(reasons, p.Routes[0].Reason)
			}
			return reasons
		}
		if r := reason(); !slices.Contains(r, ReasonGatewayOffLink) {
			t.Errorf("reasons %v", r)
		}
		more := up
		more.Addrs = append(slices.Clone(up.Addrs), prefix("10.1.1.2/24"))
		a.routes.setUplink(more)
		if r := reason(); slices.Contains(r, ReasonGatewayOffLink) {
			t.Errorf("reasons %v after the address came", r)
		}
		if got := a.routes.wanted()["192.168.77.0/26"]; got != "10.1.1.1" {
			t.Errorf("route to the reachable peer via %q", got)
		}
		a.routes.setUplink(up)
		a.wantRoutes(b)
	})
}

// kinds returns the observed events that are of type E.
func kinds[E Event](n *testNode) (es []E) {
	synctest.Wait()
	for _, e := range n.events {
		if e, ok := e.(E); ok {
			es = append(es, e)
		}
	}
	return es
}

// What becomes of the peers when the uplink's addresses change is told, and so is
// a config that was broken and is put right.
func TestManagerTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a, b := startNode(t, server, 1), startNode(t, server, 2)
		a.wantRoutes(b)
		peers := len(kinds[*PeerEvent](a))
		up := a.m.Status().Uplink
		none := up
		none.Addrs = nil
		a.routes.setUplink(none)
		if es := kinds[*PeerEvent](a); len(es) != peers+1 || es[peers].Peer.Routes[0].Reason != ReasonGatewayOffLink {
			t.Errorf("events after the address went: %+v", es)
		}
		if a.log.count("peer gets no route") != 1 {
			t.Errorf("log after the address went: %q", a.log.lines)
		}
		a.routes.setUplink(up)
		if es := kinds[*PeerEvent](a); len(es) != peers+2 || es[peers+1].Peer.Routes[0].Reason != ReasonNone {
			t.Errorf("events after it came back: %+v", es)
		}

		text := `{"Network":"192.168.0.0/16","SubnetLen":26,"SubnetMin":"192.168.0.64","SubnetMax":"192.168.250.192","Backend":{"Type":"host-gw"}}`
		server.PutConfig([]byte(text[1:]))
		server.PutConfig([]byte(text))
		time.Sleep(time.Second)
		if es := kinds[*ConfigEvent](a); len(es) != 0 && es[len(es)-1].Config.Err != nil {
			t.Errorf("the last config event is %+v, though the config is right again", es[len(es)-1])
		}

		server.Delete(a.lease().Key.String())
		time.Sleep(time.Second)
		var states []State
		for _, e := range kinds[*StateEvent](a) {
			states = append(states, e.State)
		}
		if !slices.Equal(states, []State{StateHeld, StateJoining, StateHeld}) {
			t.Errorf("states %v", states)
		}
	})
}

// A network that was configured by mistake, and in which nobody lives, is none
// once it is put right.
func TestManagerForgetsNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a, b := startNode(t, server, 1), startNode(t, server, 2)
		a.wantRoutes(b)
		server.SetConfig(testNetwork(t, `{"Network":"192.0.0.0/8","SubnetLen":26,"Backend":{"Type":"host-gw"}}`))
		time.Sleep(time.Second)
		server.SetConfig(testNetwork(t))
		time.Sleep(time.Second)
		server.Put("192.99.1.0-26", []byte(`{"PublicIP":"172.17.42.99","PublicIPv6":null,"BackendType":"host-gw"}`), 0)
		time.Sleep(time.Second)
		a.wantRoutes(b)
	})
}

// A lease that is gone, and that the config does not let a node have again, is
// lost, though not before an operator had time to put the config right.
func TestManagerLeaseGoneAndUnfit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startNode(t, server, 1)
		k := a.lease().Key
		server.SetConfig(testNetwork(t, `{"Network":"10.7.0.0/16","Backend":{"Type":"host-gw"}}`))
		server.Delete(k.String())
		time.Sleep(DefaultHold - time.Second)
		synctest.Wait()
		if st := a.m.Status(); st.State != StateJoining || st.Waiting == nil {
			t.Errorf("%v, waiting for %v", st.State, st.Waiting)
		}
		time.Sleep(10 * time.Second)
		var lost *SubnetLostError
		if err := a.end(); !errors.As(err, &lost) || lost.Lost.Key != k || lost.Err == nil {
			t.Errorf("Run = %v, want the subnet lost", err)
		}
	})
}

// keepFails is a store whose Keep does not work.
type keepFails struct {
	*memory.Store
	calls *atomic.Int64
}

func (k keepFails) Keep(context.Context, subnet.Record, subnet.Node, func(subnet.Renewal)) error {
	k.calls.Add(1)
	return errors.New("permission denied")
}

func TestManagerKeepFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		var calls atomic.Int64
		a := startNode(t, server, 1, func(c *Config) { c.Store = keepFails{c.Store.(*memory.Store), &calls} })
		a.lease()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := calls.Load(); n > 130 {
			t.Errorf("%d calls in a minute", n)
		}
		if n := a.log.count("keeping the lease failed"); n != 1 {
			t.Errorf("%d log lines", n)
		}
	})
}

// Release finds the lease also where Run ended before it knew of it.
func TestManagerReleaseUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		a := startNode(t, server, 1)
		a.lease()
		a.end()
		again := startNode(t, server, 1, func(c *Config) { c.Store.(*memory.Store).SetFaults(memory.Faults{Answer: time.Hour}) })
		synctest.Wait()
		again.end()
		again.store.SetFaults(memory.Faults{})
		if err := again.m.Release(context.Background()); err != nil || len(server.Snapshot().Records) != 0 {
			t.Errorf("Release = %v, %d records left", err, len(server.Snapshot().Records))
		}
	})
}

func TestNewRefuses(t *testing.T) {
	good := Config{Store: memory.New(testNetwork(t)), Uplink: testPolicy().Uplink, Programmer: newRecorder()}
	for name, change := range map[string]func(*Config){
		"no store":     func(c *Config) { c.Store = nil },
		"no address":   func(c *Config) { c.Uplink.IPv4, c.Uplink.IPv6 = netip.Addr{}, netip.Addr{} },
		"mapped":       func(c *Config) { c.Uplink.IPv4 = addr("::ffff:172.17.42.41") },
		"negative TTL": func(c *Config) { c.TTL = -1 },
		"no watcher":   func(c *Config) { c.Store = struct{ SubnetStore }{c.Store} },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: New accepts it", name)
		}
	}
	if _, err := New(good); err != nil {
		t.Errorf("New refuses a good config: %v", err)
	}
}
