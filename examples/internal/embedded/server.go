// Package embedded runs a real etcd server of one member inside this process,
// so that nobody must set one up to begin a network.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/hostgw/hostgw/store/etcd"
)

// A network of thousands of leases is a few megabytes. The quota only keeps a
// runaway writer from filling the disk, and an hour of history is what a watcher
// may miss without reading everything again.
const (
	quota      = 512 << 20
	compaction = time.Hour
)

// Config is how a server runs.
type Config struct {
	Dir    string    // its data; made if missing, readable by the owner only
	Listen []url.URL // http URLs of addresses of this host
	Logger *slog.Logger
}

// Server is a running etcd.
type Server struct {
	etcd   *embed.Etcd
	client *clientv3.Client
	log    *levels
	lock   *os.File
}

// ErrInUse says that another process runs on the same data directory.
var ErrInUse = errors.New("data directory is in use by another process")

// Start starts a server and waits until it serves, which takes about a second,
// or until ctx ends. Data that is there already is taken up.
func Start(ctx context.Context, c Config) (*Server, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make etcd's data directory: %w", err)
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	s := &Server{lock: lock, log: newLevels(c.Logger)}

	conf := embed.NewConfig()
	conf.Name = "hostgwd"
	conf.Dir = filepath.Join(c.Dir, "etcd")
	// This process talks to it over a socket in the data directory, which stays
	// whatever becomes of the host's addresses.
	local := url.URL{Scheme: "unix", Path: filepath.Join(c.Dir, "etcd.sock")}
	conf.ListenClientUrls = append(slices.Clone(c.Listen), local)
	conf.AdvertiseClientUrls = c.Listen
	// A single member has no peers, and needs no port for them; the URL only
	// names it.
	conf.ListenPeerUrls = nil
	conf.InitialCluster = conf.InitialClusterFromName(conf.Name)
	conf.ElectionMs = 500
	conf.EnableGRPCGateway = false
	conf.QuotaBackendBytes = quota
	conf.AutoCompactionMode = embed.CompactorModePeriodic
	conf.AutoCompactionRetention = compaction.String()
	conf.ZapLoggerBuilder = embed.NewZapLoggerBuilder(s.log.zap())

	if s.etcd, err = embed.StartEtcd(conf); err != nil {
		lock.Close()
		return nil, fmt.Errorf("start etcd in %s: %w", c.Dir, err)
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
	case err := <-s.etcd.Err():
		s.Close()
		return nil, fmt.Errorf("start etcd in %s: %w", c.Dir, err)
	case <-ctx.Done():
		s.Close()
		return nil, fmt.Errorf("start etcd in %s: %w", c.Dir, ctx.Err())
	}
	s.client, err = etcd.Dial(etcd.ClientConfig{Endpoints: []string{local.String()}, Logger: s.log.zap()})
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("reach etcd on %s: %w", local.Path, err)
	}
	s.log.serving.Store(true)
	return s, nil
}

// Client is a client that talks to the server over a socket on this host. Close
// closes it.
func (s *Server) Client() *clientv3.Client { return s.client }

// Wait waits until the server fails, and returns why, or until ctx ends, and
// returns nil.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.etcd.Err():
		return fmt.Errorf("embedded etcd: %w", err)
	}
}

// Close stops the server. Its data stays.
func (s *Server) Close() {
	s.log.serving.Store(false)
	if s.client != nil {
		s.client.Close()
	}
	s.etcd.Close()
	s.lock.Close()
}

// Exists reports whether dir holds the data of an earlier server.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "etcd", "member"))
	return err == nil
}

// URLs writes URLs as -etcd-endpoints takes them. An address that means every
// address becomes the loopback, which is one of them.
func URLs(list []url.URL) []string {
	out := make([]string, 0, len(list))
	for _, u := range list {
		switch u.Hostname() {
		case "0.0.0.0":
			u.Host = "127.0.0.1:" + u.Port()
		case "::":
			u.Host = "[::1]:" + u.Port()
		}
		out = append(out, u.String())
	}
	return out
}

func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock etcd's data directory: %w", err)
	}
	if err := flock(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}
