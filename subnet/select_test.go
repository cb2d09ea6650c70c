package subnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// node returns the i-th node of a test; 0 is the one that chooses.
func node(i int) Holder {
	a4, a6 := [4]byte{172, 17}, [16]byte{0xfd, 0x17}
	binary.BigEndian.PutUint16(a4[2:], uint16(i+1))
	binary.BigEndian.PutUint16(a6[14:], uint16(i+1))
	return Holder{PublicIP: netip.AddrFrom4(a4), PublicIPv6: netip.AddrFrom16(a6), BackendType: BackendType}
}

// record returns an expiring record.
func record(t testing.TB, key string, h Holder, created int64) Record {
	k := mustKey(t, key)
	return Record{Name: key, Lease: Lease{k, h}, Created: created, Modified: created, Token: 1000 + created}
}

func reservation(t testing.TB, key string, h Holder, created int64) Record {
	r := record(t, key, h, created)
	r.Token = 0
	return r
}

func networkIPv4(t testing.TB) Config {
	return mustConfig(t, withBackend(`"Network":"10.5.0.0/16"`))
}

func networkDual(t testing.TB) Config {
	return mustConfig(t, withBackend(`"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd99::/48"`))
}

func names(records []Record) []string {
	var s []string
	for _, r := range records {
		s = append(s, r.Name)
	}
	return s
}

func TestSelectTakesBack(t *testing.T) {
	c := networkIPv4(t)
	me, other := node(0), node(1)
	unreadable := Record{Name: "10.5.9.0-24", Err: errors.New("no JSON"), Token: 5}
	tests := []struct {
		name    string
		records []Record
		held    string
		drop    []string
	}{
		{"the one it has", []Record{record(t, "10.5.7.0-24", other, 1), record(t, "10.5.8.0-24", me, 2)}, "10.5.8.0-24", nil},
		{"a reservation first", []Record{record(t, "10.5.7.0-24", me, 1), reservation(t, "10.5.8.0-24", me, 9)}, "10.5.8.0-24", []string{"10.5.7.0-24"}},
		{"then the oldest", []Record{record(t, "10.5.7.0-24", me, 5), record(t, "10.5.8.0-24", me, 3)}, "10.5.8.0-24", []string{"10.5.7.0-24"}},
		{"then by name", []Record{record(t, "10.5.8.0-24", me, 3), record(t, "10.5.7.0-24", me, 3)}, "10.5.7.0-24", []string{"10.5.8.0-24"}},
		{"and drops what does not fit", []Record{record(t, "10.6.7.0-24", me, 2), record(t, "10.5.8.0-25", me, 1), record(t, "10.5.8.0-24", me, 3), unreadable},
			"10.5.8.0-24", []string{"10.5.8.0-25", "10.6.7.0-24"}},
		{"but no reservation", []Record{reservation(t, "10.6.7.0-24", me, 1), record(t, "10.5.8.0-24", me, 3)}, "10.5.8.0-24", nil},
		{"nor what others have", []Record{record(t, "10.6.7.0-24", other, 1), record(t, "10.5.8.0-24", me, 3)}, "10.5.8.0-24", nil},
		{"known by its IPv6 address", []Record{record(t, "10.5.8.0-24", Holder{PublicIP: other.PublicIP, PublicIPv6: me.PublicIPv6}, 3)}, "10.5.8.0-24", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// avoid must not keep a node from its own.
			got, err := Select(c, tt.records, Request{Holder: me, Previous: mustKey(t, "10.5.77.0-24")}, netip.MustParsePrefix("10.5.8.0/24"))
			if err != nil {
				t.Fatal(err)
			}
			if got.Held == nil || got.Held.Name != tt.held || got.Key != got.Held.Lease.Key {
				t.Errorf("got %v held %v, want %s", got.Key, got.Held, tt.held)
			}
			if !slices.Equal(names(got.Drop), tt.drop) {
				t.Errorf("drops %v, want %v", names(got.Drop), tt.drop)
			}
		})
	}
}

