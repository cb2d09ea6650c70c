package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/examples/internal/daemon"
	"github.com/hostgw/hostgw/examples/internal/netns"
	"github.com/hostgw/hostgw/subnet"
)

// The workflow's prefix and config, and the same for dual-stack.
const (
	prefix     = "/cluster.hostgw/network"
	config     = `{"Network":"192.168.0.0/16","SubnetLen":26,"SubnetMin":"192.168.0.64","SubnetMax":"192.168.250.192","Backend":{"Type":"host-gw"}}`
	dualConfig = `{"Network":"192.168.0.0/16","SubnetLen":26,"SubnetMin":"192.168.0.64","SubnetMax":"192.168.250.192",` +
		`"EnableIPv6":true,"IPv6Network":"fd99::/48","IPv6SubnetLen":64,"Backend":{"Type":"host-gw"}}`
)

// world is a segment of hosts, and an etcd on the segment's router.
type world struct {
	*netns.Segment
	etcd  *etcdServer
	nodes []*node
	dual  bool
	dir   string
}

// node is a host with its hostgwd and a container.
type node struct {
	*netns.Host
	daemon    *daemon.Process
	env       subnet.Env
	container *netns.Container
}

type worldOptions struct {
	hosts int
	dual  bool
	etcd  string // path of the etcd to use; the one of Go's module if empty
	bare  bool   // store no config
}

// newWorld makes a world that ends with the test. No hostgwd runs in it yet.
func newWorld(t *testing.T, o worldOptions) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	dir, err := os.MkdirTemp("", "hostgw-") // short: there is a socket below
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	segment, err := netns.NewSegment(o.hosts, netns.SegmentOptions{IPv6: o.dual})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := segment.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{Segment: segment, dual: o.dual, dir: dir}
	for _, h := range segment.Hosts {
		w.nodes = append(w.nodes, &node{Host: h})
	}
	t.Cleanup(func() {
		for _, n := range w.nodes {
			if n.daemon != nil {
				n.daemon.Kill()
				if t.Failed() {
					t.Logf("hostgwd on %s says:\n%s", n.Name, n.daemon.Log())
				}
			}
		}
	})
	w.etcd = startEtcd(t, segment.Bridge, o.etcd)
	if !o.bare {
		w.etcd.put(t, prefix+"/config", w.config())
	}
	return w
}

func (w *world) config() string {
	if w.dual {
		return dualConfig
	}
	return config
}

// start starts hostgwd on a host, pointed to the etcd unless args say otherwise.
func (w *world) start(t *testing.T, n *node, args ...string) {
	t.Helper()
	w.startWith(t, n, daemon.Options{Args: append([]string{"-etcd-endpoints", etcdURL, "-etcd-prefix", prefix}, args...)})
}

// startWith starts hostgwd on a host as o says.
func (w *world) startWith(t *testing.T, n *node, o daemon.Options) {
	t.Helper()
	o.Program, o.Dir = program, filepath.Join(w.dir, n.Name)
	var err error
	if n.daemon, err = daemon.Start(n.Namespace, o); err != nil {
		t.Fatal(err)
	}
}

// join starts hostgwd on all hosts at once, waits until all are ready and each
// has its routes, and starts a container on each.
func (w *world) join(t *testing.T) {
	t.Helper()
	for _, n := range w.nodes {
		w.start(t, n)
	}
	w.settle(t)
	for _, n := range w.nodes {
		w.addContainer(t, n)
	}
}

func (w *world) addContainer(t *testing.T, n *node) {
	t.Helper()
	var err error
	if n.container, err = n.AddContainer(n.env); err != nil {
		t.Fatal(err)
	}
}

