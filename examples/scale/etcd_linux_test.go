package scale

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/hostgw/hostgw/store/etcd"
)

// etcdVariable makes this test program an etcd of one member: it names a data
// directory and, after a space, the URL to listen at.
const etcdVariable = "HOSTGW_SCALE_ETCD"

// runEtcd is this program as an etcd with its default settings, until its standard
// input ends, as it does when the test's process does.
func runEtcd(where string) int {
	dir, address, _ := strings.Cut(where, " ")
	listen, err := url.Parse(address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c := embed.NewConfig()
	c.Dir = dir
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{*listen}, []url.URL{*listen}
	c.ListenPeerUrls = nil
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.LogLevel = "error"
	e, err := embed.StartEtcd(c)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	e.Close()
	return 0
}

// server is a real etcd in a process of its own, so that its memory and its time
// can be told from the nodes'.
type server struct {
	endpoint string
	client   *clientv3.Client
}

func startEtcd(t *testing.T) *server {
	t.Helper()
	s := &server{endpoint: "http://" + freeAddress(t)}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), etcdVariable+"="+filepath.Join(t.TempDir(), "etcd")+" "+s.endpoint)
	cmd.Stdout, cmd.Stderr = log, log
	alive, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		alive.Close()
		log.Close()
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("etcd says:\n%s", text)
		}
	})
	if s.client, err = etcd.Dial(etcd.ClientConfig{Endpoints: []string{s.endpoint}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.client.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		if _, err = s.client.Get(ctx, "up"); err == nil {
			return s
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting for etcd: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// freeAddress returns an address of the loopback that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// put writes a key.
func (s *server) put(t *testing.T, key, value string) {
	t.Helper()
	if _, err := s.client.Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}

// meter is what etcd says of itself at a moment.
type meter struct {
	calls   map[string]float64 // that have ended, by method; with " failed" those that were refused
	metrics map[string]float64
}

var handled = regexp.MustCompile(`^grpc_server_handled_total\{grpc_code="(\w+)",grpc_method="(\w+)",.*\} (\S+)$`)

func (s *server) meter(t *testing.T) meter {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.endpoint+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	m := meter{map[string]float64{}, map[string]float64{}}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		line := lines.Text()
		if f := handled.FindStringSubmatch(line); f != nil {
			n, _ := strconv.ParseFloat(f[3], 64)
			if f[1] == "OK" {
				m.calls[f[2]] += n
			} else {
				m.calls[f[2]+" failed"] += n
			}
		} else if name, value, ok := strings.Cut(line, " "); ok && name != "#" {
			if n, err := strconv.ParseFloat(value, 64); err == nil {
				m.metrics[name] = n
			}
		}
	}
	if err := lines.Err(); err != nil || len(m.metrics) == 0 {
		t.Fatalf("reading etcd's metrics: %v", err)
	}
	return m
}

// since returns how many calls of each method ended between two moments.
func (m meter) since(before meter) map[string]int {
	calls := map[string]int{}
	for method, n := range m.calls {
		if d := int(n - before.calls[method]); d > 0 {
			calls[method] = d
		}
	}
	return calls
}

// cpu is how long etcd has computed.
func (m meter) cpu() time.Duration {
	return time.Duration(m.metrics["process_cpu_seconds_total"] * float64(time.Second))
}