func TestSelectPrevious(t *testing.T) {
	c := networkIPv4(t)
	me, other := node(0), node(1)
	unreadable := Record{Name: "10.5.77.0-24", Err: errors.New("no JSON"), Token: 5}
	for _, tt := range []struct {
		name, previous string
		records        []Record
		avoid          []netip.Prefix
		taken          bool
	}{
		{"free", "10.5.77.0-24", []Record{record(t, "10.5.76.0-24", other, 1)}, nil, true},
		{"taken", "10.5.77.0-24", []Record{record(t, "10.5.77.0-24", other, 1)}, nil, false},
		{"overlapped by a wider one", "10.5.77.0-24", []Record{record(t, "10.5.64.0-20", other, 1)}, nil, false},
		{"overlapped by a narrower one", "10.5.77.0-24", []Record{record(t, "10.5.77.128-26", other, 1)}, nil, false},
		{"under an unreadable value", "10.5.77.0-24", []Record{unreadable}, nil, false},
		{"beside an unreadable key", "10.5.77.0-24", []Record{{Name: "junk", Err: errors.New("no key")}}, nil, true},
		{"just lost", "10.5.77.0-24", nil, []netip.Prefix{netip.MustParsePrefix("10.5.77.0/24")}, false},
		{"of another length", "10.5.77.0-25", nil, nil, false},
		{"outside", "10.6.77.0-24", nil, nil, false},
		{"below SubnetMin", "10.5.0.0-24", nil, nil, false},
		{"of both families", "10.5.77.0-24&fd99:0:0:7::-64", nil, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			previous := mustKey(t, tt.previous)
			got, err := Select(c, tt.records, Request{Holder: me, Previous: previous}, tt.avoid...)
			if err != nil {
				t.Fatal(err)
			}
			checkChoice(t, c, tt.records, me, got)
			if (got.Key.IPv4 == previous.IPv4) != tt.taken || got.Held != nil {
				t.Errorf("got %v held %v, previous was %v", got.Key, got.Held, previous)
			}
		})
	}
}

func TestSelectAfterTheConfigChanged(t *testing.T) {
	me, other := node(0), node(1)
	tests := []struct {
		name     string
		c        Config
		records  []Record
		previous string
		key      string // "" for any that fits
		drop     []string
	}{
		{"to dual-stack keeps IPv4", networkDual(t), []Record{record(t, "10.5.7.0-24", me, 1)}, "10.5.9.0-24", "10.5.7.0-24&fd99:0:0:7::-64", []string{"10.5.7.0-24"}},
		{"from dual-stack keeps IPv4", networkIPv4(t), []Record{record(t, "10.5.7.0-24&fd99:0:0:4b::-64", me, 1)}, "", "10.5.7.0-24", []string{"10.5.7.0-24&fd99:0:0:4b::-64"}},
		{"the oldest first", networkDual(t), []Record{record(t, "10.5.8.0-24", me, 2), record(t, "10.5.7.0-24", me, 1)}, "", "10.5.7.0-24&fd99:0:0:7::-64", []string{"10.5.7.0-24", "10.5.8.0-24"}},
		{"each family from where it was", networkDual(t), []Record{record(t, "10.5.7.0-24", me, 1), record(t, "fd99:0:0:4b::-64", me, 2)}, "", "10.5.7.0-24&fd99:0:0:4b::-64", []string{"10.5.7.0-24", "fd99:0:0:4b::-64"}},
		{"the record before the file", networkDual(t), []Record{record(t, "10.5.7.0-24", me, 1)}, "10.5.9.0-24&fd99:0:0:5::-64", "10.5.7.0-24&fd99:0:0:5::-64", []string{"10.5.7.0-24"}},
		{"the file's IPv4", networkDual(t), nil, "10.5.9.0-24", "10.5.9.0-24&fd99:0:0:9::-64", nil},
		{"IPv6 keeps its place too", networkDual(t), []Record{record(t, "fd99:0:0:4b::-64", me, 1)}, "", "10.5.75.0-24&fd99:0:0:4b::-64", []string{"fd99:0:0:4b::-64"}},
		{"not what another overlaps", networkDual(t), []Record{record(t, "10.5.7.0-24", me, 1), record(t, "10.5.7.0-25", other, 2)}, "", "", []string{"10.5.7.0-24"}},
		{"not what was cut otherwise", mustConfig(t, withBackend(`"Network":"10.5.0.0/16","SubnetLen":25`)), []Record{record(t, "10.5.7.0-24", me, 1)}, "", "", []string{"10.5.7.0-24"}},
		{"a reservation stays, and its subnet taken", networkDual(t), []Record{reservation(t, "10.5.7.0-24", me, 1)}, "10.5.7.0-24", "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Request{Holder: me}
			if tt.previous != "" {
				r.Previous = mustKey(t, tt.previous)
			}
			got, err := Select(tt.c, tt.records, r)
			if err != nil {
				t.Fatal(err)
			}
			checkChoice(t, tt.c, tt.records, me, got)
			if tt.key != "" && got.Key.String() != tt.key {
				t.Errorf("got %v, want %s", got.Key, tt.key)
			}
			if got.Held != nil || !slices.Equal(names(got.Drop), tt.drop) {
				t.Errorf("holds %v and drops %v, want to drop %v", got.Held, names(got.Drop), tt.drop)
			}
		})
	}

	// With no other subnet in the range, the one that is dropped is free again.
	small := mustConfig(t, withBackend(`"Network":"10.5.0.0/28","SubnetMin":"10.5.0.4","SubnetMax":"10.5.0.4"`))
	got, err := Select(small, []Record{record(t, "10.5.0.0-28", me, 1)}, Request{Holder: me})
	if err != nil || got.Key.String() != "10.5.0.4-30" || len(got.Drop) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
}

