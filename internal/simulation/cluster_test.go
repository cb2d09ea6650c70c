package simulation

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing/synctest"
	"time"

	"github.com/hostgw/hostgw/store/memory"
	"github.com/hostgw/hostgw/subnet"
)

// cluster is one schedule under way: a store, hosts, and the driver who does
// things to them.
type cluster struct {
	seed   uint64
	server *memory.Server
	ledger *ledger
	hosts  []*host
	real   bool // kernels: netlinktest and the real programmer, else models

	net    network // the last one that was configured
	text   string  // of it
	usable bool    // it is what the store holds, as far as the driver did that
	backup *memory.Backup
	backed network

	steps   int
	pauses  int // how long the pauses are: 0 short ones, 1 all, 2 long ones
	weights []int

	mu    sync.Mutex
	lines []string // of the trace
	trace bool     // with what happens between the steps
}

// size draws how many hosts there are: often few, up to 50.
func size(r *rand.Rand) int {
	switch p := r.IntN(1000); {
	case p < 4:
		return 31 + r.IntN(20)
	case p < 20:
		return 16 + r.IntN(15)
	case p < 120:
		return 9 + r.IntN(7)
	}
	return 5 + r.IntN(4)
}

func newCluster(seed uint64, real, trace bool) *cluster {
	r := rand.New(rand.NewPCG(seed, 0))
	n := size(r)
	ttl := [...]time.Duration{20 * time.Second, time.Minute, 10 * time.Minute}[r.IntN(3)]
	hold := [...]time.Duration{10 * time.Second, 30 * time.Second, 2 * time.Minute}[r.IntN(3)]
	c := &cluster{seed: seed, real: real, trace: trace, server: memory.NewServer(), ledger: newLedger(ttl, hold)}
	if trace {
		c.ledger.note = c.note
	}
	c.server.Observe(c.ledger.take)
	c.net = firstNetwork(r, n)
	c.text = c.net.text()
	c.steps = 8 + r.IntN(24)
	c.pauses = r.IntN(3)
	for range actions {
		w := 0
		if r.IntN(3) > 0 {
			w = 1 + r.IntN(4)
		}
		c.weights = append(c.weights, w)
	}
	c.weights[0] = max(c.weights[0], 1)
	for i := range n {
		c.addHost(r, i)
	}
	c.note("seed %d: %d hosts, TTL %v, hold %v, network %s", seed, n, ttl, hold, c.text)
	return c
}

func (c *cluster) addHost(r *rand.Rand, i int) {
	h := &host{
		c: c, number: i, name: fmt.Sprintf("h%d", i), up: true, move: r.IntN(3) == 0,
		foreign: map[netip.Prefix]netip.Addr{},
	}
	h.address(i)
	if r.IntN(40) == 0 {
		// On another segment: what host-gw cannot serve.
		h.ipv4 = netip.AddrFrom4([4]byte{172, 18, 0, byte(1 + i)})
		h.addrs = []netip.Prefix{netip.PrefixFrom(h.ipv4, 16), netip.PrefixFrom(h.ipv6, 64)}
	}
	changed := func(gone, came way) { c.ledger.takeRoutes(h, gone, came) }
	if c.real {
		h.kernel = newReal(h.addrs, c.logger(h), changed)
	} else {
		h.kernel = newModel(h.addrs, changed)
	}
	c.ledger.hosts[h.ipv4], c.ledger.hosts[h.ipv6] = h, h
	c.hosts = append(c.hosts, h)
}

// address gives h its addresses.
func (h *host) address(i int) {
	h.ipv4 = netip.AddrFrom4([4]byte{172, 17, byte(i / 200), byte(1 + i%200)})
	v6 := netip.MustParseAddr("fd00::").As16()
	v6[14], v6[15] = byte(i>>8), byte(1+i)
	h.ipv6 = netip.AddrFrom16(v6)
	h.addrs = []netip.Prefix{netip.PrefixFrom(h.ipv4, 16), netip.PrefixFrom(h.ipv6, 64)}
}

func (c *cluster) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, fmt.Sprintf("%12v  ", clock())+fmt.Sprintf(format, args...))
}

