package memory

import "github.com/hostgw/hostgw/subnet"

// By is whose doing a change is.
type By int

const (
	Operator By = iota // the server's own methods
	Claim              // [Store.Claim], by what it creates, rewrites and drops
	Release            // [Store.Release]
	Expiry             // nobody kept the lease alive
)

func (b By) String() string { return [...]string{"operator", "claim", "release", "expiry"}[b] }

// Deed is one change of one key, and whose doing it is.
type Deed struct {
	By     By
	Node   subnet.Node   // who claims; zero unless By is Claim
	Update subnet.Update // one of Put, Deleted and Config; Snapshot after a wipe or a restore
}

// Observe has f told of every change in its order, with nothing left out or
// merged, before anybody else hears of it. It is for those who check what nodes
// do. The server is locked meanwhile: f must not call it, nor block.
func (s *Server) Observe(f func(Deed)) {
	s.lock()
	defer s.mu.Unlock()
	s.watch = f
}

func (s *Server) deed(c change) {
	if s.watch == nil {
		return
	}
	u := subnet.Update{Config: c.config, Revision: c.revision}
	switch {
	case c.put != nil:
		u.Put = []subnet.Record{*c.put}
	case c.config == nil:
		u.Deleted = []string{c.name}
	}
	s.watch(Deed{By: s.by, Node: s.node, Update: u})
}
