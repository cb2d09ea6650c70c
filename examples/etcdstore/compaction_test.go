package etcdstore

import (
	"strings"
	"testing"

	"github.com/hostgw/hostgw/examples/internal/etcdtest"
)

// TestCompactedUnread compacts past a watch that is open and far behind: etcd has
// more to tell it than goes into all that lies between. That is no outage, but what
// is there must be read again.
func TestCompactedUnread(t *testing.T) {
	server := etcdtest.Start(t, nil)
	proxy := etcdtest.StartProxy(t, server.Address())
	network(t, server.Operator())
	near := open(t, server.Endpoint())
	l := listen(t, open(t, proxy.Endpoint()))
	take(t, near, 1)
	take(t, near, 2)
	l.knows(t, named(1), named(2))

	proxy.Freeze() // for less time than it takes to be noticed
	unread := strings.Repeat("x", 4<<10)
	for range 1000 {
		put(t, server.Operator(), leaseKey(9), unread)
	}
	if err := near.ReleaseKey(t.Context(), key(9).String()); err != nil {
		t.Fatal(err)
	}
	if err := near.ReleaseKey(t.Context(), key(2).String()); err != nil {
		t.Fatal(err)
	}
	take(t, near, 3)
	server.Compact()
	proxy.Thaw()
	soon(t, l.knows(t, named(1), named(3)))
	if n := l.snapshots(); n != 2 {
		t.Errorf("%d snapshots, want a second one for the history that was compacted", n)
	}
	if errs := l.outages(); len(errs) > 0 {
		t.Errorf("told as an outage: %v", errs)
	}
}
