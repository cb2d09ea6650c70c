package netlinktest_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/hostgw/hostgw/netlinkx/netlinktest"
)

var (
	seeds = flag.Int("drift.seeds", 10, "how many random histories to compare with the real kernel")
	seed  = flag.Int("drift.seed", 0, "only this history")
)

// TestRandomHistory does the same long row of random things to the fake kernel
// and to the real one, and wants the same answers, events and routes after each.
func TestRandomHistory(t *testing.T) {
	first, n := 1, *seeds
	if *seed != 0 {
		first, n = *seed, 1
	}
	for s := first; s < first+n; s++ {
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			k := newFake()
			real, fake := newWitness(t, newNamespace(t)), newWitness(t, k)
			g := &generator{rand.New(rand.NewPCG(uint64(s), 0)), k}
			var history []string
			for range 150 {
				words := g.next()
				history = append(history, words)
				got, want := fake.do(words), real.do(words)
				if problem := compare(got, want); problem != "" {
					t.Fatalf("after\n\t%s\n%s", strings.Join(history, "\n\t"), problem)
				}
			}
		})
	}
}

func compare(fake, real outcome) string {
	var b strings.Builder
	if fake.refused != real.refused {
		fmt.Fprintf(&b, "fake refused: %q, real: %q\n", fake.refused, real.refused)
	}
	list := func(what string, fake, real []string) {
		if slices.Equal(fake, real) {
			return
		}
		for _, s := range fake {
			if !slices.Contains(real, s) {
				fmt.Fprintf(&b, "%s only in the fake: %s\n", what, s)
			}
		}
		for _, s := range real {
			if !slices.Contains(fake, s) {
				fmt.Fprintf(&b, "%s only in the real: %s\n", what, s)
			}
		}
		if len(fake) != len(real) {
			fmt.Fprintf(&b, "%s: %d in the fake, %d in the real\n", what, len(fake), len(real))
		}
	}
	list("events", fake.events, real.events)
	list("routes", slices.Sorted(slices.Values(fake.routes)), slices.Sorted(slices.Values(real.routes)))
	return b.String()
}

// generator makes up histories in which few destinations, gateways and metrics
// meet each other often.
type generator struct {
	*rand.Rand
	k *netlinktest.Kernel
}

func pick[T any](g *generator, of ...T) T { return of[g.IntN(len(of))] }

// next looks at the fake kernel for what is there.
func (g *generator) next() string {
	name := pick(g, "eth0", "eth1")
	links := g.k.Links()
	at := slices.IndexFunc(links, func(l netlinktest.Link) bool { return l.Name == name })
	if at < 0 {
		return "create " + name
	}
	link := links[at]
	switch n := g.IntN(100); {
	case n < 14:
		p := pick(g, "10.0.0.1/24", "10.0.0.9/24", "10.0.1.1/24", "10.0.0.5/32", "10.0.2.0/31", "fd00::1/64", "fd00:1::1/64", "fd00::9/64")
		for _, l := range links {
			if slices.Contains(l.Addrs, netip.MustParsePrefix(p)) {
				return "deladdr " + p + " " + l.Name
			}
		}
		return "addr " + p + " " + name
	case n < 16 && link.Up:
		return "down " + name
	case n < 26 && !link.Up:
		return "up " + name
	case n < 28:
		if link.Carrier {
			return "unplug " + name
		}
		return "plug " + name
	case n < 29:
		return "remove " + name
	case n < 70:
		return pick(g, "add ", "add ", "replace ", "replace ", "append ", "prepend ", "change ") + g.route(true)
	default:
		return "del " + g.route(false)
	}
}

func (g *generator) route(add bool) string {
	ipv6 := g.IntN(3) == 0
	s := pick(g, "10.1.0.0/24", "10.1.0.0/24", "10.2.0.0/24", "10.2.0.7/24", "10.1.0.0/16")
	via := []string{"10.0.0.2", "10.0.0.3", "10.0.1.2", "10.0.0.1", "10.0.0.255", "10.9.9.9", "10.2.0.7"}
	src := []string{"10.0.0.1", "10.0.0.9", "10.0.1.1"}
	metrics := []string{"7", "8"}
	if ipv6 {
		s = pick(g, "fd01::/64", "fd01::/64", "fd02::/64", "fd02::7/64")
		via = []string{"fd00::2", "fd00::3", "fd00:1::2", "fd00::1", "ff02::1", "fd99::9", "fd02::7"}
		src = []string{"fd00::1", "fd00::9"}
		metrics = []string{"7", "1024"}
	}
	maybe := func(percent int, words string, of []string) {
		if g.IntN(100) < percent {
			s += words + of[g.IntN(len(of))]
		}
	}
	percent := 30
	if add {
		percent = 90
	}
	maybe(percent, " via ", via)
	maybe(40, " dev ", []string{"eth0", "eth1"})
	maybe(60, " proto ", []string{"104", "104", "4", "77"})
	maybe(20, " metric ", metrics)
	maybe(10, " table ", []string{"100", "101"})
	maybe(10, " src ", src)
	if add && strings.Contains(s, " via ") {
		maybe(10, " onlink", []string{""})
	}
	return s
}
