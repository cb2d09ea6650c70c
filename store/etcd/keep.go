package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"

	"github.com/hostgw/hostgw/store/internal/rival"
	"github.com/hostgw/hostgw/subnet"
)

// Keep keeps a lease alive as hostgw.SubnetStore says: at once, then at each third
// of its TTL, and for as long as etcd does not answer every quarter of a second, or
// somewhat less often if it refuses. Whether the lease has ended only etcd says, never this
// host's clock.
//
// It also watches the two keys of the lease, so that a deletion is noticed at
// once, whoever else watches, and a rival by what it writes to the user key. Keep
// answers each instance of a rival by writing its own name there, twice, so that the
// other side learns of this one. A process that has ended answers nothing: one that
// has not answered is not reported, and one that no longer does, when it is asked
// once a minute, has gone. Without a rival nothing is written.
//
// The lease is not confirmed while either cannot be done, renewing or watching.
func (s *Store) Keep(ctx context.Context, r subnet.Record, node subnet.Node, renewed func(subnet.Renewal)) error {
	if renewed == nil {
		renewed = func(subnet.Renewal) {}
	}
	k := &keeping{
		store: s, record: r, node: node, renewed: renewed,
		lookout: rival.Lookout{Self: node}, heard: make(chan struct{}, 1),
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return k.listen(gctx) })
	g.Go(func() error { return k.inquire(gctx) })
	if !r.Reserved() {
		g.Go(func() error { return k.renew(gctx) })
	}
	err := g.Wait()
	if k.abandoned {
		s.left.add(r.Token) // only now, as a sweep on the way would spare it
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("keeping %s in etcd: %w", r.Name, err)
	}
	return nil
}

// keeping is a Keep under way.
type keeping struct {
	store  *Store
	record subnet.Record
	node   subnet.Node
	heard  chan struct{} // the lookout has heard something

	mu        sync.Mutex // held while renewed is called
	renewed   func(subnet.Renewal)
	lookout   rival.Lookout
	rival     *subnet.Node  // as last told
	ttl       time.Duration // what etcd confirmed last
	confirmed time.Time
	failing   [2]error // of each part; nil if it works
	told      error    // the one that was told; nil if it was told that all is well
	abandoned bool     // the key is no longer on the handle, which may still be there
}

// part is one of the two things that Keep does.
type part int

const (
	renewing part = iota // not for a reservation
	listening
)

// note takes note of whether a part works, and tells if that is news.
func (k *keeping) note(ctx context.Context, p part, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil && ctx.Err() != nil {
		return
	}
	k.failing[p] = err
	switch {
	case err != nil:
		if k.told == nil {
			k.told = fmt.Errorf("keeping %s in etcd: %w", k.record.Name, err)
			k.tell()
		}
	case k.failing[renewing] != nil || k.failing[listening] != nil:
		// The other part still fails, and what was told still holds.
	case p == renewing || k.record.Reserved() || k.told != nil:
		k.told = nil
		k.tell()
	}
}

// tell reports how the lease is doing. k is locked.
func (k *keeping) tell() {
	l := subnet.Renewal{Err: k.told}
	if !k.confirmed.IsZero() {
		l.TTL = max(k.ttl-time.Since(k.confirmed), 0)
	} else if !k.record.Reserved() && k.told == nil {
		return // the first confirmation will tell
	}
	if k.rival != nil {
		l.Rival = new(*k.rival)
	}
	k.renewed(l)
}

