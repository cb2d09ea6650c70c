package netns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostgw/hostgw/subnet"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
}

// segment makes a segment that ends with the test.
func segment(t *testing.T, hosts int, o SegmentOptions) *Segment {
	t.Helper()
	needRoot(t)
	s, err := NewSegment(hosts, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// network makes a segment of two hosts with a container each, and the routes
// between them that hostgwd would make.
func network(t *testing.T) *Segment {
	t.Helper()
	s := segment(t, 2, SegmentOptions{IPv6: true})
	env := func(v4, v6 string) subnet.Env {
		return subnet.Env{Subnet: netip.MustParsePrefix(v4), IPv6Subnet: netip.MustParsePrefix(v6), MTU: 1400}
	}
	envs := []subnet.Env{
		env("192.168.1.193/26", "fd99:0:0:1::1/64"),
		env("192.168.6.193/26", "fd99:0:0:2::1/64"),
	}
	for i, h := range s.Hosts {
		if _, err := h.AddContainer(envs[i]); err != nil {
			t.Fatal(err)
		}
		other := s.Hosts[1-i]
		if err := h.AddRoute(envs[1-i].Subnet, other.IPv4, "eth0"); err != nil {
			t.Fatal(err)
		}
		if err := h.AddRoute(envs[1-i].IPv6Subnet, other.IPv6, "eth0"); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func lines(routes []Route) []string {
	var l []string
	for _, r := range routes {
		l = append(l, r.String())
	}
	return l
}

func TestPingOnSegment(t *testing.T) {
	s := segment(t, 3, SegmentOptions{IPv6: true})
	for _, dst := range []netip.Addr{s.Hosts[2].IPv4, s.Hosts[2].IPv6} {
		r, err := s.Hosts[0].Ping(t.Context(), dst, PingOptions{Count: 2, Interval: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if r.Received() != 2 || r.TTL() != 64 {
			t.Errorf("ping %v: want 2 answers with ttl=64, got\n%v", dst, r)
		}
	}
}

func TestPingUnanswered(t *testing.T) {
	s := segment(t, 1, SegmentOptions{})
	h := s.Hosts[0]
	for _, tt := range []struct{ name, dst string }{
		{"nobody there", "172.17.42.99"},
		{"the router routes nowhere", "10.1.2.3"},
	} {
		r, err := h.Ping(t.Context(), netip.MustParseAddr(tt.dst), PingOptions{Count: 1, Timeout: 200 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if r.Received() != 0 || r.Replies[0].Err == nil || r.TTL() != -1 {
			t.Errorf("%s: got %v", tt.name, r)
		}
	}
	if err := h.DeleteRoute(netip.MustParsePrefix("0.0.0.0/0")); err != nil {
		t.Fatal(err)
	}
	r, err := h.Ping(t.Context(), netip.MustParseAddr("10.1.2.3"), PingOptions{Count: 1})
	if err != nil {
		t.Fatal(err)
	}
	if !errors.Is(r.Replies[0].Err, unix.ENETUNREACH) {
		t.Errorf("without a route: got %v, want the kernel's ENETUNREACH", r)
	}
}

func TestContainers(t *testing.T) {
	s := network(t)
	capture, err := s.Bridge.Capture()
	if err != nil {
		t.Fatal(err)
	}
	a, b := s.Hosts[0].Containers[0], s.Hosts[1].Containers[0]
	if want := netip.MustParseAddr("192.168.1.194"); a.IPv4 != want {
		t.Errorf("first container has %v, want %v", a.IPv4, want)
	}

	for _, tt := range []struct{ src, dst, gateway, host netip.Addr }{
		{a.IPv4, b.IPv4, netip.MustParseAddr("192.168.1.193"), s.Hosts[1].IPv4},
		{a.IPv6, b.IPv6, netip.MustParseAddr("fd99:0:0:1::1"), s.Hosts[1].IPv6},
	} {
		r, err := a.Ping(t.Context(), tt.dst, PingOptions{Count: 3, Interval: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if r.Received() != 3 || r.TTL() != 62 {
			t.Errorf("want 3 answers with ttl=62, got\n%v", r)
		}
		hops, err := a.Trace(t.Context(), tt.dst)
		if err != nil {
			t.Fatal(err)
		}
		var path []netip.Addr
		for _, h := range hops {
			path = append(path, h.Addr)
		}
		if want := []netip.Addr{tt.gateway, tt.host, tt.dst}; !slices.Equal(path, want) {
			t.Errorf("path to %v: got %v, want %v", tt.dst, path, want)
		}
	}

	seen, err := capture.Stop()
	if err != nil {
		t.Fatal(err)
	}
	// Three pings, and the traced hops two (it expires at host2) and three.
	for _, tt := range []struct{ src, dst netip.Addr }{{a.IPv4, b.IPv4}, {a.IPv6, b.IPv6}} {
		if n := seen.Count(tt.src, tt.dst, "icmp"); n != 5 {
			t.Errorf("%d plain echo requests from %v to %v on the segment, want 5:\n%v", n, tt.src, tt.dst, seen)
		}
		if n := seen.Count(tt.dst, tt.src, "icmp"); n != 4 {
			t.Errorf("%d plain echo replies from %v to %v on the segment, want 4:\n%v", n, tt.dst, tt.src, seen)
		}
	}
	if tunnels := seen.Encapsulated(); len(tunnels) > 0 {
		t.Errorf("encapsulated frames on the segment:\n%v", tunnels)
	}
}

// A capture must notice a tunnel, or "no packet was encapsulated" means nothing.
func TestCaptureSeesTunnel(t *testing.T) {
	s := segment(t, 2, SegmentOptions{})
	capture, err := s.Bridge.Capture()
	if err != nil {
		t.Fatal(err)
	}
	err = s.Hosts[0].Do(func() error {
		c, err := net.Dial("udp", netip.AddrPortFrom(s.Hosts[1].IPv4, 8472).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("vxlan"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// The answer to a ping comes after the frame.
	if r, err := s.Hosts[0].Ping(t.Context(), s.Hosts[1].IPv4, PingOptions{Count: 1}); err != nil || r.Received() != 1 {
		t.Fatal(r, err)
	}
	seen, err := capture.Stop()
	if err != nil {
		t.Fatal(err)
	}
	want := Flow{Src: s.Hosts[0].IPv4, Dst: s.Hosts[1].IPv4, Protocol: "udp", Port: 8472, Encapsulation: "vxlan"}
	if got := seen.Encapsulated(); len(got) != 1 || got[want] != 1 {
		t.Errorf("got %v, want one frame of %v", got, want)
	}
}

func TestRoutes(t *testing.T) {
	s := network(t)
	h := s.Hosts[0]
	routes, err := h.Routes()
	if err != nil {
		t.Fatal(err)
	}
	got := lines(routes)
	for _, want := range []string{
		"default via 172.17.42.1 dev eth0 proto static",
		"172.17.42.0/24 dev eth0 proto kernel scope link src 172.17.42.40",
		"192.168.1.192/26 dev docker0 proto kernel scope link src 192.168.1.193",
		"192.168.6.192/26 via 172.17.42.41 dev eth0 proto static",
		"fd99:0:0:2::/64 via fd00:17:42::41 dev eth0 proto static metric 1024 pref medium",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("no line %q in\n%s", want, strings.Join(got, "\n"))
		}
	}

	// The same as iproute2 prints, where there is one.
	ip, err := exec.LookPath("ip")
	if err != nil {
		return
	}
	var theirs []string
	for _, family := range []string{"-4", "-6"} {
		var out strings.Builder
		cmd := exec.CommandContext(t.Context(), ip, family, "route")
		cmd.Stdout = &out
		if err := h.Start(cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			theirs = append(theirs, strings.TrimSpace(line))
		}
	}
	if !slices.Equal(got, theirs) {
		t.Errorf("got\n%s\nip route says\n%s", strings.Join(got, "\n"), strings.Join(theirs, "\n"))
	}
}

func TestMonitorRoutes(t *testing.T) {
	s := network(t)
	h := s.Hosts[0]
	quiet, err := h.MonitorRoutes()
	if err != nil {
		t.Fatal(err)
	}
	if events, err := quiet.Stop(); err != nil || len(events) != 0 {
		t.Errorf("nothing happened, but the monitor says %v, %v", events, err)
	}

	m, err := h.MonitorRoutes()
	if err != nil {
		t.Fatal(err)
	}
	p := netip.MustParsePrefix("192.168.9.0/26")
	if err := h.AddRoute(p, s.Hosts[1].IPv4, "eth0"); err != nil {
		t.Fatal(err)
	}
	if err := h.DeleteRoute(p); err != nil {
		t.Fatal(err)
	}
	events, err := m.Stop()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range events {
		got = append(got, e.String())
	}
	line := "192.168.9.0/26 via 172.17.42.41 dev eth0 proto static"
	if want := []string{line, "Deleted " + line}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestProber(t *testing.T) {
	s := network(t)
	h := s.Hosts[0]
	for _, dst := range []netip.Addr{s.Hosts[1].Containers[0].IPv4, s.Hosts[1].Containers[0].IPv6} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		p, err := h.Containers[0].Probe(dst, time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.WaitAnswered(ctx, 50); err != nil {
			t.Fatal(err)
		}
		if r := p.Stop(); r.Sent < 50 || len(r.Lost) != 0 {
			t.Errorf("nothing happened, but: %v", r)
		}
	}

	// A route that is missing for a moment is a gap that must be seen.
	p, err := h.Containers[0].Probe(s.Hosts[1].Containers[0].IPv4, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	wait := func() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := p.WaitAnswered(ctx, 20); err != nil {
			t.Fatal(err)
		}
	}
	wait()
	peer := netip.MustParsePrefix("192.168.6.192/26")
	if err := h.DeleteRoute(peer); err != nil {
		t.Fatal(err)
	}
	lost, err := h.Containers[0].Ping(t.Context(), s.Hosts[1].Containers[0].IPv4, PingOptions{Count: 1, Timeout: 50 * time.Millisecond})
	if err != nil || lost.Received() != 0 {
		t.Fatal(lost, err)
	}
	if err := h.AddRoute(peer, s.Hosts[1].IPv4, "eth0"); err != nil {
		t.Fatal(err)
	}
	wait()
	if r := p.Stop(); len(r.Lost) == 0 || len(r.Lost) == r.Sent {
		t.Errorf("the route was away for a moment, but: %v", r)
	}
}

func TestLinkDown(t *testing.T) {
	s := segment(t, 2, SegmentOptions{})
	h := s.Hosts[0]
	if err := h.SetDown("eth0"); err != nil {
		t.Fatal(err)
	}
	if routes, err := h.Routes(); err != nil || len(routes) != 0 {
		t.Errorf("eth0 is down, but there are routes: %v, %v", lines(routes), err)
	}
	if err := h.SetUp("eth0"); err != nil {
		t.Fatal(err)
	}
	if err := h.WaitRunning("eth0"); err != nil {
		t.Fatal(err)
	}
	if err := h.AddDefaultRoutes("eth0"); err != nil {
		t.Fatal(err)
	}
	if r, err := h.Ping(t.Context(), s.Hosts[1].IPv4, PingOptions{Count: 1}); err != nil || r.Received() != 1 {
		t.Error(r, err)
	}
}

func TestStart(t *testing.T) {
	needRoot(t)
	n, err := New("start")
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			n.Close()
		}
	}()

	dir := t.TempDir()
	if err := n.Publish(dir, "start"); err != nil {
		t.Fatal(err)
	}
	published, err := os.Stat(filepath.Join(dir, "start"))
	if err != nil {
		t.Fatal(err)
	}

	cmd := exec.Command("sleep", "1000")
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	theirs, err := os.Stat(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "ns/net"))
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(published, theirs) {
		t.Error("the process is not in the namespace that was published")
	}
	ours, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if os.SameFile(published, ours) {
		t.Error("the test itself is in the namespace")
	}

	// Closing the namespace ends what runs in it and withdraws its name.
	closed = true
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Errorf("the process ended with %v, want SIGKILL", status)
	}
	if _, err := os.Lstat(filepath.Join(dir, "start")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the name is still there: %v", err)
	}
	if err := n.Start(exec.Command("true")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("starting in a closed namespace: %v", err)
	}
}

// Namespaces end with their last user: what a test leaves is gone.
func TestCloseRemovesInterfaces(t *testing.T) {
	needRoot(t)
	a, err := New("a")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := New("b")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.AddVeth("v0", b, "v1", 0), b.Close()); err != nil {
		t.Fatal(err)
	}
	// The kernel clears up in the background; the other end of the pair goes too.
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := a.index("v0")
		if err != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("v0 is still there: the closed namespace lives on")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestErrors(t *testing.T) {
	needRoot(t)
	n, err := New("errors")
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.Do(func() error { return net.ErrClosed }); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Do returned %v", err)
	}
	if err := n.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("Do returned nil for a function that did not return")
	}
	if err := n.Sysctl("net.ipv4.no_such_thing", "1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Sysctl returned %v", err)
	}
	if err := n.SetUp("eth0"); err == nil || !strings.Contains(err.Error(), "eth0 in errors") {
		t.Errorf("SetUp of an interface that is not there returned %v", err)
	}
	if _, err := NewSegment(1000, SegmentOptions{}); err == nil {
		t.Error("a segment of 1000 hosts has addresses for 200")
	}
}
