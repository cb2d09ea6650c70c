package filter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/hostgw/hostgw/examples/internal/netns"
	"golang.org/x/sys/unix"
)

const childVariable = "HOSTGW_FILTER_TEST"

// onHost runs the test in a process of its own whose network namespace is fresh
// and empty, so that Run and the settings below /proc/sys see a host that is
// nobody else's.
func onHost(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if os.Getenv(childVariable) == t.Name() {
		ip(t, "link set lo up")
		test(t)
		return
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), childVariable+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name()+" ")) {
		t.Fatalf("%v\n%s", err, out)
	}
	if testing.Verbose() {
		t.Logf("%s", out)
	}
}

func ip(t *testing.T, args string) { t.Helper(); command(t, "ip "+args) }

func command(t *testing.T, line string) string {
	t.Helper()
	args := strings.Fields(line)
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so after 10 s: %s", what)
		}
	}
}

// addresses are the places of the test network in one family: the host with its
// containers' subnet; its uplink; and beyond that, all in one namespace, an
// address outside the network and one of a peer's subnet.
type addresses struct {
	Family
	container, bridge  netip.Addr
	uplink, outside    netip.Addr
	refused            netip.Addr // outside too
	peer               netip.Addr
	peerSubnet         netip.Prefix
	foreign            netip.Addr // the host's, outside the network and not on the uplink
	group              netip.Addr // multicast
	hostBits, linkBits int
}

var (
	four = addresses{
		Family:    Family{netip.MustParsePrefix("10.5.0.0/16"), netip.MustParsePrefix("10.5.1.0/24")},
		container: netip.MustParseAddr("10.5.1.2"), bridge: netip.MustParseAddr("10.5.1.1"),
		uplink: netip.MustParseAddr("192.0.2.1"), outside: netip.MustParseAddr("192.0.2.9"),
		refused: netip.MustParseAddr("192.0.2.66"), peer: netip.MustParseAddr("10.5.2.2"),
		peerSubnet: netip.MustParsePrefix("10.5.2.0/24"), foreign: netip.MustParseAddr("198.51.100.1"),
		group: netip.MustParseAddr("239.1.1.1"), hostBits: 32, linkBits: 24,
	}
	six = addresses{
		Family:    Family{netip.MustParsePrefix("2001:db8:5::/48"), netip.MustParsePrefix("2001:db8:5:1::/64")},
		container: netip.MustParseAddr("2001:db8:5:1::2"), bridge: netip.MustParseAddr("2001:db8:5:1::1"),
		uplink: netip.MustParseAddr("2001:db8:99::1"), outside: netip.MustParseAddr("2001:db8:99::9"),
		refused: netip.MustParseAddr("2001:db8:99::66"), peer: netip.MustParseAddr("2001:db8:5:2::2"),
		peerSubnet: netip.MustParsePrefix("2001:db8:5:2::/64"), foreign: netip.MustParseAddr("2001:db8:77::1"),
		group: netip.MustParseAddr("ff05::1:3"), hostBits: 128, linkBits: 64,
	}
)

const port = 7000

