package storetest

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostgw/hostgw/subnet"
)

func testWatchSnapshot(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	r := n.take(t, 7)
	b.h.PutLease(t, "10.9.8.0-24", `{"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"host-gw"}`)
	w := watch(t, b.node(t, 3, "c"))
	first := w.heard(0)[0]
	if first.Snapshot == nil {
		t.Fatalf("the first update is %+v", first)
	}
	if got, want := picture(*first.Snapshot), picture(n.snapshot(t)); got != want {
		t.Errorf("the watch begins with\n%s\nwant\n%s", got, want)
	}
	if first.Snapshot.Revision < r.Modified || first.Revision != first.Snapshot.Revision {
		t.Errorf("the watch begins with revision %d in an update of %d", first.Snapshot.Revision, first.Revision)
	}
}

func testWatchChanges(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	w := watch(t, b.node(t, 2, "b"))
	r := n.take(t, 7)
	w.shows(t, r)
	b.h.PutLease(t, r.Name, `{"PublicIP":"192.0.2.9","PublicIPv6":null,"BackendType":"host-gw"}`)
	w.until(t, "another holder", func(w *watcher) bool {
		i := w.index(r.Name)
		return i >= 0 && w.state.Records[i].Lease.Holder.PublicIP.String() == "192.0.2.9" && w.state.Records[i].Reserved()
	})
	b.h.Delete(t, r.Name)
	w.misses(t, r.Name)
	w.shows(t, n.take(t, 7))
}

func testWatchUnreadable(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	good := `{"PublicIP":"192.0.2.9","PublicIPv6":null,"BackendType":"host-gw"}`
	bad := map[string]string{
		"10.9.7.0-24":  `{"PublicIP":`,
		"10.9.8.0-24":  `{"PublicIP":"not an address","BackendType":"host-gw"}`,
		"10.9.9.1-24":  good, // host bits
		"10.9.300.0-9": good,
		"garbage":      "garbage",
	}
	w := watch(t, b.node(t, 2, "b"))
	for name, value := range bad {
		b.h.PutLease(t, name, value)
	}
	unreadable := func(records []subnet.Record) bool {
		for name := range bad {
			i := slices.IndexFunc(records, func(r subnet.Record) bool { return r.Name == name })
			if i < 0 || records[i].Err == nil || records[i].Modified == 0 {
				return false
			}
		}
		return true
	}
	w.until(t, "unreadable records", func(w *watcher) bool { return unreadable(w.state.Records) })
	if sn := n.snapshot(t); !unreadable(sn.Records) || len(sn.Records) != len(bad) {
		t.Errorf("the snapshot shows unreadable records as\n%s", picture(sn))
	}
	for name := range bad {
		b.h.Delete(t, name)
	}
	w.until(t, "their end", func(w *watcher) bool { return len(w.state.Records) == 0 })
	w.shows(t, n.take(t, 7))
}

func testWatchConfig(t *testing.T, b *bench) {
	n := b.node(t, 1, "a")
	w := watch(t, n)
	is := func(what string, cond func(subnet.NetworkConfig) bool) {
		t.Helper()
		w.until(t, what, func(w *watcher) bool { return cond(w.state.Config) })
		if c := n.snapshot(t).Config; !cond(c) {
			t.Errorf("the snapshot does not show %s but %+v", what, c)
		}
	}
	none := func(c subnet.NetworkConfig) bool { return errors.Is(c.Err, subnet.ErrNoConfig) && c.Revision == 0 }
	is("no config", none)
	b.network(t)
	is("the config", func(c subnet.NetworkConfig) bool {
		return c.Err == nil && c.Config.IPv4.Network.String() == "10.9.0.0/16" && c.Revision > 0
	})
	b.h.PutConfig(t, strings.Replace(config, "10.9.", "10.8.", 1))
	is("another config", func(c subnet.NetworkConfig) bool {
		return c.Err == nil && c.Config.IPv4.Network.String() == "10.8.0.0/16"
	})
	b.h.PutConfig(t, `{"Network":`)
	is("a broken config", func(c subnet.NetworkConfig) bool {
		var broken *subnet.ConfigError
		return errors.As(c.Err, &broken) && c.Revision > 0
	})
	b.h.PutConfig(t, "")
	is("no config again", none)
}

