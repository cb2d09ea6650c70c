// Package programmertest holds route programmers to the contract of
// hostgw.RouteProgrammer: call [Test] from a test of yours with a [Host] on
// which they work.
package programmertest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hostgw/hostgw/netlinkx"
)

// Programmer is hostgw.RouteProgrammer.
type Programmer interface {
	Run(ctx context.Context, report func(netlinkx.Report)) error
	Set(w netlinkx.Wanted)
	Change(put []netlinkx.Route, remove []netip.Prefix)
}

// Host is a machine of its own for one test, with an uplink that is up and has
// the addresses [IPv4] and [IPv6], and without any route inside [Networks]. Its
// methods end the test if they fail.
type Host interface {
	// Programmer returns another Programmer on the uplink. At most one runs at a
	// time. All take each other's routes for their own.
	Programmer() Programmer

	// Routes returns the routes inside Networks, in any order.
	Routes() []Route

	// AddRoute and DelRoute do what another program would do: add a route that
	// is not the Programmer's, through a gateway on the uplink; delete a route,
	// whoever's it is.
	AddRoute(r netlinkx.Route)
	DelRoute(r netlinkx.Route)

	// SetUp sets the uplink administratively up or down. When it comes up again
	// it has both addresses.
	SetUp(up bool)

	// AddAddr and DelAddr add and delete an address of the uplink.
	AddAddr(p netip.Prefix)
	DelAddr(p netip.Prefix)
}

// Route is a route that a host's kernel holds.
type Route struct {
	netlinkx.Route
	Ours bool // a Programmer added it
}

// What a Host has from the beginning.
var (
	IPv4     = netip.MustParsePrefix("192.0.2.1/24")
	IPv6     = netip.MustParsePrefix("2001:db8::1/64")
	Networks = []netip.Prefix{netip.MustParsePrefix("10.64.0.0/10"), netip.MustParsePrefix("fd99::/16")}
)

// patience is how long anything may take that is to happen.
const patience = 20 * time.Second

// Test runs the suite, each test on a host of its own.
func Test(t *testing.T, newHost func(t *testing.T) Host) {
	for _, c := range []struct {
		name string
		test func(*bench)
	}{
		{"UplinkFirst", uplinkFirst},
		{"NothingBeforeSet", nothingBeforeSet},
		{"SetAndChange", setAndChange},
		{"LastCallCounts", lastCallCounts},
		{"ConcurrentCalls", concurrentCalls},
		{"RoutesStay", routesStay},
		{"Restart", restart},
		{"Gateway", gateway},
		{"Foreign", foreign},
		{"OneBad", oneBad},
		{"Repair", repair},
		{"LinkDown", linkDown},
		{"AddressGone", addressGone},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(&bench{T: t, Host: newHost(t)}) })
	}
}

// bench is one test's host and what the programmer that runs there has reported.
type bench struct {
	*testing.T
	Host

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each report
	calls   int           // of report that are under way
	ended   bool
	first   *netlinkx.Report
	uplink  netlinkx.Uplink
	state   map[netip.Prefix]netlinkx.RouteStatus
	stats   netlinkx.Stats
}

// start runs another programmer. stop ends it and waits for that.
func (b *bench) start() (p Programmer, stop func()) {
	b.Helper()
	b.changed, b.first, b.ended = make(chan struct{}), nil, false
	b.state = map[netip.Prefix]netlinkx.RouteStatus{}
	p = b.Programmer()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, b.report) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.Errorf("Run returned %v, want nil when its context ends", err)
		}
		b.mu.Lock()
		b.ended = true
		b.mu.Unlock()
	})
	b.Cleanup(stop)
	return p, stop
}

