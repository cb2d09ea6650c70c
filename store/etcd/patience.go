package etcd

import (
	"sync"
	"time"
)

// patience is how much longer than usual to wait for an answer. A server that can
// be reached and does not answer in time is busy, perhaps with telling thousands of
// nodes about each other. Whoever gives up then and asks again, as all the others
// do, has it answer what nobody waits for any more, and keeps it busy for ever. So
// each wait in vain doubles the patience, and each answer in the usual time halves
// it. A server that cannot be reached is another matter: then the connection breaks,
// and the wait with it, however long it was meant to be.
//
// The zero patience is the usual one. It may be used concurrently.
type patience struct {
	mu      sync.Mutex
	doubled int
}

// mostDoubled is how often patience is doubled at most.
const mostDoubled = 3

// of returns how long to wait for what usually takes no longer than d.
func (p *patience) of(d time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return d << p.doubled
}

func (p *patience) lost() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doubled = min(p.doubled+1, mostDoubled)
}

func (p *patience) answered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doubled = max(p.doubled-1, 0)
}
