package doctest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/store/storetest"
	"github.com/hostgw/hostgw/subnet"
)

// depot is a store of one's own: a network in the memory of one process. A real
// one keeps the state where all hosts reach it.
type depot struct {
	mu      sync.Mutex
	changed chan struct{}    // closed, and replaced, whenever something changes
	state   subnet.Snapshot  // its Records are never changed in place
	gone    map[string]int64 // the revisions at which leases were deleted
	ends    map[string]time.Time
	ttls    map[string]time.Duration
	users   map[string]subnet.Node // which process claimed a lease last
	tokens  int64
}

var (
	_ hostgw.SubnetStore  = (*depot)(nil)
	_ hostgw.LeaseWatcher = (*depot)(nil)
)

func newDepot() *depot {
	return &depot{
		changed: make(chan struct{}),
		state:   subnet.Snapshot{Config: subnet.NetworkConfig{Err: subnet.ErrNoConfig}, Revision: 1},
		gone:    make(map[string]int64),
		ends:    make(map[string]time.Time),
		ttls:    make(map[string]time.Duration),
		users:   make(map[string]subnet.Node),
	}
}

// lock locks the depot and drops what has expired.
func (d *depot) lock() {
	d.mu.Lock()
	now := time.Now()
	for name, end := range d.ends {
		if !now.Before(end) {
			d.state.Revision++
			d.delete(name)
		}
	}
}

func (d *depot) wake() {
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *depot) find(name string) (subnet.Record, bool) {
	i := slices.IndexFunc(d.state.Records, func(r subnet.Record) bool { return r.Name == name })
	if i < 0 {
		return subnet.Record{}, false
	}
	return d.state.Records[i], true
}

// put writes r at the present revision.
func (d *depot) put(r subnet.Record) subnet.Record {
	r.Created, r.Modified = d.state.Revision, d.state.Revision
	if old, ok := d.find(r.Name); ok {
		r.Created = old.Created
	}
	d.state.Records = append(d.without(r.Name), r)
	d.wake()
	return r
}

func (d *depot) delete(name string) {
	d.state.Records = d.without(name)
	d.gone[name] = d.state.Revision
	delete(d.ends, name)
	delete(d.ttls, name)
	delete(d.users, name)
	d.wake()
}

func (d *depot) without(name string) []subnet.Record {
	return slices.DeleteFunc(slices.Clone(d.state.Records), func(r subnet.Record) bool { return r.Name == name })
}

// keep lets a lease begin its time to live anew.
func (d *depot) keep(name string) time.Duration {
	ttl := d.ttls[name]
	if ttl > 0 {
		d.ends[name] = time.Now().Add(ttl)
		time.AfterFunc(ttl, func() { d.lock(); d.mu.Unlock() })
	}
	return ttl
}

func (d *depot) Snapshot(ctx context.Context) (subnet.Snapshot, error) {
	d.lock()
	defer d.mu.Unlock()
	return d.state, ctx.Err()
}

func (d *depot) Claim(ctx context.Context, c subnet.Claim) (subnet.Record, error) {
	d.lock()
	defer d.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return subnet.Record{}, err
	}
	name := c.Lease.Key.String()
	now, there := d.find(name)
	seen := func(r subnet.Record) bool { now, ok := d.find(r.Name); return ok && now.Modified == r.Modified }
	newer := func(r subnet.Record) bool { return r.Created > c.Seen }
	careful := c.Held == nil && c.Seen != 0
	switch {
	case d.state.Config.Revision != c.ConfigRevision, // the config has been written since
		c.Config != (subnet.Config{}) && d.state.Config.Config != c.Config,
		c.Held == nil && there,          // somebody was faster
		c.Held != nil && !seen(*c.Held), // it is not what it was
		!all(c.Drop, seen),              // nor are those to be given up
		careful && slices.ContainsFunc(d.state.Records, newer):
		return subnet.Record{}, fmt.Errorf("claiming %s: %w", name, subnet.ErrConflict)
	}

	r := subnet.Record{Name: name, Lease: c.Lease, Token: now.Token}
	write := !there || now.Err != nil || !sameHolder(now.Lease.Holder, c.Lease.Holder)
	if write || len(c.Drop) > 0 {
		d.state.Revision++ // one for all that this step changes
	}
	if !there {
		d.tokens++
		r.Token, d.ttls[name] = d.tokens, c.TTL
	}
	if careful {
		d.state.Config.Revision = d.state.Revision
	}
	for _, old := range c.Drop {
		d.delete(old.Name)
	}
	if write {
		now = d.put(r)
	}
	d.users[name] = c.Node
	d.keep(name)
	d.wake()
	return now, nil
}

