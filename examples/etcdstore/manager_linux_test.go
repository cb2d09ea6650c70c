package etcdstore

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/netlinkx/netlinktest"
	"github.com/hostgw/hostgw/store/etcd"
)

// manager is a whole Manager: with the real route programmer, on a kernel of its
// own, and a real etcd.
type manager struct {
	*hostgw.Manager
	t      *testing.T
	kernel *netlinktest.Kernel
	log    *journal
	done   chan error // gets what Run returns

	mu     sync.Mutex
	rivals []hostgw.RivalEvent
}

// manage has the i-th node join with the i-th subnet, until the test ends.
func manage(t *testing.T, i int, client etcd.ClientConfig, change ...func(*hostgw.Config)) *manager {
	t.Helper()
	m := &manager{t: t, kernel: netlinktest.New(), log: &journal{}, done: make(chan error, 1)}
	m.kernel.AddLink("eth0")
	m.kernel.SetUp("eth0", true)
	m.kernel.AddAddr("eth0", netip.PrefixFrom(address(i), 16))
	uplink, err := netlinkx.FindUplink(t.Context(), netlinkx.UplinkOptions{Name: "eth0", Dial: m.kernel.Dial})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(m.log)
	programmer, err := netlinkx.NewProgrammer(netlinkx.Config{Uplink: uplink, Dial: m.kernel.Dial, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	c := hostgw.Config{
		Store:      etcd.New(dial(t, client), prefix),
		Uplink:     uplink,
		Programmer: programmer,
		Node:       who(i),
		Previous:   key(i),
		Logger:     log,
		Observe:    m.observe,
	}
	for _, f := range change {
		f(&c)
	}
	if m.Manager, err = hostgw.New(c); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	go func() { m.done <- m.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-m.done; err != nil {
			t.Errorf("Run of %s: %v", c.Node.Name, err)
		}
		if t.Failed() {
			t.Logf("%s says:\n%s", c.Node.Name, m.log)
		}
	})
	joining, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := m.Lease(joining); err != nil {
		t.Fatal(err)
	}
	return m
}

// ttl is a change to a Manager's config.
func ttl(d time.Duration) func(*hostgw.Config) { return func(c *hostgw.Config) { c.TTL = d } }

func (m *manager) observe(e hostgw.Event) {
	if r, ok := e.(*hostgw.RivalEvent); ok {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.rivals = append(m.rivals, *r)
	}
}

// rivalsTold returns the names of the rivals that the Manager has told of.
func (m *manager) rivalsTold() (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.rivals {
		names = append(names, r.Rival.Name)
	}
	return names
}

// routes reports whether the kernel has a route to the i-th node.
func (m *manager) routes(i int) bool {
	return slices.ContainsFunc(m.kernel.RoutesOf(netlinkx.DefaultProtocol), func(r netlinktest.Route) bool {
		return r.Dst == key(i).IPv4 && r.Gateway == address(i)
	})
}

func (m *manager) held() bool { return m.Status().State == hostgw.StateHeld }

// heard reports whether the store can be heard.
func (m *manager) heard() bool { return m.Status().Store.Err == nil }

// awaits waits until the Manager is as it should be, and returns how long that took.
func (m *manager) awaits(what string, is func() bool) time.Duration {
	m.t.Helper()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		switch {
		case is():
			return time.Since(began)
		case len(m.done) > 0:
			m.t.Fatalf("Run has ended, while waiting until %s", what)
		case time.Since(began) > patience:
			m.t.Fatalf("waiting until %s for %v; status %+v", what, patience, m.Status())
		}
	}
}

// created returns the revision at which the i-th node's lease was created.
func created(t *testing.T, c *clientv3.Client, i int) int64 {
	t.Helper()
	got, err := c.Get(t.Context(), leaseKey(i))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) == 0 {
		return 0
	}
	return got.Kvs[0].CreateRevision
}

// enter writes the lease of the i-th node as if that had joined, for ever.
func enter(t *testing.T, c *clientv3.Client, i int) {
	t.Helper()
	value, err := holder(i).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	put(t, c, leaseKey(i), string(value))
}

// journal is a slog.Handler that keeps what is said at Info and above.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (j *journal) WithAttrs([]slog.Attr) slog.Handler           { return j }
func (j *journal) WithGroup(string) slog.Handler                { return j }
func (j *journal) Handle(_ context.Context, r slog.Record) error {
	line := r.Time.Format("05.000 ") + r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
	return nil
}

// count returns how many lines contain a part.
func (j *journal) count(part string) (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, l := range j.lines {
		if strings.Contains(l, part) {
			n++
		}
	}
	return n
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, "\n")
}