func (b *bench) report(r netlinkx.Report) {
	b.mu.Lock()
	if b.calls++; b.calls > 1 {
		b.Error("report is called while another call is under way")
	}
	if b.ended {
		b.Error("report is called after Run has returned")
	}
	if b.first == nil {
		b.first = &r
	}
	if r.Uplink != nil {
		b.uplink = *r.Uplink
	}
	for _, s := range r.Routes {
		if (s.Err != nil) != (s.State == netlinkx.RouteFailed || s.State == netlinkx.RouteConflict) {
			b.Errorf("%v is reported as %v with error %v", s.Route, s.State, s.Err)
		}
		if s.Since.IsZero() {
			b.Errorf("%v is reported as %v since no time", s.Route, s.State)
		}
		b.state[s.Route.Subnet] = s
	}
	b.stats = r.Stats
	close(b.changed)
	b.changed = make(chan struct{})
	b.mu.Unlock()

	b.mu.Lock()
	b.calls--
	b.mu.Unlock()
}

// until waits until f, which is called after each report, says true.
func (b *bench) until(what string, f func() bool) {
	b.Helper()
	deadline := time.After(patience)
	for {
		b.mu.Lock()
		ok, changed := f(), b.changed
		b.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			b.Fatalf("waited in vain until %s; last reported: %+v, uplink %+v", what, b.state, b.uplink)
		}
	}
}

// seen returns what f reads of what has been reported.
func seen[T any](b *bench, f func() T) T {
	b.mu.Lock()
	defer b.mu.Unlock()
	return f()
}

func (b *bench) counts() netlinkx.Stats {
	return seen(b, func() netlinkx.Stats { return b.stats })
}

// reach waits until routes are reported in state s.
func (b *bench) reach(s netlinkx.RouteState, routes ...netlinkx.Route) {
	b.Helper()
	for _, r := range routes {
		b.until(r.Subnet.String()+" is "+s.String(), func() bool {
			got := b.state[r.Subnet]
			return got.Route == r && got.State == s
		})
	}
}

// holds checks that the kernel holds exactly these routes.
func (b *bench) holds(ours []netlinkx.Route, others ...netlinkx.Route) {
	b.Helper()
	if got, want := b.compare(ours, others); !slices.Equal(got, want) {
		b.Fatalf("the kernel holds %v, want %v", got, want)
	}
}

// settles waits until the kernel holds exactly these routes.
func (b *bench) settles(ours []netlinkx.Route, others ...netlinkx.Route) {
	b.Helper()
	deadline := time.Now().Add(patience)
	for {
		got, want := b.compare(ours, others)
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("waited in vain: the kernel holds %v, want %v", got, want)
		}
		time.Sleep(time.Millisecond)
	}
}

func (b *bench) compare(ours, others []netlinkx.Route) (got, want []Route) {
	for _, r := range ours {
		want = append(want, Route{r, true})
	}
	for _, r := range others {
		want = append(want, Route{r, false})
	}
	got = b.Routes()
	order := func(a, b Route) int {
		if c := a.Subnet.Addr().Compare(b.Subnet.Addr()); c != 0 {
			return c
		}
		return a.Gateway.Compare(b.Gateway)
	}
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	return got, want
}

func route(subnet, gateway string) netlinkx.Route {
	return netlinkx.Route{Subnet: netip.MustParsePrefix(subnet), Gateway: netip.MustParseAddr(gateway)}
}

func wanted(routes ...netlinkx.Route) netlinkx.Wanted {
	return netlinkx.Wanted{Networks: Networks, Routes: routes}
}

// three are routes to three peers, of both families.
func three() []netlinkx.Route {
	return []netlinkx.Route{
		route("10.64.1.0/24", "192.0.2.11"),
		route("10.64.2.0/24", "192.0.2.12"),
		route("fd99:0:0:1::/64", "2001:db8::11"),
	}
}

func uplinkFirst(b *bench) {
	p, _ := b.start()
	p.Set(wanted(three()...))
	b.reach(netlinkx.RouteInstalled, three()...)
	if seen(b, func() bool { return b.first.Uplink == nil }) {
		b.Fatal("the first report has no uplink")
	}
	u := seen(b, func() netlinkx.Uplink { return b.uplink })
	if u.Name == "" || u.Index == 0 || u.MTU == 0 || !u.Up || !slices.Contains(u.Addrs, IPv4) || !slices.Contains(u.Addrs, IPv6) {
		b.Errorf("the uplink is reported as %+v", u)
	}
}

