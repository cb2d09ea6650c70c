package hostgw

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/subnet"
)

// Peers says what would become of every lease of a network under p: the peers
// with a route or a reason each, ordered by name. It is a pure function; a
// Manager keeps the same incrementally.
func (p Policy) Peers(records []subnet.Record) []Peer {
	t := newPeerTable()
	t.policy = p
	t.update(records, nil, time.Time{})
	return t.list()
}

// peerTable is what this node knows of its peers and, derived from it, the
// routes it wants. A change costs the peers it touches, not all of them.
type peerTable struct {
	policy Policy
	peers  map[string]*peer // by record name
	own    subnet.Record    // this node's own, which is no peer unless it moves away; zero if not seen

	missing map[string]struct{} // names of the peers whose missing is set

	contenders contenders
	contested  map[*peer]struct{} // to be judged with the next update: who has gone missing, and whom that may let win

	wanted map[netip.Prefix]wantedRoute
	dirty  map[netip.Prefix]struct{} // subnets whose wanted route may have changed
}

// claimant is one family of a peer's lease.
type claimant struct {
	peer   *peer
	family int // index into peer.routes
}

type wantedRoute struct {
	route netlinkx.Route
	owner claimant
}

type peer struct {
	record  subnet.Record
	missing time.Time   // since when a snapshot lacks it; zero if it does not
	seen    time.Time   // when that was first so, whatever missAgain says
	routes  []PeerRoute // one for each verdict
}

func newPeerTable() *peerTable {
	return &peerTable{
		peers:     map[string]*peer{},
		contested: map[*peer]struct{}{},
		wanted:    map[netip.Prefix]wantedRoute{},
		missing:   map[string]struct{}{},
		dirty:     map[netip.Prefix]struct{}{},
	}
}

// isOwn reports whether r is this node's own lease, not a peer's.
func (t *peerTable) isOwn(r subnet.Record) bool {
	return r.Err == nil && r.Lease.Key == t.policy.Own.Key && r.Lease.Holder.Same(t.policy.Own.Holder)
}

// update takes in what changed and returns the peers that did, or whose verdict
// did, ordered by name.
func (t *peerTable) update(put []subnet.Record, deleted []string, now time.Time) []*peer {
	touched := t.contested
	t.contested = map[*peer]struct{}{}
	for _, name := range deleted {
		if old, ok := t.peers[name]; ok {
			t.withdraw(old, touched)
			t.drop(name)
		}
		if name == t.own.Name {
			t.own = subnet.Record{}
		}
	}
	for _, r := range put {
		old := t.peers[r.Name]
		if r.Name == t.own.Name {
			t.own = subnet.Record{}
		}
		if t.isOwn(r) {
			t.own = r
			if old != nil {
				t.withdraw(old, touched)
				t.drop(r.Name)
			}
			continue
		}
		if old != nil && old.missing.IsZero() && sameRecord(old.record, r) {
			continue
		}
		// Withdrawn before the new one is entered, but with the route's state kept:
		// to the kernel it is the same route, changed.
		n := &peer{record: r}
		if old != nil {
			n.routes = old.routes
			t.withdraw(old, touched)
			delete(touched, old)
			delete(t.missing, r.Name)
		}
		t.peers[r.Name] = n
		t.enter(n, touched)
		touched[n] = struct{}{}
	}
	for p := range touched {
		if t.peers[p.record.Name] == p {
			t.judge(p, now)
		} else {
			delete(touched, p)
		}
	}
	t.contenders.forget()
	return slices.SortedFunc(maps.Keys(touched), byName)
}

// sameRecord reports whether nothing was written between a and b.
func sameRecord(a, b subnet.Record) bool {
	if a.Err != nil || b.Err != nil {
		return a.Err != nil && b.Err != nil && a.Name == b.Name && a.Modified == b.Modified && a.Err.Error() == b.Err.Error()
	}
	x, y := a.Lease.Holder, b.Lease.Holder
	return a.Name == b.Name && a.Created == b.Created && a.Modified == b.Modified && a.Token == b.Token &&
		a.Lease.Key == b.Lease.Key && x.PublicIP == y.PublicIP && x.PublicIPv6 == y.PublicIPv6 && x.BackendType == y.BackendType
}

// rejudge judges every peer again, after the policy changed. It returns the peers
// that got another verdict, ordered by name, and those that are none any more
// because they turned out to be this node's own.
func (t *peerTable) rejudge(now time.Time) (touched []*peer, gone []Peer) {
	t.contenders = contenders{}
	if left := t.own; left.Name != "" && !t.isOwn(left) {
		t.peers[left.Name] = &peer{record: left} // a reservation stays when its node moves
		t.own = subnet.Record{}
	}
	for name, p := range t.peers {
		if t.isOwn(p.record) {
			t.own = p.record
			gone = append(gone, p.peer())
			t.drop(name)
			continue
		}
		for i, r := range t.sound(p.record) {
			t.contenders.add(r.Subnet, claimant{p, i}, func(*peer) {})
		}
	}
	for _, p := range t.peers {
		before := p.routes
		t.judge(p, now)
		same := func(a, b PeerRoute) bool { return a.Reason == b.Reason }
		if !slices.EqualFunc(before, p.routes, same) {
			touched = append(touched, p)
		}
	}
	t.contenders.forget()
	for s := range t.wanted {
		t.dirty[s] = struct{}{}
	}
	slices.SortFunc(touched, byName)
	return touched, gone
}

