package netlinkx_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostgw/hostgw/netlinkx"
)

// running is a Programmer that runs, and what it has reported.
type running struct {
	t testing.TB
	*netlinkx.Programmer
	stop func()

	mu     sync.Mutex
	news   chan struct{} // closed at the next report
	uplink *netlinkx.Uplink
	routes map[netip.Prefix]netlinkx.RouteStatus
	stats  netlinkx.Stats
}

func start(t testing.TB, c netlinkx.Config) *running {
	t.Helper()
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(&testLog{t: t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	p, err := netlinkx.NewProgrammer(c)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, Programmer: p, news: make(chan struct{}), routes: map[netip.Prefix]netlinkx.RouteStatus{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, r.report) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

type testLog struct{ t testing.TB }

func (l *testLog) Write(b []byte) (int, error) {
	if _, bench := l.t.(*testing.B); !bench {
		l.t.Log(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

func (r *running) report(n netlinkx.Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n.Uplink != nil {
		r.uplink = n.Uplink
	}
	for _, s := range n.Routes {
		r.routes[s.Route.Subnet] = s
	}
	r.stats = n.Stats
	close(r.news)
	r.news = make(chan struct{})
}

// until waits for reports until f, which is called with r locked, says true.
func (r *running) until(what string, f func() bool) {
	r.t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		r.mu.Lock()
		ok, news := f(), r.news
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-news:
		case <-deadline:
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, s := range r.routes {
				if s.Err != nil {
					r.t.Logf("%v: %v", s.State, s.Err)
					break
				}
			}
			r.t.Fatalf("waited in vain until %s; uplink %+v, stats %+v, %d routes reported", what, r.uplink, r.stats, len(r.routes))
		}
	}
}

// reach waits until every route of w has been reported in state s, through its
// present gateway.
func (r *running) reach(s netlinkx.RouteState, routes ...netlinkx.Route) {
	r.t.Helper()
	r.until(fmt.Sprintf("%d routes are %v", len(routes), s), func() bool {
		for _, w := range routes {
			got, ok := r.routes[w.Subnet]
			if !ok || got.State != s || got.Route != w {
				return false
			}
		}
		return true
	})
}

func (r *running) status(p netip.Prefix) netlinkx.RouteStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.routes[p]
}

func (r *running) counts() netlinkx.Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}

var networks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd99::/16")}

func route(subnet, gateway string) netlinkx.Route {
	return netlinkx.Route{Subnet: netip.MustParsePrefix(subnet), Gateway: netip.MustParseAddr(gateway)}
}

// manyGateways makes n IPv4 addresses on-link that manyRoutes uses.
func (n *namespace) wide() { n.ip("address add 172.16.0.1/12 dev eth0") }

// manyRoutes is one route a /28 inside 10.0.0.0/8, each through a gateway of its
// own inside 172.16.0.0/12.
func manyRoutes(n int) []netlinkx.Route {
	routes := make([]netlinkx.Route, n)
	for i := range routes {
		v := uint32(i) << 4
		g := uint32(i) + 256
		routes[i] = netlinkx.Route{
			Subnet:  netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(v >> 16), byte(v >> 8), byte(v)}), 28),
			Gateway: netip.AddrFrom4([4]byte{172, 16 + byte(g>>16), byte(g >> 8), byte(g)}),
		}
	}
	return routes
}

// manyRoutes6 is the same of IPv6.
func manyRoutes6(n int) []netlinkx.Route {
	routes := make([]netlinkx.Route, n)
	for i := range routes {
		a := netip.MustParseAddr("fd99::").As16()
		a[6], a[7] = byte(i>>8), byte(i)
		g := netip.MustParseAddr("2001:db8::1:0").As16()
		g[14], g[15] = byte(i>>8), byte(i)
		routes[i] = netlinkx.Route{Subnet: netip.PrefixFrom(netip.AddrFrom16(a), 64), Gateway: netip.AddrFrom16(g)}
	}
	return routes
}

func TestInstallAndRemove(t *testing.T) {
	n := newNamespace(t)
	r := start(t, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
	four, six := route("10.5.1.0/24", "192.0.2.7"), route("fd99:0:0:4b::/64", "2001:db8::7")
	r.Set(netlinkx.Wanted{Networks: networks, Routes: []netlinkx.Route{four, six}})
	r.reach(netlinkx.RouteInstalled, four, six)
	expect(t, n.routes("proto 104"), "unicast 10.5.1.0/24 via 192.0.2.7 dev eth0 scope global")
	expect(t, n.routes6("root fd99::/16"), "unicast fd99:0:0:4b::/64 via 2001:db8::7 dev eth0 proto 104 scope global metric 1024 pref medium")
	r.Change(nil, []netip.Prefix{four.Subnet})
	r.until("one is removed", func() bool { return r.stats.Removed == 1 })
	expect(t, n.routes("proto 104"))
	r.Set(netlinkx.Wanted{Networks: networks})
	r.until("both are removed", func() bool { return r.stats.Removed == 2 })
	expect(t, n.routes6("root fd99::/16"))
}

func expect(t testing.TB, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("got  %q\nwant %q", got, want)
	}
}
