package filter

import (
	"net/netip"
	"testing"
)

func TestConfigCheck(t *testing.T) {
	f := func(network, subnet string) Family {
		return Family{netip.MustParsePrefix(network), netip.MustParsePrefix(subnet)}
	}
	for _, c := range []struct {
		name string
		c    Config
		want string
	}{
		{"nothing", Config{}, ""},
		{"both", Config{IPv4: f("10.5.0.0/16", "10.5.1.0/24"), IPv6: f("fd00:5::/48", "fd00:5:0:1::/64"), Uplink: "eth0"}, ""},
		{"the whole network is this node's", Config{IPv4: f("10.5.1.0/24", "10.5.1.0/24")}, ""},
		{"no subnet", Config{IPv4: Family{Network: netip.MustParsePrefix("10.5.0.0/16")}}, "IPv4 subnet invalid Prefix: must be an IPv4 prefix"},
		{"other family", Config{IPv4: f("fd00:5::/48", "fd00:5:0:1::/64")}, "IPv4 network fd00:5::/48: must be an IPv4 prefix"},
		{"mapped", Config{IPv6: f("::ffff:10.5.0.0/112", "::ffff:10.5.1.0/120")}, "IPv6 network ::ffff:10.5.0.0/112: must be an IPv6 prefix"},
		{"host bits", Config{IPv4: f("10.5.0.0/16", "10.5.1.1/24")}, "IPv4 subnet 10.5.1.1/24: must be masked, as in 10.5.1.0/24"},
		{"everything", Config{IPv4: f("0.0.0.0/0", "10.5.1.0/24")}, "IPv4 network 0.0.0.0/0: must not be everything"},
		{"elsewhere", Config{IPv4: f("10.5.0.0/16", "10.6.1.0/24")}, "IPv4 subnet 10.6.1.0/24: must lie inside the network 10.5.0.0/16"},
		{"wider", Config{IPv4: f("10.5.0.0/16", "10.0.0.0/8")}, "IPv4 subnet 10.0.0.0/8: must lie inside the network 10.5.0.0/16"},
		{"long name", Config{Uplink: "sixteen-letters-"}, `uplink "sixteen-letters-": must be an interface name of at most 15 bytes`},
	} {
		_, err := New(c.c)
		if got := errorText(err); got != c.want {
			t.Errorf("%s: New: %q, want %q", c.name, got, c.want)
		}
		var filter Filter
		if got := errorText(filter.Update(c.c)); got != c.want {
			t.Errorf("%s: Update: %q, want %q", c.name, got, c.want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
