package netlinkx

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/jsimonetti/rtnetlink/v2"
	"golang.org/x/sys/unix"
)

func addressMessage(t testing.TB, flags uint32) []byte {
	t.Helper()
	m := rtnetlink.AddressMessage{
		Family: unix.AF_INET6, PrefixLength: 64, Index: 7, Scope: unix.RT_SCOPE_LINK, Flags: uint8(flags),
		Attributes: &rtnetlink.AddressAttributes{Address: netip.MustParseAddr("2001:db8::1").AsSlice(), Flags: flags},
	}
	b, err := m.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecodeAddress(t *testing.T) {
	const flags = unix.IFA_F_DEPRECATED | unix.IFA_F_MANAGETEMPADDR // which does not fit into the header
	got, err := decodeAddress(addressMessage(t, flags))
	want := address{addressInfo{index: 7, prefix: netip.MustParsePrefix("2001:db8::1/64")}, flags, unix.RT_SCOPE_LINK}
	if err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

// FuzzUplinkMessages feeds what may come instead of the messages that FindUplink
// asks for to what reads them.
func FuzzUplinkMessages(f *testing.F) {
	f.Add(addressMessage(f, unix.IFA_F_PERMANENT))
	route := []byte{unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, 3, 0, unix.RTN_UNICAST, 0, 0, 0, 0}
	hop := binary.NativeEndian.AppendUint32([]byte{8, 0, 0, 0}, 5)
	f.Add(append(append(route, 12, 0, unix.RTA_MULTIPATH, 0), hop...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := decodeAddress(b); err == nil {
			if !a.prefix.IsValid() {
				t.Fatalf("%+v", a)
			}
			if ip := best([]address{a}, a.prefix.Addr().Is4(), netip.Addr{}); ip.IsValid() && (ip != a.prefix.Addr() || ip.IsLoopback() || ip.IsMulticast()) {
				t.Fatalf("%v is best of %+v", ip, a)
			}
		}
		if _, _, _, err := decodeRoute(b); err == nil {
			firstHop(b)
		}
	})
}
