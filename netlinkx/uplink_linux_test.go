package netlinkx_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/netlinkx/netlinktest"
)

// uplinkHosts are hosts to find an uplink on, as ip commands that make them.
// onFake and the real kernel both understand those.
var uplinkHosts = map[string][]string{
	"plain": {
		"link add eth0 type veth peer name wire0", "link set wire0 up", "link set eth0 up",
		"link add eth1 type veth peer name wire1", "link set wire1 up", "link set eth1 mtu 1400", "link set eth1 up",
		"address add 192.0.2.1/24 dev eth0", "address add 2001:db8::1/64 dev eth0 nodad",
		"address add 198.51.100.1/24 dev eth1", "address add 198.51.100.9/24 dev eth1", "address add 2001:db8:1::1/64 dev eth1 nodad",
		"route add default via 198.51.100.254 metric 10",
		"route add default via 192.0.2.254 metric 20",
		"route add default via 2001:db8::fe metric 30",
		"route add 203.0.113.0/24 via 192.0.2.7",
		"route add 203.0.113.128/25 via 198.51.100.7 src 198.51.100.9",
	},
	"IPv6 only by default": {
		"link add eth0 type veth peer name wire0", "link set wire0 up", "link set eth0 up",
		"address add 192.0.2.1/24 dev eth0", "address add 2001:db8::1/64 dev eth0 nodad",
		"route add default via 2001:db8::fe",
	},
	"several hops": {
		"link add eth0 type veth peer name wire0", "link set wire0 up", "link set eth0 up",
		"link add eth1 type veth peer name wire1", "link set wire1 up", "link set eth1 up",
		"address add 192.0.2.1/24 dev eth0", "address add 198.51.100.1/24 dev eth1",
		"route add default nexthop via 198.51.100.254 nexthop via 192.0.2.254",
	},
	"bare": {
		"link add eth0 type veth peer name wire0",
	},
	"choice of addresses": {
		"link add eth0 type veth peer name wire0", "link set wire0 up", "link set eth0 up",
		"address add 169.254.7.7/16 dev eth0", "address add 10.0.0.1/24 dev eth0 scope link",
		"address add 192.0.2.1/24 dev eth0", "address add 192.0.2.2/24 dev eth0", "address add 10.1.0.1/24 dev eth0",
		"address add fe80::1/64 dev eth0 nodad", "address add 2001:db8::1/64 dev eth0 nodad preferred_lft 0", "address add fd00::1/64 dev eth0 nodad",
	},
	"link-local only": {
		"link add eth0 type veth peer name wire0", "link set wire0 up", "link set eth0 up",
		"address add 169.254.7.7/16 dev eth0", "address add fe80::1/64 dev eth0 nodad",
	},
}

// onFake makes a host of a fake kernel.
func onFake(t *testing.T, commands []string) *netlinktest.Kernel {
	t.Helper()
	k := netlinktest.New()
	made := make(map[string]bool)
	for _, command := range commands {
		f := strings.Fields(command)
		after := func(word string) string {
			if at := slices.Index(f, word); at >= 0 {
				return f[at+1]
			}
			return ""
		}
		var err error
		switch f[0] + " " + f[1] {
		case "link add":
			k.AddLink(f[2])
			made[f[2]] = true
		case "link set":
			switch {
			case !made[f[2]]: // the other end, which the fake needs none of
			case f[3] == "up":
				k.SetUp(f[2], true)
			case f[3] == "mtu":
				mtu, err := strconv.Atoi(f[4])
				if err != nil {
					t.Fatal(err)
				}
				k.SetMTU(f[2], mtu)
			}
		case "address add":
			a := netlinktest.Addr{Prefix: netip.MustParsePrefix(f[2])}
			if after("scope") == "link" {
				a.Scope = unix.RT_SCOPE_LINK
			}
			if after("preferred_lft") == "0" {
				a.Flags = unix.IFA_F_DEPRECATED
			}
			k.AddAddress(after("dev"), a)
		case "route add":
			var r netlinktest.Route
			for i, word := range f {
				if word == "nexthop" {
					r.Hops = append(r.Hops, netlinktest.NextHop{Gateway: netip.MustParseAddr(f[i+2])})
				}
			}
			via := netip.MustParseAddr(after("via"))
			if len(r.Hops) == 0 {
				r.Gateway = via
			}
			if f[2] == "default" {
				r.Dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
				if via.Is4() {
					r.Dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
				}
			} else {
				r.Dst = netip.MustParsePrefix(f[2])
			}
			if m := after("metric"); m != "" {
				n, err := strconv.Atoi(m)
				if err != nil {
					t.Fatal(err)
				}
				r.Metric = uint32(n)
			}
			if src := after("src"); src != "" {
				r.Source = netip.MustParseAddr(src)
			}
			err = k.AddRoute(r)
		default:
			t.Fatalf("%q is not understood", command)
		}
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
	}
	return k
}

