package memory_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostgw/hostgw/store/memory"
	"github.com/hostgw/hostgw/subnet"
)

// keeper is a Keep under way and what it has told so far.
type keeper struct {
	node subnet.Node
	end  context.CancelFunc

	mu       sync.Mutex
	renewals []subnet.Renewal
}

func (k *keeper) renewed(l subnet.Renewal) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.renewals = append(k.renewals, l)
}

// told returns what Keep has told by now.
func (k *keeper) told() []subnet.Renewal {
	synctest.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.renewals)
}

// last is the renewal told last.
func (k *keeper) last() subnet.Renewal {
	told := k.told()
	return told[len(told)-1]
}

// keep has a process of the first node keep the first lease, until the test ends.
func keep(t *testing.T, s *memory.Store, instance string) *keeper {
	t.Helper()
	k := &keeper{node: subnet.Node{Name: "host", Instance: instance}}
	r := mustClaim(t, s, k.node)
	var ctx context.Context
	ctx, k.end = context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Keep(ctx, r, k.node, k.renewed) }()
	t.Cleanup(func() {
		k.end()
		if err := <-done; err != nil {
			t.Errorf("Keep: %v", err)
		}
	})
	return k
}

// mustClaim has a process of the first node take the first lease, or take it back.
func mustClaim(t *testing.T, s *memory.Store, n subnet.Node) subnet.Record {
	t.Helper()
	sn, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := subnet.Claim{Lease: lease(1), ConfigRevision: sn.Config.Revision, TTL: time.Hour, Node: n}
	for _, r := range sn.Records {
		if r.Name == name(1) {
			c.Held = &r
		}
	}
	r, err := s.Claim(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// rival fails the test unless the last renewal has that rival.
func (k *keeper) rival(t *testing.T, want string) {
	t.Helper()
	got := ""
	if r := k.last().Rival; r != nil {
		got = r.Instance
	}
	if got != want {
		t.Errorf("%s is told of the rival %q, want %q", k.node.Instance, got, want)
	}
}

func TestRivalGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memory.NewServer()
		server.SetConfig(config())
		a := keep(t, server.Client(), "a")
		a.rival(t, "")
		b := keep(t, server.Client(), "b")
		a.rival(t, "b")
		b.rival(t, "a")
		before := server.Snapshot().Revision
		told := len(a.told())
		time.Sleep(10 * time.Hour)
		a.rival(t, "b")
		b.rival(t, "a")
		if now := server.Snapshot().Revision; now != before {
			t.Errorf("rivals write %d revisions", now-before)
		}
		for _, l := range a.told()[told:] {
			if l.Rival == nil {
				t.Fatal("a rival that lives is reported to be gone")
			}
		}

		b.end()
		time.Sleep(2*time.Minute + time.Second)
		a.rival(t, "")
		c := keep(t, server.Client(), "c")
		a.rival(t, "c")
		c.rival(t, "a")
	})
}

// TestRivalAway has a rival, and then this process, be away from the store.
func TestRivalAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memory.NewServer()
		server.SetConfig(config())
		near, far := server.Client(), server.Client()
		a, b := keep(t, near, "a"), keep(t, far, "b")
		a.rival(t, "b")
		far.SetFaults(memory.Faults{Err: errors.New("away")})
		time.Sleep(3 * time.Minute)
		a.rival(t, "")
		b.rival(t, "a") // nobody has told it otherwise
		far.SetFaults(memory.Faults{})
		time.Sleep(2 * time.Minute)
		a.rival(t, "b")
		b.rival(t, "a")

		both := []*memory.Store{near, far}
		for range 10 {
			for _, s := range both {
				s.SetFaults(memory.Faults{Err: errors.New("away")})
			}
			time.Sleep(97 * time.Second)
			for _, s := range both {
				s.SetFaults(memory.Faults{})
				time.Sleep(time.Second)
			}
		}
		for _, k := range []*keeper{a, b} {
			told := k.told()
			for _, l := range told[len(told)-15:] {
				if l.Rival == nil {
					t.Errorf("%s gives its rival up because the store is away: %+v", k.node.Instance, l)
				}
			}
		}
	})
}

// TestRivalRestored restores backups that hold the name of a process that has ended.
func TestRivalRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memory.NewServer()
		server.SetConfig(config())
		mustClaim(t, server.Client(), subnet.Node{Name: "host", Instance: "former"})
		backup := server.Backup()
		a := keep(t, server.Client(), "a")
		for range 3 {
			server.Restore(backup)
			time.Sleep(time.Hour)
		}
		for _, l := range a.told() {
			if l.Rival != nil {
				t.Errorf("a process that has ended is reported as the rival %+v", *l.Rival)
			}
		}
	})
}

func TestKeepFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(config())
		k := keep(t, s, "a")
		k.last()
		away := errors.New("away")
		time.Sleep(10 * time.Minute)
		s.SetFaults(memory.Faults{Err: away})
		if l := k.last(); len(k.told()) != 2 || !errors.Is(l.Err, away) || l.TTL != 50*time.Minute {
			t.Errorf("told of an outage ten minutes after the renewal as %+v", k.told())
		}
		s.SetFaults(memory.Faults{Err: errors.New("still away")})
		time.Sleep(30 * time.Minute)
		if told := k.told(); len(told) != 2 {
			t.Errorf("told again: %+v", told[2:])
		}
		s.SetFaults(memory.Faults{})
		if l := k.last(); len(k.told()) != 3 || l != (subnet.Renewal{TTL: time.Hour}) {
			t.Errorf("told of the end of the outage as %+v", k.told()[2:])
		}
	})
}
