package configs_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"imlb/configs"
)

// writeCertificate writes a.crt and a.key for example.com.
func writeCertificate(t *testing.T, dir string) {
	t.Helper()
	writeCertificateFor(t, dir, "a", "example.com")
}

func writeCertificateFor(t *testing.T, dir, name, domain string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{domain}, NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, name+".crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	write(t, filepath.Join(dir, name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

func hello(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		ServerName: name, SupportedVersions: []uint16{tls.VersionTLS13}, SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		SupportedCurves: []tls.CurveID{tls.CurveP256}, CipherSuites: []uint16{tls.TLS_AES_128_GCM_SHA256},
	}
}

func shown(t *testing.T, c *configs.Certificates, name string) *x509.Certificate {
	t.Helper()
	cert, err := c.Get(hello(name))
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf
}

func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	writeCertificateFor(t, dir, "a", "example.com")
	writeCertificateFor(t, dir, "b", "example.org")
	of := func(names ...string) (list configs.TLS) {
		for _, n := range names {
			list.Certificates = append(list.Certificates, configs.Certificate{
				CertFile: filepath.Join(dir, n+".crt"), KeyFile: filepath.Join(dir, n+".key"),
			})
		}
		return list
	}
	c, err := configs.LoadCertificates(of("a", "b"))
	if err != nil {
		t.Fatal(err)
	}
	for asked, want := range map[string]string{"example.com": "example.com", "example.org": "example.org", "example.net": "example.com"} {
		if got := shown(t, c, asked).DNSNames[0]; got != want {
			t.Errorf("asked for %s: got the certificate of %s, want that of %s", asked, got, want)
		}
	}
	if err := c.Replace(of("none")); err == nil {
		t.Error("files that are not there were taken")
	}
	if err := c.Replace(of("b")); err != nil {
		t.Error(err)
	}
	if got := shown(t, c, "example.com").DNSNames[0]; got != "example.org" {
		t.Errorf("after the change: got the certificate of %s", got)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() { c.Watch(ctx, 2*time.Millisecond, slog.New(slog.DiscardHandler)) })
	before := shown(t, c, "example.org").SerialNumber
	write(t, filepath.Join(dir, "b.key"), "no key")
	writeCertificateFor(t, dir, "b", "example.org")
	eventually(t, "the new certificate", func() bool {
		return shown(t, c, "example.org").SerialNumber.Cmp(before) != 0
	})
}