// checkChoice asserts what every choice keeps to.
func checkChoice(t testing.TB, c Config, records []Record, me Holder, got Choice) {
	t.Helper()
	if !c.Fits(got.Key) {
		t.Fatalf("%v does not fit %v", got.Key, c)
	}
	dropped := make(map[string]bool)
	for _, r := range got.Drop {
		dropped[r.Name] = true
		if r.Reserved() || r.Err != nil || !r.Lease.Holder.Same(me) || r.Lease.Key == got.Key {
			t.Fatalf("%+v must not be dropped", r)
		}
	}
	if got.Held != nil {
		if got.Held.Lease.Key != got.Key || !got.Held.Lease.Holder.Same(me) || got.Held.Err != nil || dropped[got.Held.Name] {
			t.Fatalf("%+v is not held by this node under %v", got.Held, got.Key)
		}
		return // taking back what it holds already overlaps nothing anew
	}
	for _, r := range records {
		if !dropped[r.Name] && taken(r).Overlaps(got.Key) {
			t.Fatalf("%v overlaps the record %q", got.Key, r.Name)
		}
	}
}

// taken is what a record takes: nothing of a family in which it is wider than a
// subnet of the widest network that a config may have.
func taken(r Record) Key {
	k := r.Lease.Key
	if r.Err != nil {
		k, _ = ParseKey(r.Name)
	}
	if k.IPv4.Bits() < 10 {
		k.IPv4 = netip.Prefix{}
	}
	if k.IPv6.Bits() < 9 {
		k.IPv6 = netip.Prefix{}
	}
	return k
}

func TestSelectFull(t *testing.T) {
	me := node(0)
	c := networkIPv4(t)
	var records []Record
	for i := range c.IPv4.Len() {
		records = append(records, record(t, Key{IPv4: c.IPv4.Subnet(i)}.String(), node(int(i)+1), int64(i)))
	}
	wantFull := func(records []Record, c Config, r Range) error {
		t.Helper()
		for _, previous := range []Key{{}, {IPv4: c.IPv4.Subnet(0), IPv6: c.IPv6.Subnet(0)}} {
			_, err := Select(c, records, Request{Holder: me, Previous: previous}, c.IPv4.Subnet(3))
			var full *FullError
			if !errors.As(err, &full) || !errors.Is(err, ErrNoFreeSubnet) || full.Range != r || full.Taken != r.Len() {
				t.Fatalf("got %#v, want a *FullError about %v", err, r)
			}
		}
		_, err := Select(c, records, Request{Holder: me})
		return err
	}
	err := wantFull(records, c, c.IPv4)
	if want := "no free subnet: all 255 subnets of 10.5.0.0/16 (/24s, 10.5.1.0 to 10.5.255.0) are taken"; err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	err = wantFull([]Record{record(t, "10.5.9.0-24", node(2), 2), record(t, "10.0.0.0-10", node(1), 1)}, c, c.IPv4)
	if want := "are taken, 255 of them by the lease 10.0.0.0-10"; !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got  %v\nwant …%s", err, want)
	}
	dual := networkDual(t)
	wantFull([]Record{record(t, "10.5.0.0-16", node(1), 1)}, dual, dual.IPv4)
	wantFull([]Record{record(t, "10.5.1.0-24&fd99::-48", node(1), 1)}, dual, dual.IPv6)
	huge := mustConfig(t, withBackend(`"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/7","IPv6SubnetLen":126`))
	quarters := []Record{record(t, "fc00::-9", node(1), 1), record(t, "fc80::-9", node(2), 1), record(t, "fd00::-9", node(3), 1), record(t, "fd80::-9", node(4), 1)}
	wantFull(quarters, huge, huge.IPv6)

	// What no config could have cut keeps nobody out.
	for _, name := range []string{"0.0.0.0-0", "10.0.0.0-8", "10.0.0.0-9", "::-0", "fc00::-7", "10.5.1.0-8&fd99::-7"} {
		for _, c := range []Config{c, dual, huge} {
			if _, err := Select(c, []Record{{Name: name, Err: errors.New("unreadable")}}, Request{Holder: me}); err != nil {
				t.Errorf("with a record %s: %v", name, err)
			}
		}
	}

	// One that is left is found, also if it was just lost.
	left := c.IPv4.Subnet(200)
	got, err := Select(c, slices.Delete(slices.Clone(records), 200, 201), Request{Holder: me}, left)
	if err != nil || got.Key.IPv4 != left {
		t.Errorf("got %v, %v, want %v", got.Key, err, left)
	}
}