func (d *depot) Keep(ctx context.Context, r subnet.Record, node subnet.Node, renewed func(subnet.Renewal)) error {
	var n subnet.Renewal
	answers := make(map[string]int) // how often other processes were shown this one's name
	for ctx.Err() == nil {
		d.lock()
		now, there := d.find(r.Name)
		if !there || now.Token != r.Token || !now.Lease.Holder.Same(r.Lease.Holder) {
			d.mu.Unlock()
			return fmt.Errorf("keeping %s: %w", r.Name, subnet.ErrLeaseLost)
		}
		n.TTL = d.keep(r.Name)
		if user := d.users[r.Name]; user.Instance != node.Instance {
			if answers[user.Instance] > 0 {
				n.Rival = &user // it answers, so it lives
			}
			if answers[user.Instance] < 2 {
				answers[user.Instance]++
				d.users[r.Name] = node
				d.wake()
			}
		}
		changed := d.changed
		d.mu.Unlock()

		if renewed != nil {
			renewed(n)
		}
		var due <-chan time.Time // never, for a reservation
		if n.TTL > 0 {
			due = time.After(n.TTL / 3)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-due:
		}
	}
	return nil
}

func (d *depot) Release(ctx context.Context, r subnet.Record) error {
	d.lock()
	defer d.mu.Unlock()
	now, there := d.find(r.Name)
	if ctx.Err() == nil && there && !now.Reserved() && now.Lease.Holder.Same(r.Lease.Holder) {
		d.state.Revision++
		d.delete(r.Name)
	}
	return ctx.Err()
}

// Watch tells what was written after the revision that it told of last, so that
// nothing is missed however long deliver takes.
func (d *depot) Watch(ctx context.Context, deliver func(subnet.Update)) error {
	d.lock()
	last, changed := d.state, d.changed
	d.mu.Unlock()
	deliver(subnet.Update{Snapshot: &last, Revision: last.Revision})
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		d.lock()
		u := d.since(last)
		last, changed = d.state, d.changed
		d.mu.Unlock()
		if u.Config != nil || len(u.Put)+len(u.Deleted) > 0 {
			deliver(u)
		}
	}
}

func (d *depot) since(last subnet.Snapshot) subnet.Update {
	u := subnet.Update{Revision: d.state.Revision}
	if d.state.Config != last.Config {
		config := d.state.Config
		u.Config = &config
	}
	for _, r := range d.state.Records {
		if r.Modified > last.Revision {
			u.Put = append(u.Put, r)
		}
	}
	for name, revision := range d.gone {
		if _, there := d.find(name); !there && revision > last.Revision {
			u.Deleted = append(u.Deleted, name)
		}
	}
	return u
}

func sameHolder(a, b subnet.Holder) bool {
	return a.PublicIP == b.PublicIP && a.PublicIPv6 == b.PublicIPv6 && a.BackendType == b.BackendType
}

func all[T any](list []T, ok func(T) bool) bool {
	return !slices.ContainsFunc(list, func(v T) bool { return !ok(v) })
}

func TestDepot(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		d := newDepot()
		return storetest.Harness{
			Open:      func(*testing.T) storetest.Store { return d },
			PutConfig: func(_ *testing.T, text string) { d.putConfig(text) },
			PutLease:  func(_ *testing.T, name, value string) { d.putLease(name, value) },
			Delete:    func(_ *testing.T, name string) { d.remove(name) },
			Handles:   func(*testing.T) int { return d.expiring() },
			MinTTL:    200 * time.Millisecond,
		}
	})
}

// putConfig, putLease and remove are what an operator does.
func (d *depot) putConfig(text string) {
	d.lock()
	defer d.mu.Unlock()
	d.state.Revision++
	d.state.Config = subnet.NetworkConfig{Err: subnet.ErrNoConfig}
	if text != "" {
		c, err := subnet.ParseConfig([]byte(text))
		d.state.Config = subnet.NetworkConfig{Config: c, Err: err, Revision: d.state.Revision}
	}
	d.wake()
}

func (d *depot) putLease(name, value string) {
	r := subnet.Record{Name: name}
	if r.Lease.Key, r.Err = subnet.ParseKey(name); r.Err == nil {
		r.Lease.Holder, r.Err = subnet.ParseHolder([]byte(value))
	}
	d.lock()
	defer d.mu.Unlock()
	d.state.Revision++
	delete(d.ends, name)
	delete(d.ttls, name)
	d.put(r)
}

// expiring counts the leases that end if nobody keeps them.
func (d *depot) expiring() int {
	d.lock()
	defer d.mu.Unlock()
	return len(d.ttls)
}

func (d *depot) remove(name string) {
	d.lock()
	defer d.mu.Unlock()
	d.state.Revision++
	d.delete(name)
}
