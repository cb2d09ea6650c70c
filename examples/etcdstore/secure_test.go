package etcdstore

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/hostgw/hostgw/examples/internal/etcdtest"
	"github.com/hostgw/hostgw/store/etcd"
)

// guard switches authentication on, for root and for a node that may do what the
// package documentation says.
func guard(t *testing.T, server *etcdtest.Server, password string) (root *clientv3.Client) {
	t.Helper()
	c, ctx := server.Operator(), t.Context()
	do := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(c.UserAdd(ctx, "root", "root"))
	do(c.UserGrantRole(ctx, "root", "root"))
	do(c.RoleAdd(ctx, "node"))
	do(c.RoleGrantPermission(ctx, "node", prefix+"/", clientv3.GetPrefixRangeEnd(prefix+"/"), clientv3.PermissionType(clientv3.PermReadWrite)))
	do(c.UserAdd(ctx, "node", password))
	do(c.UserGrantRole(ctx, "node", "node"))
	do(c.AuthEnable(ctx))
	return dial(t, etcd.ClientConfig{Endpoints: []string{server.Endpoint()}, Username: "root", Password: "root"})
}

func cheapPasswords(c *embed.Config) { c.BcryptCost = 4 }

func TestPassword(t *testing.T) {
	server := etcdtest.Start(t, cheapPasswords)
	network(t, server.Operator())
	root := guard(t, server, "first")
	endpoint := []string{server.Endpoint()}
	snapshot := func(c etcd.ClientConfig) error {
		_, err := etcd.New(dial(t, c), prefix).Snapshot(t.Context())
		return err
	}
	for name, test := range map[string]struct {
		config etcd.ClientConfig
		want   error
	}{
		"none":   {etcd.ClientConfig{Endpoints: endpoint}, rpctypes.ErrUserEmpty},
		"wrong":  {etcd.ClientConfig{Endpoints: endpoint, Username: "node", Password: "second"}, rpctypes.ErrAuthFailed},
		"nobody": {etcd.ClientConfig{Endpoints: endpoint, Username: "nobody", Password: "first"}, rpctypes.ErrAuthFailed},
		"right":  {etcd.ClientConfig{Endpoints: endpoint, Username: "node", Password: "first"}, nil},
	} {
		err := snapshot(test.config)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		t.Logf("%s: %v", name, err)
	}

	// All that a node does, with the least that it may.
	store := etcd.New(dial(t, etcd.ClientConfig{Endpoints: endpoint, Username: "node", Password: "first"}), prefix)
	l := listen(t, store)
	r := take(t, store, 1)
	l.knows(t, named(1))
	ended, _ := kept(t, store, r, 1)
	server.Stop()
	l.hears(t, false)
	server.Start()
	soon(t, l.hears(t, true))
	stillKept(t, ended)
	if got := take(t, store, 1); got.Modified != r.Modified || got.Token != r.Token {
		t.Errorf("took back %+v as %+v", r, got)
	}
	if err := store.Release(t.Context(), r); err != nil {
		t.Error(err)
	}
	l.knows(t)
	lost(t, ended)

	// Refused, until the operator sets it right.
	store = etcd.New(dial(t, etcd.ClientConfig{Endpoints: endpoint, Username: "node", Password: "second"}), prefix)
	l = listen(t, store)
	l.hears(t, false)
	if _, err := root.UserChangePassword(t.Context(), "node", "second"); err != nil {
		t.Fatal(err)
	}
	if took := l.hears(t, true); took > late {
		t.Errorf("noticed after %v that it is no longer refused", took)
	}
	oneOutage(t, l)
	take(t, store, 2)

	// Another network is none of its business.
	other := etcd.New(dial(t, etcd.ClientConfig{Endpoints: endpoint, Username: "node", Password: "second"}), "/other")
	if _, err := other.Snapshot(t.Context()); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("reading another network: %v", err)
	}
}

// TestCertificatesRotated replaces all certificates, the authority's included,
// under a running client.
func TestCertificatesRotated(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	server := etcdtest.Start(t, nil)
	network(t, server.Operator())
	server.Stop()
	ip, _, _ := strings.Cut(server.Address(), ":")
	issue := func(name string) {
		a := etcdtest.NewAuthority(t, name)
		a.WriteCA(in("ca"))
		a.Issue("server", ip, in("server.crt"), in("server.key"))
		a.Issue("node", ip, in("node.crt"), in("node.key"))
	}
	issue("old authority")
	server.UseTLS(in("server.crt"), in("server.key"), in("ca"))
	server.Start()

	files := etcd.ClientConfig{
		Endpoints: []string{server.Endpoint()},
		CertFile:  in("node.crt"), KeyFile: in("node.key"), CAFile: in("ca"),
	}
	store := etcd.New(dial(t, files), prefix)
	l := listen(t, store)
	r := take(t, store, 1)
	l.knows(t, named(1))
	ended, _ := kept(t, store, r, 1)

	stranger := etcd.New(dial(t, etcd.ClientConfig{Endpoints: files.Endpoints}), prefix)
	if _, err := stranger.Snapshot(t.Context()); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("a client without the authority: %v", err)
	} else {
		t.Logf("a client without the authority: %v", err)
	}
	nameless := etcd.New(dial(t, etcd.ClientConfig{Endpoints: files.Endpoints, CAFile: in("ca")}), prefix)
	if _, err := nameless.Snapshot(t.Context()); err == nil {
		t.Error("the server asks for no client certificate")
	} else {
		t.Logf("a client without a certificate: %v", err)
	}

	server.Stop()
	issue("new authority")
	server.Start()
	soon(t, l.hears(t, true))
	oneOutage(t, l)
	stillKept(t, ended)
	take(t, store, 2)
	l.knows(t, named(1), named(2))
}

func TestRevokedUser(t *testing.T) {
	server := etcdtest.Start(t, cheapPasswords)
	network(t, server.Operator())
	root := guard(t, server, "first")
	node := etcd.ClientConfig{Endpoints: []string{server.Endpoint()}, Username: "node", Password: "first"}
	store := etcd.New(dial(t, node), prefix)
	take(t, store, 1)
	if _, err := root.UserDelete(t.Context(), "node"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := store.Snapshot(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("reading as a user that was deleted: %v", err)
	} else {
		t.Logf("reading as a user that was deleted: %v", err)
	}
}
