package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/examples/internal/netns"
	"github.com/hostgw/hostgw/examples/internal/setting"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/netlinkx/netlinktest"
	"github.com/hostgw/hostgw/store/memory"
	"github.com/hostgw/hostgw/subnet"
)

// host is a daemon on a fake kernel, leasing from a store in memory.
type host struct {
	*daemon
	kernel *netlinktest.Kernel

	mu       sync.Mutex
	notified []string
}

func newHost(t *testing.T, address string, args ...string) *host {
	t.Helper()
	args = append([]string{"-subnet-file", filepath.Join(t.TempDir(), "run", "subnet.env"), "-socket="}, args...)
	r, err := setting.Parse(args, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{kernel: netlinktest.New()}
	h.kernel.AddLink("eth0")
	h.kernel.SetUp("eth0", true)
	p := netip.MustParsePrefix(address)
	h.kernel.AddAddr("eth0", p)
	uplink := netlinkx.Uplink{Name: "eth0", Index: 2, MTU: 1500, Up: true, Running: true, Addrs: []netip.Prefix{p}, IPv4: p.Addr()}
	h.daemon = newDaemon(r.Values, slog.New(slog.DiscardHandler), build{"test", "none"})
	h.uplink = uplink
	h.notify = func(state string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.notified = append(h.notified, state)
	}
	return h
}

func (h *host) told(part string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Contains(strings.Join(h.notified, "\n"), part)
}

// start runs the daemon's Manager and its readiness until the test ends, and
// returns what Run returns.
func (h *host) start(t *testing.T, store hostgw.SubnetStore) <-chan error {
	t.Helper()
	p, err := netlinkx.NewProgrammer(func() netlinkx.Config {
		c := h.programmerConfig(h.uplink)
		c.Dial = h.kernel.Dial
		return c
	}())
	if err != nil {
		t.Fatal(err)
	}
	m, err := h.newManager(store, p)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	h.fail = cancel
	done := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		err := m.Run(ctx)
		if cause := context.Cause(ctx); err == nil && !errors.Is(cause, context.Canceled) {
			err = cause
		}
		done <- err
	})
	wg.Go(func() { _ = h.watchReadiness(ctx) })
	t.Cleanup(func() {
		cancel(nil)
		wg.Wait()
	})
	return done
}

