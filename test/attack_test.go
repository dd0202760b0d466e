package test

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// testStreamErrors: what is no good XMPP gets the stream error that RFC 6120
// §4.9.3 names for it, and the connection is closed.
func testStreamErrors(t *testing.T, d *dev) {
	const header = "<?xml version='1.0'?><stream:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:stream='" + nsStreams + "'>"
	tests := []struct {
		name, first, then, want string
	}{
		{"foreign domain", strings.Replace(header, "localhost", "example.org", 1), "", "host-unknown"},
		{"stream namespace", strings.Replace(header, nsStreams, "urn:example", 1), "", "invalid-namespace"},
		{"content namespace", strings.Replace(header, "jabber:client", "urn:example", 1), "", "invalid-namespace"},
		{"stanza before login", header, "<message to='a@localhost'><body>x</body></message>", "not-authorized"},
		{"not well-formed", header, "<a><b></a></b>", "not-well-formed"},
		{"comment", header, "<!-- hello -->", "restricted-xml"},
		{"processing instruction", header, "<?php echo ?>", "restricted-xml"},
		{"DTD", header, "<!DOCTYPE lolz [<!ENTITY a 'b'>]>", "restricted-xml"},
		{"entity", header, "<auth xmlns='" + nsSASL + "' mechanism='PLAIN'>&lol;</auth>", "restricted-xml"},
		{"an element that never ends", header, "<auth xmlns='" + nsSASL + "' mechanism='" + strings.Repeat("x", 1<<20), "policy-violation"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := d.dialTLS(t)
			s.write("%s", tt.first)
			s.readHeader() // RFC 6120 §4.9.1.2: an error comes within a stream
			if tt.then != "" {
				s.read()
				// The server may close before it has taken all of it.
				_, _ = io.WriteString(s.conn, tt.then)
			}
			s.wantStreamError(tt.want)
		})
	}
}

// startTLS opens the STARTTLS port in clear and reads the first features.
func startTLS(t *testing.T, d *dev) (*stream, net.Conn) {
	t.Helper()
	conn := dial(t, d.Front.XMPP)
	s := newStream(t, conn)
	features := s.open(d.Domain)
	if f := features.child(nsTLS, "starttls"); f.child(nsTLS, "required").XMLName.Local == "" {
		t.Fatalf("want STARTTLS as required, got %+v", features)
	}
	if features.child(nsSASL, "mechanisms").XMLName.Local != "" {
		t.Errorf("SASL is offered in clear: %+v", features)
	}
	return s, conn
}

// testTLSFirst: no credentials are taken in clear.
func testTLSFirst(t *testing.T, d *dev) {
	alice := d.account(t)
	s, _ := startTLS(t, d)
	answer := s.plain(alice, alice.password)
	refused := answer.child(nsSASL, "encryption-required").XMLName.Local != "" ||
		answer.is(nsStreams, "error")
	if !refused {
		t.Errorf("PLAIN in clear was answered with %+v", answer)
	}
}

// testSTARTTLSInjection: what came in clear with <starttls/> has no effect on
// the stream inside TLS (RFC 6120 §5.4.3.3, CVE-2011-0411 and its kind).
func testSTARTTLSInjection(t *testing.T, d *dev) {
	alice := d.account(t)
	s, conn := startTLS(t, d)
	s.write("<starttls xmlns='%s'/><stream:stream to='%s' version='1.0' xmlns='jabber:client' xmlns:stream='%s'>"+
		"<auth xmlns='%s' mechanism='X-INJECTED'/>", nsTLS, d.Domain, nsStreams, nsSASL)
	answer := s.read()
	if !answer.is(nsTLS, "proceed") {
		return // refusing such a client is right, too
	}
	secure := tls.Client(conn, d.tls(t))
	if err := secure.HandshakeContext(within(t, patience)); err != nil {
		return // so is failing the handshake
	}
	s = newStream(t, secure)
	if f := s.open(d.Domain); f.child(nsSASL, "mechanisms").XMLName.Local == "" {
		t.Fatalf("the first element inside TLS is %+v, want features", f)
	}
	if got := s.plain(alice, alice.password); !got.is(nsSASL, "success") {
		t.Errorf("the first answer inside TLS is %+v, want success", got)
	}
}

