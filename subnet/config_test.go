package subnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func rng(network string, length int, first, last string) Range {
	return Range{netip.MustParsePrefix(network), length, netip.MustParseAddr(first), netip.MustParseAddr(last)}
}

func mustConfig(t testing.TB, text string) Config {
	t.Helper()
	c, err := ParseConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// withBackend completes the fields of a test case to a config.
func withBackend(fields string) string {
	if fields != "" {
		fields += ","
	}
	return "{" + fields + `"Backend":{"Type":"host-gw"}}`
}

func TestParseConfig(t *testing.T) {
	tests := []struct {
		name, fields string
		want         Config
	}{
		{"the workflow's", `"Network":"192.168.0.0/16","SubnetLen":26,"SubnetMin":"192.168.0.64","SubnetMax":"192.168.250.192"`,
			Config{IPv4: rng("192.168.0.0/16", 26, "192.168.0.64", "192.168.250.192")}},
		{"defaults", `"Network":"10.5.0.0/16"`,
			Config{IPv4: rng("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0")}},
		{"widest network", `"Network":"10.0.0.0/8"`,
			Config{IPv4: rng("10.0.0.0/8", 24, "10.0.1.0", "10.255.255.0")}},
		{"last network cut in /24s", `"Network":"10.5.0.0/22"`,
			Config{IPv4: rng("10.5.0.0/22", 24, "10.5.1.0", "10.5.3.0")}},
		{"first network cut in four", `"Network":"10.5.0.0/23"`,
			Config{IPv4: rng("10.5.0.0/23", 25, "10.5.0.128", "10.5.1.128")}},
		{"narrowest network", `"Network":"10.5.0.16/28"`,
			Config{IPv4: rng("10.5.0.16/28", 30, "10.5.0.20", "10.5.0.28")}},
		{"host bits masked off", `"Network":"10.5.77.1/16"`,
			Config{IPv4: rng("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0")}},
		{"zero length is the default", `"Network":"10.5.0.0/16","SubnetLen":0`,
			Config{IPv4: rng("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0")}},
		{"unspecified ends are the default", `"Network":"10.5.0.0/16","SubnetMin":"0.0.0.0","SubnetMax":"0.0.0.0"`,
			Config{IPv4: rng("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0")}},
		{"null is absent", `"EnableIPv4":null,"EnableIPv6":null,"Network":"10.5.0.0/16","SubnetLen":null,"SubnetMin":null,"IPv6Network":null`,
			Config{IPv4: rng("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0")}},
		{"first subnet if asked for", `"Network":"10.5.0.0/16","SubnetMin":"10.5.0.0","SubnetMax":"10.5.0.0"`,
			Config{IPv4: rng("10.5.0.0/16", 24, "10.5.0.0", "10.5.0.0")}},
		{"longest subnet", `"Network":"10.5.0.0/16","SubnetLen":30`,
			Config{IPv4: rng("10.5.0.0/16", 30, "10.5.0.4", "10.5.255.252")}},
		{"shortest subnet", `"Network":"10.5.0.0/16","SubnetLen":18`,
			Config{IPv4: rng("10.5.0.0/16", 18, "10.5.64.0", "10.5.192.0")}},
		{"any case, unknown fields", `"network":"10.5.0.0/16","SUBNETLEN":26,"Colour":"blue","Networks":[1]`,
			Config{IPv4: rng("10.5.0.0/16", 26, "10.5.0.64", "10.5.255.192")}},
		{"a family that is off", `"Network":"10.5.0.0/16","IPv6Network":"ff00::/8","IPv6SubnetLen":127`,
			Config{IPv4: rng("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0")}},
		{"dual-stack", `"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd99::/48"`,
			Config{rng("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0"), rng("fd99::/48", 64, "fd99:0:0:1::", "fd99:0:0:ffff::")}},
		{"IPv6 alone", `"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd99::/62","IPv6SubnetMin":"::"`,
			Config{IPv6: rng("fd99::/62", 64, "fd99:0:0:1::", "fd99:0:0:3::")}},
		{"first IPv6 network cut in four", `"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd99::/63"`,
			Config{IPv6: rng("fd99::/63", 65, "fd99:0:0:0:8000::", "fd99:0:0:1:8000::")}},
		{"narrowest IPv6 network", `"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd99::10/124"`,
			Config{IPv6: rng("fd99::10/124", 126, "fd99::14", "fd99::1c")}},
		{"widest IPv6 network, longest subnet", `"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/7","IPv6SubnetLen":126`,
			Config{IPv6: rng("fc00::/7", 126, "fc00::4", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:fffc")}},
		{"IPv6 fields", `"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd99::/48","IPv6SubnetLen":60,"IPv6SubnetMin":"fd99:0:0:20::","IPv6SubnetMax":"fd99:0:0:80::"`,
			Config{IPv6: rng("fd99::/48", 60, "fd99:0:0:20::", "fd99:0:0:80::")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseConfig([]byte(withBackend(tt.fields)))
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("got  %v\nwant %v", got, tt.want)
			}
		})
	}
	if _, err := ParseConfig([]byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"HOST-GW","Port":1}}`)); err != nil {
		t.Errorf("flannel ignores the case of the backend: %v", err)
	}
}

func TestParseConfigRefuses(t *testing.T) {
	const v4, v6 = `"Network":"10.5.0.0/16"`, `"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd99::/48"`
	alone6 := func(network string) string {
		return `"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"` + network + `"`
	}
	tests := []struct {
		fields             string
		field, value, rule string // rule is a part of it
	}{
		// What is there and of which type.
		{``, "Network", "", "must be set"},
		{`"Network":null`, "Network", "", "must be set"},
		{`"Network":""`, "Network", `""`, "such as 10.5.0.0/16"},
		{`"Network":7`, "Network", "7", "must be a string"},
		{`"Network":"10.5.0.0"`, "Network", `"10.5.0.0"`, "such as 10.5.0.0/16"},
		{`"Network":"10.5.0.0/33"`, "Network", `"10.5.0.0/33"`, "such as 10.5.0.0/16"},
		{`"Network":["10.5.0.0/16"]`, "Network", `["10.5.0.0/16"]`, "must be a string"},
		{v4 + `,"SubnetLen":"24"`, "SubnetLen", `"24"`, "must be a whole number"},
		{v4 + `,"SubnetLen":-1`, "SubnetLen", "-1", "must be a whole number"},
		{v4 + `,"SubnetLen":24.5`, "SubnetLen", "24.5", "must be a whole number"},
		{v4 + `,"SubnetLen":99999999999999999999`, "SubnetLen", "99999999999999999999", "must be a whole number"},
		{v4 + `,"SubnetLen":18446744073709551615`, "SubnetLen", "18446744073709551615", "must be at most 30"},
		{v4 + `,"SubnetMin":1`, "SubnetMin", "1", "must be a string"},
		{v4 + `,"SubnetMin":""`, "SubnetMin", `""`, "must be an IPv4 address"},
		{v4 + `,"SubnetMax":"10.5"`, "SubnetMax", `"10.5"`, "must be an IPv4 address"},
		{v4 + `,"EnableIPv4":"yes"`, "EnableIPv4", `"yes"`, "must be true or false"},
		{v4 + `,"EnableIPv6":1`, "EnableIPv6", "1", "must be true or false"},
		{v4 + `,"IPv6Network":"fd99"`, "IPv6Network", `"fd99"`, "such as fd99::/48"}, // switched off, yet unreadable
		{`"EnableIPv4":false`, "EnableIPv4", "false", "must be true if EnableIPv6 is not"},
		{v4 + `,"EnableIPv6":true`, "IPv6Network", "", "must be set"},

		// Networks.
		{`"Network":"10.5.0.0/29","SubnetLen":31`, "Network", "10.5.0.0/29", "must be a /28 or wider"},
		{`"Network":"10.5.0.0/32"`, "Network", "10.5.0.0/32", "must be a /28 or wider"},
		{`"Network":"0.0.0.0/0"`, "Network", "0.0.0.0/0", "must be a /8 or narrower"},
		{`"Network":"10.0.0.0/7"`, "Network", "10.0.0.0/7", "must be a /8 or narrower"},
		{`"Network":"0.5.0.0/16"`, "Network", "0.5.0.0/16", "unspecified addresses 0.0.0.0/8"},
		{`"Network":"127.5.0.0/16"`, "Network", "127.5.0.0/16", "loopback addresses 127.0.0.0/8"},
		{`"Network":"169.0.0.0/8"`, "Network", "169.0.0.0/8", "link-local addresses 169.254.0.0/16"},
		{`"Network":"239.5.0.0/16"`, "Network", "239.5.0.0/16", "multicast addresses 224.0.0.0/4"},
		{`"Network":"255.255.0.0/16"`, "Network", "255.255.0.0/16", "broadcast addresses 255.255.255.255/32"},
		{`"Network":"fd99::/48"`, "Network", "fd99::/48", "must be an IPv4 network"},
		{`"Network":"::ffff:10.5.0.0/112"`, "Network", "::ffff:10.5.0.0/112", "must be an IPv4 network"},
		{alone6("10.5.0.0/16"), "IPv6Network", "10.5.0.0/16", "must be an IPv6 network"},
		{alone6("::ffff:10.5.0.0/112"), "IPv6Network", "::ffff:10.5.0.0/112", "not IPv4-mapped"},
		{alone6("::/0"), "IPv6Network", "::/0", "must be a /7 or narrower"},
		{alone6("2000::/3"), "IPv6Network", "2000::/3", "must be a /7 or narrower"},
		{alone6("::/64"), "IPv6Network", "::/64", "loopback"},
		{alone6("fe80::/64"), "IPv6Network", "fe80::/64", "link-local"},
		{alone6("ff05::/64"), "IPv6Network", "ff05::/64", "multicast"},
		{alone6("fd99::/125"), "IPv6Network", "fd99::/125", "must be a /124 or wider"},

		// Lengths.
		{v4 + `,"SubnetLen":31`, "SubnetLen", "31", "must be at most 30"},
		{v4 + `,"SubnetLen":17`, "SubnetLen", "17", "must be at least 18"},
		{v4 + `,"SubnetLen":1`, "SubnetLen", "1", "must be at least 18"},
		{v6 + `,"IPv6SubnetLen":127`, "IPv6SubnetLen", "127", "must be at most 126"},
		{v6 + `,"IPv6SubnetLen":129`, "IPv6SubnetLen", "129", "must be at most 126"},
		{v6 + `,"IPv6SubnetLen":49`, "IPv6SubnetLen", "49", "must be at least 50"},

		// Ends.
		{v4 + `,"SubnetMin":"10.6.0.0"`, "SubnetMin", "10.6.0.0", "must lie inside Network 10.5.0.0/16"},
		{v4 + `,"SubnetMax":"10.4.255.0"`, "SubnetMax", "10.4.255.0", "must lie inside Network 10.5.0.0/16"},
		{v4 + `,"SubnetMin":"10.5.1.1"`, "SubnetMin", "10.5.1.1", "must be the first address of a /24"},
		{v4 + `,"SubnetMax":"10.5.255.255"`, "SubnetMax", "10.5.255.255", "must be the first address of a /24"},
		{v4 + `,"SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"`, "SubnetMax", "10.5.8.0", "must not be below SubnetMin 10.5.9.0"},
		{v4 + `,"SubnetMax":"10.5.0.0"`, "SubnetMax", "10.5.0.0", "must not be below SubnetMin 10.5.1.0"},
		{v4 + `,"SubnetMin":"fd99::"`, "SubnetMin", "fd99::", "must be an IPv4 address"},
		{v4 + `,"SubnetMin":"::"`, "SubnetMin", "::", "must be an IPv4 address"},
		{v4 + `,"SubnetMin":"::ffff:10.5.1.0"`, "SubnetMin", "::ffff:10.5.1.0", "not IPv4-mapped"},
		{v6 + `,"IPv6SubnetMin":"10.5.1.0"`, "IPv6SubnetMin", "10.5.1.0", "must be an IPv6 address"},
		{v6 + `,"IPv6SubnetMin":"fd99:0:0:1::%eth0"`, "IPv6SubnetMin", "fd99:0:0:1::%eth0", "without a zone"},
		{v6 + `,"IPv6SubnetMax":"fd99:0:0:1::1"`, "IPv6SubnetMax", "fd99:0:0:1::1", "must be the first address of a /64"},
		{v6 + `,"IPv6SubnetMax":"fd98::"`, "IPv6SubnetMax", "fd98::", "must lie inside IPv6Network fd99::/48"},
		{v6 + `,"IPv6SubnetMin":"fd99:0:0:9::","IPv6SubnetMax":"fd99:0:0:8::"`, "IPv6SubnetMax", "fd99:0:0:8::", "must not be below IPv6SubnetMin fd99:0:0:9::"},
	}
	for _, tt := range tests {
		t.Run(tt.fields, func(t *testing.T) {
			wantConfigError(t, withBackend(tt.fields), tt.field, tt.value, tt.rule)
		})
	}
	for _, tt := range []struct{ text, field, value, rule string }{
		{``, "", "", "must be a JSON object"},
		{`[]`, "", "", "must be a JSON object"},
		{`{"Network":`, "", "", "must be a JSON object"},
		{withBackend(v4) + "x", "", "", "must be a JSON object"},
		{`null`, "Backend.Type", "", `must be "host-gw"`},
		{`{` + v4 + `}`, "Backend.Type", "", `must be "host-gw" (flannel's default is udp)`},
		{`{` + v4 + `,"Backend":null}`, "Backend.Type", "", `must be "host-gw"`},
		{`{` + v4 + `,"Backend":{}}`, "Backend.Type", "", `must be "host-gw"`},
		{`{` + v4 + `,"Backend":{"Type":"vxlan"}}`, "Backend.Type", "vxlan", `must be "host-gw"`},
		{`{` + v4 + `,"Backend":{"Type":5}}`, "Backend.Type", "5", `must be "host-gw"`},
		{`{` + v4 + `,"Backend":"host-gw"}`, "Backend", `"host-gw"`, "must be an object"},
	} {
		t.Run(tt.text, func(t *testing.T) {
			wantConfigError(t, tt.text, tt.field, tt.value, tt.rule)
		})
	}
}

func wantConfigError(t *testing.T, text, field, value, rule string) {
	t.Helper()
	c, err := ParseConfig([]byte(text))
	var bad *ConfigError
	if !errors.As(err, &bad) {
		t.Fatalf("got %v, %v; want a *ConfigError", c, err)
	}
	if c != (Config{}) {
		t.Errorf("got %v beside the error", c)
	}
	if bad.Field != field || bad.Value != value || !strings.Contains(bad.Rule, rule) {
		t.Errorf("got field %q, value %q, rule %q\nwant %q, %q, %q", bad.Field, bad.Value, bad.Rule, field, value, rule)
	}
	for _, part := range []string{field, value, rule} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("message %q does not name %q", err, part)
		}
	}
}

