package subnet

import (
	"math"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func TestRangeLenAndSubnet(t *testing.T) {
	for _, tt := range []struct {
		name        string
		r           Range
		n           uint64
		first, last string
	}{
		{"off", Range{}, 0, "", ""},
		{"255", rng("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0"), 255, "10.5.1.0/24", "10.5.255.0/24"},
		{"one", rng("10.5.0.0/16", 24, "10.5.7.0", "10.5.7.0"), 1, "10.5.7.0/24", "10.5.7.0/24"},
		{"up to the last address", rng("255.0.0.0/8", 30, "255.0.0.0", "255.255.255.252"), 1 << 22, "255.0.0.0/30", "255.255.255.252/30"},
		{"2^16-1", rng("fd99::/48", 64, "fd99:0:0:1::", "fd99:0:0:ffff::"), 1<<16 - 1, "fd99:0:0:1::/64", "fd99:0:0:ffff::/64"},
		{"2^64-1", rng("fd99::/62", 126, "fd99::4", "fd99:0:0:3:ffff:ffff:ffff:fffc"), math.MaxUint64, "fd99::4/126", "fd99::3:ffff:ffff:ffff:fffc/126"},
		{"2^64", rng("fd99::/62", 126, "fd99::", "fd99:0:0:3:ffff:ffff:ffff:fffc"), math.MaxUint64, "fd99::/126", "fd99::3:ffff:ffff:ffff:fff8/126"},
		{"more", rng("fc00::/7", 126, "fc00::4", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:fffc"), math.MaxUint64, "fc00::4/126", "fc00::3:ffff:ffff:ffff:fffc/126"},
		{"ends swapped", rng("10.5.0.0/16", 24, "10.5.9.0", "10.5.8.0"), 0, "", ""},
		{"ends of another family", rng("10.5.0.0/16", 24, "fd99::", "fd99::"), 0, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.r.Len(); got != tt.n {
				t.Fatalf("got %d subnets, want %d", got, tt.n)
			}
			if tt.r.Subnet(tt.n).IsValid() {
				t.Errorf("there is a subnet %v past the last", tt.r.Subnet(tt.n))
			}
			if tt.n == 0 {
				return
			}
			first, last := tt.r.Subnet(0), tt.r.Subnet(tt.n-1)
			if first.String() != tt.first || last.String() != tt.last {
				t.Errorf("got %v to %v, want %s to %s", first, last, tt.first, tt.last)
			}
			if !tt.r.Fits(first) || !tt.r.Fits(last) {
				t.Errorf("%v or %v do not fit", first, last)
			}
		})
	}
}

func TestRangeFitsAndContains(t *testing.T) {
	v4 := rng("10.5.0.0/16", 24, "10.5.16.0", "10.5.31.0")
	v6 := rng("fd99::/48", 64, "fd99:0:0:1::", "fd99:0:0:ffff::")
	for _, tt := range []struct {
		r              Range
		p              string
		fits, contains bool
	}{
		{v4, "10.5.16.0/24", true, true},
		{v4, "10.5.31.0/24", true, true},
		{v4, "10.5.15.0/24", false, true},
		{v4, "10.5.32.0/24", false, true},
		{v4, "10.5.16.1/24", false, false},
		{v4, "10.5.16.0/25", false, true},
		{v4, "10.5.16.0/20", false, true},
		{v4, "10.5.0.0/16", false, true},
		{v4, "10.4.0.0/15", false, false},
		{v4, "10.6.16.0/24", false, false},
		{v4, "0.0.0.0/0", false, false},
		{v4, "::ffff:10.5.16.0/120", false, false},
		{v4, "fd99:0:0:1::/64", false, false},
		{v6, "fd99:0:0:1::/64", true, true},
		{v6, "fd99::/64", false, true},
		{v6, "fd99:0:0:1::1/64", false, false},
		{v6, "10.5.16.0/24", false, false},
		{v6, "::/0", false, false},
		{Range{}, "10.5.16.0/24", false, false},
	} {
		p := netip.MustParsePrefix(tt.p)
		if tt.r.Fits(p) != tt.fits || tt.r.Contains(p) != tt.contains {
			t.Errorf("%s in %v: fits %v, contained %v; want %v, %v", p, tt.r, tt.r.Fits(p), tt.r.Contains(p), tt.fits, tt.contains)
		}
	}
	for _, r := range []Range{v4, v6, {}} {
		if r.Fits(netip.Prefix{}) || r.Contains(netip.Prefix{}) {
			t.Errorf("the zero prefix is in %v", r)
		}
	}
}

func TestRangeSpanAgreesWithOverlaps(t *testing.T) {
	for _, r := range []Range{
		rng("10.5.0.0/20", 24, "10.5.2.0", "10.5.13.0"),
		rng("255.255.240.0/20", 24, "255.255.241.0", "255.255.255.0"),
		rng("fd99::/60", 64, "fd99:0:0:1::", "fd99:0:0:e::"),
	} {
		bitLen := r.Min.BitLen()
		for length := range bitLen + 1 {
			for i := range uint64(17) {
				// Prefixes of every length at, before and after each subnet.
				at := number(r.Network.Addr()).add(uint128{lo: i}.shl(r.shift()))
				for _, a := range []uint128{at, at.sub(uint128{lo: 1})} {
					p := netip.PrefixFrom(a.addr(bitLen), length)
					s, ok := r.span(p)
					for k := range r.Len() {
						if in := ok && s.first <= k && k <= s.last; in != r.Subnet(k).Overlaps(p) {
							t.Fatalf("%v: %v spans %v, %v, which is wrong about %v", r, p, s, ok, r.Subnet(k))
						}
					}
				}
			}
		}
	}
	huge := rng("fc00::/7", 126, "fc00::4", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:fffc")
	for p, want := range map[string]span{
		"fc00::/7":              {0, math.MaxUint64 - 1},
		"::/0":                  {0, math.MaxUint64 - 1},
		"fc00::8/126":           {1, 1},
		"fc00::3:8000:0:0:0/65": {1<<63 + 1<<62 + 1<<61 - 1, math.MaxUint64 - 1},
	} {
		if s, ok := huge.span(netip.MustParsePrefix(p)); !ok || s != want {
			t.Errorf("%s spans %v, %v; want %v", p, s, ok, want)
		}
	}
	if s, ok := huge.span(netip.MustParsePrefix("fd00::/64")); ok {
		t.Errorf("a prefix beyond the last number spans %v", s)
	}
}

func TestUint128AgreesWithBig(t *testing.T) {
	wide := func(u uint128) *big.Int {
		n := new(big.Int).SetUint64(u.hi)
		return n.Lsh(n, 64).Or(n, new(big.Int).SetUint64(u.lo))
	}
	modulus := new(big.Int).Lsh(big.NewInt(1), 128)
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		a, b := uint128{random.Uint64(), random.Uint64()}, uint128{random.Uint64() >> random.UintN(64), random.Uint64()}
		n := random.UintN(129)
		for name, pair := range map[string][2]*big.Int{
			"add": {wide(a.add(b)), new(big.Int).Add(wide(a), wide(b))},
			"sub": {wide(a.sub(b)), new(big.Int).Sub(wide(a), wide(b))},
			"shl": {wide(a.shl(n)), new(big.Int).Lsh(wide(a), n)},
			"shr": {wide(a.shr(n)), new(big.Int).Rsh(wide(a), n)},
		} {
			if want := pair[1].Mod(pair[1], modulus); pair[0].Cmp(want) != 0 {
				t.Fatalf("%s of %v, %v, %d: got %v, want %v", name, a, b, n, pair[0], want)
			}
		}
		if a.less(b) != (wide(a).Cmp(wide(b)) < 0) {
			t.Fatalf("%v less %v is wrong", a, b)
		}
		if back := number(a.addr(128)); back != a {
			t.Fatalf("%v comes back as %v", a, back)
		}
	}
}
