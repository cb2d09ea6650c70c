package netlinkx

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Numbers of rtnetlink that the diff has to know, as in linux/rtnetlink.h.
const (
	protocolBoot   = 3
	protocolStatic = 4
	routeUnicast   = 1
	scopeUniverse  = 0

	// defaultMetric6 is what the kernel gives to an IPv6 route without a metric.
	defaultMetric6 = 1024
)

func protocolName(p uint8) string {
	switch p {
	case 2:
		return "kernel"
	case protocolBoot:
		return "boot"
	case protocolStatic:
		return "static"
	case DefaultProtocol:
		return "hostgw"
	}
	return strconv.Itoa(int(p))
}

// kernelRoute is a route as the kernel holds it in our table. Two of them are
// the same route if they are equal.
type kernelRoute struct {
	subnet   netip.Prefix
	gateway  netip.Addr // zero if it has none or several
	source   netip.Addr
	index    uint32 // of the interface; zero if it has none or several
	metric   uint32
	protocol uint8
	kind     uint8 // unicast, blackhole, ...
	scope    uint8
	tos      uint8
	onlink   bool
	plain    bool // it has no attribute that is not in this struct
}

// want is one wanted route and how far it is.
type want struct {
	gateway netip.Addr
	state   RouteState
	err     error
	since   time.Time
	repair  bool   // it was in place until somebody else changed that
	doubts  uint8  // how often in a row the kernel's answer contradicted what we knew
	looks   uint64 // how many there had been at the last doubt
	news    bool   // it is in table.news
}

type operation uint8

const (
	opAdd operation = iota
	opReplace
	opRemove
)

// request is one change to the kernel's table.
type request struct {
	op    operation
	route kernelRoute // what is added or removed
	old   kernelRoute // what opReplace replaces
	after int         // index of the make that must have succeeded first, or -1
}

// plan is what to do about some prefixes: the makes, and after those the breaks.
type plan struct {
	makes, breaks []request
}

func (p *plan) reset() { p.makes, p.breaks = p.makes[:0], p.breaks[:0] }

func (p *plan) make(r request) int {
	r.after = -1
	p.makes = append(p.makes, r)
	return len(p.makes) - 1
}

func (p *plan) remove(r kernelRoute, after int) {
	p.breaks = append(p.breaks, request{op: opRemove, route: r, after: after})
}

// table is what is wanted, what the kernel holds as far as it concerns us, and
// the rules that make one into the other. It does no I/O.
type table struct {
	config Config // complete
	uplink Uplink

	networks []netip.Prefix
	wanted   map[netip.Prefix]*want
	linger   bool                      // leave routes of ours that were never wanted in this run
	released map[netip.Prefix]struct{} // those that were, while others linger
	own      []netip.Prefix            // no route that overlaps one of these lingers
	scope    *scope                    // what of the kernel's table concerns us

	kernel map[netip.Prefix][]kernelRoute // what the kernel holds of that
	load   []int                          // IPv4 routes of ours, those about to be added too, by metric above the base
	index  map[uint32]int                 // routes in kernel, by interface; those without one or with several under 0

	dirty dirtySet // wanted prefixes to decide about
	stale dirtySet // the same of prefixes that are not wanted: after all others
	news  []netip.Prefix

	// aliens are IPv6 routes that the kernel shows as ours, because they are next
	// hops beside one of ours, and that turned out not to be.
	aliens map[kernelRoute]struct{}

	fights map[netip.Prefix]*bucket
	stuck  map[kernelRoute]uint8 // how often the kernel did not find a route to remove that it shows

	again     bool      // something happened that may let refused routes in
	doubt     bool      // something happened that only a look at the kernel can tell the result of
	contended time.Time // when the first of the contended routes may be tried again; zero if none is
	waiting   []netip.Prefix
	bad       int // wanted routes that are neither installed nor in conflict

	stats Stats
	tally tally
}

// tally is what happened since it was last logged.
type tally struct {
	repaired, takenOver, added, removed, replaced int
	refused, conflicts                            []error // the first few of each
	nRefused, nConflicts                          int
}

func newTable(c Config) *table {
	return &table{
		config: c,
		uplink: c.Uplink,
		wanted: map[netip.Prefix]*want{},
		kernel: map[netip.Prefix][]kernelRoute{},
		index:  map[uint32]int{},
		aliens: map[kernelRoute]struct{}{},
		fights: map[netip.Prefix]*bucket{},
		stuck:  map[kernelRoute]uint8{},
	}
}

