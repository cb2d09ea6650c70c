package etcdtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/store/etcd"
)

// StartBinary runs the etcd server that is installed on this machine, such as
// Debian's 3.4, until the test ends, and returns its endpoint. Without one the
// test is skipped, or fails if HOSTGW_REQUIRE_ETCD is set.
func StartBinary(t testing.TB) (endpoint string) {
	t.Helper()
	path, err := exec.LookPath("etcd")
	if err != nil {
		if os.Getenv("HOSTGW_REQUIRE_ETCD") != "" {
			t.Fatalf("HOSTGW_REQUIRE_ETCD is set, but: %v", err)
		}
		t.Skipf("needs an etcd server (apt-get install etcd-server): %v", err)
	}
	version, err := exec.Command(path, "--version").Output()
	if err != nil {
		t.Fatalf("etcdtest: %v", err)
	}
	t.Logf("%s", version)
	client, peer := "http://"+freeAddress(t), "http://"+freeAddress(t)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatalf("etcdtest: %v", err)
	}
	c := exec.Command(path, "--data-dir="+t.TempDir(),
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer,
		"--initial-cluster=default="+peer, "--unsafe-no-fsync")
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		t.Fatalf("etcdtest: %v", err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("etcd says:\n%s", text)
		}
	})
	ready(t, client)
	return client
}

// ready waits until a server answers.
func ready(t testing.TB, endpoint string) {
	t.Helper()
	c, err := etcd.Dial(etcd.ClientConfig{Endpoints: []string{endpoint}})
	if err != nil {
		t.Fatalf("etcdtest: %v", err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		_, err := c.Get(ctx, "ready", clientv3.WithCountOnly())
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("etcdtest: %s does not answer: %v", endpoint, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
