package etcdstore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/examples/internal/etcdtest"
	"github.com/hostgw/hostgw/store/etcd"
)

// guardedNetwork starts a server with a network that only users may read, with the
// peer in it. It returns how nodes reach it, and a client that may do everything.
func guardedNetwork(t *testing.T) (*etcdtest.Server, etcd.ClientConfig, *clientv3.Client) {
	t.Helper()
	s := etcdtest.Start(t, cheapPasswords)
	network(t, s.Operator())
	root := guard(t, s, "first")
	node := etcd.ClientConfig{Endpoints: []string{s.Endpoint()}, Username: "node", Password: "first"}
	manage(t, peer, node)
	return s, node, root
}

// TestManagerPasswordChanged changes the password while etcd restarts, and back.
func TestManagerPasswordChanged(t *testing.T) {
	s, node, root := guardedNetwork(t)
	m := manage(t, self, node)
	password := func(p string) {
		t.Helper()
		if _, err := root.UserChangePassword(t.Context(), "node", p); err != nil {
			t.Fatal(err)
		}
	}
	m.outlives(outage{
		begin:    func() { password("second"); s.Stop(); s.Start() },
		end:      func() { password("first") },
		operator: func() *clientv3.Client { return root },
	})
}

// TestManagerCertificatesRotated has etcd come back with certificates of a new
// authority, which refuses those of the nodes until they are replaced on disk.
func TestManagerCertificatesRotated(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	s := etcdtest.Start(t, nil)
	network(t, s.Operator())
	s.Stop()
	ip, _, _ := strings.Cut(s.Address(), ":")
	files := []string{"ca", "node.crt", "node.key"}
	issue := func(age string) {
		a := etcdtest.NewAuthority(t, age+" authority")
		a.WriteCA(in(age + "-ca"))
		a.Issue("server", ip, in(age+"-server.crt"), in(age+"-server.key"))
		a.Issue("node", ip, in(age+"-node.crt"), in(age+"-node.key"))
		s.UseTLS(in(age+"-server.crt"), in(age+"-server.key"), in(age+"-ca"))
	}
	give := func(age string) {
		for _, f := range files {
			text, err := os.ReadFile(in(age + "-" + f))
			if err == nil {
				err = os.WriteFile(in(f), text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	issue("old")
	give("old")
	s.Start()
	node := etcd.ClientConfig{Endpoints: []string{s.Endpoint()}, CAFile: in("ca"), CertFile: in("node.crt"), KeyFile: in("node.key")}
	manage(t, peer, node)
	m := manage(t, self, node)
	m.outlives(outage{
		begin:    func() { s.Stop(); issue("new"); s.Start() },
		end:      func() { give("new") },
		operator: func() *clientv3.Client { return dial(t, node) },
	})
}
