package etcdtest

import (
	"context"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/grpclog"

	"github.com/hostgw/hostgw/store/etcd"
)

// patience is how long a server may take for anything.
const patience = 30 * time.Second

// Server is an etcd of one member, or a member of a Cluster, in this process. Its
// methods fail the test if they do not succeed; they must not be called
// concurrently.
type Server struct {
	t        testing.TB
	name     string
	cluster  string // as etcd's --initial-cluster has it
	dir      string
	client   url.URL
	peer     url.URL
	tls      transport.TLSInfo
	change   func(*embed.Config)
	etcd     *embed.Etcd
	serving  chan *grpc.Server // gets what serves clients, once the server is ready
	grpc     *grpc.Server      // the same; nil before
	operator *clientv3.Client
}

// Start starts an empty server that is stopped when the test ends. change, which
// may be nil, is called with the configuration at each start.
func Start(t testing.TB, change func(*embed.Config)) *Server {
	t.Helper()
	s := newServer(t, embed.DefaultName, change)
	s.cluster = s.member()
	s.Start()
	return s
}

func newServer(t testing.TB, name string, change func(*embed.Config)) *Server {
	t.Helper()
	s := &Server{
		t:      t,
		name:   name,
		dir:    filepath.Join(t.TempDir(), "etcd"),
		client: url.URL{Scheme: "http", Host: freeAddress(t)},
		peer:   url.URL{Scheme: "http", Host: freeAddress(t)},
		change: change,
	}
	t.Cleanup(func() {
		if s.etcd != nil {
			s.Stop()
		}
	})
	return s
}

// member is the server as a part of --initial-cluster.
func (s *Server) member() string { return s.name + "=" + s.peer.String() }

// freeAddress returns an address that nobody listens at. It is one of the whole
// loopback network's, drawn at random, so that neither another test nor the
// kernel takes it while the server is stopped.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		ip := net.IPv4(127, byte(1+rand.N(250)), byte(rand.N(256)), byte(1+rand.N(250)))
		l, err := net.Listen("tcp", net.JoinHostPort(ip.String(), "0"))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("etcdtest: no free address on the loopback")
	return ""
}

// Start starts the server again, with the data it had.
func (s *Server) Start() {
	s.t.Helper()
	s.launch()
	s.await()
}

// launch starts the server and does not wait for it.
func (s *Server) launch() {
	s.t.Helper()
	c := embed.NewConfig()
	c.Name, c.Dir, c.InitialCluster = s.name, s.dir, s.cluster
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{s.client}, []url.URL{s.client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{s.peer}, []url.URL{s.peer}
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	c.ClientTLSInfo = s.tls
	c.UnsafeNoFsync = true // it need not survive this machine
	c.TickMs, c.ElectionMs = 20, 200
	s.serving, s.grpc = make(chan *grpc.Server, 1), nil
	c.ServiceRegister = func(g *grpc.Server) { s.serving <- g }
	if s.change != nil {
		s.change(c)
	}
	var err error
	if s.etcd, err = embed.StartEtcd(c); err != nil {
		s.t.Fatalf("etcdtest: starting etcd: %v", err)
	}
}

// await waits until the server is ready.
func (s *Server) await() {
	s.t.Helper()
	select {
	case s.grpc = <-s.serving:
	case err := <-s.etcd.Err():
		s.t.Fatalf("etcdtest: etcd ended: %v", err)
	case <-time.After(patience):
		s.t.Fatal("etcdtest: etcd does not become ready")
	}
}

// Stop stops the server and breaks all connections to it, without the seconds
// that etcd gives its clients when it is asked to end.
func (s *Server) Stop() {
	s.t.Helper()
	if s.operator != nil {
		s.operator.Close()
		s.operator = nil
	}
	if s.grpc != nil {
		s.grpc.Stop()
	}
	s.etcd.Close()
	s.etcd = nil
}

// Wipe starts the server over with nothing; it may be running or stopped.
func (s *Server) Wipe() {
	s.t.Helper()
	s.Erase()
	s.Start()
}

// Erase stops the server, if it is running, and deletes its data.
func (s *Server) Erase() {
	s.t.Helper()
	if s.etcd != nil {
		s.Stop()
	}
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Fatalf("etcdtest: %v", err)
	}
}

// Backup stops the server, copies its data and starts it again. It returns where
// the copy is.
func (s *Server) Backup() string {
	s.t.Helper()
	s.Stop()
	backup := filepath.Join(s.t.TempDir(), "backup")
	if err := os.CopyFS(backup, os.DirFS(s.dir)); err != nil {
		s.t.Fatalf("etcdtest: %v", err)
	}
	s.Start()
	return backup
}

// Restore starts the server over with the data of a backup.
func (s *Server) Restore(backup string) {
	s.t.Helper()
	s.Erase()
	if err := os.CopyFS(s.dir, os.DirFS(backup)); err != nil {
		s.t.Fatalf("etcdtest: %v", err)
	}
	s.Start()
}

// Endpoint is where clients reach the server; it stays the same for ever.
func (s *Server) Endpoint() string { return s.client.String() }

// Address is the endpoint as host:port.
func (s *Server) Address() string { return s.client.Host }

// UseTLS makes the server, from its next start, speak TLS to clients, and only to
// those with a certificate of the authority.
func (s *Server) UseTLS(certFile, keyFile, caFile string) {
	s.client.Scheme = "https"
	s.tls = transport.TLSInfo{CertFile: certFile, KeyFile: keyFile, TrustedCAFile: caFile, ClientCertAuth: true}
}

// Operator is a client for what no node does, such as compacting. It ends with
// the server.
func (s *Server) Operator() *clientv3.Client {
	s.t.Helper()
	if s.operator == nil {
		var err error
		if s.operator, err = etcd.Dial(etcd.ClientConfig{Endpoints: []string{s.Endpoint()}}); err != nil {
			s.t.Fatalf("etcdtest: %v", err)
		}
	}
	return s.operator
}

// Compact forgets all history.
func (s *Server) Compact() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := s.Operator().Get(ctx, "/", clientv3.WithCountOnly())
	if err == nil {
		_, err = s.Operator().Compact(ctx, r.Header.Revision, clientv3.WithCompactPhysical())
	}
	if err != nil {
		s.t.Fatalf("etcdtest: compacting: %v", err)
	}
}

// Quiet silences what gRPC logs about servers that go away, which is what these
// tests are about. Call it from TestMain.
func Quiet() {
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(discard{}, discard{}, discard{}))
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