// simulate runs the whole schedule, and returns what went wrong.
func (c *cluster) simulate() []string {
	defer c.end()
	for i := range c.steps {
		r := rand.New(rand.NewPCG(c.seed, uint64(i+1)))
		what := c.act(r, i)
		pause := c.pause(r)
		c.note("%s; %v", what, pause)
		time.Sleep(pause)
		synctest.Wait()
		if bad := c.check(pause >= quiet); bad != nil {
			return bad
		}
	}
	return c.converge(rand.New(rand.NewPCG(c.seed, 1<<32)))
}

// quiet is a pause long enough for everything that can be settled to be so: a
// node that finds its subnet taken looks on for five seconds.
const quiet = 15 * time.Second

// pause draws how long nothing is done after a step. The longest ones are the
// jumps of a clock: everything with a time limit is overdue at once.
func (c *cluster) pause(r *rand.Rand) time.Duration {
	within := func(d time.Duration) time.Duration { return time.Duration(1 + r.Int64N(int64(d))) }
	p := r.IntN(100)
	switch c.pauses {
	case 0:
		p /= 2
	case 2:
		p = 30 + p*7/10
	}
	l := c.ledger
	switch {
	case p < 12:
		return 0
	case p < 25:
		return within(2 * time.Millisecond)
	case p < 45:
		return within(time.Second)
	case p < 65:
		return within(10 * time.Second)
	case p < 85:
		return quiet + within(time.Second)
	case p < 92:
		return quiet + within(l.hold)
	case p < 97:
		return quiet + within(l.ttl)
	}
	return quiet + within(3*l.ttl+l.hold)
}

// act does something.
func (c *cluster) act(r *rand.Rand, step int) string {
	if step == 0 {
		return c.begin(r)
	}
	sum := 0
	for i := range actions {
		sum += c.weights[i] * actions[i].weight
	}
	n := r.IntN(sum)
	for i := range actions {
		if n -= c.weights[i] * actions[i].weight; n < 0 {
			return actions[i].name + ": " + actions[i].do(c, r)
		}
	}
	panic("unreachable")
}

// begin starts most hosts at once.
func (c *cluster) begin(r *rand.Rand) string {
	late := r.IntN(8) == 0
	if !late {
		c.configure(c.text)
	}
	started := 0
	for _, h := range c.hosts {
		if r.IntN(6) > 0 {
			h.start(false)
			started++
		}
	}
	return fmt.Sprintf("%d hosts start, config there: %v", started, !late)
}

func (c *cluster) configure(text string) {
	c.usable = text == c.text
	c.server.PutConfig([]byte(text))
}

// converge takes all troubles away, gives everybody the time it may need, and
// checks that everything is as it should be.
func (c *cluster) converge(r *rand.Rand) []string {
	for _, h := range c.hosts {
		h.setFaults(memory.Faults{})
		if !h.up {
			h.up = true
			h.kernel.setUp(true)
		}
	}
	if !c.usable {
		c.configure(c.text)
	}
	for _, rec := range c.server.Snapshot().Records {
		// What takes more than its subnet may leave no room for anybody.
		if k := subnets(rec); k != (subnet.Key{}) && !c.config().Fits(k) && rec.Reserved() {
			c.server.Delete(rec.Name)
		}
	}
	c.note("all is healed")
	longest := time.Duration(0)
	for _, h := range c.hosts {
		longest = max(longest, time.Until(h.late))
	}
	if bad := c.rest(longest + quiet); bad != nil {
		return bad
	}
	for _, h := range c.hosts {
		if runs(h) && !h.run.ended && !c.config().Fits(h.run.record.Lease.Key) {
			c.note("%s restarts under the new config", h.name)
			h.stop(false)
			h.start(true)
		} else if rests(h) && r.IntN(2) == 0 {
			h.start(true)
		}
	}
	// By then the leases of the dead are gone, and their routes.
	if bad := c.rest(c.ledger.ttl + c.ledger.hold + quiet); bad != nil {
		return bad
	}
	c.note("%s", c.revive())
	if bad := c.rest(c.ledger.hold + quiet); bad != nil {
		return bad
	}
	return c.checkConverged()
}

func (c *cluster) rest(d time.Duration) []string {
	time.Sleep(d)
	synctest.Wait()
	return c.check(true)
}

func (c *cluster) config() subnet.Config { return c.server.Snapshot().Config.Config }

// end stops everything, so that the bubble can end: synctest fails if a
// goroutine is left.
func (c *cluster) end() {
	for _, h := range c.hosts {
		if runs(h) {
			h.stop(false)
		}
		h.kernel.close()
		for _, r := range h.runs {
			r.flight.Wait()
		}
	}
}
