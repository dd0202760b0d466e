package test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/quic-go/quic-go"
)

// gate is a front that listens with every protocol, before nodes that do what the
// first byte of a connection asks them for.
type gate struct {
	*process
	admin  string
	addrs  map[string]string // of the listeners, by name
	client *tls.Config       // what clients trust; keeps tickets
}

// The names by which clients in TLS are known. The handshakes with the second are the
// nodes'.
const (
	endedName  = "ended.test"
	passedName = "passed.test"
)

// fewMost is the limit of the listener quicfew.
const fewMost = 25

// gateDocument needs the pools' addresses, files and timeouts.
const gateDocument = `
domains: [ended.test]
listeners:
  - {name: tcp, protocol: tcp, address: "127.0.0.1:0", pool: nodes, rate: {per_second: 0}}
  - {name: named, protocol: tcp, address: "127.0.0.1:0", pool: nodes, rate: {per_second: 0},
     identify: {by: [{type: pattern, pattern: '^. USER (?P<user>\w+)\r?\n'}]}}
  - {name: behind, protocol: tcp, address: "127.0.0.1:0", pool: nodes, rate: {per_second: 0}, proxy_protocol: {trusted: [127.0.0.0/8]}}
  - {name: mqtt, protocol: mqtt, address: "127.0.0.1:0", pool: nodes, rate: {per_second: 0}, identify: {by: [{type: mqtt}]}}
  - {name: mqtts, protocol: mqtts, address: "127.0.0.1:0", pool: nodes, rate: {per_second: 0}, identify: {by: [{type: mqtt}]}}
  - {name: tls, protocol: tls, address: "127.0.0.1:0", pool: nodes, rate: {per_second: 0},
     routes: [{server_names: [passed.test], pool: nodes, passthrough: true}]}
  - {name: ws, protocol: ws, address: "127.0.0.1:0", pool: nodes, rate: {per_second: 0}, websocket: {path: /ws, subprotocols: [mqtt, none]}}
  - {name: wss, protocol: wss, address: "127.0.0.1:0", pool: nodes, rate: {per_second: 0}, websocket: {path: /ws, subprotocols: [xmpp, mqtt, none]}}
  - {name: wsbymqtt, protocol: ws, address: "127.0.0.1:0", pool: nodes, rate: {per_second: 0}, websocket: {path: /ws, subprotocols: [mqtt]},
     identify: {by: [{type: mqtt}]}}
  - {name: xmpp, protocol: xmpp, address: "127.0.0.1:0", pool: nodes, rate: {per_second: 0}}
  - {name: xmpps, protocol: xmpps, address: "127.0.0.1:0", pool: nodes, rate: {per_second: 0}}
  - {name: quic, protocol: quic, address: "127.0.0.1:0", pool: nodes, rate: {per_second: 0}, alpn: [echo, xmpp-client], identify: {by: [{type: source}]}}
  - {name: quicfew, protocol: quic, address: "127.0.0.1:0", pool: nodes, rate: {per_second: 0}, alpn: [echo], identify: {by: [{type: source}]},
     limits: {unauthenticated: 25}}
  - {name: nowhere, protocol: mqtt, address: "127.0.0.1:0", pool: nobody, rate: {per_second: 0}}
pools:
  nodes: {nodes: [{name: one, address: %q}, {name: two, address: %q}], proxy_protocol: none, outlier: {enabled: false}, checks: [{type: tcp}]}
  nobody: {nodes: [{name: gone, address: %q}], proxy_protocol: none, checks: [{type: tcp}]}
placement: {park: 0s}
tls:
  certificates: [{cert_file: %q, key_file: %q}]
timeouts: {%s}
admin: {address: %q}
log: {level: %s, format: json}
`

// startGate runs the front. timeouts are those of its document.
func startGate(t *testing.T, timeouts, logLevel string) *gate {
	t.Helper()
	dir := t.TempDir()
	cert, key, config := selfSigned(t, dir)
	nodes := startNodes(t, config)
	base := freeBasePort(t)
	g := &gate{admin: fmt.Sprintf("127.0.0.1:%d", base), client: &tls.Config{
		RootCAs: config.RootCAs, MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(16),
	}}
	text := fmt.Sprintf(gateDocument, nodes[0], nodes[1], fmt.Sprintf("127.0.0.1:%d", base+1), cert, key, timeouts, g.admin, logLevel)
	g.process = start(t, "imlb proxy", program(t), []string{"proxy", "--config", document(t, dir, "gate.yaml", text)})
	// It is ready, as /readyz has it, with one node.
	awaitStatus(t, g.admin, "two fit nodes", func(s frontStatus) bool { return s.pool("nodes").Fit == 2 })
	_, body, err := get(within(t, patience), g.admin, "/status")
	if err == nil {
		g.addrs, err = listenerAddrs(body)
	}
	if err != nil || len(g.addrs) != 14 {
		t.Fatalf("listeners %v, %v", g.addrs, err)
	}
	return g
}

