package simulation

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/netlinkx"
)

// way is what a route is about: a subnet and the next hop to it.
type way struct {
	subnet  netip.Prefix
	gateway netip.Addr
}

func (w way) String() string { return w.subnet.String() + " via " + w.gateway.String() }

// kernel is a host's routing kernel. It outlives the daemon. What a daemon
// changes in it is told to an observer as it happens: the way that went and the
// way that came, one of which may be zero.
type kernel interface {
	// programmer is the route programmer of one run of a daemon.
	programmer(netlinkx.Uplink) (hostgw.RouteProgrammer, error)

	// routes are those in the kernel that lead to a gateway: with our protocol
	// number, and others.
	routes() (ours, foreign map[netip.Prefix]netip.Addr)

	// What an operator does by hand. They report whether the kernel let them.
	addForeign(way) bool
	remove(p netip.Prefix, ours bool) bool

	addAddr(netip.Prefix)
	delAddr(netip.Prefix)
	setUp(bool)

	close()
}

type observer func(gone, came way)

// model is a kernel reduced to what the rules of this simulation speak of: one
// route for each subnet, refused if its gateway is not on-link, lost when the
// link goes down or the address goes that it was on-link by. It comes with a
// programmer of its own, which does what hostgw.RouteProgrammer says in the
// simplest way there is. It is fast; the schedules that run on it are about the
// Manager.
type model struct {
	observe observer

	mu    sync.Mutex
	up    bool
	addrs []netip.Prefix
	table map[netip.Prefix]entry
	wake  chan struct{} // of the programmer that runs, if one does
}

type entry struct {
	gateway netip.Addr
	ours    bool
}

func newModel(addrs []netip.Prefix, observe observer) *model {
	return &model{observe: observe, up: true, addrs: slices.Clone(addrs), table: map[netip.Prefix]entry{}}
}

func (k *model) close() {}

func (k *model) routes() (ours, foreign map[netip.Prefix]netip.Addr) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ours, foreign = map[netip.Prefix]netip.Addr{}, map[netip.Prefix]netip.Addr{}
	for p, e := range k.table {
		if e.ours {
			ours[p] = e.gateway
		} else {
			foreign[p] = e.gateway
		}
	}
	return ours, foreign
}

func (k *model) onLink(a netip.Addr) bool {
	return k.up && slices.ContainsFunc(k.addrs, func(p netip.Prefix) bool { return p.Contains(a) })
}

// change has f change the kernel, and the programmer look at it.
func (k *model) change(f func() bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	done := f()
	if k.wake != nil {
		ring(k.wake)
	}
	return done
}

func ring(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (k *model) addForeign(w way) bool {
	return k.change(func() bool {
		if _, taken := k.table[w.subnet]; taken || !k.onLink(w.gateway) {
			return false
		}
		k.table[w.subnet] = entry{gateway: w.gateway}
		return true
	})
}

func (k *model) remove(p netip.Prefix, ours bool) bool {
	return k.change(func() bool {
		e, ok := k.table[p]
		if ok = ok && e.ours == ours; ok {
			delete(k.table, p)
		}
		return ok
	})
}

func (k *model) addAddr(p netip.Prefix) {
	k.change(func() bool {
		k.addrs = append(slices.Clone(k.addrs), p)
		return true
	})
}

func (k *model) delAddr(p netip.Prefix) {
	k.change(func() bool {
		k.addrs = slices.DeleteFunc(slices.Clone(k.addrs), func(a netip.Prefix) bool { return a == p })
		k.drop()
		return true
	})
}

func (k *model) setUp(up bool) {
	k.change(func() bool {
		k.up = up
		k.drop()
		return true
	})
}

// drop removes what can no longer be reached.
func (k *model) drop() {
	maps.DeleteFunc(k.table, func(_ netip.Prefix, e entry) bool { return !k.onLink(e.gateway) })
}

func (k *model) programmer(u netlinkx.Uplink) (hostgw.RouteProgrammer, error) {
	return &modelProgrammer{kernel: k, uplink: u, wake: make(chan struct{}, 1), asked: map[netip.Prefix]bool{}, told: map[netip.Prefix]netlinkx.RouteStatus{}}, nil
}

type modelProgrammer struct {
	kernel *model
	uplink netlinkx.Uplink
	wake   chan struct{}

	mu      sync.Mutex
	set     bool
	wanted  map[netip.Prefix]netip.Addr
	linger  bool
	dropped map[netip.Prefix]bool // wanted once while others linger
	own     []netip.Prefix
	asked   map[netip.Prefix]bool // whose state is to be told, news or not

	told map[netip.Prefix]netlinkx.RouteStatus // of the goroutine of Run
}

func (p *modelProgrammer) Set(w netlinkx.Wanted) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.wanted
	p.set, p.linger, p.own, p.wanted = true, w.Linger, w.Own, map[netip.Prefix]netip.Addr{}
	if !w.Linger || p.dropped == nil {
		p.dropped = map[netip.Prefix]bool{}
	}
	for _, r := range w.Routes {
		p.wanted[r.Subnet], p.asked[r.Subnet] = r.Gateway, true
	}
	for s := range old {
		if _, ok := p.wanted[s]; !ok {
			p.dropped[s] = true
		}
	}
	ring(p.wake)
}

