package main

import (
	"fmt"
	"os"
	"os/exec"

	"github.com/hostgw/hostgw/examples/internal/netns"
)

// published is where iproute2 looks for namespaces.
const published = "/run/netns"

// showHowToEnter says how to look around in a lab that is kept up. Nothing has to
// be removed by hand: all of it ends with this program, even with kill -9, but for
// a link in /run/netns and the directory.
func (l *lab) showHowToEnter() {
	inside := os.Getenv(insideVariable) != ""
	_, err := exec.LookPath("ip")
	iproute2 := err == nil && !inside
	l.step("It stays up. Enter a host or a container from another terminal:")
	show := func(ns *netns.Namespace) {
		enter := "nsenter --net=" + ns.Path()
		if inside {
			enter = fmt.Sprintf("nsenter --preserve-credentials --user --target %d --net=%s", os.Getpid(), ns.Path())
		}
		if name := fmt.Sprintf("lab%d-%s", os.Getpid(), ns.Name); iproute2 && ns.Publish(published, name) == nil {
			enter = "ip netns exec " + name
		}
		l.print("%-18s %s bash", ns.Name, enter)
	}
	for _, n := range l.nodes {
		show(n.Namespace)
		show(n.container.Namespace)
	}
	l.print("files              %s", l.dir)
	l.print("Press Enter or Ctrl-C to take everything down.")
}
