package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostgw/hostgw/examples/internal/blackhole"
	process "github.com/hostgw/hostgw/examples/internal/daemon"
	"github.com/hostgw/hostgw/examples/internal/netns"
	"github.com/hostgw/hostgw/examples/internal/status"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/subnet"
)

// asHostgwd makes this test program be hostgwd, so that no program need be built.
const asHostgwd = "THIS_TEST_IS_HOSTGWD"

func TestMain(m *testing.M) {
	if os.Getenv(asHostgwd) != "" {
		main()
	}
	os.Exit(m.Run())
}

// segment is real hosts on one wire, whose hostgwd are real processes.
type segment struct {
	*netns.Segment
	t   *testing.T
	dir string
}

func newSegment(t *testing.T, n int) *segment {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	s, err := netns.NewSegment(n, netns.SegmentOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &segment{s, t, t.TempDir()}
}

func (s *segment) start(host int, args ...string) *process.Process {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := process.Start(s.Hosts[host].Namespace, process.Options{
		Program: self, Dir: filepath.Join(s.dir, fmt.Sprint(host)), Args: args, Env: []string{asHostgwd + "=1"},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		p.Kill()
		if s.t.Failed() {
			s.t.Logf("host %d said:\n%s", host, p.Log())
		}
	})
	return p
}

func (s *segment) context() context.Context {
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	s.t.Cleanup(cancel)
	return ctx
}

// join waits until a hostgwd has joined.
func (s *segment) join(p *process.Process) subnet.Env {
	s.t.Helper()
	env, err := p.Env(s.context())
	if err != nil {
		s.t.Fatal(err)
	}
	if err := p.WaitLog(s.context(), "msg=ready"); err != nil {
		s.t.Fatal(err)
	}
	return env
}

// run runs a hostgwd command on a host to its end.
func (s *segment) run(host int, args ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	dir := filepath.Join(s.dir, fmt.Sprint(host))
	args = append(args, "-socket", filepath.Join(dir, "hostgwd.sock"))
	if !slices.Contains(args, "-subnet-file") {
		args = append(args, "-subnet-file", filepath.Join(dir, "subnet.env"))
	}
	cmd := exec.CommandContext(s.context(), self, args...)
	cmd.Env = append(os.Environ(), asHostgwd+"=1")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := s.Hosts[host].Start(cmd); err != nil {
		s.t.Fatal(err)
	}
	_ = cmd.Wait() // read from ProcessState
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// must runs a command that has to succeed, and returns what it prints.
func (s *segment) must(host int, args ...string) string {
	s.t.Helper()
	code, out, errs := s.run(host, args...)
	if code != exitOK {
		s.t.Fatalf("hostgwd %v on host %d: status %d\n%s%s", args, host, code, out, errs)
	}
	return out
}

func (s *segment) report(host int) (r status.Report) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(s.must(host, "status", "-o", "json")), &r); err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *segment) leases(host int) map[string]leaseRow {
	s.t.Helper()
	var rows []leaseRow
	if err := json.Unmarshal([]byte(s.must(host, "lease", "ls", "-o", "json")), &rows); err != nil {
		s.t.Fatal(err)
	}
	out := make(map[string]leaseRow)
	for _, r := range rows {
		out[r.Name] = r
	}
	return out
}

func (s *segment) routes(host int, protocol uint8) (list []string) {
	s.t.Helper()
	routes, err := s.Hosts[host].Routes()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range routes {
		if r.Protocol == protocol {
			list = append(list, r.String())
		}
	}
	return list
}

func (s *segment) url(host int) string { return "http://" + s.Hosts[host].IPv4.String() + ":2379" }

// begin starts a network on host 0, with an etcd of its own for the others.
func (s *segment) begin(args ...string) *process.Process {
	s.t.Helper()
	return s.start(0, append([]string{"-network", "192.168.0.0/16", "-subnet-len", "26",
		"-data-dir", filepath.Join(s.dir, "etcd"), "-listen-client-urls", s.url(0)}, args...)...)
}