// onLinux makes a host of a network namespace.
func onLinux(t *testing.T, commands []string) netlinkx.DialFunc {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to make a network namespace")
	}
	n := newNamespace(t)
	n.ip("link delete eth0")
	var before []string
	for _, command := range commands {
		before = append(before, command)
		if strings.HasPrefix(command, "link add") {
			f := strings.Fields(command)
			for _, name := range []string{f[2], f[len(f)-1]} {
				before = append(before, "link set "+name+" addrgenmode none")
			}
		}
	}
	n.batch(before...)
	return n.Dial
}

// found is what matters of an Uplink, in words.
func found(u netlinkx.Uplink) string {
	s := u.Name
	for _, a := range []netip.Addr{u.IPv4, u.IPv6} {
		s += " "
		if a.IsValid() {
			s += a.String()
		} else {
			s += "-"
		}
	}
	return s
}

func TestFindUplink(t *testing.T) {
	ip := netip.MustParseAddr
	for _, test := range []struct {
		name string
		host string
		o    netlinkx.UplinkOptions
		want string // found, or the error
	}{
		{"by name", "plain", netlinkx.UplinkOptions{Name: "eth0"}, "eth0 192.0.2.1 2001:db8::1"},
		{"by a name that is not there", "plain", netlinkx.UplinkOptions{Name: "eth7"},
			`no uplink: there is no interface named "eth7"; there are lo (127.0.0.1/8 ::1/128)`},
		{"the name comes first", "plain", netlinkx.UplinkOptions{Name: "eth0", Address: ip("198.51.100.1"), Pattern: "eth1"}, "eth0 192.0.2.1 2001:db8::1"},
		{"by address", "plain", netlinkx.UplinkOptions{Address: ip("198.51.100.1")}, "eth1 198.51.100.1 2001:db8:1::1"},
		{"by a secondary address", "plain", netlinkx.UplinkOptions{Address: ip("198.51.100.9")}, "eth1 198.51.100.9 2001:db8:1::1"},
		{"by IPv6 address", "plain", netlinkx.UplinkOptions{Address: ip("2001:db8::1")}, "eth0 192.0.2.1 2001:db8::1"},
		{"by mapped address", "plain", netlinkx.UplinkOptions{Address: ip("::ffff:192.0.2.1")}, "eth0 192.0.2.1 2001:db8::1"},
		{"by an address that is not there", "plain", netlinkx.UplinkOptions{Address: ip("192.0.2.7")},
			"no uplink: no interface has the address 192.0.2.7; there are"},
		{"by pattern on a name", "plain", netlinkx.UplinkOptions{Pattern: "^eth[1-9]$"}, "eth1 198.51.100.1 2001:db8:1::1"},
		{"by pattern on an address", "plain", netlinkx.UplinkOptions{Pattern: `^198\.51\.100\.9$`}, "eth1 198.51.100.9 2001:db8:1::1"},
		{"addresses match before names", "plain", netlinkx.UplinkOptions{Pattern: `^eth0$|^198\.`}, "eth1 198.51.100.1 2001:db8:1::1"},
		{"the lowest index of several, never loopback", "plain", netlinkx.UplinkOptions{Pattern: "."}, "eth0 192.0.2.1 2001:db8::1"},
		{"by a pattern that nothing matches", "plain", netlinkx.UplinkOptions{Pattern: "^ens"},
			`no uplink: no interface has an address or a name that matches "^ens"; there are`},
		{"by what it reaches", "plain", netlinkx.UplinkOptions{Reach: ip("203.0.113.1")}, "eth0 192.0.2.1 2001:db8::1"},
		{"by what it reaches from another address", "plain", netlinkx.UplinkOptions{Reach: ip("203.0.113.200")}, "eth1 198.51.100.9 2001:db8:1::1"},
		{"by what it reaches on-link", "plain", netlinkx.UplinkOptions{Reach: ip("198.51.100.3")}, "eth1 198.51.100.1 2001:db8:1::1"},
		{"by what it reaches through IPv6", "plain", netlinkx.UplinkOptions{Reach: ip("2001:db8:1::7")}, "eth1 198.51.100.1 2001:db8:1::1"},
		{"by reaching itself", "plain", netlinkx.UplinkOptions{Reach: ip("198.51.100.9")}, "eth1 198.51.100.9 2001:db8:1::1"},
		{"by what nothing reaches", "bare", netlinkx.UplinkOptions{Reach: ip("203.0.113.1")},
			"no uplink: no interface reaches 203.0.113.1: netlink receive: network is unreachable; there are lo (127.0.0.1/8 ::1/128), "},
		{"by default route, the lowest metric", "plain", netlinkx.UplinkOptions{}, "eth1 198.51.100.1 2001:db8:1::1"},
		{"by default route, only IPv6", "plain", netlinkx.UplinkOptions{IPv6: true}, "eth0 192.0.2.1 2001:db8::1"},
		{"by default route, both", "plain", netlinkx.UplinkOptions{IPv4: true, IPv6: true}, "eth1 198.51.100.1 2001:db8:1::1"},
		{"by IPv6 default route for want of another", "IPv6 only by default", netlinkx.UplinkOptions{IPv4: true}, "eth0 192.0.2.1 2001:db8::1"},
		{"by default route of several hops", "several hops", netlinkx.UplinkOptions{}, "eth1 198.51.100.1 -"},
		{"without a default route", "bare", netlinkx.UplinkOptions{},
			"no uplink: there is no default route to tell which interface it is; there are lo (127.0.0.1/8 ::1/128)"},
		{"no IPv6 address", "several hops", netlinkx.UplinkOptions{Name: "eth0", IPv6: true},
			"no uplink: interface eth0 has no IPv6 address that peers could reach; there are eth0 (192.0.2.1/24)"},
		{"no address", "bare", netlinkx.UplinkOptions{Name: "eth0"},
			"no uplink: interface eth0 has no IPv4 or IPv6 address that peers could reach; there are eth0"},
		{"published addresses", "plain", netlinkx.UplinkOptions{Name: "eth0", PublicIPv4: ip("203.0.113.9"), PublicIPv6: ip("2001:db8:9::9")},
			"eth0 203.0.113.9 2001:db8:9::9"},
		{"one published address", "bare", netlinkx.UplinkOptions{Name: "eth0", PublicIPv4: ip("203.0.113.9")}, "eth0 203.0.113.9 -"},
		{"a published address of one family does not do for the other", "bare", netlinkx.UplinkOptions{Name: "eth0", IPv6: true, PublicIPv4: ip("203.0.113.9")},
			"no uplink: interface eth0 has no IPv6 address that peers could reach; there are eth0"},
		{"the best addresses", "choice of addresses", netlinkx.UplinkOptions{Name: "eth0"}, "eth0 192.0.2.1 fd00::1"},
		{"another address on demand", "choice of addresses", netlinkx.UplinkOptions{Address: ip("10.0.0.1")}, "eth0 10.0.0.1 fd00::1"},
		{"a deprecated address on demand", "choice of addresses", netlinkx.UplinkOptions{Address: ip("2001:db8::1")}, "eth0 192.0.2.1 2001:db8::1"},
		{"no better address", "link-local only", netlinkx.UplinkOptions{Name: "eth0"}, "eth0 169.254.7.7 -"},
		{"a link-local IPv6 address does not do", "link-local only", netlinkx.UplinkOptions{Address: ip("fe80::1"), IPv6: true},
			"no uplink: interface eth0 has no IPv6 address that peers could reach; there are eth0 (169.254.7.7/16 fe80::1/64)"},
		{"loopback does not do", "plain", netlinkx.UplinkOptions{Name: "lo"},
			"no uplink: interface lo has no IPv4 or IPv6 address that peers could reach"},
	} {
		t.Run(test.name, func(t *testing.T) {
			check := func(t *testing.T, dial netlinkx.DialFunc) {
				o := test.o
				o.Dial = dial
				u, err := netlinkx.FindUplink(t.Context(), o)
				if err != nil {
					e, ok := errors.AsType[*netlinkx.NoUplinkError](err)
					if !ok || !errors.Is(err, netlinkx.ErrNoUplink) || e.Error() != err.Error() {
						t.Fatalf("the error is no *NoUplinkError alone: %v", err)
					}
					if !strings.HasPrefix(err.Error(), test.want) {
						t.Errorf("error %q, want %q", err, test.want)
					}
					return
				}
				if got := found(u); got != test.want {
					t.Errorf("found %s, want %s", got, test.want)
				}
			}
			t.Run("fake", func(t *testing.T) { check(t, onFake(t, uplinkHosts[test.host]).Dial) })
			t.Run("real", func(t *testing.T) { check(t, onLinux(t, uplinkHosts[test.host])) })
		})
	}
}