// site is the test network around the process's own namespace, the host.
type site struct {
	container, outside *netns.Namespace
	heard              chan string // who sent to the multicast groups
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{heard: make(chan string, 16)}
	// Addresses are used at once, also those that the kernel makes itself.
	must(t, writeSetting("net.ipv6.conf.default.accept_dad", "0"))
	s.container, s.outside = newNamespace(t, "container"), newNamespace(t, "outside")
	ip(t, "link add docker0 type veth peer name eth0 netns "+s.container.Path())
	ip(t, "link add up0 type veth peer name eth0 netns "+s.outside.Path())
	ip(t, "link set docker0 up")
	ip(t, "link set up0 up")
	must(t, s.container.SetUp("eth0"))
	must(t, s.outside.SetUp("eth0"))
	for _, a := range []addresses{four, six} {
		ip(t, fmt.Sprintf("address add %v/%d dev docker0 nodad", a.bridge, a.linkBits))
		ip(t, fmt.Sprintf("address add %v/%d dev up0 nodad", a.uplink, a.linkBits))
		ip(t, fmt.Sprintf("address add %v/%d dev lo nodad", a.foreign, a.hostBits))
		ip(t, fmt.Sprintf("route add %v via %v", a.peerSubnet, a.outside))

		must(t, s.container.AddAddress("eth0", netip.PrefixFrom(a.container, a.linkBits)))
		everything := netip.PrefixFrom(a.bridge, 0).Masked()
		must(t, s.container.AddRoute(everything, a.bridge, "eth0"))

		must(t, s.outside.AddAddress("eth0", netip.PrefixFrom(a.outside, a.linkBits)))
		must(t, s.outside.AddAddress("eth0", netip.PrefixFrom(a.refused, a.linkBits)))
		must(t, s.outside.AddAddress("lo", netip.PrefixFrom(a.peer, a.hostBits)))
		must(t, s.outside.AddRoute(a.Subnet, a.uplink, "eth0"))
		must(t, s.outside.AddRoute(netip.PrefixFrom(a.foreign, a.hostBits), a.uplink, "eth0"))

		s.serve(t, s.container, a.container)
		s.serve(t, s.outside, a.outside)
		s.serve(t, s.outside, a.refused)
		s.serve(t, s.outside, a.peer)
		s.listen(t, a.group)
	}
	return s
}

func newNamespace(t *testing.T, name string) *netns.Namespace {
	t.Helper()
	n, err := netns.New(name)
	must(t, err)
	t.Cleanup(func() { must(t, n.Close()) })
	must(t, n.Sysctl("net.ipv6.conf.default.accept_dad", "0"))
	return n
}

// serve answers every datagram with the address it came from.
func (s *site) serve(t *testing.T, n *netns.Namespace, at netip.Addr) {
	t.Helper()
	var conn *net.UDPConn
	must(t, n.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, port)))
		return err
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 64)
		for {
			_, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = conn.WriteToUDPAddrPort([]byte(from.Addr().Unmap().String()), from)
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
}

// listen tells from where datagrams to the group come.
func (s *site) listen(t *testing.T, group netip.Addr) {
	t.Helper()
	var conn *net.UDPConn
	must(t, s.outside.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		conn, err = net.ListenMulticastUDP("udp", eth0, net.UDPAddrFromAddrPort(netip.AddrPortFrom(group, port+1)))
		return err
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 64)
		for {
			_, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			s.heard <- from.Addr().Unmap().String()
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
}

// ask sends one datagram and returns what address its receiver saw. A nil
// namespace is the host; mark may be zero.
func ask(n *netns.Namespace, from, to netip.Addr, mark int, wait time.Duration) (string, error) {
	d := net.Dialer{
		LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)),
		Control: func(_, _ string, c syscall.RawConn) (err error) {
			if mark == 0 {
				return nil
			}
			e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) })
			return errors.Join(e, err)
		},
	}
	var conn net.Conn
	dial := func() (err error) {
		conn, err = d.Dial("udp", netip.AddrPortFrom(to, port).String())
		return err
	}
	err := error(nil)
	if n == nil {
		err = dial()
	} else {
		err = n.Do(dial)
	}
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(wait))
	if _, err := conn.Write([]byte("?")); err != nil {
		return "", err
	}
	b := make([]byte, 64)
	k, err := conn.Read(b)
	return string(b[:k]), err
}

// advertise sends one router advertisement from outside.
func (s *site) advertise(t *testing.T) {
	t.Helper()
	must(t, s.outside.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		// RFC 4861, 4.2: type 134, the hosts' hop limit, and a router for 30 minutes.
		message := []byte{134, 0, 0, 0, 64, 0, 1800 >> 8, 1800 & 0xff, 0, 0, 0, 0, 0, 0, 0, 0}
		to := &unix.SockaddrInet6{ZoneId: uint32(eth0.Index), Addr: netip.MustParseAddr("ff02::1").As16()}
		return unix.Sendto(fd, message, 0, to)
	}))
}