// listenerAddrs finds in /status where a front listens, by the names of its listeners.
func listenerAddrs(status string) (map[string]string, error) {
	var s struct {
		Front struct {
			Listeners []struct{ Name, Address string }
		}
	}
	err := json.Unmarshal([]byte(status), &s)
	addrs := make(map[string]string)
	for _, l := range s.Front.Listeners {
		addrs[l.Name] = l.Address
	}
	return addrs, err
}

// selfSigned makes a certificate for both names that signs itself. config is for
// servers and, by its RootCAs, for clients.
func selfSigned(t *testing.T, dir string) (certFile, keyFile string, config *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: endedName}, DNSNames: []string{endedName, passedName, "localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	certFile, keyFile = document(t, dir, "cert.pem", string(certPEM)), document(t, dir, "key.pem", string(keyPEM))
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	return certFile, keyFile, &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// What nodes are asked for by the first byte of a connection. A CONNECT of MQTT, a
// handshake of TLS and a stream of XMPP say what they want by themselves.
const (
	wantEcho  = 'e' // everything comes back, and the end
	wantReset = 'r' // a reset
	wantClose = 'c' // the end
	wantFlood = 'f' // bytes without end
	wantDeaf  = 'd' // nothing, and nothing is read
)

// startNodes runs two nodes until the end of the test.
func startNodes(t *testing.T, config *tls.Config) (addrs [2]string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	for i := range addrs {
		l, err := (&net.ListenConfig{Control: asOnEthernet}).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.%d:0", i+1))
		if err != nil {
			t.Fatal(err)
		}
		context.AfterFunc(ctx, func() { _ = l.Close() })
		addrs[i] = l.Addr().String()
		running.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				running.Go(func() { obey(ctx, conn, config) })
			}
		})
	}
	return addrs
}

// obey is one connection of a node.
func obey(ctx context.Context, conn net.Conn, config *tls.Config) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		return
	}
	switch buf[0] {
	case wantEcho:
		_, _ = conn.Write(buf[:n])
		_, _ = io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}, buf)
	case wantReset:
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
	case wantClose:
	case wantFlood:
		small(conn)
		for err == nil {
			_, err = conn.Write(buf)
		}
	case wantDeaf:
		small(conn)
		<-ctx.Done()
	case 0x10: // CONNECT
		_, _ = conn.Write([]byte{0x20, 2, 0, 0})
		_, _ = io.Copy(io.Discard, conn)
	case '<': // the header of a stream of XMPP
		_ = obeyXMPP(conn, buf[:n:n])
		_, _ = io.Copy(io.Discard, conn)
	case 0x16: // ClientHello
		secure := tls.Server(&replayed{Conn: conn, first: buf[:n:n]}, config)
		defer secure.Close()
		_, _ = io.Copy(struct{ io.Writer }{secure}, struct{ io.Reader }{secure})
	}
}

// nodeStream is the beginning of a node's stream of XMPP.
const nodeStream = "<?xml version='1.0'?><stream:stream from='" + endedName + "' id='n' version='1.0' xmlns='jabber:client' xmlns:stream='" + nsStreams + "'>" +
	"<stream:features><mechanisms xmlns='" + nsSASL + "'><mechanism>PLAIN</mechanism></mechanisms></stream:features>"

// nodeBound is the beginning of a node's stream after the login.
const nodeBound = "<?xml version='1.0'?><stream:stream from='" + endedName + "' id='m' version='1.0' xmlns='jabber:client' xmlns:stream='" + nsStreams + "'>" +
	"<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>"

// streamFooter is the end of a stream of XMPP.
const streamFooter = "</stream:stream>"