// What an uplink is besides its name and addresses.
func TestUplinkDetails(t *testing.T) {
	check := func(t *testing.T, dial netlinkx.DialFunc) {
		u, err := netlinkx.FindUplink(t.Context(), netlinkx.UplinkOptions{Name: "eth1", Dial: dial})
		if err != nil {
			t.Fatal(err)
		}
		var addrs []string
		for _, p := range u.Addrs {
			addrs = append(addrs, p.String())
		}
		if want := "198.51.100.1/24 198.51.100.9/24 2001:db8:1::1/64"; strings.Join(addrs, " ") != want {
			t.Errorf("addresses %v, want %s", addrs, want)
		}
		if u.Index <= 1 || u.MTU != 1400 || !u.Up {
			t.Errorf("%+v", u)
		}
	}
	t.Run("fake", func(t *testing.T) {
		k := onFake(t, uplinkHosts["plain"])
		check(t, k.Dial)
		k.SetCarrier("eth1", false)
		u, err := netlinkx.FindUplink(t.Context(), netlinkx.UplinkOptions{Name: "eth1", Dial: k.Dial})
		if err != nil || !u.Up || u.Running {
			t.Errorf("without carrier: %+v, %v", u, err)
		}
		k.SetUp("eth1", false)
		u, err = netlinkx.FindUplink(t.Context(), netlinkx.UplinkOptions{Name: "eth1", Dial: k.Dial})
		if err != nil || u.Up || u.Running {
			t.Errorf("down: %+v, %v", u, err)
		}
		if n := k.Stats().Sockets; n != 0 {
			t.Errorf("%d sockets are left open", n)
		}
	})
	t.Run("real", func(t *testing.T) { check(t, onLinux(t, uplinkHosts["plain"])) })
}

