package chaos

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/examples/internal/daemon"
	"github.com/hostgw/hostgw/examples/internal/netns"
	"github.com/hostgw/hostgw/subnet"
)

const (
	hosts = 10

	prefix = "/cluster.hostgw/network"
	config = `{"Network":"192.168.0.0/16","SubnetLen":26,"SubnetMin":"192.168.0.64","SubnetMax":"192.168.250.128","Backend":{"Type":"host-gw"}}`

	// patience is how long anything may take on a busy machine.
	patience = 30 * time.Second
)

// The marker is the lease of a host that does not exist, outside of the range that
// hosts lease from: whoever has its route has heard the store.
const (
	markerSubnet = "192.168.251.0/26"
	markerKey    = prefix + "/subnets/192.168.251.0-26"
)

var markerGateways = [2]string{"172.17.42.200", "172.17.42.201"}

// world is a segment with the hosts of a network and of its etcd.
type world struct {
	*netns.Segment
	etcd  *cluster
	nodes []*node
	mesh  *mesh
	dir   string

	leases   []string         // the keys in the store once all have joined; they never change
	created  map[string]int64 // the revisions at which they were created; nil if they are to be created anew
	backup   string           // where the last backup is
	backedUp map[string]int64 // created at that time
}

// shortTTL is how long every other host's lease lives without being kept alive: long
// enough for what a step takes, and short enough that it is renewed within each.
const shortTTL = 10 * time.Second

// node is a host with its hostgwd and a container.
type node struct {
	*netns.Host
	daemon    *daemon.Process
	env       subnet.Env
	container *netns.Container
	monitor   *netns.RouteMonitor
}

