package netlinkx_test

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/netlinkx/netlinktest"
)

// Routes of an earlier run linger if they are told to, but none into this node's
// own subnet, and none once they are told to go.
func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := netlinktest.New()
		k.AddLink("eth0")
		k.SetUp("eth0", true)
		k.AddAddr("eth0", netip.MustParsePrefix("192.0.2.1/24"))
		for _, s := range []string{"10.5.1.0/24", "10.5.2.0/24", "10.5.3.0/25", "10.5.4.0/24"} {
			err := k.AddRoute(netlinktest.Route{
				Dst: netip.MustParsePrefix(s), Gateway: netip.MustParseAddr("192.0.2.9"), Protocol: netlinkx.DefaultProtocol,
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		p, err := netlinkx.NewProgrammer(netlinkx.Config{Uplink: netlinkx.Uplink{Name: "eth0"}, Dial: k.Dial})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx, func(netlinkx.Report) {}) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		expect := func(when string, want ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for _, r := range k.RoutesOf(netlinkx.DefaultProtocol) {
				got = append(got, r.Dst.String())
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: routes to %v, want %v", when, got, want)
			}
		}

		wanted := netlinkx.Wanted{
			Networks: []netip.Prefix{netip.MustParsePrefix("10.5.0.0/16")},
			Routes:   []netlinkx.Route{{Subnet: netip.MustParsePrefix("10.5.1.0/24"), Gateway: netip.MustParseAddr("192.0.2.9")}},
			Linger:   true,
			Own:      []netip.Prefix{netip.MustParsePrefix("10.5.3.0/24")},
		}
		p.Set(wanted)
		expect("lingering", "10.5.1.0/24", "10.5.2.0/24", "10.5.4.0/24")
		p.Change(nil, []netip.Prefix{netip.MustParsePrefix("10.5.1.0/24")})
		expect("a peer left", "10.5.2.0/24", "10.5.4.0/24")
		wanted.Own = []netip.Prefix{netip.MustParsePrefix("10.5.4.0/24")}
		p.Set(wanted)
		expect("moved", "10.5.1.0/24", "10.5.2.0/24")
		wanted.Linger = false
		p.Set(wanted)
		expect("no longer lingering", "10.5.1.0/24")
	})
}
