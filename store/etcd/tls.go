package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"google.golang.org/grpc/credentials"
)

// rotating are TLS credentials whose files are read for each connection.
type rotating struct {
	certFile, keyFile, caFile string

	mu   sync.Mutex
	last *tls.Config // as last read
}

// newCredentials reads the files once, so that wrong ones are an error at once.
func newCredentials(certFile, keyFile, caFile string) (credentials.TransportCredentials, error) {
	r := &rotating{certFile: certFile, keyFile: keyFile, caFile: caFile}
	var err error
	if r.last, err = r.read(); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *rotating) read() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if r.certFile != "" {
		pair, err := tls.LoadX509KeyPair(r.certFile, r.keyFile)
		if err != nil {
			return nil, fmt.Errorf("certificate %s with key %s: %w", r.certFile, r.keyFile, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	if r.caFile != "" {
		text, err := os.ReadFile(r.caFile)
		if err != nil {
			return nil, fmt.Errorf("certificate authorities: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("certificate authorities %s: no certificate in PEM", r.caFile)
		}
	}
	return c, nil
}

func (r *rotating) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	r.mu.Lock()
	if c, err := r.read(); err == nil {
		r.last = c
	}
	c := r.last
	r.mu.Unlock()
	return credentials.NewTLS(c).ClientHandshake(ctx, authority, conn)
}

var errClientOnly = errors.New("these are credentials for a client")

func (r *rotating) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errClientOnly
}

func (r *rotating) Info() credentials.ProtocolInfo { return credentials.NewTLS(nil).Info() }

// Clone returns r itself: nothing of it is ever changed but by reading the files.
func (r *rotating) Clone() credentials.TransportCredentials { return r }

func (r *rotating) OverrideServerName(string) error {
	return errors.New("the server name is the endpoint's")
}
