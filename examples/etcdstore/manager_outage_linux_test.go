package etcdstore

import (
	"cmp"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/examples/internal/etcdtest"
	"github.com/hostgw/hostgw/store/etcd"
)

// The nodes of these tests: the one that is looked at, its peer, and the first that is
// new when a store is back.
const (
	self  = 1
	peer  = 2
	newer = 3
)

// outage is something that a store goes through.
type outage struct {
	begin, end func()
	operator   func() *clientv3.Client // who may read and write once it is over
	lasts      time.Duration           // once it has been noticed; a second if zero
	meanwhile  func()                  // is called then; may be nil
	renewed    bool                    // the store lost the lease, and has a new one of the same name after it
}

// What a Manager says of an outage, once each.
const (
	saysBegin = "store cannot be heard"
	saysEnd   = "store can be heard again"
)

// outlives has the store go through an outage, and checks all that a Manager
// promises of one: it is told in the status and once in the log, no route goes, it
// is over within a second of the store's return, also for who only comes then, and
// the lease is the same.
func (m *manager) outlives(o outage) {
	m.t.Helper()
	m.awaits("the peer is routed", func() bool { return m.routes(peer) })
	before := created(m.t, o.operator(), self)
	newcomer := newer + m.log.count(saysBegin)
	begins, ends, removed := m.log.count(saysBegin), m.log.count(saysEnd), m.kernel.Stats().DelRoutes

	o.begin()
	noticed := m.awaits("the status tells of the outage", func() bool { return !m.heard() })
	m.t.Logf("noticed after %v: %v", noticed.Round(time.Millisecond), m.Status().Store.Err)
	time.Sleep(cmp.Or(o.lasts, time.Second))
	if o.meanwhile != nil {
		o.meanwhile()
	}
	if !m.routes(peer) {
		m.t.Error("the route to the peer is gone while the store is away")
	}
	o.end()
	returned := time.Now()
	enter(m.t, o.operator(), newcomer)
	m.awaits("all is caught up", func() bool {
		return m.heard() && m.held() && m.routes(newcomer) && (!o.renewed || m.Status().Record.Created == created(m.t, o.operator(), self))
	})
	took := time.Since(returned)
	m.t.Logf("caught up after %v", took.Round(time.Millisecond))
	if took > late {
		m.t.Errorf("caught up after %v, want within %v", took, prompt)
	}

	if !m.routes(peer) {
		m.t.Error("the route to the peer is gone")
	}
	if n := m.kernel.Stats().DelRoutes - removed; n > 0 {
		m.t.Errorf("%d routes were removed", n)
	}
	if b, e := m.log.count(saysBegin)-begins, m.log.count(saysEnd)-ends; b != 1 || e != 1 {
		m.t.Errorf("said %d times that it began and %d times that it ended, want once each", b, e)
	}
	if after := created(m.t, o.operator(), self); !o.renewed && after != before {
		m.t.Errorf("the lease was created at revision %d, and is one of %d now", before, after)
	}
}

func at(endpoints ...string) etcd.ClientConfig { return etcd.ClientConfig{Endpoints: endpoints} }

// inNetwork starts a server with a network and with the peer in it.
func inNetwork(t *testing.T) *etcdtest.Server {
	t.Helper()
	s := etcdtest.Start(t, nil)
	network(t, s.Operator())
	manage(t, peer, at(s.Endpoint()))
	return s
}

func TestManagerDown(t *testing.T) {
	s := inNetwork(t)
	m := manage(t, self, at(s.Endpoint()))
	m.outlives(outage{begin: s.Stop, end: s.Start, operator: s.Operator})
}

// TestManagerWiped takes the return of the config, which only an operator can put
// back, for the return of the store.
func TestManagerWiped(t *testing.T) {
	s := inNetwork(t)
	m := manage(t, self, at(s.Endpoint()))
	m.outlives(outage{
		begin:    s.Erase,
		end:      func() { s.Start(); network(t, s.Operator()) },
		operator: s.Operator,
		renewed:  true,
	})
	m.awaits("the peer has put its lease back", func() bool { return created(t, s.Operator(), peer) != 0 })
}

// TestManagerRestored goes back to when this node had the lease that it has now, and
// another one a lease that it has no more.
func TestManagerRestored(t *testing.T) {
	s := inNetwork(t)
	m := manage(t, self, at(s.Endpoint()))
	backup := s.Backup()
	m.awaits("the store can be heard", m.heard)
	for range 20 {
		enter(t, s.Operator(), 9)
	}
	m.outlives(outage{begin: s.Stop, end: func() { s.Restore(backup) }, operator: s.Operator})
}

// TestManagerRestoredOlder goes back to when this node had not joined yet.
func TestManagerRestoredOlder(t *testing.T) {
	s := inNetwork(t)
	backup := s.Backup()
	m := manage(t, self, at(s.Endpoint()))
	m.outlives(outage{begin: s.Stop, end: func() { s.Restore(backup) }, operator: s.Operator, renewed: true})
}

// TestManagerFrozen has the store fall silent with its connections open.
func TestManagerFrozen(t *testing.T) {
	t.Parallel()
	s := inNetwork(t)
	p := etcdtest.StartProxy(t, s.Address())
	m := manage(t, self, at(p.Endpoint()))
	m.outlives(outage{begin: p.Freeze, end: p.Thaw, operator: s.Operator})
}

// TestManagerSlow has all that goes to the store and comes from it take time. What a
// busy store needs is no outage; what it needs for longer than a watch is patient is
// one, however often something gets through meanwhile. The lease is kept alive all
// the same.
func TestManagerSlow(t *testing.T) {
	t.Parallel()
	s := inNetwork(t)
	p := etcdtest.StartProxy(t, s.Address())
	m := manage(t, self, at(p.Endpoint()), ttl(12*time.Second))
	before := created(t, s.Operator(), self)

	p.Delay(800 * time.Millisecond / 2) // there and back
	for began := time.Now(); time.Since(began) < 8*time.Second; time.Sleep(10 * time.Millisecond) {
		if err := m.Status().Store.Err; err != nil {
			t.Fatalf("an answer that takes 0.8 s is told as an outage: %v", err)
		}
	}
	p.Delay(0)
	if created(t, s.Operator(), self) != before || m.log.count(saysBegin) > 0 {
		t.Error("an answer that takes 0.8 s is an outage")
	}

	m.outlives(outage{
		begin:    func() { p.Delay(5 * time.Second / 2) },
		lasts:    15 * time.Second, // longer than the lease lives unless it is kept alive
		end:      func() { p.Delay(0) },
		operator: s.Operator,
	})
}
