package netns

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/jsimonetti/rtnetlink/v2/driver"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// AddBridge makes a bridge that forwards from the first moment (no spanning
// tree) and floods multicast instead of learning who listens. An mtu of zero
// means the kernel's default.
func (n *Namespace) AddBridge(name string, mtu int) error {
	options := netlink.NewAttributeEncoder()
	options.Uint8(unix.IFLA_BR_MCAST_SNOOPING, 0)
	data, err := options.Encode()
	if err != nil {
		return fmt.Errorf("making bridge %s in %s: %w", name, n.Name, err)
	}
	return n.rtnl("making bridge "+name, func(c *rtnetlink.Conn) error {
		return c.Link.New(&rtnetlink.LinkMessage{Attributes: &rtnetlink.LinkAttributes{
			Name: name,
			MTU:  uint32(mtu),
			Info: &rtnetlink.LinkInfo{Kind: "bridge", Data: &rtnetlink.LinkData{Name: "bridge", Data: data}},
		}})
	})
}

// AddVeth makes a pair of virtual Ethernet interfaces: name in n, peerName in
// peer. An mtu of zero means the kernel's default.
func (n *Namespace) AddVeth(name string, peer *Namespace, peerName string, mtu int) error {
	return n.rtnl(fmt.Sprintf("making veth %s to %s in %s", name, peerName, peer.Name), func(c *rtnetlink.Conn) error {
		return c.Link.New(&rtnetlink.LinkMessage{Attributes: &rtnetlink.LinkAttributes{
			Name: name,
			MTU:  uint32(mtu),
			Info: &rtnetlink.LinkInfo{Kind: "veth", Data: &driver.Veth{
				PeerInfo: &rtnetlink.LinkMessage{Attributes: &rtnetlink.LinkAttributes{
					Name:  peerName,
					MTU:   uint32(mtu),
					NetNS: rtnetlink.NetNSForFD(uint32(peer.file.Fd())),
				}},
			}},
		}})
	})
}

// AddPort makes the interface a port of the bridge.
func (n *Namespace) AddPort(bridge, name string) error {
	master, err := n.index(bridge)
	if err != nil {
		return err
	}
	return n.set(name, "adding to bridge "+bridge, func(m *rtnetlink.LinkMessage) {
		m.Attributes = &rtnetlink.LinkAttributes{Master: &master}
	})
}

// SetUp sets the interface up.
func (n *Namespace) SetUp(name string) error {
	return n.set(name, "setting up", func(m *rtnetlink.LinkMessage) {
		m.Flags, m.Change = unix.IFF_UP, unix.IFF_UP
	})
}

// SetDown sets the interface down. The kernel drops the routes through it.
func (n *Namespace) SetDown(name string) error {
	return n.set(name, "setting down", func(m *rtnetlink.LinkMessage) { m.Change = unix.IFF_UP })
}

// SetMTU sets the interface's MTU, in bytes.
func (n *Namespace) SetMTU(name string, mtu int) error {
	return n.set(name, "setting the MTU of", func(m *rtnetlink.LinkMessage) {
		m.Attributes = &rtnetlink.LinkAttributes{MTU: uint32(mtu)}
	})
}

// DeleteLink removes the interface, and the other end of a veth with it.
func (n *Namespace) DeleteLink(name string) error {
	index, err := n.index(name)
	if err != nil {
		return err
	}
	return n.rtnl("deleting "+name, func(c *rtnetlink.Conn) error { return c.Link.Delete(index) })
}

// WaitRunning waits until the interface can carry packets: it is up, and so is
// the other end.
func (n *Namespace) WaitRunning(name string) error {
	index, err := n.index(name)
	if err != nil {
		return err
	}
	return n.rtnl("waiting for "+name, func(c *rtnetlink.Conn) error {
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			link, err := c.Link.Get(index)
			if err != nil {
				return err
			}
			state := link.Attributes.OperationalState
			if state == rtnetlink.OperStateUp {
				return nil
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("not running after 5 s (operational state %d)", state)
			}
		}
	})
}

// AddAddress gives the interface an address with its prefix length. It may be
// used at once: an IPv6 address is not checked for duplicates.
func (n *Namespace) AddAddress(name string, p netip.Prefix) error {
	m, err := n.addressMessage(name, p)
	if err != nil {
		return err
	}
	return n.rtnl(fmt.Sprintf("adding %v to %s", p, name), func(c *rtnetlink.Conn) error { return c.Address.New(m) })
}

// DeleteAddress takes the address from the interface.
func (n *Namespace) DeleteAddress(name string, p netip.Prefix) error {
	m, err := n.addressMessage(name, p)
	if err != nil {
		return err
	}
	return n.rtnl(fmt.Sprintf("deleting %v from %s", p, name), func(c *rtnetlink.Conn) error { return c.Address.Delete(m) })
}

// Addresses returns the addresses of the interface, without link-local ones.
func (n *Namespace) Addresses(name string) ([]netip.Prefix, error) {
	var found []netip.Prefix
	err := n.Do(func() error {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		addrs, err := ifi.Addrs()
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err == nil && !p.Addr().IsLinkLocalUnicast() {
				found = append(found, p)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing addresses of %s in %s: %w", name, n.Name, err)
	}
	return found, nil
}

func (n *Namespace) addressMessage(name string, p netip.Prefix) (*rtnetlink.AddressMessage, error) {
	index, err := n.index(name)
	if err != nil {
		return nil, err
	}
	m := &rtnetlink.AddressMessage{
		Family:       family(p.Addr()),
		PrefixLength: uint8(p.Bits()),
		Index:        index,
		Attributes: &rtnetlink.AddressAttributes{
			Address: p.Addr().AsSlice(),
			Local:   p.Addr().AsSlice(),
		},
	}
	if p.Addr().Is6() {
		m.Attributes.Flags = unix.IFA_F_NODAD
	} else {
		m.Attributes.Broadcast = broadcast(p)
	}
	return m, nil
}

// set changes one interface.
func (n *Namespace) set(name, doing string, change func(*rtnetlink.LinkMessage)) error {
	index, err := n.index(name)
	if err != nil {
		return err
	}
	m := &rtnetlink.LinkMessage{Index: index}
	change(m)
	return n.rtnl(doing+" "+name, func(c *rtnetlink.Conn) error { return c.Link.Set(m) })
}

// rtnl calls fn with a connection to the namespace's kernel side, and says in an
// error what was being done.
func (n *Namespace) rtnl(doing string, fn func(*rtnetlink.Conn) error) error {
	c, err := rtnetlink.Dial(&netlink.Config{NetNS: int(n.file.Fd()), Strict: true})
	if err == nil {
		err = fn(c)
		c.Close()
	}
	if err != nil {
		return fmt.Errorf("%s in %s: %w", doing, n.Name, err)
	}
	return nil
}

func (n *Namespace) index(name string) (uint32, error) {
	var index uint32
	err := n.Do(func() error {
		ifi, err := net.InterfaceByName(name)
		if err == nil {
			index = uint32(ifi.Index)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("looking for interface %s in %s: %w", name, n.Name, err)
	}
	return index, nil
}

func family(a netip.Addr) uint8 {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// broadcast returns the last address of an IPv4 prefix.
func broadcast(p netip.Prefix) net.IP {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b[:]
}