// Among IPv6 addresses the lasting ones are preferred.
func TestUplinkIPv6Address(t *testing.T) {
	for _, test := range []struct {
		name  string
		flags []uint32 // of 2001:db8::1, ::2, ...
		want  string
	}{
		{"the first", []uint32{0, 0}, "2001:db8::1"},
		{"not temporary", []uint32{unix.IFA_F_TEMPORARY, 0}, "2001:db8::2"},
		{"not deprecated", []uint32{unix.IFA_F_DEPRECATED, unix.IFA_F_MANAGETEMPADDR}, "2001:db8::2"},
		{"not tentative", []uint32{unix.IFA_F_TENTATIVE, unix.IFA_F_TEMPORARY}, "2001:db8::2"},
		{"if there is another", []uint32{unix.IFA_F_TENTATIVE}, "2001:db8::1"},
		{"never a duplicate", []uint32{unix.IFA_F_DADFAILED | unix.IFA_F_TENTATIVE}, ""},
		{"deprecated before tentative", []uint32{unix.IFA_F_TENTATIVE, unix.IFA_F_DEPRECATED}, "2001:db8::2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := onFake(t, uplinkHosts["bare"])
			for i, flags := range test.flags {
				k.AddAddress("eth0", netlinktest.Addr{
					Prefix: netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i + 1)}), 64),
					Flags:  flags,
				})
			}
			u, err := netlinkx.FindUplink(t.Context(), netlinkx.UplinkOptions{Name: "eth0", IPv6: true, Dial: k.Dial})
			if test.want == "" {
				if !errors.Is(err, netlinkx.ErrNoUplink) {
					t.Errorf("found %v, %v", u.IPv6, err)
				}
				return
			}
			if err != nil || u.IPv6.String() != test.want {
				t.Errorf("chose %v, want %s; %v", u.IPv6, test.want, err)
			}
		})
	}
}

