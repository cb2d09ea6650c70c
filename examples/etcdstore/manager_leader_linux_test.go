package etcdstore

import (
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/examples/internal/etcdtest"
)

// TestManagerNoLeader kills two members of three at once. The third one takes a while to
// know that it has no leader. Who turns to it meanwhile waits for what it has asked, and
// must not take the answer, when there is a leader again, for a sign that a watch which
// has ended since is well.
func TestManagerNoLeader(t *testing.T) {
	t.Parallel()
	c := etcdtest.StartCluster(t, 3)
	operator := dial(t, at(c.Endpoints()...))
	network(t, operator)
	manage(t, peer, at(c.Endpoints()...))
	m := manage(t, self, at(c.Endpoints()...))
	m.outlives(outage{
		begin:    func() { c.Kill(c.Members[1:]...) },
		end:      func() { c.Start(c.Members[1:]...) },
		operator: func() *clientv3.Client { return operator },
	})
}

// TestManagerLeaderMoved keeps a short lease alive while its leader changes again and
// again, and for longer afterwards than a leader that is new lets all leases live.
func TestManagerLeaderMoved(t *testing.T) {
	t.Parallel()
	c := etcdtest.StartCluster(t, 3)
	operator := dial(t, at(c.Endpoints()...))
	network(t, operator)
	m := manage(t, self, at(c.Endpoints()...), ttl(6*time.Second))
	before := m.Status().Record
	for range 4 {
		c.MoveLeader()
		time.Sleep(1500 * time.Millisecond)
	}
	time.Sleep(8 * time.Second)
	if now := m.Status().Record; now.Created != before.Created || now.Token != before.Token || now.Created != created(t, operator, self) {
		t.Errorf("the lease was %+v, is %+v, and was created at %d as etcd says", before, now, created(t, operator, self))
	}
	if n := m.log.count("lease is gone"); n > 0 {
		t.Errorf("the lease was lost %d times", n)
	}
}
