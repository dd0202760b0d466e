package main

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"imlb/configs"
	"imlb/proxy"
)

// run serves what the flags describe until ctx ends.
func (q *quickFlags) run(ctx context.Context) error {
	ctx, cancel := untilHangup(ctx)
	defer cancel()
	doc, err := q.document()
	if err != nil {
		return err
	}
	log := newLogSwitch(os.Stderr, doc.Log)
	defer spareUserSignals(ctx, slog.New(log))()
	f := newFront(&fixedDocument{doc: doc, since: time.Now()}, log)
	if slices.ContainsFunc(doc.TLS.Certificates, func(c configs.Certificate) bool { return c.CertFile == selfSigned }) {
		cert, err := selfSignedFor(doc.Listeners, time.Now())
		if err != nil {
			return fmt.Errorf("make a certificate: %w", err)
		}
		file, remove, err := q.showCertificate(cert.Leaf)
		if err != nil {
			return err
		}
		defer remove()
		f.read = func(configs.Certificate) (*tls.Certificate, error) { return cert, nil }
		fmt.Fprintf(os.Stderr, "imlb: no --cert, so clients see a certificate that this front has signed itself, with the SHA-256 fingerprint %s; let them trust %s\n", fingerprint(cert.Leaf), file)
	}
	f.started = func(ctx context.Context) { f.running.Go(func() { f.announce(ctx, os.Stdout) }) }
	return q.inFlagsOf(doc, f.run(ctx))
}

// inFlagsOf names the flags whose addresses cannot be listened on, if that is why a front has
// ended: what else went wrong follows from it.
func (q *quickFlags) inFlagsOf(doc configs.Proxy, err error) error {
	flags := map[string]string{adminName: "--admin " + q.Admin}
	for i, l := range doc.Listeners {
		flags["listener "+l.Name] = "--listen " + q.Listen[i]
	}
	var named []error
	for _, e := range listenErrors(err) {
		named = append(named, &proxy.ListenError{Name: cmp.Or(flags[e.Name], e.Name), Err: e.Err})
	}
	if len(named) == 0 {
		return err
	}
	return errors.Join(named...)
}

// listenErrors returns those that an error is made of.
func listenErrors(err error) (all []*proxy.ListenError) {
	switch e := err.(type) { //nolint:errorlint // the tree is walked here
	case *proxy.ListenError:
		return []*proxy.ListenError{e}
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			all = append(all, listenErrors(part)...)
		}
	case interface{ Unwrap() error }:
		return listenErrors(e.Unwrap())
	}
	return all
}

// showCertificate writes the certificate that clients have to trust, and names the file.
// One that nobody has asked for is temporary.
func (q *quickFlags) showCertificate(cert *x509.Certificate) (file string, remove func(), err error) {
	file, remove = q.CertOut, func() {}
	if file == "" {
		temporary, err := os.CreateTemp("", "imlb-*.pem")
		if err != nil {
			return "", nil, fmt.Errorf("write the certificate that the front has made (--cert-out FILE names another place): %w", err)
		}
		_ = temporary.Close()
		file, remove = temporary.Name(), func() { _ = os.Remove(temporary.Name()) }
	}
	if err := writePEM(file, "CERTIFICATE", cert.Raw, 0o644); err != nil {
		remove()
		return "", nil, fmt.Errorf("write the certificate that the front has made (--cert-out FILE names another place): %w", err)
	}
	return file, remove, nil
}

// fingerprint is the SHA-256 of a certificate as openssl and browsers write it.
func fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":")
}

// fixedDocument is a document that never changes. It implements documentSource.
type fixedDocument struct {
	doc   configs.Proxy
	since time.Time
}

// Run applies the document, and waits.
func (d *fixedDocument) Run(ctx context.Context, apply func(configs.Update) error) error {
	if err := apply(configs.Update{Proxy: d.doc}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// Status says that the document is in force.
func (d *fixedDocument) Status() configs.Status {
	report := configs.Report{Time: d.since, Accepted: true}
	return configs.Status{Source: "the command line", InForce: report, Latest: report, Accepted: 1}
}

// settleTime is how long the front waits for its nodes to be checked before it says
// that it serves. A node that does not answer has failed its check by then.
const settleTime = 1500 * time.Millisecond

// announce says what listens where, and that all serves.
func (f *front) announce(ctx context.Context, out io.Writer) {
	f.settle(ctx)
	if ctx.Err() != nil {
		return
	}
	addrs := f.server.Addrs()
	for _, l := range f.doc.Listeners {
		path := ""
		if l.WebSocket != nil {
			path = l.WebSocket.Path
		}
		fmt.Fprintf(out, "listening on %s://%s%s\n", l.Protocol, addrs[l.Name], path)
	}
	if f.admin != nil {
		fmt.Fprintf(out, "admin on http://%s\n", f.admin.addr())
	}
	for _, p := range f.livePools() {
		for _, n := range p.monitor.Snapshot().Nodes {
			if n.Failing != nil {
				fmt.Fprintf(os.Stderr, "imlb: %s does not answer: %v\n", n.Name, n.Failing)
			}
		}
	}
	fmt.Fprintln(out, "ready")
}

// settle waits until the front serves and all nodes have been checked, for a while.
func (f *front) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	unchecked := func(p *pool) bool { return !p.checked() }
	for f.server.Serving() != nil || slices.ContainsFunc(f.livePools(), unchecked) {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

// selfSignedFor makes a certificate for localhost and the hosts that are listened on.
func selfSignedFor(listeners []configs.Listener, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "localhost"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(devLeafLifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	for _, l := range listeners {
		host, _, err := net.SplitHostPort(l.Address)
		ip := net.ParseIP(host)
		switch {
		case err != nil || host == "" || host == "localhost":
		case ip == nil && !slices.Contains(template.DNSNames, host):
			template.DNSNames = append(template.DNSNames, host)
		case ip != nil && !slices.ContainsFunc(template.IPAddresses, ip.Equal):
			template.IPAddresses = append(template.IPAddresses, ip)
		}
	}
	leaf, err := signCertificate(template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}
