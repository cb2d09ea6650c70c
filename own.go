package hostgw

import (
	"time"

	"github.com/hostgw/hostgw/subnet"
)

// takeLease takes in that this node holds r, chosen under nc, and dropped others of
// its leases with it. It is told by tenure; absent says that the store showed no lease
// of this node before.
func (m *Manager) takeLease(r subnet.Record, nc subnet.NetworkConfig, dropped []subnet.Record, absent bool) {
	now := time.Now()
	before := m.status.Joined
	again := before.Lease.Key == r.Lease.Key
	if !again {
		m.table.policy.Own = r.Lease
		m.rejudge(now)
		m.wanted.whole = true
		m.status.Since = now
	}
	m.status.State, m.status.Waiting = StateHeld, nil
	m.status.Record = r
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
	// What showed up while this node joined.
	for _, p := range m.table.peers {
		if _, gone := find(dropped, p.record.Name); !gone {
			m.takeLeftovers([]subnet.Record{p.record})
		}
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

// takeOwnGone takes in that this node's lease is not in the store as of a revision.
// If that is news the lease is lost even though the store may refuse to say more.
func (m *Manager) takeOwnGone(revision int64) {
	m.askForLook()
	if own := m.status.Record; revision >= own.Created {
		m.lose(own.Name)
	}
}

// takeLeftovers has tenure look if another lease of this node's shows up beside the
// one that it holds: a claim that was given up may have arrived late.
func (m *Manager) takeLeftovers(records []subnet.Record) {
	if m.status.State == StateHeld && len(subnet.Leftovers(records, m.self(), m.status.Record.Lease.Key)) > 0 {
		m.askForLook()
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