// obeyXMPP takes every login, and sends back what messages say. The front asks some nodes
// only what they offer.
func obeyXMPP(conn net.Conn, first []byte) error {
	stream := &replayed{Conn: conn, first: first}
	if _, err := io.WriteString(stream, nodeStream); err != nil {
		return err
	}
	for _, step := range []struct{ await, answer string }{
		{"</auth>", "<success xmlns='" + nsSASL + "'/>"},
		{"<stream:stream", nodeBound},
	} {
		if err := skipTo(stream, step.await); err != nil {
			return err
		}
		if _, err := io.WriteString(stream, step.answer); err != nil {
			return err
		}
	}
	return answerXMPP(conn, stream)
}

// answerXMPP sends messages back up to the end of a stream, or to one for which it resets
// the connection.
func answerXMPP(conn net.Conn, stream io.ReadWriter) error {
	for {
		got, err := readTo(stream, "</message>", streamFooter)
		_, said, ok := strings.Cut(got, "<body>")
		switch {
		case err != nil:
			return err
		case !ok:
			_, err := io.WriteString(stream, streamFooter)
			return err
		case said == "reset</body></message>":
			return reset(conn)
		}
		if _, err := io.WriteString(stream, "<message from='"+endedName+"'><body>"+said); err != nil {
			return err
		}
	}
}

// small makes the kernel hold little of what is not read: thousands of connections
// together would reach what it has for all, and then nobody on the machine is served.
func small(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(8 << 10)
		_ = tcp.SetWriteBuffer(8 << 10)
	}
}

// asOnEthernet gives a socket segments of the usual size. For those of loopback, 64 KB,
// the kernel makes buffers of some megabytes on the other side.
func asOnEthernet(_, _ string, raw syscall.RawConn) error {
	var err error
	errControl := raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1448)
	})
	return errors.Join(errControl, err)
}

// replayed is a connection of which something has been read.
type replayed struct {
	net.Conn
	first []byte
}

func (r *replayed) Read(p []byte) (int, error) {
	if len(r.first) > 0 {
		n := copy(p, r.first)
		r.first = r.first[n:]
		return n, nil
	}
	return r.Conn.Read(p)
}

// dial connects to a listener, to be done with it at the deadline of ctx.
func (g *gate) dial(ctx context.Context, listener string) (*net.TCPConn, error) {
	conn, err := (&net.Dialer{Control: asOnEthernet}).DialContext(ctx, "tcp", g.addrs[listener])
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	if by, ok := ctx.Deadline(); ok {
		_ = tcp.SetDeadline(by)
	}
	return tcp, nil
}

// tls is what a client of that name goes by.
func (g *gate) tls(name string, alpn ...string) *tls.Config {
	config := g.client.Clone()
	config.ServerName, config.NextProtos = name, alpn
	return config
}

// dialTLS connects to a listener in TLS.
func (g *gate) dialTLS(ctx context.Context, listener, name string, alpn ...string) (*tls.Conn, error) {
	conn, err := g.dial(ctx, listener)
	if err != nil {
		return nil, err
	}
	secure := tls.Client(conn, g.tls(name, alpn...))
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secure, nil
}

// dialWS connects to a listener with a WebSocket, as one that speaks the subprotocol,
// or none.
func (g *gate) dialWS(ctx context.Context, listener string, subprotocols ...string) (*websocket.Conn, error) {
	conn, err := g.dial(ctx, listener)
	if err != nil {
		return nil, err
	}
	ws, err := g.upgrade(ctx, conn, listener, subprotocols...)
	if err != nil {
		_ = conn.Close()
	}
	return ws, err
}

// upgrade makes a connection to a listener a WebSocket.
func (g *gate) upgrade(ctx context.Context, conn net.Conn, listener string, subprotocols ...string) (*websocket.Conn, error) {
	scheme := "ws"
	if listener == "wss" {
		scheme = "wss"
	}
	transport := &http.Transport{
		TLSClientConfig: g.tls(endedName), DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}
	ws, resp, err := websocket.Dial(ctx, fmt.Sprintf("%s://%s/ws", scheme, g.addrs[listener]),
		&websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}, Subprotocols: subprotocols})
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	return ws, err
}

// dialQUIC opens a connection to a listener for streams of that protocol.
func (g *gate) dialQUIC(ctx context.Context, listener, alpn string) (*quic.Conn, error) {
	return quic.DialAddr(ctx, g.addrs[listener], g.tls(endedName, alpn), &quic.Config{HandshakeIdleTimeout: patience, MaxIdleTimeout: patience})
}

// exchange sends a text and reads it back.
func exchange(rw io.ReadWriter, text string) error {
	if _, err := io.WriteString(rw, text); err != nil {
		return err
	}
	return expect(rw, text)
}

