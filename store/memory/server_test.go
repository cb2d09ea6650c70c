package memory_test

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostgw/hostgw/store/memory"
	"github.com/hostgw/hostgw/subnet"
)

func config() subnet.Config {
	return subnet.Config{IPv4: subnet.Range{Network: netip.MustParsePrefix("10.9.0.0/16")}}
}

func lease(i int) subnet.Lease {
	return subnet.Lease{
		Key: subnet.Key{IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(i), 0}), 24)},
		Holder: subnet.Holder{
			PublicIP:    netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}),
			BackendType: subnet.BackendType,
		},
	}
}

func name(i int) string { return lease(i).Key.String() }

// take claims the i-th subnet for the i-th node, or takes it back.
func take(t *testing.T, s *memory.Store, i int) (subnet.Record, error) {
	t.Helper()
	sn, err := s.Snapshot(t.Context())
	if err != nil {
		return subnet.Record{}, err
	}
	c := subnet.Claim{
		Lease:          lease(i),
		ConfigRevision: sn.Config.Revision,
		TTL:            time.Hour,
		Node:           subnet.Node{Name: "host", Instance: "1"},
	}
	for _, r := range sn.Records {
		if r.Name == name(i) {
			c.Held = &r
		}
	}
	return s.Claim(t.Context(), c)
}

func mustTake(t *testing.T, s *memory.Store, i int) subnet.Record {
	t.Helper()
	r, err := take(t, s, i)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// watch returns where the updates arrive, until the test ends.
func watch(t *testing.T, s *memory.Store) <-chan subnet.Update {
	t.Helper()
	updates := make(chan subnet.Update, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, func(u subnet.Update) { updates <- u }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	return updates
}

// next returns the update that has arrived by now, which must be the only one.
func next(t *testing.T, updates <-chan subnet.Update) subnet.Update {
	t.Helper()
	synctest.Wait()
	if n := len(updates); n != 1 {
		t.Fatalf("%d updates have arrived, want 1", n)
	}
	return <-updates
}

func none(t *testing.T, updates <-chan subnet.Update) {
	t.Helper()
	synctest.Wait()
	if n := len(updates); n != 0 {
		t.Fatalf("an update has arrived: %+v", <-updates)
	}
}

func TestNewBrokenConfig(t *testing.T) {
	s := memory.New(subnet.Config{})
	sn, err := s.Snapshot(t.Context())
	var broken *subnet.ConfigError
	if err != nil || !errors.As(sn.Config.Err, &broken) || sn.Config.Revision == 0 {
		t.Errorf("Snapshot: %+v, %v", sn, err)
	}
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(config())
		kept, left := mustTake(t, s, 1), mustTake(t, s, 2)
		s.Server().Put(name(3), []byte(`{"PublicIP":"192.0.2.3","BackendType":"host-gw"}`), 0)
		renewals := 0
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- s.Keep(ctx, kept, subnet.Node{}, func(r subnet.Renewal) {
				renewals++
				if r.TTL != time.Hour {
					t.Errorf("renewal %d: %+v", renewals, r)
				}
			})
		}()
		updates := watch(t, s)
		next(t, updates)

		time.Sleep(time.Hour - time.Nanosecond)
		none(t, updates)
		time.Sleep(time.Nanosecond)
		if u := next(t, updates); len(u.Deleted) != 1 || u.Deleted[0] != left.Name || len(u.Put) > 0 {
			t.Errorf("an hour later: %+v", u)
		}
		time.Sleep(100 * time.Hour)
		none(t, updates)
		if sn := s.Server().Snapshot(); len(sn.Records) != 2 {
			t.Errorf("after 101 hours: %+v", sn.Records)
		}
		if renewals != 1+101*3 {
			t.Errorf("%d renewals in 101 hours", renewals)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if u := next(t, updates); len(u.Deleted) != 1 || u.Deleted[0] != kept.Name {
			t.Errorf("an hour after Keep ended: %+v", u)
		}
	})
}

