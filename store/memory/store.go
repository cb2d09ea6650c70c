package memory

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hostgw/hostgw/store/internal/record"
	"github.com/hostgw/hostgw/store/internal/rival"
	"github.com/hostgw/hostgw/subnet"
)

// Store is one node's client of a [Server]. It is a hostgw.SubnetStore and a
// hostgw.LeaseWatcher.
type Store struct {
	server *Server

	mu     sync.Mutex
	faults Faults
	rewind int64 // how many revisions the watch goes over again
	ears   []*ear
}

// New returns the store of a single node, holding the network config c and no
// leases. What is zero in c is filled in, see [subnet.Config.Complete]. A config that breaks a rule is stored as one that cannot be read, and
// whoever reads it is told which rule.
func New(c subnet.Config) *Store {
	s := NewServer()
	s.SetConfig(c)
	return s.Client()
}

// Client returns another node's way to the server, without faults.
func (s *Server) Client() *Store { return &Store{server: s} }

// Server returns what the store is a client of.
func (s *Store) Server() *Server { return s.server }

// Snapshot reads everything as of now. The records are ordered by name.
func (s *Store) Snapshot(ctx context.Context) (subnet.Snapshot, error) {
	var sn subnet.Snapshot
	err := s.call(ctx, func() (bool, error) {
		sn = s.server.Snapshot()
		return false, nil
	})
	if err != nil {
		return subnet.Snapshot{}, fmt.Errorf("reading the leases: %w", err)
	}
	return sn, nil
}

// Claim writes a lease as hostgw.SubnetStore says.
func (s *Store) Claim(ctx context.Context, c subnet.Claim) (subnet.Record, error) {
	name, value, err := record.Encode(c.Lease)
	if err != nil {
		return subnet.Record{}, err
	}
	if err := record.CheckClaim(c); err != nil {
		return subnet.Record{}, err
	}
	var r subnet.Record
	err = s.call(ctx, func() (wrote bool, err error) {
		r, wrote, err = s.server.claim(name, value, c)
		return wrote, err
	})
	if err != nil {
		return subnet.Record{}, fmt.Errorf("claiming %s: %w", name, err)
	}
	return r, nil
}

func (s *Server) claim(name string, value []byte, c subnet.Claim) (subnet.Record, bool, error) {
	s.lock()
	defer s.mu.Unlock()
	if s.config.Revision != c.ConfigRevision || c.Config != (subnet.Config{}) && s.config.Config != c.Config {
		return subnet.Record{}, false, fmt.Errorf("the config was written: %w", subnet.ErrConflict)
	}
	old := s.entry(name)
	switch {
	case c.Held == nil && old != nil:
		return subnet.Record{}, false, fmt.Errorf("it exists: %w", subnet.ErrConflict)
	case c.Held != nil && (old == nil || old.record.Modified != c.Held.Modified || old.record.Token != c.Held.Token):
		return subnet.Record{}, false, fmt.Errorf("it is not as it was: %w", subnet.ErrConflict)
	}
	careful := c.Held == nil && c.Seen != 0
	if careful {
		if err := record.CheckCareful(c, s.snapshot().Records); err != nil {
			return subnet.Record{}, false, err
		}
	}
	for _, d := range c.Drop {
		if e := s.entry(d.Name); e == nil || e.record.Modified != d.Modified || e.record.Token != d.Token {
			return subnet.Record{}, false, fmt.Errorf("%s is not as it was: %w", d.Name, subnet.ErrConflict)
		}
	}

	e := &entry{record: record.Parse(name, value), ttl: c.TTL}
	rewrite := true
	if old == nil {
		s.tokens++
		e.record.Token = s.tokens
	} else {
		e.record.Token, e.ttl, e.user, e.used = old.record.Token, old.ttl, old.user, old.used
		_, before, err := record.Encode(old.record.Lease)
		rewrite = err != nil || !slices.Equal(before, value)
	}
	if rewrite || len(c.Drop) > 0 {
		s.revision++
	}
	s.by, s.node = Claim, c.Node
	defer func() { s.by, s.node = Operator, subnet.Node{} }()
	for _, d := range c.Drop {
		s.delete(d.Name)
	}
	if careful {
		config := s.config
		config.Revision = s.revision
		s.config = config
		s.note(change{config: &config})
	}
	if rewrite {
		s.put(e)
	} else {
		e = old
		s.keep(e)
	}
	if c.Node.Instance != "" {
		s.use(e, c.Node)
	}
	return e.record, true, nil
}

