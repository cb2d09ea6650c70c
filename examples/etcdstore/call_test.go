package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/hostgw/hostgw/examples/internal/etcdtest"
	"github.com/hostgw/hostgw/store/etcd"
	"github.com/hostgw/hostgw/subnet"
)

// meter counts a client's calls by method, and can spoil them.
type meter struct {
	mu    sync.Mutex
	calls map[string]int
	// before and after, if not nil, may make a call fail without being made, or
	// after it was made.
	before, after func(method string) error
	// opening, if not nil, is called before a stream is opened.
	opening func(method string, cc *grpc.ClientConn)
	// password, if not empty, is the node's.
	password string
}

func (m *meter) count(method string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls[method[strings.LastIndex(method, "/")+1:]]++
}

// taken returns the counts since the last call of taken.
func (m *meter) taken() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	calls := m.calls
	m.calls = map[string]int{}
	return calls
}

func (m *meter) open(t *testing.T, endpoint string) *etcd.Store {
	t.Helper()
	m.calls = map[string]int{}
	call := func(f func(string) error, method string) error {
		if f == nil {
			return nil
		}
		return f(method)
	}
	user := ""
	if m.password != "" {
		user = "node"
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{endpoint},
		Username:  user,
		Password:  m.password,
		Logger:    zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				m.count(method)
				if err := call(m.before, method); err != nil {
					return err
				}
				if err := invoke(ctx, method, req, reply, cc, opts...); err != nil {
					return err
				}
				return call(m.after, method)
			}),
			grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				m.count(method)
				if m.opening != nil {
					m.opening(method, cc)
				}
				return stream(ctx, desc, cc, method, opts...)
			}),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return etcd.New(client, prefix)
}

// TestCalls shows that joining costs the same few calls whether there are ten
// leases or a thousand.
func TestCalls(t *testing.T) {
	server := etcdtest.Start(t, nil)
	network(t, server.Operator())
	counts := map[int]map[string]map[string]int{}
	filled := 0
	for _, n := range []int{10, 1000} {
		var ops []clientv3.Op
		for ; filled < n; filled++ {
			value, err := holder(filled).MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("%s/subnets/%v", prefix, key(filled)), string(value)))
		}
		for len(ops) > 0 {
			some := min(len(ops), 100)
			if _, err := server.Operator().Txn(t.Context()).Then(ops[:some]...).Commit(); err != nil {
				t.Fatal(err)
			}
			ops = ops[some:]
		}

		m := &meter{}
		store := m.open(t, server.Endpoint())
		got := map[string]map[string]int{}
		counts[n] = got
		r := take(t, store, 2000)
		got["join"] = m.taken()
		if again := take(t, store, 2000); again.Modified != r.Modified {
			t.Errorf("taking back wrote the key again")
		}
		got["restart"] = m.taken()

		ctx, cancel := context.WithCancel(t.Context())
		ready := make(chan struct{}, 10)
		var running sync.WaitGroup
		running.Go(func() {
			_ = store.Watch(ctx, func(subnet.Update) { ready <- struct{}{} })
		})
		running.Go(func() {
			_ = store.Keep(ctx, r, who(2000), func(subnet.Renewal) { ready <- struct{}{} })
		})
		for range 2 {
			select {
			case <-ready:
			case <-time.After(patience):
				t.Fatal("Watch or Keep does nothing")
			}
		}
		// Keep tells of its first renewal while it is still about to listen and look.
		for begin := time.Now(); ; {
			m.mu.Lock()
			open := m.calls["Watch"] == 2 && m.calls["Txn"] > 0
			m.mu.Unlock()
			if open {
				break
			}
			if time.Since(begin) > patience {
				t.Fatal("Keep does not look at its keys")
			}
			time.Sleep(time.Millisecond)
		}
		cancel()
		running.Wait()
		got["run"] = m.taken()
		if err := store.Release(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		got["release"] = m.taken()
	}
	want := map[string]map[string]int{
		"join":    {"Range": 1, "LeaseGrant": 1, "Txn": 1},
		"restart": {"Range": 1, "LeaseKeepAlive": 1, "Txn": 1},
		"run":     {"Range": 1, "Txn": 1, "Watch": 2, "LeaseKeepAlive": 1},
		"release": {"Range": 1, "Txn": 1, "LeaseTimeToLive": 1, "LeaseRevoke": 1},
	}
	for n, got := range counts {
		for what, calls := range want {
			if !maps.Equal(got[what], calls) {
				t.Errorf("with %d leases, %s takes %v, want %v", n, what, got[what], calls)
			}
		}
	}
}

