package hostgw

import (
	"context"
	"errors"
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

// takeHearing takes in whether one of the three that talk to the store, the watch, who
// keeps the lease and who looks how it stands, can be heard. The store is away while
// one cannot.
func (m *Manager) takeHearing(of *error, err error, now time.Time) {
	*of = err
	for _, err = range [...]error{m.unheard, m.unkept, m.unread} {
		if err != nil {
			break
		}
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
		if m.status.State != StateHeld {
			m.askForLook() // tenure waits for it
		}
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
