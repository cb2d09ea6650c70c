// Package record translates between what a store keeps, names and bytes, and
// what package subnet makes of them. All stores of this module share it.
package record

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hostgw/hostgw/subnet"
)

// Parse reads what is stored under the lease key called name. What cannot be
// read is a record with Err set, and with the Lease.Key if at least that can.
// Revisions and the token are the caller's to fill in.
func Parse(name string, value []byte) subnet.Record {
	r := subnet.Record{Name: name}
	if r.Lease.Key, r.Err = subnet.ParseKey(name); r.Err != nil {
		r.Err = fmt.Errorf("reading lease key %q: %w", name, r.Err)
		return r
	}
	if r.Lease.Holder, r.Err = subnet.ParseHolder(value); r.Err != nil {
		r.Err = fmt.Errorf("reading the holder of lease %s: %w", name, r.Err)
	}
	return r
}

// ParseConfig reads what is stored as the network config, last written at
// revision. A nil value is a config that is not there.
func ParseConfig(value []byte, revision int64) subnet.NetworkConfig {
	if value == nil {
		return subnet.NetworkConfig{Err: subnet.ErrNoConfig}
	}
	c, err := subnet.ParseConfig(value)
	return subnet.NetworkConfig{Config: c, Err: err, Revision: revision}
}

// Encode returns the name and the value that l is stored as.
func Encode(l subnet.Lease) (name string, value []byte, err error) {
	name = l.Key.String()
	if k, err := subnet.ParseKey(name); err != nil || k != l.Key {
		return "", nil, fmt.Errorf("lease key %q cannot be stored: %w", name, errors.Join(errUnreadable, err))
	}
	if value, err = l.Holder.MarshalJSON(); err != nil {
		return "", nil, fmt.Errorf("encoding the holder of lease %s: %w", name, err)
	}
	if _, err := subnet.ParseHolder(value); err != nil {
		return "", nil, fmt.Errorf("holder of lease %s cannot be stored: %w", name, err)
	}
	return name, value, nil
}

var errUnreadable = errors.New("nobody could read it back")

// CheckCareful returns subnet.ErrConflict unless the records that are there now leave
// room for a careful claim: none was created since, and none takes a part of the key.
// The latter follows from the former, but after a wipe, when the revisions since are
// another history's. Leases of this node that a claim does not drop yet do not count.
func CheckCareful(c subnet.Claim, records []subnet.Record) error {
	for _, r := range records {
		own := r.Err == nil && !r.Reserved() && r.Lease.Holder.Same(c.Lease.Holder) ||
			slices.ContainsFunc(c.Drop, func(d subnet.Record) bool { return d.Name == r.Name })
		switch {
		case r.Created > c.Seen:
			return fmt.Errorf("%s was created since: %w", r.Name, subnet.ErrConflict)
		case !own && r.Takes(c.Lease.Key):
			return fmt.Errorf("%s takes a part of it: %w", r.Name, subnet.ErrConflict)
		}
	}
	return nil
}

// CheckClaim refuses claims that no state of a store could make right, so that
// no store has to trust its caller with another node's keys.
func CheckClaim(c subnet.Claim) error {
	name := c.Lease.Key.String()
	switch {
	case c.ConfigRevision <= 0:
		return fmt.Errorf("claiming %s: %w", name, subnet.ErrNoConfig)
	case c.TTL <= 0 && c.Held == nil:
		return fmt.Errorf("claiming %s: the TTL is %v, it must be positive", name, c.TTL)
	case c.Held != nil && c.Held.Name != name:
		return fmt.Errorf("claiming %s: the record held is called %s", name, c.Held.Name)
	}
	mine := func(r subnet.Record) bool { return r.Err == nil && r.Lease.Holder.Same(c.Lease.Holder) }
	if c.Held != nil && !mine(*c.Held) {
		return fmt.Errorf("claiming %s: the record held is another node's", name)
	}
	if i := slices.IndexFunc(c.Drop, func(r subnet.Record) bool { return !mine(r) || r.Name == name }); i >= 0 {
		return fmt.Errorf("claiming %s: %s is not this node's to drop", name, c.Drop[i].Name)
	}
	return nil
}