func TestConfigErrorMessage(t *testing.T) {
	for text, want := range map[string]string{
		withBackend(`"Network":"10.5.0.0/16","SubnetLen":31`):  `network config: SubnetLen is 31, it must be at most 30`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`: `network config: Backend.Type is vxlan, it must be "host-gw"`,
		`{"Network":"10.5.0.0/16"}`:                            `network config: Backend.Type is missing, it must be "host-gw" (flannel's default is udp)`,
		`{"Network"`:                                           `network config must be a JSON object: unexpected end of JSON input`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"a\nb"}}`:  `network config: Backend.Type is "a\nb", it must be "host-gw"`,
	} {
		if _, err := ParseConfig([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%s:\ngot  %v\nwant %s", text, err, want)
		}
	}
	_, err := ParseConfig([]byte(withBackend(`"Network":"` + strings.Repeat("a", 1<<20) + `"`)))
	if wrapped := errors.Unwrap(err); err == nil || wrapped == nil {
		t.Errorf("a huge value: got %v, want an error that wraps the parser's", err)
	}
}

func TestConfigComplete(t *testing.T) {
	got, err := Config{IPv4: Range{Network: netip.MustParsePrefix("10.5.9.9/16")}, IPv6: Range{Network: netip.MustParsePrefix("fd99::/48")}}.Complete()
	want := Config{rng("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0"), rng("fd99::/48", 64, "fd99:0:0:1::", "fd99:0:0:ffff::")}
	if err != nil || got != want {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if again, err := got.Complete(); err != nil || again != got {
		t.Errorf("completing again gives %v, %v", again, err)
	}
	for name, tt := range map[string]struct {
		c     Config
		field string
	}{
		"no family":        {Config{}, "EnableIPv4"},
		"no network":       {Config{IPv4: Range{SubnetLen: 24}}, "Network"},
		"invalid network":  {Config{IPv4: Range{Network: netip.PrefixFrom(netip.MustParseAddr("10.5.0.0"), 77)}}, "Network"},
		"negative length":  {Config{IPv4: Range{Network: netip.MustParsePrefix("10.5.0.0/16"), SubnetLen: -1}}, "SubnetLen"},
		"huge length":      {Config{IPv6: Range{Network: netip.MustParsePrefix("fd99::/48"), SubnetLen: 1 << 40}}, "IPv6SubnetLen"},
		"swapped families": {Config{IPv4: Range{Network: netip.MustParsePrefix("fd99::/48")}}, "Network"},
	} {
		_, err := tt.c.Complete()
		var bad *ConfigError
		if !errors.As(err, &bad) || bad.Field != tt.field {
			t.Errorf("%s: got %v, want a *ConfigError about %s", name, err, tt.field)
		}
		if _, err := json.Marshal(tt.c); !errors.As(err, &bad) {
			t.Errorf("%s: marshalling gave %v, want a *ConfigError", name, err)
		}
	}
}

func TestConfigMarshalJSON(t *testing.T) {
	for _, text := range []string{
		`{"Network":"192.168.0.0/16","SubnetLen":26,"SubnetMin":"192.168.0.64","SubnetMax":"192.168.250.192","Backend":{"Type":"host-gw"}}`,
		`{"Network":"10.5.0.0/16","SubnetLen":24,"SubnetMin":"10.5.1.0","SubnetMax":"10.5.255.0","EnableIPv6":true,"IPv6Network":"fd99::/48","IPv6SubnetLen":64,"IPv6SubnetMin":"fd99:0:0:1::","IPv6SubnetMax":"fd99:0:0:ffff::","Backend":{"Type":"host-gw"}}`,
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd99::/48","IPv6SubnetLen":64,"IPv6SubnetMin":"fd99:0:0:1::","IPv6SubnetMax":"fd99:0:0:ffff::","Backend":{"Type":"host-gw"}}`,
	} {
		if got, err := json.Marshal(mustConfig(t, text)); err != nil || string(got) != text {
			t.Errorf("got  %s, %v\nwant %s", got, err, text)
		}
	}
}