func TestUplinkOptionsChecked(t *testing.T) {
	ip := netip.MustParseAddr
	for _, test := range []struct {
		o    netlinkx.UplinkOptions
		want string
	}{
		{netlinkx.UplinkOptions{Pattern: "eth["}, `option Pattern "eth[":`},
		{netlinkx.UplinkOptions{Address: ip("224.0.0.1")}, "option Address 224.0.0.1: must be a unicast address"},
		{netlinkx.UplinkOptions{Reach: ip("0.0.0.0")}, "option Reach 0.0.0.0: must be a unicast address"},
		{netlinkx.UplinkOptions{PublicIPv4: ip("2001:db8::1")}, "option PublicIPv4 2001:db8::1: must be an IPv4 address"},
		{netlinkx.UplinkOptions{PublicIPv6: ip("192.0.2.1")}, "option PublicIPv6 192.0.2.1: must be an IPv6 address"},
	} {
		test.o.Dial = func(...uint32) (*netlink.Conn, error) {
			t.Error("it asked the kernel")
			return nil, errors.New("no")
		}
		if _, err := netlinkx.FindUplink(t.Context(), test.o); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v, want %s", err, test.want)
		}
	}
}

func TestFindUplinkFails(t *testing.T) {
	k := onFake(t, uplinkHosts["plain"])
	for name, test := range map[string]struct {
		o    netlinkx.UplinkOptions
		fail func(m netlink.Message) error
	}{
		"links":     {netlinkx.UplinkOptions{Name: "eth0"}, func(netlink.Message) error { return unix.EPERM }},
		"addresses": {netlinkx.UplinkOptions{Name: "eth0"}, refuse(unix.RTM_GETADDR)},
		"routes":    {netlinkx.UplinkOptions{}, refuse(unix.RTM_GETROUTE)},
	} {
		k.Fail(test.fail)
		test.o.Dial = k.Dial
		_, err := netlinkx.FindUplink(t.Context(), test.o)
		if !errors.Is(err, syscall.EPERM) || errors.Is(err, netlinkx.ErrNoUplink) {
			t.Errorf("%s: %v", name, err)
		}
	}
	k.Fail(nil)

	broken := errors.New("broken")
	_, err := netlinkx.FindUplink(t.Context(), netlinkx.UplinkOptions{Dial: func(...uint32) (*netlink.Conn, error) { return nil, broken }})
	if !errors.Is(err, broken) {
		t.Errorf("dial: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := netlinkx.FindUplink(ctx, netlinkx.UplinkOptions{Dial: k.Dial}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if n := k.Stats().Sockets; n != 0 {
		t.Errorf("%d sockets are left open", n)
	}
}

func refuse(typ netlink.HeaderType) func(m netlink.Message) error {
	return func(m netlink.Message) error {
		if m.Header.Type == typ {
			return unix.EPERM
		}
		return nil
	}
}
