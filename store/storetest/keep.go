package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"sync"
	"testing"
	"time"

	"github.com/hostgw/hostgw/subnet"
)

// keeper is a Keep under way.
type keeper struct {
	cancel   context.CancelFunc
	done     chan error
	renewals chan subnet.Renewal
}

// keep keeps r for n until the test ends.
func (n *node) keep(t *testing.T, r subnet.Record) *keeper {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	k := &keeper{cancel: cancel, done: make(chan error, 1), renewals: make(chan subnet.Renewal, 100)}
	go func() {
		k.done <- n.Keep(ctx, r, n.node, func(l subnet.Renewal) {
			select {
			case k.renewals <- l:
			default: // more than anybody asks for
			}
		})
	}()
	t.Cleanup(cancel)
	return k
}

// renewed waits for the next renewal.
func (k *keeper) renewed(t *testing.T) subnet.Renewal {
	t.Helper()
	select {
	case r := <-k.renewals:
		return r
	case err := <-k.done:
		t.Fatalf("Keep returned %v", err)
	case <-time.After(patience):
		t.Fatalf("Keep renews nothing")
	}
	panic("unreachable")
}

// rival waits until the rival is reported.
func (k *keeper) rival(t *testing.T) subnet.Node {
	t.Helper()
	for {
		if r := k.renewed(t); r.Rival != nil {
			return *r.Rival
		}
	}
}

// lost waits until Keep says that the lease is lost.
func (k *keeper) lost(t *testing.T) {
	t.Helper()
	select {
	case err := <-k.done:
		if !errors.Is(err, subnet.ErrLeaseLost) {
			t.Fatalf("Keep returned %v, want ErrLeaseLost", err)
		}
	case <-time.After(patience):
		t.Fatalf("Keep has not noticed that its lease is lost")
	}
}

// stop ends Keep, which must return nil.
func (k *keeper) stop(t *testing.T) {
	t.Helper()
	k.cancel()
	select {
	case err := <-k.done:
		if err != nil {
			t.Fatalf("Keep returned %v when its context ended", err)
		}
	case <-time.After(patience):
		t.Fatalf("Keep does not return when its context ends")
	}
}

func testKeep(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	c := n.claim(t, 7)
	c.TTL = b.h.MinTTL
	r := n.must(t, c)
	k := n.keep(t, r)
	begin := time.Now()
	for n := 0; time.Since(begin) < 2*b.h.MinTTL; n++ {
		l := k.renewed(t)
		if l.TTL <= 0 || l.TTL > 2*b.h.MinTTL+time.Second || l.Rival != nil {
			t.Errorf("renewal %d: %+v", n, l)
		}
	}
	n.stored(t, r) // nothing was written to keep it
	k.stop(t)
	n.stored(t, r) // stopping leaves the lease
}

func testKeepDeleted(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	r := n.take(t, 7)
	k := n.keep(t, r)
	k.renewed(t)
	b.h.Delete(t, r.Name)
	k.lost(t)
}

func testKeepOverwritten(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	r := n.take(t, 7)
	k := n.keep(t, r)
	k.renewed(t)
	b.h.PutLease(t, r.Name, `{"PublicIP":"192.0.2.9","PublicIPv6":null,"BackendType":"host-gw"}`)
	k.lost(t)
}

func testKeepGone(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	r := n.take(t, 7)
	b.h.Delete(t, r.Name)
	n.keep(t, r).lost(t)
}

func testKeepReservation(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	b.h.PutLease(t, "10.9.7.0-24", `{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"host-gw"}`)
	r := n.take(t, 7)
	k := n.keep(t, r)
	if l := k.renewed(t); l.TTL != 0 {
		t.Errorf("a reservation is renewed with the TTL %v", l.TTL)
	}
	k.stop(t)

	k = n.keep(t, r)
	k.renewed(t)
	b.h.Delete(t, r.Name)
	k.lost(t)
}