func nothingBeforeSet(b *bench) {
	p, stop := b.start()
	p.Set(wanted(three()...))
	b.reach(netlinkx.RouteInstalled, three()...)
	stop()

	p, _ = b.start()
	p.Change([]netlinkx.Route{route("10.64.9.0/24", "192.0.2.11")}, []netip.Prefix{three()[0].Subnet})
	b.until("it runs", func() bool { return b.first != nil })
	b.holds(three())
	p.Set(wanted(three()[0]))
	b.settles(three()[:1])
	if s := b.counts(); s.Added+s.Replaced > 0 {
		b.Errorf("what was there has been touched: %+v", s)
	}
}

func setAndChange(b *bench) {
	p, _ := b.start()
	p.Set(wanted())
	p.Set(wanted(three()[:2]...)) // before it has had the time for the first
	b.reach(netlinkx.RouteInstalled, three()[:2]...)
	b.holds(three()[:2])
	p.Change(three()[2:], []netip.Prefix{three()[0].Subnet, netip.MustParsePrefix("10.64.77.0/24")})
	b.reach(netlinkx.RouteInstalled, three()[2])
	b.settles(three()[1:])
	p.Set(wanted(three()[0]))
	b.reach(netlinkx.RouteInstalled, three()[0])
	b.settles(three()[:1])
	p.Set(wanted())
	b.settles(nil)
}

func lastCallCounts(b *bench) {
	p, _ := b.start()
	a, other := route("10.64.1.0/24", "192.0.2.11"), route("10.64.1.0/24", "192.0.2.12")
	p.Set(wanted(other))
	p.Change(nil, []netip.Prefix{a.Subnet})
	p.Change([]netlinkx.Route{other}, nil)
	p.Change([]netlinkx.Route{a}, nil)
	b.reach(netlinkx.RouteInstalled, a)
	b.settles([]netlinkx.Route{a})
	p.Change([]netlinkx.Route{other}, nil)
	p.Change(nil, []netip.Prefix{a.Subnet})
	b.settles(nil)
	p.Change([]netlinkx.Route{other}, nil)
	p.Set(wanted(a))
	b.reach(netlinkx.RouteInstalled, a)
	b.settles([]netlinkx.Route{a})
}

func concurrentCalls(b *bench) {
	p, _ := b.start()
	p.Set(wanted())
	var callers sync.WaitGroup
	want := make([]netlinkx.Route, 8)
	for i := range want {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 64, byte(i), 0}), 24)
		via := func(n int) netlinkx.Route {
			return netlinkx.Route{Subnet: subnet, Gateway: netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + n)})}
		}
		want[i] = via(200)
		callers.Go(func() {
			for n := range 100 {
				p.Change([]netlinkx.Route{via(n)}, nil)
				p.Change(nil, []netip.Prefix{subnet})
			}
			p.Change([]netlinkx.Route{want[i]}, nil)
		})
	}
	callers.Wait()
	b.reach(netlinkx.RouteInstalled, want...)
	b.settles(want)
}

func routesStay(b *bench) {
	p, stop := b.start()
	p.Set(wanted(three()...))
	b.reach(netlinkx.RouteInstalled, three()...)
	stop()
	p.Set(wanted()) // nobody listens any more, and nothing blocks
	p.Change(nil, []netip.Prefix{three()[0].Subnet})
	b.holds(three())
}

func restart(b *bench) {
	p, stop := b.start()
	p.Set(wanted(three()...))
	b.reach(netlinkx.RouteInstalled, three()...)
	stop()
	p, stop = b.start()
	p.Set(wanted(three()...))
	b.reach(netlinkx.RouteInstalled, three()...)
	stop()
	if s := b.counts(); s.Added+s.Replaced+s.Removed > 0 {
		b.Errorf("a restart touched routes that are right: %+v", s)
	}
	moved := route("10.64.1.0/24", "192.0.2.99")
	p, _ = b.start()
	p.Set(wanted(moved, three()[2]))
	b.reach(netlinkx.RouteInstalled, moved, three()[2])
	b.settles([]netlinkx.Route{moved, three()[2]})
}

