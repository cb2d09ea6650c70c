package etcd

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/hostgw/hostgw/subnet"
)

// A handle is the etcd lease that keeps a node's keys alive; its ID is the
// Token of the record.

// grant returns a handle for a key that c is about to create, and whether it was
// granted for that and has no lease on it yet.
//
// Its ID is the node's own, see leaseID. If it exists already, then either this
// process or an earlier one did not come to use it, or the lease that c moves
// away from is on it, or there is another lease of this node that c does not
// mention, or, by a chance of one in 2^63 for each pair of nodes, it is somebody
// else's. The last two must be left alone.
func (s *Store) grant(ctx context.Context, c subnet.Claim) (id int64, unused bool, err error) {
	ttl := seconds(c.TTL)
	for n := range 2 {
		id, err := s.grantID(ctx, s.leaseID(c.Lease.Holder, n), ttl)
		if errors.Is(err, rpctypes.ErrLeaseExist) {
			keys, kerr := s.leasesOn(ctx, id)
			switch {
			case errors.Is(kerr, rpctypes.ErrPermissionDenied), kerr == nil && !s.areDropped(keys, c):
				continue
			case kerr != nil && !errors.Is(kerr, rpctypes.ErrLeaseNotFound):
				return 0, false, kerr
			case kerr == nil && len(keys) > 0:
				// Its end may be near. What is dropped cannot go first, so the
				// TTL stays as it is.
				_, err := s.renew(ctx, id)
				return id, false, err
			}
			// It has nothing to keep alive, but perhaps another TTL.
			if err := s.revoke(ctx, id); err != nil {
				return 0, false, err
			}
			id, err = s.grantID(ctx, id, ttl)
		}
		return id, true, err
	}
	id, err = s.grantID(ctx, 0, ttl) // whichever etcd chooses
	return id, true, err
}

// areDropped reports whether all of these lease names are in c.Drop.
func (s *Store) areDropped(names []string, c subnet.Claim) bool {
	for _, name := range names {
		if !slices.ContainsFunc(c.Drop, func(r subnet.Record) bool { return r.Name == name }) {
			return false
		}
	}
	return true
}

func (s *Store) grantID(parent context.Context, id, ttl int64) (int64, error) {
	ctx, cancel := limit(parent)
	defer cancel()
	s.left.remove(id) // it is to be used
	resp, err := s.lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: ttl}, callOptions()...)
	if err != nil {
		if err = explain(ctx, parent, err); id != 0 && !errors.Is(err, rpctypes.ErrLeaseExist) {
			s.left.add(id)
		}
		return id, err
	}
	return resp.ID, nil
}

// revoke ends a handle; that it has ended already is no error.
func (s *Store) revoke(parent context.Context, id int64) error {
	ctx, cancel := limit(parent)
	defer cancel()
	_, err := s.lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id}, callOptions()...)
	if err = explain(ctx, parent, err); errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return err
}

// leasesOn returns the names of the leases that a handle keeps alive. Keys of
// other networks are among them under their whole key; user keys are not: they
// keep nothing from ending.
func (s *Store) leasesOn(parent context.Context, id int64) ([]string, error) {
	resp, err := s.timeToLive(parent, id, true)
	if err != nil {
		return nil, err
	}
	var names []string
	users := s.users()
	for _, key := range resp.Keys {
		if name, ok := s.leaseName(key); ok {
			names = append(names, name)
		} else if string(key) < users.key || string(key) >= users.end {
			names = append(names, string(key))
		}
	}
	return names, nil
}

func (s *Store) timeToLive(parent context.Context, id int64, keys bool) (*pb.LeaseTimeToLiveResponse, error) {
	ctx, cancel := limit(parent)
	defer cancel()
	resp, err := s.lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: keys}, callOptions()...)
	if err = explain(ctx, parent, err); err != nil {
		return nil, err
	}
	if resp.TTL < 0 {
		return nil, rpctypes.ErrLeaseNotFound
	}
	return resp, nil
}

// end revokes a handle unless some lease is still on it.
func (s *Store) end(ctx context.Context, id int64) error {
	names, err := s.leasesOn(ctx, id)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	if err != nil || len(names) > 0 {
		return err
	}
	return s.revoke(ctx, id)
}

// renew gives a handle its whole time to live again, and returns that. It fails
// with ErrLeaseNotFound if the handle has ended.
func (s *Store) renew(parent context.Context, id int64) (time.Duration, error) {
	ctx, cancel := limit(parent)
	defer cancel() // which also ends the stream
	resp, err := s.keepAlive(ctx, id)
	if err != nil {
		return 0, explain(ctx, parent, err)
	}
	if resp.TTL <= 0 {
		return 0, rpctypes.ErrLeaseNotFound
	}
	return time.Duration(resp.TTL) * time.Second, nil
}

func (s *Store) keepAlive(ctx context.Context, id int64) (*pb.LeaseKeepAliveResponse, error) {
	stream, err := s.lease.LeaseKeepAlive(ctx, callOptions()...)
	if err != nil {
		return nil, err
	}
	// If sending fails, receiving tells why.
	_ = stream.Send(&pb.LeaseKeepAliveRequest{ID: id})
	return stream.Recv()
}

// seconds rounds up to etcd's granularity.
func seconds(d time.Duration) int64 {
	return int64(math.Ceil(d.Seconds()))
}
