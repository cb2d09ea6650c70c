package etcd

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/hostgw/hostgw/subnet"
)

// Release gives a subnet back as hostgw.SubnetStore says, and ends the etcd lease
// that it was on.
func (s *Store) Release(ctx context.Context, r subnet.Record) error {
	if err := s.release(ctx, r); err != nil {
		return fmt.Errorf("releasing %s in etcd: %w", r.Name, err)
	}
	return nil
}

func (s *Store) release(ctx context.Context, r subnet.Record) error {
	for gone := false; !gone; {
		resp, err := s.get(ctx, span{key: s.layout.lease(r.Name)})
		if err != nil {
			return err
		}
		if len(resp.Kvs) == 0 {
			break
		}
		kv := resp.Kvs[0]
		now := s.record(r.Name, kv)
		if now.Err != nil || !now.Lease.Holder.Same(r.Lease.Holder) {
			break
		}
		ops := []*pb.RequestOp{opDelete(s.user(r.Name))}
		if !now.Reserved() {
			ops = append(ops, opDelete(s.layout.lease(r.Name)))
		}
		txn, err := s.txn(ctx, &pb.TxnRequest{
			Compare: []*pb.Compare{ifModified(string(kv.Key), kv.ModRevision)},
			Success: ops,
		})
		if err != nil {
			return err
		}
		gone = txn.Succeeded
	}
	if r.Reserved() {
		return nil
	}
	return s.end(ctx, r.Token)
}
