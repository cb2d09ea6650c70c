package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hostgw/hostgw/examples/internal/daemon"
	"github.com/hostgw/hostgw/examples/internal/netns"
	"github.com/hostgw/hostgw/subnet"
)

// patience is how long a step may take that should take a second.
const patience = 30 * time.Second

// The network of the lab: what an operator decides.
var (
	network   = netip.MustParsePrefix("192.168.0.0/16")
	subnetLen = 26
	firstLast = [2]string{"192.168.0.64", "192.168.250.192"}

	network6   = netip.MustParsePrefix("fd99::/48")
	subnetLen6 = 64
)

// lab is the hosts of one run and what was found out about them.
type lab struct {
	settings
	dir string
	out io.Writer

	segment *netns.Segment
	nodes   []*node
	capture *netns.Capture

	up       bool // everything was built
	steps    int
	problems []string
}

// node is one host with what runs on it.
type node struct {
	*netns.Host
	daemon    *daemon.Process
	env       subnet.Env
	container *netns.Container
}

// build does what people do with machines: lay the segment, start the daemons,
// start a container on each host.
func (l *lab) build(ctx context.Context) error {
	var err error
	l.step("Lay a segment of %d hosts: a bridge for the switch, a network namespace for each host.", l.settings.nodes)
	if l.segment, err = netns.NewSegment(l.settings.nodes, netns.SegmentOptions{IPv6: l.ipv6}); err != nil {
		return err
	}
	for _, h := range l.segment.Hosts {
		l.nodes = append(l.nodes, &node{Host: h})
	}
	if l.capture, err = l.segment.Bridge.Capture(); err != nil {
		return err
	}

	l.step("Start hostgwd on all hosts at once. The first one also runs the store, an embedded etcd.")
	for i, n := range l.nodes {
		if err := l.startDaemon(n); err != nil {
			return err
		}
		if i < 2 {
			l.print("%s$ %s", n.Name, l.commandLine(n.daemon.Args))
		}
	}
	if rest := len(l.nodes) - 2; rest > 0 {
		l.print("(and the same as on host2 on the other %d)", rest)
	}

	l.step("Each host leases a subnet of its own and writes it to subnet.env, for the container engine.")
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	started := time.Now()
	for _, n := range l.nodes {
		if n.env, err = n.daemon.Env(ctx); err != nil {
			return err
		}
	}
	l.print("%d leases after %s", len(l.nodes), since(started))

	l.step("Each host gets one kernel route to each other host's subnet, through that host.")
	if err := l.waitRoutes(ctx); err != nil {
		return err
	}
	l.print("all routes after %s", since(started))

	l.step("Start a container on each host, as Docker would: bridge docker0, an address from the subnet.")
	for _, n := range l.nodes {
		if n.container, err = n.AddContainer(n.env); err != nil {
			return err
		}
	}
	l.up = true
	return nil
}

// startDaemon starts hostgwd on a host: with the network's config on the first,
// pointed to the first one's etcd on the others.
func (l *lab) startDaemon(n *node) error {
	dir := filepath.Join(l.dir, n.Name)
	etcd := fmt.Sprintf("http://%s:2379", l.nodes[0].IPv4)
	args := []string{"-etcd-endpoints", etcd}
	if n == l.nodes[0] {
		args = []string{
			"-network", network.String(), "-subnet-len", fmt.Sprint(subnetLen),
			"-subnet-min", firstLast[0], "-subnet-max", firstLast[1],
			"-listen-client-urls", etcd, "-data-dir", filepath.Join(dir, "etcd"),
		}
		if l.ipv6 {
			args = append(args, "-ipv6-network", network6.String(), "-ipv6-subnet-len", fmt.Sprint(subnetLen6))
		}
	}
	o := daemon.Options{Program: l.hostgwd, Dir: dir, Args: args}
	if l.verbose {
		o.Output = l.out
	}
	var err error
	n.daemon, err = daemon.Start(n.Namespace, o)
	return err
}

