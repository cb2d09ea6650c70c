package storetest

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/hostgw/hostgw/subnet"
)

// refused makes a claim that must fail with ErrConflict and change nothing.
func (n *node) refused(t *testing.T, c subnet.Claim) {
	t.Helper()
	before := picture(n.snapshot(t))
	if r, err := n.Claim(limit(t), c); !errors.Is(err, subnet.ErrConflict) {
		t.Fatalf("Claim(%v) = %v, %v; want ErrConflict", c.Lease.Key, show(r), err)
	}
	if after := picture(n.snapshot(t)); after != before {
		t.Errorf("a refused claim changed the store from\n%s\nto\n%s", before, after)
	}
}

// stored fails unless the store shows r just as it is.
func (n *node) stored(t *testing.T, r subnet.Record) {
	t.Helper()
	got, ok := find(n.snapshot(t), r.Name)
	if !ok || got.Err != nil || !equal(got, r) || got.Lease.Key != r.Lease.Key {
		t.Errorf("the store shows %v (%v), want %v", show(got), got.Err, show(r))
	}
}

func testClaimCreates(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	r := n.take(t, 7)
	if r.Name != "10.9.7.0-24" || r.Err != nil || r.Reserved() || r.Created == 0 || r.Created != r.Modified {
		t.Errorf("Claim returned %v, %v", show(r), r.Err)
	}
	if r.Lease.Key != key(7) || r.Lease.Holder.PublicIP != n.holder.PublicIP {
		t.Errorf("Claim returned the lease %v", r.Lease)
	}
	n.stored(t, r)
	b.node(t, 2, "b").stored(t, r)
}

func testClaimExisting(t *testing.T, b *bench) {
	first, second := b.network(t).node(t, 1, "a"), b.node(t, 2, "b")
	r := first.take(t, 7)
	own := second.take(t, 8)
	c := second.claim(t, 7)
	second.refused(t, c)
	c.Drop = []subnet.Record{own}
	second.refused(t, c)
	first.stored(t, r)
}

func testClaimConfigChanged(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	c := n.claim(t, 7)
	b.network(t) // the same text, but written again
	n.refused(t, c)

	held := n.take(t, 7)
	c = n.claim(t, 7)
	if c.Held == nil || !equal(*c.Held, held) {
		t.Fatalf("the store shows %v, want %v", c.Held, show(held))
	}
	b.network(t)
	n.refused(t, c)
}

func testClaimConfigGone(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	c := n.claim(t, 7)
	b.h.PutConfig(t, "")
	n.refused(t, c)
}

func testClaimTakesBack(t *testing.T, b *bench) {
	r := b.network(t).node(t, 1, "a").take(t, 7)
	again := b.node(t, 1, "b")
	got := again.take(t, 7)
	if !equal(got, r) {
		t.Errorf("taking back returned %v, want it unchanged as %v", show(got), show(r))
	}
	again.stored(t, r)
}

func testClaimRewrites(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	r := n.take(t, 7)
	n.holder.PublicIPv6 = netip.MustParseAddr("2001:db8::1")
	got := n.take(t, 7)
	if got.Created != r.Created || got.Modified <= r.Modified || got.Token != r.Token {
		t.Errorf("rewriting %v returned %v; want the same token and a later revision", show(r), show(got))
	}
	n.stored(t, got)
}

func testClaimStale(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	n.take(t, 7)
	stale := n.claim(t, 7)
	n.holder.PublicIPv6 = netip.MustParseAddr("2001:db8::1")
	n.take(t, 7)
	n.refused(t, stale)

	gone := n.claim(t, 7)
	b.h.Delete(t, "10.9.7.0-24")
	n.refused(t, gone)
}

func testClaimReservation(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	b.h.PutLease(t, "10.9.7.0-24", `{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"host-gw"}`)
	r := n.take(t, 7)
	if !r.Reserved() {
		t.Errorf("taking a reservation returned the token %x", r.Token)
	}
	n.holder.PublicIPv6 = netip.MustParseAddr("2001:db8::1")
	r = n.take(t, 7)
	if !r.Reserved() {
		t.Errorf("rewriting a reservation returned the token %x", r.Token)
	}
	n.stored(t, r)
}

func testClaimUnchanged(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	n.take(t, 7)
	w := watch(t, b.node(t, 2, "b"))
	heard := len(w.heard(0))
	b.node(t, 1, "c").take(t, 7)
	mark := b.node(t, 3, "d").take(t, 9)
	w.shows(t, mark)
	for _, u := range w.heard(heard) {
		for _, r := range u.Put {
			if r.Name != mark.Name {
				t.Errorf("taking a lease back unchanged woke a watcher with %v", show(r))
			}
		}
		if u.Snapshot != nil || len(u.Deleted) > 0 || u.Config != nil {
			t.Errorf("taking a lease back unchanged woke a watcher with %+v", u)
		}
	}
}