// drop forgets a peer.
func (t *peerTable) drop(name string) {
	delete(t.peers, name)
	delete(t.missing, name)
}

// enter adds a peer's sound families to the contenders and touches those they meet.
func (t *peerTable) enter(p *peer, touched map[*peer]struct{}) {
	for i, r := range t.sound(p.record) {
		t.contenders.add(r.Subnet, claimant{p, i}, touch(touched))
	}
}

// withdraw takes a peer out of the contenders, and touches those it was in the
// way of.
func (t *peerTable) withdraw(p *peer, touched map[*peer]struct{}) {
	for i, r := range t.sound(p.record) {
		t.contenders.remove(r.Subnet, claimant{p, i}, touch(touched))
		t.dirty[r.Subnet] = struct{}{}
	}
	delete(touched, p)
}

// sound yields the routes of a record that take part in contests, with the
// family's index among its verdicts.
func (t *peerTable) sound(r subnet.Record) func(yield func(int, netlinkx.Route) bool) {
	return func(yield func(int, netlinkx.Route) bool) {
		if r.Err != nil {
			return
		}
		i := 0
		for route := range routes(r.Lease) {
			if reason, _ := t.policy.sound(r.Lease, route); reason == ReasonNone && !yield(i, route) {
				return
			}
			i++
		}
	}
}

func touch(touched map[*peer]struct{}) func(*peer) {
	return func(p *peer) { touched[p] = struct{}{} }
}

// anyIn reports whether a sound lease has a subnet inside network for which in is
// true. All peers must have been judged.
func (t *peerTable) anyIn(network netip.Prefix, in func(netip.Prefix) bool) bool {
	return t.contenders.anyIn(network, func(c claimant) bool { return in(c.peer.routes[c.family].Subnet) })
}

// before reports whether p's claim to an address goes before o's: a lease the
// store still shows before one it no longer does, one that it showed for longer
// before the other, then the older one.
func (p *peer) before(o *peer) bool {
	if p.missing.IsZero() != o.missing.IsZero() {
		return p.missing.IsZero()
	}
	if !p.seen.Equal(o.seen) {
		return p.seen.After(o.seen)
	}
	return cmp.Or(cmp.Compare(p.record.Created, o.record.Created), cmp.Compare(p.record.Name, o.record.Name)) < 0
}

// judge gives a peer its verdicts.
func (t *peerTable) judge(p *peer, now time.Time) {
	old := p.routes
	p.routes = make([]PeerRoute, 0, len(old))
	for i, v := range t.policy.Judge(p.record) {
		if v.Reason == ReasonNone || v.Reason == ReasonGatewayOffLink {
			if winner := t.winner(p, v.Route.Subnet); winner != nil {
				v.Reason = ReasonOverlapsPeer
				v.Err = fmt.Errorf("subnet %s overlaps the older lease %s", v.Route.Subnet, winner.record.Name)
			}
		}
		r := PeerRoute{Subnet: v.Route.Subnet, Gateway: v.Route.Gateway, Reason: v.Reason, Err: v.Err, Since: now}
		if i < len(old) && old[i].Subnet == r.Subnet && old[i].Reason == r.Reason {
			r.Since = old[i].Since
			if r.Reason == ReasonNone && old[i].Gateway == r.Gateway {
				r.State, r.Err = old[i].State, old[i].Err
			}
		}
		p.routes = append(p.routes, r)
	}
	for _, rs := range [...][]PeerRoute{old, p.routes} {
		for _, r := range rs {
			if r.Subnet.IsValid() {
				t.dirty[r.Subnet] = struct{}{}
			}
		}
	}
}

// winner returns a peer whose claim to addresses of p's subnet goes before p's;
// nil if there is none.
func (t *peerTable) winner(p *peer, s netip.Prefix) *peer {
	first := t.contenders.first(s)
	if first == nil || !first.before(p) {
		return nil
	}
	return first
}

// delta returns what changed in the wanted routes since it was last called.
func (t *peerTable) delta() (put []netlinkx.Route, remove []netip.Prefix) {
	for s := range t.dirty {
		old, had := t.wanted[s]
		n, has := t.want(s)
		switch {
		case has:
			// Also if another lease now asks for the same route: the programmer
			// then says again how far it is.
			if !had || old != n {
				put = append(put, n.route)
			}
			t.wanted[s] = n
		case had:
			delete(t.wanted, s)
			remove = append(remove, s)
		}
	}
	t.dirty = map[netip.Prefix]struct{}{} // one that was cleared keeps its size
	slices.SortFunc(put, func(a, b netlinkx.Route) int { return a.Subnet.Compare(b.Subnet) })
	slices.SortFunc(remove, netip.Prefix.Compare)
	return put, remove
}

