package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"imlb/configs"
	"imlb/proxy"
)

// certFiles are certificate files that a test changes at will, by name.
type certFiles map[string]certFile

type certFile struct {
	stamp pairStamp
	cert  *tls.Certificate // nil: cannot be used
}

// write changes a pair. A nil certificate is one that cannot be used.
func (f certFiles) write(name string, cert *tls.Certificate) {
	stamp := f[name].stamp
	stamp.certSize++
	f[name] = certFile{stamp, cert}
}

func (f certFiles) read(c configs.Certificate) (*tls.Certificate, error) {
	cert := f[c.CertFile].cert
	if cert == nil {
		return nil, errors.New("private key does not match")
	}
	return cert, nil
}

func (f certFiles) stat(c configs.Certificate) pairStamp { return f[c.CertFile].stamp }

// certificateFor makes a certificate that expires at a time.
func certificateFor(t *testing.T, expires time.Time, domains ...string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: domains[0]}, DNSNames: domains, NotAfter: expires,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// certsOf are the certificates of a document that names these files.
func certsOf(names ...string) configs.TLS {
	var t configs.TLS
	for _, name := range names {
		t.Certificates = append(t.Certificates, configs.Certificate{CertFile: name, KeyFile: name + ".key"})
	}
	return t
}

// A noon to reckon from; certificates have whole seconds.
var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// startCertificates returns the certificates of files, and what they log.
func startCertificates(t *testing.T, files certFiles, names ...string) (*certificates, *bytes.Buffer) {
	t.Helper()
	log := new(bytes.Buffer)
	c := &certificates{
		log: slog.New(slog.NewTextHandler(log, nil)), now: func() time.Time { return noon }, read: files.read, stat: files.stat,
	}
	if err := c.replace(certsOf(names...)); err != nil {
		t.Fatal(err)
	}
	return c, log
}

// shows checks which certificate a client that asks for name gets.
func shows(t *testing.T, c *certificates, name string, want *tls.Certificate) {
	t.Helper()
	got, err := c.get(&tls.ClientHelloInfo{
		ServerName: name, SupportedVersions: []uint16{tls.VersionTLS13},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}, SupportedCurves: []tls.CurveID{tls.CurveP256},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("for %q the certificate of %v is shown, want that of %v", name, got.Leaf.DNSNames, want.Leaf.DNSNames)
	}
}

// A certificate is chosen by name, and the first is for all other names.
func TestCertificateByName(t *testing.T) {
	t.Parallel()
	a, b := certificateFor(t, noon, "a.example"), certificateFor(t, noon, "b.example", "*.b.example")
	files := certFiles{}
	files.write("a", a)
	files.write("b", b)
	c, _ := startCertificates(t, files, "a", "b")
	for name, want := range map[string]*tls.Certificate{
		"a.example": a, "b.example": b, "chat.b.example": b, "B.EXAMPLE": b, "other.example": a, "": a,
	} {
		shows(t, c, name, want)
	}
	if _, err := new(certificates).get(&tls.ClientHelloInfo{ServerName: "x"}); err == nil {
		t.Error("a certificate out of nothing")
	}
}

// Changed files are read when they have settled. Those that cannot be used are
// told of once, and the certificate before stays.
func TestCertificateChanges(t *testing.T) {
	t.Parallel()
	first, second := certificateFor(t, noon.Add(time.Hour), "a"), certificateFor(t, noon.Add(2*time.Hour), "a")
	files := certFiles{}
	files.write("a", first)
	c, log := startCertificates(t, files, "a")
	look := func(want *tls.Certificate, said string) {
		t.Helper()
		log.Reset()
		c.look(t.Context())
		shows(t, c, "a", want)
		if said == "" && log.Len() > 0 || !strings.Contains(log.String(), said) {
			t.Errorf("logged %q, want %q", log, said)
		}
	}
	look(first, "")
	files.write("a", nil) // the key is not there yet
	look(first, "")
	files.write("a", second)
	look(first, "")
	look(second, "expires=2026-11-23T14:00:00.000Z")
	look(second, "")
	files.write("a", nil)
	look(second, "")
	look(second, "private key does not match")
	look(second, "")
	files.write("a", first)
	look(second, "")
	look(first, "certificate read again")
}

