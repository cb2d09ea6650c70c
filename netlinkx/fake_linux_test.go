package netlinkx_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/netlinkx/netlinktest"
)

// fakeRun is a Programmer on a fake kernel in a synctest bubble. What it reports
// is in place after synctest.Wait.
type fakeRun struct {
	*netlinkx.Programmer
	*netlinktest.Kernel
	t      *testing.T
	uplink *netlinkx.Uplink
	routes map[netip.Prefix]netlinkx.RouteStatus
	stats  netlinkx.Stats
	stop   func()
}

func startFake(t *testing.T, edit func(*netlinkx.Config)) *fakeRun {
	t.Helper()
	k := newFake()
	c := netlinkx.Config{Uplink: netlinkx.Uplink{Name: "eth0"}, Dial: k.Dial, Logger: slog.New(slog.NewTextHandler(&testLog{t: t}, nil))}
	if edit != nil {
		edit(&c)
	}
	p, err := netlinkx.NewProgrammer(c)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeRun{Programmer: p, Kernel: k, t: t, routes: map[netip.Prefix]netlinkx.RouteStatus{}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- p.Run(ctx, func(r netlinkx.Report) {
			if r.Uplink != nil {
				f.uplink = r.Uplink
			}
			for _, s := range r.Routes {
				f.routes[s.Route.Subnet] = s
			}
			f.stats = r.Stats
		})
	}()
	f.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if n := k.Stats().Sockets; n != 0 {
			t.Errorf("%d sockets are left open", n)
		}
	}
	return f
}

func (f *fakeRun) expect(s netlinkx.RouteState, routes ...netlinkx.Route) {
	f.t.Helper()
	synctest.Wait()
	for _, r := range routes {
		if got := f.routes[r.Subnet]; got.Route != r || got.State != s {
			f.t.Fatalf("%v is reported as %+v, want %v", r, got, s)
		}
	}
}

// A thousand routes are a handful of system calls, and an idle programmer makes
// none between its looks.
func TestSystemCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFake(t, nil)
		defer f.stop()
		f.AddAddr("eth0", netip.MustParsePrefix("172.16.0.1/12"))
		synctest.Wait()
		before := f.Stats()
		routes := manyRoutes(1000)
		f.Set(netlinkx.Wanted{Networks: networks, Routes: routes})
		f.expect(netlinkx.RouteInstalled, routes...)
		after := f.Stats()
		if sends := after.Sends - before.Sends; sends > 4+4 { // two of links and addresses, two of routes
			t.Errorf("%d system calls to send", sends)
		}
		if after.NewRoutes-before.NewRoutes != 1000 {
			t.Errorf("%d requests", after.NewRoutes-before.NewRoutes)
		}
		time.Sleep(59 * time.Second)
		synctest.Wait()
		if idle := f.Stats(); idle.Sends != after.Sends {
			t.Errorf("%d system calls while idle", idle.Sends-after.Sends)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if idle := f.Stats(); idle.Dumps-after.Dumps != 40 || f.stats.Found != 0 || idle.Messages-after.Messages != 40 {
			t.Errorf("in ten looks: %d dumps, %d messages", idle.Dumps-after.Dumps, idle.Messages-after.Messages)
		}
	})
}

func TestNoResync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFake(t, func(c *netlinkx.Config) { c.Resync = -1 })
		defer f.stop()
		ours := route("10.5.1.0/24", "192.0.2.7")
		f.Set(netlinkx.Wanted{Networks: networks, Routes: []netlinkx.Route{ours}})
		f.expect(netlinkx.RouteInstalled, ours)
		before := f.Stats()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if after := f.Stats(); after.Sends != before.Sends {
			t.Errorf("%d system calls in a day", after.Sends-before.Sends)
		}
	})
}

// A refused route is tried again when something changes and in each look, and
// not in between; a flood of changes does not make a flood of tries.
func TestRefusedIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFake(t, nil)
		defer f.stop()
		far := route("10.5.1.0/24", "198.51.100.7")
		f.Set(netlinkx.Wanted{Networks: networks, Routes: []netlinkx.Route{far}})
		f.expect(netlinkx.RouteFailed, far)
		var refused *netlinkx.RefusedError
		if err := f.routes[far.Subnet].Err; !errors.As(err, &refused) || refused.Reason != "Nexthop has invalid gateway" {
			t.Errorf("the reason is %v", err)
		}
		since := f.routes[far.Subnet].Since
		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		if n := f.Stats().NewRoutes; n != 11 {
			t.Errorf("%d tries in ten minutes", n)
		}
		for range 1000 {
			f.SetMTU("eth0", 1400)
			f.SetMTU("eth0", 1500)
			time.Sleep(10 * time.Millisecond)
		}
		synctest.Wait()
		if n := f.Stats().NewRoutes; n > 11+20+10*10+2 {
			t.Errorf("%d tries after ten seconds of changes", n)
		}
		if f.routes[far.Subnet].Since != since {
			t.Error("it failed anew")
		}
		f.AddAddr("eth0", netip.MustParsePrefix("198.51.100.1/24"))
		time.Sleep(100 * time.Millisecond)
		f.expect(netlinkx.RouteInstalled, far)
	})
}

