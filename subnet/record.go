package subnet

import "time"

// Record is what a store holds under one lease key.
type Record struct {
	Name  string // the key as stored, without the store's prefix: Key.String() of a readable one
	Lease Lease  // meaningful only if Err is nil
	Err   error  // why key or value could not be read

	// Created and Modified are the store's revisions at which the key came to be
	// and was last written. They order records the same way for every node.
	Created, Modified int64

	// Token is the store's handle on what keeps the record alive (the etcd lease
	// ID). Zero is a reservation: it never expires.
	Token int64
}

// Reserved reports whether the record is a reservation, which never expires.
func (r Record) Reserved() bool { return r.Token == 0 }

// NetworkConfig is the config as a store holds it.
type NetworkConfig struct {
	Config   Config // meaningful only if Err is nil
	Err      error  // ErrNoConfig, or the *ConfigError that says what is wrong with it
	Revision int64  // the store's revision at which it was last written; zero if there is none
}

// Snapshot is everything a store holds, as of one revision.
type Snapshot struct {
	Config   NetworkConfig
	Records  []Record // in no particular order, one per Name
	Revision int64
}

// Update is one step of a lease watch. Exactly one of three things:
// a fresh Snapshot that replaces all that was known, a set of changes, or an
// Err that says the store cannot be heard just now (what was known stays; the
// next Update without Err says that it can be heard again).
type Update struct {
	Snapshot *Snapshot

	// All changes of one revision arrive in one Update, so that a store that
	// lost everything at once can be told from a peer that left. An Update may
	// hold several revisions; a later change to the same name has already
	// replaced the earlier one.
	Config   *NetworkConfig // non-nil if the config changed
	Put      []Record
	Deleted  []string // names
	Revision int64

	Err error
}

// Node names a process that holds a lease, to tell two of them apart that were
// given the same address.
type Node struct {
	Name     string // for people: the host name
	Instance string // unique to one run of one process
}

// Claim asks a store to write a lease.
type Claim struct {
	Lease Lease

	// ConfigRevision is the NetworkConfig.Revision that Lease was chosen under.
	// The claim fails if the config has been written since: whoever writes a key
	// has seen every key of older configs, so subnets cut differently never overlap.
	ConfigRevision int64

	// Config is that config. A store that has lost everything gives out its
	// revisions again, and then the revision alone does not tell two configs apart.
	// It is not compared if it is zero.
	Config Config

	// Seen, if not zero, makes the claim a careful one: it creates the key only if
	// none has been created since that Snapshot.Revision, and writes the config
	// anew, as it is, so that every claim chosen before fails and looks again. It
	// is needed for a key that is not [Config.Paired], which can overlap keys of
	// other names. A store that gives out its revisions again after it has lost
	// everything compares the keys that are there instead, as [Record.Takes] does.
	Seen int64

	// Held is the record to take back or to rewrite, as last seen. Nil creates
	// the key, which must not exist.
	Held *Record

	// Drop are other records of this node, as last seen, that go in the same
	// step (its leases that no longer fit the config, or what it moves away from).
	Drop []Record

	TTL  time.Duration // how long the lease outlives its node; the store rounds up to its granularity
	Node Node          // who claims
}

// Renewal is what keeping a lease alive has to tell: that the store has confirmed
// the lease, or, with Err, that it begins to fail to.
type Renewal struct {
	TTL   time.Duration // what is left from now on; zero for a reservation
	Rival *Node         // another process that claims the same lease with the same address; nil if none is known
	Err   error         // why the store does not confirm the lease now, with what was known before; nil if it has
}
