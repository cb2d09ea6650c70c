package etcd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/hostgw/hostgw/store/internal/record"
	"github.com/hostgw/hostgw/subnet"
)

// Store is a network in etcd. It is a hostgw.SubnetStore and a
// hostgw.LeaseWatcher.
type Store struct {
	layout
	kv    pb.KVClient
	lease pb.LeaseClient
	watch pb.WatchClient
	left  leftovers
	known knownConfig

	calls patience // of all calls but those of a stream
}

const (
	// callTimeout bounds each call to etcd, so that a server that accepts calls
	// and never answers them is an outage like others. See patience.
	callTimeout = 10 * time.Second

	// retryDelay is how long a watch or a keep-alive waits before it tries again
	// what failed. A store that is back must be noticed well within a second.
	retryDelay = 250 * time.Millisecond

	// refusedDelay is the same for what etcd refuses this user. It takes an operator
	// to change that, and each try may be a log-in, which etcd makes costly on purpose.
	// But who is let in again is to be there within a second.
	refusedDelay = 600 * time.Millisecond
)

// New returns the network stored under prefix, such as /coreos.com/network; the
// slashes around it may be missing. The client must have a connection of its own
// (from [Dial] or clientv3.New) and outlive the store. Its wrappers, such as
// package namespace's, are not used.
func New(client *clientv3.Client, prefix string) *Store {
	conn := client.ActiveConnection()
	return &Store{
		layout: newLayout(prefix),
		kv:     pb.NewKVClient(conn),
		lease:  pb.NewLeaseClient(conn),
		watch:  pb.NewWatchClient(conn),
	}
}

// callOptions are those clientv3 itself uses, but calls do not wait for a server
// that cannot be reached: they fail and say why.
func callOptions() []grpc.CallOption {
	return []grpc.CallOption{grpc.MaxCallRecvMsgSize(math.MaxInt32)}
}

// call makes one call to etcd. A member without a leader refuses it at once instead
// of letting it wait.
func (s *Store) call(parent context.Context, do func(context.Context) error) error {
	limit := s.calls.of(callTimeout)
	ctx, cancel := context.WithTimeoutCause(clientv3.WithRequireLeader(parent), limit, noAnswer(limit))
	defer cancel() // which also ends a stream
	began := time.Now()
	err := explain(ctx, parent, do(ctx))
	switch {
	case parent.Err() != nil:
	case ctx.Err() != nil:
		s.calls.lost()
	case err == nil && time.Since(began) < callTimeout:
		s.calls.answered()
	}
	return err
}

func noAnswer(within time.Duration) error { return fmt.Errorf("no answer within %v", within) }

// explain makes the error of a call what a person wants to read and errors.Is
// wants to see. ctx is the call's own, parent the caller's.
func explain(ctx, parent context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case parent.Err() != nil:
		return parent.Err()
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	if known, ok := errors.AsType[rpctypes.EtcdError](rpctypes.Error(err)); ok {
		return known
	}
	return errors.New(unframed(rpctypes.ErrorDesc(err)))
}

// refused reports whether err is about who asks, and not about the store.
func refused(err error) bool {
	return slices.ContainsFunc([]error{
		rpctypes.ErrPermissionDenied, rpctypes.ErrAuthFailed, rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision,
		rpctypes.ErrUserEmpty, rpctypes.ErrUserNotFound, rpctypes.ErrRoleNotFound, rpctypes.ErrAuthNotEnabled,
	}, func(known error) bool { return errors.Is(err, known) })
}

// unframed returns the innermost of what gRPC wraps a connection's error in:
// connection error: desc = "transport: Error while dialing: dial tcp …".
func unframed(text string) string {
	if _, rest, ok := strings.Cut(text, `desc = "`); ok {
		text = strings.TrimSuffix(rest, `"`)
	}
	for _, frame := range []string{"transport: ", "Error while dialing: "} {
		text = strings.TrimPrefix(text, frame)
	}
	return text
}

func (s *Store) txn(ctx context.Context, req *pb.TxnRequest) (resp *pb.TxnResponse, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		resp, err = s.kv.Txn(ctx, req, callOptions()...)
		return err
	})
	return resp, err
}

func (s *Store) get(ctx context.Context, at span) (resp *pb.RangeResponse, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		resp, err = s.kv.Range(ctx, at.request(), callOptions()...)
		return err
	})
	return resp, err
}

// Snapshot reads config and leases with one call.
func (s *Store) Snapshot(ctx context.Context) (subnet.Snapshot, error) {
	sn, err := s.read(ctx)
	if err != nil {
		return subnet.Snapshot{}, fmt.Errorf("reading the leases under %s from etcd: %w", s.prefix, err)
	}
	return *sn, nil
}

func (s *Store) read(ctx context.Context) (*subnet.Snapshot, error) {
	resp, err := s.get(ctx, s.all())
	if err != nil {
		return nil, err
	}
	return s.snapshot(resp.Kvs, resp.Header.Revision), nil
}

// snapshot sorts what a range of all() returned.
func (s *Store) snapshot(kvs []*mvccpb.KeyValue, revision int64) *subnet.Snapshot {
	sn := &subnet.Snapshot{
		Config:   record.ParseConfig(nil, 0),
		Records:  make([]subnet.Record, 0, len(kvs)),
		Revision: revision,
	}
	for _, kv := range kvs {
		if name, ok := s.leaseName(kv.Key); ok {
			sn.Records = append(sn.Records, s.record(name, kv))
		} else if s.isConfig(kv.Key) {
			sn.Config = s.known.know(kv)
		}
	}
	return sn
}

// What transactions are made of.

func (at span) request() *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte(at.key), RangeEnd: []byte(at.end)}
}

func opGet(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func opPut(key string, value []byte, lease int64) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{
		Key: []byte(key), Value: value, Lease: lease,
	}}}
}

func opDelete(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{
		Key: []byte(key),
	}}}
}

// ifModified holds if key was last written at revision; zero means that it does
// not exist.
func ifModified(key string, revision int64) *pb.Compare {
	return &pb.Compare{
		Key: []byte(key), Target: pb.Compare_MOD, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_ModRevision{ModRevision: revision},
	}
}

// ifOn holds if key is on that etcd lease; zero is none.
func ifOn(key string, lease int64) *pb.Compare {
	return &pb.Compare{
		Key: []byte(key), Target: pb.Compare_LEASE, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_Lease{Lease: lease},
	}
}

// ifNoneCreatedAfter holds if no key that is in the span now was created after
// revision.
func ifNoneCreatedAfter(at span, revision int64) *pb.Compare {
	return &pb.Compare{
		Key: []byte(at.key), RangeEnd: []byte(at.end), Target: pb.Compare_CREATE, Result: pb.Compare_LESS,
		TargetUnion: &pb.Compare_CreateRevision{CreateRevision: revision + 1},
	}
}

// ifNoneAfter holds if nothing in the span was written after revision.
func ifNoneAfter(at span, revision int64) *pb.Compare {
	return &pb.Compare{
		Key: []byte(at.key), RangeEnd: []byte(at.end), Target: pb.Compare_MOD, Result: pb.Compare_LESS,
		TargetUnion: &pb.Compare_ModRevision{ModRevision: revision + 1},
	}
}