// want returns the route to s that the verdicts ask for.
func (t *peerTable) want(s netip.Prefix) (wantedRoute, bool) {
	for c := range t.contenders.claimants(s) {
		if c.family < len(c.peer.routes) && c.peer.routes[c.family].Reason == ReasonNone {
			r := c.peer.routes[c.family]
			return wantedRoute{route: netlinkx.Route{Subnet: r.Subnet, Gateway: r.Gateway}, owner: c}, true
		}
	}
	return wantedRoute{}, false
}

// wantedRoutes returns the whole wanted set.
func (t *peerTable) wantedRoutes() []netlinkx.Route {
	rs := make([]netlinkx.Route, 0, len(t.wanted))
	for _, w := range t.wanted {
		rs = append(rs, w.route)
	}
	slices.SortFunc(rs, func(a, b netlinkx.Route) int { return a.Subnet.Compare(b.Subnet) })
	return rs
}

// report takes in how far a wanted route is, and returns its peer; nil if the
// route is not wanted any more.
func (t *peerTable) report(s netlinkx.RouteStatus) *peer {
	w, ok := t.wanted[s.Route.Subnet]
	if !ok || w.route != s.Route {
		return nil
	}
	r := &w.owner.peer.routes[w.owner.family]
	r.State, r.Err, r.Since = s.State, s.Err, s.Since
	return w.owner.peer
}

// miss marks the peers that have a route and are not in names as missing since
// now, and returns those that were not missing before, ordered by name, and the
// names of the others not in names, which can go.
func (t *peerTable) miss(names map[string]struct{}, now time.Time) (missing []*peer, gone []string) {
	if _, ok := names[t.own.Name]; !ok {
		t.own = subnet.Record{}
	}
	for name, p := range t.peers {
		if _, ok := names[name]; ok {
			continue
		}
		switch was := !p.missing.IsZero(); {
		case !t.hold(p, now):
			gone = append(gone, name)
		case !was:
			missing = append(missing, p)
		}
	}
	slices.SortFunc(missing, byName)
	return missing, gone
}

// hold marks a peer as missing if it has a route to keep meanwhile.
func (t *peerTable) hold(p *peer, now time.Time) bool {
	routed := func(r PeerRoute) bool { return r.Reason == ReasonNone }
	if !slices.ContainsFunc(p.routes, routed) {
		return false
	}
	if p.missing.IsZero() {
		p.missing, p.seen = now, now
		t.missing[p.record.Name] = struct{}{}
		t.contested[p] = struct{}{}
		for _, r := range t.sound(p.record) {
			t.contenders.overlapping(r.Subnet, touch(t.contested))
		}
	}
	return true
}

// missAgain lets the time of those that are missing begin now.
func (t *peerTable) missAgain(now time.Time) {
	for name := range t.missing {
		t.peers[name].missing = now
	}
}

// expired returns the names of peers missing since before the given time, and
// when the first of those that remain went missing; zero if none did.
func (t *peerTable) expired(before time.Time) (names []string, next time.Time) {
	for name := range t.missing {
		switch since := t.peers[name].missing; {
		case !since.After(before):
			names = append(names, name)
		case next.IsZero() || since.Before(next):
			next = since
		}
	}
	return names, next
}

// count counts the peers by what their routes are like.
func (t *peerTable) count() Counts {
	c := Counts{Peers: len(t.peers)}
	for _, p := range t.peers {
		var in [netlinkx.RouteConflict + 1]bool
		refused := false
		for _, r := range p.routes {
			if r.Reason != ReasonNone {
				refused = true
			} else {
				in[r.State] = true
			}
		}
		add := func(n *int, yes bool) {
			if yes {
				*n++
			}
		}
		add(&c.Refused, refused)
		add(&c.Pending, in[netlinkx.RoutePending])
		add(&c.Failed, in[netlinkx.RouteFailed])
		add(&c.Conflict, in[netlinkx.RouteConflict])
		add(&c.Missing, !p.missing.IsZero())
		add(&c.Installed, in == [netlinkx.RouteConflict + 1]bool{netlinkx.RouteInstalled: true} && !refused)
	}
	return c
}

// list returns the peers ordered by name.
func (t *peerTable) list() []Peer {
	ps := make([]Peer, 0, len(t.peers))
	for _, p := range slices.SortedFunc(maps.Values(t.peers), byName) {
		ps = append(ps, p.peer())
	}
	return ps
}

func byName(a, b *peer) int { return cmp.Compare(a.record.Name, b.record.Name) }

// peer returns p as the outside sees it.
func (p *peer) peer() Peer {
	lease := p.record.Lease
	lease.Holder.BackendData = slices.Clone(lease.Holder.BackendData)
	lease.Holder.BackendV6Data = slices.Clone(lease.Holder.BackendV6Data)
	return Peer{
		Name:     p.record.Name,
		Lease:    lease,
		Reserved: p.record.Reserved(),
		Routes:   slices.Clone(p.routes),
		Missing:  p.missing,
	}
}