// expect reads a text.
func expect(r io.Reader, text string) error {
	got := make([]byte, len(text))
	if _, err := io.ReadFull(r, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("read %.60q, want %.60q", got, text)
	}
	return nil
}

// expectEnd reads to the end, which must come in order and at once.
func expectEnd(r io.Reader) error {
	rest, err := io.ReadAll(r)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("more came: %.60q", rest)
	}
	return err
}

// reset ends a connection with a RST.
func reset(conn net.Conn) error {
	switch c := conn.(type) {
	case *net.TCPConn:
		return errors.Join(c.SetLinger(0), c.Close())
	case *tls.Conn:
		return reset(c.NetConn())
	}
	return conn.Close()
}

// isReset tells whether the error is that of a connection that was reset.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// mqttConnect is a CONNECT of MQTT 3.1.1 with a user name.
func mqttConnect(user string) string {
	rest := "\x00\x04MQTT\x04\x82\x00\x3c" + "\x00\x01x" + string([]byte{0, byte(len(user))}) + user
	return string([]byte{0x10, byte(len(rest))}) + rest
}

// mqttAccepted is the CONNACK of a broker that lets the client in, mqttUnavailable the
// one of a front without a broker (§3.2.2.3), and mqttDisconnect the client's good-bye.
const (
	mqttAccepted    = "\x20\x02\x00\x00"
	mqttUnavailable = "\x20\x02\x00\x03"
	mqttDisconnect  = "\xe0\x00"
)

// polite are conversations that every listener serves, whatever others do to it.
func (g *gate) polite() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"tcp":   func(ctx context.Context) error { return g.echo(ctx, "tcp", "") },
		"named": func(ctx context.Context) error { return g.echo(ctx, "named", "e USER alice\n") },
		"behind": func(ctx context.Context) error {
			conn, err := g.dial(ctx, "behind")
			if err != nil {
				return err
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n"); err != nil {
				return err
			}
			return exchange(conn, "echo")
		},
		"mqtt": func(ctx context.Context) error {
			conn, err := g.dial(ctx, "mqtt")
			if err != nil {
				return err
			}
			defer conn.Close()
			return talkMQTT(conn)
		},
		"mqtts": func(ctx context.Context) error {
			conn, err := g.dialTLS(ctx, "mqtts", endedName, "mqtt")
			if err != nil {
				return err
			}
			defer conn.Close()
			return talkMQTT(conn)
		},
		"tls":    func(ctx context.Context) error { return g.echoTLS(ctx, endedName) },
		"passed": func(ctx context.Context) error { return g.echoTLS(ctx, passedName) },
		"ws":     func(ctx context.Context) error { return g.echoWS(ctx, "ws") },
		"wss":    func(ctx context.Context) error { return g.echoWS(ctx, "wss") },
		"xmpp":   g.talkSTARTTLS,
		"xmpps": func(ctx context.Context) error {
			conn, err := g.dialTLS(ctx, "xmpps", endedName, "xmpp-client")
			if err != nil {
				return err
			}
			defer conn.Close()
			return openXMPP(conn, "</stream:features>")
		},
		"quic":    func(ctx context.Context) error { return g.echoQUIC(ctx, 1) },
		"nowhere": g.refused,
	}
}

// echo has something come back, and the end.
func (g *gate) echo(ctx context.Context, listener, first string) error {
	conn, err := g.dial(ctx, listener)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := exchange(conn, first+"echo"); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	return expectEnd(conn)
}

func talkMQTT(conn io.ReadWriter) error {
	if _, err := io.WriteString(conn, mqttConnect("alice")); err != nil {
		return err
	}
	if err := expect(conn, mqttAccepted); err != nil {
		return err
	}
	_, err := io.WriteString(conn, mqttDisconnect)
	return err
}

func (g *gate) echoTLS(ctx context.Context, name string) error {
	conn, err := g.dialTLS(ctx, "tls", name)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := exchange(conn, "echo"); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	return expectEnd(conn)
}

func (g *gate) echoWS(ctx context.Context, listener string) error {
	ws, err := g.dialWS(ctx, listener)
	if err != nil {
		return err
	}
	defer ws.CloseNow()
	if err := ws.Write(ctx, websocket.MessageBinary, []byte("echo")); err != nil {
		return err
	}
	kind, got, err := ws.Read(ctx)
	if err != nil {
		return err
	}
	if kind != websocket.MessageBinary || string(got) != "echo" {
		return fmt.Errorf("read %v %.60q", kind, got)
	}
	return ws.Close(websocket.StatusNormalClosure, "")
}