func TestSelectRefusesNoFamily(t *testing.T) {
	var bad *ConfigError
	if _, err := Select(Config{}, nil, Request{Holder: node(0)}); !errors.As(err, &bad) {
		t.Errorf("got %v, want a *ConfigError", err)
	}
}

// The same address must draw the same subnet in every version, or hosts change
// their subnets when everything is lost during an upgrade.
func TestSelectIsTheSameInEveryVersion(t *testing.T) {
	h := Holder{PublicIP: netip.MustParseAddr("172.17.42.41"), PublicIPv6: netip.MustParseAddr("fd17::41")}
	for _, tt := range []struct {
		c    Config
		h    Holder
		want string
	}{
		{networkIPv4(t), h, "10.5.230.0-24"},
		{networkIPv4(t), Holder{PublicIP: netip.MustParseAddr("172.17.42.42")}, "10.5.186.0-24"},
		{networkDual(t), h, "10.5.230.0-24&fd99:0:0:e6::-64"},
		{mustConfig(t, withBackend(`"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd99::/48"`)), Holder{PublicIPv6: h.PublicIPv6}, "fd99:0:0:498e::-64"},
	} {
		if got, err := Select(tt.c, nil, Request{Holder: tt.h}); err != nil || got.Key.String() != tt.want {
			t.Errorf("got %v, %v, want %s", got.Key, err, tt.want)
		}
	}
}

func TestSelectDualStackPairs(t *testing.T) {
	c := networkDual(t)
	// Records of other nodes in every place but two, each in one family only.
	var records []Record
	for i := range c.IPv4.Len() {
		switch k := (Key{IPv4: c.IPv4.Subnet(i)}); {
		case i == 10:
		case i%2 == 0:
			records = append(records, record(t, k.String(), node(1), 1))
		case i != 201:
			records = append(records, record(t, Key{IPv6: c.IPv6.Subnet(i)}.String(), node(1), 1))
		}
	}
	for i := range 50 {
		got, err := Select(c, records, Request{Holder: node(i + 2)})
		if err != nil {
			t.Fatal(err)
		}
		if s := got.Key.String(); s != "10.5.11.0-24&fd99:0:0:b::-64" && s != "10.5.202.0-24&fd99:0:0:ca::-64" {
			t.Fatalf("got %s, want one of the two free pairs", s)
		}
	}
	// Without a free pair, what is free in each.
	records = append(records, record(t, "10.5.11.0-24", node(1), 1), record(t, "fd99:0:0:ca::-64", node(1), 1))
	got, err := Select(c, records, Request{Holder: node(0)})
	if err != nil {
		t.Fatal(err)
	}
	checkChoice(t, c, records, node(0), got)
}