func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memory.NewServer()
		server.SetConfig(config())
		near, far := server.Client(), server.Client()
		r := mustTake(t, far, 1)
		updates := watch(t, far)
		next(t, updates)
		ended := make(chan error, 1)
		go func() { ended <- far.Keep(t.Context(), r, subnet.Node{}, nil) }()

		away := errors.New("away")
		far.SetFaults(memory.Faults{Err: away})
		if u := next(t, updates); u.Err != away {
			t.Errorf("told of the outage as %+v", u)
		}
		if _, err := take(t, far, 2); !errors.Is(err, away) {
			t.Errorf("a call during an outage: %v", err)
		}
		mustTake(t, near, 3)
		none(t, updates)
		far.SetFaults(memory.Faults{})
		if u := next(t, updates); u.Err != nil || len(u.Put) != 1 || u.Put[0].Name != name(3) {
			t.Errorf("after the outage: %+v", u)
		}

		// Nothing happened: it is told all the same that the outage is over.
		far.SetFaults(memory.Faults{Err: away})
		next(t, updates)
		far.SetFaults(memory.Faults{})
		if u := next(t, updates); !reflect.DeepEqual(u, subnet.Update{Revision: server.Snapshot().Revision}) {
			t.Errorf("after an outage in which nothing happened: %+v", u)
		}

		// An outage longer than the lease.
		far.SetFaults(memory.Faults{Err: away})
		next(t, updates)
		time.Sleep(2 * time.Hour)
		select {
		case err := <-ended:
			t.Fatalf("Keep gave up during the outage: %v", err)
		default:
		}
		far.SetFaults(memory.Faults{})
		if err := <-ended; !errors.Is(err, subnet.ErrLeaseLost) {
			t.Errorf("Keep: %v", err)
		}
		if u := next(t, updates); len(u.Deleted) != 2 {
			t.Errorf("after both leases expired: %+v", u)
		}
	})
}

// TestRenewsAfterOutage heals an outage just before the lease is over.
func TestRenewsAfterOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(config())
		r := mustTake(t, s, 1)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Keep(ctx, r, subnet.Node{}, nil) }()
		for range 3 {
			synctest.Wait()
			s.SetFaults(memory.Faults{Err: errors.New("away")})
			time.Sleep(time.Hour - time.Second)
			s.SetFaults(memory.Faults{})
		}
		time.Sleep(100 * time.Hour)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestAnswerLost(t *testing.T) {
	s := memory.New(config())
	s.SetFaults(memory.Faults{LoseAnswers: 1})
	if _, err := take(t, s, 1); !errors.Is(err, memory.ErrAnswerLost) {
		t.Fatalf("Claim: %v", err)
	}
	written := s.Server().Snapshot().Records
	if len(written) != 1 {
		t.Fatalf("written: %+v", written)
	}
	if again := mustTake(t, s, 1); !reflect.DeepEqual(again, written[0]) {
		t.Errorf("claimed %+v again as %+v", written[0], again)
	}
	if n := s.Faults().LoseAnswers; n != 0 {
		t.Errorf("%d answers are still to be lost", n)
	}
}

// TestLatency makes one node's claim late: it arrives after another's.
func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memory.NewServer()
		server.SetConfig(config())
		slow, quick := server.Client(), server.Client()
		slow.SetFaults(memory.Faults{Request: time.Second, Answer: time.Second})
		begin := time.Now()
		failed := make(chan error)
		go func() {
			_, err := take(t, slow, 1)
			failed <- err
		}()
		time.Sleep(2500 * time.Millisecond) // it has its snapshot, and its claim is on the way
		mustTake(t, quick, 1)
		if err := <-failed; !errors.Is(err, subnet.ErrConflict) {
			t.Errorf("the late claim: %v", err)
		}
		if took := time.Since(begin); took != 4*time.Second {
			t.Errorf("two calls took %v", took)
		}

		// An outage on the way back loses the answer, not the claim.
		away := errors.New("away")
		go func() {
			_, err := take(t, slow, 2)
			failed <- err
		}()
		time.Sleep(3500 * time.Millisecond)
		slow.SetFaults(memory.Faults{Err: away})
		if err := <-failed; !errors.Is(err, away) {
			t.Errorf("a claim whose answer was lost: %v", err)
		}
		if n := len(server.Snapshot().Records); n != 2 {
			t.Errorf("%d leases", n)
		}

		slow.SetFaults(memory.Faults{Request: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := slow.Snapshot(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call that takes too long: %v", err)
		}
	})
}

func TestLateEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memory.NewServer()
		server.SetConfig(config())
		writer, reader := server.Client(), server.Client()
		reader.SetFaults(memory.Faults{Events: time.Second})
		updates := watch(t, reader)
		none(t, updates)
		mustTake(t, writer, 1) // after the snapshot was on its way
		time.Sleep(time.Second)
		if u := <-updates; u.Snapshot == nil || len(u.Snapshot.Records) != 0 {
			t.Errorf("the first snapshot: %+v", u)
		}
		if u := next(t, updates); len(u.Put) != 1 {
			t.Errorf("what followed: %+v", u)
		}
		mustTake(t, writer, 2)
		time.Sleep(500 * time.Millisecond)
		mustTake(t, writer, 3)
		none(t, updates)
		time.Sleep(500 * time.Millisecond)
		if u := next(t, updates); len(u.Put) != 1 || u.Put[0].Name != name(2) || u.Revision != u.Put[0].Modified {
			t.Errorf("a second after the first: %+v", u)
		}
		time.Sleep(500 * time.Millisecond)
		if u := next(t, updates); len(u.Put) != 1 || u.Put[0].Name != name(3) {
			t.Errorf("a second after the second: %+v", u)
		}
		reader.Replay(2)
		if u := next(t, updates); len(u.Put) != 2 {
			t.Errorf("the last two again: %+v", u)
		}
		none(t, updates)
	})
}

func TestWipeRestoreCompact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memory.NewServer()
		server.SetConfig(config())
		s := server.Client()
		updates := watch(t, s)
		next(t, updates)
		shows := func(what string, want ...string) {
			t.Helper()
			u := next(t, updates)
			if u.Snapshot == nil {
				t.Fatalf("%s: no fresh snapshot but %+v", what, u)
			}
			var got []string
			for _, r := range u.Snapshot.Records {
				got = append(got, r.Name)
			}
			if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(*u.Snapshot, server.Snapshot()) {
				t.Errorf("%s: %+v, want %v", what, u.Snapshot, want)
			}
		}

		mustTake(t, s, 1)
		next(t, updates)
		backup := server.Backup()
		r := mustTake(t, s, 2)
		next(t, updates)
		ended := make(chan error, 1)
		go func() { ended <- s.Keep(t.Context(), r, subnet.Node{}, nil) }()
		synctest.Wait()
		time.Sleep(30 * time.Minute)
		server.Restore(backup)
		shows("restored", name(1))
		if err := <-ended; !errors.Is(err, subnet.ErrLeaseLost) {
			t.Errorf("Keep: %v", err)
		}
		if got := mustTake(t, s, 3); got.Modified != r.Modified || got.Token == r.Token {
			t.Errorf("after going back the next record is %+v; before it was %+v", got, r)
		}
		next(t, updates)

		server.Wipe()
		shows("wiped")
		if _, err := take(t, s, 1); !errors.Is(err, subnet.ErrNoConfig) {
			t.Errorf("a claim without a config: %v", err)
		}
		server.SetConfig(config())
		next(t, updates)

		s.SetFaults(memory.Faults{Err: errors.New("away")})
		next(t, updates)
		near := server.Client()
		mustTake(t, near, 4)
		mustTake(t, near, 5)
		server.Compact()
		s.SetFaults(memory.Faults{})
		shows("compacted", name(4), name(5))
	})
}

func TestLongHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memory.NewServer()
		server.SetConfig(config())
		s := server.Client()
		updates := watch(t, s)
		next(t, updates)
		s.SetFaults(memory.Faults{Err: errors.New("away")})
		next(t, updates)
		for range 10000 {
			server.Put(name(1), []byte(`{"PublicIP":"192.0.2.1","BackendType":"host-gw"}`), 0)
		}
		s.SetFaults(memory.Faults{})
		if u := next(t, updates); u.Snapshot == nil || len(u.Snapshot.Records) != 1 {
			t.Errorf("after 10000 changes: %+v", u)
		}
	})
}

// TestCarefulAcrossWipe makes a careful claim that was chosen before the server was
// wiped, when its revisions had come further than they have now.
func TestCarefulAcrossWipe(t *testing.T) {
	server := memory.NewServer()
	server.SetConfig(config())
	store := server.Client()
	for range 20 {
		server.Put(name(9), []byte("{}"), 0)
	}
	server.Delete(name(9))
	sn, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server.Wipe()
	server.SetConfig(config())
	server.Put("10.9.1.128-25", []byte(`{"PublicIP":"192.0.2.9","BackendType":"host-gw"}`), 0)
	c := subnet.Claim{
		Lease:          lease(1),
		ConfigRevision: sn.Config.Revision,
		Config:         sn.Config.Config,
		Seen:           sn.Revision,
		TTL:            time.Hour,
	}
	if _, err := store.Claim(t.Context(), c); !errors.Is(err, subnet.ErrConflict) {
		t.Errorf("claimed what overlaps: %v", err)
	}
	c.Lease = lease(2)
	if _, err := store.Claim(t.Context(), c); err != nil {
		t.Error(err)
	}
}