// testKeepFailing has the store fail while it keeps a lease: that is told once, and
// once that it is over.
func testKeepFailing(t *testing.T, b *bench) {
	if b.h.OpenFailing == nil {
		return
	}
	n := b.network(t).node(t, 1, "a")
	k, fail := b.keepFailing(t, n, n.take(t, 7))
	if l := k.renewed(t); l.Err != nil || l.TTL <= 0 {
		t.Errorf("the first renewal is %+v", l)
	}
	b.failing(t, k, fail)
	if l := k.told(t, true); l.TTL <= 0 {
		t.Errorf("after that the lease is confirmed with %+v", l)
	}
	k.stop(t)
}

func testKeepFailingReservation(t *testing.T, b *bench) {
	if b.h.OpenFailing == nil {
		return
	}
	n := b.network(t).node(t, 1, "a")
	b.h.PutLease(t, "10.9.7.0-24", `{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"host-gw"}`)
	k, fail := b.keepFailing(t, n, n.take(t, 7))
	k.renewed(t)
	b.failing(t, k, fail)
	if l := k.told(t, true); l.TTL != 0 {
		t.Errorf("after that the reservation is confirmed with %+v", l)
	}
	fail(true)
	k.told(t, false)
	k.stop(t)
}

// keepFailing keeps r for n through a client that can fail.
func (b *bench) keepFailing(t *testing.T, n *node, r subnet.Record) (*keeper, func(bool)) {
	t.Helper()
	s, fail := b.h.OpenFailing(t)
	n.Store = s
	return n.keep(t, r), fail
}

// failing has the store fail for a while, which must be told once.
func (b *bench) failing(t *testing.T, k *keeper, fail func(bool)) {
	t.Helper()
	fail(true)
	k.told(t, false)
	select {
	case l := <-k.renewals:
		t.Errorf("while the store fails it is told again: %+v", l)
	case err := <-k.done:
		t.Fatalf("Keep returned %v", err)
	case <-time.After(b.h.MinTTL / 2):
	}
	fail(false)
}

// told waits until a renewal has an error, or has none.
func (k *keeper) told(t *testing.T, well bool) subnet.Renewal {
	t.Helper()
	for {
		if l := k.renewed(t); (l.Err == nil) == well {
			return l
		}
	}
}

func testKeepRival(t *testing.T, b *bench) {
	one, two := b.network(t).node(t, 1, "a"), b.node(t, 1, "b")
	two.node.Name = "copy"
	first := one.keep(t, one.take(t, 7))
	first.renewed(t)
	second := two.keep(t, two.take(t, 7))
	if got := first.rival(t); got != two.node {
		t.Errorf("the first process is told of the rival %+v, want %+v", got, two.node)
	}
	if got := second.rival(t); got != one.node {
		t.Errorf("the second process is told of the rival %+v, want %+v", got, one.node)
	}
	first.stop(t)
	second.stop(t)
}

// testKeepRivals has three processes keep one lease. Each must come to know of
// another one, and then they fall silent.
func testKeepRivals(t *testing.T, b *bench) {
	b.network(t)
	var nodes []*node
	var keepers []*keeper
	for _, instance := range []string{"a", "b", "c"} {
		n := b.node(t, 1, instance)
		nodes, keepers = append(nodes, n), append(keepers, n.keep(t, n.take(t, 7)))
		keepers[len(keepers)-1].renewed(t)
	}
	for i, k := range keepers {
		if got := k.rival(t); got == nodes[i].node {
			t.Errorf("%+v is told that it is its own rival", got)
		}
	}
	for _, k := range keepers {
		k.stop(t)
	}
}

// testKeepSilence has a process claim the lease and end at once: it is no rival.
func testKeepSilence(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	c := n.claim(t, 7)
	c.TTL = b.h.MinTTL
	k := n.keep(t, n.must(t, c))
	k.renewed(t)
	b.node(t, 1, "b").take(t, 7)
	for range 4 {
		if l := k.renewed(t); l.Rival != nil {
			t.Errorf("a process that does not answer is reported as the rival %+v", *l.Rival)
		}
	}
	k.stop(t)
}