// Invariant 1, one holder: many nodes join at the same moment. All choose from
// the same snapshot, and a store that knows nothing but which key exists lets one
// of those with the same key win.
func TestInvariant1ContendersNeverOverlap(t *testing.T) {
	for _, tt := range []struct {
		name                    string
		c                       Config
		nodes, taken, maxRounds int
	}{
		{"an empty range", networkIPv4(t), 100, 0, 8},
		{"as many as there are subnets", networkIPv4(t), 255, 0, 30},
		{"more than there are subnets", networkIPv4(t), 600, 0, 30},
		{"a range nearly full", networkIPv4(t), 300, 200, 20},
		{"one subnet left", networkIPv4(t), 300, 254, 2},
		{"none left", networkIPv4(t), 300, 255, 1},
		{"dual-stack", networkDual(t), 300, 100, 25},
		{"a thousand in two thousand", mustConfig(t, withBackend(`"Network":"10.5.0.0/16","SubnetLen":27`)), 1000, 1000, 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var records []Record
			for i := range tt.taken {
				k := Key{IPv4: tt.c.IPv4.Subnet(uint64(i)), IPv6: tt.c.IPv6.Subnet(uint64(i))}
				records = append(records, record(t, k.String(), node(10000+i), 1))
			}
			type contender struct {
				h     Holder
				avoid []netip.Prefix
			}
			var waiting []contender
			for i := range tt.nodes {
				waiting = append(waiting, contender{h: node(i)})
			}
			full, rounds, lost := 0, 0, 0
			for ; len(waiting) > 0; rounds++ {
				snapshot := slices.Clone(records)
				exists := make(map[string]bool)
				var again []contender
				for _, n := range waiting {
					got, err := Select(tt.c, snapshot, Request{Holder: n.h}, n.avoid...)
					if errors.Is(err, ErrNoFreeSubnet) {
						full++
						continue
					}
					if err != nil {
						t.Fatal(err)
					}
					name := got.Key.String()
					if exists[name] {
						lost++
						n.avoid = append(n.avoid, got.Key.IPv4)
						if got.Key.IPv6.IsValid() {
							n.avoid = append(n.avoid, got.Key.IPv6)
						}
						again = append(again, n)
						continue
					}
					exists[name] = true
					records = append(records, record(t, name, n.h, int64(rounds+2)))
				}
				waiting = again
				if rounds > 1000 {
					t.Fatal("no end")
				}
			}
			size := int(tt.c.IPv4.Len())
			if want := min(size, tt.taken+tt.nodes); len(records) != want || full != tt.taken+tt.nodes-want {
				t.Errorf("%d subnets are taken and %d nodes found none; want %d", len(records), full, want)
			}
			slots := make(map[Key]string)
			for _, r := range records {
				for _, k := range []Key{{IPv4: r.Lease.Key.IPv4}, {IPv6: r.Lease.Key.IPv6}} {
					if other, ok := slots[k]; ok && k != (Key{}) {
						t.Fatalf("%q and %q overlap", r.Name, other)
					}
					slots[k] = r.Name
				}
				if !tt.c.Fits(r.Lease.Key) {
					t.Fatalf("%q does not fit", r.Name)
				}
			}
			t.Logf("%d rounds, %d races lost", rounds, lost)
			if rounds > tt.maxRounds {
				t.Errorf("took %d rounds, want at most %d", rounds, tt.maxRounds)
			}
		})
	}
}

// After everything was lost, nodes that come back in another order mostly get
// what they had.
func TestSelectIsStable(t *testing.T) {
	c := mustConfig(t, withBackend(`"Network":"10.5.0.0/16","SubnetLen":26`)) // 1023 subnets
	const nodes = 500
	join := func(order []int) map[int]Key {
		var records []Record
		keys := make(map[int]Key)
		for _, i := range order {
			got, err := Select(c, records, Request{Holder: node(i)})
			if err != nil {
				t.Fatal(err)
			}
			keys[i] = got.Key
			records = append(records, record(t, got.Key.String(), node(i), 1))
		}
		return keys
	}
	random := rand.New(rand.NewPCG(1, 2))
	before, after := join(random.Perm(nodes)), join(random.Perm(nodes))
	same := 0
	for i, k := range before {
		if after[i] == k {
			same++
		}
	}
	t.Logf("%d of %d nodes got the same subnet", same, nodes)
	if same < nodes*6/10 {
		t.Errorf("only %d of %d nodes got the same subnet", same, nodes)
	}
}

