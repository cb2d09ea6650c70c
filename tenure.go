package hostgw

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hostgw/hostgw/subnet"
)

// tenure is the life of this node's lease: it is acquired, kept, found lost, and
// asked for again.
func (m *Manager) tenure(ctx context.Context) error {
	var snap subnet.Snapshot
	select {
	case snap = <-m.first:
	case <-ctx.Done():
		return nil
	}
	select {
	case <-m.look: // snap is what the loop wants to have looked at
	default:
	}
	var held *subnet.Record        // what this run holds, or held last
	var stuck subnet.NetworkConfig // under which there was no subnet to move to
	b := m.backoff()
	for {
		r, err := m.acquire(ctx, snap, held)
		if err != nil || ctx.Err() != nil {
			return err
		}
		acquired := time.Now()
		held = &r
		var ok bool
		if snap, ok = m.hold(ctx, held, &stuck); !ok {
			return nil
		}
		if time.Since(acquired) > backoffLast {
			b.reset()
			continue
		}
		// Whoever keeps changing it is not to be raced: another process with this node's
		// address may hold another subnet, and each drops the other's.
		b.wait(ctx, nil)
		if snap, _, ok = m.snapshot(ctx); !ok {
			return nil
		}
	}
}

// rivalTime is how long a rival's answers may take before it is known as one.
const rivalTime = 500 * time.Millisecond

// hold keeps r, and looks how it stands whenever the loop asks for that, until r is
// lost or must be given up. It returns what the store holds then; false if ctx ends.
// It leaves r as the store holds it.
func (m *Manager) hold(ctx context.Context, r *subnet.Record, stuck *subnet.NetworkConfig) (snap subnet.Snapshot, ok bool) {
	kctx, cancel := context.WithCancel(ctx)
	kept := make(chan struct{})
	go func(r subnet.Record) {
		defer close(kept)
		m.keep(kctx, r)
	}(*r)
	defer func() {
		cancel()
		<-kept
		m.tellLoop(ctx, func() {
			m.lose(r.Name)
			m.takeHearing(&m.unkept, nil, time.Now()) // nobody asks for it any more
		})
	}()
	for {
		lost := false
		select {
		case <-m.look:
		case <-kept:
			lost = true
			m.tellLoop(ctx, func() { m.lose(r.Name) }) // reading may take long
		}
		var atOnce bool
		if snap, atOnce, ok = m.snapshot(ctx); !ok {
			return snap, false
		}
		if !atOnce {
			m.tellLoop(ctx, func() { m.takeHearing(&m.unread, nil, time.Now()) })
		}
		now, there := find(snap.Records, r.Name)
		if lost || !there || now.Err != nil || now.Token != r.Token || !now.Lease.Holder.Same(r.Lease.Holder) || !m.holds(ctx) {
			return snap, true
		}
		switch c := snap.Config; {
		case c.Err == nil && c.Config.Fits(r.Lease.Key):
			if !alike(now.Lease.Holder, m.holder(c.Config)) && !m.hasRival() {
				// A backup brought it back as it once was, or somebody wrote it with whom
				// Keep is talking just now.
				select {
				case <-ctx.Done():
				case <-kept:
				case <-time.After(rivalTime):
				}
				if !m.hasRival() {
					return snap, true
				}
			}
		case m.c.Move && c.Err == nil && c != *stuck:
			*stuck = c
			return snap, true
		}
		*r = now
		m.tellLoop(ctx, func() { m.status.Record = now })
		m.releaseOthers(ctx, snap.Records, now.Lease.Key)
	}
}

// lose takes in that this node does not hold the lease of that name any more, or
// gives it up. It is run by the loop.
func (m *Manager) lose(name string) {
	if m.status.State != StateHeld || m.status.Record.Name != name {
		return
	}
	m.log.Warn("lease is gone from the store, or must be given up; asking for it again", "lease", name)
	m.status.State = StateJoining
	m.tell(func() Event { return &StateEvent{StateJoining} })
}

// holds reports whether this node holds a lease as far as the loop knows, after all
// that it was told before.
func (m *Manager) holds(ctx context.Context) bool {
	held := make(chan bool, 1)
	m.tellLoop(ctx, func() { held <- m.status.State == StateHeld })
	select {
	case h := <-held:
		return h
	case <-ctx.Done():
		return false
	}
}

