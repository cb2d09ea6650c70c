package memory

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/hostgw/hostgw/store/internal/record"
	"github.com/hostgw/hostgw/subnet"
)

// Server is what the nodes of one network share, as they would share an etcd.
// Each node gets a [Store] of its own from [Server.Client]. The other methods
// are those of an operator, who can do what no Manager would.
//
// Its methods may be called concurrently and never block.
type Server struct {
	mu       sync.Mutex
	epoch    int // counts wipes and restores, after which revisions start over
	revision int64
	config   subnet.NetworkConfig
	entries  []*entry // ordered by name
	tokens   int64    // the last one given out; never goes back, unlike revisions
	uses     int64    // likewise, of entry.used

	log       []change // oldest first
	compacted int64    // the changes up to this revision are no longer in log

	timer *time.Timer // runs expire at due; nil if nothing expires
	due   time.Time

	ears []*ear

	watch func(Deed) // told of every deed; nil if nobody wants to know
	by    By         // who is at work
	node  subnet.Node
}

// entry is what is stored under one lease key. The record is never changed in
// place: watchers hold copies of it.
type entry struct {
	record   subnet.Record
	user     subnet.Node
	used     int64 // tells when user was written
	ttl      time.Duration
	deadline time.Time
}

func (e *entry) expires() bool { return e.record.Token != 0 }

// change is one change of one key. Those of one step share a revision.
type change struct {
	revision int64
	at       time.Time
	name     string         // of a lease
	put      *subnet.Record // nil if the lease was deleted
	config   *subnet.NetworkConfig
}

// ear is told that there may be something new to hear.
type ear struct {
	name string // the only lease it listens to; all if empty
	wake chan struct{}
}

func (e *ear) ring() {
	select {
	case e.wake <- struct{}{}:
	default: // it has been told already
	}
}

// NewServer returns an empty server: no leases, no config.
func NewServer() *Server { return &Server{revision: 1, config: noConfig()} }

func noConfig() subnet.NetworkConfig { return record.ParseConfig(nil, 0) }

// SetConfig stores a network config. One that breaks a rule is stored as one
// that cannot be read.
func (s *Server) SetConfig(c subnet.Config) {
	c, err := c.Complete()
	s.setConfig(subnet.NetworkConfig{Config: c, Err: err})
}

// PutConfig stores the text of a network config, readable or not.
func (s *Server) PutConfig(text []byte) { s.setConfig(record.ParseConfig(slices.Clip(text), 0)) }

// DeleteConfig removes the network config.
func (s *Server) DeleteConfig() { s.setConfig(noConfig()) }

func (s *Server) setConfig(c subnet.NetworkConfig) {
	s.lock()
	defer s.mu.Unlock()
	s.revision++
	c.Revision = s.revision
	if c.Err == subnet.ErrNoConfig {
		c.Revision = 0
	}
	s.config = c
	s.note(change{config: &c})
}

// Put writes a lease key, readable or not, whatever is there. It expires ttl
// from now unless somebody keeps it; with ttl zero it is a reservation.
func (s *Server) Put(name string, value []byte, ttl time.Duration) {
	s.lock()
	defer s.mu.Unlock()
	s.revision++
	e := &entry{record: record.Parse(name, value), ttl: ttl}
	if ttl > 0 {
		s.tokens++
		e.record.Token = s.tokens
	}
	s.put(e)
}

// Delete removes a lease key. It reports whether it was there.
func (s *Server) Delete(name string) bool {
	s.lock()
	defer s.mu.Unlock()
	if s.entry(name) == nil {
		return false
	}
	s.revision++
	s.delete(name)
	return true
}

// DeleteAll removes every lease key in one step.
func (s *Server) DeleteAll() {
	s.lock()
	defer s.mu.Unlock()
	s.revision++
	for _, e := range slices.Clone(s.entries) {
		s.delete(e.record.Name)
	}
}

// Snapshot is what the server holds now, whatever the faults of its clients.
// The records are ordered by name.
func (s *Server) Snapshot() subnet.Snapshot {
	s.lock()
	defer s.mu.Unlock()
	return s.snapshot()
}

// Compact forgets the history up to now, so that whoever has not heard all of it
// yet is answered with a fresh snapshot.
func (s *Server) Compact() {
	s.lock()
	defer s.mu.Unlock()
	s.compact(len(s.log))
}

// Wipe loses everything, the config and the revisions included.
func (s *Server) Wipe() { s.Restore(Backup{revision: 1, config: noConfig()}) }

// Backup is all that a server held at one moment.
type Backup struct {
	revision int64
	config   subnet.NetworkConfig
	entries  []entry
}

// Backup returns what the server holds.
func (s *Server) Backup() Backup {
	s.lock()
	defer s.mu.Unlock()
	b := Backup{revision: s.revision, config: s.config}
	for _, e := range s.entries {
		b.entries = append(b.entries, *e)
	}
	return b
}

