package netlinkx

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// newTestTable is a table of the default config whose uplink is eth0, index 2.
func newTestTable(t testing.TB, edit func(*Config)) *table {
	t.Helper()
	c := Config{Uplink: Uplink{Name: "eth0"}}
	if edit != nil {
		edit(&c)
	}
	c, err := c.complete(true)
	if err != nil {
		t.Fatal(err)
	}
	table := newTable(c)
	table.setUplink(Uplink{Name: "eth0", Index: 2, MTU: 1500, Up: true, Running: true, Addrs: []netip.Prefix{
		netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64"),
	}})
	return table
}

func testWanted(routes ...string) Wanted {
	w := Wanted{Networks: []netip.Prefix{netip.MustParsePrefix("10.5.0.0/16"), netip.MustParsePrefix("fd99::/16")}}
	for _, r := range routes {
		w.Routes = append(w.Routes, testRoute(r))
	}
	return w
}

// testRoute reads "10.5.1.0/24 192.0.2.7".
func testRoute(s string) Route {
	subnet, gateway, _ := strings.Cut(s, " ")
	return Route{netip.MustParsePrefix(subnet), netip.MustParseAddr(gateway)}
}

// held is the route that "10.5.1.0/24 192.0.2.7" is in the kernel when it is ours
// and as it should be, after each edit.
func held(s string, edits ...func(*kernelRoute)) kernelRoute {
	r := testRoute(s)
	k := kernelRoute{subnet: r.Subnet, gateway: r.Gateway, index: 2, protocol: 104, kind: routeUnicast, metric: defaultMetric(r.Subnet), plain: true}
	for _, e := range edits {
		e(&k)
	}
	return k
}

func of(protocol uint8) func(*kernelRoute) { return func(r *kernelRoute) { r.protocol = protocol } }
func at(metric uint32) func(*kernelRoute)  { return func(r *kernelRoute) { r.metric = metric } }
func through(index uint32) func(*kernelRoute) {
	return func(r *kernelRoute) { r.index = index }
}
func odd(r *kernelRoute) { r.plain = false }

// steps runs passes in which the kernel does everything it is asked, and
// returns the requests.
func (t *table) steps(now time.Time) []string {
	var out []string
	var pl plan
	for t.next(100, now, &pl) {
		for _, q := range slices.Concat(pl.makes, pl.breaks) {
			s := [...]string{"add", "replace", "remove"}[q.op]
			s += fmt.Sprintf(" %v %v metric %d", q.route.subnet, q.route.gateway, q.route.metric)
			if q.route.protocol != t.config.Protocol {
				s += fmt.Sprintf(" proto %d", q.route.protocol)
			}
			if q.after >= 0 {
				s += " after"
			}
			out = append(out, s)
			t.done(q, outcomeDone, nil, now)
		}
	}
	return out
}

