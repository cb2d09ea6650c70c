package netns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Flow is what the frames of one conversation have in common, one way.
type Flow struct {
	Src, Dst netip.Addr // of the outermost IP header, or of the ARP message; zero for other protocols

	// Protocol is what stands behind the IP header ("icmp", "tcp", "udp", or
	// its number), "arp", or the EtherType of anything else.
	Protocol string

	// Port is the lower of the two ports of TCP and UDP, usually the server's.
	Port uint16

	// Encapsulation names the tunnel that the frame is part of, in which another
	// packet travels: "vxlan", "ipip" and so on. Empty for plain packets.
	Encapsulation string
}

func (f Flow) String() string {
	s := f.Protocol
	if f.Src.IsValid() {
		s = fmt.Sprintf("%v > %v %s", f.Src, f.Dst, s)
	}
	if f.Port != 0 {
		s += fmt.Sprintf(" port %d", f.Port)
	}
	if f.Encapsulation != "" {
		s += " (" + f.Encapsulation + ")"
	}
	return s
}

// ParseFrame reads the headers of an Ethernet frame as far as Flow needs them.
// What it cannot read stays zero.
func ParseFrame(frame []byte) Flow {
	if len(frame) < 14 {
		return Flow{Protocol: "short frame"}
	}
	etherType, payload := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	switch etherType {
	case 0x0800:
		return parseIPv4(payload)
	case 0x86dd:
		return parseIPv6(payload)
	case 0x0806:
		return parseARP(payload)
	case 0x8100, 0x88a8:
		return Flow{Protocol: "vlan", Encapsulation: "vlan"}
	case 0x8847, 0x8848:
		return Flow{Protocol: "mpls", Encapsulation: "mpls"}
	}
	return Flow{Protocol: fmt.Sprintf("ethertype 0x%04x", etherType)}
}

func parseARP(b []byte) Flow {
	f := Flow{Protocol: "arp"}
	if len(b) >= 28 && b[4] == 6 && b[5] == 4 {
		f.Src, f.Dst = netip.AddrFrom4([4]byte(b[14:])), netip.AddrFrom4([4]byte(b[24:]))
	}
	return f
}

func parseIPv4(b []byte) Flow {
	if len(b) < 20 || b[0]>>4 != 4 {
		return Flow{Protocol: "malformed ipv4"}
	}
	f := Flow{Src: netip.AddrFrom4([4]byte(b[12:])), Dst: netip.AddrFrom4([4]byte(b[16:]))}
	header := min(int(b[0]&0x0f)*4, len(b))
	if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return f.fragment(b[9])
	}
	return f.transport(b[9], b[header:])
}

func parseIPv6(b []byte) Flow {
	if len(b) < 40 || b[0]>>4 != 6 {
		return Flow{Protocol: "malformed ipv6"}
	}
	f := Flow{Src: netip.AddrFrom16([16]byte(b[8:])), Dst: netip.AddrFrom16([16]byte(b[24:]))}
	next, rest := b[6], b[40:]
	for len(rest) >= 8 {
		switch next {
		case 0, 43, 60: // hop-by-hop, routing and destination options
			length := 8 + int(rest[1])*8
			next, rest = rest[0], rest[min(length, len(rest)):]
		case 44: // fragment
			offset := binary.BigEndian.Uint16(rest[2:]) &^ 7
			next, rest = rest[0], rest[8:]
			if offset != 0 {
				return f.fragment(next)
			}
		default:
			return f.transport(next, rest)
		}
	}
	return f.transport(next, rest)
}

// fragment fills in what is known of a packet's later fragment.
func (f Flow) fragment(protocol uint8) Flow {
	f = f.transport(protocol, nil)
	f.Protocol += " fragment"
	return f
}

// transport fills in what stands behind the IP header.
func (f Flow) transport(protocol uint8, b []byte) Flow {
	switch protocol {
	case 1, 58:
		f.Protocol = "icmp"
	case 6, 17:
		f.Protocol = "tcp"
		if protocol == 17 {
			f.Protocol = "udp"
		}
		if len(b) >= 4 {
			src, dst := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
			f.Port = min(src, dst)
			if protocol == 17 {
				f.Encapsulation = udpTunnel(src, dst)
			}
		}
	case 4:
		f.Protocol, f.Encapsulation = "4", "ipip"
	case 41:
		f.Protocol, f.Encapsulation = "41", "ip6ip"
	case 47:
		f.Protocol, f.Encapsulation = "47", "gre"
	case 50:
		f.Protocol, f.Encapsulation = "50", "ipsec"
	default:
		f.Protocol = fmt.Sprint(protocol)
	}
	return f
}

// udpTunnel names the tunnel that is known by one of the two ports.
func udpTunnel(src, dst uint16) string {
	for _, port := range []uint16{dst, src} {
		switch port {
		case 4789, 8472: // the registered one and Linux's older one, which flannel uses
			return "vxlan"
		case 6081:
			return "geneve"
		case 8285:
			return "flannel udp"
		case 51820, 51821: // what flannel uses for IPv4 and IPv6
			return "wireguard"
		case 500, 4500:
			return "ipsec"
		}
	}
	return ""
}