func (t *table) ours(r kernelRoute) bool {
	if r.protocol != t.config.Protocol {
		return false
	}
	_, alien := t.aliens[r]
	return !alien
}

// leftover reports whether r is one that flanneld left: the one kind of route
// that is not ours and yet is taken over.
func (t *table) leftover(r kernelRoute) bool {
	return r.protocol == protocolBoot &&
		r.plain && r.kind == routeUnicast && r.scope == scopeUniverse && r.tos == 0 &&
		!r.source.IsValid() &&
		r.metric == defaultMetric(r.subnet) &&
		r.index != 0 && r.index == uint32(t.uplink.Index) &&
		t.onLink(r.gateway) &&
		inside(t.networks, r.subnet)
}

func (t *table) onLink(gateway netip.Addr) bool {
	if !gateway.IsValid() {
		return false
	}
	own := func(p netip.Prefix) bool { return p.Addr() == gateway }
	if slices.ContainsFunc(t.uplink.Addrs, own) {
		return false
	}
	return t.config.OnLink || slices.ContainsFunc(t.uplink.Addrs, func(p netip.Prefix) bool { return p.Contains(gateway) })
}

// inside reports whether p lies inside one of the networks.
func inside(networks []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool {
		return n.Bits() <= p.Bits() && n.Contains(p.Addr())
	})
}

func defaultMetric(p netip.Prefix) uint32 {
	if p.Addr().Is4() {
		return 0
	}
	return defaultMetric6
}

// base is the lowest metric of our routes of p's family.
func (t *table) base(p netip.Prefix) uint32 {
	return cmp.Or(t.config.Metric, defaultMetric(p))
}

// class returns which metric class r is in: how far above the base.
func (t *table) class(r kernelRoute) (int, bool) {
	base := t.base(r.subnet)
	if r.metric < base || r.metric-base >= metricClasses {
		return 0, false
	}
	return int(r.metric - base), true
}

// capacity is how many routes of ours a class should hold.
func capacity(class int) int {
	if class == 0 {
		return PlainRoutes
	}
	return FurtherRoutes
}

// room returns the lowest metric of p's family that has room for another route.
func (t *table) room(p netip.Prefix) uint32 {
	base := t.base(p)
	if p.Addr().Is6() {
		return base
	}
	for c, n := range t.load {
		if n < capacity(c) {
			return base + uint32(c)
		}
	}
	return base + uint32(min(len(t.load), metricClasses-1))
}

func (t *table) count(r kernelRoute, n int) {
	if !t.ours(r) || r.subnet.Addr().Is6() {
		return
	}
	c, ok := t.class(r)
	if !ok {
		return
	}
	for len(t.load) <= c {
		t.load = append(t.load, 0)
	}
	t.load[c] += n
}

// insert notes that the kernel holds r.
func (t *table) insert(r kernelRoute) {
	have := t.kernel[r.subnet]
	if slices.Contains(have, r) {
		return
	}
	t.kernel[r.subnet] = append(have, r)
	t.index[r.index]++
	t.count(r, 1)
}

// erase notes that the kernel does not hold r any more.
func (t *table) erase(r kernelRoute) bool {
	have := t.kernel[r.subnet]
	i := slices.Index(have, r)
	if i < 0 {
		return false
	}
	if len(have) == 1 {
		delete(t.kernel, r.subnet)
	} else {
		t.kernel[r.subnet] = slices.Delete(have, i, i+1)
	}
	if t.index[r.index]--; t.index[r.index] == 0 {
		delete(t.index, r.index)
	}
	t.count(r, -1)
	return true
}

// desired is the route that r should be in the kernel, but for its metric.
func (t *table) desired(r Route) kernelRoute {
	k := kernelRoute{
		subnet:   r.Subnet,
		gateway:  r.Gateway,
		source:   t.config.Source,
		index:    uint32(t.uplink.Index),
		protocol: t.config.Protocol,
		kind:     routeUnicast,
		scope:    scopeUniverse,
		onlink:   t.config.OnLink,
		plain:    true,
	}
	if r.Subnet.Addr().Is6() {
		k.source = t.config.SourceV6
	}
	return k
}

