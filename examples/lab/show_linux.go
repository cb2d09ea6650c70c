package main

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hostgw/hostgw/examples/internal/netns"
)

// shown is how many hosts, and lines of long lists, are printed in full.
const shown = 3

// show prints what a person would look at, and notes each thing that is not as
// it should be.
func (l *lab) show(ctx context.Context) error {
	l.step("Look at the hosts.")
	for i, n := range l.nodes {
		if i == shown && len(l.nodes) > shown+1 {
			fmt.Fprintf(l.out, "\n   (%d more hosts; -keep lets you look at them)\n", len(l.nodes)-shown)
		}
		if err := l.showHost(n, i < shown || len(l.nodes) == shown+1); err != nil {
			return err
		}
	}
	l.checkSubnets()

	a, b := l.nodes[0], l.nodes[1]
	l.step("Ping from a container to another host's. TTL 62: two hosts on the way, each took one from 64.")
	for _, dst := range b.container.IPs() {
		l.print("host1's container$ ping %v", dst)
		r, err := a.container.Ping(ctx, dst, netns.PingOptions{})
		if err != nil {
			return err
		}
		l.print("%v", r)
	}
	if err := l.pingAll(ctx); err != nil {
		return err
	}

	l.step("Trace the path: the own host, the other host, the container. Three hops, nothing hidden.")
	for i, dst := range b.container.IPs() {
		l.print("host1's container$ traceroute %v", dst)
		hops, err := a.container.Trace(ctx, dst)
		if err != nil {
			return err
		}
		var path []netip.Addr
		for _, h := range hops {
			path = append(path, h.Addr)
			l.print("%v  %s", h, l.whose(h.Addr))
		}
		want := []netip.Addr{a.env.Subnet.Addr(), b.IPv4, dst}
		if i == 1 {
			want = []netip.Addr{a.env.IPv6Subnet.Addr(), b.IPv6, dst}
		}
		if !slices.Equal(path, want) {
			l.problem("the path to %v is %v, not %v", dst, path, want)
		}
	}

	l.step("Look at the segment: every frame that crossed it since the start.")
	if err := l.showSegment(); err != nil {
		return err
	}

	fmt.Fprintln(l.out)
	if len(l.problems) == 0 {
		fmt.Fprintf(l.out, "It works: %d hosts, one flat network, plain kernel routes.\n", len(l.nodes))
		return nil
	}
	fmt.Fprintln(l.out, "It does not work:")
	for _, p := range l.problems {
		fmt.Fprintf(l.out, "  - %s\n", p)
	}
	for _, n := range l.nodes {
		fmt.Fprintf(l.out, "\nhostgwd on %s says:\n%s", n.Name, n.daemon.Log())
	}
	return nil
}

// showHost prints a host's addresses, subnet.env and routes.
func (l *lab) showHost(n *node, full bool) error {
	file, err := os.ReadFile(n.daemon.SubnetFile)
	if err != nil {
		return err
	}
	routes, err := n.Routes()
	if err != nil {
		return err
	}
	missing, err := l.missingRoutes(n)
	if err != nil {
		return err
	}
	for _, s := range missing {
		l.problem("%s has no route to %v", n.Name, s)
	}
	if !full {
		return nil
	}

	fmt.Fprintf(l.out, "\n   %s\n", n.Name)
	for _, device := range []string{"eth0", "docker0"} {
		addresses, err := n.Addresses(device)
		if err != nil {
			return err
		}
		l.print("%-10s %s", device, join(addresses))
	}
	l.print("%-10s %s", "container", join(n.container.IPs()))
	l.print("$ cat subnet.env")
	l.print("%s", file)
	l.showRoutes("$ ip route", routes, netip.Addr.Is4)
	if l.ipv6 {
		l.showRoutes("$ ip -6 route", routes, func(a netip.Addr) bool { return a.Is6() && !a.IsLinkLocalUnicast() })
	}
	return nil
}

// showRoutes prints a command and the routes to where it looks.
func (l *lab) showRoutes(command string, routes []netns.Route, to func(netip.Addr) bool) {
	l.print("%s", command)
	more := 0
	for _, r := range routes {
		switch {
		case !to(r.Destination.Addr()):
		case r.Gateway.IsValid() && r.Destination.Bits() > 0 && len(l.nodes) > 6 && !l.near(r):
			more++
		default:
			l.print("%v", r)
		}
	}
	if more > 0 {
		l.print("... and %d more such routes", more)
	}
}

// near reports whether r leads to one of the hosts that are shown.
func (l *lab) near(r netns.Route) bool {
	return slices.ContainsFunc(l.nodes[:shown], func(n *node) bool { return r.Gateway == n.IPv4 || r.Gateway == n.IPv6 })
}

