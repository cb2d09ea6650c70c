package storetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hostgw/hostgw/subnet"
)

// watcher listens to a store and keeps what it was told.
type watcher struct {
	mu      sync.Mutex
	updates []subnet.Update
	state   subnet.Snapshot // what the updates add up to
	err     error           // the first thing that was not as promised
	news    chan struct{}   // closed and replaced at each update
}

// watch listens until the test ends, and has heard the first snapshot when it
// returns.
func watch(t *testing.T, s Store) *watcher {
	t.Helper()
	w := &watcher{news: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, w.hear) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Watch returned %v", err)
			}
		case <-time.After(patience):
			t.Errorf("Watch does not return when its context ends")
		}
		if w.mu.Lock(); w.err != nil {
			t.Errorf("Watch: %v", w.err)
		}
		w.mu.Unlock()
	})
	w.until(t, "the first snapshot", func(w *watcher) bool { return len(w.updates) > 0 })
	return w
}

func (w *watcher) hear(u subnet.Update) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.check(u)
	w.updates = append(w.updates, u)
	w.apply(u)
	close(w.news)
	w.news = make(chan struct{})
}

func (w *watcher) check(u subnet.Update) {
	wrong := func(what string) { w.err = errors.Join(w.err, errors.New(what)) }
	kinds := 0
	for _, is := range []bool{u.Err != nil, u.Snapshot != nil, u.Config != nil || len(u.Put)+len(u.Deleted) > 0} {
		if is {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		wrong("an update is more than one of snapshot, changes and error")
	case u.Err != nil:
		return
	case len(w.updates) == 0 && u.Snapshot == nil:
		wrong("the first update is no snapshot")
	case u.Snapshot == nil && u.Revision < w.state.Revision:
		wrong("an update is of an older revision than the one before it")
	}
	for _, r := range u.Put {
		if r.Modified > u.Revision || r.Modified <= w.state.Revision {
			wrong("an update holds a change that is not of its revisions: " + show(r))
		}
		if slices.Contains(u.Deleted, r.Name) {
			wrong("an update both puts and deletes " + r.Name)
		}
	}
}

func (w *watcher) apply(u subnet.Update) {
	if u.Err != nil {
		return
	}
	if u.Snapshot != nil {
		w.state = *u.Snapshot
		w.state.Records = slices.Clone(w.state.Records)
		return
	}
	w.state.Revision = u.Revision
	if u.Config != nil {
		w.state.Config = *u.Config
	}
	for _, r := range u.Put {
		if i := w.index(r.Name); i >= 0 {
			w.state.Records[i] = r
		} else {
			w.state.Records = append(w.state.Records, r)
		}
	}
	for _, name := range u.Deleted {
		if i := w.index(name); i >= 0 {
			w.state.Records = slices.Delete(w.state.Records, i, i+1)
		}
	}
}

func (w *watcher) index(name string) int {
	return slices.IndexFunc(w.state.Records, func(r subnet.Record) bool { return r.Name == name })
}

// until waits until cond holds; cond is called with w locked.
func (w *watcher) until(t *testing.T, what string, cond func(*watcher) bool) {
	t.Helper()
	over := time.After(patience)
	for {
		w.mu.Lock()
		ok, news := cond(w), w.news
		w.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-news:
		case <-over:
			w.mu.Lock()
			defer w.mu.Unlock()
			t.Fatalf("the watcher has not heard of %s; it knows\n%s", what, picture(w.state))
		}
	}
}

// shows waits until the watcher has heard of r as it is.
func (w *watcher) shows(t *testing.T, r subnet.Record) {
	t.Helper()
	w.until(t, show(r), func(w *watcher) bool {
		i := w.index(r.Name)
		return i >= 0 && equal(w.state.Records[i], r)
	})
}

// misses waits until the watcher has heard that the lease of that name is gone.
func (w *watcher) misses(t *testing.T, name string) {
	t.Helper()
	w.until(t, "the end of "+name, func(w *watcher) bool { return w.index(name) < 0 })
}

// heard returns the updates so far, without the first n.
func (w *watcher) heard(n int) []subnet.Update {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.updates[n:])
}

func sorted(records []subnet.Record) []string {
	var lines []string
	for _, r := range records {
		lines = append(lines, show(r))
	}
	slices.Sort(lines)
	return lines
}