// TestAnswerLost has the transaction's answer get lost: claiming again must find
// the lease, on the same etcd lease.
func TestAnswerLost(t *testing.T) {
	server := etcdtest.Start(t, nil)
	network(t, server.Operator())
	m := &meter{}
	store := m.open(t, server.Endpoint())
	m.after = func(method string) error {
		if strings.HasSuffix(method, "/Txn") {
			return errors.New("lost")
		}
		return nil
	}
	if _, err := try(t.Context(), store, 1); err == nil || errors.Is(err, subnet.ErrConflict) {
		t.Fatalf("the claim was not spoilt: %v", err)
	}
	m.after = nil
	sn, err := store.Snapshot(t.Context())
	if err != nil || len(sn.Records) != 1 {
		t.Fatalf("Snapshot: %v, %v", sn, err)
	}
	r := take(t, store, 1)
	if r.Modified != sn.Records[0].Modified || r.Token != sn.Records[0].Token {
		t.Errorf("claimed %+v again as %+v", sn.Records[0], r)
	}
	if ids := leasesOf(t, server.Operator()); len(ids) != 1 {
		t.Errorf("%d etcd leases for one lease", len(ids))
	}
}

// TestWipedWhileOpening wipes the server, and has it go on to higher revisions, at
// the very moment at which a watch and a keep are about to listen.
func TestWipedWhileOpening(t *testing.T) {
	server := etcdtest.Start(t, nil)
	network(t, server.Operator())
	near := open(t, server.Endpoint())
	take(t, near, 1)
	wipe := func(cc *grpc.ClientConn) {
		server.Wipe()
		network(t, server.Operator())
		for i := range 20 {
			put(t, server.Operator(), "/elsewhere", fmt.Sprint(i))
		}
		take(t, near, 2)
		for cc.GetState() != connectivity.Ready {
			cc.Connect()
			time.Sleep(time.Millisecond)
		}
	}
	once := func(m *meter) *etcd.Store {
		var wiped sync.Once
		m.opening = func(method string, cc *grpc.ClientConn) {
			if strings.HasSuffix(method, "/Watch") {
				wiped.Do(func() { wipe(cc) })
			}
		}
		return m.open(t, server.Endpoint())
	}
	l := listen(t, once(&meter{}))
	l.knows(t, named(2))

	r := take(t, near, 1)
	store := once(&meter{})
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() { ended <- store.Keep(ctx, r, who(1), nil) }()
	lost(t, ended)
}

// TestCarefulAcrossWipe makes a careful claim that was chosen before the server was
// wiped, when its revisions had come further than they have now.
func TestCarefulAcrossWipe(t *testing.T) {
	server := etcdtest.Start(t, nil)
	network(t, server.Operator())
	store := open(t, server.Endpoint())
	for range 20 {
		put(t, server.Operator(), "/elsewhere", "1")
	}
	sn, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server.Wipe()
	network(t, server.Operator())
	put(t, server.Operator(), prefix+"/subnets/10.0.1.128-25", `{"PublicIP":"172.16.0.9","PublicIPv6":null,"BackendType":"host-gw"}`)
	claim := func(i int) (subnet.Record, error) {
		return store.Claim(t.Context(), subnet.Claim{
			Lease:          subnet.Lease{Key: key(i), Holder: holder(1)},
			ConfigRevision: sn.Config.Revision,
			Config:         sn.Config.Config,
			Seen:           sn.Revision,
			TTL:            time.Hour,
			Node:           who(1),
		})
	}
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if r, err := claim(1); errors.Is(err, subnet.ErrConflict) {
			break
		} else if err == nil || time.Since(begin) > patience {
			t.Fatalf("claimed what overlaps: %+v, %v", r, err)
		}
	}
	if ids := leasesOf(t, server.Operator()); len(ids) != 0 {
		t.Errorf("a claim in vain leaves the etcd leases %v behind", ids)
	}
	if _, err := claim(2); err != nil {
		t.Error(err)
	}
}

// TestClaimsAnothers claims, and drops, what it remembers from before the server was
// wiped: by now it is another node's, at the same revision.
func TestClaimsAnothers(t *testing.T) {
	server := etcdtest.Start(t, nil)
	network(t, server.Operator())
	stale := take(t, open(t, server.Endpoint()), 1)
	server.Wipe()
	network(t, server.Operator())
	value, err := holder(9).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	put(t, server.Operator(), prefix+"/subnets/"+stale.Name, string(value))
	store := open(t, server.Endpoint())
	sn, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := subnet.Claim{
		Lease:          subnet.Lease{Key: key(2), Holder: holder(1)},
		ConfigRevision: sn.Config.Revision,
		TTL:            24 * time.Hour,
		Node:           who(1),
	}
	now, err := store.Claim(t.Context(), c) // on the same etcd lease as before
	if err != nil {
		t.Fatal(err)
	}
	if now.Token != stale.Token || sn.Records[0].Modified != stale.Modified {
		t.Fatalf("the server does not repeat itself: %+v was there, %+v is, and %+v", stale, sn, now)
	}
	c.Lease, c.Held = stale.Lease, &stale
	if r, err := store.Claim(t.Context(), c); !errors.Is(err, subnet.ErrConflict) {
		t.Errorf("took back another node's lease as %+v, %v", r, err)
	}
	c.Lease.Key, c.Held, c.Drop = key(3), nil, []subnet.Record{now, stale}
	if r, err := store.Claim(t.Context(), c); !errors.Is(err, subnet.ErrConflict) {
		t.Errorf("dropped another node's lease for %+v, %v", r, err)
	}
	after, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(after.Records) != 2 || after.Records[0].Lease.Holder.PublicIP != address(9) {
		t.Errorf("the leases are %+v", after.Records)
	}
}
