package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
)

// The addresses of a segment. Host i is 172.17.42.(40+i), or fd00:17:42::(40+i)
// with the last part written in hexadecimal from 40.
const (
	segmentBits4, segmentBits6 = 24, 64
	firstHost4                 = 40
	firstHost6                 = 0x40
)

var (
	segmentRouter4 = netip.AddrFrom4([4]byte{172, 17, 42, 1})
	segmentRouter6 = netip.MustParseAddr("fd00:17:42::1")
)

// SegmentOptions are the options of [NewSegment].
type SegmentOptions struct {
	IPv6 bool // give the hosts an IPv6 address each; IPv6 is off in all of the segment otherwise
	MTU  int  // of all interfaces; the kernel's 1500 if zero
}

// Segment is a number of hosts on one layer-2 segment: a bridge in a namespace of
// its own, and the hosts' eth0 on it.
type Segment struct {
	// Bridge is the namespace of the bridge br0, which is also the segment's
	// router, 172.17.42.1 and fd00:17:42::1. It routes nowhere; the hosts'
	// default routes lead there.
	Bridge *Namespace

	Hosts []*Host

	options SegmentOptions
}

// Host is one host of a segment. Its uplink is eth0.
type Host struct {
	*Namespace
	IPv4 netip.Addr
	IPv6 netip.Addr // zero without IPv6
	Port string     // its port of the bridge: set it down, and the host's cable is pulled

	Containers []*Container

	segment *Segment
	docker0 bool // whether that bridge exists
}

// NewSegment makes a segment of n hosts, called host1 and so on. Close it.
func NewSegment(n int, o SegmentOptions) (*Segment, error) {
	if n < 0 || n > 200 {
		return nil, fmt.Errorf("a segment of %d hosts: must be 0 to 200", n)
	}
	s := &Segment{options: o}
	if err := s.build(n); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Segment) build(n int) error {
	var err error
	if s.Bridge, err = New("segment"); err != nil {
		return err
	}
	if err := s.Bridge.prepare(s.options.IPv6); err != nil {
		return err
	}
	if err := s.Bridge.AddBridge("br0", s.options.MTU); err != nil {
		return err
	}
	if err := s.Bridge.AddAddress("br0", netip.PrefixFrom(segmentRouter4, segmentBits4)); err != nil {
		return err
	}
	if s.options.IPv6 {
		if err := s.Bridge.AddAddress("br0", netip.PrefixFrom(segmentRouter6, segmentBits6)); err != nil {
			return err
		}
	}
	if err := s.Bridge.SetUp("br0"); err != nil {
		return err
	}
	for range n {
		if _, err := s.AddHost(); err != nil {
			return err
		}
	}
	for _, h := range s.Hosts {
		if err := s.Bridge.WaitRunning(h.Port); err != nil {
			return err
		}
	}
	return nil
}

// AddHost adds one more host to the segment.
func (s *Segment) AddHost() (*Host, error) {
	i := len(s.Hosts)
	ns, err := New(fmt.Sprintf("host%d", i+1))
	if err != nil {
		return nil, err
	}
	h := &Host{Namespace: ns, Port: fmt.Sprintf("port%d", i+1), segment: s}
	h.IPv4 = hostAddress(segmentRouter4, firstHost4+i)
	addresses := []netip.Prefix{netip.PrefixFrom(h.IPv4, segmentBits4)}
	if s.options.IPv6 {
		h.IPv6 = hostAddress(segmentRouter6, firstHost6+i)
		addresses = append(addresses, netip.PrefixFrom(h.IPv6, segmentBits6))
	}
	s.Hosts = append(s.Hosts, h)

	if err := h.prepare(s.options.IPv6); err != nil {
		return nil, err
	}
	if err := h.AddVeth("eth0", s.Bridge, h.Port, s.options.MTU); err != nil {
		return nil, err
	}
	if err := s.Bridge.AddPort("br0", h.Port); err != nil {
		return nil, err
	}
	if err := s.Bridge.SetUp(h.Port); err != nil {
		return nil, err
	}
	for _, a := range addresses {
		if err := h.AddAddress("eth0", a); err != nil {
			return nil, err
		}
	}
	if err := h.SetUp("eth0"); err != nil {
		return nil, err
	}
	if err := h.WaitRunning("eth0"); err != nil {
		return nil, err
	}
	return h, h.AddDefaultRoutes("eth0")
}

// AddDefaultRoutes gives the host its default routes, through the segment's
// router. A link that goes down takes them away.
func (h *Host) AddDefaultRoutes(device string) error {
	if err := h.AddRoute(netip.PrefixFrom(netip.IPv4Unspecified(), 0), segmentRouter4, device); err != nil {
		return err
	}
	if !h.segment.options.IPv6 {
		return nil
	}
	return h.AddRoute(netip.PrefixFrom(netip.IPv6Unspecified(), 0), segmentRouter6, device)
}

// Close removes the segment, its hosts and their containers, and kills the
// processes that were started in them.
func (s *Segment) Close() error {
	var errs []error
	for _, h := range s.Hosts {
		for _, c := range h.Containers {
			errs = append(errs, c.Close())
		}
		errs = append(errs, h.Close())
	}
	if s.Bridge != nil {
		errs = append(errs, s.Bridge.Close())
	}
	return errors.Join(errs...)
}

// prepare sets what an empty namespace should start from, whatever the machine's
// own defaults are: no forwarding, and IPv6 either off or without delays.
func (n *Namespace) prepare(ipv6 bool) error {
	settings := [][2]string{
		{"net.ipv4.ip_forward", "0"},
		{"net.ipv4.conf.all.rp_filter", "0"},
		{"net.ipv4.conf.default.rp_filter", "0"},
	}
	if ipv6 {
		settings = append(settings,
			[2]string{"net.ipv6.conf.all.disable_ipv6", "0"},
			[2]string{"net.ipv6.conf.default.disable_ipv6", "0"},
			[2]string{"net.ipv6.conf.default.accept_dad", "0"},
			[2]string{"net.ipv6.conf.default.accept_ra", "0"},
			[2]string{"net.ipv6.conf.default.router_solicitations", "0"})
	} else {
		settings = append(settings,
			[2]string{"net.ipv6.conf.all.disable_ipv6", "1"},
			[2]string{"net.ipv6.conf.default.disable_ipv6", "1"})
	}
	for _, s := range settings {
		err := n.Sysctl(s[0], s[1])
		if errors.Is(err, os.ErrNotExist) && !ipv6 {
			err = nil // a kernel without IPv6
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hostAddress returns the address whose last byte is host.
func hostAddress(a netip.Addr, host int) netip.Addr {
	b := a.AsSlice()
	b[len(b)-1] = byte(host)
	address, _ := netip.AddrFromSlice(b)
	return address
}