func testKeepRestart(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	c := n.claim(t, 7)
	c.TTL = b.h.MinTTL
	k := n.keep(t, n.must(t, c))
	k.renewed(t)
	k.stop(t)
	n = b.node(t, 1, "b")
	k = n.keep(t, n.take(t, 7))
	for range 3 {
		if l := k.renewed(t); l.Rival != nil {
			t.Errorf("after a restart the process that ended is reported as the rival %+v", *l.Rival)
		}
	}
	k.stop(t)
}

func testRelease(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	w := watch(t, b.node(t, 2, "b"))
	r := n.take(t, 7)
	w.shows(t, r)
	for range 2 { // the second time it is gone already
		if err := n.Release(limit(t), r); err != nil {
			t.Fatalf("Release: %v", err)
		}
	}
	w.misses(t, r.Name)
	b.node(t, 2, "b").take(t, 7)
}

func testReleaseOther(t *testing.T, b *bench) {
	n, other := b.network(t).node(t, 1, "a"), b.node(t, 2, "b")
	r := n.take(t, 7)
	b.h.Delete(t, r.Name)
	theirs := other.take(t, 7)
	if err := n.Release(limit(t), r); err != nil {
		t.Fatalf("Release: %v", err)
	}
	other.stored(t, theirs)
}

func testReleaseReservation(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	b.h.PutLease(t, "10.9.7.0-24", `{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"host-gw"}`)
	r := n.take(t, 7)
	if err := n.Release(limit(t), r); err != nil {
		t.Fatalf("Release: %v", err)
	}
	n.stored(t, r)
}

func testContextEnds(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	k := n.keep(t, n.take(t, 7))
	k.renewed(t)
	k.stop(t)
	watch(t, n) // whose end is checked
}

func testContextEnded(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	c := n.claim(t, 7)
	r := n.must(t, n.claim(t, 8))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before := picture(n.snapshot(t))
	if _, err := n.Snapshot(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Snapshot: %v, want context.Canceled", err)
	}
	if _, err := n.Claim(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("Claim: %v, want context.Canceled", err)
	}
	if err := n.Release(ctx, r); !errors.Is(err, context.Canceled) {
		t.Errorf("Release: %v, want context.Canceled", err)
	}
	if err := n.Keep(ctx, r, n.node, nil); err != nil {
		t.Errorf("Keep: %v, want nil", err)
	}
	if err := n.Watch(ctx, func(subnet.Update) {}); err != nil {
		t.Errorf("Watch: %v, want nil", err)
	}
	if after := picture(n.snapshot(t)); after != before {
		t.Errorf("calls whose context had ended changed the store from\n%s\nto\n%s", before, after)
	}
}

// testNoGoroutine finds the goroutines that a call started by the label they
// inherit.
func testNoGoroutine(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	r := n.take(t, 7) // whatever a client keeps for good, such as its connection, is there now
	label := fmt.Sprintf("storetest-%s-%p", t.Name(), b)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	renewed, heard := make(chan struct{}, 100), make(chan struct{}, 100)
	wg.Go(func() {
		pprof.Do(ctx, pprof.Labels("call", label), func(ctx context.Context) {
			var calls sync.WaitGroup
			calls.Go(func() { n.Keep(ctx, r, n.node, func(subnet.Renewal) { renewed <- struct{}{} }) })
			calls.Go(func() { n.Watch(ctx, func(subnet.Update) { heard <- struct{}{} }) })
			calls.Wait()
		})
	})
	for _, c := range []chan struct{}{renewed, heard} {
		select {
		case <-c:
		case <-time.After(patience):
			t.Error("Keep or Watch does nothing")
		}
	}
	cancel()
	wg.Wait()
	// A goroutine that has done its last work may take a moment to be gone.
	deadline := time.Now().Add(patience)
	for {
		var profile bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(profile.Bytes(), []byte(label)) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("goroutines of Keep or Watch outlive them:\n%s", profile.Bytes())
		}
		time.Sleep(10 * time.Millisecond)
	}
}
