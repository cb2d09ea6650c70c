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

	"github.com/hostgw/hostgw/subnet"
)

// Keep keeps a lease alive as hostgw.SubnetStore says: at once, then at each third
// of its TTL, and for as long as etcd does not answer every quarter of a second.
// Whether the lease has ended only etcd says, never this host's clock.
//
// It also watches the two keys of the lease, so that a deletion is noticed at
// once, whoever else watches, and a rival by what it writes to the user key. Keep
// answers each instance of a rival by writing its own name there once, so that the
// other side learns of this one; a process that has ended answers nothing. A
// rival, once seen, is reported for as long as Keep runs.
func (s *Store) Keep(ctx context.Context, r subnet.Record, node subnet.Node, renewed func(subnet.Renewal)) error {
	if renewed == nil {
		renewed = func(subnet.Renewal) {}
	}
	k := &keeping{store: s, record: r, node: node, renewed: renewed, answered: map[string]bool{}}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return k.listen(gctx) })
	if !r.Reserved() {
		g.Go(func() error { return k.renew(gctx) })
	}
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("keeping %s in etcd: %w", r.Name, err)
	}
	return nil
}

// keeping is a Keep under way.
type keeping struct {
	store    *Store
	record   subnet.Record
	node     subnet.Node
	answered map[string]bool // instances that have been shown our name

	mu        sync.Mutex // held while renewed is called
	renewed   func(subnet.Renewal)
	rival     *subnet.Node
	ttl       time.Duration // what etcd confirmed last
	confirmed time.Time
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
			pause(ctx)
			continue
		}
		if err != nil {
			pause(ctx)
			continue
		}
		k.report(func() { k.ttl, k.confirmed = ttl, time.Now() })
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

// report notes a change and tells of it.
func (k *keeping) report(change func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change()
	l := subnet.Renewal{}
	if !k.record.Reserved() {
		if k.confirmed.IsZero() {
			return // the first confirmation will tell
		}
		l.TTL = max(k.ttl-time.Since(k.confirmed), 0)
	}
	if k.rival != nil {
		l.Rival = new(*k.rival)
	}
	k.renewed(l)
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
			if seen, err = k.look(ctx); err == nil && k.record.Reserved() {
				k.report(func() {})
			}
			return err
		}
		again := func(ctx context.Context, events []*mvccpb.Event) error {
			if len(after(events, seen)) == 0 {
				return nil
			}
			return look(ctx)
		}
		if err := k.store.follow(ctx, keys, &p, look, again); errors.Is(err, subnet.ErrLeaseLost) {
			return err
		}
		pause(ctx)
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
	lease, user := resp.Responses[0].GetResponseRange().Kvs, resp.Responses[1].GetResponseRange().Kvs
	switch {
	case len(lease) == 0:
		return 0, subnet.ErrLeaseLost
	case lease[0].Lease != k.record.Token:
		return 0, fmt.Errorf("somebody else wrote it: %w", subnet.ErrLeaseLost)
	}
	if r := s.record(name, lease[0]); r.Err != nil || !r.Lease.Holder.Same(k.record.Lease.Holder) {
		return 0, fmt.Errorf("it is another node's: %w", subnet.ErrLeaseLost)
	}
	if len(user) > 0 {
		if err := k.meet(ctx, user[0]); err != nil {
			return 0, err
		}
	} else if k.node.Instance != "" {
		// It went with an etcd lease that this one is no longer on, when an
		// operator made a reservation of it. Writing it is an event to come.
		_, err := s.txn(ctx, &pb.TxnRequest{
			Compare: []*pb.Compare{ifModified(s.layout.lease(name), lease[0].ModRevision), ifModified(s.user(name), 0)},
			Success: []*pb.RequestOp{opPut(s.user(name), encodeUser(k.node), k.record.Token)},
		})
		if err != nil {
			return 0, err
		}
	}
	return resp.Header.Revision, nil
}

// meet looks at who claimed the lease last, and answers a rival.
func (k *keeping) meet(ctx context.Context, user *mvccpb.KeyValue) error {
	rival := decodeUser(user.Value)
	if k.node.Instance == "" || rival.Instance == "" || rival.Instance == k.node.Instance {
		return nil
	}
	k.mu.Lock()
	known := k.rival != nil && *k.rival == rival
	answered := k.answered[rival.Instance]
	k.mu.Unlock()
	if !known {
		k.report(func() { k.rival = &rival })
	}
	if answered {
		return nil
	}
	name := string(user.Key)
	resp, err := k.store.txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{ifModified(name, user.ModRevision)},
		Success: []*pb.RequestOp{opPut(name, encodeUser(k.node), k.record.Token)},
	})
	if err != nil {
		return err
	}
	if resp.Succeeded {
		k.mu.Lock()
		k.answered[rival.Instance] = true
		k.mu.Unlock()
	}
	return nil // if somebody wrote it again, there is an event to come
}
