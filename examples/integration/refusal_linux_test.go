package integration

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/examples/internal/daemon"
)

// expectExit waits for the daemon to end with a status, having said all of words.
func expectExit(t *testing.T, n *node, status int, words ...string) {
	t.Helper()
	got, err := n.daemon.Wait(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if got != status {
		t.Errorf("exit status %d, want %d", got, status)
	}
	expectLog(t, n, words...)
}

func expectLog(t *testing.T, n *node, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(n.daemon.Log(), w) {
			t.Errorf("hostgwd does not say %q:\n%s", w, n.daemon.Log())
		}
	}
}

// What waiting cannot cure ends the daemon with a status of its own and an error
// that names the thing and its value, and nothing is left in the store.
func TestRefusals(t *testing.T) {
	w := newWorld(t, worldOptions{hosts: 1})
	n := w.nodes[0]
	for _, tt := range []struct {
		name   string
		o      daemon.Options
		status int
		words  []string
	}{
		{"no such interface", daemon.Options{Args: []string{"-iface", "nosuch0"}}, 3, []string{"nosuch0"}},
		{"no such address", daemon.Options{Args: []string{"-iface", "10.9.8.7"}}, 3, []string{"10.9.8.7"}},
		{"no such pattern", daemon.Options{Args: []string{"-iface-regex", "^wlan[0-9]$"}}, 3, []string{"^wlan[0-9]$"}},
		{"subnet file in a read-only place", daemon.Options{SubnetFile: "/proc/hostgw/subnet.env"}, 4, []string{"/proc/hostgw/subnet.env"}},
		{"subnet file is a directory", daemon.Options{SubnetFile: w.dir}, 4, []string{w.dir}},
		{"not a URL", daemon.Options{Args: []string{"-etcd-endpoints", "172.17.42.1:nonsense"}}, 2, []string{"172.17.42.1:nonsense"}},
		{"no such certificate", daemon.Options{Args: []string{"-etcd-endpoints", "https://172.17.42.1:2379", "-etcd-cafile", "/nonexistent/ca.pem"}}, 2, []string{"/nonexistent/ca.pem"}},
		{"no such flag", daemon.Options{Args: []string{"-no-such-flag"}}, 2, []string{"no-such-flag"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Args = append([]string{"-etcd-endpoints", etcdURL, "-etcd-prefix", prefix}, tt.o.Args...)
			w.startWith(t, n, tt.o)
			expectExit(t, n, tt.status, tt.words...)
			if records := w.records(t); len(records) > 0 {
				t.Errorf("the store holds %v", records)
			}
		})
	}
}

// A host that finds the network full says so, with the range and the number, and
// takes nothing from those that are in it.
func TestNetworkFull(t *testing.T) {
	w := newWorld(t, worldOptions{hosts: 4, bare: true})
	// Four subnets of which the first is not leased.
	w.etcd.put(t, prefix+"/config", `{"Network":"192.168.0.0/24","SubnetLen":26,"Backend":{"Type":"host-gw"}}`)
	for _, n := range w.nodes[:3] {
		w.start(t, n)
	}
	w.settle(t)
	before := w.records(t)
	last := w.nodes[3]
	w.start(t, last)
	expectExit(t, last, 6, "192.168.0.64", "192.168.0.192", "3")
	if after := w.records(t); fmt.Sprint(leaseIDs(before)) != fmt.Sprint(leaseIDs(after)) {
		t.Errorf("the leases were %v and are %v", before, after)
	}
	last.daemon = nil
	w.settle(t)

	// One leaves for good, and there is room.
	gone := w.nodes[2]
	stop(t, gone)
	for _, r := range before {
		if r.value["PublicIP"] == gone.IPv4.String() {
			if _, err := w.etcd.client.Revoke(t.Context(), r.lease); err != nil {
				t.Fatal(err)
			}
		}
	}
	gone.daemon = nil
	w.start(t, last)
	w.settle(t)
	if last.env.Subnet != gone.env.Subnet {
		t.Errorf("%s leased %v, the one free subnet was %v", last.Name, last.env.Subnet, gone.env.Subnet)
	}
}

func leaseIDs(records map[string]record) map[string]clientv3.LeaseID {
	ids := make(map[string]clientv3.LeaseID)
	for name, r := range records {
		ids[name] = r.lease
	}
	return ids
}

// What can be put right while the daemon waits does not end it: it says what is
// wrong, by field, value and rule, and goes on when it is right.
func TestConfigPutRight(t *testing.T) {
	w := newWorld(t, worldOptions{hosts: 1, bare: true})
	n := w.nodes[0]
	w.start(t, n)
	for _, tt := range []struct {
		config string
		words  []string
	}{
		{`{"Network":"192.168.0.0/16",`, []string{prefix + "/config", "JSON"}},
		{`{"Network":"192.168.0.0/33","Backend":{"Type":"host-gw"}}`, []string{"Network", "192.168.0.0/33"}},
		{`{"Network":"192.168.0.0/16","SubnetLen":31,"Backend":{"Type":"host-gw"}}`, []string{"SubnetLen", "31", "30"}},
		{`{"Network":"192.168.0.0/16","SubnetLen":26,"SubnetMin":"192.168.0.65","Backend":{"Type":"host-gw"}}`, []string{"SubnetMin", "192.168.0.65"}},
		{`{"Network":"192.168.0.0/16","SubnetLen":26,"SubnetMax":"10.0.0.0","Backend":{"Type":"host-gw"}}`, []string{"SubnetMax", "10.0.0.0"}},
		{`{"Network":"192.168.0.0/16","Backend":{"Type":"vxlan"}}`, []string{"vxlan", "host-gw"}},
		{`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd99::/48","IPv6SubnetLen":127,"Backend":{"Type":"host-gw"}}`, []string{"IPv6SubnetLen", "127", "126"}},
	} {
		w.etcd.put(t, prefix+"/config", tt.config)
		for _, word := range tt.words {
			if err := n.daemon.WaitLog(deadline(t), word); err != nil {
				t.Fatalf("config %s: %v", tt.config, err)
			}
		}
		if !n.daemon.Running() {
			t.Fatalf("config %s ended the daemon", tt.config)
		}
	}
	w.etcd.put(t, prefix+"/config", config)
	w.settle(t)
}

