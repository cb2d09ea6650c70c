package memory

import (
	"context"
	"slices"
	"time"

	"github.com/hostgw/hostgw/subnet"
)

// Watch tells what the server holds as hostgw.LeaseWatcher says. It returns only
// when ctx ends.
func (s *Store) Watch(ctx context.Context, deliver func(subnet.Update)) error {
	ear := s.listen("")
	defer s.leave(ear)

	var at position // zero before the first snapshot
	down := false
	for ctx.Err() == nil {
		f := s.Faults()
		if f.Err != nil {
			if !down {
				down = true
				deliver(subnet.Update{Err: f.Err})
			}
			wait(ctx, ear, 0)
			continue
		}
		u, next, due := s.server.since(at, s.takeRewind(), f.Events)
		if u.Snapshot != nil && f.Events > 0 {
			// It is as old as everything else when it arrives.
			if s.travel(ctx, f.Events) != nil {
				continue
			}
		}
		at = next
		if news := u.Snapshot != nil || u.Config != nil || len(u.Put)+len(u.Deleted) > 0; news || down {
			down = false
			deliver(u)
			continue
		}
		wait(ctx, ear, due)
	}
	return nil
}

// wait waits until ctx ends, ear hears something or, if d is positive, d is over.
func wait(ctx context.Context, ear *ear, d time.Duration) {
	var over <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-ctx.Done():
	case <-ear.wake:
	case <-over:
	}
}

// position is how far a watch has come.
type position struct {
	epoch    int
	revision int64
}

// since returns what happened after at, leaving out what happened less than late
// ago, and where that leads. due is how long it takes until more can be heard,
// zero if nothing is under way.
func (s *Server) since(at position, rewind int64, late time.Duration) (u subnet.Update, next position, due time.Duration) {
	s.lock()
	defer s.mu.Unlock()
	now := time.Now()
	if at.epoch == s.epoch && at.revision > 0 {
		at.revision = max(at.revision-rewind, 1)
	}
	if at.revision == 0 || at.epoch != s.epoch || at.revision < s.compacted {
		sn := s.snapshot()
		return subnet.Update{Snapshot: &sn, Revision: sn.Revision}, position{s.epoch, sn.Revision}, 0
	}
	first, _ := slices.BinarySearchFunc(s.log, at.revision+1, func(c change, r int64) int { return int(c.revision - r) })
	news := s.log[first:]
	next = position{s.epoch, s.revision}
	for i, c := range news {
		if wait := c.at.Add(late).Sub(now); wait > 0 {
			next.revision = at.revision
			if i > 0 {
				next.revision = news[i-1].revision
			}
			news, due = news[:i], wait
			break
		}
	}
	u = merge(news)
	u.Revision = next.revision
	return u, next, due
}

// merge makes one update of changes; the last one of a name counts.
func merge(changes []change) subnet.Update {
	var u subnet.Update
	last := make(map[string]int, len(changes))
	for i, c := range changes {
		last[c.name] = i
	}
	for i, c := range changes {
		switch {
		case c.config != nil:
			u.Config = new(*c.config)
		case last[c.name] != i:
		case c.put != nil:
			u.Put = append(u.Put, *c.put)
		default:
			u.Deleted = append(u.Deleted, c.name)
		}
	}
	return u
}
