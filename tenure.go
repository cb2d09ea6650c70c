package hostgw

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/hostgw/hostgw/subnet"
)

// lostGrace is how long a node that finds its subnet in another's hands looks
// again before it believes it: after a store was restored from an old backup,
// the other may be about to put back what it really holds.
const lostGrace = 5 * time.Second

// errNotFit is why a node whose lease is gone cannot ask for the same subnet
// again.
var errNotFit = errors.New("the lease is gone, and its subnet no longer fits the network config")

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
	var held *subnet.Record // what this run holds, or held last
	b := m.backoff()
	for {
		r, err := m.acquire(ctx, snap, held)
		if err != nil || ctx.Err() != nil {
			return err
		}
		held = &r
		failing := false
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
			if err != nil && !lost {
				if !failing {
					m.log.Warn("keeping the lease failed; trying again", "lease", r.Name, "err", err)
				}
				failing = true
				b.wait(ctx, m.look)
			}
			var ok bool
			if snap, ok = m.snapshot(ctx); !ok {
				return nil
			}
			now, there := find(snap.Records, r.Name)
			if lost || !there || now.Err != nil || !now.Lease.Holder.Same(r.Lease.Holder) {
				break
			}
			if m.c.Move && snap.Config.Err == nil && !snap.Config.Config.Fits(r.Lease.Key) {
				break
			}
			r = now
			m.tellLoop(ctx, func() { m.status.Record = now })
		}
		m.tellLoop(ctx, func() {
			m.log.Warn("lease is gone from the store, or must be given up; asking for it again", "lease", r.Name)
			m.status.State = StateJoining
			m.tell(func() Event { return &StateEvent{StateJoining} })
		})
	}
}

func find(records []subnet.Record, name string) (subnet.Record, bool) {
	i := slices.IndexFunc(records, func(r subnet.Record) bool { return r.Name == name })
	if i < 0 {
		return subnet.Record{}, false
	}
	return records[i], true
}