func TestDecide(t *testing.T) {
	const want4, want6 = "10.5.1.0/24 192.0.2.7", "fd99:0:0:1::/64 2001:db8::7"
	for _, c := range []struct {
		name   string
		want   string
		kernel []kernelRoute
		steps  []string
		state  RouteState
		config func(*Config)
	}{
		{name: "nothing there", want: want4, steps: []string{"add 10.5.1.0/24 192.0.2.7 metric 0"}},
		{name: "nothing there, IPv6", want: want6, steps: []string{"add fd99:0:0:1::/64 2001:db8::7 metric 1024"}},
		{name: "right", want: want4, kernel: []kernelRoute{held(want4)}},
		{name: "right at a metric of the spread", want: want4, kernel: []kernelRoute{held(want4, at(77))}},
		{name: "right, IPv6", want: want6, kernel: []kernelRoute{held(want6)}},
		{name: "twice", want: want4, kernel: []kernelRoute{held(want4, at(7)), held(want4)}, steps: []string{"remove 10.5.1.0/24 192.0.2.7 metric 7"}},
		{name: "other gateway", want: want4, kernel: []kernelRoute{held("10.5.1.0/24 192.0.2.8", at(3))}, steps: []string{"replace 10.5.1.0/24 192.0.2.7 metric 3"}},
		{name: "other interface", want: want4, kernel: []kernelRoute{held(want4, through(9))}, steps: []string{"replace 10.5.1.0/24 192.0.2.7 metric 0"}},
		{name: "odd", want: want4, kernel: []kernelRoute{held(want4, odd)}, steps: []string{"replace 10.5.1.0/24 192.0.2.7 metric 0"}},
		{name: "one wrong, one right", want: want4, kernel: []kernelRoute{held("10.5.1.0/24 192.0.2.8"), held(want4, at(3))}, steps: []string{"remove 10.5.1.0/24 192.0.2.8 metric 0"}},
		{name: "two wrong", want: want4, kernel: []kernelRoute{held("10.5.1.0/24 192.0.2.8"), held("10.5.1.0/24 192.0.2.9", at(3))},
			steps: []string{"replace 10.5.1.0/24 192.0.2.7 metric 0", "remove 10.5.1.0/24 192.0.2.9 metric 3 after"}},
		{name: "metric below the base", want: want4, kernel: []kernelRoute{held(want4)}, config: func(c *Config) { c.Metric = 100 },
			steps: []string{"add 10.5.1.0/24 192.0.2.7 metric 100", "remove 10.5.1.0/24 192.0.2.7 metric 0 after"}},
		{name: "foreign", want: want4, kernel: []kernelRoute{held(want4, of(4))}, state: RouteConflict},
		{name: "foreign of another metric", want: want4, kernel: []kernelRoute{held(want4, of(4), at(9))}, state: RouteConflict},
		{name: "foreign beside ours", want: want4, kernel: []kernelRoute{held(want4), held(want4, of(4), at(9))}, state: RouteConflict},
		{name: "foreign beside ours that is wrong", want: want4, kernel: []kernelRoute{held("10.5.1.0/24 192.0.2.8"), held(want4, of(4), at(9))},
			steps: []string{"replace 10.5.1.0/24 192.0.2.7 metric 0"}, state: RouteConflict},
		{name: "foreign at the metric of ours that is wrong", want: want4, kernel: []kernelRoute{held("10.5.1.0/24 192.0.2.8"), held(want4, of(4))},
			steps: []string{"remove 10.5.1.0/24 192.0.2.8 metric 0"}, state: RouteConflict},
		{name: "leftover", want: want4, kernel: []kernelRoute{held(want4, of(3))}, steps: []string{"replace 10.5.1.0/24 192.0.2.7 metric 0"}},
		{name: "leftover to another gateway", want: want4, kernel: []kernelRoute{held("10.5.1.0/24 192.0.2.8", of(3))}, steps: []string{"replace 10.5.1.0/24 192.0.2.7 metric 0"}},
		{name: "leftover beside ours", want: want4, kernel: []kernelRoute{held("10.5.1.0/24 192.0.2.8", of(3)), held(want4, at(3))},
			steps: []string{"remove 10.5.1.0/24 192.0.2.8 metric 0 proto 3"}},
		{name: "leftover and ours that is wrong", want: want4, kernel: []kernelRoute{held("10.5.1.0/24 192.0.2.8", of(3)), held("10.5.1.0/24 192.0.2.9", at(3))},
			steps: []string{"replace 10.5.1.0/24 192.0.2.7 metric 3", "remove 10.5.1.0/24 192.0.2.8 metric 0 proto 3 after"}},
		{name: "leftover and another metric", want: want4, kernel: []kernelRoute{held(want4, of(3))}, config: func(c *Config) { c.Metric = 100 },
			steps: []string{"add 10.5.1.0/24 192.0.2.7 metric 100", "remove 10.5.1.0/24 192.0.2.7 metric 0 proto 3 after"}},
		{name: "leftover beside a foreign one", want: want4, kernel: []kernelRoute{held(want4, of(3)), held(want4, of(4), at(9))}, state: RouteConflict},
		{name: "boot with a metric", want: want4, kernel: []kernelRoute{held(want4, of(3), at(9))}, state: RouteConflict},
		{name: "boot through another interface", want: want4, kernel: []kernelRoute{held(want4, of(3), through(9))}, state: RouteConflict},
		{name: "boot off-link", want: want4, kernel: []kernelRoute{held("10.5.1.0/24 198.51.100.7", of(3))}, state: RouteConflict},
		{name: "boot through this host", want: want4, kernel: []kernelRoute{held("10.5.1.0/24 192.0.2.1", of(3))}, state: RouteConflict},
		{name: "boot and odd", want: want4, kernel: []kernelRoute{held(want4, of(3), odd)}, state: RouteConflict},
		{name: "boot with a source", want: want4, kernel: []kernelRoute{held(want4, of(3), func(r *kernelRoute) { r.source = netip.MustParseAddr("192.0.2.1") })}, state: RouteConflict},
		{name: "boot outside of the networks", want: "172.16.1.0/24 192.0.2.7", kernel: []kernelRoute{held("172.16.1.0/24 192.0.2.7", of(3))}, state: RouteConflict},
		{name: "two next hops of ours, IPv6", want: want6, kernel: []kernelRoute{held("fd99:0:0:1::/64 2001:db8::8"), held("fd99:0:0:1::/64 2001:db8::9")},
			steps: []string{"remove fd99:0:0:1::/64 2001:db8::9 metric 1024", "replace fd99:0:0:1::/64 2001:db8::7 metric 1024"}},
		{name: "host bits", want: "10.5.1.9/24 192.0.2.7", state: RouteFailed},
		{name: "mixed families", want: "10.5.1.0/24 2001:db8::7", state: RouteFailed},
		{name: "zone", want: "fd99:0:0:1::/64 fe80::1%eth0", state: RouteFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			tb := newTestTable(t, c.config)
			tb.set(testWanted(c.want))
			seen := snapshot{}
			for _, r := range append(c.kernel, held("10.5.77.0/24 192.0.2.7", of(4)), held("10.5.78.0/24 192.0.2.7", of(3))) {
				seen.add(r)
			}
			tb.adopt(seen)
			got := tb.steps(start)
			if !slices.Equal(got, c.steps) {
				t.Errorf("got  %q\nwant %q", got, c.steps)
			}
			state := c.state
			if state == RoutePending {
				state = RouteInstalled
			}
			w := tb.wanted[testRoute(c.want).Subnet]
			if w.state != state || (w.err != nil) != (state != RouteInstalled) {
				t.Errorf("state %v: %v, want %v", w.state, w.err, state)
			}
			// Deciding again changes nothing.
			tb.markAll()
			if got := tb.steps(start); len(got) > 0 {
				t.Errorf("and then %q", got)
			}
			checkCounts(t, tb)
		})
	}
}

