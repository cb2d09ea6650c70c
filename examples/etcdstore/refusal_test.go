package etcdstore

import (
	"errors"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/examples/internal/etcdtest"
	"github.com/hostgw/hostgw/store/etcd"
	"github.com/hostgw/hostgw/subnet"
)

// refusedDelay is how long a refused node waits before it asks again.
const refusedDelay = 600 * time.Millisecond

// guarded is a server with authentication, and a node's store on it.
type guarded struct {
	root  *clientv3.Client
	store *etcd.Store
}

func startGuarded(t *testing.T) *guarded {
	t.Helper()
	server := etcdtest.Start(t, cheapPasswords)
	network(t, server.Operator())
	root := guard(t, server, "first")
	node := etcd.ClientConfig{Endpoints: []string{server.Endpoint()}, Username: "node", Password: "first"}
	return &guarded{root, etcd.New(dial(t, node), prefix)}
}

func (g *guarded) password(t *testing.T, text string) {
	t.Helper()
	if _, err := g.root.UserChangePassword(t.Context(), "node", text); err != nil {
		t.Fatal(err)
	}
}

// allow gives the node its right to the network's keys, or takes it away.
func (g *guarded) allow(t *testing.T, allowed bool) {
	t.Helper()
	end := clientv3.GetPrefixRangeEnd(prefix + "/")
	var err error
	if allowed {
		_, err = g.root.RoleGrantPermission(t.Context(), "node", prefix+"/", end, clientv3.PermissionType(clientv3.PermReadWrite))
	} else {
		_, err = g.root.RoleRevokePermission(t.Context(), "node", prefix+"/", end)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// kept is kept by a node that listens.
func (g *guarded) kept(t *testing.T, r subnet.Record) (ended chan error, renewed chan subnet.Renewal) {
	t.Helper()
	ended, renewed = kept(t, g.store, r, 1)
	// Once it listens it writes its name where it is missing.
	user := prefix + "/users/" + r.Name
	if _, err := g.root.Delete(t.Context(), user); err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		got, err := g.root.Get(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Kvs) > 0 {
			return ended, renewed
		}
		if time.Since(begin) > patience {
			t.Fatal("Keep does not listen")
		}
	}
}

// told waits until a renewal has no error, or has one, and returns that.
func told(t *testing.T, ended chan error, renewed chan subnet.Renewal, well bool) error {
	t.Helper()
	over := time.After(patience)
	for {
		select {
		case l := <-renewed:
			if (l.Err == nil) == well {
				return l.Err
			}
		case err := <-ended:
			t.Fatalf("Keep returned %v", err)
		case <-over:
			t.Fatalf("Keep does not tell whether the lease is confirmed, want %v", well)
		}
	}
}

// TestKeepRefused changes a node's password while its watches stay open: only what
// keeps its lease alive is refused.
func TestKeepRefused(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	r := takeFor(t, g.store, 1, 12*time.Second)
	ended, renewed := g.kept(t, r)
	g.password(t, "second")
	err := told(t, ended, renewed, false)
	t.Logf("told as: %v", err)
	if !errors.Is(err, rpctypes.ErrAuthFailed) {
		t.Errorf("told as %v, want %v", err, rpctypes.ErrAuthFailed)
	}
	select {
	case l := <-renewed:
		t.Errorf("told again: %+v", l)
	case <-time.After(3 * refusedDelay / 2):
	}
	g.password(t, "first")
	told(t, ended, renewed, true)
	if now := take(t, g.store, 1); now.Created != r.Created {
		t.Errorf("the lease was %+v and is %+v now", r, now)
	}
}

// TestLogins counts how often a node logs in that is refused: etcd makes each one
// costly.
func TestLogins(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, cheapPasswords)
	network(t, server.Operator())
	root := guard(t, server, "first")
	m := &meter{password: "first"}
	store := m.open(t, server.Endpoint())
	if _, err := root.UserChangePassword(t.Context(), "node", "second"); err != nil {
		t.Fatal(err)
	}
	l := listen(t, store)
	l.hears(t, false)
	m.taken()
	const n = 3
	time.Sleep(n * refusedDelay)
	if logins := m.taken()["Authenticate"]; logins == 0 || logins > n+1 {
		t.Errorf("a watch that is refused logs in %d times in %v", logins, n*refusedDelay)
	}
}

// TestReadRefused takes away the right to read while the watch stays open: what it
// hears tells whether the lease is lost.
func TestReadRefused(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	write := func(i int, options ...clientv3.OpOption) {
		t.Helper()
		value, err := holder(i).MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		put(t, g.root, prefix+"/subnets/"+key(1).String(), string(value), options...)
	}
	for what, happens := range map[string]func(subnet.Record){
		"deleted": func(r subnet.Record) {
			if _, err := g.root.Delete(t.Context(), prefix+"/subnets/"+r.Name); err != nil {
				t.Fatal(err)
			}
		},
		"reserved":  func(subnet.Record) { write(1) },
		"another's": func(r subnet.Record) { write(2, clientv3.WithLease(clientv3.LeaseID(r.Token))) },
	} {
		t.Log(what)
		r := take(t, g.store, 1)
		ended, _ := g.kept(t, r)
		g.allow(t, false)
		happens(r)
		lost(t, ended)
		g.allow(t, true)
		if err := etcd.New(g.root, prefix).ReleaseKey(t.Context(), r.Name); err != nil && !errors.Is(err, etcd.ErrNoLease) {
			t.Fatal(err)
		}
	}

	// What it hears is not about the lease.
	r := take(t, g.store, 1)
	ended, renewed := g.kept(t, r)
	g.allow(t, false)
	put(t, g.root, prefix+"/users/"+r.Name, "{}", clientv3.WithLease(clientv3.LeaseID(r.Token)))
	if err := told(t, ended, renewed, false); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("told as %v, want %v", err, rpctypes.ErrPermissionDenied)
	}
	g.allow(t, true)
	told(t, ended, renewed, true)
}
