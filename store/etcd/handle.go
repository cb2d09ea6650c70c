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
		if !errors.Is(err, rpctypes.ErrLeaseExist) {
			return id, true, err
		}
		unused, err := s.reuse(ctx, id, ttl, c)
		if errors.Is(err, errNotOurs) {
			continue
		}
		if err != nil {
			s.left.add(id)
		}
		return id, unused, err
	}
	id, err = s.grantID(ctx, 0, ttl) // whichever etcd chooses
	return id, true, err
}

var errNotOurs = errors.New("the etcd lease is in use")

// reuse makes a handle that exists already good for c, and reports whether it has
// no lease on it. It returns errNotOurs if it must be left alone.
func (s *Store) reuse(ctx context.Context, id, ttl int64, c subnet.Claim) (unused bool, err error) {
	on, err := s.leasesOn(ctx, id)
	switch {
	case errors.Is(err, rpctypes.ErrPermissionDenied), err == nil && !s.areDropped(on, c):
		return false, errNotOurs
	case err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound):
		return false, err
	case err == nil && len(on) > 0:
		// Its end may be near. What is dropped cannot go first, so its TTL stays as
		// it is.
		_, err := s.renew(ctx, id)
		return false, err
	}
	// It has nothing to keep alive, but perhaps another TTL; and an earlier claim that
	// was not answered may be about to put a key on it. That goes with it.
	if err := s.revoke(ctx, id); err != nil {
		return true, err
	}
	_, err = s.grantID(ctx, id, ttl)
	return true, err
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

func (s *Store) grantID(ctx context.Context, id, ttl int64) (int64, error) {
	s.left.remove(id) // it is to be used
	var granted int64
	err := s.call(ctx, func(ctx context.Context) error {
		resp, err := s.lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: ttl}, callOptions()...)
		granted = resp.GetID()
		return err
	})
	if err != nil {
		if id != 0 && !errors.Is(err, rpctypes.ErrLeaseExist) {
			s.left.add(id)
		}
		return id, err
	}
	return granted, nil
}

// revoke ends a handle; that it has ended already is no error.
func (s *Store) revoke(ctx context.Context, id int64) error {
	err := s.call(ctx, func(ctx context.Context) error {
		_, err := s.lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id}, callOptions()...)
		return err
	})
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return err
}

// leasesOn returns the names of the leases that a handle keeps alive. Keys of other
// networks are among them under their whole key; user keys are not: they keep nothing
// from ending.
func (s *Store) leasesOn(ctx context.Context, id int64) (names []string, err error) {
	resp, err := s.timeToLive(ctx, id, true)
	if err != nil {
		return nil, err
	}
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

func (s *Store) timeToLive(ctx context.Context, id int64, keys bool) (resp *pb.LeaseTimeToLiveResponse, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		resp, err = s.lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: keys}, callOptions()...)
		return err
	})
	if err == nil && resp.TTL < 0 {
		err = rpctypes.ErrLeaseNotFound
	}
	return resp, err
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
func (s *Store) renew(ctx context.Context, id int64) (time.Duration, error) {
	var ttl int64
	err := s.call(ctx, func(ctx context.Context) error {
		stream, err := s.lease.LeaseKeepAlive(ctx, callOptions()...)
		if err != nil {
			return err
		}
		// If sending fails, receiving tells why.
		_ = stream.Send(&pb.LeaseKeepAliveRequest{ID: id})
		resp, err := stream.Recv()
		ttl = resp.GetTTL()
		return err
	})
	if err == nil && ttl <= 0 {
		err = rpctypes.ErrLeaseNotFound
	}
	return time.Duration(ttl) * time.Second, err
}

// seconds rounds up to etcd's granularity.
func seconds(d time.Duration) int64 {
	return int64(math.Ceil(d.Seconds()))
}
