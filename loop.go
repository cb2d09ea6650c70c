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
	m.takeHearing(&m.unheard, u.Err, now)
	if u.Err != nil {
		if !m.known {
			m.status.Waiting = u.Err
		}
		return
	}

	st := &m.status.Store
	own := m.status.Record
	if s := u.Snapshot; s != nil {
		st.Revision = s.Revision
		m.takeConfig(s.Config, now)
		m.takeLeftovers(s.Records)
		names := make(map[string]struct{}, len(s.Records))
		for _, r := range s.Records {
			names[r.Name] = struct{}{}
		}
		missing, gone := m.table.miss(names, now)
		m.tellMissing(missing)
		m.takePeers(s.Records, gone, now)
		if r, ok := find(s.Records, own.Name); ok && own.Name != "" {
			m.shown = r
			m.takeOwn(r)
		} else if own.Name != "" {
			m.takeOwnGone(s.Revision)
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
	m.takeLeftovers(u.Put)
	m.takePeers(u.Put, gone, now)
	if own.Name != "" && slices.Contains(u.Deleted, own.Name) {
		m.takeOwnGone(u.Revision)
	}
	if r, ok := find(u.Put, own.Name); ok && own.Name != "" {
		m.takeOwn(r)
	}
}

// takeLeftovers has tenure look if another lease of this node's shows up beside the
// one that it holds: a claim that was given up may have arrived late.
func (m *Manager) takeLeftovers(records []subnet.Record) {
	if m.status.State == StateHeld && len(subnet.Leftovers(records, m.self(), m.status.Record.Lease.Key)) > 0 {
		m.askForLook()
	}
}

// takeOwnGone takes in that this node's lease is not in the store as of a revision.
// If that is news the lease is lost even though the store may refuse to say more.
func (m *Manager) takeOwnGone(revision int64) {
	m.askForLook()
	if own := m.status.Record; revision >= own.Created {
		m.lose(own.Name)
	}
}

// takeOwn takes in what the store shows under the name of this node's lease.
func (m *Manager) takeOwn(r subnet.Record) {
	own := m.status.Record
	if r.Modified != own.Modified || r.Token != own.Token {
		m.askForLook()
	}
	if r.Modified > own.Modified && (r.Err != nil || !r.Lease.Holder.Same(own.Lease.Holder)) {
		m.lose(own.Name)
	}
}

// takeHearing takes in whether one of the two that talk to the store, the watch and
// who keeps the lease, can be heard. The store is away while either cannot.
func (m *Manager) takeHearing(of *error, err error, now time.Time) {
	*of = err
	if err = m.unheard; err == nil {
		err = m.unkept
	}
	st := &m.status.Store
	switch {
	case err != nil && st.Err == nil:
		st.Since = now
		st.Outages++
		m.log.Warn("store cannot be heard; routes stay as they are", "err", err)
		m.tell(func() Event { return &StoreEvent{Err: err} })
	case err == nil && st.Err != nil:
		m.log.Info("store can be heard again", "after", now.Sub(st.Since).Round(time.Millisecond))
		m.tell(func() Event { return &StoreEvent{} })
		st.Since = now
	case st.Since.IsZero():
		st.Since = now
	}
	st.Err = err
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
	if own.Name == "" {
		return false
	}
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
	m.table.policy.Networks = m.networks(nc.Config)
	m.wanted.whole = true
	m.rejudge(now)
	if held {
		m.tellConfig(nc)
	} // else takeLease tells
}

// tellConfig tells that a config is in force, and what that means for the lease.
func (m *Manager) tellConfig(nc subnet.NetworkConfig) {
	fits := m.fits(nc.Config)
	switch {
	case fits:
		m.status.Joined.Config = nc.Config
		m.log.Info("network config changed; this node's lease still fits", "lease", m.status.Record.Name)
	case m.c.Move:
		m.unfit = nc.Config
		m.log.Warn("network config changed; this node's lease no longer fits and is given up for another", "lease", m.status.Record.Name)
		m.askForLook()
	default:
		m.unfit = nc.Config
		m.log.Warn("network config changed; this node's lease no longer fits and is kept until the next start", "lease", m.status.Record.Name)
	}
	m.tell(func() Event { return &ConfigEvent{Config: nc, Fits: fits} })
}

// fits reports whether this node's lease is one that c would cut.
func (m *Manager) fits(c subnet.Config) bool { return c.Fits(m.status.Joined.Lease.Key) }

// networks returns the networks that leases may lie in: those of c, and those of
// earlier configs that this node's or a peer's lease still lies in.
func (m *Manager) networks(c subnet.Config) []netip.Prefix {
	newer := c.Networks()
	own := m.status.Joined.Lease.Key
	if own == (subnet.Key{}) {
		return newer // nothing is routed yet
	}
	networks := newer
	for _, n := range m.table.policy.Networks {
		in := func(s netip.Prefix) bool {
			return s.IsValid() && n.Overlaps(s) && !slices.ContainsFunc(newer, s.Overlaps)
		}
		if !slices.Contains(newer, n) && (in(own.IPv4) || in(own.IPv6) || m.table.anyIn(n, in)) {
			networks = append(networks, n)
		}
	}
	return networks
}

// closeNetworks lets go of the networks of earlier configs once nobody is left there.
func (m *Manager) closeNetworks(now time.Time) {
	c := m.status.Config.Config
	if len(m.table.policy.Networks) <= len(c.Networks()) {
		return
	}
	if left := m.networks(c); len(left) < len(m.table.policy.Networks) {
		m.table.policy.Networks = left
		m.wanted.whole = true
		m.rejudge(now)
	}
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
	m.closeNetworks(now)
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

// takeLease takes in that this node holds r, chosen under nc, and dropped others of
// its leases with it. It is told by tenure; absent says that the store showed no lease
// of this node before.
func (m *Manager) takeLease(r subnet.Record, nc subnet.NetworkConfig, dropped []subnet.Record, absent bool) {
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
	again := before.Lease.Key == r.Lease.Key
	m.status.Joined = Joined{Config: nc.Config, Lease: r.Lease}
	latest := m.status.Config // the watch may have been quicker than the claim's answer
	switch {
	case latest.Err == nil && m.fits(latest.Config):
		m.status.Joined.Config = latest.Config
	case again && !m.fits(nc.Config):
		m.status.Joined.Config = before.Config
	}
	m.status.Rival = nil
	m.takeHearing(&m.unkept, nil, now)
	if m.shown.Name != r.Name {
		m.former = ""
		if _, ours := find(dropped, m.shown.Name); !ours && m.shown.Err == nil && m.shown.Lease.Holder.Same(r.Lease.Holder) {
			m.former = m.shown.Name
		}
		m.shown = r
		if own := m.table.own; own.Name == r.Name {
			m.shown = own // another one, if that was deleted and r created while this node joined
		}
	}
	if again {
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
	unfit := !m.fits(latest.Config) && latest.Config != m.unfit && latest.Revision >= nc.Revision
	changed := again && m.fits(latest.Config) && latest.Config != before.Config
	if latest.Err == nil && (unfit || changed) {
		m.tellConfig(latest)
	}
	m.closeNetworks(now)
}