// Every socket that is opened is closed, also if Run fails half-way.
func TestDialFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFake()
		broken := errors.New("no socket today")
		for fail := range 2 {
			calls := 0
			p, err := netlinkx.NewProgrammer(netlinkx.Config{
				Uplink: netlinkx.Uplink{Name: "eth0"},
				Dial: func(groups ...uint32) (*netlink.Conn, error) {
					if calls++; calls == fail+1 {
						return nil, broken
					}
					return k.Dial(groups...)
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Run(t.Context(), func(netlinkx.Report) {}); !errors.Is(err, broken) {
				t.Errorf("Run returned %v", err)
			}
			if n := k.Stats().Sockets; n != 0 {
				t.Errorf("%d sockets are left open", n)
			}
			if err := p.Run(t.Context(), func(netlinkx.Report) {}); err == nil {
				t.Error("Run can be called twice")
			}
		}
	})
}

// Without the right to change routes everything fails, visibly and quietly.
func TestNotPermitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFake(t, nil)
		defer f.stop()
		f.Fail(func(m netlink.Message) error {
			if m.Header.Type == unix.RTM_NEWROUTE {
				return unix.EPERM
			}
			return nil
		})
		ours := route("10.5.1.0/24", "192.0.2.7")
		f.Set(netlinkx.Wanted{Networks: networks, Routes: []netlinkx.Route{ours}})
		f.expect(netlinkx.RouteFailed, ours)
		if err := f.routes[ours.Subnet].Err; !errors.Is(err, unix.EPERM) {
			t.Errorf("the reason is %v", err)
		}
		f.Fail(nil)
		time.Sleep(time.Minute + time.Second)
		f.expect(netlinkx.RouteInstalled, ours)
	})
}

// A look that fails is repeated.
func TestLookFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFake(t, nil)
		defer f.stop()
		synctest.Wait()
		f.Fail(func(m netlink.Message) error {
			if m.Header.Type == unix.RTM_GETROUTE {
				return unix.ENOMEM
			}
			return nil
		})
		ours := route("10.5.1.0/24", "192.0.2.7")
		f.Set(netlinkx.Wanted{Networks: networks, Routes: []netlinkx.Route{ours}})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if f.Stats().NewRoutes > 0 {
			t.Error("it writes without having looked")
		}
		f.Fail(nil)
		time.Sleep(2 * time.Second)
		f.expect(netlinkx.RouteInstalled, ours)
	})
}

func TestOverrunOnFake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFake(t, nil)
		defer f.stop()
		ours := route("10.5.1.0/24", "192.0.2.7")
		f.Set(netlinkx.Wanted{Networks: networks, Routes: []netlinkx.Route{ours}})
		f.expect(netlinkx.RouteInstalled, ours)
		f.Overrun()
		if err := f.DelRoute(netlinktest.Route{Dst: ours.Subnet}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if s := f.stats; s.Overruns != 1 || s.Looks != 2 || s.Repaired != 1 || s.Found != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

// Something that deletes a route again and again costs little.
func TestContentionOnFake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFake(t, nil)
		defer f.stop()
		ours := []netlinkx.Route{route("10.5.1.0/24", "192.0.2.7"), route("10.5.2.0/24", "192.0.2.7")}
		f.Set(netlinkx.Wanted{Networks: networks, Routes: ours})
		f.expect(netlinkx.RouteInstalled, ours...)
		for range 10_000 {
			_ = f.DelRoute(netlinktest.Route{Dst: ours[0].Subnet}) // it may be away already
			time.Sleep(time.Millisecond)
			synctest.Wait()
		}
		if n := f.Stats().NewRoutes; n < 1050 || n > 1150 {
			t.Errorf("put back %d times in ten seconds", n)
		}
		time.Sleep(time.Second)
		f.expect(netlinkx.RouteInstalled, ours...)
	})
}

func TestUplinkReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFake(t, nil)
		defer f.stop()
		check := func(want string) {
			t.Helper()
			synctest.Wait()
			u := *f.uplink
			if got := fmt.Sprintf("%s %v %d %v %v %v", u.Name, u.Index > 0, u.MTU, u.Up, u.Running, u.Addrs); got != want {
				t.Errorf("reported %s\nwant     %s", got, want)
			}
		}
		check("eth0 true 1500 true true [192.0.2.1/24 2001:db8::1/64]")
		f.SetMTU("eth0", 9000)
		check("eth0 true 9000 true true [192.0.2.1/24 2001:db8::1/64]")
		f.SetCarrier("eth0", false)
		check("eth0 true 9000 true false [192.0.2.1/24 2001:db8::1/64]")
		f.SetCarrier("eth0", true)
		f.DelAddr("eth0", netip.MustParsePrefix("192.0.2.1/24"))
		check("eth0 true 9000 true true [2001:db8::1/64]")
		f.AddLink("eth1")
		f.AddAddr("eth1", netip.MustParsePrefix("198.51.100.1/24"))
		check("eth0 true 9000 true true [2001:db8::1/64]")
		f.Rename("eth0", "old0")
		check("eth0 false 0 false false []")
		f.Rename("eth1", "eth0")
		check("eth0 true 1500 false false [198.51.100.1/24]")
	})
}