// foreign returns the route in have that is in the way of ours, or nil.
func (t *table) foreign(have []kernelRoute) *kernelRoute {
	i := slices.IndexFunc(have, func(r kernelRoute) bool { return !t.ours(r) && !t.leftover(r) })
	if i < 0 {
		return nil
	}
	return &have[i]
}

// decide adds to pl what makes the kernel's routes to p what they should be.
// What needs no request is settled at once, the rest by done.
func (t *table) decide(p netip.Prefix, now time.Time, pl *plan) {
	have := t.kernel[p]
	w := t.wanted[p]
	if w == nil {
		if t.lingers(p) {
			return
		}
		for _, r := range have {
			if t.ours(r) && t.stuck[r] < maxDoubts {
				pl.remove(r, -1)
			}
		}
		return
	}
	if err := (Route{p, w.gateway}).check(); err != nil {
		t.settle(p, w, RouteFailed, err, now)
		return
	}

	good := t.desired(Route{p, w.gateway})
	foreign := t.foreign(have)
	keep := t.best(have, good, foreign)

	// Without a foreign route the leftovers go too once ours is there: with a
	// lower metric they would hide it.
	surplus := func(r kernelRoute) bool {
		return (t.ours(r) || foreign == nil && t.leftover(r)) && t.stuck[r] < maxDoubts
	}
	removeSurplus := func(but kernelRoute, after int) {
		for _, r := range have {
			if r != but && surplus(r) {
				pl.remove(r, after)
			}
		}
	}

	if keep != nil {
		t.settleIn(p, w, foreign, now)
		if len(have) > 1 && slices.ContainsFunc(have, func(r kernelRoute) bool { return r != *keep && surplus(r) }) && t.mayFight(p, now) {
			removeSurplus(*keep, -1)
		}
		return
	}
	if w.state == RouteInstalled {
		w.repair = true
	}
	if t.uplink.Index == 0 || !t.uplink.Up {
		if foreign != nil {
			t.settleIn(p, w, foreign, now)
		} else {
			t.settle(p, w, RouteFailed, &UplinkError{Name: t.config.Uplink.Name, Down: t.uplink.Index != 0}, now)
		}
		return
	}

	if more := t.siblings(have); len(more) > 0 {
		// Replacing one would replace all, whoever they are of.
		for _, r := range more {
			pl.remove(r, -1)
		}
		return
	}
	old := t.replaceable(have, foreign)
	if old == nil && foreign != nil {
		// Ours is not added, and a wrong one that cannot be put right goes.
		t.settleIn(p, w, foreign, now)
		removeSurplus(kernelRoute{}, -1)
		return
	}
	if w.repair && !t.mayFight(p, now) {
		t.settle(p, w, RouteFailed, &ContendedError{Subnet: p}, now)
		return
	}

	q := request{op: opAdd, route: good}
	if old != nil {
		q.op, q.old, q.route.metric = opReplace, *old, old.metric
	} else {
		q.route.metric = t.room(p)
	}
	t.count(q.route, 1) // until done
	removeSurplus(q.old, pl.make(q))
}

// best returns the route in have that is ours and as it should be, the one of
// the lowest metric if there are several, or nil.
func (t *table) best(have []kernelRoute, good kernelRoute, foreign *kernelRoute) *kernelRoute {
	var keep *kernelRoute
	for i := range have {
		r := &have[i]
		good.metric = r.metric
		if *r != good || keep != nil && keep.metric <= r.metric {
			continue
		}
		// A metric of before the config changed is only put up with beside a
		// foreign route, where nothing may be added.
		if _, ok := t.class(*r); ok || foreign != nil {
			keep = r
		}
	}
	return keep
}

// replaceable returns the route in have that a replacing request may hit. It
// hits whatever has the metric, whoever owns it, so none that shares its metric
// with a foreign route qualifies.
func (t *table) replaceable(have []kernelRoute, foreign *kernelRoute) *kernelRoute {
	var old *kernelRoute
	for i := range have {
		r := &have[i]
		c, ok := t.class(*r)
		switch {
		case r.tos != 0:
			continue
		case t.ours(*r):
			if !ok && foreign == nil {
				continue // of another config's metric: moved instead
			}
		case foreign == nil && t.leftover(*r):
			if !ok || r.subnet.Addr().Is4() && c < len(t.load) && t.load[c] >= capacity(c) {
				continue
			}
		default:
			continue
		}
		shared := func(o kernelRoute) bool {
			return o.metric == r.metric && !t.ours(o) && !t.leftover(o)
		}
		if slices.ContainsFunc(have, shared) {
			continue
		}
		if old == nil || t.ours(*r) && !t.ours(*old) {
			old = r
		}
	}
	return old
}