// checkSubnets checks that the leases are what the config promises: in the
// network, of the right size, and no two the same.
func (l *lab) checkSubnets() {
	holders := make(map[netip.Prefix]string)
	for _, n := range l.nodes {
		l.checkSubnet(holders, n, n.env.Subnet, network, subnetLen)
		if l.ipv6 {
			l.checkSubnet(holders, n, n.env.IPv6Subnet, network6, subnetLen6)
		}
	}
}

func (l *lab) checkSubnet(holders map[netip.Prefix]string, n *node, own, network netip.Prefix, bits int) {
	if !own.IsValid() || own.Bits() != bits || !network.Contains(own.Addr()) {
		l.problem("%s leased %v, not a /%d of %v", n.Name, own, bits, network)
	}
	if other := holders[own.Masked()]; other != "" {
		l.problem("%s and %s both hold %v", other, n.Name, own.Masked())
	}
	holders[own.Masked()] = n.Name
}

// pingAll pings from each container to each other one, all at once.
func (l *lab) pingAll(ctx context.Context) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
		count int
	)
	for _, from := range l.nodes {
		wg.Go(func() {
			for _, to := range l.nodes {
				if from == to {
					continue
				}
				for _, dst := range to.container.IPs() {
					r, err := from.container.Ping(ctx, dst, netns.PingOptions{Count: 1, Timeout: 5 * time.Second})
					mu.Lock()
					count++
					if err != nil {
						first = err
					} else if r.TTL() != 62 {
						l.problem("ping from %s's container to %s's: %v", from.Name, to.Name, strings.ReplaceAll(r.String(), "\n", "; "))
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if first != nil {
		return first
	}
	l.print("and from each container to each other one: %d pings", count)
	return nil
}

// showSegment ends the capture, prints it, and checks that the containers'
// packets crossed the segment as they are.
func (l *lab) showSegment() error {
	capture := l.capture
	l.capture = nil
	seen, err := capture.Stop()
	if err != nil {
		return err
	}
	l.showFlows(seen)
	for _, from := range l.nodes {
		for _, to := range l.nodes {
			if from == to {
				continue
			}
			for i, src := range from.container.IPs() {
				if dst := to.container.IPs()[i]; seen.Count(src, dst, "icmp") == 0 {
					l.problem("no plain packet from %v to %v crossed the segment", src, dst)
				}
			}
		}
	}
	tunnels := seen.Encapsulated()
	if len(tunnels) > 0 {
		l.problem("encapsulated packets crossed the segment:\n%v", tunnels)
	}
	l.print("%d frames, %d of them encapsulated", seen.Frames(), tunnels.Frames())
	return nil
}

// showFlows prints what two containers said to each other, and the rest by kind.
func (l *lab) showFlows(seen netns.Captured) {
	a, b := l.nodes[0].container, l.nodes[1].container
	for i := range a.IPs() {
		src, dst := a.IPs()[i], b.IPs()[i]
		l.print("%6d  %v > %v icmp, host1's container to host2's", seen.Count(src, dst, "icmp"), src, dst)
		l.print("%6d  %v > %v icmp, and back", seen.Count(dst, src, "icmp"), dst, src)
	}
	kinds := make(map[string]int)
	for f, count := range seen {
		from, to := l.whose(f.Src), l.whose(f.Dst)
		pair := from == "host1's container" && to == "host2's container" ||
			from == "host2's container" && to == "host1's container"
		switch {
		case f.Encapsulation != "":
			kinds[f.String()] += count
		case pair && f.Protocol == "icmp": // shown
		case strings.HasSuffix(from, "container") && strings.HasSuffix(to, "container"):
			kinds[f.Protocol+" between containers besides"] += count
		case f.Port == 2379:
			kinds["tcp port 2379 between the hosts and their store"] += count
		default:
			kinds[f.Protocol+" of the hosts themselves"] += count
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		l.print("%6d  %s", kinds[kind], kind)
	}
}

// whose says where an address belongs.
func (l *lab) whose(a netip.Addr) string {
	for _, n := range l.nodes {
		if !a.IsValid() {
			break
		}
		switch a {
		case n.IPv4, n.IPv6:
			return n.Name
		case n.env.Subnet.Addr(), n.env.IPv6Subnet.Addr():
			return n.Name + "'s docker0"
		}
		if slices.Contains(n.container.IPs(), a) {
			return n.Name + "'s container"
		}
	}
	return "?"
}

func (l *lab) problem(format string, args ...any) {
	l.problems = append(l.problems, fmt.Sprintf(format, args...))
}

func join[T fmt.Stringer](list []T) string {
	words := make([]string, len(list))
	for i, e := range list {
		words[i] = e.String()
	}
	return strings.Join(words, "  ")
}