// echoQUIC has something come back on each of some streams of one connection, and the
// end.
func (g *gate) echoQUIC(ctx context.Context, streams int) error {
	conn, err := g.dialQUIC(ctx, "quic", "echo")
	if err != nil {
		return err
	}
	defer conn.CloseWithError(0, "")
	for range streams {
		stream, err := conn.OpenStreamSync(ctx)
		if err != nil {
			return err
		}
		if err := exchange(stream, "echo"); err != nil {
			return err
		}
		if err := errors.Join(stream.Close(), expectEnd(stream)); err != nil {
			return err
		}
	}
	return nil
}

// refused is told that there is no broker.
func (g *gate) refused(ctx context.Context) error {
	conn, err := g.dial(ctx, "nowhere")
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, mqttConnect("alice")); err != nil {
		return err
	}
	return errors.Join(expect(conn, mqttUnavailable), expectEnd(conn))
}

const streamHeader = "<?xml version='1.0'?><stream:stream to='" + endedName +
	"' version='1.0' xmlns='jabber:client' xmlns:stream='" + nsStreams + "'>"

// openXMPP opens a stream and reads as far as that.
func openXMPP(conn io.ReadWriter, until string) error {
	if _, err := io.WriteString(conn, streamHeader); err != nil {
		return err
	}
	return skipTo(conn, until)
}

// skipTo reads up to a text.
func skipTo(r io.Reader, text string) error {
	_, err := readTo(r, text)
	return err
}

// readTo reads up to one of some texts, and returns what it has read.
func readTo(r io.Reader, texts ...string) (string, error) {
	var got []byte
	buf := make([]byte, 2048)
	for {
		n, err := r.Read(buf)
		got = append(got, buf[:n]...)
		for _, text := range texts {
			if bytes.Contains(got, []byte(text)) {
				return string(got), nil
			}
		}
		if err != nil {
			return "", fmt.Errorf("after %.200q: %w", got, err)
		}
	}
}

// startTLS opens a stream and takes it as far as TLS may begin.
func (g *gate) startTLS(ctx context.Context) (*net.TCPConn, error) {
	conn, err := g.dial(ctx, "xmpp")
	if err != nil {
		return nil, err
	}
	err = openXMPP(conn, "</stream:features>")
	if err == nil {
		_, err = io.WriteString(conn, "<starttls xmlns='"+nsTLS+"'/>")
	}
	if err == nil {
		err = skipTo(conn, "<proceed")
	}
	if err != nil {
		_ = conn.Close()
	}
	return conn, err
}

// talkSTARTTLS comes as far as the features after TLS.
func (g *gate) talkSTARTTLS(ctx context.Context) error {
	conn, err := g.startTLS(ctx)
	if err != nil {
		return err
	}
	secure := tls.Client(conn, g.tls(endedName))
	defer secure.Close()
	if err := secure.HandshakeContext(ctx); err != nil {
		return err
	}
	return openXMPP(secure, "</stream:features>")
}

// usage is what the front's process holds.
type usage struct {
	goroutines, files int
	heap, resident    int // bytes; of the heap, what is reachable and what has not been swept
}

// usage looks once.
func (g *gate) usage(t *testing.T) (u usage, collections float64) {
	t.Helper()
	u.goroutines = int(metric(t, g.admin, "go_goroutines"))
	u.heap = int(metric(t, g.admin, "go_memstats_heap_alloc_bytes"))
	collections = metric(t, g.admin, "go_gc_duration_seconds_count")
	files, err := os.ReadDir(filepath.Join("/proc", fmt.Sprint(g.pid()), "fd"))
	if err != nil {
		t.Fatal(err)
	}
	u.files = len(files)
	u.resident = g.resident(t)
	return u, collections
}

// resident is how much memory the front's process has.
func (g *gate) resident(t *testing.T) int {
	t.Helper()
	n, err := g.memory()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// memory is resident for any goroutine.
func (g *gate) memory() (int, error) {
	status, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(g.pid()), "status"))
	if err != nil {
		return 0, err
	}
	var kB int
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	if _, err := fmt.Sscan(after, &kB); err != nil {
		return 0, fmt.Errorf("VmRSS: %w", err)
	}
	return kB << 10, nil
}