// renew keeps the handle alive until ctx ends or etcd says that it has ended.
func (k *keeping) renew(ctx context.Context) error {
	for ctx.Err() == nil {
		ttl, err := k.store.renew(ctx, k.record.Token)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			// A member that has just become leader may not know the handle yet.
			if _, err = k.look(ctx); errors.Is(err, subnet.ErrLeaseLost) {
				return err
			}
			if err == nil {
				pause(ctx, nil)
				continue
			}
		}
		if err != nil {
			k.note(ctx, renewing, err)
			pause(ctx, err)
			continue
		}
		k.mu.Lock()
		k.ttl, k.confirmed = ttl, time.Now()
		k.mu.Unlock()
		k.note(ctx, renewing, nil)
		k.store.sweep(ctx, k.record.Token)
		timer := time.NewTimer(ttl / 3)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// listen looks at the two keys whenever they change, until ctx ends or the lease
// is lost.
func (k *keeping) listen(ctx context.Context) error {
	name := k.record.Name
	keys := []span{{key: k.store.layout.lease(name)}, {key: k.store.user(name)}}
	var p patience
	for ctx.Err() == nil {
		var seen int64
		look := func(ctx context.Context) (err error) {
			if seen, err = k.look(ctx); err == nil {
				k.note(ctx, listening, nil)
				if k.record.Reserved() {
					k.store.sweep(ctx, 0)
				}
			}
			return err
		}
		again := func(ctx context.Context, events []*mvccpb.Event) error {
			if events = after(events, seen); len(events) == 0 {
				return nil
			}
			err := look(ctx)
			if err == nil || errors.Is(err, subnet.ErrLeaseLost) {
				return err
			}
			// Reading may be refused while the watch goes on.
			if lost := k.judge(events); lost != nil {
				return lost
			}
			return err
		}
		err := k.store.follow(ctx, keys, &p, look, again)
		if errors.Is(err, subnet.ErrLeaseLost) {
			return err
		}
		k.mu.Lock()
		k.lookout.Missed()
		k.mu.Unlock()
		k.note(ctx, listening, err)
		pause(ctx, err)
	}
	return nil
}

// inquire looks at the keys when a rival is to be asked whether it is still there,
// until ctx ends or the lease is lost.
func (k *keeping) inquire(ctx context.Context) error {
	for ctx.Err() == nil {
		k.mu.Lock()
		due := k.lookout.Due()
		k.mu.Unlock()
		if due.IsZero() {
			select {
			case <-ctx.Done():
			case <-k.heard:
			}
			continue
		}
		timer := time.NewTimer(time.Until(due))
		select {
		case <-ctx.Done():
		case <-k.heard:
		case <-timer.C:
			_, err := k.look(ctx)
			if errors.Is(err, subnet.ErrLeaseLost) {
				return err
			}
			pause(ctx, err)
		}
		timer.Stop()
	}
	return nil
}

// look reads the two keys, and returns the revision that it saw. It returns
// ErrLeaseLost if the lease is not there as it was claimed.
func (k *keeping) look(ctx context.Context) (int64, error) {
	s, name := k.store, k.record.Name
	resp, err := s.txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
		opGet(span{key: s.layout.lease(name)}.request()),
		opGet(span{key: s.user(name)}.request()),
	}})
	if err != nil {
		return 0, err
	}
	lease, user := only(resp.Responses[0]), only(resp.Responses[1])
	if err := k.check(lease); err != nil {
		return 0, err
	}
	if !k.hear(user) {
		return resp.Header.Revision, nil
	}
	// If somebody was faster, there is an event to come; as there is of this.
	answer, err := s.txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{
			ifModified(s.layout.lease(name), lease.ModRevision),
			ifModified(s.user(name), user.GetModRevision()),
		},
		Success: []*pb.RequestOp{opPut(s.user(name), encodeUser(k.node), k.record.Token)},
	})
	if err != nil {
		return 0, err
	}
	if answer.Succeeded {
		k.mu.Lock()
		k.lookout.Spoke(time.Now())
		k.mu.Unlock()
	}
	return resp.Header.Revision, nil
}

// only returns the one key that was asked for; nil if it does not exist.
func only(r *pb.ResponseOp) *mvccpb.KeyValue {
	for _, kv := range r.GetResponseRange().Kvs {
		return kv
	}
	return nil
}

// judge is check by the events alone.
func (k *keeping) judge(events []*mvccpb.Event) error {
	for _, e := range latest(events) {
		if string(e.Kv.Key) != k.store.layout.lease(k.record.Name) {
			continue
		}
		if e.Type == mvccpb.Event_DELETE {
			return k.check(nil)
		}
		return k.check(e.Kv)
	}
	return nil
}

// check returns ErrLeaseLost if the lease, nil if it is gone, is not as it was
// claimed.
func (k *keeping) check(lease *mvccpb.KeyValue) error {
	if lease == nil || lease.Lease != k.record.Token {
		k.mu.Lock()
		k.abandoned = !k.record.Reserved()
		k.mu.Unlock()
		if lease == nil {
			return subnet.ErrLeaseLost
		}
		return fmt.Errorf("somebody else wrote it: %w", subnet.ErrLeaseLost)
	}
	if r := k.store.record(k.record.Name, lease); r.Err != nil || !r.Lease.Holder.Same(k.record.Lease.Holder) {
		return fmt.Errorf("it is another node's: %w", subnet.ErrLeaseLost)
	}
	return nil
}

// hear takes note of who wrote the user key last, tells of a rival that shows up or
// has gone, and reports whether to write the own name.
func (k *keeping) hear(user *mvccpb.KeyValue) (speak bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	speak = k.lookout.Hear(decodeUser(user.GetValue()), user.GetModRevision(), time.Now())
	now := k.lookout.Rival()
	if changed := (now == nil) != (k.rival == nil) || now != nil && *now != *k.rival; changed {
		k.rival = now
		k.tell()
	}
	select {
	case k.heard <- struct{}{}:
	default:
	}
	// The key goes with an etcd lease that this one is no longer on, when an operator
	// made a reservation of it.
	return speak || user == nil && k.node.Instance != ""
}
