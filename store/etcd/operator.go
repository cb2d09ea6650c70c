package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"

	"github.com/hostgw/hostgw/store/internal/record"
	"github.com/hostgw/hostgw/subnet"
)

// ErrNoLease says that there is no lease of that name.
var ErrNoLease = errors.New("no such lease")

// Listed is a lease as a person wants to see it.
type Listed struct {
	subnet.Record
	Left time.Duration // until it expires; zero for a reservation, and for one that has just expired
	User subnet.Node   // the process that claimed it last; zero if that was none of hostgw's
}

// List returns the network config and all leases with what is left of them, which
// costs one call for each: it is for people, and nothing a Manager needs.
func (s *Store) List(ctx context.Context) (subnet.NetworkConfig, []Listed, error) {
	resp, err := s.txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
		opGet(s.all().request()),
		opGet(s.users().request()),
	}})
	if err != nil {
		return subnet.NetworkConfig{}, nil, fmt.Errorf("listing the leases under %s in etcd: %w", s.prefix, err)
	}
	sn := s.snapshot(resp.Responses[0].GetResponseRange().Kvs, resp.Header.Revision)
	users := map[string]subnet.Node{}
	for _, kv := range resp.Responses[1].GetResponseRange().Kvs {
		users[string(kv.Key)] = decodeUser(kv.Value)
	}
	list := make([]Listed, len(sn.Records))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, r := range sn.Records {
		list[i] = Listed{Record: r, User: users[s.user(r.Name)]}
		if r.Reserved() {
			continue
		}
		g.Go(func() error {
			ttl, err := s.timeToLive(gctx, r.Token, false)
			if errors.Is(err, rpctypes.ErrLeaseNotFound) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("asking etcd for the time left of %s: %w", r.Name, err)
			}
			list[i].Left = time.Duration(ttl.TTL) * time.Second
			return nil
		})
	}
	return sn.Config, list, g.Wait()
}

const reserveTries = 10

// Reserve stores a lease that never expires, for a node that may come later or is
// there already: if the holder has that very subnet leased, its lease becomes the
// reservation. It may be any subnet inside the network, also one that the config
// would not cut, but must not overlap another node's lease.
//
// On a busy network the store may be changed while it looks. Then it looks again, and
// fails with subnet.ErrConflict only after the tenth time.
func (s *Store) Reserve(ctx context.Context, l subnet.Lease) (subnet.Record, error) {
	name, value, err := record.Encode(l)
	if err != nil {
		return subnet.Record{}, err
	}
	var r subnet.Record
	for range reserveTries {
		if r, err = s.reserve(ctx, name, value, l); !errors.Is(err, subnet.ErrConflict) {
			break
		}
	}
	if err != nil {
		return subnet.Record{}, fmt.Errorf("reserving %s in etcd: %w", name, err)
	}
	return r, nil
}

func (s *Store) reserve(ctx context.Context, name string, value []byte, l subnet.Lease) (subnet.Record, error) {
	resp, err := s.get(ctx, s.all())
	if err != nil {
		return subnet.Record{}, err
	}
	sn := s.snapshot(resp.Kvs, resp.Header.Revision)
	if sn.Config.Err != nil {
		return subnet.Record{}, sn.Config.Err
	}
	if err := inside(sn.Config.Config, l.Key); err != nil {
		return subnet.Record{}, err
	}
	var held *subnet.Record
	for _, o := range sn.Records {
		switch {
		case !o.Takes(l.Key):
		case o.Name == name && o.Err == nil && o.Lease.Holder.Same(l.Holder):
			held = &o
		default:
			return subnet.Record{}, fmt.Errorf("it overlaps %s, which is taken", o.Name)
		}
	}
	req := &pb.TxnRequest{
		Compare: []*pb.Compare{
			ifModified(s.config(), sn.Config.Revision),
			ifNoneAfter(s.leases(), sn.Revision),
		},
		Success: []*pb.RequestOp{opPut(s.layout.lease(name), value, 0)},
	}
	r := subnet.Record{Name: name, Lease: l}
	if held != nil {
		// The range alone would not tell that it was deleted.
		req.Compare = append(req.Compare, ifModified(s.layout.lease(name), held.Modified))
		r.Created = held.Created
	}
	if c := sn.Config.Config; !c.Fits(l.Key) || !c.Paired(l.Key) {
		// A claim under way has chosen a subnet that does not exist yet, and
		// compares only that and the config. To make it look again, the config is
		// written anew, as it is.
		for _, kv := range resp.Kvs {
			if s.isConfig(kv.Key) {
				req.Success = append(req.Success, opPut(s.config(), kv.Value, kv.Lease))
			}
		}
	}
	txn, err := s.txn(ctx, req)
	if err == nil && !txn.Succeeded {
		err = subnet.ErrConflict
	}
	if err != nil {
		return subnet.Record{}, err
	}
	r.Modified = txn.Header.Revision
	if held == nil {
		r.Created = r.Modified
	} else if !held.Reserved() {
		_ = s.end(ctx, held.Token) // else it ends by itself
	}
	return r, nil
}

func inside(c subnet.Config, k subnet.Key) error {
	if k.IPv4.IsValid() && !c.IPv4.Contains(k.IPv4) {
		return fmt.Errorf("%v is not inside the network %v", k.IPv4, c.IPv4.Network)
	}
	if k.IPv6.IsValid() && !c.IPv6.Contains(k.IPv6) {
		return fmt.Errorf("%v is not inside the network %v", k.IPv6, c.IPv6.Network)
	}
	return nil
}

// ReleaseKey deletes the lease of that name, readable or not, reservation or not,
// whoever holds it, and ends the etcd lease it was on. A node that still runs will
// ask for its subnet again at once. It returns an error that wraps ErrNoLease if
// there is none.
func (s *Store) ReleaseKey(ctx context.Context, name string) error {
	resp, err := s.txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
		opGet(span{key: s.layout.lease(name)}.request()),
		opDelete(s.layout.lease(name)),
		opDelete(s.user(name)),
	}})
	if err == nil {
		if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) == 0 {
			err = ErrNoLease
		} else if kvs[0].Lease != 0 {
			err = s.end(ctx, kvs[0].Lease)
		}
	}
	if err != nil {
		return fmt.Errorf("releasing %q in etcd: %w", name, err)
	}
	return nil
}

// PutConfig stores the network config, whatever is there.
func (s *Store) PutConfig(ctx context.Context, c subnet.Config) error {
	_, err := s.putConfig(ctx, c, nil)
	return err
}

// InitConfig stores the network config unless there is one, readable or not, and
// reports whether it did.
func (s *Store) InitConfig(ctx context.Context, c subnet.Config) (bool, error) {
	return s.putConfig(ctx, c, []*pb.Compare{ifModified(s.config(), 0)})
}

func (s *Store) putConfig(ctx context.Context, c subnet.Config, provided []*pb.Compare) (bool, error) {
	c, err := c.Complete()
	if err != nil {
		return false, err
	}
	text, err := json.Marshal(c)
	if err != nil {
		return false, fmt.Errorf("encoding the network config: %w", err)
	}
	resp, err := s.txn(ctx, &pb.TxnRequest{
		Compare: provided,
		Success: []*pb.RequestOp{opPut(s.config(), text, 0)},
	})
	if err != nil {
		return false, fmt.Errorf("storing the network config at %s in etcd: %w", s.config(), err)
	}
	return resp.Succeeded, nil
}
