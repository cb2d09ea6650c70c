package hostgw

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
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
		lostAs    error // why it is lost, since then
		absent    bool  // no record of this node's was there at one of the tries
	)
	for ctx.Err() == nil {
		c, err := m.choose(snap, held, avoid)
		if err == nil {
			h := m.claimant(snap.Config.Config, c)
			c.Drop = droppable(c, h, tries > quickTries)
			// The answer to a try that wrote one may have been lost.
			absent = absent || c.Held == nil && len(subnet.Leftovers(snap.Records, m.self(), c.Key)) == 0
			var r subnet.Record
			if r, err = m.claim(ctx, snap, h, c); err == nil {
				nc := snap.Config
				m.tellLoop(ctx, func() { m.takeLease(r, nc, c.Drop, absent) })
				return r, nil
			}
		}
		var lost *SubnetLostError
		if errors.Is(err, errNotFit) {
			err = &SubnetLostError{Lost: held.Lease, Err: err}
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
			if lostAs == nil || lostAs.Error() != err.Error() {
				lostSince, lostAs = time.Now(), err
			}
			m.waiting(ctx, err)
			if time.Since(lostSince) >= m.grace(lost, *held) {
				if !m.c.Move {
					return subnet.Record{}, err
				}
				held, pause = nil, false
			}
		case errors.Is(err, subnet.ErrNoFreeSubnet):
			return subnet.Record{}, fmt.Errorf("leasing a subnet: %w", err)
		default:
			m.waiting(ctx, err)
			lostAs = nil
		}
		if pause && !b.wait(ctx, m.look) {
			break
		}
		var atOnce, ok bool
		if snap, atOnce, ok = m.snapshot(ctx); !ok {
			break
		}
		if !atOnce {
			lostAs = nil // nobody else could put anything right either
		}
		if snap.Config.Revision != revision {
			avoid, revision = nil, snap.Config.Revision
		}
	}
	return subnet.Record{}, nil
}

// grace is how long a node looks again before it believes that its subnet is lost.
func (m *Manager) grace(lost *SubnetLostError, held subnet.Record) time.Duration {
	switch {
	case lost.Err != nil:
		return m.c.Hold // the config may be that of an old backup, and about to be put right
	case !m.c.Move && lost.Taken.Created < held.Created && !lost.Taken.Reserved():
		// The store has gone back to before this node held the subnet, or begun anew. Who
		// has it may have been dead for long, and an operator can put that right.
		return max(m.c.Hold, lostGrace)
	}
	return lostGrace
}

// releaseLimit bounds what releaseOthers may take.
const releaseLimit = 5 * time.Second

// releaseOthers gives back what bears one of this node's addresses beside the lease of
// k. What cannot be given back now expires, unless it hangs on the same handle as the
// lease; then the next claim drops it.
func (m *Manager) releaseOthers(ctx context.Context, records []subnet.Record, k subnet.Key) {
	left := subnet.Leftovers(records, m.self(), k)
	ctx, cancel := context.WithTimeout(ctx, releaseLimit) // nobody looks meanwhile
	defer cancel()
	for _, r := range left[:min(len(left), maxDrop)] {
		if m.c.Store.Release(ctx, r) != nil {
			return
		}
	}
}

// claimant is this node as the holder of what it chose.
func (m *Manager) claimant(config subnet.Config, c subnet.Choice) subnet.Holder {
	if c.Held != nil && !config.Fits(c.Key) {
		return c.Held.Lease.Holder // of the families that the key has, which the config may no longer have
	}
	return m.holder(config)
}

// droppable returns which of c.Drop go with the claim of c, at most maxDrop. few
// leaves out those that are not in the way: somebody may be writing them faster than
// they can be dropped.
func droppable(c subnet.Choice, h subnet.Holder, few bool) (drop []subnet.Record) {
	for _, r := range c.Drop {
		if len(drop) < maxDrop && r.Lease.Holder.Same(h) && (!few || r.Lease.Key.Overlaps(c.Key)) {
			drop = append(drop, r)
		}
	}
	return drop
}

func (m *Manager) claim(ctx context.Context, snap subnet.Snapshot, h subnet.Holder, c subnet.Choice) (subnet.Record, error) {
	claim := subnet.Claim{
		Lease:          subnet.Lease{Key: c.Key, Holder: h},
		ConfigRevision: snap.Config.Revision,
		Config:         snap.Config.Config,
		Held:           c.Held,
		Drop:           c.Drop,
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

// self is this node by all its addresses.
func (m *Manager) self() subnet.Holder {
	return subnet.Holder{PublicIP: m.c.Uplink.IPv4, PublicIPv6: m.c.Uplink.IPv6}
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
	if held != nil && (c.Fits(held.Lease.Key) || !m.c.Move) {
		return again(c, snap.Records, *held)
	}
	choice, err := m.chooseNew(c, snap.Records, avoid)
	if err != nil && held != nil {
		if old, againErr := again(c, snap.Records, *held); againErr == nil && old.Held != nil {
			m.log.Warn("there is no other lease to move to; this node keeps the one it has", "lease", held.Name, "err", err)
			return old, nil
		}
	}
	return choice, err
}

// chooseNew decides what to claim for a node that holds nothing it wants to keep.
func (m *Manager) chooseNew(c subnet.Config, records []subnet.Record, avoid []netip.Prefix) (subnet.Choice, error) {
	h := m.holder(c)
	if c.IPv4.IsValid() && !h.PublicIP.IsValid() || c.IPv6.IsValid() && !h.PublicIPv6.IsValid() {
		return subnet.Choice{}, fmt.Errorf("networks %v need an address of each family, and uplink %s has IPv4 %v and IPv6 %v",
			c.Networks(), m.c.Uplink.Name, m.c.Uplink.IPv4, m.c.Uplink.IPv6)
	}
	return subnet.Select(c, records, subnet.Request{Holder: h, Previous: m.c.Previous}, avoid...)
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
	choice.Drop = subnet.Leftovers(records, held.Lease.Holder, choice.Key)
	return choice, nil
}
