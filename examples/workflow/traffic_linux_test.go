package workflow

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hostgw/hostgw/examples/internal/netns"
)

// pings is how many echo requests a ping sends. The packets are as big as the
// MTU: one more header, and they would no longer pass in one piece.
const pings = 3

// pingSize is what of such a packet is neither IP nor ICMP header.
const pingSize = mtu - 20 - 8

// outside is the segment's router. It has no route to any container.
var outside = netip.MustParseAddr("172.17.42.1")

// checkTraffic pings and traces from each container to the other, and checks
// what a person would look at. It returns what went over the segment meanwhile,
// in which it has found nothing encapsulated.
func (w *world) checkTraffic(t *testing.T) netns.Captured {
	t.Helper()
	capture, err := w.Bridge.Capture()
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range w.nodes {
		peer := w.nodes[1-i]
		if _, err := w.ping(t.Context(), i, peer.container, 62); err != nil {
			t.Errorf("ping from %v to %v: %v", n.container, peer.container, err)
		}
		hops, out, err := w.trace(t.Context(), i, peer.container)
		if err != nil {
			t.Errorf("traceroute from %v to %v: %v", n.container, peer.container, err)
		} else if want := []netip.Addr{n.env.Subnet.Addr(), peer.IPv4, peer.container}; !slices.Equal(hops, want) {
			t.Errorf("the path from %v to %v is %v, want %v:\n%s", n.container, peer.container, hops, want, out)
		}
	}
	seen, err := capture.Stop()
	if err != nil {
		t.Fatal(err)
	}
	checkPlain(t, seen)
	return seen
}

// checkPlain checks that what was seen on the segment is traffic, in packets that
// are whole and not encapsulated.
func checkPlain(t *testing.T, seen netns.Captured) {
	t.Helper()
	echoes := 0
	for f, count := range seen {
		switch {
		case f.Encapsulation != "":
			t.Errorf("on the segment was something encapsulated: %v", f)
		case strings.HasSuffix(f.Protocol, " fragment"):
			t.Errorf("on the segment were packets in pieces: %v", f)
		case f.Protocol == "icmp":
			echoes += count
		}
	}
	if want := 2 * 2 * pings; echoes < want {
		t.Errorf("on the segment were %d pings and answers, want at least %d:\n%v", echoes, want, seen)
	}
}

// checkAddresses checks that the containers' packets went over the segment under
// the containers' own addresses.
func (w *world) checkAddresses(t *testing.T, seen netns.Captured) {
	t.Helper()
	for i, n := range w.nodes {
		peer := w.nodes[1-i]
		if got := seen.Count(n.container, peer.container, "icmp"); got < 2*pings {
			t.Errorf("on the segment were %d pings and answers from %v to %v, want at least %d:\n%v",
				got, n.container, peer.container, 2*pings, seen)
		}
	}
}

// waitTraffic waits until a ping passes between the containers: hostgwd answers
// to what Docker does in a moment, but not before Docker has done it.
func (w *world) waitTraffic(t *testing.T) {
	t.Helper()
	eventually(t, "the containers reach each other", func() error {
		_, err := w.ping(t.Context(), 0, w.nodes[1].container, 62)
		return err
	})
}

var replyPattern = regexp.MustCompile(`(?m)^\d+ bytes from (\S+): seq=\d+ ttl=(\d+) time=`)

// ping runs ping in the container of the i-th node, and returns what it prints.
// Every request must be answered with the time to live that is wanted.
func (w *world) ping(ctx context.Context, i int, dst netip.Addr, ttl int) (string, error) {
	out, err := w.exec(ctx, i, "ping", "-c", fmt.Sprint(pings), "-i", "0.1", "-W", "1", "-s", fmt.Sprint(pingSize), dst.String())
	if err != nil {
		return out, err
	}
	replies := replyPattern.FindAllStringSubmatch(out, -1)
	if len(replies) != pings {
		return out, fmt.Errorf("%d of %d requests were answered:\n%s", len(replies), pings, out)
	}
	for _, r := range replies {
		if r[1] != dst.String() || r[2] != fmt.Sprint(ttl) {
			return out, fmt.Errorf("an answer from %s with ttl=%s, want %v with ttl=%d:\n%s", r[1], r[2], dst, ttl, out)
		}
	}
	return out, nil
}

// A line is the number of the hop, who answered and when.
var hopPattern = regexp.MustCompile(`(?m)^ *\d+  (\S+)(?:  [0-9.]+ ms)?$`)

// trace runs traceroute in the container of the i-th node, and returns the path
// and what it prints. Whoever has not answered is zero.
func (w *world) trace(ctx context.Context, i int, dst netip.Addr) ([]netip.Addr, string, error) {
	out, err := w.exec(ctx, i, "traceroute", "-n", "-q", "1", "-w", "2", "-m", "8", dst.String())
	var hops []netip.Addr
	for _, line := range hopPattern.FindAllStringSubmatch(out, -1) {
		a, _ := netip.ParseAddr(line[1])
		hops = append(hops, a)
	}
	return hops, out, err
}

// exec runs a program in the container of the i-th node.
func (w *world) exec(ctx context.Context, i int, command ...string) (string, error) {
	return w.nodes[i].docker.do(ctx, append([]string{"exec", fmt.Sprintf("web%d", i+1)}, command...)...)
}
