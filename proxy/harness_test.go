package proxy_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/pires/go-proxyproto"
	"github.com/quic-go/quic-go"
	"go.uber.org/goleak"

	"imlb/backend/xmpp"
	"imlb/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what should come at once.
const patience = 20 * time.Second

// front is a running front and what a test needs to drive it.
type front struct {
	*proxy.Server
	t       testing.TB
	ca      *x509.CertPool
	records chan map[string]string
}

// startFront starts a front on free ports with one listener of each protocol,
// named like the protocol. change may alter its options.
func startFront(t testing.TB, picker proxy.Picker, change func(*proxy.Options)) *front {
	t.Helper()
	cert, ca := certificate(t)
	f := &front{t: t, ca: ca, records: make(chan map[string]string, 100)}
	opts := proxy.Options{
		Domains:    []string{"example.com"},
		TLS:        &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		Mechanisms: []string{"SCRAM-SHA-1", "PLAIN"},
		Pools:      map[string]proxy.Pool{"nodes": {Picker: picker, DialTimeout: patience}}, // a test may be kept waiting for long
		Timeouts:   proxy.Timeouts{Handshake: patience, Identify: patience, Shutdown: 5 * time.Second},
		Logger:     slog.New(&recorder{records: f.records}),
	}
	for _, p := range []proxy.Protocol{proxy.XMPP, proxy.XMPPS, proxy.WSS, proxy.QUIC} {
		opts.Listeners = append(opts.Listeners, proxy.Listener{
			Name: p.String(), Protocol: p, Address: "127.0.0.1:0", Pool: "nodes",
		})
	}
	if change != nil {
		change(&opts)
	}
	srv, err := proxy.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	f.Server = srv
	f.learn(opts.Pools)
	if err := srv.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	// t.Context ends before Cleanup, which would be the front's Shutdown.
	go func() { done <- srv.Serve(context.WithoutCancel(t.Context())) }()
	for srv.Serving() != nil && len(done) == 0 { // one that is stopped before that complains
		runtime.Gosched()
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		for {
			select {
			case <-f.records: // nobody reads what is left, and the front waits for that
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
				return
			}
		}
	})
	return f
}

// learn makes known what the nodes of pools offer, so that only those who log in ask
// them.
func (f *front) learn(pools map[string]proxy.Pool) {
	f.t.Helper()
	for pool := range pools {
		if err := f.Learn(pool, "example.com", nodeOffer); err != nil {
			f.t.Fatal(err)
		}
	}
}

// record returns the next line of the session log.
func (f *front) record() map[string]string {
	f.t.Helper()
	select {
	case r := <-f.records:
		return r
	case <-time.After(patience):
		f.t.Fatal("no session was recorded")
		return nil
	}
}

// ended waits for the next session to end and checks why.
func (f *front) ended(reason string) map[string]string {
	f.t.Helper()
	r := f.record()
	if r["reason"] != reason {
		f.t.Errorf("the session ended with %q (%s), want %q", r["reason"], r["cause"], reason)
	}
	return r
}

// leaves has a client close its connection, which ends its session in order.
func (f *front) leaves(client, leg *peer) map[string]string {
	f.t.Helper()
	client.close()
	leg.eof()
	leg.close()
	return f.ended("client-closed")
}

// recorder is a slog.Handler that keeps session lines.
type recorder struct{ records chan map[string]string }

func (*recorder) Enabled(context.Context, slog.Level) bool { return true }
func (r *recorder) WithAttrs([]slog.Attr) slog.Handler     { return r }
func (r *recorder) WithGroup(string) slog.Handler          { return r }
func (r *recorder) Handle(_ context.Context, rec slog.Record) error {
	if rec.Message != "session" {
		return nil
	}
	line := map[string]string{"level": rec.Level.String()}
	rec.Attrs(func(a slog.Attr) bool {
		if a.Value.Kind() == slog.KindGroup {
			for _, b := range a.Value.Group() {
				line[a.Key+"."+b.Key] = b.Value.String()
			}
			return true
		}
		line[a.Key] = a.Value.String()
		return true
	})
	r.records <- line
	return nil
}

// certificate makes a certificate for example.com and the pool that trusts it.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "example.com"},
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     []string{"example.com"},
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// place is a place on a picker's node.
type place struct {
	p    *picker
	node string
}

func (p place) Report(o proxy.Outcome) { p.p.note(p.node + ": " + o.String()) }
func (p place) Release()               { p.p.release() }

// picker gives each user a list of nodes.
type picker struct {
	mu       sync.Mutex
	nodes    map[string][]proxy.Node // by user; "" for all others
	live     int                     // picked and not released
	outcomes []string                // node: outcome
}