// checkCounts checks what a table counts against what it counts it from.
func checkCounts(t *testing.T, tb *table) {
	t.Helper()
	load, index := map[int]int{}, map[uint32]int{}
	for _, have := range tb.kernel {
		for _, r := range have {
			index[r.index]++
			if c, ok := tb.class(r); ok && tb.ours(r) && r.subnet.Addr().Is4() {
				load[c]++
			}
		}
	}
	for c, n := range tb.load {
		if n != load[c] {
			t.Errorf("%d routes are counted in metric class %d, there are %d", n, c, load[c])
		}
	}
	if fmt.Sprint(index) != fmt.Sprint(tb.index) {
		t.Errorf("routes by interface are counted as %v, there are %v", tb.index, index)
	}
	bad := 0
	for _, w := range tb.wanted {
		bad += badness(w.state)
	}
	if bad != tb.bad {
		t.Errorf("%d bad routes are counted, there are %d", tb.bad, bad)
	}
}

// An unwanted route of ours goes, after the wanted ones have come.
func TestBreaksComeLast(t *testing.T) {
	tb := newTestTable(t, nil)
	tb.set(testWanted("10.5.0.0/25 192.0.2.7", "10.5.0.128/25 192.0.2.7"))
	tb.adopt(snapshot{
		netip.MustParsePrefix("10.5.0.0/24"): {held("10.5.0.0/24 192.0.2.7")},
		netip.MustParsePrefix("10.5.9.0/24"): {held("10.5.9.0/24 192.0.2.7", of(4))},
	})
	got := tb.steps(start)
	want := []string{"add 10.5.0.0/25 192.0.2.7 metric 0", "add 10.5.0.128/25 192.0.2.7 metric 0", "remove 10.5.0.0/24 192.0.2.7 metric 0"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// A break that waits for a make is not done if the make was refused: that is
// run's business, but the table must not forget the route.
func TestRefused(t *testing.T) {
	tb := newTestTable(t, nil)
	tb.set(testWanted("10.5.1.0/24 192.0.2.7"))
	p := netip.MustParsePrefix("10.5.1.0/24")
	tb.adopt(snapshot{p: {held("10.5.1.0/24 192.0.2.8")}})
	var pl plan
	tb.next(10, start, &pl)
	why := &RefusedError{Route: testRoute("10.5.1.0/24 192.0.2.7"), Reason: "Nexthop has invalid gateway", Err: syscall.ENETUNREACH}
	tb.done(pl.makes[0], outcomeRefused, why, start)
	got := tb.report()
	if len(got) != 1 || got[0].State != RouteFailed || !errors.Is(got[0].Err, syscall.ENETUNREACH) || got[0].Since != start {
		t.Errorf("reported %+v", got)
	}
	if tb.stats.Failed != 1 || len(tb.kernel[p]) != 1 {
		t.Errorf("stats %+v, kernel %v", tb.stats, tb.kernel)
	}
	// No pass tries again by itself.
	if tb.next(10, start, &pl) {
		t.Error("it is tried again at once")
	}
	tb.retry()
	if got := tb.steps(start); len(got) != 1 {
		t.Errorf("when something has changed: %q", got)
	}
	checkCounts(t, tb)
}

// What the kernel says against what we know leads to a look, and if that does
// not help to a failure.
func TestContradiction(t *testing.T) {
	tb := newTestTable(t, nil)
	tb.set(testWanted("10.5.1.0/24 192.0.2.7"))
	var pl plan
	for i := range 10 {
		tb.stats.Looks++
		tb.adopt(snapshot{})
		if !tb.next(10, start, &pl) || len(pl.makes) != 1 {
			t.Fatalf("round %d: nothing is tried", i)
		}
		tb.doubt = false
		tb.done(pl.makes[0], outcomeExists, &RefusedError{Err: syscall.EEXIST}, start)
		if state := tb.wanted[testRoute("10.5.1.0/24 192.0.2.7").Subnet].state; state == RouteFailed {
			if i < maxDoubts || tb.doubt {
				t.Errorf("round %d: doubt %v", i, tb.doubt)
			}
			return
		}
		if !tb.doubt {
			t.Fatalf("round %d: no look is asked for", i)
		}
	}
	t.Error("it never fails")
}

func TestContention(t *testing.T) {
	tb := newTestTable(t, nil)
	tb.set(testWanted("10.5.1.0/24 192.0.2.7", "10.5.2.0/24 192.0.2.7"))
	tb.steps(start)
	now := start
	gone := routeEvent{route: held("10.5.1.0/24 192.0.2.7"), deleted: true}
	// Something deletes it every hundred microseconds for ten seconds.
	for range 100_000 {
		now = now.Add(100 * time.Microsecond)
		tb.calm(now)
		tb.resume(now)
		tb.observe(gone)
		tb.steps(now)
	}
	if n := tb.stats.Repaired; n < 1050 || n > 1110 {
		t.Errorf("put back %d times", n)
	}
	w := tb.wanted[gone.route.subnet]
	var contended *ContendedError
	if w.state != RouteFailed || !errors.As(w.err, &contended) {
		t.Errorf("state %v: %v", w.state, w.err)
	}
	// Others do not suffer from it.
	tb.observe(routeEvent{route: held("10.5.2.0/24 192.0.2.7"), deleted: true})
	if got := tb.steps(now); len(got) != 1 {
		t.Errorf("another route: %q", got)
	}
	// Once the other gives up, it is put back and the fight forgotten.
	if tb.contended.IsZero() || tb.contended.Sub(now) > 200*time.Millisecond {
		t.Fatalf("the next try is at %v, now is %v", tb.contended, now)
	}
	now = now.Add(time.Second)
	tb.resume(now)
	if got := tb.steps(now); len(got) != 1 || w.state != RouteInstalled {
		t.Errorf("at last: %q, %v", got, w.state)
	}
	tb.calm(now.Add(5 * time.Minute))
	if len(tb.fights) > 0 || !tb.contended.IsZero() || len(tb.waiting) > 0 {
		t.Errorf("%d fights are remembered", len(tb.fights))
	}
}

// Whatever happens in whatever order, deciding ends, everything that is ours is
// as wanted then, and nothing foreign has been touched.
func TestRandom(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		tb := newTestTable(t, nil)
		tb.set(testWanted())
		now := start
		kernel := map[kernelRoute]bool{} // the truth
		pick := func() kernelRoute {
			r := held(fmt.Sprintf("10.5.%d.0/24 192.0.2.%d", rnd.IntN(4), 7+rnd.IntN(3)))
			if rnd.IntN(4) == 0 {
				r = held(fmt.Sprintf("fd99:0:0:%d::/64 2001:db8::%d", rnd.IntN(2), 7+rnd.IntN(3)))
			}
			r.protocol = []uint8{104, 3, 4}[rnd.IntN(3)]
			if r.subnet.Addr().Is4() {
				r.metric = uint32(rnd.IntN(3))
			}
			return r
		}
		taken := func(r kernelRoute) (o kernelRoute, ok bool) {
			for o := range kernel {
				if o.subnet == r.subnet && o.metric == r.metric {
					return o, true
				}
			}
			return kernelRoute{}, false
		}
		for range 60 {
			now = now.Add(time.Second)
			switch rnd.IntN(4) {
			case 0: // somebody adds
				r := pick()
				if _, ok := taken(r); !ok {
					kernel[r] = true
					tb.observe(routeEvent{route: r})
				}
			case 1: // somebody replaces
				r := pick()
				o, ok := taken(r)
				delete(kernel, o)
				kernel[r] = true
				tb.observe(routeEvent{route: r, replace: ok})
			case 2: // somebody deletes
				for r := range kernel {
					delete(kernel, r)
					tb.observe(routeEvent{route: r, deleted: true})
					break
				}
			case 3:
				r := pick()
				if rnd.IntN(3) == 0 {
					tb.forget(r.subnet)
				} else {
					tb.put([]Route{{r.subnet, r.gateway}})
				}
			}
			if rnd.IntN(2) == 0 {
				continue
			}
			var pl plan
			for round := 0; tb.next(3, now, &pl); round++ {
				if round > 50 {
					t.Fatalf("seed %d: it does not end", seed)
				}
				for _, q := range slices.Concat(pl.makes, pl.breaks) {
					switch o, ok := taken(q.route); {
					case q.op == opRemove && kernel[q.route]:
						if !tb.ours(q.route) && !tb.leftover(q.route) {
							t.Fatalf("seed %d: removes %+v", seed, q.route)
						}
						delete(kernel, q.route)
					case q.op == opReplace && ok:
						if !tb.ours(o) && !tb.leftover(o) || o != q.old {
							t.Fatalf("seed %d: replaces %+v, meaning %+v", seed, o, q.old)
						}
						delete(kernel, o)
						kernel[q.route] = true
					case q.op == opAdd && !ok:
						kernel[q.route] = true
					default:
						t.Fatalf("seed %d: the kernel refuses %+v", seed, q)
					}
					tb.done(q, outcomeDone, nil, now)
				}
			}
			have := map[kernelRoute]bool{}
			for _, rs := range tb.kernel {
				for _, r := range rs {
					have[r] = true
				}
			}
			if len(have) != len(kernel) {
				t.Fatalf("seed %d: believes in %d routes of %d", seed, len(have), len(kernel))
			}
			for r := range kernel {
				if !have[r] {
					t.Fatalf("seed %d: does not know %+v", seed, r)
				}
				w := tb.wanted[r.subnet]
				if tb.ours(r) && (w == nil || w.gateway != r.gateway) {
					t.Fatalf("seed %d: leaves %+v", seed, r)
				}
			}
			for p, w := range tb.wanted {
				mine := slices.ContainsFunc(tb.kernel[p], func(r kernelRoute) bool { return tb.ours(r) && r.gateway == w.gateway })
				theirs := tb.foreign(tb.kernel[p]) != nil
				switch {
				case theirs && w.state != RouteConflict, !theirs && (w.state != RouteInstalled || !mine):
					t.Fatalf("seed %d: %v is %v, ours in place %v, a foreign one %v", seed, p, w.state, mine, theirs)
				}
			}
			checkCounts(t, tb)
		}
	}
}

func TestSetCostsNothingWhenEqual(t *testing.T) {
	tb := newTestTable(t, nil)
	w := testWanted("10.5.1.0/24 192.0.2.7", "172.16.1.0/24 192.0.2.7")
	if !tb.set(w) {
		t.Error("the first set does not ask for a look")
	}
	tb.steps(start)
	tb.report()
	if tb.set(testWanted("10.5.1.0/24 192.0.2.7", "172.16.1.0/24 192.0.2.7")) {
		t.Error("an equal set asks for a look")
	}
	if got := tb.steps(start); len(got) > 0 {
		t.Errorf("an equal set does %q", got)
	}
	// Whoever asks again is told again how far it is.
	if got := tb.report(); len(got) != 2 || got[0].State != RouteInstalled {
		t.Errorf("an equal set reports %+v", got)
	}
	if tb.put([]Route{testRoute("10.5.9.0/24 192.0.2.7")}) {
		t.Error("a subnet inside the networks asks for a look")
	}
	if !tb.put([]Route{testRoute("172.16.2.0/24 192.0.2.7")}) {
		t.Error("a subnet outside of the networks asks for no look")
	}
}

func TestNewProgrammerChecks(t *testing.T) {
	good := Config{Uplink: Uplink{Name: "eth0"}}
	for _, c := range []struct {
		want string // "" is no error
		edit func(*Config)
	}{
		{"", func(c *Config) {}},
		{"", func(c *Config) { c.Table, c.Protocol, c.Metric, c.Resync = 1000, 5, 1<<31, -1 }},
		{"Uplink.Name", func(c *Config) { c.Uplink.Name = "" }},
		{"Uplink.Name", func(c *Config) { c.Uplink.Name = "a-name-of-16-byt" }},
		{"Protocol 4", func(c *Config) { c.Protocol = 4 }},
		{"Protocol 2", func(c *Config) { c.Protocol = 2 }},
		{"Table 255", func(c *Config) { c.Table = 255 }},
		{"Metric 4294967295", func(c *Config) { c.Metric = 1<<32 - 1 }},
		{"Source 2001:db8::1", func(c *Config) { c.Source = netip.MustParseAddr("2001:db8::1") }},
		{"Source 224.0.0.1", func(c *Config) { c.Source = netip.MustParseAddr("224.0.0.1") }},
		{"SourceV6 192.0.2.1", func(c *Config) { c.SourceV6 = netip.MustParseAddr("192.0.2.1") }},
		{"SourceV6 fe80::1%eth0", func(c *Config) { c.SourceV6 = netip.MustParseAddr("fe80::1%eth0") }},
	} {
		config := good
		c.edit(&config)
		_, err := NewProgrammer(config)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%+v: %v", config, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("error %v, want one about %s", err, c.want)
		}
	}
}