// settle waits until every hostgwd is ready and has exactly the routes to each
// other one's subnets. Hosts without one are left out.
func (w *world) settle(t *testing.T) {
	t.Helper()
	ctx := deadline(t)
	var running []*node
	for _, n := range w.nodes {
		if n.daemon == nil {
			continue
		}
		running = append(running, n)
		if err := n.daemon.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		var err error
		if n.env, err = n.daemon.Env(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range running {
		eventually(t, n.Name+" has the routes to its peers", func() (bool, string) {
			got := strings.Join(w.ownRoutes(t, n), "\n")
			return got == strings.Join(w.wantRoutes(n), "\n"), got
		})
	}
}

// ownRoutes returns the lines of a host's routes that hostgwd made, sorted.
func (w *world) ownRoutes(t *testing.T, n *node) []string {
	t.Helper()
	routes, err := n.Routes()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range routes {
		if r.Protocol == 104 {
			lines = append(lines, r.String())
		}
	}
	slices.Sort(lines)
	return lines
}

// wantRoutes returns what those lines must be.
func (w *world) wantRoutes(n *node) []string {
	var lines []string
	for _, peer := range w.nodes {
		if peer == n || peer.daemon == nil {
			continue
		}
		lines = append(lines, fmt.Sprintf("%v via %v dev eth0 proto 104", peer.env.Subnet.Masked(), peer.IPv4))
		if w.dual {
			lines = append(lines, fmt.Sprintf("%v via %v dev eth0 proto 104 metric 1024 pref medium", peer.env.IPv6Subnet.Masked(), peer.IPv6))
		}
	}
	slices.Sort(lines)
	return lines
}

// checkLeases checks what subnet.env files and store say: a subnet a host, in
// the range, no two overlapping, in flannel's formats, and one etcd lease each.
func (w *world) checkLeases(t *testing.T) {
	t.Helper()
	first, last := netip.MustParseAddr("192.168.0.64"), netip.MustParseAddr("192.168.250.192")
	stored := w.records(t)
	for i, n := range w.nodes {
		own := n.env.Subnet.Masked()
		if own.Bits() != 26 || own.Addr().Less(first) || last.Less(own.Addr()) || n.env.Subnet.Addr() != own.Addr().Next() {
			t.Errorf("%s: FLANNEL_SUBNET=%v is not the first address of a /26 from %v to %v", n.Name, n.env.Subnet, first, last)
		}
		name := strings.ReplaceAll(own.String(), "/", "-")
		file := fmt.Sprintf("FLANNEL_NETWORK=192.168.0.0/16\nFLANNEL_SUBNET=%v\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n", n.env.Subnet)
		value := map[string]any{"PublicIP": n.IPv4.String(), "PublicIPv6": nil, "BackendType": "host-gw"}
		if w.dual {
			own6 := n.env.IPv6Subnet.Masked()
			if own6.Bits() != 64 || !netip.MustParsePrefix("fd99::/48").Contains(own6.Addr()) || n.env.IPv6Subnet.Addr() != own6.Addr().Next() {
				t.Errorf("%s: FLANNEL_IPV6_SUBNET=%v is not the first address of a /64 of fd99::/48", n.Name, n.env.IPv6Subnet)
			}
			name += "&" + strings.ReplaceAll(own6.String(), "/", "-")
			file += fmt.Sprintf("FLANNEL_IPV6_NETWORK=fd99::/48\nFLANNEL_IPV6_SUBNET=%v\n", n.env.IPv6Subnet)
			value["PublicIPv6"] = n.IPv6.String()
		}
		for _, other := range w.nodes[:i] {
			if other.env.Subnet.Overlaps(n.env.Subnet) || w.dual && other.env.IPv6Subnet.Overlaps(n.env.IPv6Subnet) {
				t.Errorf("%s and %s hold overlapping subnets: %v, %v", other.Name, n.Name, other.env, n.env)
			}
		}
		if got, err := os.ReadFile(n.daemon.SubnetFile); err != nil || string(got) != file {
			t.Errorf("%s: subnet.env is\n%s\nwant\n%s(error %v)", n.Name, got, file, err)
		}

		r, ok := stored[name]
		if !ok {
			t.Errorf("%s: no key %s in the store", n.Name, name)
			continue
		}
		if !mapsEqual(r.value, value) {
			t.Errorf("%s: the store's value of %s is %v, want %v", n.Name, name, r.value, value)
		}
		if r.ttl > 24*time.Hour || r.ttl < 24*time.Hour-10*time.Minute {
			t.Errorf("%s: the lease has %v left, want nearly 24h", n.Name, r.ttl)
		}
	}
	if len(stored) != len(w.nodes) {
		t.Errorf("the store holds %d subnets of %d hosts: %v", len(stored), len(w.nodes), stored)
	}
	leases, err := w.etcd.client.Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(leases.Leases) != len(w.nodes) {
		t.Errorf("etcd holds %d leases of %d hosts: some are orphans", len(leases.Leases), len(w.nodes))
	}
}

// record is what the store holds under a subnet's key.
type record struct {
	value map[string]any
	lease clientv3.LeaseID
	ttl   time.Duration
}

func (w *world) records(t *testing.T) map[string]record {
	t.Helper()
	got, err := w.etcd.client.Get(t.Context(), prefix+"/subnets/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	records := make(map[string]record)
	for _, kv := range got.Kvs {
		r := record{lease: clientv3.LeaseID(kv.Lease)}
		if err := json.Unmarshal(kv.Value, &r.value); err != nil {
			t.Errorf("value of %s: %v", kv.Key, err)
		}
		if r.lease != 0 {
			left, err := w.etcd.client.TimeToLive(t.Context(), r.lease)
			if err != nil {
				t.Fatal(err)
			}
			r.ttl = time.Duration(left.TTL) * time.Second
		}
		records[strings.TrimPrefix(string(kv.Key), prefix+"/subnets/")] = r
	}
	return records
}

// checkTraffic checks that every container reaches every other one over two
// hosts, that the path has three hops, and that all of it crosses the segment as
// it is.
func (w *world) checkTraffic(t *testing.T) {
	t.Helper()
	capture, err := w.Bridge.Capture()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, from := range w.nodes {
		wg.Go(func() {
			for _, to := range w.nodes {
				if from == to {
					continue
				}
				for _, dst := range to.container.IPs() {
					r, err := from.container.Ping(t.Context(), dst, netns.PingOptions{Count: 1, Timeout: 5 * time.Second})
					if err != nil || r.TTL() != 62 {
						t.Errorf("ping from %s's container to %s's: want ttl=62, got %v, %v", from.Name, to.Name, r, err)
					}
				}
			}
		})
	}
	wg.Wait()
	seen, err := capture.Stop()
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range w.nodes {
		for _, to := range w.nodes {
			if from == to {
				continue
			}
			for i, src := range from.container.IPs() {
				if dst := to.container.IPs()[i]; seen.Count(src, dst, "icmp") != 2 { // a request and a reply
					t.Errorf("%d plain packets from %v to %v on the segment, want 2", seen.Count(src, dst, "icmp"), src, dst)
				}
			}
		}
	}
	if tunnels := seen.Encapsulated(); len(tunnels) > 0 {
		t.Errorf("encapsulated packets on the segment:\n%v", tunnels)
	}

	a, b := w.nodes[0], w.nodes[len(w.nodes)-1]
	want := [][]netip.Addr{{a.env.Subnet.Addr(), b.IPv4, b.container.IPv4}}
	if w.dual {
		want = append(want, []netip.Addr{a.env.IPv6Subnet.Addr(), b.IPv6, b.container.IPv6})
	}
	for i, dst := range b.container.IPs() {
		hops, err := a.container.Trace(t.Context(), dst)
		if err != nil {
			t.Fatal(err)
		}
		var path []netip.Addr
		for _, h := range hops {
			path = append(path, h.Addr)
		}
		if !slices.Equal(path, want[i]) {
			t.Errorf("path from %s's container to %v: %v, want %v", a.Name, dst, path, want[i])
		}
	}
}

// deadline is a context for what should take a second.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until ok says so, or fails the test with what it last saw.
func eventually(t *testing.T, what string, ok func() (bool, string)) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		done, saw := ok()
		if done {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waiting until %s: last saw\n%s", what, saw)
		}
	}
}

func mapsEqual(a, b map[string]any) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}