func (m *Manager) hasRival() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status.Rival != nil
}

// alike reports whether peers route to a and b in the same way.
func alike(a, b subnet.Holder) bool {
	return a.PublicIP == b.PublicIP && a.PublicIPv6 == b.PublicIPv6 && a.BackendType == b.BackendType
}

func find(records []subnet.Record, name string) (subnet.Record, bool) {
	i := slices.IndexFunc(records, func(r subnet.Record) bool { return r.Name == name })
	if i < 0 {
		return subnet.Record{}, false
	}
	return records[i], true
}

// keep keeps r alive until it is lost or ctx ends.
func (m *Manager) keep(ctx context.Context, r subnet.Record) {
	b := m.backoff()
	failing := false
	for {
		since := time.Now()
		err := m.c.Store.Keep(ctx, r, m.c.Node, func(n subnet.Renewal) {
			m.tellLoop(ctx, func() { m.takeRenewal(r, n) })
		})
		if ctx.Err() != nil || errors.Is(err, subnet.ErrLeaseLost) {
			return
		}
		if time.Since(since) > backoffLast {
			b.reset()
			failing = false
		}
		if !failing {
			m.log.Warn("keeping the lease failed; trying again", "lease", r.Name, "err", err)
		}
		failing = true
		b.wait(ctx, nil)
	}
}

// takeRenewal takes in how the lease is doing. It is run by the loop.
func (m *Manager) takeRenewal(r subnet.Record, n subnet.Renewal) {
	now := time.Now()
	m.takeHearing(&m.unkept, n.Err, now)
	if n.Err != nil {
		return
	}
	m.status.Renewed, m.status.TTL = now, n.TTL
	if n.Rival == nil && m.status.Rival != nil {
		m.log.Info("no other process claims this node's lease any more", "lease", r.Name)
		m.status.Rival = nil
	}
	if n.Rival == nil || m.status.Rival != nil && *m.status.Rival == *n.Rival {
		return
	}
	rival := *n.Rival
	m.status.Rival = &rival
	m.log.Error("another process claims this node's lease with this node's address: give one of them another",
		"lease", r.Name, "address", address(r.Lease.Holder), "this", m.c.Node.Name, "other", rival.Name, "other_instance", rival.Instance)
	m.tell(func() Event { return &RivalEvent{Rival: rival} })
}

// snapshot reads the store until it can be read, and reports whether that was so
// at once. It returns false if ctx ends.
func (m *Manager) snapshot(ctx context.Context) (snap subnet.Snapshot, atOnce, ok bool) {
	b := m.backoff()
	for atOnce = true; ; atOnce = false {
		snap, err := m.c.Store.Snapshot(ctx)
		if err == nil {
			return snap, atOnce, true
		}
		if ctx.Err() != nil {
			return snap, false, false
		}
		m.waiting(ctx, err)
		if !b.wait(ctx, m.look) {
			return snap, false, false
		}
	}
}

// waiting tells what this node waits for; the log says it once.
func (m *Manager) waiting(ctx context.Context, err error) {
	m.tellLoop(ctx, func() {
		if m.status.State == StateHeld {
			m.takeHearing(&m.unread, err, time.Now()) // it only wanted to look how the lease stands
			return
		}
		before := m.status.Waiting
		m.status.Waiting = err
		if before == nil || !sameCause(before, err) {
			m.log.Info("waiting to join the network", "for", err)
		}
	})
}

// sameCause reports whether a and b tell a person the same. The errors of a store
// that is away differ from try to try, in ports and members.
func sameCause(a, b error) bool {
	told := func(err error) bool {
		var lost *SubnetLostError
		var config *subnet.ConfigError
		return errors.As(err, &lost) || errors.As(err, &config) || errors.Is(err, subnet.ErrNoConfig)
	}
	return !told(a) && !told(b) || a.Error() == b.Error()
}

// tellLoop has the loop run f, with mu held.
func (m *Manager) tellLoop(ctx context.Context, f func()) {
	select {
	case m.news <- f:
	case <-ctx.Done():
	}
}