func (p *picker) Pick(_ context.Context, user string, tried []string) (proxy.Choice, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	nodes, ok := p.nodes[user]
	if !ok {
		nodes = p.nodes[""]
	}
	for _, n := range nodes {
		if !contains(tried, n.Name) {
			p.live++
			return proxy.Choice{Node: n, Place: place{p, n.Name}}, nil
		}
	}
	return proxy.Choice{}, proxy.ErrNoNode
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

func (p *picker) note(s string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outcomes = append(p.outcomes, s)
}

func (p *picker) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live--
}

// node is a listening address whose connections a test answers itself.
type node struct {
	t    testing.TB
	name string
	ln   net.Listener
}

func startNode(t testing.TB, name string) *node {
	t.Helper()
	ln, err := net.Listen("tcp", ownHost()+":0") // or another front may dial a node that is gone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return &node{t: t, name: name, ln: ln}
}

func (n *node) at() proxy.Node { return proxy.Node{Name: n.name, Addr: n.ln.Addr().String()} }

// onlyNode returns a node and a picker that gives it to all users.
func onlyNode(t testing.TB) (*node, *picker) {
	t.Helper()
	n := startNode(t, "one")
	return n, &picker{nodes: map[string][]proxy.Node{"": {n.at()}}}
}

// accept returns the next connection of the front, after its PROXY header.
func (n *node) accept() *peer {
	n.t.Helper()
	if err := n.ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
		n.t.Fatal(err)
	}
	raw, err := n.ln.Accept()
	if err != nil {
		n.t.Fatal(err)
	}
	conn := proxyproto.NewConn(raw)
	p := newPeer(n.t, conn)
	p.proxy = conn.ProxyHeader()
	if p.proxy == nil {
		n.t.Fatal("no PROXY header")
	}
	return p
}

const (
	streamOpen  = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='example.com' version='1.0'>"
	nodeHeader  = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' from='example.com' id='n' version='1.0'>"
	nodeOffer   = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism><mechanism>SCRAM-SHA-1</mechanism></mechanisms><settle xmlns='urn:imlb:front:0'/></stream:features>"
	nodeBind    = "<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>"
	plainOffer  = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>"
	frontOffer  = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1</mechanism><mechanism>PLAIN</mechanism></mechanisms></stream:features>"
	saslSuccess = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
)

// offer answers the front's stream header as a node does.
func (p *peer) offer() *peer {
	p.t.Helper()
	p.open()
	p.send(nodeHeader + nodeOffer)
	return p
}

// letsIn has a node hear how a client logs in, and say yes.
func (p *peer) letsIn(client *peer, auth string) {
	p.t.Helper()
	p.expect(auth)
	p.send(saslSuccess)
	client.expect(saslSuccess)
}

// peer is a test's end of a byte stream: a client on TCP, TLS or QUIC, or a node.
type peer struct {
	t     testing.TB
	conn  net.Conn
	scan  *xmpp.Scanner
	in    []byte
	proxy *proxyproto.Header
	ws    *websocket.Conn // set for a client on a WebSocket
}

func newPeer(t testing.TB, conn net.Conn) *peer {
	t.Cleanup(func() { conn.Close() })
	return &peer{t: t, conn: conn, scan: xmpp.NewScanner(xmpp.Limits{})}
}

func (p *peer) send(s string) {
	p.t.Helper()
	var err error
	if p.ws != nil {
		err = p.ws.Write(context.Background(), websocket.MessageText, []byte(s))
	} else {
		_, err = p.conn.Write([]byte(s))
	}
	if err != nil {
		p.t.Fatalf("send %s: %v", s, err)
	}
}

// token returns the next token.
func (p *peer) token() (xmpp.Token, error) {
	if p.ws != nil {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, msg, err := p.ws.Read(ctx)
		if websocket.CloseStatus(err) != -1 {
			err = io.EOF
		}
		return xmpp.Token{Kind: xmpp.KindElement, Raw: msg}, err
	}
	for {
		tok, rest, err := p.scan.Next(p.in)
		p.in = rest
		if err != nil || tok.Kind != xmpp.KindNone {
			return tok, err
		}
		if err := p.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return tok, err
		}
		buf := make([]byte, 4096)
		n, err := p.conn.Read(buf)
		p.in = buf[:n]
		if n == 0 && err != nil {
			return tok, err
		}
	}
}

var ids = regexp.MustCompile(`\bid='[0-9a-f]{32}'`)

// expect reads what must come next, all in one string.
func (p *peer) expect(want string) {
	p.t.Helper()
	var got bytes.Buffer
	for got.Len() < len(want) {
		tok, err := p.token()
		if err != nil {
			p.t.Fatalf("got %q and then %v, want %q", got.String(), err, want)
		}
		got.Write(ids.ReplaceAll(tok.Raw, []byte("id='ID'")))
	}
	if got.String() != want {
		p.t.Fatalf("got\n%s\nwant\n%s", got.String(), want)
	}
}

// open reads a stream header.
func (p *peer) open() string {
	p.t.Helper()
	tok, err := p.token()
	if err != nil || tok.Kind != xmpp.KindOpen {
		p.t.Fatalf("got %q and %v, want a stream header", tok.Raw, err)
	}
	return string(tok.Raw)
}

