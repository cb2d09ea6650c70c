package etcd

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// leftovers are the handles that may have been left behind with nothing on them. Of
// claims which failed: etcd gave no answer to their grant, to the transaction that was
// to use them, or to their revocation. And of leases which are gone or have become
// reservations: only somebody else's hand does that without ending the handle.
type leftovers struct {
	mu  sync.Mutex
	ids map[int64]struct{}
}

func (l *leftovers) add(id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ids == nil {
		l.ids = map[int64]struct{}{}
	}
	l.ids[id] = struct{}{}
}

func (l *leftovers) remove(id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.ids, id)
}

func (l *leftovers) list() []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.ids))
}

// sweep ends what is left behind, besides the handle that is in use now. What etcd
// does not answer to stays for the next time.
func (s *Store) sweep(ctx context.Context, used int64) {
	for _, id := range s.left.list() {
		if id == used || s.end(ctx, id) == nil {
			s.left.remove(id)
		}
	}
}
