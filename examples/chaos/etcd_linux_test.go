package chaos

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/hostgw/hostgw/examples/internal/netns"
)

// etcdVariable makes this test program a member of an etcd cluster: its data
// directory, its address and the cluster as etcd's --initial-cluster has it, with
// spaces between.
const etcdVariable = "HOSTGW_CHAOS_ETCD"

// runEtcd is this program as a member, until SIGTERM.
func runEtcd(spec string) int {
	fields := strings.Fields(spec)
	client, peer := clientURL(fields[1]), peerURL(fields[1])
	c := embed.NewConfig()
	c.Name, c.Dir, c.InitialCluster = fields[1], fields[0], fields[2]
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.LogLevel = "error"
	c.ElectionMs = 500 // half of the usual: elections are much of what the steps wait for
	e, err := embed.StartEtcd(c)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	e.Close()
	return 0
}

func clientURL(address string) url.URL { return url.URL{Scheme: "http", Host: address + ":2379"} }
func peerURL(address string) url.URL   { return url.URL{Scheme: "http", Host: address + ":2380"} }

// member is a member of the etcd cluster, on a host of its own.
type member struct {
	*netns.Host
	dir     string
	cluster string // as --initial-cluster has it
	log     *os.File
	cmd     *exec.Cmd
	client  *clientv3.Client // to this member alone
}

// cluster is the three members, and a client to all of them.
type cluster struct {
	members []*member
	client  *clientv3.Client
}

func startCluster(t *testing.T, from *netns.Namespace, hosts []*netns.Host) *cluster {
	t.Helper()
	c := &cluster{}
	var names, endpoints []string
	for _, h := range hosts {
		peer, client := peerURL(h.IPv4.String()), clientURL(h.IPv4.String())
		names = append(names, h.IPv4.String()+"="+peer.String())
		endpoints = append(endpoints, client.String())
	}
	for i, h := range hosts {
		dir := t.TempDir()
		m := &member{Host: h, dir: filepath.Join(dir, "etcd"), cluster: strings.Join(names, ","), client: dial(t, from, endpoints[i])}
		var err error
		if m.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
			t.Fatal(err)
		}
		c.members = append(c.members, m)
		t.Cleanup(func() {
			m.kill()
			m.log.Close()
			if text, _ := os.ReadFile(m.log.Name()); t.Failed() {
				t.Logf("etcd %v says:\n%s", m.IPv4, text)
			}
		})
		m.start(t)
	}
	c.client = dial(t, from, endpoints...)
	c.wait(t)
	return c
}

func (c *cluster) endpoints() string {
	var all []string
	for _, m := range c.members {
		u := clientURL(m.IPv4.String())
		all = append(all, u.String())
	}
	return strings.Join(all, ",")
}

// dial returns a client whose connections leave from a namespace. It tries again so
// often that the test waits for the members, and not for it.
func dial(t *testing.T, from *netns.Namespace, endpoints ...string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            endpoints,
		Logger:               zap.NewNop(),
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: time.Second,
		DialOptions: []grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, MaxDelay: 100 * time.Millisecond},
				MinConnectTimeout: time.Second,
			}),
			grpc.WithContextDialer(func(ctx context.Context, address string) (conn net.Conn, err error) {
				err = from.Do(func() error {
					conn, err = new(net.Dialer).DialContext(ctx, "tcp", address)
					return err
				})
				return conn, err
			}),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func (m *member) start(t *testing.T) {
	t.Helper()
	m.cmd = exec.Command("/proc/self/exe")
	m.cmd.Env = append(os.Environ(), etcdVariable+"="+strings.Join([]string{m.dir, m.IPv4.String(), m.cluster}, " "))
	m.cmd.Stdout, m.cmd.Stderr = m.log, m.log
	if err := m.Start(m.cmd); err != nil {
		t.Fatal(err)
	}
}

// kill ends the member as a power cut does.
func (m *member) kill() {
	if m.cmd != nil && m.cmd.ProcessState == nil {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
	}
}

// stop has the member end in order, as far as it does so within a second: etcd waits
// for its clients to go first, and watches do not.
func (m *member) stop() {
	late := time.AfterFunc(time.Second, func() { _ = m.cmd.Process.Kill() })
	defer late.Stop()
	_ = m.cmd.Process.Signal(syscall.SIGTERM)
	_ = m.cmd.Wait()
}

// wipe deletes the data of a member that does not run.
func (m *member) wipe(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(m.dir); err != nil {
		t.Fatal(err)
	}
}

// backUp stops all members, copies their data and starts them again. It returns where
// the copies are.
func (c *cluster) backUp(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, m := range c.members {
		m.kill()
	}
	for _, m := range c.members {
		if err := os.CopyFS(filepath.Join(dir, m.Name), os.DirFS(m.dir)); err != nil {
			t.Fatal(err)
		}
		m.start(t)
	}
	return dir
}

// restore starts all members over with what was copied.
func (c *cluster) restore(t *testing.T, backup string) {
	t.Helper()
	for _, m := range c.members {
		m.kill()
	}
	for _, m := range c.members {
		m.wipe(t)
		if err := os.CopyFS(m.dir, os.DirFS(filepath.Join(backup, m.Name))); err != nil {
			t.Fatal(err)
		}
		m.start(t)
	}
}

// leader returns the member that leads, as the members themselves say.
func (c *cluster) leader(t *testing.T) *member {
	t.Helper()
	var leader *member
	eventually(t, "etcd has a leader", func() (bool, string) {
		for _, m := range c.members {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			status, err := m.client.Status(ctx, clientAddress(m))
			cancel()
			if err == nil && status.Leader != 0 && status.Leader == status.Header.MemberId {
				leader = m
				return true, ""
			}
		}
		return false, "no member that leads"
	})
	return leader
}

func clientAddress(m *member) string {
	u := clientURL(m.IPv4.String())
	return u.String()
}

// others returns the members but m.
func (c *cluster) others(m *member) []*member {
	var all []*member
	for _, o := range c.members {
		if o != m {
			all = append(all, o)
		}
	}
	return all
}

// wait waits until etcd takes writes.
func (c *cluster) wait(t *testing.T) {
	t.Helper()
	eventually(t, "etcd takes writes", func() (bool, string) {
		err := c.try(t, clientv3.OpPut("/up", "1"))
		return err == nil, fmt.Sprint(err)
	})
}

// waitAll waits until every member does.
func (c *cluster) waitAll(t *testing.T) {
	t.Helper()
	for _, m := range c.members {
		eventually(t, m.Name+" takes writes", func() (bool, string) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := m.client.Put(ctx, "/up", "1")
			return err == nil, fmt.Sprint(err)
		})
	}
}

func (c *cluster) try(t *testing.T, op clientv3.Op) error {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := c.client.Do(ctx, op)
	return err
}

// do does what can be done twice, until it is done.
func (c *cluster) do(t *testing.T, op clientv3.Op) {
	t.Helper()
	eventually(t, "etcd does it", func() (bool, string) {
		err := c.try(t, op)
		return err == nil, fmt.Sprint(err)
	})
}