// keep keeps r alive until it is lost or the store fails, and then says why, or
// until the loop asks for a look.
func (m *Manager) keep(ctx context.Context, r subnet.Record) error {
	kctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- m.c.Store.Keep(kctx, r, m.c.Node, func(n subnet.Renewal) {
			m.tellLoop(kctx, func() { m.takeRenewal(r, n) })
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
	m.status.Renewed, m.status.TTL = time.Now(), n.TTL
	if n.Rival == nil || m.status.Rival != nil && *m.status.Rival == *n.Rival {
		return
	}
	rival := *n.Rival
	m.status.Rival = &rival
	m.log.Error("another process claims this node's lease with this node's address: give one of them another",
		"lease", r.Name, "address", address(r.Lease.Holder), "this", m.c.Node.Name, "other", rival.Name, "other_instance", rival.Instance)
	m.tell(func() Event { return &RivalEvent{Rival: rival} })
}

// snapshot reads the store until it can be read. It returns false if ctx ends.
func (m *Manager) snapshot(ctx context.Context) (subnet.Snapshot, bool) {
	b := m.backoff()
	for {
		snap, err := m.c.Store.Snapshot(ctx)
		if err == nil {
			return snap, true
		}
		if ctx.Err() != nil {
			return snap, false
		}
		m.waiting(ctx, err)
		if !b.wait(ctx, nil) {
			return snap, false
		}
	}
}

// quickTries is how many lost races in a row are tried again at once; who loses
// more steps back a little each time.
const quickTries = 5

// acquire makes a lease this node's: the one it held before if held is not nil,
// else whichever it can get. snap is what to start from. It tries until it
// succeeds, or until it is clear that it cannot. If ctx ends first, the error is
// nil too.
func (m *Manager) acquire(ctx context.Context, snap subnet.Snapshot, held *subnet.Record) (subnet.Record, error) {
	var (
		b         = m.backoff()
		tries     int
		avoid     []netip.Prefix
		revision  = snap.Config.Revision
		lostSince time.Time
		absent    bool // no record of this node's was there at one of the tries
	)
	for ctx.Err() == nil {
		c, err := m.choose(snap, held, avoid)
		if err == nil {
			absent = absent || c.Held == nil // the answer to a try that wrote one may have been lost
			var r subnet.Record
			if r, err = m.claim(ctx, snap, c); err == nil {
				nc := snap.Config
				m.tellLoop(ctx, func() { m.takeLease(r, nc, absent) })
				return r, nil
			}
		}
		var lost *SubnetLostError
		grace := lostGrace
		if errors.Is(err, errNotFit) {
			// The config may be that of an old backup, and about to be put right.
			err, grace = &SubnetLostError{Lost: held.Lease, Err: err}, m.c.Hold
		}
		pause := true
		switch {
		case errors.Is(err, subnet.ErrConflict):
			if c.Held == nil {
				avoid = append(avoid, chosen(c.Key)...) // else what this node had has only changed
			}
			tries++
			pause = tries > quickTries
		case errors.As(err, &lost):
			if lostSince.IsZero() {
				lostSince = time.Now()
			}
			m.waiting(ctx, err)
			if time.Since(lostSince) >= grace {
				if !m.c.Move {
					return subnet.Record{}, err
				}
				held, pause = nil, false
			}
		case errors.Is(err, subnet.ErrNoFreeSubnet):
			return subnet.Record{}, fmt.Errorf("leasing a subnet: %w", err)
		default:
			m.waiting(ctx, err)
		}
		if pause && !b.wait(ctx, m.look) {
			break
		}
		var ok bool
		if snap, ok = m.snapshot(ctx); !ok {
			break
		}
		if snap.Config.Revision != revision {
			avoid, revision = nil, snap.Config.Revision
		}
	}
	return subnet.Record{}, nil
}

func (m *Manager) claim(ctx context.Context, snap subnet.Snapshot, c subnet.Choice) (subnet.Record, error) {
	h := m.holder(snap.Config.Config)
	if c.Held != nil && !snap.Config.Config.Fits(c.Key) {
		h = c.Held.Lease.Holder // of the families that the key has, which the config may no longer have
	}
	claim := subnet.Claim{
		Lease:          subnet.Lease{Key: c.Key, Holder: h},
		ConfigRevision: snap.Config.Revision,
		Config:         snap.Config.Config,
		Held:           c.Held,
		Drop:           c.Drop[:min(len(c.Drop), maxDrop)],
		TTL:            m.c.TTL,
		Node:           m.c.Node,
	}
	if c.Held == nil && !snap.Config.Config.Paired(c.Key) {
		claim.Seen = snap.Revision
	}
	return m.c.Store.Claim(ctx, claim)
}

// maxDrop is how many leases a claim drops at most; a node has one, and more that
// bear its address are somebody's slip or attack.
const maxDrop = 32

// chosen returns a key's subnets.
func chosen(k subnet.Key) (ps []netip.Prefix) {
	for _, p := range [...]netip.Prefix{k.IPv4, k.IPv6} {
		if p.IsValid() {
			ps = append(ps, p)
		}
	}
	return ps
}

// holder is this node as the holder of a lease in a network.
func (m *Manager) holder(c subnet.Config) subnet.Holder {
	h := subnet.Holder{BackendType: subnet.BackendType}
	if c.IPv4.IsValid() {
		h.PublicIP = m.c.Uplink.IPv4
	}
	if c.IPv6.IsValid() {
		h.PublicIPv6 = m.c.Uplink.IPv6
	}
	return h
}

// choose decides what to claim in the light of a snapshot.
func (m *Manager) choose(snap subnet.Snapshot, held *subnet.Record, avoid []netip.Prefix) (subnet.Choice, error) {
	if snap.Config.Err != nil {
		return subnet.Choice{}, snap.Config.Err
	}
	c := snap.Config.Config
	h := m.holder(c)
	if c.IPv4.IsValid() && !h.PublicIP.IsValid() || c.IPv6.IsValid() && !h.PublicIPv6.IsValid() {
		return subnet.Choice{}, fmt.Errorf("networks %v need an address of each family, and uplink %s has IPv4 %v and IPv6 %v",
			c.Networks(), m.c.Uplink.Name, m.c.Uplink.IPv4, m.c.Uplink.IPv6)
	}
	if held != nil && (c.Fits(held.Lease.Key) || !m.c.Move) {
		return again(c, snap.Records, *held)
	}
	choice, err := subnet.Select(c, snap.Records, subnet.Request{Holder: h, Previous: m.c.Previous}, avoid...)
	if err != nil {
		return choice, err
	}
	choice.Drop = others(snap.Records, choice, h)
	return choice, nil
}

// again decides how to get back the very subnet that this node held. If its
// record is there after all, it is taken back whatever else has changed, as
// every node does at its start.
func again(c subnet.Config, records []subnet.Record, held subnet.Record) (subnet.Choice, error) {
	choice := subnet.Choice{Key: held.Lease.Key}
	var taken *subnet.Record
	for _, r := range records {
		ours := r.Err == nil && r.Lease.Holder.Same(held.Lease.Holder)
		switch {
		case ours && r.Lease.Key == held.Lease.Key:
			choice.Held = &r
		case r.Takes(held.Lease.Key) && (!ours || r.Reserved()):
			taken = &r
		}
	}
	switch {
	case choice.Held != nil:
	case taken != nil:
		return subnet.Choice{}, &SubnetLostError{Lost: held.Lease, Taken: *taken}
	case !c.Fits(held.Lease.Key):
		return subnet.Choice{}, fmt.Errorf("%s: %w", held.Name, errNotFit)
	}
	choice.Drop = others(records, choice, held.Lease.Holder)
	return choice, nil
}

// others returns this node's records besides the chosen one. A node holds one
// lease; what else bears its address is left from an earlier config or from a
// backup, and goes in the same step, but for reservations, which are the
// operator's.
func others(records []subnet.Record, c subnet.Choice, h subnet.Holder) []subnet.Record {
	var rs []subnet.Record
	for _, r := range records {
		if r.Err == nil && !r.Reserved() && r.Lease.Key != c.Key && r.Lease.Holder.Same(h) {
			rs = append(rs, r)
		}
	}
	// Those that are in the chosen one's way come first.
	slices.SortStableFunc(rs, func(a, b subnet.Record) int {
		inWay := func(r subnet.Record) int {
			if r.Lease.Key.Overlaps(c.Key) {
				return 0
			}
			return 1
		}
		return inWay(a) - inWay(b)
	})
	return rs
}

// waiting tells what this node waits for; the log says it once.
func (m *Manager) waiting(ctx context.Context, err error) {
	m.tellLoop(ctx, func() {
		if m.status.State == StateHeld {
			return // it only wanted to look how the lease stands
		}
		if w := m.status.Waiting; w == nil || w.Error() != err.Error() {
			m.log.Info("waiting to join the network", "for", err)
		}
		m.status.Waiting = err
	})
}

// tellLoop has the loop run f, with mu held.
func (m *Manager) tellLoop(ctx context.Context, f func()) {
	select {
	case m.news <- f:
	case <-ctx.Done():
	}
}
