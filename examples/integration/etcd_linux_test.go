package integration

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/hostgw/hostgw/examples/internal/netns"
)

// etcdVariable makes this test program an etcd that keeps its data in the
// directory it names.
const etcdVariable = "HOSTGW_TEST_ETCD"

// etcdURL is where the etcd of a test listens: on the segment's router.
const etcdURL = "http://172.17.42.1:2379"

// runEtcd is this program as an etcd, until SIGTERM.
func runEtcd(dir string) int {
	listen, err := url.Parse(etcdURL)
	if err != nil {
		panic(err)
	}
	c := embed.NewConfig()
	c.Dir = dir
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{*listen}, []url.URL{*listen}
	c.ListenPeerUrls = nil
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.LogLevel = "warn"
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

// outsideEtcd returns the etcd of the distribution. HOSTGW_REQUIRE_ETCD, set to
// anything, makes it an error that there is none.
func outsideEtcd(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("etcd")
	if err == nil {
		return path
	}
	if os.Getenv("HOSTGW_REQUIRE_ETCD") != "" {
		t.Fatal("HOSTGW_REQUIRE_ETCD is set, but there is no etcd in PATH")
	}
	t.Skip("needs an etcd in PATH (Debian: apt-get install etcd-server)")
	return ""
}

// etcdServer is a real etcd in a namespace, which may be killed and started
// again on its data.
type etcdServer struct {
	ns      *netns.Namespace
	command func() *exec.Cmd
	cmd     *exec.Cmd
	client  *clientv3.Client
}

// startEtcd starts an etcd for the test: the one at path, or if that is empty
// the one of Go's module.
func startEtcd(t *testing.T, ns *netns.Namespace, path string) *etcdServer {
	t.Helper()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	e := &etcdServer{ns: ns, command: func() *exec.Cmd {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), etcdVariable+"="+filepath.Join(dir, "data"))
		if path != "" {
			cmd = exec.Command(path, "--data-dir", filepath.Join(dir, "data"), "--listen-client-urls", etcdURL,
				"--advertise-client-urls", etcdURL, "--listen-peer-urls", "http://127.0.0.1:2380")
		}
		cmd.Stdout, cmd.Stderr = log, log
		return cmd
	}}
	e.client, err = clientv3.New(clientv3.Config{
		Endpoints: []string{etcdURL},
		Logger:    zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (conn net.Conn, err error) {
			err = ns.Do(func() error {
				conn, err = new(net.Dialer).DialContext(ctx, "tcp", address)
				return err
			})
			return conn, err
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.client.Close()
		e.kill()
		if t.Failed() {
			if text, err := os.ReadFile(log.Name()); err == nil {
				t.Logf("etcd says:\n%s", text)
			}
		}
	})
	e.start(t)
	return e
}

// start starts the server and waits until it answers.
func (e *etcdServer) start(t *testing.T) {
	t.Helper()
	e.cmd = e.command()
	if err := e.ns.Start(e.cmd); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		try, cancel := context.WithTimeout(ctx, time.Second)
		_, err := e.client.Get(try, "up")
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("waiting for etcd: %v", err)
		}
	}
}

// kill ends the server as a power cut does.
func (e *etcdServer) kill() {
	if e.cmd.ProcessState == nil {
		_ = e.cmd.Process.Kill()
		_ = e.cmd.Wait()
	}
}

// put writes a key.
func (e *etcdServer) put(t *testing.T, key, value string, o ...clientv3.OpOption) {
	t.Helper()
	if _, err := e.client.Put(t.Context(), key, value, o...); err != nil {
		t.Fatal(err)
	}
}