// siblings returns those of our IPv6 routes in have that are next hops beside
// another of ours.
func (t *table) siblings(have []kernelRoute) []kernelRoute {
	var more []kernelRoute
	for i, r := range have {
		if r.subnet.Addr().Is6() && t.ours(r) && slices.ContainsFunc(have[:i], func(o kernelRoute) bool { return t.ours(o) && o.metric == r.metric }) {
			more = append(more, r)
		}
	}
	return more
}

// mayFight reports whether p may be put right now. A route that something keeps
// removing is put back at once a thousand times, and after that ten times
// a second.
func (t *table) mayFight(p netip.Prefix, now time.Time) bool {
	b := t.fights[p]
	if b == nil {
		b = &bucket{rate: 10, burst: 1000}
		t.fights[p] = b
	}
	if b.take(now) {
		return true
	}
	t.waiting = append(t.waiting, p)
	if next := b.next(now); t.contended.IsZero() || next.Before(t.contended) {
		t.contended = next
	}
	return false
}

// resume makes the contended routes be looked at again, once it is time.
func (t *table) resume(now time.Time) {
	if t.contended.IsZero() || now.Before(t.contended) {
		return
	}
	t.contended = time.Time{}
	waiting := t.waiting
	t.waiting = nil
	for _, p := range waiting {
		t.mark(p)
	}
}

// calm forgets the fights that are over.
func (t *table) calm(now time.Time) {
	for p, b := range t.fights {
		if b.full(now) {
			delete(t.fights, p)
		}
	}
}

// settleIn says that ours is in the kernel, or that foreign is there.
func (t *table) settleIn(p netip.Prefix, w *want, foreign *kernelRoute, now time.Time) {
	w.doubts = 0
	if foreign == nil {
		w.repair = false
		t.settle(p, w, RouteInstalled, nil, now)
		return
	}
	e := &ForeignRouteError{
		Subnet:   p,
		Protocol: foreign.protocol,
		Gateway:  foreign.gateway,
		Index:    int(foreign.index),
		Metric:   foreign.metric,
	}
	if e.Index != 0 && e.Index == t.uplink.Index {
		e.Device = t.uplink.Name
	}
	t.settle(p, w, RouteConflict, e, now)
}

func (t *table) settle(p netip.Prefix, w *want, s RouteState, err error, now time.Time) {
	if s == w.state && sameText(err, w.err) {
		return
	}
	if s != w.state {
		switch s {
		case RouteConflict:
			t.tally.conflict(err)
		case RouteFailed:
			t.tally.refuse(err)
		}
	}
	t.bad += badness(s) - badness(w.state)
	w.state, w.err, w.since = s, err, now
	t.tell(p, w)
}

func badness(s RouteState) int {
	if s == RouteInstalled || s == RouteConflict {
		return 0
	}
	return 1
}

func (t *table) tell(p netip.Prefix, w *want) {
	if !w.news {
		w.news = true
		t.news = append(t.news, p)
	}
}

func sameText(a, b error) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a == b || a.Error() == b.Error()
}

// report returns the states that changed since it was last called.
func (t *table) report() []RouteStatus {
	if len(t.news) == 0 {
		return nil
	}
	out := make([]RouteStatus, 0, len(t.news))
	for _, p := range t.news {
		w := t.wanted[p]
		if w == nil || !w.news {
			continue
		}
		w.news = false
		out = append(out, RouteStatus{Route: Route{p, w.gateway}, State: w.state, Err: w.err, Since: w.since})
	}
	t.news = t.news[:0]
	return out
}

// outcome is what the kernel answered to a request.
type outcome uint8

const (
	outcomeDone    outcome = iota
	outcomeExists          // there is one already
	outcomeAbsent          // there is none such
	outcomeUnknown         // the answer got lost
	outcomeRefused         // anything else
)

const (
	maxDoubts  = 3 // contradictions in a row after which a route counts as refused
	tallyKeeps = 3 // errors that a tally keeps
)

