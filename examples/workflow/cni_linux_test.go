package workflow

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostgw/hostgw/examples/internal/netns"
)

// pod is a container that CNI plugins connect.
type pod struct {
	*netns.Namespace
	node   *node
	config cniConfig
	ips    []netip.Addr // IPv4 first
}

// newPod makes a container on a node, not connected yet. It ends with the test.
func (w *world) newPod(t *testing.T, n *node) *pod {
	t.Helper()
	ns, err := netns.New(n.Name + "-pod")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	if w.dual {
		// An address may be used at once; the plugin waits until it may.
		if err := ns.Sysctl("net.ipv6.conf.default.accept_dad", "0"); err != nil {
			t.Fatal(err)
		}
	}
	return &pod{Namespace: ns, node: n, config: cniConfigOf(n.env, filepath.Join(n.dir, "cni"))}
}

// call calls the bridge plugin, which calls host-local.
func (p *pod) call(ctx context.Context, command string) (cniResult, error) {
	return cni(ctx, p.node.Namespace, command, p.Namespace, p.config)
}

// connect connects the container to its host's bridge.
func (p *pod) connect(t *testing.T) {
	t.Helper()
	result, err := p.call(t.Context(), "ADD")
	if err != nil {
		t.Fatal(err)
	}
	p.ips = nil
	for _, ip := range result.IPs {
		p.ips = append(p.ips, ip.Address.Addr())
		want := p.node.env.Subnet
		if ip.Address.Addr().Is6() {
			want = p.node.env.IPv6Subnet
		}
		if !want.Contains(ip.Address.Addr()) || ip.Address.Bits() != want.Bits() || ip.Gateway != want.Addr() {
			t.Errorf("%s gets %v with gateway %v, want one in %v with gateway %v", p.Name, ip.Address, ip.Gateway, want.Masked(), want.Addr())
		}
	}
}

// TestCNI does what containerd does with a flannel network: there each host's
// subnet.env becomes the config of the bridge and host-local plugins.
func TestCNI(t *testing.T) {
	for _, tt := range []struct {
		name string
		dual bool
	}{{"IPv4", false}, {"dual-stack", true}} {
		t.Run(tt.name, func(t *testing.T) {
			needRoot(t)
			needTools(t, cniDirs, cniTools)
			w := newWorld(t, tt.dual)
			w.join(t, "-ip-masq")
			families := 1
			if tt.dual {
				families = 2
			}

			capture, err := w.Bridge.Capture()
			if err != nil {
				t.Fatal(err)
			}
			var pods []*pod
			for _, n := range w.nodes {
				p := w.newPod(t, n)
				if p.config.IPMasq {
					t.Error("hostgwd masquerades, yet subnet.env has the bridge plugin do it too")
				}
				if p.connect(t); len(p.ips) != families {
					t.Fatalf("%s has the addresses %v, want %d", p.Name, p.ips, families)
				}
				pods = append(pods, p)
			}
			for i, p := range pods {
				for family, dst := range pods[1-i].ips {
					p.checkPing(t, dst, 62)
					p.checkPath(t, pods[1-i], family)
					checkTransfer(t, p, pods[1-i], family)
				}
				p.checkPing(t, outside, 63)
			}
			seen, err := capture.Stop()
			if err != nil {
				t.Fatal(err)
			}
			checkPlain(t, seen)
			for i, p := range pods {
				for family, src := range p.ips {
					dst := pods[1-i].ips[family]
					if icmp, tcp := seen.Count(src, dst, "icmp"), seen.Count(src, dst, "tcp"); icmp < 2*pings || tcp == 0 {
						t.Errorf("on the segment were %d ICMP and %d TCP packets from %v to %v:\n%v", icmp, tcp, src, dst, seen)
					}
				}
				if seen.Count(p.node.IPv4, outside, "icmp") < pings {
					t.Errorf("the pings to the outside did not have the address of %s, %v:\n%v", p.node.Name, p.node.IPv4, seen)
				}
			}

			for _, p := range pods {
				p.disconnect(t)
			}
		})
	}
}