func TestSelectSpreads(t *testing.T) {
	// First choices of neighbours, who differ in the last bits of their address,
	// spread like random ones do: 1000 in 1000 places hit about 632.
	c := mustConfig(t, withBackend(`"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMax":"10.3.232.0"`))
	if n := c.IPv4.Len(); n != 1000 {
		t.Fatal(n)
	}
	places := make(map[Key]bool)
	for i := range 1000 {
		got, err := Select(c, nil, Request{Holder: node(i)})
		if err != nil {
			t.Fatal(err)
		}
		places[got.Key] = true
	}
	if len(places) < 600 || len(places) > 665 {
		t.Errorf("1000 nodes went for %d of 1000 places", len(places))
	}
}

// Losers of one race for one of the last subnets go for different ones next,
// instead of moving on together.
func TestSelectLosersPart(t *testing.T) {
	c := mustConfig(t, withBackend(`"Network":"10.5.0.0/16","SubnetLen":28`)) // 4095 subnets
	const free = 40
	var records []Record
	for i := range c.IPv4.Len() - free {
		records = append(records, record(t, Key{IPv4: c.IPv4.Subnet(i)}.String(), node(5000), 1))
	}
	draw := func(i int, avoid ...netip.Prefix) netip.Prefix {
		got, err := Select(c, records, Request{Holder: node(i)}, avoid...)
		if err != nil {
			t.Fatal(err)
		}
		return got.Key.IPv4
	}
	contenders := make(map[netip.Prefix][]int)
	for i := range 800 {
		p := draw(i)
		contenders[p] = append(contenders[p], i)
	}
	for p, nodes := range contenders {
		next := make(map[netip.Prefix]int)
		for _, i := range nodes {
			next[draw(i, p)]++
		}
		for q, n := range next {
			if q == p || n > len(nodes)/2 {
				t.Errorf("of %d contenders for %v, %d go for %v next", len(nodes), p, n, q)
			}
		}
	}
}

func TestSelectLeavesItsArgumentsAlone(t *testing.T) {
	c, me := networkDual(t), node(0)
	records := []Record{
		record(t, "10.5.9.0-24", node(2), 3), record(t, "10.5.8.0-24", me, 2),
		record(t, "10.5.3.0-24", node(1), 3), record(t, "10.5.7.0-24", me, 1),
	}
	avoid := []netip.Prefix{netip.MustParsePrefix("10.5.99.0/24"), netip.MustParsePrefix("10.5.7.0/24")}
	wantRecords, wantAvoid := slices.Clone(records), slices.Clone(avoid)
	first, err := Select(c, records, Request{Holder: me}, avoid...)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(records, wantRecords) || !reflect.DeepEqual(avoid, wantAvoid) {
		t.Error("Select changed its arguments")
	}
	slices.Reverse(records) // the order of records means nothing
	second, err := Select(c, records, Request{Holder: me}, avoid...)
	if err != nil || !reflect.DeepEqual(first, second) {
		t.Errorf("in another order it gives %v, %v, not %v", second, err, first)
	}
}

// manyRecords returns n records of 10.0.0.0/8 in /24s, and that config.
func manyRecords(t testing.TB, n int) (Config, []Record) {
	c := mustConfig(t, withBackend(`"Network":"10.0.0.0/8","EnableIPv6":true,"IPv6Network":"fd99::/32","IPv6SubnetLen":96`))
	random := rand.New(rand.NewPCG(1, 2))
	var records []Record
	for i, slot := range random.Perm(int(c.IPv4.Len()))[:n] {
		k := Key{IPv4: c.IPv4.Subnet(uint64(slot)), IPv6: c.IPv6.Subnet(uint64(slot))}
		records = append(records, Record{Name: k.String(), Lease: Lease{k, node(i + 1)}, Created: int64(i), Token: int64(i + 1)})
	}
	return c, records
}

func TestSelectLarge(t *testing.T) {
	c, records := manyRecords(t, 20000)
	got, err := Select(c, records, Request{Holder: node(0)})
	if err != nil {
		t.Fatal(err)
	}
	checkChoice(t, c, records, node(0), got)
	if got := c.IPv6.Len(); got != math.MaxUint64 {
		t.Errorf("%v has %d subnets", c.IPv6, got)
	}
}

