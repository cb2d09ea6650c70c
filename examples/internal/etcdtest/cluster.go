package etcdtest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// Cluster is an etcd of several members, in this process. Its methods fail the
// test if they do not succeed; they must not be called concurrently.
type Cluster struct {
	t       testing.TB
	Members []*Server
}

// StartCluster starts an empty cluster that is stopped when the test ends.
func StartCluster(t testing.TB, members int) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	var all []string
	for i := range members {
		s := newServer(t, fmt.Sprintf("member%d", i), calmly)
		c.Members = append(c.Members, s)
		all = append(all, s.member())
	}
	for _, s := range c.Members {
		s.cluster = strings.Join(all, ",")
	}
	c.Start(c.Members...)
	return c
}

// calmly gives members that share two processors time to hear of each other.
func calmly(c *embed.Config) { c.TickMs, c.ElectionMs = 50, 500 }

// Endpoints is where clients reach the members; they stay the same for ever.
func (c *Cluster) Endpoints() (all []string) {
	for _, s := range c.Members {
		all = append(all, s.Endpoint())
	}
	return all
}

// Start starts members at the same time, and waits until they serve.
func (c *Cluster) Start(members ...*Server) {
	c.t.Helper()
	for _, s := range members {
		s.launch()
	}
	for _, s := range members {
		s.await()
	}
}

// Stop stops members at the same time.
func (c *Cluster) Stop(members ...*Server) {
	c.t.Helper()
	var stopping sync.WaitGroup
	for _, s := range members {
		stopping.Go(s.Stop)
	}
	stopping.Wait()
}

// MoveLeader has the leader hand over to the member after it.
func (c *Cluster) MoveLeader() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for ctx.Err() == nil {
		for i, s := range c.Members {
			e := s.etcd.Server
			if e.Leader() != e.MemberID() {
				continue
			}
			to := c.Members[(i+1)%len(c.Members)].etcd.Server.MemberID()
			if err := e.MoveLeader(ctx, uint64(e.Leader()), uint64(to)); err != nil {
				c.t.Fatalf("etcdtest: moving the leader: %v", err)
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.t.Fatal("etcdtest: no leader")
}