func (p *modelProgrammer) Change(put []netlinkx.Route, remove []netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range remove {
		delete(p.wanted, s)
		p.dropped[s] = true
	}
	for _, r := range put {
		p.wanted[r.Subnet], p.asked[r.Subnet] = r.Gateway, true
	}
	ring(p.wake)
}

func (p *modelProgrammer) Run(ctx context.Context, report func(netlinkx.Report)) error {
	p.kernel.mu.Lock()
	p.kernel.wake = p.wake
	p.kernel.mu.Unlock()
	defer func() {
		p.kernel.mu.Lock()
		p.kernel.wake = nil
		p.kernel.mu.Unlock()
	}()
	ring(p.wake)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		}
		if r := p.pass(); r.Uplink != nil || len(r.Routes) > 0 {
			report(r)
		}
	}
}

var errUnreachable = errors.New("nexthop has invalid gateway")

// pass makes the kernel equal to what is wanted, and returns what is news.
func (p *modelProgrammer) pass() netlinkx.Report {
	k := p.kernel
	k.mu.Lock()
	defer k.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()

	var r netlinkx.Report
	if p.uplink.Up != k.up || !slices.Equal(p.uplink.Addrs, k.addrs) {
		p.uplink.Up, p.uplink.Running, p.uplink.Addrs = k.up, k.up, slices.Clone(k.addrs)
		u := p.uplink
		r.Uplink = &u
	}
	if !p.set {
		return r
	}
	for s, gateway := range p.wanted {
		st := netlinkx.RouteStatus{Route: netlinkx.Route{Subnet: s, Gateway: gateway}, State: netlinkx.RouteInstalled}
		have, ok := k.table[s]
		switch {
		case ok && !have.ours:
			st.State, st.Err = netlinkx.RouteConflict, errors.New("foreign route")
		case ok && have.gateway == gateway:
		case !k.onLink(gateway):
			st.State, st.Err = netlinkx.RouteFailed, errUnreachable
		default:
			k.table[s] = entry{gateway, true}
			var gone way
			if ok {
				gone = way{s, have.gateway}
			}
			k.observe(gone, way{s, gateway})
		}
		old := p.told[s]
		if st.Since = old.Since; old.Route != st.Route || old.State != st.State {
			st.Since = time.Now()
			p.asked[s] = true
		}
		if p.asked[s] {
			p.told[s] = st
			r.Routes = append(r.Routes, st)
		}
	}
	clear(p.asked)
	for s, have := range k.table {
		lingers := p.linger && !p.dropped[s] && !slices.ContainsFunc(p.own, s.Overlaps)
		if _, ok := p.wanted[s]; ok || !have.ours || lingers {
			continue
		}
		delete(k.table, s)
		k.observe(way{s, have.gateway}, way{})
	}
	for s := range p.told {
		if _, ok := p.wanted[s]; !ok {
			delete(p.told, s)
		}
	}
	return r
}
