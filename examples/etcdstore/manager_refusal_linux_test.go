package etcdstore

import (
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/examples/internal/etcdtest"
	"github.com/hostgw/hostgw/store/etcd"
)

// TestManagerRefused takes a node's rights away while its watch stays open and goes on
// telling: that the lease cannot be kept alive is an outage all the same. If the
// rights are back in time the lease is the same. Else it expires, which the node hears
// of and its peer acts on, and is had again as soon as they are back.
func TestManagerRefused(t *testing.T) {
	for name, test := range map[string]struct {
		take, give func(*testing.T, *clientv3.Client)
	}{
		"role": {
			func(t *testing.T, root *clientv3.Client) {
				_, err := root.UserRevokeRole(t.Context(), "node", "node")
				must(t, err)
			},
			grant,
		},
		"user": {
			func(t *testing.T, root *clientv3.Client) {
				_, err := root.UserDelete(t.Context(), "node")
				must(t, err)
			},
			func(t *testing.T, root *clientv3.Client) {
				_, err := root.UserAdd(t.Context(), "node", "first")
				must(t, err)
				grant(t, root)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := etcdtest.Start(t, cheapPasswords)
			network(t, s.Operator())
			root := guard(t, s, "first")
			endpoint := []string{s.Endpoint()}
			other := manage(t, peer, etcd.ClientConfig{Endpoints: endpoint, Username: "root", Password: "root"})
			m := manage(t, self, etcd.ClientConfig{Endpoints: endpoint, Username: "node", Password: "first"}, ttl(6*time.Second))
			refused := outage{
				begin:    func() { test.take(t, root) },
				end:      func() { test.give(t, root) },
				operator: func() *clientv3.Client { return root },
			}
			m.outlives(refused)

			refused.renewed = true
			refused.meanwhile = func() {
				other.awaits("the lease has expired", func() bool { return !other.routes(self) })
				m.awaits("it knows that", func() bool { return m.Status().State == hostgw.StateJoining })
			}
			m.outlives(refused)
			other.awaits("it is routed again", func() bool { return other.routes(self) })
		})
	}
}

func grant(t *testing.T, root *clientv3.Client) {
	t.Helper()
	_, err := root.UserGrantRole(t.Context(), "node", "node")
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
