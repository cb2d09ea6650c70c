package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostgw/hostgw/examples/internal/etcdtest"
	"github.com/hostgw/hostgw/store/etcd"
	"github.com/hostgw/hostgw/subnet"
)

// prompt is how soon after the store's return everything must be caught up, and late
// what fails a test: the machine may be busy with others, and the log says how long
// it took.
const (
	prompt = time.Second
	late   = 3 * prompt
)

// soon fails the test if catching up took too long.
func soon(t *testing.T, took time.Duration) {
	t.Helper()
	t.Logf("caught up after %v", took.Round(time.Millisecond))
	if took > late {
		t.Errorf("caught up after %v, want within %v", took, prompt)
	}
}

// kept runs Keep until the test ends and returns where its result and renewals go.
func kept(t *testing.T, s *etcd.Store, r subnet.Record, i int) (ended chan error, renewed chan subnet.Renewal) {
	t.Helper()
	ended, renewed = make(chan error, 1), make(chan subnet.Renewal, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended <- s.Keep(ctx, r, who(i), func(l subnet.Renewal) { renewed <- l })
	}()
	t.Cleanup(func() { cancel(); <-done })
	select {
	case <-renewed:
	case err := <-ended:
		t.Fatalf("Keep returned %v", err)
	case <-time.After(patience):
		t.Fatal("Keep renews nothing")
	}
	return ended, renewed
}

func stillKept(t *testing.T, ended chan error) {
	t.Helper()
	select {
	case err := <-ended:
		t.Fatalf("Keep returned %v", err)
	default:
	}
}

func lost(t *testing.T, ended chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if !errors.Is(err, subnet.ErrLeaseLost) {
			t.Fatalf("Keep returned %v, want ErrLeaseLost", err)
		}
	case <-time.After(patience):
		t.Fatal("Keep has not noticed that its lease is lost")
	}
}

func oneOutage(t *testing.T, l *listener) {
	t.Helper()
	if errs := l.outages(); len(errs) != 1 {
		t.Errorf("one outage was told as %d: %v", len(errs), errs)
	} else {
		t.Logf("told as: %v", errs[0])
	}
}

func TestRestart(t *testing.T) {
	server := etcdtest.Start(t, nil)
	network(t, server.Operator())
	store := open(t, server.Endpoint())
	l := listen(t, store)
	r := take(t, store, 1)
	take(t, store, 2)
	l.knows(t, named(1), named(2))
	ended, _ := kept(t, store, r, 1)

	server.Stop()
	l.hears(t, false)
	server.Start()
	soon(t, l.hears(t, true))
	oneOutage(t, l)
	if n := l.snapshots(); n != 1 {
		t.Errorf("a restart that changed nothing was answered with %d snapshots", n-1)
	}
	take(t, store, 3)
	l.knows(t, named(1), named(2), named(3))
	stillKept(t, ended)

	// Something expired, so to speak, while nobody could hear it.
	proxy := etcdtest.StartProxy(t, server.Address())
	far := open(t, proxy.Endpoint())
	l = listen(t, far)
	l.knows(t, named(1), named(2), named(3))
	proxy.Freeze()
	proxy.Cut()
	l.hears(t, false)
	if err := store.ReleaseKey(t.Context(), key(2).String()); err != nil {
		t.Fatal(err)
	}
	proxy.Thaw()
	soon(t, l.hears(t, true))
	l.knows(t, named(1), named(3))
	oneOutage(t, l)
}

func TestNotThereYet(t *testing.T) {
	server := etcdtest.Start(t, nil)
	server.Stop()
	store := open(t, server.Endpoint())
	l := listen(t, store)
	l.hears(t, false)
	begin := time.Now()
	if _, err := store.Snapshot(t.Context()); err == nil || time.Since(begin) > 5*time.Second {
		t.Errorf("Snapshot of no server: %v, after %v", err, time.Since(begin))
	} else {
		t.Logf("Snapshot: %v", err)
	}
	server.Start()
	soon(t, l.hears(t, true))
	oneOutage(t, l)
}

func TestWipe(t *testing.T) {
	server := etcdtest.Start(t, nil)
	network(t, server.Operator())
	store := open(t, server.Endpoint())
	l := listen(t, store)
	r := take(t, store, 1)
	l.knows(t, named(1))
	ended, _ := kept(t, store, r, 1)

	server.Wipe()
	l.knows(t)
	lost(t, ended)
	oneOutage(t, l)
	network(t, server.Operator())
	take(t, store, 1)
	soon(t, l.knows(t, named(1)))
}

// TestWipeOvertaken wipes a server while one node cannot hear it, and has it go
// past the revision that the node knows before it can: nothing in etcd's answers
// to a resumed watch would tell the difference.
func TestWipeOvertaken(t *testing.T) {
	server := etcdtest.Start(t, nil)
	proxy := etcdtest.StartProxy(t, server.Address())
	network(t, server.Operator())
	near, far := open(t, server.Endpoint()), open(t, proxy.Endpoint())
	l := listen(t, far)
	r := take(t, near, 1)
	take(t, near, 2)
	l.knows(t, named(1), named(2))
	ended, _ := kept(t, far, r, 1)

	proxy.Freeze()
	proxy.Cut()
	server.Wipe()
	network(t, server.Operator())
	for i := range 20 {
		put(t, server.Operator(), "/elsewhere", string(rune('a'+i)))
	}
	take(t, near, 3)
	take(t, near, 4)
	proxy.Thaw()
	soon(t, l.knows(t, named(3), named(4)))
	lost(t, ended)
	oneOutage(t, l)
}

