package etcdstore

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostgw/hostgw/store/etcd"
	"github.com/hostgw/hostgw/subnet"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// listener keeps what a watch delivers.
type listener struct {
	mu      sync.Mutex
	updates []subnet.Update
	holders map[string]string // of the leases known, by name
	news    chan struct{}     // closed and replaced at each update
}

func listen(t *testing.T, s *etcd.Store) *listener {
	t.Helper()
	l := &listener{holders: map[string]string{}, news: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, l.hear) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	return l
}

func (l *listener) hear(u subnet.Update) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.updates = append(l.updates, u)
	put := u.Put
	if u.Snapshot != nil {
		clear(l.holders)
		put = u.Snapshot.Records
	}
	for _, r := range put {
		l.holders[r.Name] = r.Lease.Holder.PublicIP.String()
	}
	for _, name := range u.Deleted {
		delete(l.holders, name)
	}
	close(l.news)
	l.news = make(chan struct{})
}

// until waits until cond holds for the updates so far, and returns how long that
// took.
func (l *listener) until(t *testing.T, what string, cond func([]subnet.Update) bool) time.Duration {
	t.Helper()
	begin, over := time.Now(), time.After(patience)
	for {
		l.mu.Lock()
		ok, news := cond(l.updates), l.news
		l.mu.Unlock()
		if ok {
			return time.Since(begin)
		}
		select {
		case <-news:
		case <-over:
			t.Fatalf("the watch has not told of %s after %v", what, patience)
		}
	}
}

// hears waits until the last update is, or is not, an outage.
func (l *listener) hears(t *testing.T, well bool) time.Duration {
	t.Helper()
	what := "an outage"
	if well {
		what = "the end of the outage"
	}
	return l.until(t, what, func(u []subnet.Update) bool { return len(u) > 0 && (u[len(u)-1].Err == nil) == well })
}

// knows waits until the leases known are these, each as name=address.
func (l *listener) knows(t *testing.T, leases ...string) time.Duration {
	t.Helper()
	slices.Sort(leases)
	want := strings.Join(leases, " ")
	return l.until(t, "just the leases "+want, func([]subnet.Update) bool { return l.text() == want })
}

func (l *listener) text() string {
	var all []string
	for name, holder := range l.holders {
		all = append(all, name+"="+holder)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// outages returns the errors delivered.
func (l *listener) outages() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, u := range l.updates {
		if u.Err != nil {
			errs = append(errs, u.Err)
		}
	}
	return errs
}

func (l *listener) snapshots() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, u := range l.updates {
		if u.Snapshot != nil {
			n++
		}
	}
	return n
}
