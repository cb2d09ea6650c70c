package hostgw

import (
	"context"
	"hash/fnv"
	"time"
)

const (
	backoffFirst = 50 * time.Millisecond
	backoffLast  = 800 * time.Millisecond
)

// backoff paces what is tried again: twice the pause each time, up to somewhat less
// than a second, so that everything is caught up within one of a store's return. The
// pauses of different nodes differ, lest they all come back at the same moment.
type backoff struct {
	seed  uint32
	tries int
}

func (m *Manager) backoff() *backoff {
	h := fnv.New32a()
	h.Write(m.c.Uplink.IPv4.AsSlice())
	h.Write(m.c.Uplink.IPv6.AsSlice())
	return &backoff{seed: h.Sum32()}
}

func (b *backoff) reset() { b.tries = 0 }

// wait pauses; less if something arrives on wake. It returns false if ctx ended.
func (b *backoff) wait(ctx context.Context, wake <-chan struct{}) bool {
	d := min(backoffFirst<<min(b.tries, 10), backoffLast)
	b.tries++
	spread := (b.seed ^ uint32(b.tries)*2654435761) >> 16 % 256 // of 256
	d -= d / 2 * time.Duration(spread) / 256
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-wake:
		return true
	case <-ctx.Done():
		return false
	}
}
