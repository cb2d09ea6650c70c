package hostgw

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/subnet"
)

// wantedState is what the loop owes the route programmer.
type wantedState struct {
	whole bool      // the next call must be Set, not Change
	until time.Time // routes that are not wanted linger until then; zero if they do not
}

// loop is where everything meets: what the watch, the programmer and tenure
// tell, one at a time. It alone changes the peer table and calls Observe.
func (m *Manager) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	joined := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-m.updates:
			m.mu.Lock()
			m.takeUpdate(u)
		case r := <-m.reports:
			m.mu.Lock()
			m.takeReport(r)
		case f := <-m.news:
			m.mu.Lock()
			f()
		case <-timer.C:
			m.mu.Lock()
		}
		next := m.expire(time.Now())
		m.program()
		events := m.events
		m.events = nil
		held := m.status.State == StateHeld
		m.mu.Unlock()

		for _, e := range events {
			m.c.Observe(e)
		}
		if held && !joined {
			// Only now: who waits for the lease finds what the observer made of it.
			joined = true
			close(m.joined)
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
	}
}

// watch feeds the loop with what the store holds, and comes back to it when the
// watcher gives up.
func (m *Manager) watch(ctx context.Context) error {
	b := m.backoff()
	for {
		err := m.c.Watcher.Watch(ctx, func(u subnet.Update) {
			if u.Err == nil {
				b.reset()
			}
			select {
			case m.updates <- u:
			case <-ctx.Done():
			}
		})
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = errors.New("the watch ended by itself")
		}
		select {
		case m.updates <- subnet.Update{Err: err}:
		case <-ctx.Done():
			return nil
		}
		if !b.wait(ctx, nil) {
			return nil
		}
	}
}

// takeUpdate takes in what the store tells.
func (m *Manager) takeUpdate(u subnet.Update) {
	now := time.Now()
	st := &m.status.Store
	if u.Err != nil {
		if st.Err == nil {
			st.Since = now
			st.Outages++
			m.log.Warn("store cannot be heard; routes stay as they are", "err", u.Err)
			m.tell(func() Event { return &StoreEvent{Err: u.Err} })
		}
		st.Err = u.Err
		if !m.known {
			m.status.Waiting = u.Err
		}
		return
	}
	if st.Err != nil {
		m.log.Info("store can be heard again", "after", now.Sub(st.Since).Round(time.Millisecond))
		m.tell(func() Event { return &StoreEvent{} })
		st.Err, st.Since = nil, now
	} else if st.Since.IsZero() {
		st.Since = now
	}

	own := m.status.Record
	if s := u.Snapshot; s != nil {
		st.Revision = s.Revision
		m.takeConfig(s.Config, now)
		names := make(map[string]struct{}, len(s.Records))
		for _, r := range s.Records {
			names[r.Name] = struct{}{}
		}
		missing, gone := m.table.miss(names, now)
		m.tellMissing(missing)
		m.takePeers(s.Records, gone, now)
		if r, ok := find(s.Records, own.Name); ok {
			m.shown = r
		} else if own.Name != "" {
			m.askForLook()
		}
		if !m.known {
			m.known = true
			m.first <- *s
		}
		return
	}
	if u.Revision != 0 {
		st.Revision = u.Revision
	}
	if u.Config != nil {
		m.takeConfig(*u.Config, now)
	}
	gone := u.Deleted
	if own.Name != "" && slices.Contains(gone, own.Name) {
		m.askForLook()
	}
	if m.forgotten(u) {
		// This node did not leave, so the store has lost its memory: the others may
		// not have left either.
		var missing []*peer
		gone = slices.DeleteFunc(slices.Clone(gone), func(name string) bool {
			p := m.table.peers[name]
			held := p != nil && m.table.hold(p, now)
			if held {
				missing = append(missing, p)
			}
			return held
		})
		m.tellMissing(missing)
	}
	for _, r := range u.Put {
		if r.Name == own.Name && r.Modified > own.Modified {
			m.askForLook()
		}
	}
	m.takePeers(u.Put, gone, now)
}

// tellMissing tells of peers that the store does not show any more.
func (m *Manager) tellMissing(missing []*peer) {
	if len(missing) == 0 {
		return
	}
	m.log.Warn("the store has lost peers; their routes stay while they put their leases back", "peers", len(missing), "hold", m.c.Hold)
	for _, p := range missing {
		m.tell(func() Event { return &PeerEvent{Peer: p.peer()} })
	}
}

// forgotten reports whether u says that this node's lease was deleted: by itself,
// or, if tenure has put it back since, by its having been created anew.
func (m *Manager) forgotten(u subnet.Update) bool {
	own := m.status.Record
	forgotten := false
	for _, name := range u.Deleted {
		if name == own.Name || name == m.former {
			forgotten, m.former = true, ""
		}
	}
	for _, r := range u.Put {
		switch r.Name {
		case m.former:
			m.former = "" // it is somebody else's now
		case own.Name:
			forgotten = forgotten || r.Name == m.shown.Name && r.Created != m.shown.Created
			m.shown = r
		}
	}
	return forgotten
}