func TestHostsJoinAndLeave(t *testing.T) {
	s := newSegment(t, 2)
	first := s.begin("-ip-masq", "-ip-blackhole-route")
	second := s.start(1, "-etcd-endpoints", s.url(0))
	env1, env2 := s.join(first), s.join(second)
	if !env1.IPMasq || env2.IPMasq || env1.MTU != 1500 || env1.Subnet.Bits() != 26 || env1.Network.String() != "192.168.0.0/16" {
		t.Errorf("subnet files %+v, %+v", env1, env2)
	}

	want := fmt.Sprintf("%v via %v dev eth0 proto 104", env2.Key().IPv4, s.Hosts[1].IPv4)
	eventually(t, "a route to the second host", func() bool { return slices.Equal(s.routes(0, netlinkx.DefaultProtocol), []string{want}) })
	hole := fmt.Sprintf("blackhole %v ", env1.Key().IPv4)
	eventually(t, "a blackhole", func() bool {
		r := s.routes(0, blackhole.Protocol)
		return len(r) == 1 && strings.HasPrefix(r[0], hole)
	})

	// What it says of itself.
	r := s.report(0)
	if !r.Ready || r.State != "held" || !r.Store.Embedded || !r.Store.Heard || len(r.Peers) != 1 || r.Peers[0].Name != env2.Key().String() || len(r.Problems) > 0 {
		t.Errorf("status %+v", r)
	}
	if out := s.must(1, "status"); !strings.Contains(out, env1.Key().IPv4.String()) || !strings.Contains(out, "installed") {
		t.Errorf("status of the second host:\n%s", out)
	}
	if out := s.must(1, "plan", "-etcd-endpoints", s.url(0)); !strings.Contains(out, "no route would change") || !strings.Contains(out, "is this host's, and stays") {
		t.Errorf("plan for a running host:\n%s", out)
	}

	// Leases, for operators.
	list := s.leases(1)
	one, two := list[env1.Key().String()], list[env2.Key().String()]
	if len(list) != 2 || one.Here != "installed" || two.Here != "own" || two.Seconds < 86000 || two.Holder[0] != s.Hosts[1].IPv4 {
		t.Errorf("leases %+v", list)
	}
	s.must(1, "lease", "reserve", "192.168.1.64/26", "-public-ip", "172.17.42.77")
	eventually(t, "a route to the reservation", func() bool { return len(s.routes(0, netlinkx.DefaultProtocol)) == 2 })
	if r := s.leases(0)["192.168.1.64-26"]; !r.Reserved || r.Seconds != 0 || r.Here != "installed" {
		t.Errorf("the reservation is listed as %+v", r)
	}
	if code, _, errs := s.run(1, "lease", "reserve", "192.168.1.64/26", "-public-ip", "172.17.42.78"); code != exitFailure || !strings.Contains(errs, "192.168.1.64-26") {
		t.Errorf("reserving what is taken: status %d, %s", code, errs)
	}
	var released []leaseRow
	out := s.must(1, "lease", "release", "192.168.1.64-26", "-o", "json")
	if err := json.Unmarshal([]byte(out), &released); err != nil || len(released) != 1 || released[0].Name != "192.168.1.64-26" || !released[0].Reserved {
		t.Errorf("the reservation is released as %s, %v", out, err)
	}
	eventually(t, "no route to the reservation", func() bool { return len(s.routes(0, netlinkx.DefaultProtocol)) == 1 })
	if code, out, errs := s.run(1, "lease", "release", "192.168.1.64-26", "-o", "json"); code != exitFailure || out != "" || !strings.Contains(errs, "no such lease") {
		t.Errorf("releasing what nobody holds: status %d, %s%s", code, out, errs)
	}

	// A second daemon on a host, and a cleanup under a daemon, are refused.
	if code, _, errs := s.run(1, "-etcd-endpoints", s.url(0)); code != exitInUse {
		t.Errorf("a second daemon: status %d, %s", code, errs)
	}
	if code, _, errs := s.run(1, "cleanup"); code != exitInUse {
		t.Errorf("cleanup under a daemon: status %d, %s", code, errs)
	}

	// It stops in order, leaves what containers need, and takes it up again.
	monitor, err := s.Hosts[1].MonitorRoutes()
	if err != nil {
		t.Fatal(err)
	}
	if code, err := second.Stop(); code != exitOK || err != nil {
		t.Fatalf("stopped with status %d, %v", code, err)
	}
	again := s.start(1, "-etcd-endpoints", s.url(0))
	if err := again.WaitLog(s.context(), "msg=ready"); err != nil {
		t.Fatal(err)
	}
	if env := s.join(again); env != env2 {
		t.Errorf("came back with %+v, had %+v", env, env2)
	}
	events, err := monitor.Stop()
	if err != nil || len(events) > 0 {
		t.Errorf("a restart touched routes: %v, %v", events, err)
	}
	if n := len(s.leases(1)); n != 2 {
		t.Errorf("%d leases after a restart", n)
	}
	if code, err := again.Stop(); code != exitOK || err != nil {
		t.Fatalf("stopped with status %d, %v", code, err)
	}

	// Leaving for good.
	out = s.must(1, "cleanup", "-release", "-etcd-endpoints", s.url(0))
	if !strings.Contains(out, "1 routes removed") || !strings.Contains(out, env2.Key().String()+" released") {
		t.Errorf("cleanup:\n%s", out)
	}
	if left := s.routes(1, netlinkx.DefaultProtocol); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := os.Stat(second.SubnetFile); !os.IsNotExist(err) {
		t.Errorf("the subnet file is left behind: %v", err)
	}
	eventually(t, "no route to the host that left", func() bool { return len(s.routes(0, netlinkx.DefaultProtocol)) == 0 })
	if code, err := first.Stop(); code != exitOK || err != nil {
		t.Fatalf("stopped with status %d, %v", code, err)
	}
	s.must(0, "cleanup")
	if left := s.routes(0, blackhole.Protocol); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// It waits, saying what for and saying it once, and joins when it is there.
func TestWaits(t *testing.T) {
	s := newSegment(t, 3)
	waiting := s.start(1, "-etcd-endpoints", s.url(0), "-etcd-prefix", "/other", "-healthz-port", "8080")
	if err := waiting.WaitLog(s.context(), `for="the store"`); err != nil {
		t.Fatal(err)
	}
	ready := func() string {
		var text string
		err := s.Hosts[1].Do(func() error {
			c, err := net.Dial("tcp", "127.0.0.1:8080")
			if err != nil {
				return err
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := io.WriteString(c, "GET /readyz HTTP/1.0\r\n\r\n"); err != nil {
				return err
			}
			b, err := io.ReadAll(c)
			text = string(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if r := ready(); !strings.Contains(r, fmt.Sprint(http.StatusServiceUnavailable)) || !strings.Contains(r, "the store") {
		t.Errorf("/readyz answers %s", r)
	}
	if out := s.must(1, "status"); !strings.Contains(out, "the store") {
		t.Errorf("status:\n%s", out)
	}
	s.join(s.begin())
	if err := waiting.WaitLog(s.context(), "nobody has written /other/config yet"); err != nil {
		t.Fatal(err)
	}
	// The flags of the third host write it: there is none yet.
	s.join(s.start(2, "-etcd-endpoints", s.url(0), "-etcd-prefix", "/other", "-network", "10.99.0.0/16"))
	if env := s.join(waiting); env.Network.String() != "10.99.0.0/16" {
		t.Errorf("joined %v", env.Network)
	}
	if r := ready(); !strings.Contains(r, fmt.Sprint(http.StatusOK)) {
		t.Errorf("/readyz answers %s", r)
	}
	if n := strings.Count(waiting.Log(), "msg=waiting"); n != 2 {
		t.Errorf("said %d times what it waits for, want twice", n)
	}

	// One that waits stops as well as any other.
	lonely := s.start(1, "-etcd-endpoints", "http://172.17.42.99:2379", "-route-protocol", "106", "-socket=", "-subnet-file", filepath.Join(s.dir, "lonely.env"))
	if err := lonely.WaitLog(s.context(), "msg=waiting"); err != nil {
		t.Fatal(err)
	}
	if code, err := lonely.Stop(); code != exitOK || err != nil {
		t.Errorf("stopped with status %d, %v", code, err)
	}
}

// The flags of an etcd of our own are followed when they change, and its data
// needs no flags to be started again.
func TestOwnEtcdComesBack(t *testing.T) {
	s := newSegment(t, 1)
	first := s.begin()
	env := s.join(first)
	if code, err := first.Stop(); code != exitOK || err != nil {
		t.Fatalf("stopped with status %d, %v", code, err)
	}
	if code, _, errs := s.run(0, "plan", "-data-dir", filepath.Join(s.dir, "etcd")); code != exitFailure || !strings.Contains(errs, "while hostgwd runs") {
		t.Errorf("plan: status %d, %s", code, errs)
	}
	second := s.start(0, "-data-dir", filepath.Join(s.dir, "etcd"))
	if err := second.WaitLog(s.context(), "msg=ready"); err != nil {
		t.Fatal(err)
	}
	if again := s.join(second); again != env {
		t.Errorf("came back with %+v, had %+v", again, env)
	}
	if code, err := second.Stop(); code != exitOK || err != nil {
		t.Fatalf("stopped with status %d, %v", code, err)
	}
	if code, _, errs := s.run(0, "-data-dir", filepath.Join(s.dir, "nothing")); code != exitUsage || !strings.Contains(errs, "-network") {
		t.Errorf("without anything: status %d, %s", code, errs)
	}
}

func TestBadInput(t *testing.T) {
	s := newSegment(t, 1)
	readOnly := filepath.Join(t.TempDir(), "ro")
	if err := os.Mkdir(readOnly, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", readOnly, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(readOnly, 0) })
	notPEM := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(notPEM, []byte("nonsense"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"-etcd-endpoints", s.url(0), "-iface", "eth7"}, exitUplink, "eth7"},
		{[]string{"-etcd-endpoints", s.url(0), "-iface", "10.9.9.9"}, exitUplink, "10.9.9.9"},
		{[]string{"-etcd-endpoints", s.url(0), "-iface-regex", "^nosuch"}, exitUplink, "^nosuch"},
		{[]string{"-etcd-endpoints", s.url(0), "-iface", "eth7", "-iface", "eth8"}, exitUplink, "eth8"},
		{[]string{"-etcd-endpoints", s.url(0), "-subnet-file", filepath.Join(readOnly, "subnet.env")}, exitSubnetFile, "read-only"},
		{[]string{"-etcd-endpoints", "https://" + s.Hosts[0].IPv4.String() + ":2379", "-etcd-cafile", "/nonexistent/ca.pem"}, exitUsage, "/nonexistent/ca.pem"},
		{[]string{"-etcd-endpoints", "https://" + s.Hosts[0].IPv4.String() + ":2379", "-etcd-cafile", notPEM}, exitUsage, notPEM},
		{[]string{"-etcd-endpoints", s.url(0), "-healthz-ip", "10.9.9.9", "-healthz-port", "80"}, exitFailure, "10.9.9.9"},
		{[]string{"-network", "10.0.0.0/8", "-data-dir", filepath.Join(notPEM, "x")}, exitFailure, "data directory"},
		{[]string{"-network", "10.0.0.0/8", "-data-dir", filepath.Join(s.dir, "d"), "-listen-client-urls", "http://10.9.9.9:2379"}, exitFailure, "10.9.9.9"},
		{[]string{"-network", "10.0.0.0/8", "-ipv6-network", "fd99::/48", "-data-dir", filepath.Join(s.dir, "e")}, exitUplink, "IPv6"},
	} {
		code, _, errs := s.run(0, c.args...)
		if code != c.status || !strings.Contains(errs, c.says) {
			t.Errorf("hostgwd %v: status %d, want %d, and %q in:\n%s", c.args, code, c.status, c.says, errs)
		}
	}
}

// takeWhileAsleep has a daemon sleep while its lease is released and a subnet, the
// same or one that overlaps it, is reserved for a host that does not exist.
func (s *segment) takeWhileAsleep(p *process.Process, own subnet.Key, taken string) {
	s.t.Helper()
	signal := func(sig syscall.Signal) {
		s.t.Helper()
		if err := syscall.Kill(p.PID(), sig); err != nil {
			s.t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	s.must(0, "lease", "release", own.String(), "-etcd-endpoints", s.url(0))
	s.must(0, "lease", "reserve", taken, "-public-ip", strangerIP, "-etcd-endpoints", s.url(0))
	signal(syscall.SIGCONT)
}

// strangerIP is an address on the segment that is nobody's.
const strangerIP = "172.17.42.77"

// A host that slept while another took its subnet stops, with a status of its own:
// its containers live on the subnet that it lost.
func TestSubnetLost(t *testing.T) {
	for name, taken := range map[string]func(own netip.Prefix) netip.Prefix{
		"equal":       func(own netip.Prefix) netip.Prefix { return own },
		"overlapping": func(own netip.Prefix) netip.Prefix { return netip.PrefixFrom(own.Addr(), own.Bits()-1).Masked() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSegment(t, 2)
			s.join(s.begin())
			p := s.start(1, "-etcd-endpoints", s.url(0))
			own := s.join(p).Key()
			key := subnet.Key{IPv4: taken(own.IPv4)}
			s.takeWhileAsleep(p, own, key.String())
			code, err := p.Wait(s.context())
			if err != nil || code != exitSubnetLost {
				t.Errorf("ended with status %d, %v", code, err)
			}
			want := fmt.Sprintf("%s of %v is now %s of %s", own, s.Hosts[1].IPv4, key, strangerIP)
			if !strings.Contains(p.Log(), want) {
				t.Errorf("does not say %q, what it lost and to whom", want)
			}
		})
	}
}

// With -move-on-loss it takes another subnet instead, and leaves nothing of its own
// in the way of who has the old one now.
func TestMoveOnLoss(t *testing.T) {
	s := newSegment(t, 2)
	s.join(s.begin())
	p := s.start(1, "-etcd-endpoints", s.url(0), "-move-on-loss", "-ip-blackhole-route")
	before := s.join(p)
	hole := func(k subnet.Key) string { return fmt.Sprintf("blackhole %v ", k.IPv4) }
	only := func(routes []string, prefix string) bool {
		return len(routes) == 1 && strings.HasPrefix(routes[0], prefix)
	}
	eventually(t, "a blackhole", func() bool { return only(s.routes(1, blackhole.Protocol), hole(before.Key())) })

	s.takeWhileAsleep(p, before.Key(), before.Key().String())
	var after subnet.Env
	eventually(t, "another subnet in the subnet file", func() bool {
		var err error
		after, err = p.Env(s.context())
		return err == nil && after.Key() != before.Key()
	})
	eventually(t, "the blackhole has moved", func() bool { return only(s.routes(1, blackhole.Protocol), hole(after.Key())) })
	via := func(k subnet.Key, gateway any) string {
		return fmt.Sprintf("%v via %v dev eth0 proto 104", k.IPv4, gateway)
	}
	eventually(t, "a route to the new subnet", func() bool {
		return slices.Contains(s.routes(0, netlinkx.DefaultProtocol), via(after.Key(), s.Hosts[1].IPv4))
	})
	eventually(t, "a route to the new holder of the old one", func() bool {
		return slices.Contains(s.routes(1, netlinkx.DefaultProtocol), via(before.Key(), strangerIP))
	})
	if !p.Running() {
		t.Error("it has ended")
	}
	r := s.report(1)
	if r.State != "held" || r.Lease.Name != after.Key().String() || len(r.Problems) > 0 {
		t.Errorf("status %+v", r)
	}
	if strings.Contains(p.Log(), "not ours") {
		t.Errorf("takes its own blackhole for somebody else's:\n%s", p.Log())
	}
}