// use notes who claims e, and tells those who keep it.
func (s *Server) use(e *entry, n subnet.Node) {
	s.uses++
	e.user, e.used = n, s.uses
	for _, o := range s.ears {
		if o.name == e.record.Name {
			o.ring()
		}
	}
}

// Release gives a subnet back as hostgw.SubnetStore says.
func (s *Store) Release(ctx context.Context, r subnet.Record) error {
	err := s.call(ctx, func() (bool, error) {
		s.server.release(r)
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("releasing %s: %w", r.Name, err)
	}
	return nil
}

func (s *Server) release(r subnet.Record) {
	s.lock()
	defer s.mu.Unlock()
	e := s.entry(r.Name)
	if e == nil || e.record.Err != nil || !e.record.Lease.Holder.Same(r.Lease.Holder) {
		return
	}
	if !e.expires() {
		e.user = subnet.Node{}
		return
	}
	s.revision++
	s.by = Release
	s.delete(r.Name)
	s.by = Operator
}

// Keep keeps a lease alive as hostgw.SubnetStore says: at a third of its time to
// live, and at once after an outage. A rival is one that has answered, and has gone
// when it no longer does, as it is asked once a minute.
func (s *Store) Keep(ctx context.Context, r subnet.Record, node subnet.Node, renewed func(subnet.Renewal)) error {
	if renewed == nil {
		renewed = func(subnet.Renewal) {}
	}
	ear := s.listen(r.Name)
	defer s.leave(ear)
	timer := time.NewTimer(0)
	defer timer.Stop()

	lookout := rival.Lookout{Self: node}
	var told subnet.Renewal // as last confirmed, and the error since
	var confirmed time.Time
	for {
		var ttl time.Duration
		err := s.call(ctx, func() (wrote bool, err error) {
			ttl, err = s.server.renew(r, &lookout)
			return false, err
		})
		now := time.Now()
		var again <-chan time.Time // nothing else than a change of the faults, or of the lease
		switch {
		case ctx.Err() != nil:
			return nil
		case err == subnet.ErrLeaseLost:
			return fmt.Errorf("keeping %s: %w", r.Name, err)
		case err != nil:
			lookout.Missed()
			if told.Err == nil {
				told.Err = fmt.Errorf("keeping %s: %w", r.Name, err)
				renewed(subnet.Renewal{TTL: max(told.TTL-now.Sub(confirmed), 0), Rival: lookout.Rival(), Err: told.Err})
			}
		default:
			l := subnet.Renewal{TTL: ttl, Rival: lookout.Rival()}
			due := confirmed.IsZero() || ttl > 0 && now.Sub(confirmed) >= ttl/3
			if due || told.Err != nil || !sameRival(l.Rival, told.Rival) {
				told, confirmed = l, now
				renewed(l)
			}
			next := lookout.Due()
			if renewal := confirmed.Add(max(ttl/3, time.Millisecond)); !r.Reserved() && (next.IsZero() || renewal.Before(next)) {
				next = renewal
			}
			if !next.IsZero() {
				timer.Reset(time.Until(next))
				again = timer.C
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ear.wake:
		case <-again:
		}
	}
}

func sameRival(a, b *subnet.Node) bool { return a == b || a != nil && b != nil && *a == *b }

// renew gives r its whole time to live again. It has the lookout hear who claimed it
// last, and speak.
func (s *Server) renew(r subnet.Record, l *rival.Lookout) (time.Duration, error) {
	s.lock()
	defer s.mu.Unlock()
	e := s.entry(r.Name)
	if e == nil || e.record.Err != nil || e.record.Token != r.Token || !e.record.Lease.Holder.Same(r.Lease.Holder) {
		return 0, subnet.ErrLeaseLost
	}
	s.keep(e)
	nobody := e.user == subnet.Node{} && l.Self.Instance != "" // an operator wrote it
	if now := time.Now(); l.Hear(e.user, e.used, now) || nobody {
		s.use(e, l.Self)
		l.Spoke(now)
	}
	return e.ttl, nil
}