// Restore makes the server what it was at the backup, and the revisions with it.
// Leases get their whole time to live again, as they do in etcd.
func (s *Server) Restore(b Backup) {
	s.lock()
	defer s.mu.Unlock()
	s.epoch++
	s.revision, s.config = b.revision, b.config
	s.entries = nil
	for _, e := range b.entries {
		s.entries = append(s.entries, &e)
		s.keep(&e)
	}
	s.compact(len(s.log))
	if s.watch != nil {
		sn := s.snapshot()
		s.watch(Deed{Update: subnet.Update{Snapshot: &sn, Revision: sn.Revision}})
	}
	s.tell(nil)
}

// lock locks the server and drops what has expired by now, so that nobody ever
// sees an expired lease, however late the timer is.
func (s *Server) lock() {
	s.mu.Lock()
	now := time.Now()
	if s.timer == nil || now.Before(s.due) {
		return
	}
	s.timer.Stop()
	s.timer = nil
	expired := func(e *entry) bool { return e.expires() && !now.Before(e.deadline) }
	if slices.ContainsFunc(s.entries, expired) {
		s.revision++
		s.by = Expiry
		defer func() { s.by = Operator }()
		for _, e := range slices.Clone(s.entries) {
			if expired(e) {
				s.delete(e.record.Name)
			}
		}
	}
	for _, e := range s.entries {
		if e.expires() {
			s.wakeAt(e.deadline)
		}
	}
}

func (s *Server) expire() {
	s.lock()
	s.mu.Unlock()
}

// wakeAt makes sure that what expires at t does so without anybody calling.
func (s *Server) wakeAt(t time.Time) {
	if s.timer != nil && !t.Before(s.due) {
		return // it will look again then
	}
	if s.timer != nil {
		s.timer.Stop()
	}
	s.due = t
	s.timer = time.AfterFunc(time.Until(t), s.expire)
}

// keep gives e its whole time to live.
func (s *Server) keep(e *entry) {
	if e.expires() {
		e.deadline = time.Now().Add(e.ttl)
		s.wakeAt(e.deadline)
	}
}

func (s *Server) find(name string) (int, bool) {
	return slices.BinarySearchFunc(s.entries, name, func(e *entry, name string) int {
		return cmp.Compare(e.record.Name, name)
	})
}

func (s *Server) entry(name string) *entry {
	if i, ok := s.find(name); ok {
		return s.entries[i]
	}
	return nil
}

// put writes e at the current revision.
func (s *Server) put(e *entry) {
	e.record.Created, e.record.Modified = s.revision, s.revision
	i, ok := s.find(e.record.Name)
	if ok {
		e.record.Created = s.entries[i].record.Created
		s.entries[i] = e
	} else {
		s.entries = slices.Insert(s.entries, i, e)
	}
	s.keep(e)
	r := e.record
	s.note(change{name: r.Name, put: &r})
}

func (s *Server) delete(name string) {
	if i, ok := s.find(name); ok {
		s.entries = slices.Delete(s.entries, i, i+1)
		s.note(change{name: name})
	}
}

// maxLog bounds what a server remembers of its history. Who is further behind
// gets a fresh snapshot.
const maxLog = 4096

func (s *Server) note(c change) {
	c.revision, c.at = s.revision, time.Now()
	if n := len(s.log); n > 0 && s.log[n-1].revision == c.revision {
		c.at = s.log[n-1].at // one step is one moment
	}
	s.log = append(s.log, c)
	s.deed(c)
	s.tell(&c)
	if len(s.log) > 2*maxLog {
		s.compact(len(s.log) - maxLog)
	}
}

// compact forgets the n oldest changes, and the rest of the last one's step.
func (s *Server) compact(n int) {
	for n > 0 && n < len(s.log) && s.log[n].revision == s.log[n-1].revision {
		n++
	}
	s.log = slices.Clone(s.log[n:])
	s.compacted = s.revision
	if len(s.log) > 0 {
		s.compacted = s.log[0].revision - 1
	}
}

func (s *Server) snapshot() subnet.Snapshot {
	sn := subnet.Snapshot{Config: s.config, Revision: s.revision, Records: make([]subnet.Record, len(s.entries))}
	for i, e := range s.entries {
		sn.Records[i] = e.record
	}
	return sn
}

// tell wakes everybody whom c concerns, or everybody if c is nil. They look once
// the step that c belongs to is done and the server unlocked.
func (s *Server) tell(c *change) {
	for _, e := range s.ears {
		if c == nil || e.name == "" || e.name == c.name {
			e.ring()
		}
	}
}

func (s *Server) listen(e *ear) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ears = append(s.ears, e)
}

func (s *Server) leave(e *ear) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ears = slices.DeleteFunc(s.ears, func(o *ear) bool { return o == e })
}