// Another document is taken whole or not at all, and what it keeps is not read
// again.
func TestCertificatesReplaced(t *testing.T) {
	t.Parallel()
	a, b := certificateFor(t, noon, "a"), certificateFor(t, noon, "b")
	files := certFiles{}
	files.write("a", a)
	files.write("bad", nil)
	files.write("worse", nil)
	c, _ := startCertificates(t, files, "a")
	files.write("a", nil)
	files.write("b", b)
	err := c.replace(certsOf("b", "bad", "worse"))
	if err == nil || !strings.Contains(err.Error(), "certificate bad: ") || !strings.Contains(err.Error(), "certificate worse: ") {
		t.Errorf("got %v", err)
	}
	shows(t, c, "b", a)
	if err := c.replace(certsOf("a", "b")); err != nil {
		t.Fatal(err)
	}
	shows(t, c, "a", a)
	shows(t, c, "b", b)
	if err := c.replace(certsOf("b")); err != nil {
		t.Fatal(err)
	}
	shows(t, c, "a", b)
}

func TestCertificateMetrics(t *testing.T) {
	t.Parallel()
	long, short := certificateFor(t, noon.Add(time.Hour), "a"), certificateFor(t, noon.Add(time.Minute), "ca")
	chain := *long
	chain.Certificate = append(chain.Certificate, short.Certificate...)
	files := certFiles{}
	files.write("a", &chain)
	files.write("b", certificateFor(t, noon.Add(-time.Second), "b"))
	c, _ := startCertificates(t, files, "a", "b")
	files.write("b", nil)
	c.look(t.Context())
	c.look(t.Context())
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP imlb_proxy_certificate_expiry_seconds Seconds until the certificate, or the first of its chain to do so, expires; negative when it has.
# TYPE imlb_proxy_certificate_expiry_seconds gauge
imlb_proxy_certificate_expiry_seconds{file="a"} 60
imlb_proxy_certificate_expiry_seconds{file="b"} -1
# HELP imlb_proxy_certificate_reload_failures_total Changes of a certificate's files that could not be used.
# TYPE imlb_proxy_certificate_reload_failures_total counter
imlb_proxy_certificate_reload_failures_total{file="a"} 0
imlb_proxy_certificate_reload_failures_total{file="b"} 1
`)); err != nil {
		t.Error(err)
	}
}

// What nodes are shown expires, too.
func TestNodeCertificateMetrics(t *testing.T) {
	t.Parallel()
	long, short := certificateFor(t, noon.Add(time.Hour), "a"), certificateFor(t, noon.Add(time.Minute), "ca")
	chain := *long
	chain.Certificate = append(chain.Certificate, short.Certificate...)
	showing := func(certs ...tls.Certificate) proxy.Pool {
		return proxy.Pool{TLS: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: certs}}
	}
	pools := map[string]proxy.Pool{"plain": {}, "nothing": showing(), "chain": showing(chain), "old": showing(*certificateFor(t, noon.Add(-time.Second), "b"))}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(nodeCertificates{now: func() time.Time { return noon }, pools: func() map[string]proxy.Pool { return pools }})
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP imlb_pool_certificate_expiry_seconds Seconds until the certificate that nodes are shown, or the first of its chain to do so, expires; negative when it has.
# TYPE imlb_pool_certificate_expiry_seconds gauge
imlb_pool_certificate_expiry_seconds{pool="chain"} 60
imlb_pool_certificate_expiry_seconds{pool="old"} -1
`)); err != nil {
		t.Error(err)
	}
}

// Real files are read, and their changes found by a running look.
func TestCertificateFiles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		name := filepath.Join(dir, "a")
		files := configs.TLS{Certificates: []configs.Certificate{{CertFile: name + ".crt", KeyFile: name + ".key"}}}
		if _, err := loadCertificates(files, readPair, slog.New(slog.DiscardHandler)); err == nil {
			t.Error("read files that are not there")
		}
		writePair(t, name, certificateFor(t, noon, "a", "old.example"))
		c, err := loadCertificates(files, readPair, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go c.run(ctx, time.Second)
		writePair(t, name, certificateFor(t, noon, "a", "new.longer.example"))
		<-time.After(3 * time.Second)
		synctest.Wait()
		got, err := c.get(&tls.ClientHelloInfo{ServerName: "a"})
		if err != nil || got.Leaf.DNSNames[1] != "new.longer.example" {
			t.Errorf("got %v of %v", err, got.Leaf.DNSNames)
		}
	})
}

// writePair writes name.crt and name.key.
func writePair(t *testing.T, name string, cert *tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".crt": {Type: "CERTIFICATE", Bytes: cert.Certificate[0]},
		name + ".key": {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
