package etcdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"testing"
	"time"
)

// Authority issues certificates that are good for a test.
type Authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes a new authority of that name.
func NewAuthority(t testing.TB, name string) *Authority {
	t.Helper()
	a := &Authority{t: t}
	a.key = a.newKey()
	template := a.template(name)
	template.IsCA = true
	template.KeyUsage |= x509.KeyUsageCertSign
	a.cert = a.sign(template, template, &a.key.PublicKey)
	return a
}

// WriteCA writes the authority's certificate to a file.
func (a *Authority) WriteCA(file string) {
	a.t.Helper()
	a.write(file, "CERTIFICATE", a.cert.Raw)
}

// Issue writes a certificate for name and the address ip, and its key, to files.
func (a *Authority) Issue(name, ip, certFile, keyFile string) {
	a.t.Helper()
	key := a.newKey()
	template := a.template(name)
	template.IPAddresses = []net.IP{net.ParseIP(ip)}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	a.write(certFile, "CERTIFICATE", a.sign(template, a.cert, &key.PublicKey).Raw)
	text, err := x509.MarshalECPrivateKey(key)
	a.check(err)
	a.write(keyFile, "EC PRIVATE KEY", text)
}

func (a *Authority) template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
}

func (a *Authority) newKey() *ecdsa.PrivateKey {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.check(err)
	return key
}

func (a *Authority) sign(template, parent *x509.Certificate, key *ecdsa.PublicKey) *x509.Certificate {
	a.t.Helper()
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key, a.key)
	a.check(err)
	cert, err := x509.ParseCertificate(raw)
	a.check(err)
	return cert
}

func (a *Authority) write(file, kind string, content []byte) {
	a.t.Helper()
	a.check(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600))
}

func (a *Authority) check(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatalf("etcdtest: %v", err)
	}
}
