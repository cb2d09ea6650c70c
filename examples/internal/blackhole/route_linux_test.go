package blackhole

import (
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/hostgw/hostgw/examples/internal/netns"
)

// Set leaves exactly the routes it is given, in both families, whatever was there.
func TestSet(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	ns, err := netns.New("blackhole")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	do := func(f func([]netip.Prefix) error, given []netip.Prefix) (have []netip.Prefix) {
		t.Helper()
		err := ns.Do(func() (err error) {
			if err = f(given); err == nil {
				have, err = List()
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(have, netip.Prefix.Compare)
		return have
	}
	a, b, c := netip.MustParsePrefix("10.5.1.0/24"), netip.MustParsePrefix("fd99:0:0:4b::/64"), netip.MustParsePrefix("10.5.2.0/24")
	for _, want := range [][]netip.Prefix{{a, b}, {a, b}, {c}, {}} {
		if have := do(Set, want); !slices.Equal(have, want) {
			t.Errorf("blackholes %v, want %v", have, want)
		}
	}

	// Keep only takes away.
	do(Set, []netip.Prefix{a, b})
	var removed []netip.Prefix
	keep := func(stay []netip.Prefix) (err error) {
		removed, err = Keep(stay)
		return err
	}
	if have := do(keep, []netip.Prefix{b, c}); !slices.Equal(have, []netip.Prefix{b}) || !slices.Equal(removed, []netip.Prefix{a}) {
		t.Errorf("keeping %v and %v of %v and %v leaves %v and removes %v", b, c, a, b, have, removed)
	}
}