// testWatchNoGap has several nodes come, move and go, and watchers start in the
// middle: each must end up with exactly what the store holds.
func testWatchNoGap(t *testing.T, b *bench) {
	b.network(t)
	early := watch(t, b.node(t, 100, "early"))
	const writers, rounds = 4, 15
	var nodes []*node
	for i := range writers {
		nodes = append(nodes, b.node(t, 1+i, string(rune('a'+i))))
	}
	ctx := limit(t)
	work := func(n *node, i int) error {
		sn, err := n.Snapshot(ctx)
		if err != nil {
			return err
		}
		var held *subnet.Record
		for round := range rounds {
			c := subnet.Claim{
				Lease:          n.lease(i*rounds + round + 1),
				ConfigRevision: sn.Config.Revision,
				TTL:            time.Minute,
				Node:           n.node,
			}
			if held != nil && round%2 == 0 {
				c.Drop = []subnet.Record{*held}
			}
			r, err := n.Claim(ctx, c)
			if err != nil {
				return err
			}
			if round%5 == 4 {
				if err := n.Release(ctx, r); err != nil {
					return err
				}
				held = nil
				continue
			}
			held = &r
		}
		return nil
	}
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			if err := work(n, i); err != nil {
				t.Errorf("writer %d: %v", i, err)
			}
		})
	}
	var watchers []*watcher
	for range 5 {
		watchers = append(watchers, watch(t, b.node(t, 101, "late")))
	}
	wg.Wait()
	want := picture(b.node(t, 102, "end").snapshot(t))
	for _, w := range append(watchers, early) {
		w.until(t, "all changes; it should be\n"+want, func(w *watcher) bool { return picture(w.state) == want })
	}
}

// testWatchBlocking has a listener that takes its time: what it misses
// meanwhile must come all the same.
func testWatchBlocking(t *testing.T, b *bench) {
	n := b.network(t).node(t, 1, "a")
	w := &watcher{news: make(chan struct{})}
	gate := make(chan struct{})
	ctx := t.Context()
	done := make(chan error, 1)
	go func() {
		done <- b.node(t, 2, "b").Watch(ctx, func(u subnet.Update) {
			select {
			case <-gate:
			case <-ctx.Done():
			}
			w.hear(u)
		})
	}()
	t.Cleanup(func() { <-done })
	var last subnet.Record
	for i := range 20 {
		c := n.claim(t, i+1)
		if i > 0 {
			c.Drop = []subnet.Record{last}
		}
		last = n.must(t, c)
	}
	close(gate)
	w.shows(t, last)
	want := picture(n.snapshot(t))
	w.until(t, "all changes", func(w *watcher) bool { return picture(w.state) == want })
}

func testSnapshotEmpty(t *testing.T, b *bench) {
	sn := b.node(t, 1, "a").snapshot(t)
	if len(sn.Records) != 0 || !errors.Is(sn.Config.Err, subnet.ErrNoConfig) {
		t.Errorf("an empty store shows\n%s", picture(sn))
	}
}

func testSnapshotFresh(t *testing.T, b *bench) {
	writer, reader := b.network(t).node(t, 1, "a"), b.node(t, 2, "b")
	var shown int64
	for i := range 20 {
		r := writer.take(t, i+1)
		sn := reader.snapshot(t)
		if _, ok := find(sn, r.Name); !ok || sn.Revision < r.Modified || sn.Revision < shown {
			t.Fatalf("after revision %d a snapshot is of revision %d, after one of %d", r.Modified, sn.Revision, shown)
		}
		shown = sn.Revision
	}
}
