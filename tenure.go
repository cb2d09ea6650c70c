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
		held = &r
		acquired, failing := time.Now(), false
		for {
			since := time.Now()
			err := m.keep(ctx, r)
			if ctx.Err() != nil {
				return nil
			}
			if time.Since(since) > backoffLast {
				b.reset()
				failing = false
			}
			lost := errors.Is(err, subnet.ErrLeaseLost)
			switch {
			case lost:
				m.tellLoop(ctx, func() { m.lose(r.Name) }) // reading may take long
			case err != nil:
				if !failing {
					m.log.Warn("keeping the lease failed; trying again", "lease", r.Name, "err", err)
				}
				failing = true
				b.wait(ctx, m.look)
			}
			if time.Since(acquired) < backoffLast && (lost || !m.holds(ctx)) {
				// Another process with this node's address may hold another subnet, and each
				// drops the other's.
				b.wait(ctx, nil)
			}
			var ok bool
			if snap, _, ok = m.snapshot(ctx); !ok {
				return nil
			}
			now, there := find(snap.Records, r.Name)
			if lost || !there || now.Err != nil || !now.Lease.Holder.Same(r.Lease.Holder) || !m.holds(ctx) {
				break
			}
			if c := snap.Config; c.Err == nil && c.Config.Fits(r.Lease.Key) {
				if !alike(now.Lease.Holder, m.holder(c.Config)) && !m.hasRival() {
					// A backup brought it back as it once was. Whoever else keeps changing
					// it is not to be raced.
					if time.Since(since) < backoffLast {
						b.wait(ctx, nil)
					}
					break
				}
			} else if m.c.Move && c.Err == nil && c != stuck {
				stuck = c
				break
			}
			r = now
			m.tellLoop(ctx, func() { m.status.Record = now })
			m.releaseOthers(ctx, snap.Records, subnet.Choice{Key: r.Lease.Key})
		}
		m.tellLoop(ctx, func() {
			m.lose(r.Name)
			m.takeHearing(&m.unkept, nil, time.Now()) // the store has just been read
		})
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

// rivalAnswers is how long a Keep that has begun may need to hear of a rival that is
// still there.
const rivalAnswers = 3 * time.Minute

// keep keeps r alive until it is lost or the store fails, and then says why, or
// until the loop asks for a look.
func (m *Manager) keep(ctx context.Context, r subnet.Record) error {
	kctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	met, began := false, time.Now()
	go func() {
		done <- m.c.Store.Keep(kctx, r, m.c.Node, func(n subnet.Renewal) {
			met = met || n.Rival != nil
			early := !met && time.Since(began) < rivalAnswers // Keep begins without knowing of anybody
			m.tellLoop(kctx, func() {
				if early {
					n.Rival = m.status.Rival
				}
				m.takeRenewal(r, n)
			})
		})
	}()
	select {
	case <-m.look:
		cancel()
		<-done
		return nil
	case err := <-done:
		return err
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
			// It only wanted to look how the lease stands, but nobody keeps it meanwhile.
			m.takeHearing(&m.unkept, err, time.Now())
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