// takeConfig takes in the network config as the store holds it.
func (m *Manager) takeConfig(nc subnet.NetworkConfig, now time.Time) {
	old := m.status.Config
	held := m.status.State == StateHeld
	if !held {
		m.askForLook() // it may be what tenure waits for
	}
	if nc.Err != nil {
		if old.Err == nil && old.Revision != 0 {
			m.log.Warn("network config in the store is not usable; the last good one stays in force", "err", nc.Err)
			m.tell(func() Event { return &ConfigEvent{Config: nc, Fits: m.fits(old.Config)} })
		}
		nc.Config = old.Config
		m.status.Config = nc
		return
	}
	m.status.Config = nc
	if nc.Config == old.Config {
		if old.Err != nil {
			m.log.Info("network config in the store is usable again")
			m.tell(func() Event { return &ConfigEvent{Config: nc, Fits: m.fits(nc.Config)} })
		}
		return
	}
	networks := nc.Config.Networks()
	for _, n := range m.table.policy.Networks {
		if !slices.Contains(networks, n) && m.lives(n, nc.Config.Networks()) {
			networks = append(networks, n)
		}
	}
	m.table.policy.Networks = networks
	m.wanted.whole = true
	m.rejudge(now)
	if !held {
		return
	}
	fits := m.fits(nc.Config)
	switch {
	case fits:
		m.status.Joined.Config = nc.Config
		m.log.Info("network config changed; this node's lease still fits", "lease", m.status.Record.Name)
	case m.c.Move:
		m.log.Warn("network config changed; this node's lease no longer fits and is given up for another", "lease", m.status.Record.Name)
		m.askForLook()
	default:
		m.log.Warn("network config changed; this node's lease no longer fits and is kept until the next start", "lease", m.status.Record.Name)
	}
	m.tell(func() Event { return &ConfigEvent{Config: nc, Fits: fits} })
}

// fits reports whether this node's lease is one that c would cut.
func (m *Manager) fits(c subnet.Config) bool { return c.Fits(m.status.Joined.Lease.Key) }

// lives reports whether network, of an earlier config, is where this node's or a
// routed peer's subnet still lies and that none of the newer networks covers.
func (m *Manager) lives(network netip.Prefix, newer []netip.Prefix) bool {
	in := func(s netip.Prefix) bool {
		return s.IsValid() && network.Overlaps(s) && !slices.ContainsFunc(newer, s.Overlaps)
	}
	own := m.status.Joined.Lease.Key
	if in(own.IPv4) || in(own.IPv6) {
		return true
	}
	for s := range m.table.wanted {
		if in(s) {
			return true
		}
	}
	return false
}

// rejudge judges all peers again and tells what became of them.
func (m *Manager) rejudge(now time.Time) {
	touched, gone := m.table.rejudge(now)
	m.tellPeers(touched, gone)
}

// takePeers takes in leases that were written and that are gone.
func (m *Manager) takePeers(put []subnet.Record, gone []string, now time.Time) {
	var left []Peer
	if m.c.Observe != nil || m.status.State == StateHeld {
		for _, name := range gone {
			if p := m.table.peers[name]; p != nil {
				left = append(left, p.peer())
			}
		}
	}
	m.tellPeers(m.table.update(put, gone, now), left)
}

// tellPeers logs and tells of peers that changed and that left.
func (m *Manager) tellPeers(touched []*peer, left []Peer) {
	if m.status.State == StateHeld {
		m.logPeers(touched, left)
	}
	for _, p := range left {
		m.tell(func() Event { return &PeerEvent{Peer: p, Gone: true} })
	}
	for _, p := range touched {
		m.tell(func() Event { return &PeerEvent{Peer: p.peer()} })
	}
}

// logLines is how many peers that change at once get a line each; more get one
// line together.
const logLines = 5

func (m *Manager) logPeers(touched []*peer, left []Peer) {
	if len(touched)+len(left) > logLines {
		refused := 0
		for _, p := range touched {
			if slices.ContainsFunc(p.routes, func(r PeerRoute) bool { return r.Reason != ReasonNone }) {
				refused++
			}
		}
		m.log.Info("peers changed", "changed", len(touched), "of_these_without_route", refused, "left", len(left))
		return
	}
	for _, p := range left {
		m.log.Info("peer left", "lease", p.Name)
	}
	for _, p := range touched {
		if !p.missing.IsZero() {
			continue // told when it went missing
		}
		for _, r := range p.routes {
			if r.Reason != ReasonNone {
				m.log.Warn("peer gets no route", "lease", p.record.Name, "reason", r.Reason.String(), "err", r.Err)
			} else {
				m.log.Info("peer", "lease", p.record.Name, "gateway", r.Gateway)
			}
		}
	}
}