// An etcd that is not there is waited for; stopping works meanwhile.
func TestUnreachableEtcd(t *testing.T) {
	w := newWorld(t, worldOptions{hosts: 1})
	n := w.nodes[0]
	w.startWith(t, n, daemon.Options{Args: []string{"-etcd-endpoints", "http://172.17.42.99:2379"}})
	if err := n.daemon.WaitLog(deadline(t), "172.17.42.99:2379"); err != nil {
		t.Fatal(err)
	}
	stop(t, n)
	if _, err := os.Stat(n.daemon.SubnetFile); !os.IsNotExist(err) {
		t.Errorf("there is a subnet.env without a lease: %v", err)
	}
}

// Wrong credentials are said to be wrong; right ones work, with no more rights
// than the prefix.
func TestCredentials(t *testing.T) {
	w := newWorld(t, worldOptions{hosts: 2})
	ctx, c := t.Context(), w.etcd.client
	for _, step := range []func() error{
		func() error { _, err := c.UserAdd(ctx, "root", "rootpw"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.RoleAdd(ctx, "network"); return err },
		func() error {
			_, err := c.RoleGrantPermission(ctx, "network", prefix+"/", clientv3.GetPrefixRangeEnd(prefix+"/"), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := c.UserAdd(ctx, "hostgw", "secret"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "hostgw", "network"); return err },
		func() error { _, err := c.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	n := w.nodes[0]
	for _, tt := range []struct {
		name  string
		args  []string
		words []string
	}{
		{"none", nil, []string{"user name is empty"}},
		{"wrong password", []string{"-etcd-username", "hostgw", "-etcd-password", "guess"}, []string{"authentication failed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.start(t, n, tt.args...)
			for _, word := range tt.words {
				if err := n.daemon.WaitLog(deadline(t), word); err != nil {
					t.Error(err)
				}
			}
			if strings.Contains(n.daemon.Log(), "guess") {
				t.Errorf("the password is in the log:\n%s", n.daemon.Log())
			}
			n.daemon.Kill()
		})
	}
	for _, n := range w.nodes {
		w.start(t, n, "-etcd-username", "hostgw", "-etcd-password", "secret")
	}
	w.settle(t)
}

// What others wrote into the store that cannot be read, or that would redirect
// other traffic, stays there, gets no route, and disturbs nobody.
func TestForeignRecords(t *testing.T) {
	w := newWorld(t, worldOptions{hosts: 2})
	value := func(ip string) string {
		return fmt.Sprintf(`{"PublicIP":%q,"PublicIPv6":null,"BackendType":"host-gw"}`, ip)
	}
	bad := map[string]string{
		"not-a-subnet":     value("172.17.42.50"),
		"192.168.9.0-26":   `{"PublicIP":`,
		"192.168.9.64-26":  value("nonsense"),
		"192.168.9.129-26": value("172.17.42.50"),
		"192.168.10.0-26":  value("10.1.2.3"),
		"192.168.10.64-26": value("127.0.0.1"),
		"0.0.0.0-0":        value("172.17.42.50"),
		"10.0.0.0-26":      value("172.17.42.50"),
		"172.17.42.0-26":   value("172.17.42.50"),
		"192.168.11.0-26":  `{"PublicIP":"172.17.42.50","BackendType":"vxlan","BackendData":{"VNI":1}}`,
	}
	for name, v := range bad {
		w.etcd.put(t, prefix+"/subnets/"+name, v)
	}
	// A host that runs flanneld is a peer like any other.
	flanneld := "192.168.20.0-26"
	w.etcd.put(t, prefix+"/subnets/"+flanneld, `{"PublicIP":"172.17.42.60","PublicIPv6":null,"BackendType":"host-gw"}`)

	for _, n := range w.nodes {
		w.start(t, n)
	}
	ctx := deadline(t)
	for _, n := range w.nodes {
		if err := n.daemon.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		var err error
		if n.env, err = n.daemon.Env(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range w.nodes {
		want := append(w.wantRoutes(n), "192.168.20.0/26 via 172.17.42.60 dev eth0 proto 104")
		slices.Sort(want)
		eventually(t, n.Name+" has exactly the routes to its peers", func() (bool, string) {
			got := w.ownRoutes(t, n)
			return slices.Equal(got, want), strings.Join(got, "\n")
		})
	}
	for name, v := range bad {
		got, err := w.etcd.client.Get(t.Context(), prefix+"/subnets/"+name)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != v {
			t.Errorf("%s was %s and is %v", name, v, got.Kvs)
		}
	}
}
