package main

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imlb/configs"
)

// writeAuthority writes a certificate as one of those who sign.
func writeAuthority(t *testing.T, file string, cert *tls.Certificate) {
	t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Who signs clients' certificates is read again when the file changes, and what cannot
// be used changes nothing.
func TestClientAuthoritiesAreFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name, authorities := filepath.Join(dir, "chat"), filepath.Join(dir, "ca.crt")
	writePair(t, name, certificateFor(t, time.Now().Add(time.Hour), "chat.example"))
	one, two := certificateFor(t, time.Now().Add(time.Hour), "one.example"), certificateFor(t, time.Now().Add(time.Hour), "another.example")
	writeAuthority(t, authorities, one)
	f := startTested(t, echoing("{protocol: tls, address: '127.0.0.1:0', client_auth: required, client_ca_file: "+authorities+"}", startEcho(t).addr,
		fmt.Sprintf("tls: {certificates: [{cert_file: %s.crt, key_file: %[1]s.key}]}", name)))
	served := func(cert *tls.Certificate) bool {
		conn := tls.Client(dialTCP(t, f.addr("tls")), &tls.Config{
			InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, //nolint:gosec // it is self-signed
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
		})
		_ = conn.SetDeadline(time.Now().Add(patience))
		defer conn.Close()
		back := make([]byte, 5)
		_, errWrite := io.WriteString(conn, "hello")
		_, errRead := io.ReadFull(conn, back)
		return errors.Join(errWrite, errRead) == nil
	}
	if !served(one) || served(two) {
		t.Fatal("the clients' certificates make no difference")
	}
	if err := os.WriteFile(authorities, []byte("nobody"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "the log tells of the file", func() bool { return strings.Contains(f.log.String(), "changed files cannot be used") })
	if !served(one) {
		t.Error("a file that cannot be used took the authorities away")
	}
	if !strings.Contains(f.get("/metrics"), "\nimlb_config_applied 0\n") || !strings.Contains(f.get("/status"), "holds no PEM certificate") {
		t.Error("neither metrics nor status tell of the file")
	}
	writeAuthority(t, authorities, two)
	until(t, "the other one is served", func() bool { return served(two) })
	if served(one) {
		t.Error("who is no longer an authority still is one")
	}
	if !strings.Contains(f.get("/metrics"), "\nimlb_config_applied 1\n") {
		t.Error("the metrics do not tell that the file is good")
	}
	if n := strings.Count(f.log.String(), "changed files cannot be used"); n != 1 {
		t.Errorf("the log tells of the file %d times", n)
	}
}

// So is what nodes are known by.
func TestNodeAuthoritiesAreFollowed(t *testing.T) {
	t.Parallel()
	cert := certificateFor(t, time.Now().Add(time.Hour), "node.example")
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	node := serveEcho(t, ln)
	authorities := filepath.Join(t.TempDir(), "ca.crt")
	writeAuthority(t, authorities, certificateFor(t, time.Now().Add(time.Hour), "stranger.example"))
	text := strings.Replace(echoing("{protocol: tcp, address: '127.0.0.1:0'}", node.addr, "placement: {park: 0s}"), "proxy_protocol: none,",
		"proxy_protocol: none, outlier: {enabled: false}, tls: {ca_file: "+authorities+", server_name: node.example},", 1)
	f := startTested(t, text)
	requireServed(t, f.addr("tcp"), "hello\n", false)
	writeAuthority(t, authorities, cert)
	requireServed(t, f.addr("tcp"), "hello\n", true)
}

// The metrics tell how long what nodes are shown is good, also of files that have changed since.
func TestNodeCertificateIsFollowed(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "front")
	writePair(t, name, certificateFor(t, time.Now().Add(time.Hour), "front.example"))
	text := strings.Replace(echoing("{protocol: tcp, address: '127.0.0.1:0'}", startEcho(t).addr, ""), "proxy_protocol: none,",
		fmt.Sprintf("proxy_protocol: none, tls: {verify: false, cert_file: %s.crt, key_file: %[1]s.key},", name), 1)
	f := startTested(t, text)
	left := func() (seconds float64) {
		_, after, _ := strings.Cut(f.get("/metrics"), "\nimlb_pool_certificate_expiry_seconds{pool=\"a\"} ")
		_, _ = fmt.Sscan(after, &seconds)
		return seconds
	}
	if s := left(); s < 3000 || s > 3600 {
		t.Errorf("it is good for %v s", s)
	}
	writePair(t, name, certificateFor(t, time.Now().Add(2*time.Hour), "new.front.example"))
	until(t, "the metrics tell of the new one", func() bool { return left() > 3600 })
}

// So is what checks know nodes by, their own and that of the sessions whose TLS they make.
func TestAuthoritiesOfChecksAreFollowed(t *testing.T) {
	t.Parallel()
	cert := certificateFor(t, time.Now().Add(time.Hour), "node.example")
	for _, checked := range []string{
		"checks: [{type: tls, server_name: node.example, ca_file: %s}]",
		"checks: [{type: script, steps: [{send: hello, expect: hello}]}], tls: {server_name: node.example, ca_file: %s}",
	} {
		ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12})
		if err != nil {
			t.Fatal(err)
		}
		authorities := filepath.Join(t.TempDir(), "ca.crt")
		writeAuthority(t, authorities, cert)
		f := startTested(t, strings.Replace(echoing("{protocol: tcp, address: '127.0.0.1:0'}", serveEcho(t, ln).addr, ""), "proxy_protocol: none,",
			"proxy_protocol: none, panic_threshold: 0, damping: {enabled: false}, "+fmt.Sprintf(checked, authorities)+",", 1))
		writeAuthority(t, authorities, certificateFor(t, time.Now().Add(time.Hour), "stranger.example"))
		until(t, "nobody vouches for the node", func() bool { return f.poolChecks()[0].Ready() != nil })
		writeAuthority(t, authorities, cert)
		until(t, "the node is fit again", func() bool { return f.poolChecks()[0].Ready() == nil })
	}
}

func TestStampedFiles(t *testing.T) {
	doc := configs.Proxy{
		Listeners: []configs.Listener{{ClientCAFile: "a"}, {}},
		Pools: map[string]configs.Pool{
			"x": {TLS: &configs.NodeTLS{CAFile: "b", CertFile: "c", KeyFile: "d"}, Checks: []configs.Check{{CAFile: "e"}, {}}}, "y": {},
		},
	}
	if got := stampFiles(doc); len(got) != 5 || got["a"] != (fileStamp{}) {
		t.Errorf("got %v", got)
	}
}
