package workflow

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostgw/hostgw/examples/internal/daemon"
	"github.com/hostgw/hostgw/examples/internal/netns"
	"github.com/hostgw/hostgw/subnet"
)

// mtu is the segment's, and not what Docker and the kernel take by themselves: so
// it shows who has read subnet.env.
const mtu = 1460

// patience is how long a step may take that should take a second.
const patience = 30 * time.Second

// world is a segment of two hosts.
type world struct {
	*netns.Segment
	nodes []*node
	dual  bool
	dir   string
}

// node is a host with what runs on it, and its one container.
type node struct {
	*netns.Host
	daemon *daemon.Process
	env    subnet.Env
	dir    string
	docker *docker

	container netip.Addr
}

// newWorld makes a world that ends with the test. Nothing runs in it yet.
func newWorld(t *testing.T, dual bool) *world {
	t.Helper()
	dir := shortDir(t)
	segment, err := netns.NewSegment(2, netns.SegmentOptions{IPv6: dual, MTU: mtu})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := segment.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{Segment: segment, dual: dual, dir: dir}
	for _, h := range segment.Hosts {
		w.nodes = append(w.nodes, &node{Host: h, dir: filepath.Join(dir, h.Name)})
	}
	t.Cleanup(func() { w.stopDockers(t) })
	return w
}

// shortDir returns a directory that ends with the test. Unlike t.TempDir's, its
// name leaves room for those of sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hostgw-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// join starts hostgwd on both hosts, the way the README does, and waits until
// each has its subnet.env and the route to the other's subnet.
func (w *world) join(t *testing.T, flags ...string) {
	t.Helper()
	for _, n := range w.nodes {
		w.startDaemon(t, n, flags...)
	}
	w.settle(t)
}

func (w *world) startDaemon(t *testing.T, n *node, flags ...string) {
	t.Helper()
	etcd := fmt.Sprintf("http://%v:2379", w.nodes[0].IPv4)
	args := []string{"-etcd-endpoints", etcd}
	if n == w.nodes[0] {
		args = []string{"-network", "192.168.0.0/16", "-subnet-len", "26", "-listen-client-urls", etcd, "-data-dir", filepath.Join(n.dir, "etcd")}
		if w.dual {
			args = append(args, "-ipv6-network", "fd99::/48", "-ipv6-subnet-len", "64")
		}
	}
	p, err := daemon.Start(n.Namespace, daemon.Options{Program: program, Dir: n.dir, Args: append(args, flags...)})
	if err != nil {
		t.Fatal(err)
	}
	n.daemon = p
	t.Cleanup(func() {
		if status, err := p.Stop(); status != 0 || err != nil {
			t.Errorf("hostgwd on %s stopped with status %d, %v", n.Name, status, err)
		}
		if t.Failed() {
			t.Logf("hostgwd on %s says:\n%s", n.Name, p.Log())
		}
	})
}

func (w *world) settle(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, n := range w.nodes {
		if err := n.daemon.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		var err error
		if n.env, err = n.daemon.Env(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range w.nodes {
		peer := w.nodes[1-i]
		eventually(t, fmt.Sprintf("%s has a route to %v", n.Name, peer.env.Subnet.Masked()), func() error {
			return n.checkRoute(peer.env.Subnet.Masked(), peer.IPv4)
		})
		if w.dual {
			eventually(t, fmt.Sprintf("%s has a route to %v", n.Name, peer.env.IPv6Subnet.Masked()), func() error {
				return n.checkRoute(peer.env.IPv6Subnet.Masked(), peer.IPv6)
			})
		}
	}
}

func (n *node) checkRoute(destination netip.Prefix, gateway netip.Addr) error {
	routes, err := n.Routes()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(routes, func(r netns.Route) bool {
		return r.Destination == destination && r.Gateway == gateway && r.Device == "eth0"
	}) {
		return fmt.Errorf("its routes: %v", routes)
	}
	return nil
}

// eventually waits until check finds nothing to complain about.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %v until %s: %v", patience, what, err)
		}
	}
}

// startDockers starts a dockerd on both hosts at once, from their subnet.env
// files, and a container on each.
func (w *world) startDockers(t *testing.T, command, path string) {
	t.Helper()
	w.startEmptyDockers(t, command, path)
	for i, n := range w.nodes {
		n.runContainer(t, fmt.Sprintf("web%d", i+1))
	}
}

// startEmptyDockers is startDockers without the containers.
func (w *world) startEmptyDockers(t *testing.T, command, path string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w.onEach(t, func(n *node) (err error) {
		o := dockerOptions{command: command, path: path, subnetFile: os.DevNull, dir: filepath.Join(n.dir, "docker")}
		if n.daemon != nil {
			o.subnetFile = n.daemon.SubnetFile
		}
		if err := os.MkdirAll(o.dir, 0o700); err != nil {
			return err
		}
		n.docker, err = startDocker(ctx, n.Namespace, o)
		return err
	})
	if t.Failed() {
		t.FailNow()
	}
}

// stopDockers stops the dockerds that run, and checks that they leave nothing
// behind.
func (w *world) stopDockers(t *testing.T) {
	t.Helper()
	w.onEach(t, func(n *node) error {
		d := n.docker
		if d == nil {
			return nil
		}
		n.docker = nil
		err := d.machine.stop()
		if err != nil || t.Failed() {
			t.Logf("dockerd on %s says:\n%s", n.Name, d.machine.says())
		}
		return err
	})
}

// onEach does something on both hosts at once. Whatever fails is the test's error.
func (w *world) onEach(t *testing.T, do func(n *node) error) {
	t.Helper()
	var group sync.WaitGroup
	for _, n := range w.nodes {
		group.Go(func() {
			if err := do(n); err != nil {
				t.Errorf("%s: %v", n.Name, err)
			}
		})
	}
	group.Wait()
}

func (n *node) runContainer(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var err error
	if n.container, err = n.docker.run(ctx, name); err != nil {
		t.Fatal(err)
	}
	if !n.env.Subnet.Contains(n.container) {
		t.Fatalf("container %s has the address %v, want one in %v of subnet.env", name, n.container, n.env.Subnet.Masked())
	}
	out, err := n.docker.do(ctx, "exec", name, "ip", "link", "show", "dev", "eth0")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf(" mtu %d ", mtu); !strings.Contains(out, want) || n.env.MTU != mtu {
		t.Errorf("container %s and subnet.env should have the segment's%sand have %d and\n%s", name, want, n.env.MTU, out)
	}
}
