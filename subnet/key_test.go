package subnet

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func mustKey(t testing.TB, s string) Key {
	t.Helper()
	k, err := ParseKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKey(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("192.168.1.192/26"), netip.MustParsePrefix("fd99:0:0:4b::/64")
	for text, want := range map[string]Key{
		"192.168.1.192-26":                  {IPv4: v4},
		"192.168.1.192-26&fd99:0:0:4b::-64": {IPv4: v4, IPv6: v6},
		"fd99:0:0:4b::-64":                  {IPv6: v6},
	} {
		if got, err := ParseKey(text); err != nil || got != want {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
		if got := want.String(); got != text {
			t.Errorf("got %q, want %q", got, text)
		}
	}
	if got := (Key{}).String(); got != "" {
		t.Errorf("the zero key is written %q", got)
	}
}

func TestParseKeyRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "must be an address, a hyphen and a prefix length",
		"10.5.1.0":                               "must be an address, a hyphen and a prefix length",
		"10.5.1.0/24":                            "must be an address, a hyphen and a prefix length",
		"config-24":                              "must start with an IP address",
		"-24":                                    "must start with an IP address",
		"10.5.1-24":                              "must start with an IP address",
		"010.5.1.0-24":                           "must start with an IP address",
		" 10.5.1.0-24":                           "must start with an IP address",
		"10.5.1.0-":                              "prefix length must be a number from 0 to 32",
		"10.5.1.0-33":                            "prefix length must be a number from 0 to 32",
		"10.5.1.0--1":                            "prefix length must be a number from 0 to 32",
		"10.5.1.0-24-24":                         "prefix length must be a number from 0 to 32",
		"10.5.1.0-24 ":                           "prefix length must be a number from 0 to 32",
		"10.5.1.0-024":                           `must be written "10.5.1.0-24"`,
		"fd99::-129":                             "prefix length must be a number from 0 to 128",
		"fd99:0:0:4b:0:0:0:0-64":                 `must be written "fd99:0:0:4b::-64"`,
		"FD99:0:0:4b::-64":                       `must be written "fd99:0:0:4b::-64"`,
		"fd99::%eth0-64":                         "must not be IPv4-mapped or have a zone",
		"::ffff:10.5.1.0-120":                    "must not be IPv4-mapped or have a zone",
		"10.5.1.0-24&":                           "must be an address, a hyphen and a prefix length",
		"&fd99:0:0:4b::-64":                      "must be an address, a hyphen and a prefix length",
		"10.5.1.0-24&10.5.2.0-24":                "IPv4 must come before &",
		"fd99:0:0:4b::-64&10.5.1.0-24":           "IPv4 must come before &",
		"fd99::-64&fd99:0:0:4b::-64":             "IPv4 must come before &",
		"10.5.1.0-24&fd99::-64&fd99:1::-64":      "prefix length must be a number from 0 to 128",
		"10.5.1.7-24":                            "host bits are set past /24 of 10.5.1.7",
		"10.5.1.0-24&fd99:0:0:4b::1-64":          "host bits are set past /64 of fd99:0:0:4b::1",
		"10.5.1.0-24\n":                          "prefix length must be a number from 0 to 32",
		"10.5.1.0-99999999999999999999999":       "prefix length must be a number from 0 to 32",
		"10.5.1.0-24" + strings.Repeat(" ", 1e6): "prefix length must be a number from 0 to 32",
	} {
		k, err := ParseKey(text)
		if err == nil || k != (Key{}) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.50q: got %v, %v; want an error with %q", text, k, err, want)
			continue
		}
		if len(err.Error()) > 1000 || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.50q: a log line of %d bytes: %.100q", text, len(err.Error()), err)
		}
		if got, want := errors.Is(err, ErrHostBits), strings.Contains(want, "host bits"); got != want {
			t.Errorf("%q: wraps ErrHostBits is %v, want %v", text, got, want)
		}
	}
}

func TestKeyOverlaps(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"10.5.1.0-24", "10.5.1.0-24", true},
		{"10.5.1.0-24", "10.5.2.0-24", false},
		{"10.5.1.0-24", "10.5.0.0-16", true},
		{"10.5.1.0-24", "10.5.1.128-25&fd99::-64", true},
		{"10.5.1.0-24", "fd99::-64", false},
		{"0.0.0.0-0", "::-0", false},
		{"10.5.1.0-24&fd99::-64", "10.5.2.0-24&fd99::-64", true},
		{"10.5.1.0-24&fd99::-64", "10.5.2.0-24&fd99:0:0:1::-64", false},
		{"10.5.1.0-24&fd99::-64", "fd99::-48", true},
	} {
		a, b := mustKey(t, tt.a), mustKey(t, tt.b)
		if a.Overlaps(b) != tt.want || b.Overlaps(a) != tt.want {
			t.Errorf("%s and %s: got %v and %v, want %v", a, b, a.Overlaps(b), b.Overlaps(a), tt.want)
		}
	}
	if (Key{}).Overlaps(Key{}) || (Key{}).Overlaps(mustKey(t, "10.5.1.0-24")) {
		t.Error("the zero key overlaps something")
	}
}

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{
		"10.5.1.0-24", "10.5.1.0-24&fd99:0:0:4b::-64", "fd99:0:0:4b::-64", "0.0.0.0-0", "::-0",
		"10.5.1.7-24", "::ffff:10.5.1.0-120", "fd99::%eth0-64", "1::2:0:0-112", "&", "-", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseKey(s)
		if err != nil {
			if k != (Key{}) {
				t.Fatalf("got %v beside %v", k, err)
			}
			return
		}
		if got := k.String(); got != s {
			t.Fatalf("%q is written back as %q", s, got)
		}
		for _, p := range []netip.Prefix{k.IPv4, k.IPv6} {
			if p != (netip.Prefix{}) && (!p.IsValid() || p != p.Masked() || p.Addr().Is4In6()) {
				t.Fatalf("%q holds the prefix %v", s, p)
			}
		}
		if k.IPv4.IsValid() && !k.IPv4.Addr().Is4() || k.IPv6.IsValid() && !k.IPv6.Addr().Is6() || k == (Key{}) {
			t.Fatalf("%q has the wrong families: %#v", s, k)
		}
	})
}
