package record_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/hostgw/hostgw/store/internal/record"
	"github.com/hostgw/hostgw/subnet"
)

var (
	key    = subnet.Key{IPv4: netip.MustParsePrefix("10.9.7.0/24")}
	other  = subnet.Key{IPv4: netip.MustParsePrefix("10.9.8.0/24")}
	mine   = subnet.Holder{PublicIP: netip.MustParseAddr("192.0.2.1"), BackendType: subnet.BackendType}
	theirs = subnet.Holder{PublicIP: netip.MustParseAddr("192.0.2.2"), BackendType: subnet.BackendType}
)

func held(k subnet.Key, h subnet.Holder) subnet.Record {
	return subnet.Record{Name: k.String(), Lease: subnet.Lease{Key: k, Holder: h}, Token: 1}
}

func TestParse(t *testing.T) {
	name, value, err := record.Encode(subnet.Lease{Key: key, Holder: mine})
	if err != nil || name != "10.9.7.0-24" {
		t.Fatalf("Encode: %q, %v", name, err)
	}
	if r := record.Parse(name, value); r.Err != nil || r.Name != name || r.Lease.Key != key || !r.Lease.Holder.Same(mine) {
		t.Errorf("Parse: %+v", r)
	}
	if r := record.Parse(name, []byte("{")); r.Err == nil || !strings.Contains(r.Err.Error(), name) || r.Lease.Key != key {
		t.Errorf("Parse of a broken value: %+v", r)
	}
	if r := record.Parse("10.9.7.1-24", value); !errors.Is(r.Err, subnet.ErrHostBits) || r.Name != "10.9.7.1-24" {
		t.Errorf("Parse of a broken name: %+v", r)
	}
}

func TestEncodeRefuses(t *testing.T) {
	for what, l := range map[string]subnet.Lease{
		"no key":     {Holder: mine},
		"no address": {Key: key},
		"host bits":  {Key: subnet.Key{IPv4: netip.MustParsePrefix("10.9.7.1/24")}, Holder: mine},
	} {
		if name, value, err := record.Encode(l); err == nil {
			t.Errorf("%s is encoded as %q: %s", what, name, value)
		}
	}
}

func TestParseConfig(t *testing.T) {
	if c := record.ParseConfig(nil, 0); c.Err != subnet.ErrNoConfig {
		t.Errorf("no config: %+v", c)
	}
	var broken *subnet.ConfigError
	if c := record.ParseConfig([]byte{}, 5); !errors.As(c.Err, &broken) || c.Revision != 5 {
		t.Errorf("an empty config: %+v", c)
	}
}

func TestCheckClaim(t *testing.T) {
	good := subnet.Claim{Lease: subnet.Lease{Key: key, Holder: mine}, ConfigRevision: 1, TTL: 1}
	if err := record.CheckClaim(good); err != nil {
		t.Errorf("a good claim: %v", err)
	}
	reserved := held(key, mine)
	reserved.Token = 0
	taken, same, unreadable := held(key, theirs), held(other, mine), held(key, mine)
	unreadable.Err = errors.New("unreadable")
	for what, test := range map[string]struct {
		change func(*subnet.Claim)
		want   string
	}{
		"no config":             {func(c *subnet.Claim) { c.ConfigRevision = 0 }, "no network config"},
		"no TTL":                {func(c *subnet.Claim) { c.TTL = 0 }, "must be positive"},
		"another key":           {func(c *subnet.Claim) { c.Held = &same }, "is called"},
		"another node's":        {func(c *subnet.Claim) { c.Held = &taken }, "another node's"},
		"unreadable":            {func(c *subnet.Claim) { c.Held = &unreadable }, "another node's"},
		"drop another's":        {func(c *subnet.Claim) { c.Drop = []subnet.Record{held(other, theirs)} }, "to drop"},
		"drop what it claims":   {func(c *subnet.Claim) { c.Drop = []subnet.Record{held(key, mine)} }, "to drop"},
		"a reservation, no TTL": {func(c *subnet.Claim) { c.Held, c.TTL = &reserved, 0 }, ""},
		"drop its own":          {func(c *subnet.Claim) { c.Drop = []subnet.Record{same} }, ""},
	} {
		c := good
		test.change(&c)
		err := record.CheckClaim(c)
		if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", what, err, test.want)
		}
	}
}

func TestCheckCareful(t *testing.T) {
	c := subnet.Claim{Lease: subnet.Lease{Key: key, Holder: mine}, Seen: 100}
	half := subnet.Key{IPv4: netip.MustParsePrefix("10.9.7.128/25")}
	reserved, dropped := held(half, mine), held(half, theirs)
	reserved.Token = 0
	late := held(other, theirs)
	late.Created = 101
	unreadable := record.Parse("10.9.7.128-25", []byte("{"))
	wide := held(subnet.Key{IPv4: netip.MustParsePrefix("0.0.0.0/0")}, theirs)
	for what, test := range map[string]struct {
		record subnet.Record
		want   string
	}{
		"beside it":       {held(other, theirs), ""},
		"created since":   {late, "created since"},
		"the key":         {held(key, theirs), "takes a part"},
		"a part of it":    {held(half, theirs), "takes a part"},
		"unreadable":      {unreadable, "takes a part"},
		"wider than any":  {wide, ""},
		"its own":         {held(half, mine), ""},
		"its reservation": {reserved, "takes a part"},
	} {
		err := record.CheckCareful(c, []subnet.Record{held(other, mine), test.record})
		if errors.Is(err, subnet.ErrConflict) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", what, err, test.want)
		}
	}
	c.Drop = []subnet.Record{dropped}
	if err := record.CheckCareful(c, []subnet.Record{dropped}); err != nil {
		t.Errorf("what goes in the same step: %v", err)
	}
}
