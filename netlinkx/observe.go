package netlinkx

import (
	"maps"
	"net/netip"
	"slices"
)

// routeEvent is one route event of the kernel.
type routeEvent struct {
	route   kernelRoute
	more    []kernelRoute // the routes that an IPv6 route of several next hops consists of
	deleted bool
	replace bool // it took the place of another one of its metric
}

// observe takes a route event into account. Events are applied in the order in
// which the kernel sent them, and old ones again after a look are harmless: what
// counts for a route is the last event about it. Only our own requests can come
// in between. Where the two may contradict each other, the next request tells
// (the kernel refuses to add what is there), or doubt asks for a look.
func (t *table) observe(e routeEvent) {
	r := e.route
	if !t.scope.contains(r.protocol, r.subnet) {
		return
	}
	maps.DeleteFunc(t.aliens, func(o kernelRoute, _ struct{}) bool { return o.subnet == r.subnet })
	same := func(o kernelRoute) bool { return o.metric == r.metric && o.tos == r.tos }
	switch {
	case len(e.more) > 0:
		// What it says of each next hop is right but for whose it is: all are
		// shown as if of whoever came last, and in a dump of whoever came first.
		t.doubt = true
		for _, o := range slices.Clone(t.kernel[r.subnet]) {
			if same(o) && (o.gateway.IsValid() || e.replace) {
				t.erase(o)
			}
		}
		if !e.deleted {
			for _, o := range e.more {
				t.insert(o)
			}
		}
	case e.deleted && r.subnet.Addr().Is6() && t.erase(r):
		t.doubt = t.doubt || slices.ContainsFunc(t.kernel[r.subnet], same) // whose are the others?
	case e.deleted:
		if !t.erase(r) && slices.ContainsFunc(t.kernel[r.subnet], same) {
			t.doubt = true
		}
	case e.replace:
		var old []kernelRoute
		for _, o := range t.kernel[r.subnet] {
			if same(o) && o != r {
				old = append(old, o)
			}
		}
		for _, o := range old {
			t.erase(o)
			// Had it come before the last change of ours there, it would say the
			// opposite of what is so.
			if t.ours(o) && !t.ours(r) {
				t.doubt = true
			}
		}
		if len(old) > 1 {
			t.doubt = true // the kernel replaced one of them
		}
		t.insert(r)
	default:
		t.insert(r)
	}
	t.mark(r.subnet)
}

// dropIndex notes that the interface of that index has gone down or away: the
// kernel drops the routes through it, those of IPv4 without telling.
func (t *table) dropIndex(index int) {
	if t.index[uint32(index)] == 0 && t.index[0] == 0 {
		return // nearly always: a container's interface
	}
	var gone []kernelRoute
	for _, have := range t.kernel {
		for _, r := range have {
			switch {
			case r.index == uint32(index):
				gone = append(gone, r)
			case !r.plain && r.index == 0:
				t.doubt = true // one of its next hops may have been there
			}
		}
	}
	for _, r := range gone {
		t.erase(r)
		t.mark(r.subnet)
	}
}

// dropAddress notes that an address was removed from an interface. That drops
// routes as well, without telling which.
func (t *table) dropAddress(index int, a netip.Addr) {
	if index == t.uplink.Index {
		t.doubt = true
		return
	}
	for _, have := range t.kernel {
		for _, r := range have {
			if r.index == uint32(index) || r.source == a {
				t.doubt = true
				return
			}
		}
	}
}

// sameUplink reports whether all that may change is the same in a and b.
func sameUplink(a, b Uplink) bool {
	return a.Index == b.Index && a.MTU == b.MTU && a.Up == b.Up && a.Running == b.Running && slices.Equal(a.Addrs, b.Addrs)
}

// setUplink notes what the uplink is now.
func (t *table) setUplink(u Uplink) {
	old := t.uplink
	t.uplink = u
	switch {
	case old.Index != u.Index || old.Up != u.Up:
		t.markAll()
	case !slices.Equal(old.Addrs, u.Addrs):
		t.again = true
		for p, w := range t.wanted { // a foreign route may be a leftover now, and the reverse
			if w.state == RouteConflict {
				t.mark(p)
			}
		}
	}
}

// snapshot is what one look at the kernel's table saw.
type snapshot map[netip.Prefix][]kernelRoute

func (s snapshot) add(r kernelRoute) {
	if have := s[r.subnet]; !slices.Contains(have, r) {
		s[r.subnet] = append(have, r)
	}
}

// differ returns the subnets whose routes are others in s than in t.
func (t *table) differ(s snapshot) []netip.Prefix {
	var ps []netip.Prefix
	for p, have := range s {
		if !sameRoutes(have, t.kernel[p]) {
			ps = append(ps, p)
		}
	}
	for p := range t.kernel {
		if len(s[p]) == 0 {
			ps = append(ps, p)
		}
	}
	return ps
}

func sameRoutes(a, b []kernelRoute) bool {
	if len(a) != len(b) {
		return false
	}
	for _, r := range a {
		if !slices.Contains(b, r) {
			return false
		}
	}
	return true
}

// adopt makes s what the kernel holds.
func (t *table) adopt(s snapshot) {
	changed := t.differ(s)
	t.kernel = s
	clear(t.load)
	clear(t.index)
	for _, have := range s {
		for _, r := range have {
			t.index[r.index]++
			t.count(r, 1)
		}
	}
	for p := range s {
		if t.wanted[p] == nil {
			t.mark(p)
		}
	}
	for _, p := range changed {
		t.mark(p)
	}
	t.retry()
}
