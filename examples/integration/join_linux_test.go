package integration

import (
	"fmt"
	"testing"
)

// The main job: hosts that start at once lease a subnet each and reach each
// other's containers through plain kernel routes.
func TestJoin(t *testing.T) {
	for _, hosts := range []int{2, 3, 12} {
		for _, dual := range []bool{false, true} {
			t.Run(fmt.Sprintf("hosts=%d dual=%v", hosts, dual), func(t *testing.T) {
				testJoin(t, worldOptions{hosts: hosts, dual: dual})
			})
		}
	}
}

// The same with the distribution's etcd, which is of another version.
func TestJoinOutsideEtcd(t *testing.T) {
	for _, o := range []worldOptions{{hosts: 2}, {hosts: 3, dual: true}, {hosts: 12}} {
		t.Run(fmt.Sprintf("hosts=%d dual=%v", o.hosts, o.dual), func(t *testing.T) {
			o.etcd = outsideEtcd(t)
			testJoin(t, o)
		})
	}
}

func testJoin(t *testing.T, o worldOptions) {
	w := newWorld(t, o)
	w.join(t)
	w.checkLeases(t)
	w.checkTraffic(t)
}

// A host that comes later is joined by all.
func TestJoinLater(t *testing.T) {
	w := newWorld(t, worldOptions{hosts: 2, dual: true})
	w.join(t)
	h, err := w.AddHost()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{Host: h}
	w.nodes = append(w.nodes, n)
	w.start(t, n)
	w.settle(t)
	w.addContainer(t, n)
	w.checkLeases(t)
	w.checkTraffic(t)
}

// Daemons may be started before there is anything to join.
func TestJoinWaits(t *testing.T) {
	w := newWorld(t, worldOptions{hosts: 2, bare: true})
	w.etcd.kill()
	for _, n := range w.nodes {
		w.start(t, n)
	}
	for _, n := range w.nodes {
		if err := n.daemon.WaitLog(deadline(t), "waiting"); err != nil {
			t.Fatal(err)
		}
	}
	w.etcd.start(t)
	for _, n := range w.nodes {
		if err := n.daemon.WaitLog(deadline(t), prefix+"/config"); err != nil {
			t.Fatal(err)
		}
		if !n.daemon.Running() {
			t.Fatalf("hostgwd on %s did not wait", n.Name)
		}
	}
	w.etcd.put(t, prefix+"/config", config)
	w.settle(t)
	for _, n := range w.nodes {
		w.addContainer(t, n)
	}
	w.checkLeases(t)
	w.checkTraffic(t)
}
