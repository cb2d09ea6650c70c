package storetest

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hostgw/hostgw/subnet"
)

// Store is what is tested: a hostgw.SubnetStore and hostgw.LeaseWatcher. It is
// spelled out so that tests inside package hostgw can use the suite too.
type Store interface {
	Snapshot(ctx context.Context) (subnet.Snapshot, error)
	Claim(ctx context.Context, c subnet.Claim) (subnet.Record, error)
	Keep(ctx context.Context, r subnet.Record, node subnet.Node, renewed func(subnet.Renewal)) error
	Release(ctx context.Context, r subnet.Record) error
	Watch(ctx context.Context, deliver func(subnet.Update)) error
}

// Harness is one empty network in a store, and what its operator can do there
// behind the back of every node.
type Harness struct {
	// Open returns a client of the network, as one node has one.
	Open func(t *testing.T) Store

	// OpenFailing is Open with a switch: from fail(true) to fail(false) the store
	// cannot be reached by this client, or refuses all that it asks. fail may return
	// before the client notices. Nil if the store cannot fail.
	OpenFailing func(t *testing.T) (s Store, fail func(bool))

	// PutConfig stores the text of the network config; an empty text deletes it.
	PutConfig func(t *testing.T, text string)

	// PutLease stores a lease that never expires under its name, whatever is there.
	PutLease func(t *testing.T, name, value string)

	// Delete deletes the lease of that name.
	Delete func(t *testing.T, name string)

	// Handles counts what the store has that keeps leases of this network alive
	// (etcd leases). Nil if that is no different from counting leases.
	Handles func(t *testing.T) int

	// MinTTL is the shortest TTL the store can do; 2 s if zero.
	MinTTL time.Duration
}

// Run runs the whole suite as parallel subtests of t. open is called once for
// each, with the subtest's own t.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for name, test := range map[string]func(*testing.T, *bench){
		"claim/creates":                   testClaimCreates,
		"claim/existing":                  testClaimExisting,
		"claim/config changed":            testClaimConfigChanged,
		"claim/config gone":               testClaimConfigGone,
		"claim/takes back":                testClaimTakesBack,
		"claim/rewrites":                  testClaimRewrites,
		"claim/stale":                     testClaimStale,
		"claim/reservation":               testClaimReservation,
		"claim/unchanged wakes nobody":    testClaimUnchanged,
		"claim/drop":                      testClaimDrop,
		"claim/drop overtaken":            testClaimDropOvertaken,
		"claim/race":                      testClaimRace,
		"claim/careful":                   testClaimCareful,
		"claim/another config":            testClaimOtherConfig,
		"claim/leaves nothing behind":     testClaimLeavesNothing,
		"claim/expires":                   testClaimExpires,
		"watch/snapshot first":            testWatchSnapshot,
		"watch/changes":                   testWatchChanges,
		"watch/unreadable":                testWatchUnreadable,
		"watch/config":                    testWatchConfig,
		"watch/no gap":                    testWatchNoGap,
		"watch/deliver may block":         testWatchBlocking,
		"keep/keeps":                      testKeep,
		"keep/deleted":                    testKeepDeleted,
		"keep/overwritten":                testKeepOverwritten,
		"keep/gone before":                testKeepGone,
		"keep/reservation":                testKeepReservation,
		"keep/failing":                    testKeepFailing,
		"keep/failing reservation":        testKeepFailingReservation,
		"keep/rival":                      testKeepRival,
		"keep/rival among three":          testKeepRivals,
		"keep/silence is no rival":        testKeepSilence,
		"keep/restart is no rival":        testKeepRestart,
		"release/deletes":                 testRelease,
		"release/leaves another's":        testReleaseOther,
		"release/leaves a reservation":    testReleaseReservation,
		"context/ends what is under way":  testContextEnds,
		"context/ended before":            testContextEnded,
		"context/leaves no goroutine":     testNoGoroutine,
		"snapshot/empty":                  testSnapshotEmpty,
		"snapshot/never older than shown": testSnapshotFresh,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t)
			if h.MinTTL == 0 {
				h.MinTTL = 2 * time.Second
			}
			test(t, &bench{h: h})
		})
	}
}

// patience is how long the suite waits for what must happen.
const patience = 20 * time.Second

const config = `{"Network":"10.9.0.0/16","SubnetLen":24,"Backend":{"Type":"host-gw"}}`

// bench is what the tests share: one network and shorthands for it.
type bench struct{ h Harness }

// node is one host of the network.
type node struct {
	Store
	holder subnet.Holder
	node   subnet.Node
}

// node opens the store for the host with the number i, as its process called
// instance.
func (b *bench) node(t *testing.T, i int, instance string) *node {
	return &node{
		Store: b.h.Open(t),
		holder: subnet.Holder{
			PublicIP:    netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}),
			BackendType: subnet.BackendType,
		},
		node: subnet.Node{Name: fmt.Sprintf("host%d", i), Instance: instance},
	}
}

// network stores the config.
func (b *bench) network(t *testing.T) *bench {
	b.h.PutConfig(t, config)
	return b
}

// key is the i-th subnet of the network.
func key(i int) subnet.Key {
	return subnet.Key{IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(i), 0}), 24)}
}

func (n *node) lease(i int) subnet.Lease { return subnet.Lease{Key: key(i), Holder: n.holder} }

// claim is what n would ask for to get the i-th subnet, seeing what is there now.
func (n *node) claim(t *testing.T, i int) subnet.Claim {
	t.Helper()
	sn := n.snapshot(t)
	c := subnet.Claim{Lease: n.lease(i), ConfigRevision: sn.Config.Revision, TTL: time.Minute, Node: n.node}
	if r, ok := find(sn, key(i).String()); ok && r.Err == nil && r.Lease.Holder.Same(n.holder) {
		c.Held = &r
	}
	return c
}

// take claims the i-th subnet, which must succeed.
func (n *node) take(t *testing.T, i int) subnet.Record {
	t.Helper()
	return n.must(t, n.claim(t, i))
}

func (n *node) must(t *testing.T, c subnet.Claim) subnet.Record {
	t.Helper()
	r, err := n.Claim(limit(t), c)
	if err != nil {
		t.Fatalf("Claim(%v): %v", c.Lease.Key, err)
	}
	return r
}

func (n *node) snapshot(t *testing.T) subnet.Snapshot {
	t.Helper()
	sn, err := n.Snapshot(limit(t))
	if err != nil {
		t.Fatalf("Snapshot: %v", err)
	}
	return sn
}

func find(sn subnet.Snapshot, name string) (subnet.Record, bool) {
	for _, r := range sn.Records {
		if r.Name == name {
			return r, true
		}
	}
	return subnet.Record{}, false
}

// limit is a context for a call that must not take for ever.
func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// equal reports whether two records are the same, as far as anybody can tell.
func equal(a, b subnet.Record) bool { return show(a) == show(b) }

func show(r subnet.Record) string {
	value, _ := r.Lease.Holder.MarshalJSON()
	if r.Err != nil {
		value = []byte("unreadable")
	}
	return fmt.Sprintf("%s %s created %d modified %d token %x", r.Name, value, r.Created, r.Modified, r.Token)
}

// picture is a snapshot as text, to be compared.
func picture(sn subnet.Snapshot) string {
	lines := []string{fmt.Sprintf("config %v %v at %d", sn.Config.Config, sn.Config.Err, sn.Config.Revision)}
	lines = append(lines, sorted(sn.Records)...)
	return strings.Join(lines, "\n")
}