func network(t *testing.T) subnet.Config {
	t.Helper()
	c, err := subnet.ParseConfig([]byte(`{"Network":"192.168.0.0/16","SubnetLen":26,"Backend":{"Type":"host-gw"}}`))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func get(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestReadiness(t *testing.T) {
	h := newHost(t, "172.17.42.40/24")
	web := h.health()
	if code, _ := get(t, web, "/healthz"); code != http.StatusOK {
		t.Errorf("/healthz is %d before the daemon joined", code)
	}
	h.wait("a test", "to begin")
	if code, body := get(t, web, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "a test: to begin") {
		t.Errorf("/readyz is %d %q before the daemon joined", code, body)
	}
	if r := h.report(); r.State != "waiting" || r.Waiting != "a test: to begin" || r.Ready {
		t.Errorf("reported %+v", r)
	}
	h.wait("", "")

	server := memory.NewServer()
	server.SetConfig(network(t))
	// A peer is there already: its route is part of the first set.
	peer := newHost(t, "172.17.42.41/24")
	peer.start(t, server.Client())
	eventually(t, "the peer is ready", peer.isReady)

	h.start(t, server.Client())
	eventually(t, "ready", h.isReady)
	if routes := h.kernel.RoutesOf(netlinkx.DefaultProtocol); len(routes) != 1 {
		t.Errorf("ready with routes %v, want the one to the peer", routes)
	}
	env, err := subnet.ReadEnv(h.set.SubnetFile)
	if err != nil {
		t.Fatal(err)
	}
	st, _ := h.managerStatus()
	if env.Key() != st.Joined.Lease.Key || env.MTU != 1500 || env.IPMasq {
		t.Errorf("the subnet file says %+v, the lease is %v", env, st.Joined.Lease.Key)
	}
	if code, body := get(t, web, "/readyz"); code != http.StatusOK {
		t.Errorf("/readyz is %d %q once ready", code, body)
	}
	code, body := get(t, web, "/metrics")
	if code != http.StatusOK || !strings.Contains(body, "hostgw_ready 1") || !strings.Contains(body, `hostgw_peers{state="installed"} 1`) {
		t.Errorf("/metrics is %d:\n%s", code, body)
	}
	eventually(t, "the service manager is told", func() bool { return h.told("READY=1\nSTATUS=subnet 192.168.") })
	if r := h.report(); r.State != "held" || !r.Ready || len(r.Peers) != 1 || r.Lease.Name != env.Key().String() {
		t.Errorf("reported %+v", r)
	}
}

// A host that starts again asks for the subnet in its subnet file.
func TestPreviousSubnet(t *testing.T) {
	h := newHost(t, "172.17.42.40/24")
	previous := subnet.Key{IPv4: netip.MustParsePrefix("192.168.77.64/26")}
	if err := subnet.WriteEnv(h.set.SubnetFile, subnet.NewEnv(network(t), previous, 1500, false)); err != nil {
		t.Fatal(err)
	}
	h.start(t, memory.New(network(t)))
	eventually(t, "ready", h.isReady)
	if st, _ := h.managerStatus(); st.Joined.Lease.Key != previous {
		t.Errorf("leased %v, want %v", st.Joined.Lease.Key, previous)
	}

	broken := filepath.Join(t.TempDir(), "subnet.env")
	if err := os.WriteFile(broken, []byte("FLANNEL_SUBNET=nonsense\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	if k := previousSubnet(broken, slog.New(slog.NewTextHandler(&said, nil))); k != (subnet.Key{}) || !strings.Contains(said.String(), "nonsense") {
		t.Errorf("from a broken file: %v, and said %q", k, said.String())
	}
}

// A network that is widened is in the subnet file at once, without a restart.
func TestNetworkWidened(t *testing.T) {
	server := memory.NewServer()
	server.SetConfig(network(t))
	h := newHost(t, "172.17.42.40/24")
	h.start(t, server.Client())
	eventually(t, "ready", h.isReady)
	before, err := subnet.ReadEnv(h.set.SubnetFile)
	if err != nil {
		t.Fatal(err)
	}
	wider, err := subnet.ParseConfig([]byte(`{"Network":"192.0.0.0/8","SubnetLen":26,"Backend":{"Type":"host-gw"}}`))
	if err != nil {
		t.Fatal(err)
	}
	server.SetConfig(wider)
	eventually(t, "the wider network in the subnet file", func() bool {
		now, err := subnet.ReadEnv(h.set.SubnetFile)
		return err == nil && now.Network == wider.IPv4.Network && now.Subnet == before.Subnet
	})
}

// If the container engine cannot be told, the daemon stops, and says so by its
// exit status.
func TestSubnetFileThatCannotBeWrittenAnyMore(t *testing.T) {
	h := newHost(t, "172.17.42.40/24")
	// What checkSubnetFile finds in order at the start may be gone later.
	if err := os.WriteFile(filepath.Dir(h.set.SubnetFile), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	err := <-h.start(t, memory.New(network(t)))
	if exitStatus(err) != exitSubnetFile || !strings.Contains(err.Error(), h.set.SubnetFile) {
		t.Errorf("stopped with %v, status %d", err, exitStatus(err))
	}
	if h.isReady() {
		t.Error("ready without a subnet file")
	}
}

func TestExitStatusOfAFullNetwork(t *testing.T) {
	c, err := subnet.ParseConfig([]byte(`{"Network":"10.0.0.0/28","SubnetLen":30,"Backend":{"Type":"host-gw"}}`))
	if err != nil {
		t.Fatal(err)
	}
	server := memory.NewServer()
	server.SetConfig(c)
	for i := range c.IPv4.Len() {
		h := newHost(t, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 17, 42, byte(i + 1)}), 24).String())
		h.start(t, server.Client())
		eventually(t, "ready", h.isReady)
	}
	h := newHost(t, "172.17.42.99/24")
	if err := <-h.start(t, server.Client()); exitStatus(err) != exitFull {
		t.Errorf("stopped with %v, status %d", err, exitStatus(err))
	}
}

func TestExitStatus(t *testing.T) {
	wrap := func(err error) error { return errors.Join(errors.New("besides"), err) }
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("anything"), 1},
		{classed{errUsage, io.EOF}, 2},
		{wrap(classed{errUplink, io.EOF}), 3},
		{classed{errSubnetFile, io.EOF}, 4},
		{wrap(&hostgw.SubnetLostError{}), 5},
		{wrap(&subnet.FullError{}), 6},
		{classed{errInUse, io.EOF}, 7},
	} {
		if got := exitStatus(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
		if _, ok := exits()[c.want]; !ok {
			t.Errorf("status %d is not documented", c.want)
		}
	}
}

func TestCheckSubnetFile(t *testing.T) {
	dir := t.TempDir()
	if err := checkSubnetFile(filepath.Join(dir, "new", "subnet.env")); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "new")); len(left) > 0 {
		t.Errorf("looking left %v behind", left)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Join(file, "subnet.env"), "/proc/nothing/subnet.env"} {
		if err := checkSubnetFile(path); exitStatus(err) != exitSubnetFile || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestHealthPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	h := newHost(t, "172.17.42.40/24", "-healthz-ip", "127.0.0.1", "-healthz-port", port)
	if err := h.serve(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "-healthz-port") {
		t.Errorf("%v", err)
	}
}

// A second daemon in one network namespace is refused, unless its routes carry
// another number.
func TestLockInstance(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	ns, err := netns.New("lock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	lock := func(protocol uint8) (unlock func(), err error) {
		_ = ns.Do(func() error {
			unlock, err = lockInstance(protocol)
			return nil
		})
		return unlock, err
	}

	unlock, err := lock(104)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 { // however often it is tried
		if _, err := lock(104); exitStatus(err) != exitInUse {
			t.Errorf("a second one: %v", err)
		}
	}
	unlockOther, err := lock(105)
	if err != nil {
		t.Errorf("another protocol: %v", err)
	}
	unlockOther()
	if elsewhere, err := lockInstance(104); err != nil {
		t.Errorf("another namespace: %v", err)
	} else {
		elsewhere()
	}
	unlock()
	again, err := lock(104)
	if err != nil {
		t.Fatalf("after the first ended: %v", err)
	}
	if _, err := lock(104); exitStatus(err) != exitInUse {
		t.Errorf("a second one again: %v", err)
	}
	again()
}