func BenchmarkSelect(b *testing.B) {
	for _, n := range []int{10000, 20000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c, records := manyRecords(b, n)
			r := Request{Holder: node(0)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Select(c, records, r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// FuzzSelect builds records from bytes and compares with counting by hand in
// ranges small enough for it.
func FuzzSelect(f *testing.F) {
	f.Add(uint8(0), uint16(0), []byte(nil))
	f.Add(uint8(0), uint16(1), []byte{0, 24, 1, 0, 4, 30, 2, 1, 8, 30, 1, 0, 12, 30, 0, 0})
	f.Add(uint8(1), uint16(0x104), []byte{0, 28, 1, 4, 4, 30, 0, 1, 8, 30, 3, 2, 20, 30, 0, 0})
	f.Add(uint8(2), uint16(7), []byte{0, 0, 1, 8, 16, 124, 0, 9, 4, 126, 0, 8})
	f.Add(uint8(4), uint16(0), []byte("0!00")) // 0.0.0.0-0
	f.Add(uint8(3), uint16(0x208), []byte{4, 30, 0, 16, 8, 30, 1, 8, 0, 126, 1, 9, 12, 30, 2, 18})
	configs := []Config{
		mustConfig(f, withBackend(`"Network":"10.5.0.0/28"`)),
		mustConfig(f, withBackend(`"Network":"10.5.0.0/24","SubnetLen":30,"SubnetMin":"10.5.0.8","SubnetMax":"10.5.0.128"`)),
		mustConfig(f, withBackend(`"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd99::/120","IPv6SubnetLen":126`)),
		mustConfig(f, withBackend(`"Network":"10.5.0.0/27","EnableIPv6":true,"IPv6Network":"fd99::/122","IPv6SubnetLen":126,"IPv6SubnetMin":"fd99::"`)),
		mustConfig(f, withBackend(`"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/7","IPv6SubnetLen":126`)),
	}
	f.Fuzz(func(t *testing.T, which uint8, request uint16, data []byte) {
		c := configs[int(which)%len(configs)]
		prefix := func(v6 bool, last, length byte) netip.Prefix {
			if v6 {
				a := netip.MustParseAddr("fd99::").As16()
				a[15] = last
				return netip.PrefixFrom(netip.AddrFrom16(a), int(length)%129).Masked()
			}
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, 0, last}), int(length)%33).Masked()
		}
		// Four bytes a record: last byte of the address, length, holder, flags.
		byName := make(map[string]Record)
		for ; len(data) >= 4; data = data[4:] {
			flags := data[3]
			var k Key
			if flags&8 == 0 {
				k.IPv4 = prefix(false, data[0], data[1])
			}
			if flags&(8|16) != 0 {
				k.IPv6 = prefix(true, data[0], data[1]+96)
			}
			r := Record{Name: k.String(), Lease: Lease{k, node(int(data[2]) % 4)}, Created: int64(data[2]), Token: int64(flags & 1)}
			if flags&4 != 0 {
				r.Lease, r.Err = Lease{}, errors.New("no JSON")
			}
			if flags&32 != 0 {
				r.Name = "no key"
			}
			byName[r.Name] = r
		}
		var records []Record
		for _, r := range byName {
			records = append(records, r)
		}
		slices.SortFunc(records, func(a, b Record) int { return strings.Compare(a.Name, b.Name) })
		r := Request{Holder: node(0), Previous: Key{IPv4: prefix(false, byte(request), 30)}}
		var avoid []netip.Prefix
		for i := range request >> 8 % 8 {
			avoid = append(avoid, prefix(i%2 == 1, byte(request)+byte(i)*4, 30))
		}

		got, err := Select(c, records, r, avoid...)
		slices.Reverse(records)
		if again, err2 := Select(c, records, r, avoid...); !reflect.DeepEqual(got, again) || fmt.Sprint(err) != fmt.Sprint(err2) {
			t.Fatalf("in another order: %v, %v instead of %v, %v", again, err2, got, err)
		}
		if err == nil {
			checkChoice(t, c, records, r.Holder, got)
			return
		}
		var full *FullError
		if !errors.As(err, &full) {
			t.Fatal(err)
		}
		if full.Range.Len() > 1000 {
			return
		}
		for i := range full.Range.Len() {
			free := !slices.ContainsFunc(records, func(r Record) bool {
				k := taken(r)
				if r.Err == nil && r.Lease.Holder.Same(node(0)) && !r.Reserved() {
					return false // dropped, or taken back without an error
				}
				s := full.Range.Subnet(i)
				return k.IPv4.Overlaps(s) || k.IPv6.Overlaps(s)
			})
			if free {
				t.Fatalf("%v, but %v is free", err, full.Range.Subnet(i))
			}
		}
	})
}
