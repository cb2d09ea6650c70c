package netns

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// echoConn sends ICMP echo requests from a namespace and reads what comes back.
// One goroutine may send while another reads.
type echoConn struct {
	dst  netip.Addr
	raw  net.PacketConn
	v4   *ipv4.PacketConn // exactly one of v4 and v6
	v6   *ipv6.PacketConn
	id   uint16   // tells our echoes from others' in the same namespace
	mark [16]byte // the same in the payload, safe against chance
	sent atomic.Uint64
}

// echoAnswer is what came back for one echo request.
type echoAnswer struct {
	from    netip.Addr
	seq     uint64
	reply   bool // an echo reply; else an ICMP error, named in problem
	expired bool // the error is: time to live exceeded
	problem string
	ttl     int // of the reply's IP header
	at      time.Time
}

// dialEcho opens a raw ICMP socket in the namespace. A zero src lets the kernel choose.
func (n *Namespace) dialEcho(src, dst netip.Addr) (*echoConn, error) {
	c := &echoConn{dst: dst}
	rand.Read(c.mark[:])
	c.id = binary.BigEndian.Uint16(c.mark[:])
	network, address := "ip4:icmp", "0.0.0.0"
	if dst.Is6() {
		network, address = "ip6:ipv6-icmp", "::"
	}
	if src.IsValid() {
		address = src.String()
	}
	err := n.Do(func() error {
		var err error
		if c.raw, err = net.ListenPacket(network, address); err != nil {
			return err
		}
		if dst.Is6() {
			c.v6 = ipv6.NewPacketConn(c.raw)
			return c.v6.SetControlMessage(ipv6.FlagHopLimit, true)
		}
		c.v4 = ipv4.NewPacketConn(c.raw)
		return c.v4.SetControlMessage(ipv4.FlagTTL, true)
	})
	if err != nil {
		if c.raw != nil {
			c.raw.Close()
		}
		return nil, fmt.Errorf("opening an ICMP socket in %s: %w", n.Name, err)
	}
	return c, nil
}

func (c *echoConn) close() error { return c.raw.Close() }

// setTTL sets the time to live of the requests from now on.
func (c *echoConn) setTTL(ttl int) error {
	if c.v6 != nil {
		return c.v6.SetHopLimit(ttl)
	}
	return c.v4.SetTTL(ttl)
}

// send sends one request with the next sequence number, which it returns; they
// count from 1. An error of the kernel's (no route) is returned.
func (c *echoConn) send() (seq uint64, err error) {
	seq = c.sent.Add(1)
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{
		ID: int(c.id), Seq: int(uint16(seq)), Data: binary.BigEndian.AppendUint64(c.mark[:], seq),
	}}
	if c.v6 != nil {
		m.Type = ipv6.ICMPTypeEchoRequest // the kernel fills in the checksum
	}
	data, err := m.Marshal(nil)
	if err != nil {
		return seq, err
	}
	_, err = c.raw.WriteTo(data, &net.IPAddr{IP: c.dst.AsSlice()})
	return seq, err
}

// read waits for the next answer to one of our requests, until the deadline.
func (c *echoConn) read(deadline time.Time) (echoAnswer, error) {
	buf := make([]byte, 1<<16)
	for {
		if err := c.raw.SetReadDeadline(deadline); err != nil {
			return echoAnswer{}, err
		}
		a := echoAnswer{}
		n, from, protocol := 0, net.Addr(nil), unix.IPPROTO_ICMP
		var err error
		if c.v6 != nil {
			var cm *ipv6.ControlMessage
			protocol = unix.IPPROTO_ICMPV6
			if n, cm, from, err = c.v6.ReadFrom(buf); cm != nil {
				a.ttl = cm.HopLimit
			}
		} else {
			var cm *ipv4.ControlMessage
			if n, cm, from, err = c.v4.ReadFrom(buf); cm != nil {
				a.ttl = cm.TTL
			}
		}
		if err != nil {
			return echoAnswer{}, err
		}
		a.at = time.Now()
		if ip, ok := from.(*net.IPAddr); ok {
			a.from, _ = netip.AddrFromSlice(ip.IP)
			a.from = a.from.Unmap()
		}
		if m, err := icmp.ParseMessage(protocol, buf[:n]); err == nil && c.match(m, &a) {
			return a, nil
		}
	}
}

// match reports whether m answers one of our requests, and which.
func (c *echoConn) match(m *icmp.Message, a *echoAnswer) bool {
	switch body := m.Body.(type) {
	case *icmp.Echo:
		if m.Type != ipv4.ICMPTypeEchoReply && m.Type != ipv6.ICMPTypeEchoReply {
			return false
		}
		a.reply = true
		return c.ours(body, a)
	case *icmp.TimeExceeded:
		a.expired = true
		return c.quoted(m, body.Data, a)
	case *icmp.DstUnreach:
		return c.quoted(m, body.Data, a)
	}
	return false
}

// quoted looks for our request in what an ICMP error quotes: the IP packet that
// it is about.
func (c *echoConn) quoted(m *icmp.Message, packet []byte, a *echoAnswer) bool {
	a.problem = fmt.Sprintf("%v (code %d) from %v", m.Type, m.Code, a.from)
	header, protocol := ipv6.HeaderLen, unix.IPPROTO_ICMPV6
	if c.v4 != nil {
		if len(packet) < ipv4.HeaderLen {
			return false
		}
		header, protocol = int(packet[0]&0x0f)*4, unix.IPPROTO_ICMP
	}
	if len(packet) < header {
		return false
	}
	inner, err := icmp.ParseMessage(protocol, packet[header:])
	if err != nil {
		return false
	}
	echo, ok := inner.Body.(*icmp.Echo)
	return ok && c.ours(echo, a)
}

func (c *echoConn) ours(e *icmp.Echo, a *echoAnswer) bool {
	if e.ID != int(c.id) {
		return false
	}
	if len(e.Data) >= len(c.mark)+8 {
		if [16]byte(e.Data[:16]) != c.mark {
			return false
		}
		a.seq = binary.BigEndian.Uint64(e.Data[16:])
		return true
	}
	// An error may quote the first eight bytes only: the low bits of the number.
	last := c.sent.Load()
	a.seq = last&^0xffff | uint64(e.Seq)
	if a.seq > last {
		a.seq -= 1 << 16
	}
	return true
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
