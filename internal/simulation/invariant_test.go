package simulation

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing/synctest"
	"time"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/subnet"
)

// check checks what must hold after every step, and if nothing has been done
// for a while also what must have settled by then.
func (c *cluster) check(settled bool) []string {
	bad := c.checkAlways()
	if bad != nil || !settled {
		return bad
	}
	// Something may have expired only just now. What is wrong for good stays so.
	for range 2 {
		if bad = c.checkSettled(quiet); bad == nil {
			return c.checkAlways()
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
	}
	if bad := c.checkAlways(); bad != nil {
		return bad
	}
	return c.checkSettled(quiet)
}

// findings collects what is wrong.
type findings []string

func (f *findings) add(n int, format string, args ...any) {
	*f = append(*f, fmt.Sprintf("%v invariant %d: ", clock(), n)+fmt.Sprintf(format, args...))
}

// checkAlways checks what must hold at every moment, and what the ledger has
// found since it was last called.
func (c *cluster) checkAlways() []string {
	l := c.ledger
	for _, h := range c.hosts {
		c.bury(h)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	bad := findings(slices.Clone(l.violations))
	for _, h := range c.hosts {
		ours, foreign := h.kernel.routes()
		if !maps.Equal(foreign, h.foreign) {
			bad.add(3, "%s has the foreign routes %v, want %v", h.name, foreign, h.foreign)
		}
		if h.run == nil || !h.run.held || h.run.ended {
			continue // routes of an earlier run stay, whatever happens
		}
		for p, gateway := range ours {
			w := way{p, gateway}
			if why := h.local(w); why != "" {
				bad.add(2, "%s routes %v: %s", h.name, w, why)
			}
			if !slices.ContainsFunc(l.networks, func(n netip.Prefix) bool { return n.Bits() <= p.Bits() && n.Contains(p.Addr()) }) {
				bad.add(2, "%s routes %v, which is in no network that ever was", h.name, w)
			}
		}
	}
	if len(bad) == 0 {
		return nil
	}
	slices.Sort(bad)
	return bad
}

// bury notes that h's daemon has ended by itself, and checks that it had reason to.
func (c *cluster) bury(h *host) {
	if h.run == nil {
		return
	}
	l := c.ledger
	l.mu.Lock()
	r := h.run
	ended := r.ended
	var lost *hostgw.SubnetLostError
	switch {
	case !ended:
	case errors.As(r.err, &lost) && lost.Err != nil:
		own := func(rec subnet.Record) bool { return rec.Name == lost.Lost.Key.String() && h.has(rec.Lease.Holder) }
		if h.move || r.last.Config.Config.Fits(lost.Lost.Key) || slices.ContainsFunc(r.last.Records, own) {
			l.violate(1, "%s ended with %v, and the store shows nothing of it", h.name, r.err)
		}
	case errors.As(r.err, &lost):
		there := func(rec subnet.Record) bool {
			own := rec.Err == nil && h.has(rec.Lease.Holder) && !rec.Reserved()
			return rec.Name == lost.Taken.Name && subnets(rec).Overlaps(lost.Lost.Key) && !own
		}
		if h.move || !slices.ContainsFunc(r.last.Records, there) {
			l.violate(1, "%s ended with %v, and the store shows nothing of it", h.name, r.err)
		}
	case errors.Is(r.err, subnet.ErrNoFreeSubnet):
		if !full(r.last, subnet.Holder{PublicIP: h.ipv4, PublicIPv6: h.ipv6}) {
			l.violate(1, "%s ended with %v, and the network is not full", h.name, r.err)
		}
	default:
		l.violate(6, "%s ended with %v", h.name, r.err)
	}
	l.mu.Unlock()
	if ended {
		<-r.done
		c.note("    %s has ended: %v", h.name, r.err)
		h.buried()
	}
}

// full reports whether a family has no subnet that is free for a holder.
func full(sn subnet.Snapshot, holder subnet.Holder) bool {
	exhausted := func(r subnet.Range) bool {
		if !r.IsValid() {
			return false
		}
		for i := range r.Len() {
			p := r.Subnet(i)
			taken := func(rec subnet.Record) bool {
				if rec.Err == nil && !rec.Reserved() && rec.Lease.Holder.Same(holder) {
					return false
				}
				k := subnets(rec)
				return k.IPv4.Overlaps(p) || k.IPv6.Overlaps(p)
			}
			if !slices.ContainsFunc(sn.Records, taken) {
				return false
			}
		}
		return true
	}
	return exhausted(sn.Config.Config.IPv4) || exhausted(sn.Config.Config.IPv6)
}

// checkSettled checks what must be so of hosts that have had no trouble for as
// long as that.
func (c *cluster) checkSettled(calm time.Duration) []string {
	sn := c.server.Snapshot()
	l := c.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	var bad findings
	type holding struct {
		host   *host
		record subnet.Record
	}
	var held []holding
	for _, h := range c.hosts {
		if h.run == nil || h.calmSince.IsZero() || now.Sub(h.calmSince) < calm {
			continue
		}
		st := h.run.m.Status()
		if st.State == hostgw.StateHeld {
			c.checkLease(&bad, h, st, sn)
			for _, o := range held {
				// Unless an operator gave one of them what the other had.
				given := l.operated[content(st.Record)] || l.operated[content(o.record)]
				if o.record.Lease.Key.Overlaps(st.Record.Lease.Key) && !given {
					bad.add(1, "%s and %s hold %v and %v", h.name, o.host.name, st.Record.Name, o.record.Name)
				}
			}
			held = append(held, holding{h, st.Record})
		} else if l.usable && now.Sub(l.usableSince) >= calm {
			if !h.awaits(st.Waiting, sn) && (!h.run.held || sn.Config.Config.Fits(h.run.record.Lease.Key) || h.move) {
				bad.add(1, "%s is %v, waiting for %v", h.name, st.State, st.Waiting)
			}
		}
		if st.Store.Err != nil {
			bad.add(5, "%s has not noticed that the store is back: %v", h.name, st.Store.Err)
		}
		if st.Joined.Lease.Key != (subnet.Key{}) {
			c.checkPeers(&bad, h, st, sn, now)
		}
	}
	slices.Sort(bad)
	return bad
}

// awaits reports whether h has reason to wait for its subnet longer than others do:
// who has it had it before h, so that the store must have gone back, and expires if
// it is dead.
func (h *host) awaits(waiting error, sn subnet.Snapshot) bool {
	var lost *hostgw.SubnetLostError
	if h.move || !h.run.held || !errors.As(waiting, &lost) || lost.Err != nil {
		return false
	}
	own := h.run.record
	return slices.ContainsFunc(sn.Records, func(r subnet.Record) bool {
		return r.Name == lost.Taken.Name && !r.Reserved() && r.Created < own.Created && subnets(r).Overlaps(own.Lease.Key)
	})
}

// checkLease checks that the store agrees with what a node believes to hold.
func (c *cluster) checkLease(bad *findings, h *host, st hostgw.Status, sn subnet.Snapshot) {
	i := slices.IndexFunc(sn.Records, func(r subnet.Record) bool { return r.Name == st.Record.Name })
	switch {
	case i < 0:
		bad.add(1, "%s believes to hold %s, which is not in the store", h.name, st.Record.Name)
	case sn.Records[i].Err != nil || !h.has(sn.Records[i].Lease.Holder):
		bad.add(1, "%s believes to hold %s, which is %v's", h.name, st.Record.Name, sn.Records[i].Lease.Holder.PublicIP)
	case sn.Records[i].Token != st.Record.Token:
		bad.add(7, "%s keeps %s by token %d, and it hangs on %d", h.name, st.Record.Name, st.Record.Token, sn.Records[i].Token)
	}
	if st.Joined.Lease.Key != st.Record.Lease.Key || h.env != st.Record.Lease.Key {
		bad.add(1, "%s holds %s, joined with %v and wrote %v to subnet.env", h.name, st.Record.Name, st.Joined.Lease.Key, h.env)
	}
	if c := sn.Config; c.Err == nil && c.Config.Fits(st.Record.Lease.Key) && (h.envConfig != c.Config || st.Joined.Config != c.Config) {
		bad.add(1, "%s joined %v and wrote %v to subnet.env, and the network is %v", h.name, st.Joined.Config.Networks(), h.envConfig.Networks(), c.Config.Networks())
	}
}

// claim is a route that a lease asks for.
type claim struct {
	way
	record subnet.Record
	family int
	wrong  string // why this host must not have it
	may    bool   // it may have it or not
}

// claims returns the routes that the leases in the store ask for, and which of
// them host h must have by the rules. It is written from the rules, and shares
// nothing with what it checks.
func (h *host) claims(sn subnet.Snapshot, own subnet.Lease) []claim {
	var cs []claim
	for _, r := range sn.Records {
		if r.Err != nil || r.Lease.Key == own.Key && r.Lease.Holder.Same(own.Holder) {
			continue
		}
		for i, w := range asked(r) {
			c := claim{way: w, record: r, family: i}
			a := w.gateway
			known, current := h.knows(w.subnet)
			c.may = known && !current
			switch {
			case r.Lease.Holder.BackendType != "host-gw":
				c.wrong = "backend"
			case !known:
				c.wrong = "outside the network"
			case !a.IsValid() || a.Is4() != w.subnet.Addr().Is4() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.String() == "255.255.255.255":
				c.wrong = "no gateway"
			}
			cs = append(cs, c)
		}
	}
	sound := cs
	for i := range cs {
		if cs[i].wrong != "" {
			continue
		}
		for _, o := range sound {
			older := cmp.Or(cmp.Compare(o.record.Created, cs[i].record.Created), cmp.Compare(o.record.Name, cs[i].record.Name)) < 0
			if (o.wrong == "" || o.wrong == local) && o.subnet.Overlaps(cs[i].subnet) && older {
				cs[i].wrong = local
				cs[i].may = cs[i].may || o.may
			}
		}
		if h.local(cs[i].way) != "" {
			cs[i].wrong = local
		}
	}
	return cs
}

// local is what is wrong with a claim to this host, though not in itself.
const local = "refused here"

// checkPeers checks h's kernel and what its Manager says of its peers against
// the store: invariants 2, 4 and 6.
func (c *cluster) checkPeers(bad *findings, h *host, st hostgw.Status, sn subnet.Snapshot, now time.Time) {
	ours, foreign := h.kernel.routes()
	peers := map[string]hostgw.Peer{}
	for _, p := range st.Peers {
		peers[p.Name] = p
	}
	wanted := map[way]bool{}
	for _, w := range h.claims(sn, st.Joined.Lease) {
		p, ok := peers[w.record.Name]
		if !ok || !p.Missing.IsZero() || w.family >= len(p.Routes) {
			bad.add(6, "%s does not show the peer %s: %+v", h.name, w.record.Name, p)
			continue
		}
		r := p.Routes[w.family]
		if w.may {
			wanted[w.way] = h.local(w.way) == ""
			continue
		}
		if w.wrong != "" {
			if r.Reason == hostgw.ReasonNone || r.Err == nil {
				bad.add(2, "%s has no objection to %s, whose %v must not be: %s", h.name, p.Name, w.way, w.wrong)
			}
			continue
		}
		wanted[w.way] = true
		_, conflict := foreign[w.subnet]
		switch got := ours[w.subnet]; {
		case !h.up: // the kernel has no routes then, and no IPv6 addresses
		case r.Reason != hostgw.ReasonNone:
			bad.add(6, "%s refuses %v of %s: %v", h.name, w.way, p.Name, r.Err)
		case conflict:
			if r.State != netlinkx.RouteConflict {
				bad.add(6, "%s shows %v as %v while a foreign route is there", h.name, w.way, r.State)
			}
		case got != w.gateway:
			bad.add(4, "%s has no route %v, it has %v", h.name, w.way, got)
		case r.State != netlinkx.RouteInstalled:
			bad.add(6, "%s shows the route %v as %v: %v", h.name, w.way, r.State, r.Err)
		}
	}
	for p, gateway := range ours {
		w := way{p, gateway}
		if wanted[w] {
			continue
		}
		// Only for as long as the peer may come back, if there was reason to hope:
		// a fresh snapshot lacks it, or its loss was heard of together with the loss
		// of our own, be it that we moved.
		l := c.ledger
		lost, ever := l.lastLoss(w), l.lost[w] // zero if it is in the store, but not for this node
		hope := h.run.lingers() || ever != nil && (h.run.snapped.After(ever[0].at) || l.gone[st.Record.Name] != nil || !h.run.moved.IsZero())
		if since := latest(l.expecting(h, lost.at, now), h.run.snapped, h.run.moved, h.calmSince, l.breaks[len(l.breaks)-1].at, h.downAt); !hope || now.Sub(since) > l.hold+quiet {
			bad.add(2, "%s still routes %v", h.name, w)
		}
	}
	stored := map[string]bool{}
	for _, r := range sn.Records {
		stored[r.Name] = true
		if r.Err == nil {
			continue
		}
		p, ok := peers[r.Name]
		if !ok || len(p.Routes) != 1 || p.Routes[0].Reason != hostgw.ReasonUnreadable && p.Routes[0].Reason != hostgw.ReasonHostBits || p.Routes[0].Err == nil {
			bad.add(6, "%s does not show what is wrong with %q: %+v", h.name, r.Name, p)
		}
	}
	for name, p := range peers {
		if !stored[name] && p.Missing.IsZero() {
			bad.add(6, "%s shows the peer %s, which is not in the store", h.name, name)
		}
	}
}

// lingers reports whether routes that a run has found in the kernel stay for the
// hold time, whoever they lead to: it found no lease of its own.
func (r *run) lingers() bool { return r.absent }

// checkConverged checks the end, after all troubles are over for longer than
// anything may take: invariants 1 and 7.
func (c *cluster) checkConverged() []string {
	if bad := c.checkSettled(quiet); bad != nil {
		return bad
	}
	sn := c.server.Snapshot()
	l := c.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	var bad findings
	expiring := map[*host]int{}
	for _, r := range sn.Records {
		if h := l.holder(r); h != nil && !r.Reserved() {
			expiring[h]++
		}
	}
	for _, h := range c.hosts {
		if h.run == nil {
			if n := len(h.runs); n > 0 && h.runs[n-1].ended {
				if !full(sn, subnet.Holder{PublicIP: h.ipv4, PublicIPv6: h.ipv6}) {
					bad.add(1, "%s has ended with %v, and the network is not full", h.name, h.runs[n-1].err)
				}
			}
			if expiring[h] > 0 {
				bad.add(7, "%s is dead, and %d leases of it are left", h.name, expiring[h])
			}
			continue
		}
		st := h.run.m.Status()
		want := 1
		if st.Record.Reserved() {
			want = 0
		}
		if expiring[h] != want {
			bad.add(7, "%s holds %s, and %d expiring leases in the store are its", h.name, st.Record.Name, expiring[h])
		}
		if st.State != hostgw.StateHeld || st.Waiting != nil || st.Rival != nil || !sn.Config.Config.Fits(st.Record.Lease.Key) {
			bad.add(1, "%s is %v with %s, waiting for %v, rival %v", h.name, st.State, st.Record.Name, st.Waiting, st.Rival)
		}
		for _, p := range st.Peers {
			if !p.Missing.IsZero() {
				bad.add(5, "%s still misses %s", h.name, p.Name)
			}
		}
	}
	return bad
}