func testClaimDrop(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	w := watch(t, b.node(t, 2, "b"))
	old := n.take(t, 7)
	c := n.claim(t, 8)
	c.Drop = []subnet.Record{old}
	r := n.must(t, c)
	w.shows(t, r)
	w.misses(t, old.Name)
	step := slices.IndexFunc(w.heard(0), func(u subnet.Update) bool {
		return slices.Contains(u.Deleted, old.Name)
	})
	if step < 0 {
		t.Fatalf("no update says that %s was deleted", old.Name)
	}
	u := w.heard(0)[step]
	if !slices.ContainsFunc(u.Put, func(p subnet.Record) bool { return equal(p, r) }) {
		t.Errorf("the lease dropped and the one claimed came in two updates")
	}

	// Taking back one while dropping the other writes only what changed.
	second := n.take(t, 9)
	c = n.claim(t, 8)
	c.Drop = []subnet.Record{second}
	if got := n.must(t, c); !equal(got, r) {
		t.Errorf("taking back returned %v, want it unchanged as %v", show(got), show(r))
	}
	if _, ok := find(n.snapshot(t), second.Name); ok {
		t.Errorf("%s was not dropped", second.Name)
	}
	n.stored(t, r)
}

func testClaimDropOvertaken(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	old := n.take(t, 7)
	c := n.claim(t, 8)
	c.Drop = []subnet.Record{old}
	n.holder.PublicIPv6 = netip.MustParseAddr("2001:db8::1")
	n.take(t, 7)
	n.refused(t, c)

	c = n.claim(t, 8)
	c.Drop = []subnet.Record{old}
	b.h.Delete(t, old.Name)
	n.refused(t, c)
}

func testClaimRace(t *testing.T, b *bench) {
	b.network(t)
	const contenders = 8
	var mu sync.Mutex
	var won []subnet.Record
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range contenders {
		n := b.node(t, 1+i, string(rune('a'+i)))
		c := n.claim(t, 7)
		ctx := limit(t)
		wg.Go(func() {
			<-start
			r, err := n.Claim(ctx, c)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won = append(won, r)
			case !errors.Is(err, subnet.ErrConflict):
				t.Errorf("losing a race: %v, want ErrConflict", err)
			}
		})
	}
	close(start)
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d of %d contenders won the same subnet", len(won), contenders)
	}
	b.node(t, 99, "z").stored(t, won[0])
	if b.h.Handles != nil {
		if n := b.h.Handles(t); n != 1 {
			t.Errorf("the store has %d handles for one lease", n)
		}
	}
}

func testClaimLeavesNothing(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	handles := b.h.Handles
	if handles == nil {
		handles = func(t *testing.T) int { return len(n.snapshot(t).Records) }
	}
	count := func(want int, after string) {
		t.Helper()
		if n := handles(t); n != want {
			t.Errorf("after %s the store has %d handles, want %d", after, n, want)
		}
	}
	b.node(t, 2, "z").take(t, 9)
	count(1, "one claim")
	n.refused(t, n.claim(t, 9))
	count(1, "a claim that was refused")

	r := n.take(t, 7)
	n = b.node(t, 1, "b")
	n.take(t, 7)
	count(2, "a restart")

	b.h.Delete(t, r.Name) // by an operator
	r = n.take(t, 7)
	count(2, "taking a deleted lease again")

	c := n.claim(t, 8)
	c.Drop = []subnet.Record{r}
	r = n.must(t, c)
	count(2, "a move")

	if err := n.Release(limit(t), r); err != nil {
		t.Fatalf("Release: %v", err)
	}
	count(1, "a release")
}

func testClaimExpires(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	w := watch(t, b.node(t, 2, "b"))
	c := n.claim(t, 7)
	c.TTL = b.h.MinTTL
	r := n.must(t, c)
	w.shows(t, r)
	w.misses(t, r.Name)
}

// A careful claim fails if any lease was created since, and makes every claim
// fail that was chosen before it.
func testClaimCareful(t *testing.T, b *bench) {
	first, second := b.network(t).node(t, 1, "a"), b.node(t, 2, "b")
	careful := func(n *node, i int) subnet.Claim {
		c := n.claim(t, i)
		c.Seen = n.snapshot(t).Revision
		return c
	}
	before := second.claim(t, 8)
	config := first.snapshot(t).Config
	r := first.must(t, careful(first, 7))
	first.stored(t, r)
	if now := first.snapshot(t).Config; now.Config != config.Config || now.Err != nil || now.Revision == config.Revision {
		t.Errorf("the config is %+v, want what it was, written anew: %+v", now, config)
	}
	second.refused(t, before)

	late := careful(second, 9)
	third := b.node(t, 3, "c")
	third.take(t, 10)
	second.refused(t, late)
	second.must(t, careful(second, 9))
}

// A config is told apart from another one also where the revision does not do it,
// as in a store that has lost everything and counts anew.
func testClaimOtherConfig(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	c := n.claim(t, 7)
	c.Config = n.snapshot(t).Config.Config
	other := c
	other.Config.IPv4.SubnetLen++
	n.refused(t, other)
	n.must(t, c)
}