func gateway(b *bench) {
	p, _ := b.start()
	p.Set(wanted(three()...))
	b.reach(netlinkx.RouteInstalled, three()...)
	moved := []netlinkx.Route{route("10.64.1.0/24", "192.0.2.21"), three()[1], route("fd99:0:0:1::/64", "2001:db8::21")}
	p.Set(wanted(moved...))
	b.reach(netlinkx.RouteInstalled, moved...)
	b.holds(moved)
	unreachable := route("10.64.1.0/24", "203.0.113.7")
	p.Change([]netlinkx.Route{unreachable}, nil)
	b.reach(netlinkx.RouteFailed, unreachable)
	b.holds(moved) // better than none
}

func foreign(b *bench) {
	theirs := []netlinkx.Route{route("10.64.1.0/24", "192.0.2.91"), route("fd99:0:0:1::/64", "2001:db8::91"), route("10.64.200.0/24", "192.0.2.91")}
	for _, r := range theirs {
		b.AddRoute(r)
	}
	p, _ := b.start()
	p.Set(wanted(three()...))
	b.reach(netlinkx.RouteConflict, three()[0], three()[2])
	b.reach(netlinkx.RouteInstalled, three()[1])
	var why *netlinkx.ForeignRouteError
	if err := seen(b, func() error { return b.state[theirs[0].Subnet].Err }); !errors.As(err, &why) || why.Subnet != theirs[0].Subnet || why.Gateway != theirs[0].Gateway {
		b.Errorf("the reason of the conflict is %v", err)
	}
	b.holds(three()[1:2], theirs...)
	b.DelRoute(theirs[0])
	b.DelRoute(theirs[1])
	b.reach(netlinkx.RouteInstalled, three()...)
	b.holds(three(), theirs[2])
	p.Set(wanted())
	b.settles(nil, theirs[2])
}

func oneBad(b *bench) {
	var good []netlinkx.Route
	for i := range 300 {
		good = append(good, netlinkx.Route{
			Subnet:  netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 65, byte(i), byte(i >> 8 << 7)}), 25),
			Gateway: netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i%200)}),
		})
	}
	bad := route("10.64.1.0/24", "203.0.113.7")
	unmasked := route("10.64.2.7/24", "192.0.2.7")
	mixed := route("10.64.3.0/24", "2001:db8::7")
	p, _ := b.start()
	p.Set(wanted(slices.Concat(good[:100], []netlinkx.Route{bad, unmasked, mixed}, good[100:])...))
	b.reach(netlinkx.RouteFailed, bad, unmasked, mixed)
	b.reach(netlinkx.RouteInstalled, good...)
	b.holds(good)
	b.AddAddr(netip.MustParsePrefix("203.0.113.1/24"))
	b.reach(netlinkx.RouteInstalled, bad)
	b.holds(append(good, bad))
}

func repair(b *bench) {
	p, _ := b.start()
	p.Set(wanted(three()...))
	b.reach(netlinkx.RouteInstalled, three()...)
	for range 3 {
		for _, r := range three() {
			b.DelRoute(r)
		}
		b.settles(three())
	}
	b.until("all repairs are counted", func() bool { return b.stats.Repaired == 9 })
}

func linkDown(b *bench) {
	p, _ := b.start()
	p.Set(wanted(three()...))
	b.reach(netlinkx.RouteInstalled, three()...)
	for range 2 {
		b.SetUp(false)
		b.reach(netlinkx.RouteFailed, three()...)
		b.until("the uplink is down", func() bool { return !b.uplink.Up })
		b.holds(nil)
		b.SetUp(true)
		b.reach(netlinkx.RouteInstalled, three()...)
		b.until("the uplink is up", func() bool { return b.uplink.Up })
		b.settles(three())
	}
}

func addressGone(b *bench) {
	p, _ := b.start()
	p.Set(wanted(three()...))
	b.reach(netlinkx.RouteInstalled, three()...)
	b.DelAddr(IPv4)
	b.until("the address is gone", func() bool { return !slices.Contains(b.uplink.Addrs, IPv4) })
	b.reach(netlinkx.RouteFailed, three()[:2]...)
	b.AddAddr(IPv4)
	b.reach(netlinkx.RouteInstalled, three()...)
	b.settles(three())
}
