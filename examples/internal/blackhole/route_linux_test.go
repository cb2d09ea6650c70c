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
	a, b, c := netip.MustParsePrefix("10.5.1.0/24"), netip.MustParsePrefix("fd99:0:0:4b::/64"), netip.MustParsePrefix("10.5.2.0/24")
	for _, want := range [][]netip.Prefix{{a, b}, {a, b}, {c}, {}} {
		var have []netip.Prefix
		err := ns.Do(func() error {
			if err := Set(want); err != nil {
				return err
			}
			var err error
			have, err = List()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(have, netip.Prefix.Compare)
		if !slices.Equal(have, want) {
			t.Errorf("blackholes %v, want %v", have, want)
		}
	}
}
