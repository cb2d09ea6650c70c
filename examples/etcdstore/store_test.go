package etcdstore

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/examples/internal/etcdtest"
	"github.com/hostgw/hostgw/store/etcd"
	"github.com/hostgw/hostgw/store/storetest"
)

func TestMain(m *testing.M) {
	etcdtest.Quiet()
	os.Exit(m.Run())
}

func TestConformance(t *testing.T) {
	conform(t, etcdtest.Start(t, nil).Endpoint())
}

// TestConformanceInstalled runs on the server this machine has, which may be as
// old as 3.4.
func TestConformanceInstalled(t *testing.T) {
	conform(t, etcdtest.StartBinary(t))
}

// conform runs the conformance suite, each test under a prefix of its own.
func conform(t *testing.T, endpoint string) {
	operator := dial(t, etcd.ClientConfig{Endpoints: []string{endpoint}})
	var networks atomic.Int64
	t.Run("suite", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) storetest.Harness {
			prefix := fmt.Sprintf("/test/%d", networks.Add(1))
			do := func(t *testing.T, op clientv3.Op) {
				t.Helper()
				if _, err := operator.Do(t.Context(), op); err != nil {
					t.Fatal(err)
				}
			}
			return storetest.Harness{
				Open: func(t *testing.T) storetest.Store {
					return etcd.New(dial(t, etcd.ClientConfig{Endpoints: []string{endpoint}}), prefix)
				},
				OpenFailing: func(t *testing.T) (storetest.Store, func(bool)) {
					proxy := etcdtest.StartProxy(t, strings.TrimPrefix(endpoint, "http://"))
					return etcd.New(dial(t, etcd.ClientConfig{Endpoints: []string{proxy.Endpoint()}}), prefix), func(failing bool) {
						if !failing {
							proxy.Thaw()
							return
						}
						proxy.Freeze()
						proxy.Cut()
					}
				},
				PutConfig: func(t *testing.T, text string) {
					if text == "" {
						do(t, clientv3.OpDelete(prefix+"/config"))
					} else {
						do(t, clientv3.OpPut(prefix+"/config", text))
					}
				},
				PutLease: func(t *testing.T, name, value string) { do(t, clientv3.OpPut(prefix+"/subnets/"+name, value)) },
				Delete:   func(t *testing.T, name string) { do(t, clientv3.OpDelete(prefix+"/subnets/"+name)) },
				Handles:  func(t *testing.T) int { return len(leasesUnder(t, operator, prefix)) },
			}
		})
	})
	// Each test saw the etcd leases that its keys were on. Those with no key on
	// them can only be told from another test's now.
	for id := range leasesOf(t, operator) {
		ttl, err := operator.TimeToLive(t.Context(), id, clientv3.WithAttachedKeys())
		if err != nil {
			t.Fatal(err)
		}
		if ttl.TTL >= 0 && len(ttl.Keys) == 0 {
			t.Errorf("the suite left the etcd lease %x with nothing on it", id)
		}
	}
}

// leasesUnder returns the etcd leases that keys under prefix are on.
func leasesUnder(t *testing.T, c *clientv3.Client, prefix string) map[clientv3.LeaseID]bool {
	t.Helper()
	resp, err := c.Get(t.Context(), prefix+"/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	ids := map[clientv3.LeaseID]bool{}
	for _, kv := range resp.Kvs {
		if kv.Lease != 0 {
			ids[clientv3.LeaseID(kv.Lease)] = true
		}
	}
	return ids
}

// leasesOf returns all etcd leases of a server.
func leasesOf(t *testing.T, c *clientv3.Client) map[clientv3.LeaseID]bool {
	t.Helper()
	resp, err := c.Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ids := map[clientv3.LeaseID]bool{}
	for _, l := range resp.Leases {
		ids[l.ID] = true
	}
	return ids
}

// dial returns a client that is closed when the test ends.
func dial(t *testing.T, c etcd.ClientConfig) *clientv3.Client {
	t.Helper()
	client, err := etcd.Dial(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}
