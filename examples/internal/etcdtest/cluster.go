package etcdtest

import (
	"context"
	"fmt"
	"slices"
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

// Kill stops members at the same moment, as if the power went: none has the time to
// hand anything over to another.
func (c *Cluster) Kill(members ...*Server) {
	c.t.Helper()
	together := func(do func(*Server)) {
		var work sync.WaitGroup
		for _, s := range members {
			work.Go(func() { do(s) })
		}
		work.Wait()
	}
	together(func(s *Server) { s.etcd.Server.HardStop() })
	together((*Server).Stop)
}

// Leader returns the member that leads.
func (c *Cluster) Leader() *Server {
	c.t.Helper()
	for began := time.Now(); time.Since(began) < patience; time.Sleep(10 * time.Millisecond) {
		for _, s := range c.Members {
			if s.etcd.Server.Leader() == s.etcd.Server.MemberID() {
				return s
			}
		}
	}
	c.t.Fatal("etcdtest: no leader")
	return nil
}

// MoveLeader has the leader hand over to the member after it.
func (c *Cluster) MoveLeader() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	from := c.Leader()
	to := c.Members[(slices.Index(c.Members, from)+1)%len(c.Members)]
	if err := from.etcd.Server.MoveLeader(ctx, uint64(from.etcd.Server.MemberID()), uint64(to.etcd.Server.MemberID())); err != nil {
		c.t.Fatalf("etcdtest: moving the leader: %v", err)
	}
}