// element reads an element.
func (p *peer) element() string {
	p.t.Helper()
	tok, err := p.token()
	if err != nil || tok.Kind != xmpp.KindElement {
		p.t.Fatalf("got %q and %v, want an element", tok.Raw, err)
	}
	return string(tok.Raw)
}

// eof waits for the other side to end the connection.
func (p *peer) eof() {
	p.t.Helper()
	tok, err := p.token()
	if !errors.Is(err, io.EOF) {
		p.t.Fatalf("got %q and %v, want the end of the connection", tok.Raw, err)
	}
}

// close ends the connection.
func (p *peer) close() {
	if p.ws != nil {
		_ = p.ws.Close(websocket.StatusNormalClosure, "")
		return
	}
	_ = p.conn.Close()
}

// reset breaks a TCP connection.
func (p *peer) reset() {
	p.t.Helper()
	conn := p.conn
	if c, ok := conn.(*proxyproto.Conn); ok {
		conn = c.Raw()
	}
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		p.t.Fatal(err)
	}
	_ = conn.Close()
}

// frontHeader is the front's answer to streamOpen, with its id made known.
const frontHeader = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' from='example.com' id='ID' version='1.0' xml:lang='en'>"

func (f *front) addr(protocol string) string { return f.Addrs()[protocol].String() }

func (f *front) clientTLS(alpn ...string) *tls.Config {
	return &tls.Config{RootCAs: f.ca, ServerName: "example.com", NextProtos: alpn, MinVersion: tls.VersionTLS12}
}

// dialTCP returns a client in the clear.
func (f *front) dialTCP(protocol string) *peer {
	f.t.Helper()
	conn, err := net.DialTimeout("tcp", f.addr(protocol), patience)
	if err != nil {
		f.t.Fatal(err)
	}
	return newPeer(f.t, conn)
}

// dialTLS returns a client on direct TLS.
func (f *front) dialTLS() *peer {
	f.t.Helper()
	conn, err := tls.Dial("tcp", f.addr("xmpps"), f.clientTLS("xmpp-client"))
	if err != nil {
		f.t.Fatal(err)
	}
	return newPeer(f.t, conn)
}

// dialStartTLS returns a client after STARTTLS.
func (f *front) dialStartTLS() *peer {
	f.t.Helper()
	p := f.dialTCP("xmpp")
	p.send(streamOpen)
	p.expect(frontHeader + "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>")
	p.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
	p.expect("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
	return f.secure(p)
}

// secure makes a client on TCP one on TLS.
func (f *front) secure(p *peer) *peer {
	f.t.Helper()
	conn := tls.Client(p.conn, f.clientTLS())
	if err := conn.Handshake(); err != nil {
		f.t.Fatal(err)
	}
	return newPeer(f.t, conn)
}

// dialQUIC returns a QUIC connection; openQUIC a client on one of its streams.
func (f *front) dialQUIC() *quic.Conn {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := quic.DialAddr(ctx, f.addr("quic"), f.clientTLS("xmpp-client"), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	return conn
}

func (f *front) openQUIC(conn *quic.Conn) *peer {
	f.t.Helper()
	stream, err := conn.OpenStream()
	if err != nil {
		f.t.Fatal(err)
	}
	return newPeer(f.t, &quicClient{Stream: stream, Conn: conn})
}

// quicClient makes a net.Conn of a stream.
type quicClient struct {
	*quic.Stream
	*quic.Conn
}

func (c *quicClient) Context() context.Context { return c.Stream.Context() }

// dialWS returns a client on a WebSocket.
func (f *front) dialWS() *peer {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	transport := &http.Transport{TLSClientConfig: f.clientTLS()}
	ws, resp, err := websocket.Dial(ctx, "wss://"+f.addr("wss")+"/xmpp-websocket", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport}, Subprotocols: []string{"xmpp"},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	if resp.Body != nil {
		_ = resp.Body.Close()
	}
	f.t.Cleanup(func() { _ = ws.CloseNow() })
	return &peer{t: f.t, ws: ws}
}

// plain is an <auth/> with PLAIN.
func plain(user, password string) string {
	return "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" +
		base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+password)) + "</auth>"
}

// login brings a client on a byte stream, and the node, to the relay.
func login(client *peer, n *node, user string) *peer {
	client.t.Helper()
	client.send(streamOpen)
	client.expect(frontHeader + frontOffer)
	client.send(plain(user, "secret"))
	leg := n.accept().offer()
	leg.letsIn(client, plain(user, "secret"))
	client.scan.Reset()
	leg.scan.Reset()
	client.send(streamOpen)
	leg.open()
	leg.send(nodeHeader + nodeBind)
	client.expect(nodeHeader + nodeBind)
	return leg
}

// parsed returns what a certificate says.
func parsed(t testing.TB, c tls.Certificate) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
