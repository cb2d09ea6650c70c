package subnet

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestHolderJSON(t *testing.T) {
	v4, v6 := netip.MustParseAddr("172.17.42.41"), netip.MustParseAddr("fd17::41")
	for text, want := range map[string]Holder{
		`{"PublicIP":"172.17.42.41","PublicIPv6":null,"BackendType":"host-gw"}`:       {PublicIP: v4, BackendType: "host-gw"},
		`{"PublicIP":"172.17.42.41","PublicIPv6":"fd17::41","BackendType":"host-gw"}`: {PublicIP: v4, PublicIPv6: v6, BackendType: "host-gw"},
		`{"PublicIP":"0.0.0.0","PublicIPv6":"fd17::41","BackendType":"host-gw"}`:      {PublicIPv6: v6, BackendType: "host-gw"},
		`{"PublicIP":"172.17.42.41","PublicIPv6":null}`:                               {PublicIP: v4},
		`{"PublicIP":"172.17.42.41","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4e"},"BackendV6Data":null}`: {
			PublicIP: v4, BackendType: "vxlan",
			BackendData:   json.RawMessage(`{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4e"}`),
			BackendV6Data: json.RawMessage(`null`)},
	} {
		got, err := ParseHolder([]byte(text))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\ngot  %+v, %v\nwant %+v", text, got, err, want)
		}
		if back, err := json.Marshal(want); err != nil || string(back) != text {
			t.Errorf("got  %s, %v\nwant %s", back, err, text)
		}
	}
}

func TestParseHolderTolerates(t *testing.T) {
	v4, v6 := netip.MustParseAddr("172.17.42.41"), netip.MustParseAddr("fd17::41")
	for text, want := range map[string]Holder{
		`{"PublicIP":"172.17.42.41"}`:                             {PublicIP: v4},
		`{"publicip":"172.17.42.41","Colour":["blue"]}`:           {PublicIP: v4},
		`{"PublicIPv6":"fd17::41"}`:                               {PublicIPv6: v6},
		`{"PublicIP":null,"PublicIPv6":"fd17:0::41"}`:             {PublicIPv6: v6},
		`{"PublicIP":"172.17.42.41","PublicIPv6":"::"}`:           {PublicIP: v4},
		` { "PublicIP" : "172.17.42.41", "BackendType" : null } `: {PublicIP: v4},
	} {
		if got, err := ParseHolder([]byte(text)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
	}
}

func TestParseHolderRefuses(t *testing.T) {
	for text, want := range map[string]string{
		``:           "unexpected end of JSON input",
		`172.17.0.1`: "invalid character",
		`[]`:         "cannot unmarshal array",
		`null`:       "PublicIP or PublicIPv6 must be set",
		`{}`:         "PublicIP or PublicIPv6 must be set",
		`{"PublicIP":"0.0.0.0","PublicIPv6":null}`:                "PublicIP or PublicIPv6 must be set",
		`{"PublicIP":""}`:                                         "unable to parse IP",
		`{"PublicIP":1}`:                                          "cannot unmarshal number",
		`{"PublicIP":"host"}`:                                     "unable to parse IP",
		`{"PublicIP":"fd17::41"}`:                                 "PublicIP fd17::41 must be IPv4",
		`{"PublicIP":"::ffff:172.17.42.41"}`:                      "PublicIP ::ffff:172.17.42.41 must be IPv4",
		`{"PublicIP":"172.17.42.41","PublicIPv6":"172.17.42.41"}`: "PublicIPv6 172.17.42.41 must be IPv6",
		`{"PublicIPv6":"::ffff:172.17.42.41"}`:                    "PublicIPv6 ::ffff:172.17.42.41 must be IPv6, not IPv4-mapped",
		`{"PublicIPv6":"fe80::1%eth0"}`:                           "without a zone",
		`{"PublicIP":"172.17.42.41","BackendType":7}`:             "cannot unmarshal number",
	} {
		h, err := ParseHolder([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || !reflect.DeepEqual(h, Holder{}) {
			t.Errorf("%s: got %+v, %v; want an error with %q", text, h, err, want)
		}
	}
}

func TestHolderMarshalJSONRefuses(t *testing.T) {
	v4, v6 := netip.MustParseAddr("172.17.42.41"), netip.MustParseAddr("fd17::41")
	for _, h := range []Holder{{}, {BackendType: BackendType}, {PublicIP: v6}, {PublicIPv6: v4}, {PublicIP: v4, PublicIPv6: v6.WithZone("eth0")}} {
		if text, err := json.Marshal(h); err == nil {
			t.Errorf("%+v is written as %s", h, text)
		}
	}
}

func TestHolderSame(t *testing.T) {
	a4, b4 := netip.MustParseAddr("172.17.42.41"), netip.MustParseAddr("172.17.42.42")
	a6, b6 := netip.MustParseAddr("fd17::41"), netip.MustParseAddr("fd17::42")
	for _, tt := range []struct {
		a, b Holder
		want bool
	}{
		{Holder{PublicIP: a4}, Holder{PublicIP: a4, BackendType: "vxlan"}, true},
		{Holder{PublicIP: a4}, Holder{PublicIP: b4}, false},
		{Holder{PublicIP: a4}, Holder{PublicIP: a4, PublicIPv6: a6}, true},
		{Holder{PublicIP: a4, PublicIPv6: a6}, Holder{PublicIP: b4, PublicIPv6: a6}, true},
		{Holder{PublicIP: a4, PublicIPv6: a6}, Holder{PublicIP: b4, PublicIPv6: b6}, false},
		{Holder{PublicIP: a4}, Holder{PublicIPv6: a6}, false},
		{Holder{}, Holder{}, false},
	} {
		if tt.a.Same(tt.b) != tt.want || tt.b.Same(tt.a) != tt.want {
			t.Errorf("%+v and %+v: want %v", tt.a, tt.b, tt.want)
		}
	}
}

func FuzzParseHolder(f *testing.F) {
	for _, s := range []string{
		`{"PublicIP":"172.17.42.41","PublicIPv6":null,"BackendType":"host-gw"}`,
		`{"PublicIP":"172.17.42.41","PublicIPv6":"fd17::41","BackendType":"host-gw"}`,
		`{"PublicIP":"0.0.0.0","PublicIPv6":"fd17::41","BackendType":"host-gw"}`,
		`{"PublicIP":"172.17.42.41","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"<&>"}}`,
		`{"PublicIPv6":"fe80::1%eth0"}`, `{"BackendData":null}`, `null`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ParseHolder(data)
		if err != nil {
			return
		}
		if !h.Same(h) {
			t.Fatalf("%+v has no address", h)
		}
		text, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseHolder(text)
		if err != nil {
			t.Fatal(err)
		}
		// Marshalling compacts what other backends keep; but once.
		twice, err := json.Marshal(again)
		if err != nil || string(twice) != string(text) || !again.Same(h) || again.BackendType != h.BackendType {
			t.Fatalf("%s\nreads back as %s, %v", text, twice, err)
		}
	})
}