// testPortScan: connections that say nothing cost nothing and break nothing.
func testPortScan(t *testing.T, d *dev) {
	for range 10 {
		for _, addr := range []string{d.Front.XMPP, d.Front.XMPPS, d.Front.HTTPS, d.Nodes[0].Addr} {
			_ = dial(t, addr).Close()
		}
	}
	wantServing(t, d)
}

// testGarbage: bytes that are no protocol of ours end in a closed connection.
func testGarbage(t *testing.T, d *dev) {
	random := make([]byte, 4096)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(random)
	payloads := map[string]string{
		"random":    string(random),
		"HTTP":      "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"SSH":       "SSH-2.0-OpenSSH_9.2\r\n",
		"PROXY v1":  "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
		"PROXY v2":  "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x00\x01\x00\x02",
		"TLS alert": "\x15\x03\x01\x00\x02\x02\x28",
	}
	for name, payload := range payloads {
		for port, addr := range map[string]string{
			"xmpp": d.Front.XMPP, "xmpps": d.Front.XMPPS, "https": d.Front.HTTPS, "node": d.Nodes[0].Addr,
		} {
			t.Run(name+" to "+port, func(t *testing.T) {
				t.Parallel()
				conn := dial(t, addr)
				_ = conn.SetDeadline(time.Now().Add(patience))
				_, _ = io.WriteString(conn, payload)
				if tcp, ok := conn.(*net.TCPConn); ok {
					_ = tcp.CloseWrite()
				}
				if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
					t.Errorf("the connection was still open after %v", patience)
				}
			})
		}
	}
	t.Run("QUIC", func(t *testing.T) {
		t.Parallel()
		conn, err := (&net.Dialer{}).DialContext(within(t, patience), "udp", d.Front.QUIC)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if _, err := conn.Write(random[:1200]); err != nil {
				t.Fatal(err)
			}
		}
		_ = conn.Close()
	})
	t.Cleanup(func() { wantServing(t, d) })
}

// wantServing makes sure that every process is alive and ready.
func wantServing(t *testing.T, d *dev) {
	t.Helper()
	for name, addr := range d.admins() {
		status, body, err := get(within(t, patience), addr, "/readyz")
		if err != nil || status != http.StatusOK {
			t.Errorf("/readyz of %s: %d %q %v", name, status, body, err)
		}
	}
}

// admins are the admin addresses of the front and of the nodes that run.
func (d *dev) admins() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[string]string{"front": d.Front.Admin}
	for _, n := range d.Nodes {
		if !d.killed[n.Name] {
			all[n.Name] = n.Admin
		}
	}
	return all
}

// testProbes: the admin servers answer, and the metrics count.
func testProbes(t *testing.T, d *dev) {
	for name, addr := range d.admins() {
		for path, part := range map[string]string{"/livez": "", "/readyz": "", "/metrics": "# TYPE ", "/status": "{"} {
			status, body, err := get(within(t, patience), addr, path)
			if err != nil || status != http.StatusOK || !strings.Contains(body, part) {
				t.Errorf("%s of %s: %d %.200q %v", path, name, status, body, err)
			}
		}
	}
}

// testHostMeta: a web client finds the WebSocket by XEP-0156.
func testHostMeta(t *testing.T, d *dev) {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: d.tls(t)}}
	defer client.CloseIdleConnections()
	for path, part := range map[string]string{
		"/.well-known/host-meta":      "urn:xmpp:alt-connections:websocket",
		"/.well-known/host-meta.json": "urn:xmpp:alt-connections:websocket",
	} {
		req, err := http.NewRequestWithContext(within(t, patience), http.MethodGet, fmt.Sprintf("https://%s%s", d.Front.HTTPS, path), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), part) || !strings.Contains(string(body), "wss://") {
			t.Errorf("%s: %s %q %v", path, resp.Status, body, err)
		}
		if resp.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s may not be read by a page of another origin (XEP-0156 §3)", path)
		}
	}
}
