package simulation

import (
	"context"
	"slices"
	"time"

	"github.com/hostgw/hostgw/store/memory"
	"github.com/hostgw/hostgw/subnet"
)

// tap stands between a Manager and its store, and tells the ledger.
type tap struct {
	*memory.Store
	run *run
}

func (t *tap) lock() func() {
	l := t.run.host.c.ledger
	l.mu.Lock()
	return l.mu.Unlock
}

func (t *tap) Snapshot(ctx context.Context) (subnet.Snapshot, error) {
	asked := time.Now()
	sn, err := t.Store.Snapshot(ctx)
	if err == nil {
		defer t.lock()()
		t.run.last, t.run.asked = sn, asked
	}
	return sn, err
}

func (t *tap) Claim(ctx context.Context, c subnet.Claim) (subnet.Record, error) {
	type answer struct {
		record subnet.Record
		err    error
	}
	if c.Held == nil && len(c.Drop) == 0 {
		unlock := t.lock()
		t.run.absent = true
		unlock()
	}
	answered := make(chan answer, 1)
	under, abandon := context.WithCancel(context.WithoutCancel(ctx))
	t.run.flight.Go(func() {
		defer abandon()
		r, err := t.Store.Claim(under, c)
		answered <- answer{r, err}
	})
	var a answer
	select {
	case a = <-answered:
	case <-ctx.Done():
		unlock := t.lock()
		zombie := t.run.zombie
		unlock()
		if !zombie {
			abandon()
		}
		return subnet.Record{}, ctx.Err()
	}
	if a.err == nil {
		defer t.lock()()
		if !t.run.held {
			t.run.held, t.run.heldAt = true, time.Now()
		} else if a.record.Name != t.run.record.Name {
			t.run.moved = time.Now()
		}
		t.run.record = a.record
	}
	return a.record, a.err
}

func (t *tap) Watch(ctx context.Context, deliver func(subnet.Update)) error {
	return t.Store.Watch(ctx, func(u subnet.Update) {
		t.take(u)
		deliver(u)
	})
}

func (t *tap) take(u subnet.Update) {
	defer t.lock()()
	nc := u.Config
	if u.Snapshot != nil {
		nc = &u.Snapshot.Config
		if t.run.snapped.IsZero() {
			t.run.last = *u.Snapshot
		}
		t.run.snapped = time.Now()
	}
	if nc == nil || nc.Err != nil {
		return
	}
	t.run.current = nc.Config.Networks()
	if !t.run.held {
		t.run.networks = nil // nothing lives in an earlier one yet
	}
	for _, n := range t.run.current {
		if !slices.Contains(t.run.networks, n) {
			t.run.networks = append(t.run.networks, n)
		}
	}
}