func TestConfigFits(t *testing.T) {
	const v4, v6 = `"Network":"10.5.0.0/16"`, `"EnableIPv6":true,"IPv6Network":"fd99::/48"`
	configs := []Config{
		mustConfig(t, withBackend(v4)),
		mustConfig(t, withBackend(v6+`,"EnableIPv4":false`)),
		mustConfig(t, withBackend(v4+","+v6)),
	}
	for key, want := range map[string][]bool{ // IPv4, IPv6, dual-stack
		"":                              {false, false, false},
		"10.5.1.0-24":                   {true, false, false},
		"10.5.0.0-24":                   {false, false, false}, // below SubnetMin
		"10.5.1.0-25":                   {false, false, false},
		"10.6.1.0-24":                   {false, false, false},
		"fd99:0:0:4b::-64":              {false, true, false},
		"10.5.1.0-24&fd99:0:0:4b::-64":  {false, false, true},
		"10.5.1.0-24&fd99:0:0:4b::-65":  {false, false, false},
		"10.9.1.0-24&fd99:0:0:4b::-64":  {false, false, false},
		"10.5.255.0-24&fd99:0:0:1::-64": {false, false, true},
	} {
		var k Key
		if key != "" {
			k = mustKey(t, key)
		}
		got := make([]bool, len(configs))
		for i, c := range configs {
			got[i] = c.Fits(k)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %v, want %v", key, got, want)
		}
	}
	for i, want := range []string{"[10.5.0.0/16]", "[fd99::/48]", "[10.5.0.0/16 fd99::/48]"} {
		if got := fmt.Sprint(configs[i].Networks()); got != want {
			t.Errorf("networks are %s, want %s", got, want)
		}
	}
	if (Config{}).Fits(Key{}) {
		t.Error("the zero config fits the zero key")
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, s := range []string{
		`{"Network":"192.168.0.0/16","SubnetLen":26,"SubnetMin":"192.168.0.64","SubnetMax":"192.168.250.192","Backend":{"Type":"host-gw"}}`,
		`{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd99::/48","Backend":{"Type":"host-gw"}}`,
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/7","IPv6SubnetLen":126,"Backend":{"Type":"host-gw"}}`,
		`{"network":"10.5.0.7/28","SubnetMax":"10.5.0.4","Backend":{"Type":"Host-GW"}}`,
		`{"Network":"255.255.255.0/24","Backend":{"Type":"host-gw"}}`,
		`{"Network":7}`, `null`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig(data)
		if err != nil {
			var bad *ConfigError
			if !errors.As(err, &bad) || bad.Rule == "" {
				t.Fatalf("got %#v, want a *ConfigError with a rule", err)
			}
			return
		}
		for _, r := range []Range{c.IPv4, c.IPv6} {
			if !r.IsValid() {
				continue
			}
			n := r.Len()
			if n == 0 || r.Subnet(0).Addr() != r.Min || !r.Fits(r.Subnet(n-1)) || r.Subnet(n).IsValid() {
				t.Fatalf("range %v has %d subnets from %v to %v", r, n, r.Subnet(0), r.Subnet(n-1))
			}
		}
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseConfig(text); err != nil || again != c {
			t.Fatalf("%s\nreads back as %v, %v\nwant %v", text, again, err, c)
		}
	})
}
