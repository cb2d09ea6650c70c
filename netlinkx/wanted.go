package netlinkx

import (
	"maps"
	"net/netip"
	"slices"
)

// scope says which routes of the kernel concern us: all of our protocol, and
// everybody's to a subnet that is or may come to be wanted. It never changes
// once made, so that the goroutine which receives events may use it too.
type scope struct {
	protocol uint8
	networks []netip.Prefix
	subnets  map[netip.Prefix]struct{} // wanted ones outside of the networks
}

func (s *scope) contains(protocol uint8, p netip.Prefix) bool {
	if s == nil {
		return false
	}
	if protocol == s.protocol || inside(s.networks, p) {
		return true
	}
	_, ok := s.subnets[p]
	return ok
}

// set makes w the wanted set. It reports whether the scope has grown, so that
// the kernel has to be looked at before the next pass.
func (t *table) set(w Wanted) (look bool) {
	networks := slices.Clone(w.Networks)
	if !slices.Equal(networks, t.networks) || t.scope == nil {
		t.networks = networks
		t.scope = &scope{protocol: t.config.Protocol, networks: networks, subnets: t.outside()}
		t.markAll() // what is a leftover has changed
		look = true
	}
	if t.linger && (!w.Linger || !slices.Equal(t.own, w.Own)) {
		for p := range t.kernel {
			t.mark(p)
		}
	}
	t.linger = w.Linger
	t.own = slices.Clone(w.Own)
	t.released = nil
	if t.linger {
		t.released = map[netip.Prefix]struct{}{}
	}
	keep := make(map[netip.Prefix]struct{}, len(w.Routes))
	for _, r := range w.Routes {
		keep[r.Subnet] = struct{}{}
	}
	if t.put(w.Routes) {
		look = true
	}
	for p := range t.wanted {
		if _, ok := keep[p]; !ok {
			t.forget(p)
		}
	}
	return look
}

// lingers reports whether routes of ours to p stay, though p is not wanted.
func (t *table) lingers(p netip.Prefix) bool {
	_, released := t.released[p]
	return t.linger && !released && !slices.ContainsFunc(t.own, p.Overlaps)
}

// put adds routes to the wanted set and reports what set does.
func (t *table) put(routes []Route) (look bool) {
	var subnets map[netip.Prefix]struct{}
	for _, r := range routes {
		switch w := t.wanted[r.Subnet]; {
		case w == nil:
			t.wanted[r.Subnet] = &want{gateway: r.Gateway}
			t.bad++
		case w.gateway != r.Gateway:
			t.bad += badness(RoutePending) - badness(w.state)
			*w = want{gateway: r.Gateway, news: w.news}
		default:
			t.tell(r.Subnet, w) // whoever asks again wants to know
			continue
		}
		t.mark(r.Subnet)
		if r.Subnet.IsValid() && !t.scope.contains(0, r.Subnet) {
			if subnets == nil {
				subnets = t.outside()
			}
			subnets[r.Subnet] = struct{}{}
		}
	}
	if subnets == nil {
		return false
	}
	t.scope = &scope{protocol: t.config.Protocol, networks: t.networks, subnets: subnets}
	return true
}

// outside returns the wanted subnets outside of the networks.
func (t *table) outside() map[netip.Prefix]struct{} {
	out := map[netip.Prefix]struct{}{}
	for p := range t.wanted {
		if !inside(t.networks, p) {
			out[p] = struct{}{}
		}
	}
	return out
}

// forget removes p from the wanted set.
func (t *table) forget(p netip.Prefix) {
	w := t.wanted[p]
	if w == nil {
		return
	}
	t.bad -= badness(w.state)
	delete(t.wanted, p)
	if t.linger {
		t.released[p] = struct{}{}
	}
	t.mark(p)
}

// pending is what callers want that the programmer's goroutine has not seen yet.
type pending struct {
	set    *Wanted // replaces everything, then:
	change map[netip.Prefix]change
}

type change struct {
	gateway netip.Addr
	remove  bool
}

func (p *pending) add(put []Route, remove []netip.Prefix) {
	if p.change == nil {
		p.change = make(map[netip.Prefix]change, len(put)+len(remove))
	}
	for _, s := range remove {
		p.change[s] = change{remove: true}
	}
	for _, r := range put {
		p.change[r.Subnet] = change{gateway: r.Gateway}
	}
}

// apply takes over what is pending, and reports whether the kernel has to be
// looked at first.
func (t *table) apply(p pending) (look bool) {
	if p.set != nil {
		look = t.set(*p.set)
	}
	var put []Route
	for _, s := range slices.SortedFunc(maps.Keys(p.change), comparePrefix) {
		if c := p.change[s]; c.remove {
			t.forget(s)
		} else {
			put = append(put, Route{s, c.gateway})
		}
	}
	return t.put(put) || look
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}