// TestWipeSwapped is the same, but the server stops at the very revision that the node
// knows, with the same key written last, and one of the others swapped.
func TestWipeSwapped(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ all, deleted, swapped int }{
		{all: 2, swapped: 1},
		{all: 3, deleted: 1, swapped: 2},
		{all: 90, swapped: 60},
		{all: 90, deleted: 50, swapped: 60},
		{all: 90, deleted: 89, swapped: 60},
	} {
		server := etcdtest.Start(t, nil)
		proxy := etcdtest.StartProxy(t, server.Address())
		l := listen(t, open(t, proxy.Endpoint()))
		l.hears(t, true)
		fill := func(swapped int) (leases []string) {
			network(t, server.Operator())
			value, err := holder(9).MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			name := func(i int) string {
				if i == swapped {
					return key(200).String()
				}
				return key(i).String()
			}
			for i := 1; i <= test.all; i++ {
				put(t, server.Operator(), prefix+"/subnets/"+name(i), string(value))
				leases = append(leases, fmt.Sprintf("%s=%v", name(i), address(9)))
			}
			for i := test.all; i > 0 && len(leases) > test.all-test.deleted; i-- {
				if i == test.swapped {
					continue
				}
				if _, err := server.Operator().Delete(t.Context(), prefix+"/subnets/"+name(i)); err != nil {
					t.Fatal(err)
				}
				leases = slices.DeleteFunc(leases, func(l string) bool { return strings.HasPrefix(l, name(i)+"=") })
			}
			return leases
		}
		l.knows(t, fill(0)...)
		now, err := server.Operator().Get(t.Context(), prefix)
		if err != nil {
			t.Fatal(err)
		}
		l.until(t, "all that was written", func(us []subnet.Update) bool { return us[len(us)-1].Revision >= now.Header.Revision })

		snapshots := l.snapshots()
		proxy.Freeze()
		proxy.Cut()
		l.hears(t, false)
		proxy.Thaw()
		l.hears(t, true)
		if test.deleted < 2 && l.snapshots() != snapshots {
			t.Errorf("%+v: an outage in which nothing happened is answered with a snapshot", test)
		}

		proxy.Freeze()
		proxy.Cut()
		l.hears(t, false)
		server.Wipe()
		want := fill(test.swapped)
		proxy.Thaw()
		l.knows(t, want...)
	}
}

func TestCompaction(t *testing.T) {
	server := etcdtest.Start(t, nil)
	proxy := etcdtest.StartProxy(t, server.Address())
	network(t, server.Operator())
	near, far := open(t, server.Endpoint()), open(t, proxy.Endpoint())
	l := listen(t, far)
	r := take(t, near, 1)
	take(t, near, 2)
	l.knows(t, named(1), named(2))
	ended, _ := kept(t, far, r, 1)

	proxy.Freeze()
	proxy.Cut()
	for i := 3; i < 50; i++ {
		if err := near.Release(t.Context(), take(t, near, i)); err != nil {
			t.Fatal(err)
		}
	}
	take(t, near, 50)
	server.Compact()
	proxy.Thaw()
	soon(t, l.knows(t, named(1), named(2), named(50)))
	stillKept(t, ended)
	oneOutage(t, l)
}

func TestRestore(t *testing.T) {
	server := etcdtest.Start(t, nil)
	network(t, server.Operator())
	take(t, open(t, server.Endpoint()), 1)
	backup := server.Backup()
	store := open(t, server.Endpoint())
	l := listen(t, store)
	r := take(t, store, 2)
	l.knows(t, named(1), named(2))
	ended, _ := kept(t, store, r, 2)

	server.Restore(backup)
	l.knows(t, named(1))
	lost(t, ended)
	take(t, store, 2)
	soon(t, l.knows(t, named(1), named(2)))
}

// TestSilence has the server's host vanish without a word, as if its cable was
// pulled.
func TestSilence(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, nil)
	proxy := etcdtest.StartProxy(t, server.Address())
	network(t, server.Operator())
	store := open(t, proxy.Endpoint())
	l := listen(t, store)
	r := take(t, store, 1)
	l.knows(t, named(1))
	ended, _ := kept(t, store, r, 1)

	proxy.Freeze()
	if took := l.hears(t, false); took > 8*time.Second {
		t.Errorf("noticed after %v that the server is silent", took)
	} else {
		t.Logf("noticed after %v", took.Round(time.Millisecond))
	}
	take(t, open(t, server.Endpoint()), 2)
	proxy.Thaw()
	soon(t, l.hears(t, true))
	l.knows(t, named(1), named(2))
	stillKept(t, ended)
	oneOutage(t, l)
}

// TestKeepThroughRestart restarts the server when the lease would soon be over.
func TestKeepThroughRestart(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, nil)
	network(t, server.Operator())
	store := open(t, server.Endpoint())
	r := takeFor(t, store, 1, 3*time.Second)
	ended, renewed := kept(t, store, r, 1)
	for range 3 {
		server.Stop()
		server.Start()
		for len(renewed) > 0 {
			<-renewed
		}
		for range 3 { // two thirds of the TTL and more
			select {
			case <-renewed:
			case err := <-ended:
				t.Fatalf("Keep returned %v", err)
			case <-time.After(patience):
				t.Fatal("Keep renews nothing after a restart")
			}
		}
	}
	if got := take(t, store, 1); got.Created != r.Created || got.Modified != r.Modified || got.Token != r.Token {
		t.Errorf("the lease was %+v and is %+v now", r, got)
	}
}
