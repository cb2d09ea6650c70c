package etcd

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"math"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/hostgw/hostgw/store/internal/record"
	"github.com/hostgw/hostgw/subnet"
)

// layout is where things lie under a prefix.
type layout struct{ prefix string }

// newLayout accepts a prefix with or without slashes around it.
func newLayout(prefix string) layout {
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		prefix = "/" + prefix
	}
	return layout{prefix}
}

func (l layout) config() string           { return l.prefix + "/config" }
func (l layout) lease(name string) string { return l.prefix + "/subnets/" + name }
func (l layout) user(name string) string  { return l.prefix + "/users/" + name }

// span is a range of keys; end is excluded, and empty if there is only one key.
type span struct{ key, end string }

// all is the one range that holds the config and every lease: what a snapshot
// reads and a watch watches. "0" follows "/".
func (l layout) all() span    { return span{l.config(), l.prefix + "/subnets0"} }
func (l layout) leases() span { return span{l.lease(""), l.prefix + "/subnets0"} }
func (l layout) users() span  { return span{l.user(""), l.prefix + "/users0"} }

// leaseName returns the name of the lease stored under key, if it is one.
func (l layout) leaseName(key []byte) (string, bool) {
	rest, ok := strings.CutPrefix(string(key), l.prefix)
	if !ok {
		return "", false
	}
	return strings.CutPrefix(rest, "/subnets/")
}

func (l layout) isConfig(key []byte) bool { return string(key) == l.config() }

// record reads a lease as it is stored.
func (l layout) record(name string, kv *mvccpb.KeyValue) subnet.Record {
	r := record.Parse(name, kv.Value)
	r.Created, r.Modified, r.Token = kv.CreateRevision, kv.ModRevision, kv.Lease
	return r
}

func readConfig(kv *mvccpb.KeyValue) subnet.NetworkConfig {
	value := kv.Value
	if value == nil {
		value = []byte{} // present, but empty
	}
	return record.ParseConfig(value, kv.ModRevision)
}

// leaseID is the n-th choice for the ID of the etcd lease of the node with that
// address. A node that is killed between being granted an etcd lease and putting
// a key on it asks for the same ID when it starts again, and so finds it. More
// than one choice is needed only if the ID is somebody else's by chance.
func (l layout) leaseID(h subnet.Holder, n int) int64 {
	addr := h.PublicIP
	if !addr.IsValid() {
		addr = h.PublicIPv6
	}
	text, _ := json.Marshal([]any{"hostgw", l.prefix, addr, n})
	sum := sha256.Sum256(text)
	id := int64(binary.BigEndian.Uint64(sum[:]) & math.MaxInt64)
	return max(id, 1) // zero would mean: any
}

// userValue is what is stored under a user key.
type userValue struct{ Node, Instance string }

func encodeUser(n subnet.Node) []byte {
	value, _ := json.Marshal(userValue{n.Name, n.Instance}) // strings always encode
	return value
}

// decodeUser returns the zero Node for what it cannot read: a rival that makes no
// sense is none.
func decodeUser(value []byte) subnet.Node {
	var u userValue
	if json.Unmarshal(value, &u) != nil {
		return subnet.Node{}
	}
	return subnet.Node{Name: u.Node, Instance: u.Instance}
}
