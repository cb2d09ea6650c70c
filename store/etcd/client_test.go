package etcd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pair writes a certificate for 127.0.0.1 that is its own authority, and its key.
func pair(t *testing.T, name, certFile, keyFile string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	write(t, certFile, certPEM)
	write(t, keyFile, keyPEM)
	p, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func write(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDialRefuses(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	pair(t, "one", in("crt"), in("key"))
	pair(t, "two", in("crt2"), in("key2"))
	write(t, in("text"), []byte("not PEM"))
	https := []string{"https://127.0.0.1:2379"}
	for want, c := range map[string]ClientConfig{
		"no endpoints":           {},
		"missing port":           {Endpoints: []string{"127.0.0.1"}},
		`scheme "ftp"`:           {Endpoints: []string{"ftp://127.0.0.1:2379"}},
		"a host and a port":      {Endpoints: []string{"http://127.0.0.1"}},
		`"/v3"`:                  {Endpoints: []string{"http://127.0.0.1:2379/v3"}},
		"one is encrypted":       {Endpoints: []string{"http://127.0.0.1:2379", https[0]}},
		"is not https":           {Endpoints: []string{"http://127.0.0.1:2379"}, CAFile: in("crt")},
		"both are needed":        {Endpoints: https, CertFile: in("crt")},
		in("nowhere"):            {Endpoints: https, CertFile: in("nowhere"), KeyFile: in("key")},
		"does not match":         {Endpoints: https, CertFile: in("crt"), KeyFile: in("key2")},
		in("lost"):               {Endpoints: https, CAFile: in("lost")},
		"no certificate in PEM":  {Endpoints: https, CAFile: in("text")},
		"user name and password": {Endpoints: https, Username: "node"},
	} {
		client, err := Dial(c)
		if err == nil {
			client.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Dial(%+v): %v, want: %s", c, err, want)
		}
	}
}

// TestDialWaitsForNobody shows that a client can be made while no server is
// there, also one that has to log in.
func TestDialWaitsForNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	for _, c := range []ClientConfig{
		{Endpoints: []string{address}},
		{Endpoints: []string{"https://" + address}},
		{Endpoints: []string{"http://" + address}, Username: "node", Password: "secret"},
	} {
		client, err := Dial(c)
		if err != nil {
			t.Errorf("Dial: %v", err)
			continue
		}
		if _, err := New(client, "/a").Snapshot(t.Context()); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("Snapshot: %v", err)
		}
		client.Close()
	}
}

// TestCredentialsReread replaces the files between connections.
func TestCredentialsReread(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	server := pair(t, "first", in("crt"), in("key"))
	creds, err := newCredentials(in("crt"), in("key"), in("crt"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// connect returns the name of the certificate that the server was shown.
	connect := func() (string, error) {
		shown := make(chan string, 1)
		go func() {
			defer close(shown)
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			c := tls.Server(conn, &tls.Config{
				Certificates: []tls.Certificate{server},
				ClientAuth:   tls.RequireAnyClientCert,
				NextProtos:   []string{"h2"},
			})
			if c.Handshake() == nil {
				shown <- c.ConnectionState().PeerCertificates[0].Subject.CommonName
			}
		}()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return "", err
		}
		defer conn.Close()
		if _, _, err := creds.Clone().ClientHandshake(t.Context(), l.Addr().String(), conn); err != nil {
			conn.Close()
			<-shown
			return "", err
		}
		return <-shown, nil
	}
	if name, err := connect(); err != nil || name != "first" {
		t.Fatalf("shown %q, %v", name, err)
	}
	server = pair(t, "second", in("crt"), in("key"))
	if name, err := connect(); err != nil || name != "second" {
		t.Errorf("after the files were replaced: shown %q, %v", name, err)
	}
	write(t, in("crt"), []byte("half a fi"))
	if name, err := connect(); err != nil || name != "second" {
		t.Errorf("while the files are broken: shown %q, %v", name, err)
	}
	server = pair(t, "stranger", in("crt2"), in("key2"))
	if _, err := connect(); err == nil {
		t.Error("a server with a certificate of no known authority was accepted")
	}
}
