package netlinktest_test

import (
	"encoding/binary"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// namespace is the real kernel: a network namespace with eth0 and eth1 in it,
// whose other ends are in a second namespace. Neither has a name, so that both
// are gone with the test, whatever becomes of it.
type namespace struct {
	t         *testing.T
	fd, wire  *os.File
	c, peers  *netlink.Conn
	lastIndex int // of a link
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to compare with the real kernel")
	}
	n := &namespace{t: t, fd: openNamespace(t), wire: openNamespace(t), lastIndex: 1}
	n.c = n.dialIn(n.fd)
	n.peers = n.dialIn(n.wire)
	n.setLink(n.c, "lo", true)
	n.addLink("eth0")
	n.addLink("eth1")
	return n
}

// openNamespace makes a network namespace. It lives as long as the file is open.
func openNamespace(t *testing.T) *os.File {
	t.Helper()
	type result struct {
		f   *os.File
		err error
	}
	results := make(chan result)
	go func() {
		// The thread ends with this goroutine, because it stays locked.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			results <- result{nil, os.NewSyscallError("unshare", err)}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		for _, s := range []struct{ name, value string }{
			// What a host may have set for the namespaces that come.
			{"ipv4/conf/all/promote_secondaries", "0"},
			{"ipv4/conf/default/promote_secondaries", "0"},
			{"ipv6/conf/default/disable_ipv6", "0"},
			{"ipv6/conf/all/keep_addr_on_down", "0"},
			{"ipv6/conf/default/keep_addr_on_down", "0"},
			{"ipv6/conf/default/addr_gen_mode", "1"},
			{"ipv6/conf/default/accept_dad", "0"},
		} {
			if err == nil {
				err = os.WriteFile("/proc/sys/net/"+s.name, []byte(s.value), 0)
			}
		}
		results <- result{f, err}
	}()
	r := <-results
	if r.err != nil {
		t.Fatalf("making a network namespace: %v", r.err)
	}
	t.Cleanup(func() { r.f.Close() })
	return r.f
}

func (n *namespace) dialIn(f *os.File, groups ...uint32) *netlink.Conn {
	n.t.Helper()
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: int(f.Fd()), Strict: true})
	if err != nil {
		n.t.Fatalf("netlink socket in the namespace: %v", err)
	}
	n.t.Cleanup(func() { c.Close() })
	for _, g := range groups {
		if err := c.JoinGroup(g); err != nil {
			n.t.Fatal(err)
		}
	}
	return c
}

func (n *namespace) Dial(groups ...uint32) (*netlink.Conn, error) {
	return n.dialIn(n.fd, groups...), nil
}

func (n *namespace) execute(c *netlink.Conn, typ netlink.HeaderType, flags netlink.HeaderFlags, data []byte, ae *netlink.AttributeEncoder) {
	n.t.Helper()
	attrs, err := ae.Encode()
	if err != nil {
		n.t.Fatal(err)
	}
	_, err = c.Execute(netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   append(data, attrs...),
	})
	if err != nil {
		n.t.Fatalf("setting up the namespace: %v", err)
	}
}

func ifinfo(index int, flags, change uint32) []byte {
	b := make([]byte, 4, unix.SizeofIfInfomsg)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return binary.NativeEndian.AppendUint32(b, change)
}

func (n *namespace) addLink(name string) {
	n.t.Helper()
	// Linux takes a veth whose ends have the same index for one that is in no
	// hurry, and tells of its carrier up to a second later. The index of the
	// other end is only heeded if both are given.
	n.lastIndex++
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.IFLA_IFNAME, name)
	ae.Nested(unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) error {
		ae.String(unix.IFLA_INFO_KIND, "veth")
		ae.Nested(unix.IFLA_INFO_DATA, func(ae *netlink.AttributeEncoder) error {
			const vethInfoPeer = 1
			peer := netlink.NewAttributeEncoder()
			peer.String(unix.IFLA_IFNAME, name)
			peer.Uint32(unix.IFLA_NET_NS_FD, uint32(n.wire.Fd()))
			b, err := peer.Encode()
			ae.Bytes(vethInfoPeer, append(ifinfo(1000+n.lastIndex, 0, 0), b...))
			return err
		})
		return nil
	})
	n.execute(n.c, unix.RTM_NEWLINK, netlink.Create|netlink.Excl, ifinfo(n.lastIndex, 0, 0), ae)
	n.setLink(n.peers, name, true)
}

func (n *namespace) AddLink(name string) int {
	n.addLink(name)
	return n.index(n.c, name)
}

func (n *namespace) index(c *netlink.Conn, name string) int {
	n.t.Helper()
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.IFLA_IFNAME, name)
	attrs, err := ae.Encode()
	if err != nil {
		n.t.Fatal(err)
	}
	answer, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request},
		Data:   append(ifinfo(0, 0, 0), attrs...),
	})
	if err != nil {
		n.t.Fatalf("looking for %s: %v", name, err)
	}
	return int(binary.NativeEndian.Uint32(answer[0].Data[4:]))
}

func (n *namespace) setLink(c *netlink.Conn, name string, up bool) {
	n.t.Helper()
	var flags uint32
	if up {
		flags = unix.IFF_UP
	}
	n.execute(c, unix.RTM_NEWLINK, 0, ifinfo(n.index(c, name), flags, unix.IFF_UP), netlink.NewAttributeEncoder())
}

func (n *namespace) SetUp(name string, up bool)           { n.setLink(n.c, name, up) }
func (n *namespace) SetCarrier(name string, carrier bool) { n.setLink(n.peers, name, carrier) }

func (n *namespace) RemoveLink(name string) {
	n.t.Helper()
	n.execute(n.c, unix.RTM_DELLINK, 0, ifinfo(n.index(n.c, name), 0, 0), netlink.NewAttributeEncoder())
}

func (n *namespace) SetMTU(name string, mtu int) {
	n.t.Helper()
	ae := netlink.NewAttributeEncoder()
	ae.Uint32(unix.IFLA_MTU, uint32(mtu))
	n.execute(n.c, unix.RTM_NEWLINK, 0, ifinfo(n.index(n.c, name), 0, 0), ae)
}

func (n *namespace) Rename(name, to string) {
	n.t.Helper()
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.IFLA_IFNAME, to)
	n.execute(n.c, unix.RTM_NEWLINK, 0, ifinfo(n.index(n.c, name), 0, 0), ae)
}

func (n *namespace) AddAddr(link string, p netip.Prefix) {
	n.t.Helper()
	n.address(unix.RTM_NEWADDR, netlink.Create|netlink.Excl, link, p)
}

func (n *namespace) DelAddr(link string, p netip.Prefix) {
	n.t.Helper()
	n.address(unix.RTM_DELADDR, 0, link, p)
}

func (n *namespace) address(typ netlink.HeaderType, flags netlink.HeaderFlags, link string, p netip.Prefix) {
	n.t.Helper()
	data := []byte{unix.AF_INET6, byte(p.Bits()), unix.IFA_F_NODAD, 0}
	if p.Addr().Is4() {
		data[0], data[2] = unix.AF_INET, 0
	}
	data = binary.NativeEndian.AppendUint32(data, uint32(n.index(n.c, link)))
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(unix.IFA_LOCAL, p.Addr().AsSlice())
	ae.Bytes(unix.IFA_ADDRESS, p.Addr().AsSlice())
	n.execute(n.c, typ, flags, data, ae)
}
