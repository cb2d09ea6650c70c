package netns

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// ether puts an Ethernet header before a payload.
func ether(etherType uint16, payload ...byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 12), etherType), payload...)
}

// ip4 is an IPv4 packet from 10.0.0.1 to 10.0.0.2.
func ip4(protocol byte, payload ...byte) []byte {
	header := make([]byte, 20)
	header[0], header[9] = 0x45, protocol
	copy(header[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	return ether(0x0800, append(header, payload...)...)
}

// ip6 is an IPv6 packet from ::1 to ::2.
func ip6(next byte, payload ...byte) []byte {
	header := make([]byte, 40)
	header[0], header[6], header[23], header[39] = 0x60, next, 1, 2
	return ether(0x86dd, append(header, payload...)...)
}

// ports is the beginning of a TCP or UDP header.
func ports(src, dst uint16) []byte {
	return append(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, src), dst), 0, 8, 0, 0)
}

func TestParseFrame(t *testing.T) {
	a4, b4 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	a6, b6 := netip.MustParseAddr("::1"), netip.MustParseAddr("::2")
	fragment := ip4(17, ports(40000, 8472)...)
	fragment[14+7] = 8 // offset

	for _, tt := range []struct {
		name  string
		frame []byte
		want  Flow
	}{
		{"echo", ip4(1, 8, 0), Flow{Src: a4, Dst: b4, Protocol: "icmp"}},
		{"echo over IPv6", ip6(58, 128, 0), Flow{Src: a6, Dst: b6, Protocol: "icmp"}},
		{"tcp", ip4(6, ports(40000, 2379)...), Flow{Src: a4, Dst: b4, Protocol: "tcp", Port: 2379}},
		{"tcp answer", ip4(6, ports(2379, 40000)...), Flow{Src: a4, Dst: b4, Protocol: "tcp", Port: 2379}},
		{"udp", ip4(17, ports(40000, 53)...), Flow{Src: a4, Dst: b4, Protocol: "udp", Port: 53}},
		{"fragment", fragment, Flow{Src: a4, Dst: b4, Protocol: "udp fragment"}},
		{"ipip", ip4(4), Flow{Src: a4, Dst: b4, Protocol: "4", Encapsulation: "ipip"}},
		{"gre", ip4(47), Flow{Src: a4, Dst: b4, Protocol: "47", Encapsulation: "gre"}},
		{"esp", ip4(50), Flow{Src: a4, Dst: b4, Protocol: "50", Encapsulation: "ipsec"}},
		{"vxlan", ip4(17, ports(40000, 4789)...), Flow{Src: a4, Dst: b4, Protocol: "udp", Port: 4789, Encapsulation: "vxlan"}},
		{"linux vxlan", ip4(17, ports(8472, 40000)...), Flow{Src: a4, Dst: b4, Protocol: "udp", Port: 8472, Encapsulation: "vxlan"}},
		{"wireguard", ip4(17, ports(51820, 51820)...), Flow{Src: a4, Dst: b4, Protocol: "udp", Port: 51820, Encapsulation: "wireguard"}},
		{"flannel udp", ip6(17, ports(8285, 8285)...), Flow{Src: a6, Dst: b6, Protocol: "udp", Port: 8285, Encapsulation: "flannel udp"}},
		{"ip6ip6", ip6(41), Flow{Src: a6, Dst: b6, Protocol: "41", Encapsulation: "ip6ip"}},
		{"options before icmp", ip6(0, append([]byte{58, 0, 5, 2, 0, 0, 1, 0}, 143, 0)...), Flow{Src: a6, Dst: b6, Protocol: "icmp"}},
		{"arp", ether(0x0806, 0, 1, 8, 0, 6, 4, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2), Flow{Src: a4, Dst: b4, Protocol: "arp"}},
		{"vlan", ether(0x8100), Flow{Protocol: "vlan", Encapsulation: "vlan"}},
		{"mpls", ether(0x8847), Flow{Protocol: "mpls", Encapsulation: "mpls"}},
		{"lldp", ether(0x88cc), Flow{Protocol: "ethertype 0x88cc"}},
		{"short", []byte{1, 2, 3}, Flow{Protocol: "short frame"}},
		{"cut off", ether(0x0800, 0x45, 0), Flow{Protocol: "malformed ipv4"}},
	} {
		if got := ParseFrame(tt.frame); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// Whatever is on the wire, reading it must not fail, and must name it.
func FuzzParseFrame(f *testing.F) {
	f.Add(ip4(17, ports(40000, 4789)...))
	f.Add(ip6(44, 17, 0, 0, 0, 0, 0, 0, 0))
	f.Add(ether(0x0806, 0, 1, 8, 0, 6, 4))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if flow := ParseFrame(frame); flow.Protocol == "" {
			t.Errorf("%x: %+v has no protocol", frame, flow)
		}
	})
}