// checkPing checks that every request is answered, with the time to live that is
// wanted.
func (p *pod) checkPing(t *testing.T, dst netip.Addr, ttl int) {
	t.Helper()
	r, err := p.Ping(t.Context(), dst, netns.PingOptions{Count: pings, Interval: 10 * time.Millisecond})
	if err != nil || r.Received() != pings || r.TTL() != ttl {
		t.Errorf("ping from %s to %v: want %d answers with ttl=%d, got %v, %v", p.Name, dst, pings, ttl, r, err)
	}
}

// checkPath checks that the path leads through both hosts, and nothing else.
func (p *pod) checkPath(t *testing.T, to *pod, family int) {
	t.Helper()
	want := []netip.Addr{p.node.env.Subnet.Addr(), to.node.IPv4, to.ips[family]}
	if to.ips[family].Is6() {
		want = []netip.Addr{p.node.env.IPv6Subnet.Addr(), to.node.IPv6, to.ips[family]}
	}
	hops, err := p.Trace(t.Context(), to.ips[family])
	if err != nil {
		t.Error(err)
		return
	}
	var path []netip.Addr
	for _, h := range hops {
		path = append(path, h.Addr)
	}
	if !slices.Equal(path, want) {
		t.Errorf("the path from %s to %v is %v, want %v", p.Name, to.ips[family], path, want)
	}
}

// checkTransfer sends something over TCP that fills many packets, and checks that
// it arrives, from the sender's own address.
func checkTransfer(t *testing.T, from, to *pod, family int) {
	t.Helper()
	sent := bytes.Repeat([]byte("plain kernel routes\n"), 10_000)
	got, sender, err := transfer(from, to, family, sent)
	if err != nil {
		t.Errorf("a transfer from %s to %v: %v", from.Name, to.ips[family], err)
		return
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("of %d bytes that %s sent, %d arrived at %s", len(sent), from.Name, len(got), to.Name)
	}
	if sender != from.ips[family] {
		t.Errorf("%s is connected to %v, want %s, %v", to.Name, sender, from.Name, from.ips[family])
	}
}

func transfer(from, to *pod, family int, data []byte) (got []byte, sender netip.Addr, err error) {
	var l *net.TCPListener
	err = to.Do(func() (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(to.ips[family], 0)))
		return err
	})
	if err != nil {
		return nil, sender, err
	}
	defer l.Close()
	deadline := time.Now().Add(patience)
	if err := l.SetDeadline(deadline); err != nil {
		return nil, sender, err
	}
	var g errgroup.Group
	g.Go(func() error {
		c, err := l.AcceptTCP()
		if err != nil {
			return err
		}
		defer c.Close()
		sender = c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if err := c.SetDeadline(deadline); err != nil {
			return err
		}
		got, err = io.ReadAll(c)
		return err
	})
	g.Go(func() error {
		var c net.Conn
		err := from.Do(func() (err error) {
			c, err = (&net.Dialer{Deadline: deadline}).Dial("tcp", l.Addr().String())
			return err
		})
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(deadline); err != nil {
			return err
		}
		_, err = c.Write(data)
		return err
	})
	return got, sender, g.Wait()
}

// disconnect disconnects the container, twice, as an engine may do that is not
// sure, and checks that nothing is left of it.
func (p *pod) disconnect(t *testing.T) {
	t.Helper()
	for range 2 {
		if _, err := p.call(t.Context(), "DEL"); err != nil {
			t.Error(err)
		}
	}
	for _, in := range []struct {
		ns   *netns.Namespace
		want []string
	}{{p.Namespace, []string{"lo"}}, {p.node.Namespace, []string{"lo", "eth0", p.config.Bridge}}} {
		var names []string
		err := in.ns.Do(func() error {
			interfaces, err := net.Interfaces()
			for _, i := range interfaces {
				names = append(names, i.Name)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(names)
		slices.Sort(in.want)
		if !slices.Equal(names, in.want) {
			t.Errorf("in %s are the interfaces %v, want %v", in.ns.Name, names, in.want)
		}
	}
	reserved, err := os.ReadDir(filepath.Join(p.config.IPAM.DataDir, p.config.Name))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range reserved {
		if f.Name() != "lock" && !strings.HasPrefix(f.Name(), "last_reserved_ip.") {
			t.Errorf("host-local still holds %s", f.Name())
		}
	}
}
