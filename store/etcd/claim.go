package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/hostgw/hostgw/store/internal/record"
	"github.com/hostgw/hostgw/subnet"
)

// maxDrop keeps a claim's transaction within the 128 operations that etcd
// allows by default.
const maxDrop = 60

// Claim writes a lease as hostgw.SubnetStore says. It takes two calls, however
// many leases there are: one for the etcd lease, granted or kept alive, and one
// transaction; and a few more if it loses a race or drops something.
//
// That no two subnets overlap needs no look at the other leases here: all who
// write under one revision of the config cut the same subnets, which are equal or
// disjoint, and have seen those cut under earlier ones. So the transaction
// compares the config and that the one key is as it was. The exception
// is a careful claim (subnet.Claim.Seen): it reads the leases once more, compares that
// none was created since, and writes the config anew, so that all others under way
// fail.
//
// A key is as it was if its revision and its etcd lease are: after a wipe or a restore
// the revision can be another node's write.
func (s *Store) Claim(ctx context.Context, c subnet.Claim) (subnet.Record, error) {
	name, value, err := record.Encode(c.Lease)
	if err != nil {
		return subnet.Record{}, err
	}
	if err := record.CheckClaim(c); err != nil {
		return subnet.Record{}, err
	}
	if len(c.Drop) > maxDrop {
		return subnet.Record{}, fmt.Errorf("claiming %s: cannot drop %d leases in one step, at most %d", name, len(c.Drop), maxDrop)
	}
	r, err := s.claim(ctx, name, value, c)
	if err != nil {
		return subnet.Record{}, fmt.Errorf("claiming %s in etcd: %w", name, err)
	}
	s.sweep(ctx, r.Token)
	// What the dropped leases were on would only linger; should this fail, it
	// ends by itself.
	ended := map[int64]bool{0: true, r.Token: true}
	for _, d := range c.Drop {
		if !ended[d.Token] {
			ended[d.Token] = true
			_ = s.end(ctx, d.Token)
		}
	}
	return r, nil
}

func (s *Store) claim(ctx context.Context, name string, value []byte, c subnet.Claim) (subnet.Record, error) {
	r := subnet.Record{Name: name, Lease: c.Lease}
	config, err := s.configOf(ctx, c)
	if err != nil {
		return r, err
	}
	write, unused := true, false
	var seen int64
	switch held := c.Held; {
	case held == nil:
		if r.Token, unused, err = s.grant(ctx, c); err != nil {
			return r, conflictIfEnded(err)
		}
	default:
		seen, r.Created, r.Modified, r.Token = held.Modified, held.Created, held.Modified, held.Token
		_, before, err := record.Encode(held.Lease)
		write = err != nil || !bytes.Equal(before, value)
		if held.Reserved() {
			break
		}
		if _, err := s.renew(ctx, held.Token); err != nil {
			return r, conflictIfEnded(err)
		}
	}

	req := &pb.TxnRequest{Compare: []*pb.Compare{
		ifModified(s.config(), c.ConfigRevision),
		ifValue(s.config(), config.Value),
		ifModified(s.layout.lease(name), seen),
	}}
	if c.Held != nil {
		req.Compare = append(req.Compare, ifOn(s.layout.lease(name), r.Token))
	}
	if write {
		req.Success = append(req.Success, opPut(s.layout.lease(name), value, r.Token))
	}
	if c.Node.Instance != "" {
		req.Success = append(req.Success, opPut(s.user(name), encodeUser(c.Node), r.Token))
	}
	if careful(c) {
		req.Success = append(req.Success, opPut(s.config(), config.Value, config.Lease))
	}
	for _, d := range c.Drop {
		req.Compare = append(req.Compare, ifModified(s.layout.lease(d.Name), d.Modified), ifOn(s.layout.lease(d.Name), d.Token))
		req.Success = append(req.Success, opDelete(s.layout.lease(d.Name)), opDelete(s.user(d.Name)))
	}
	revision, err := s.write(ctx, c, req)
	if err != nil {
		err = conflictIfEnded(err)
		if unused {
			// After a conflict the caller may find the network full and not come back.
			if !errors.Is(err, subnet.ErrConflict) || s.revoke(ctx, r.Token) != nil {
				s.left.add(r.Token)
			}
		}
		return r, err
	}
	if write {
		r.Modified = revision
		if seen == 0 {
			r.Created = r.Modified
		}
	}
	return r, nil
}

func careful(c subnet.Claim) bool { return c.Held == nil && c.Seen != 0 }

// write makes the transaction of a claim, and returns its revision.
//
// A careful one looks again first. Its handle has been granted by now: if the server
// was wiped before that, so that c.Seen is of another history, then it is seen here
// what is there; and if it is wiped after that, then the handle has ended, and the
// transaction fails.
func (s *Store) write(ctx context.Context, c subnet.Claim, req *pb.TxnRequest) (revision int64, err error) {
	if careful(c) {
		now, err := s.read(ctx)
		if err != nil {
			return 0, err
		}
		if err := record.CheckCareful(c, now.Records); err != nil {
			return 0, err
		}
		req.Compare = append(req.Compare, ifNoneCreatedAfter(s.leases(), now.Revision))
	}
	resp, err := s.txn(ctx, req)
	if err != nil {
		return 0, err
	}
	if !resp.Succeeded {
		return 0, subnet.ErrConflict
	}
	return resp.Header.Revision, nil
}

// conflictIfEnded makes a conflict of an etcd lease that ended under a claim: the
// key that was on it is gone too.
func conflictIfEnded(err error) error {
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("its etcd lease has ended: %w", subnet.ErrConflict)
	}
	return err
}