// announce sends one datagram from the host to a's group on the uplink.
func announce(t *testing.T, a addresses) {
	t.Helper()
	up0, err := net.InterfaceByName("up0")
	must(t, err)
	d := net.Dialer{
		LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(a.bridge, 0)),
		Control: func(_, _ string, c syscall.RawConn) (err error) {
			e := c.Control(func(fd uintptr) {
				if a.group.Is4() {
					err = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(up0.Index)})
				} else {
					err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, up0.Index)
				}
			})
			return errors.Join(e, err)
		},
	}
	conn, err := d.Dial("udp", netip.AddrPortFrom(a.group, port+1).String())
	must(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("?"))
	must(t, err)
}

// passes and blocked say whether the container reaches the outside and a peer
// reaches the container.
func (s *site) passes(t *testing.T, a addresses) {
	t.Helper()
	if _, err := ask(s.container, a.container, a.outside, 0, 2*time.Second); err != nil {
		t.Errorf("container to outside: %v", err)
	}
	if _, err := ask(s.outside, a.peer, a.container, 0, 2*time.Second); err != nil {
		t.Errorf("peer's container to container: %v", err)
	}
}

func (s *site) blocked(t *testing.T, a addresses) {
	t.Helper()
	if _, err := ask(s.container, a.container, a.outside, 0, 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("container to outside: got %v, want no answer", err)
	}
	if _, err := ask(s.outside, a.peer, a.container, 0, 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("peer's container to container: got %v, want no answer", err)
	}
}

func config() Config {
	return Config{IPv4: four.Family, IPv6: six.Family, Masquerade: true, Forward: true, Uplink: "up0", Resync: -1, Logger: slog.New(slog.DiscardHandler)}
}

// start runs a Filter until the test ends and waits until its rules are in place.
func start(t *testing.T, c Config) *Filter {
	t.Helper()
	f, err := New(c)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	settle(t, f)
	return f
}

func settle(t *testing.T, f *Filter) {
	t.Helper()
	eventually(t, "rules are in place", func() bool {
		s := f.Status()
		if s.Err != nil {
			t.Fatalf("status: %v", s.Err)
		}
		return s.Applied
	})
}

// batch changes the ruleset as another program would.
func batch(t *testing.T, change func(c *nftables.Conn)) {
	t.Helper()
	c, err := nftables.New()
	must(t, err)
	change(c)
	must(t, c.Flush())
}

// docker makes the part of Docker's iptables rules that matters here: FORWARD
// with the policy drop, and DOCKER-USER with the operator's rule in it.
func docker(t *testing.T, id nftables.TableFamily, a addresses) {
	t.Helper()
	batch(t, func(c *nftables.Conn) {
		filter := c.AddTable(&nftables.Table{Family: id, Name: "filter"})
		dockerUserChain(c, filter, a)
		drop := nftables.ChainPolicyDrop
		forward := c.AddChain(&nftables.Chain{
			Table: filter, Name: "FORWARD", Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop,
		})
		c.AddRule(&nftables.Rule{Table: filter, Chain: forward, Exprs: jumpToUser()})
	})
}

func jumpToUser() []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictJump, Chain: "DOCKER-USER"}}
}

func dockerUserChain(c *nftables.Conn, filter *nftables.Table, a addresses) {
	user := c.AddChain(&nftables.Chain{Table: filter, Name: "DOCKER-USER"})
	refuse := append(toNetwork(expr.CmpOpEq, netip.PrefixFrom(a.refused, a.hostBits)), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})
	c.AddRule(&nftables.Rule{Table: filter, Chain: user, Exprs: refuse})
	c.AddRule(&nftables.Rule{Table: filter, Chain: user, Exprs: []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictReturn}}})
}