// takeReport takes in what the programmer tells.
func (m *Manager) takeReport(r netlinkx.Report) {
	now := time.Now()
	if r.Uplink != nil {
		u := *r.Uplink
		u.IPv4, u.IPv6 = m.c.Uplink.IPv4, m.c.Uplink.IPv6
		same := slices.Equal(u.Addrs, m.table.policy.Uplink.Addrs)
		m.status.Uplink, m.table.policy.Uplink = u, u
		if !same {
			m.rejudge(now)
		}
	}
	m.status.Routes = r.Stats
	for _, s := range r.Routes {
		m.table.report(s) // the programmer logs what is worth it
	}
	if len(r.Routes) > 0 {
		m.tell(func() Event { return &RouteEvent{Routes: r.Routes, Stats: r.Stats} })
	}
}

// expire lets go of peers that have been missing, and of unwanted routes that
// have lingered, for the hold time. It returns when it is next due. While this
// node itself has no lease in the store, or the store no config, the peers cannot
// be back either, so the time counts from when that is over.
func (m *Manager) expire(now time.Time) (next time.Time) {
	if m.status.State != StateHeld || m.status.Config.Err != nil || m.status.Store.Err != nil {
		m.unsettled = true
		return time.Time{}
	}
	if m.unsettled {
		m.unsettled = false
		m.table.missAgain(now)
		if !m.wanted.until.IsZero() {
			m.wanted.until = now.Add(m.c.Hold)
		}
	}
	gone, missing := m.table.expired(now.Add(-m.c.Hold))
	if len(gone) > 0 {
		m.takePeers(nil, gone, now)
	}
	if !missing.IsZero() {
		next = missing.Add(m.c.Hold)
	}
	switch until := m.wanted.until; {
	case until.IsZero():
	case !now.Before(until):
		m.wanted = wantedState{whole: true}
	case next.IsZero() || until.Before(next):
		next = until
	}
	return next
}

// program tells the programmer what is wanted, once there is a lease: before
// that nobody knows what overlaps this node's subnet, and routes of an earlier
// run stay.
func (m *Manager) program() {
	if m.status.Joined.Lease.Key == (subnet.Key{}) {
		return
	}
	put, remove := m.table.delta()
	switch {
	case m.wanted.whole:
		m.wanted.whole = false
		m.c.Programmer.Set(netlinkx.Wanted{
			Networks: slices.Clone(m.table.policy.Networks),
			Routes:   m.table.wantedRoutes(),
			Linger:   !m.wanted.until.IsZero(),
			Own:      chosen(m.status.Joined.Lease.Key),
		})
	case len(put)+len(remove) > 0:
		m.c.Programmer.Change(put, remove)
	}
}

// askForLook has tenure see how this node's lease stands in the store.
func (m *Manager) askForLook() {
	select {
	case m.look <- struct{}{}:
	default: // it has been asked already
	}
}

// tell has e observed once mu is free.
func (m *Manager) tell(e func() Event) {
	if m.c.Observe != nil {
		m.events = append(m.events, e())
	}
}

// takeLease takes in that this node holds r, chosen under nc. It is told by
// tenure; absent says that the store showed no lease of this node before.
func (m *Manager) takeLease(r subnet.Record, nc subnet.NetworkConfig, absent bool) {
	now := time.Now()
	before := m.status.Joined
	if before.Lease.Key != r.Lease.Key {
		m.table.policy.Own = r.Lease
		m.rejudge(now)
		m.wanted.whole = true
		m.status.Since = now
	}
	m.status.State, m.status.Waiting = StateHeld, nil
	m.status.Record = r
	m.status.Joined = Joined{Config: nc.Config, Lease: r.Lease}
	m.status.Rival = nil
	if m.shown.Name != r.Name {
		m.former = ""
		if m.shown.Err == nil && m.shown.Lease.Holder.Same(r.Lease.Holder) {
			m.former = m.shown.Name
		}
		m.shown = r
		if own := m.table.own; own.Name == r.Name {
			m.shown = own // another one, if that was deleted and r created while this node joined
		}
	}
	if before.Lease.Key == r.Lease.Key {
		m.log.Info("lease is held again", "lease", r.Name)
	} else {
		if before.Lease.Key == (subnet.Key{}) && absent {
			// Either this node is new, or was away for longer than its lease lived, or
			// the store has lost everything: then the peers are about to put theirs
			// back, and the routes that an earlier run left must not go first.
			m.wanted.until = now.Add(m.c.Hold)
		}
		c := m.table.count()
		m.log.Info("lease held", "lease", r.Name, "reservation", r.Reserved(), "networks", nc.Config.Networks(),
			"peers", c.Peers, "refused", c.Refused)
		m.tell(func() Event { return &LeaseEvent{Joined: m.status.Joined, Previous: before.Lease.Key} })
	}
	m.tell(func() Event { return &StateEvent{StateHeld} })
}