// waitRoutes waits until each host has a route to each other one's subnets.
func (l *lab) waitRoutes(ctx context.Context) error {
	for _, n := range l.nodes {
		for {
			missing, err := l.missingRoutes(n)
			if err != nil {
				return err
			}
			if len(missing) == 0 {
				break
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("%s has no route to %s after %v; its hostgwd says:\n%s", n.Name, missing[0], patience, n.daemon.Log())
			}
		}
	}
	return nil
}

// missingRoutes returns the other hosts' subnets to which n has no route through
// the host they belong to.
func (l *lab) missingRoutes(n *node) ([]netip.Prefix, error) {
	routes, err := n.Routes()
	if err != nil {
		return nil, err
	}
	gateways := make(map[netip.Prefix]netip.Addr)
	for _, r := range routes {
		gateways[r.Destination] = r.Gateway
	}
	var missing []netip.Prefix
	for _, peer := range l.nodes {
		if peer == n {
			continue
		}
		if s := peer.env.Subnet.Masked(); gateways[s] != peer.IPv4 {
			missing = append(missing, s)
		}
		if s := peer.env.IPv6Subnet.Masked(); l.ipv6 && gateways[s] != peer.IPv6 {
			missing = append(missing, s)
		}
	}
	return missing, nil
}

// takeDown stops everything, in order.
func (l *lab) takeDown() error {
	var errs []error
	// Without waiting in between: the first one runs the others' store.
	for i := len(l.nodes) - 1; i >= 0; i-- {
		d := l.nodes[i].daemon
		if d == nil {
			continue
		}
		// One that was told to stop while it was still starting ends by the signal.
		if status, err := d.Stop(); err != nil {
			errs = append(errs, err)
		} else if status != 0 && l.up {
			errs = append(errs, fmt.Errorf("hostgwd on %s ended with status %d; it says:\n%s", l.nodes[i].Name, status, d.Log()))
		}
	}
	if l.capture != nil {
		_, err := l.capture.Stop()
		errs = append(errs, err)
	}
	if l.segment != nil {
		errs = append(errs, l.segment.Close())
	}
	return errors.Join(errs...)
}

// wait leaves everything up until the user has seen enough.
func (l *lab) wait(ctx context.Context) {
	l.showHowToEnter()
	enter := make(chan struct{})
	go func() { // ends with the program, which may come first
		defer close(enter)
		for b := make([]byte, 1); ; {
			if n, err := os.Stdin.Read(b); err != nil {
				<-ctx.Done() // no terminal: a signal ends it
				return
			} else if n == 1 && b[0] == '\n' {
				return
			}
		}
	}()
	select {
	case <-enter:
	case <-ctx.Done():
	}
	fmt.Fprintln(l.out, "Taking it down.")
}

func (l *lab) step(format string, args ...any) {
	l.steps++
	fmt.Fprintf(l.out, "\n%d. %s\n", l.steps, fmt.Sprintf(format, args...))
}

// print writes lines below a step.
func (l *lab) print(format string, args ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		fmt.Fprintf(l.out, "     %s\n", strings.TrimRight(line, "\n"))
	}
}

// commandLine writes a command as one would type it, with the lab's directory
// shortened.
func (l *lab) commandLine(args []string) string {
	var b strings.Builder
	width := 0
	for i := 0; i < len(args); i++ {
		word := args[i]
		if i+1 < len(args) && strings.HasPrefix(word, "-") {
			i++
			word += " " + args[i]
		}
		word = strings.ReplaceAll(word, l.dir, "$LAB")
		if width > 0 && width+len(word) > 72 {
			b.WriteString(" \\\n    ")
			width = 0
		} else if width > 0 {
			b.WriteString(" ")
		}
		b.WriteString(word)
		width += len(word) + 1
	}
	return b.String()
}

func since(t time.Time) time.Duration { return time.Since(t).Round(10 * time.Millisecond) }
