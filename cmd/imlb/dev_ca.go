package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// The certificate authority of `imlb dev` lives as long as its data directory,
// so that a client that was told to trust it once goes on working.
const (
	devCALifetime   = 5 * 365 * 24 * time.Hour
	devLeafLifetime = 365 * 24 * time.Hour
)

// devTLS names the PEM files of a development certificate.
type devTLS struct {
	ca   string // what clients are told to trust
	cert string
	key  string
}

// ensureDevTLS makes sure that dir holds a certificate authority and a
// certificate for domain signed by it. The authority is kept from an earlier
// run; the certificate is made anew each time, since nobody pins it.
func ensureDevTLS(dir, domain string, now time.Time) (devTLS, error) {
	files := devTLS{
		ca:   filepath.Join(dir, "ca.pem"),
		cert: filepath.Join(dir, "front.pem"),
		key:  filepath.Join(dir, "front-key.pem"),
	}
	caKeyFile := filepath.Join(dir, "ca-key.pem")
	ca, caKey, err := loadDevCA(files.ca, caKeyFile, now)
	if errors.Is(err, os.ErrNotExist) {
		ca, caKey, err = makeDevCA(files.ca, caKeyFile, now)
	}
	if err != nil {
		return devTLS{}, fmt.Errorf("development CA: %w", err)
	}
	if err := makeDevLeaf(files, domain, ca, caKey, now); err != nil {
		return devTLS{}, fmt.Errorf("development certificate: %w", err)
	}
	return files, nil
}

func loadDevCA(certFile, keyFile string, now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	certDER, err := readPEM(certFile, "CERTIFICATE")
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := readPEM(keyFile, "EC PRIVATE KEY")
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", certFile, err)
	}
	key, err := x509.ParseECPrivateKey(keyDER)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	if now.Add(devLeafLifetime).After(cert.NotAfter) {
		return nil, nil, fmt.Errorf("%s expires on %s: remove it and %s to have a new one made",
			certFile, cert.NotAfter.Format(time.DateOnly), keyFile)
	}
	return cert, key, nil
}

func makeDevCA(certFile, keyFile string, now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "imlb development CA"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(devCALifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	cert, err := signCertificate(template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	if err := writeKey(keyFile, key); err != nil {
		return nil, nil, err
	}
	return cert, key, writePEM(certFile, "CERTIFICATE", cert.Raw, 0o644)
}

func makeDevLeaf(files devTLS, domain string, ca *x509.Certificate, caKey *ecdsa.PrivateKey, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert, err := signCertificate(&x509.Certificate{
		Subject:     pkix.Name{CommonName: domain},
		NotBefore:   now.Add(-time.Hour),
		NotAfter:    now.Add(devLeafLifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{domain},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	if err := writeKey(files.key, key); err != nil {
		return err
	}
	return writePEM(files.cert, "CERTIFICATE", cert.Raw, 0o644)
}

// signCertificate gives template a random serial number and has parent sign it.
func signCertificate(template, parent *x509.Certificate, public *ecdsa.PublicKey, signer *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func writeKey(file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(file, "EC PRIVATE KEY", der, 0o600)
}

func writePEM(file, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

func readPEM(file, kind string) ([]byte, error) {
	data, err := os.ReadFile(file) //nolint:gosec // The path is inside the data directory that the caller named.
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s: holds no %s", file, kind)
	}
	return block.Bytes, nil
}
