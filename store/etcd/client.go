package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// ClientConfig is what it takes to reach etcd.
type ClientConfig struct {
	// Endpoints are URLs such as https://10.0.0.1:2379, or host:port, which is
	// https if there are TLS files and http otherwise. All must be the same of
	// the two.
	Endpoints []string

	// CertFile and KeyFile are the client's certificate and its key, CAFile the
	// authorities that the server's certificate is checked against; the system's
	// if empty. All are PEM, and read again at each new connection, so that they
	// may be replaced while they are in use. What cannot be read then, perhaps
	// because it is just being written, is used as it was before.
	CertFile, KeyFile, CAFile string

	Username, Password string // both or none

	Logger *zap.Logger // of the etcd client; silent if nil
}

// Dial returns a client that looks after its connection as a daemon needs it: it
// notices within seconds that a connection is dead, and within one that a server
// is back. It does not wait for a server: the first call does, and says what is
// wrong. Files that cannot be read and endpoints that make no sense are errors
// here. The caller must Close the client.
func Dial(c ClientConfig) (*clientv3.Client, error) {
	secure, err := c.check()
	if err != nil {
		return nil, fmt.Errorf("etcd client: %w", err)
	}
	var made atomic.Bool
	options := []grpc.DialOption{
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			// A connection attempt that meets silence is given up before TCP's
			// pauses between its attempts grow long.
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithChainUnaryInterceptor(loginLater(&made)),
	}
	if secure {
		creds, err := newCredentials(c.CertFile, c.KeyFile, c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("etcd client: %w", err)
		}
		options = append(options, grpc.WithTransportCredentials(creds))
	}
	logger := c.Logger
	if logger == nil {
		logger = zap.NewNop()
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: c.Endpoints,
		Username:  c.Username,
		Password:  c.Password,
		// 10 s is the least that gRPC does; but what is under way and not
		// acknowledged within the timeout ends the connection sooner.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		DialOptions:          options,
		Logger:               logger,
	})
	if err != nil {
		return nil, fmt.Errorf("etcd client: %w", err)
	}
	made.Store(true)
	return client, nil
}

// loginLater keeps clientv3.New from logging in, which would make it wait for a
// server and fail without one. The first call that is refused for lack of a token
// logs in by itself.
func loginLater(made *atomic.Bool) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if method == pb.Auth_Authenticate_FullMethodName && !made.Load() {
			return rpctypes.ErrGRPCAuthNotEnabled
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	}
}

// check reports whether connections are to be encrypted.
func (c ClientConfig) check() (secure bool, err error) {
	if len(c.Endpoints) == 0 {
		return false, errors.New("no endpoints")
	}
	files := c.CertFile != "" || c.KeyFile != "" || c.CAFile != ""
	for i, e := range c.Endpoints {
		s, err := checkEndpoint(e, files)
		if err != nil {
			return false, fmt.Errorf("endpoint %q: %w", e, err)
		}
		if i > 0 && s != secure {
			return false, fmt.Errorf("endpoints %q and %q: one is encrypted and one is not", c.Endpoints[0], e)
		}
		secure = s
	}
	switch {
	case files && !secure:
		return false, fmt.Errorf("endpoint %q is not https, but there are TLS files", c.Endpoints[0])
	case (c.CertFile == "") != (c.KeyFile == ""):
		return false, fmt.Errorf("certificate file %q and key file %q: both are needed or none", c.CertFile, c.KeyFile)
	case (c.Username == "") != (c.Password == ""):
		return false, errors.New("user name and password: both are needed or none")
	}
	return secure, nil
}

// checkEndpoint reports whether an endpoint is encrypted; one that does not say is
// if there are TLS files.
func checkEndpoint(e string, files bool) (secure bool, err error) {
	if !strings.Contains(e, "://") {
		if _, _, err := net.SplitHostPort(e); err != nil {
			return false, err
		}
		return files, nil
	}
	u, err := url.Parse(e)
	if err != nil {
		return false, err
	}
	switch u.Scheme {
	case "unix":
		return files, nil
	case "unixs":
		return true, nil
	case "http", "https":
		if u.Hostname() == "" || u.Port() == "" {
			return false, errors.New("must name a host and a port")
		}
		if u.Path != "" && u.Path != "/" {
			return false, fmt.Errorf("must not have a path, which is %q", u.Path)
		}
		return u.Scheme == "https", nil
	}
	return false, fmt.Errorf("scheme %q must be http or https", u.Scheme)
}