// done takes the kernel's answer to q. why is the error if it was refused.
func (t *table) done(q request, o outcome, why error, now time.Time) {
	p := q.route.subnet
	w := t.wanted[p]
	if q.op == opRemove {
		switch o {
		case outcomeDone:
			t.erase(q.route)
			delete(t.stuck, q.route)
			t.stats.Removed++
			t.tally.removed++
			if !t.ours(q.route) {
				t.tally.takenOver++
			}
			if w != nil {
				t.mark(p)
			}
		case outcomeAbsent:
			if q.route.subnet.Addr().Is6() && len(t.kernel[p]) > 1 {
				t.aliens[q.route] = struct{}{}
			}
			t.erase(q.route)
			t.stuck[q.route]++
			t.doubt = true // it was not as we knew it
		case outcomeUnknown:
			t.doubt = true
		case outcomeRefused:
			t.stats.Failed++
			t.tally.refuse(why)
		}
		return
	}

	t.count(q.route, -1)
	switch o {
	case outcomeDone:
		if q.op == opReplace {
			t.erase(q.old)
			t.stats.Replaced++
			t.tally.replaced++
			if !t.ours(q.old) {
				t.tally.takenOver++
			}
		} else {
			t.stats.Added++
			t.tally.added++
		}
		t.insert(q.route)
		if w == nil {
			return
		}
		if w.repair {
			w.repair = false
			t.stats.Repaired++
			t.tally.repaired++
		}
		t.settleIn(p, w, t.foreign(t.kernel[p]), now)
	case outcomeExists, outcomeUnknown, outcomeAbsent:
		if w != nil && w.doubts < maxDoubts {
			// Tries without a look between them are one contradiction.
			if w.doubts == 0 || w.looks != t.stats.Looks {
				w.doubts++
				w.looks = t.stats.Looks
			}
			t.doubt = true
			t.settle(p, w, RoutePending, nil, now)
			return
		}
		fallthrough
	case outcomeRefused:
		t.stats.Failed++
		if w != nil {
			t.settle(p, w, RouteFailed, why, now)
		}
	}
}

func (y *tally) refuse(err error) {
	if y.nRefused++; len(y.refused) < tallyKeeps {
		y.refused = append(y.refused, err)
	}
}

func (y *tally) conflict(err error) {
	if y.nConflicts++; len(y.conflicts) < tallyKeeps {
		y.conflicts = append(y.conflicts, err)
	}
}

// mark makes p be decided about in the next pass.
func (t *table) mark(p netip.Prefix) {
	if t.wanted[p] != nil {
		t.dirty.add(p)
	} else if len(t.kernel[p]) > 0 {
		t.stale.add(p)
	}
}

// markAll marks all wanted prefixes.
func (t *table) markAll() {
	for p := range t.wanted {
		t.dirty.add(p)
	}
}

// retry marks the routes that could not be installed.
func (t *table) retry() {
	t.again = false
	if t.bad == 0 {
		return
	}
	for p, w := range t.wanted {
		if badness(w.state) > 0 {
			t.dirty.add(p)
		}
	}
}

// dirtySet is a queue without doubles.
type dirtySet struct {
	queue []netip.Prefix
	in    map[netip.Prefix]struct{}
}

func (d *dirtySet) add(p netip.Prefix) {
	if _, ok := d.in[p]; ok {
		return
	}
	if d.in == nil {
		d.in = map[netip.Prefix]struct{}{}
	}
	d.in[p] = struct{}{}
	d.queue = append(d.queue, p)
}

// take removes and returns at most n.
func (d *dirtySet) take(n int) []netip.Prefix {
	n = min(n, len(d.queue))
	ps := d.queue[:n]
	for _, p := range ps {
		delete(d.in, p)
	}
	if d.queue = d.queue[n:]; len(d.queue) == 0 {
		*d = dirtySet{} // gives the memory of a large set back
	}
	return ps
}

// next fills pl with what to do about at most n marked prefixes, and reports
// whether there were any. Those that are not wanted come last, so that a subnet
// which is cut anew is never without a route.
func (t *table) next(n int, now time.Time, pl *plan) bool {
	pl.reset()
	ps := t.dirty.take(n)
	if len(ps) == 0 {
		ps = t.stale.take(n)
	}
	for _, p := range ps {
		t.decide(p, now, pl)
	}
	return len(ps) > 0
}