// newWorld makes a world in which all have joined. It ends with the test.
func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "hostgw-") // short: there is a socket below
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	segment, err := netns.NewSegment(hosts+3, netns.SegmentOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := segment.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{Segment: segment, dir: dir}
	for _, h := range segment.Hosts[:hosts] {
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
	w.etcd = startCluster(t, segment.Bridge, segment.Hosts[hosts:])
	w.etcd.do(t, clientv3.OpPut(prefix+"/config", config))
	for _, n := range w.nodes {
		w.start(t, n)
	}
	w.waitReady(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, n := range w.nodes {
		if n.env, err = n.daemon.Env(ctx); err != nil {
			t.Fatal(err)
		}
		if n.container, err = n.AddContainer(n.env); err != nil {
			t.Fatal(err)
		}
	}
	w.waitRoutes(t)
	w.created = w.stored(t)
	w.leases = slices.Sorted(maps.Keys(w.created))
	if len(w.leases) != hosts {
		t.Fatalf("etcd holds %d leases of %d hosts: %v", len(w.leases), hosts, w.leases)
	}
	w.mesh = startMesh(t, w.nodes)
	return w
}

func (w *world) start(t *testing.T, n *node) {
	t.Helper()
	args := []string{"-etcd-endpoints", w.etcd.endpoints(), "-etcd-prefix", prefix}
	if slices.Index(w.nodes, n)%2 == 0 {
		args = append(args, "-lease-ttl", shortTTL.String())
	}
	var err error
	n.daemon, err = daemon.Start(n.Namespace, daemon.Options{Program: program, Dir: filepath.Join(w.dir, n.Name), Args: args})
	if err != nil {
		t.Fatal(err)
	}
}

// waitReady waits until every daemon is ready.
func (w *world) waitReady(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, n := range w.nodes {
		if err := n.daemon.Ready(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// waitRoutes waits until every host has exactly the routes to all others.
func (w *world) waitRoutes(t *testing.T) {
	t.Helper()
	for _, n := range w.nodes {
		var want []string
		for _, peer := range w.nodes {
			if peer != n {
				want = append(want, fmt.Sprintf("%v via %v dev eth0 proto 104", peer.env.Subnet.Masked(), peer.IPv4))
			}
		}
		slices.Sort(want)
		eventually(t, n.Name+" has the routes to its peers", func() (bool, string) {
			got := routesOf(t, n)
			return slices.Equal(got, want), fmt.Sprintf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		})
	}
}

// routesOf returns the lines of a host's routes that hostgwd made, sorted.
func routesOf(t *testing.T, n *node) []string {
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

// stored returns the keys of the leases in the store, with the revisions at which they
// were created, but for the marker.
func (w *world) stored(t *testing.T) map[string]int64 {
	t.Helper()
	created := map[string]int64{}
	eventually(t, "etcd can be read", func() (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got, err := w.etcd.client.Get(ctx, prefix+"/subnets/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			return false, err.Error()
		}
		clear(created)
		for _, kv := range got.Kvs {
			created[string(kv.Key)] = kv.CreateRevision
		}
		delete(created, markerKey)
		return true, ""
	})
	return created
}

// waitLeases waits until the store holds the leases that it held at the beginning,
// on one etcd lease for each host, and checks that none was lost and put back.
func (w *world) waitLeases(t *testing.T) {
	t.Helper()
	var created map[string]int64
	eventually(t, "every host holds its lease", func() (bool, string) {
		created = w.stored(t)
		got := slices.Sorted(maps.Keys(created))
		return slices.Equal(got, w.leases), fmt.Sprintf("%v, want %v", got, w.leases)
	})
	if w.created != nil && !maps.Equal(created, w.created) {
		t.Errorf("leases were lost and put back: created at\n%v\nand before at\n%v", created, w.created)
	}
	w.created = created
	eventually(t, "there is an etcd lease a host", func() (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got, err := w.etcd.client.Leases(ctx)
		if err != nil {
			return false, err.Error()
		}
		return len(got.Leases) == hosts, fmt.Sprintf("%d etcd leases", len(got.Leases))
	})
}

// heardWithin waits until the store takes a write, which is when it is back, and checks
// that every daemon acts on that within a while. It returns how long the slowest took.
// The marker stays.
func (w *world) heardWithin(t *testing.T, name string, limit time.Duration) time.Duration {
	t.Helper()
	took := w.mark(t, markerGateways[0])
	if took > limit {
		t.Errorf("%s: the store was heard by all after %v, want within %v", name, took, limit)
	}
	return took
}

// unmark deletes the marker. Who hears of that together with its own lease having
// been lost or put back takes the marker for lost as well, and keeps its route for a
// while. So all must first have heard what came before.
func (w *world) unmark(t *testing.T) {
	t.Helper()
	w.mark(t, markerGateways[1])
	w.etcd.do(t, clientv3.OpDelete(markerKey))
	for _, n := range w.nodes {
		eventually(t, n.Name+" has no marker", func() (bool, string) {
			got := strings.Join(routesOf(t, n), "\n")
			return !strings.Contains(got, markerSubnet), got
		})
	}
}

// mark writes the marker and waits until all have its route. It returns how long that
// took them once it was written.
func (w *world) mark(t *testing.T, gateway string) time.Duration {
	t.Helper()
	line := fmt.Sprintf("%s via %s dev eth0 proto 104", markerSubnet, gateway)
	w.etcd.do(t, clientv3.OpPut(markerKey, fmt.Sprintf(`{"PublicIP":%q,"PublicIPv6":null,"BackendType":"host-gw"}`, gateway)))
	written := time.Now()
	for _, n := range w.nodes {
		eventually(t, n.Name+" has the marker by "+gateway, func() (bool, string) {
			got := routesOf(t, n)
			return slices.Contains(got, line), strings.Join(got, "\n")
		})
	}
	return time.Since(written)
}

// watchRoutes begins to record every change of a route on every host.
func (w *world) watchRoutes(t *testing.T) {
	t.Helper()
	for _, n := range w.nodes {
		var err error
		if n.monitor, err = n.MonitorRoutes(); err != nil {
			t.Fatal(err)
		}
	}
}

// routeEvents ends the recording, and returns what happened to routes to peers.
func (w *world) routeEvents(t *testing.T) map[*node][]netns.RouteEvent {
	t.Helper()
	marker := netip.MustParsePrefix(markerSubnet)
	events := map[*node][]netns.RouteEvent{}
	for _, n := range w.nodes {
		all, err := n.monitor.Stop()
		if err != nil {
			t.Error(err)
		}
		for _, e := range all {
			if e.Route.Protocol == 104 && e.Route.Destination != marker {
				events[n] = append(events[n], e)
			}
		}
	}
	return events
}

// eventually waits until ok says so, or fails the test with what it last saw.
func eventually(t *testing.T, what string, ok func() (bool, string)) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		done, saw := ok()
		if done {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waiting until %s: last saw\n%s", what, saw)
		}
	}
}
