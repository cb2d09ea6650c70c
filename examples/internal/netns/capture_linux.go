package netns

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Capture counts the Ethernet frames that arrive on a namespace's interfaces.
// In a Segment's bridge these are exactly those that the hosts sent.
type Capture struct {
	ns       *Namespace
	listener *listener
	flows    map[Flow]int
	err      error
}

// Captured is what was seen: how many frames of each flow.
type Captured map[Flow]int

// Capture starts counting. When it returns, no later frame is missed.
func (n *Namespace) Capture() (*Capture, error) {
	c := &Capture{ns: n, flows: make(map[Flow]int)}
	listener, err := n.listen(func() (int, error) {
		protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		return unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(protocol))
	}, c.handle)
	if err != nil {
		return nil, fmt.Errorf("capturing in %s: %w", n.Name, err)
	}
	c.listener = listener
	return c, nil
}

func (c *Capture) handle(frame []byte, from unix.Sockaddr, err error) {
	if err != nil {
		// An interface that goes down says so; frames are counted as dropped.
		if !errors.Is(err, unix.ENETDOWN) {
			c.err = err
		}
		return
	}
	// A frame that the bridge passes on is seen again on its way out.
	if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype != unix.PACKET_OUTGOING && link.Hatype == unix.ARPHRD_ETHER {
		c.flows[ParseFrame(frame)]++
	}
}

// Stop ends the counting and returns what was seen. An error means that frames
// may be missing. Call it once.
func (c *Capture) Stop() (Captured, error) {
	err := c.listener.stop(func(fd int) error {
		stats, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err == nil && stats.Drops > 0 {
			err = fmt.Errorf("%d of %d frames were dropped: the reader was too slow", stats.Drops, stats.Packets)
		}
		return err
	})
	if err = errors.Join(c.err, err); err != nil {
		return nil, fmt.Errorf("capturing in %s: %w", c.ns.Name, err)
	}
	return c.flows, nil
}

// Frames counts all frames.
func (c Captured) Frames() int {
	total := 0
	for _, count := range c {
		total += count
	}
	return total
}

// Count counts the plain, unencapsulated frames from src to dst of a protocol.
func (c Captured) Count(src, dst netip.Addr, protocol string) int {
	total := 0
	for f, count := range c {
		if f.Src == src && f.Dst == dst && f.Protocol == protocol && f.Encapsulation == "" {
			total += count
		}
	}
	return total
}

// Encapsulated returns the part that belongs to tunnels.
func (c Captured) Encapsulated() Captured {
	found := make(Captured)
	for f, count := range c {
		if f.Encapsulation != "" {
			found[f] = count
		}
	}
	return found
}

// String lists the flows, one a line, the busiest first.
func (c Captured) String() string {
	flows := slices.SortedFunc(maps.Keys(c), func(a, b Flow) int {
		return cmp.Or(cmp.Compare(c[b], c[a]), cmp.Compare(a.String(), b.String()))
	})
	lines := make([]string, len(flows))
	for i, f := range flows {
		lines[i] = fmt.Sprintf("%6d  %v", c[f], f)
	}
	return strings.Join(lines, "\n")
}
