package hostgw

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostgw/hostgw/store/memory"
	"github.com/hostgw/hostgw/subnet"
)

// callCounter counts the calls that cost a store the most.
type callCounter struct {
	*memory.Store
	snapshots, keeps atomic.Int64
}

func (c *callCounter) Snapshot(ctx context.Context) (subnet.Snapshot, error) {
	c.snapshots.Add(1)
	return c.Store.Snapshot(ctx)
}

func (c *callCounter) Keep(ctx context.Context, r subnet.Record, n subnet.Node, renewed func(subnet.Renewal)) error {
	c.keeps.Add(1)
	return c.Store.Keep(ctx, r, n, renewed)
}

// A node that joins reads the store once, through its watch, and begins to keep its
// lease once: what a node reads at its start, all nodes of a large network read.
func TestManagerReadsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t)
		var counter callCounter
		n := startNode(t, server, 1, func(c *Config) {
			counter.Store = c.Store.(*memory.Store)
			c.Store = &counter
		})
		n.lease()
		time.Sleep(time.Minute)
		synctest.Wait()
		if s, k := counter.snapshots.Load(), counter.keeps.Load(); s != 0 || k != 1 {
			t.Errorf("%d snapshots besides the watch's and %d calls of Keep, want 0 and 1", s, k)
		}
	})
}
