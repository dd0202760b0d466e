package backend_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"imlb/backend"
	"imlb/backend/bus"
	"imlb/backend/store"
	"imlb/backend/store/storetest"
	"imlb/backend/xmpp"
)

const (
	domain   = "example.com"
	password = "pencil"
	patience = 20 * time.Second // before a test gives up waiting
)

var trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func partition(user string) uint16 { return uint16(xxhash.Sum64String(user)) }

// memBus carries signals among the nodes of a test, in order.
type memBus struct {
	mu    sync.Mutex
	nodes []*memBusNode
	cut   func(bus.Signal) bool // signals that are lost
	most  int                   // bytes of the data of a signal; 0: any
	open  int                   // signals that are on their way
}

// memBusNode is one node's end.
type memBusNode struct {
	bus    *memBus
	handle bus.Handler
	hosted map[uint16]int // guarded by bus.mu
	cutOff bool           // as well: it hears nothing, and is not heard
	queue  chan bus.Signal
	done   sync.WaitGroup
}

func (b *memBus) node(handle bus.Handler) *memBusNode {
	n := &memBusNode{bus: b, handle: handle, hosted: make(map[uint16]int), queue: make(chan bus.Signal, 100_000)}
	b.mu.Lock()
	b.nodes = append(b.nodes, n)
	b.mu.Unlock()
	n.done.Go(func() {
		for sig := range n.queue {
			n.handle(sig)
			b.mu.Lock()
			b.open--
			b.mu.Unlock()
		}
	})
	return n
}

// lose has signals lost from now on.
func (b *memBus) lose(which func(bus.Signal) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cut = which
}

// kill makes a node hear nothing from now on, and not be heard.
func (b *memBus) kill(node int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes[node].cutOff = true
}

// quiet tells whether all signals have been handled, and those that they have led to.
func (b *memBus) quiet() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open == 0
}

func (b *memBus) close() {
	b.mu.Lock()
	nodes := b.nodes
	b.nodes = nil
	b.mu.Unlock()
	for _, n := range nodes {
		close(n.queue)
		n.done.Wait()
	}
}

func (n *memBusNode) Publish(sig bus.Signal) error {
	n.bus.mu.Lock()
	defer n.bus.mu.Unlock()
	switch {
	case n.bus.most > 0 && len(sig.Data) > n.bus.most:
		return bus.ErrTooLarge
	case n.cutOff, n.bus.cut != nil && n.bus.cut(sig):
		return nil
	}
	for _, other := range n.bus.nodes {
		if other.hosted[sig.Partition] > 0 && !other.cutOff {
			copied := sig
			copied.Data = bytes.Clone(sig.Data)
			n.bus.open++
			other.queue <- copied
		}
	}
	return nil
}

func (n *memBusNode) Host(p uint16) error {
	n.bus.mu.Lock()
	defer n.bus.mu.Unlock()
	n.hosted[p]++
	return nil
}

func (n *memBusNode) Unhost(p uint16) {
	n.bus.mu.Lock()
	defer n.bus.mu.Unlock()
	n.hosted[p]--
}

// cluster is some nodes on one store.
type cluster struct {
	t     testing.TB
	store store.Store
	bus   *memBus
	nodes []*testNode
	tune  func(*backend.Options)
}

type testNode struct {
	*backend.Node
	addr    string
	stop    context.CancelFunc
	served  chan error
	metrics *prometheus.Registry
	log     *logBuffer
	stopped bool
}

// logBuffer collects what a node logs.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// newCluster starts nodes; alice, bob and carol have accounts.
func newCluster(tb testing.TB, nodes int, tune func(*backend.Options)) *cluster {
	tb.Helper()
	c := &cluster{t: tb, store: storetest.NewMemory(), bus: &memBus{}, tune: tune}
	for _, name := range []string{"alice", "bob", "carol"} {
		c.account(name)
	}
	for i := range nodes {
		c.startNode(fmt.Sprintf("node-%d", i+1))
	}
	tb.Cleanup(func() {
		for _, n := range c.nodes {
			c.stopNode(n)
		}
		c.bus.close()
	})
	return c
}

var credentials = sync.OnceValues(func() ([]store.Credential, error) {
	return backend.DeriveCredentials(password, 4096)
})

func (c *cluster) account(name string) store.Account {
	c.t.Helper()
	creds, err := credentials()
	if err != nil {
		c.t.Fatal(err)
	}
	a, err := c.store.CreateAccount(c.t.Context(), name+"@"+domain, creds)
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

func (c *cluster) startNode(name string) *testNode {
	c.t.Helper()
	n := &testNode{served: make(chan error, 1), log: &logBuffer{}, metrics: prometheus.NewRegistry()}
	end := c.bus.node(func(sig bus.Signal) { n.Signal(sig) })
	o := backend.Options{
		Name: name, Domain: domain, Store: c.store, Bus: end, Partition: partition,
		TrustedFronts:   trusted,
		ScramIterations: 4096, Registerer: n.metrics,
		Logger: slog.New(slog.NewTextHandler(n.log, nil)),
	}
	if c.tune != nil {
		c.tune(&o)
	}
	node, err := backend.New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	n.Node = node
	var lc net.ListenConfig
	ln, err := lc.Listen(c.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	n.addr = ln.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	n.stop = stop
	go func() { n.served <- n.Serve(ctx, ln) }()
	c.nodes = append(c.nodes, n)
	return n
}

func (c *cluster) stopNode(n *testNode) {
	c.t.Helper()
	if n.stopped {
		return
	}
	n.stopped = true
	n.stop()
	select {
	case err := <-n.served:
		if err != nil {
			c.t.Errorf("serve: %v", err)
		}
	case <-time.After(patience):
		c.t.Error("the node does not stop")
	}
	if c.t.Failed() {
		c.t.Logf("log of the node:\n%s", n.log)
	}
}

// client speaks XMPP to a node as a front would on behalf of a client.
type client struct {
	t       testing.TB
	c       *cluster
	conn    net.Conn
	scanner *xmpp.Scanner
	buf     []byte
	rest    []byte
	early   []xmpp.Token // read, and not looked at yet
	jid     string
}

// leg is what a front says in its PROXY header.
type leg struct {
	local    bool
	insecure bool // the client's leg has no TLS
	foreign  bool // the front is not one of ours
	more     []proxyproto.TLV
	settle   string
	id       string           // of the client's connection; conn-1 by default
	source   string           // of the client; 192.0.2.7 by default
	cert     []proxyproto.TLV // not nil: a certificate was verified; in the field about TLS
	raw      []byte           // instead of a header
}

func (c *cluster) dial(node int, l leg) *client {
	c.t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(c.t.Context(), "tcp", c.nodes[node].addr)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	cl := &client{t: c.t, c: c, conn: conn, scanner: xmpp.NewScanner(xmpp.Limits{}), buf: make([]byte, 64<<10)}
	if l.raw == nil {
		l.raw = proxyHeader(c.t, conn, l)
	}
	cl.write(string(l.raw))
	return cl
}

func proxyHeader(tb testing.TB, conn net.Conn, l leg) []byte {
	tb.Helper()
	source := &net.TCPAddr{IP: net.ParseIP(cmp.Or(l.source, "192.0.2.7")), Port: 49152}
	header := proxyproto.HeaderProxyFromAddrs(2, source, conn.RemoteAddr())
	if l.local {
		header.Command = proxyproto.LOCAL
		header.TransportProtocol = proxyproto.UNSPEC
	}
	tlvs := []proxyproto.TLV{
		{Type: proxyproto.PP2_TYPE_UNIQUE_ID, Value: []byte(cmp.Or(l.id, "conn-1"))},
	}
	if !l.foreign {
		tlvs = append(tlvs, proxyproto.TLV{Type: 0xE0, Value: []byte("tls")})
	}
	if !l.insecure {
		ssl := tlvparse.PP2SSL{
			Client: tlvparse.PP2_BITFIELD_CLIENT_SSL, Verify: 1,
			TLV: []proxyproto.TLV{{Type: proxyproto.PP2_SUBTYPE_SSL_VERSION, Value: []byte("TLSv1.3")}},
		}
		if l.cert != nil {
			ssl.Verify = 0
			ssl.Client |= tlvparse.PP2_BITFIELD_CLIENT_CERT_CONN | tlvparse.PP2_BITFIELD_CLIENT_CERT_SESS
			ssl.TLV = append(ssl.TLV, l.cert...)
		}
		tlv, err := ssl.Marshal()
		if err != nil {
			tb.Fatal(err)
		}
		tlvs = append(tlvs, tlv)
	}
	tlvs = append(tlvs, l.more...)
	if l.settle != "" {
		tlvs = append(tlvs, proxyproto.TLV{Type: 0xE2, Value: []byte(l.settle)})
	}
	if !l.local {
		if err := header.SetTLVs(tlvs); err != nil {
			tb.Fatal(err)
		}
	}
	raw, err := header.Format()
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

// returns connects a client that has logged in and not bound a resource.
func (c *cluster) returns(node int, name string) *client { return c.returnsOn(node, leg{}, name) }

// returnsOn is returns by way of a front that says something else.
func (c *cluster) returnsOn(node int, l leg, name string) *client {
	c.t.Helper()
	cl := c.dial(node, l)
	cl.open()
	cl.write("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" +
		base64.StdEncoding.EncodeToString([]byte("\x00"+name+"\x00"+password)) + "</auth>")
	cl.expect("^<success ")
	cl.scanner.Reset()
	cl.open()
	cl.jid = name
	return cl
}

// login connects a client and binds a resource.
func (c *cluster) login(node int, name, resource string) *client {
	c.t.Helper()
	cl := c.returns(node, name)
	cl.write("<iq type='set' id='bind-1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>" + resource + "</resource></bind></iq>")
	reply := cl.expect("^<iq type='result' id='bind-1'")
	cl.jid = between(reply, "<jid>", "</jid>")
	if want := name + "@" + domain + "/" + resource; cl.jid != want {
		c.t.Fatalf("bound %q, want %q", cl.jid, want)
	}
	return cl
}

// online is login with initial presence; it returns when the client has its own
// presence, and all have heard of it and been asked for theirs.
func (c *cluster) online(node int, name, resource string) *client {
	c.t.Helper()
	cl := c.login(node, name, resource)
	cl.write("<presence/>")
	cl.expect("^<presence[^>]* from='" + regexp.QuoteMeta(cl.jid) + "'")
	cl.write("<iq type='get' id='online' to='" + domain + "'><ping xmlns='urn:xmpp:ping'/></iq>") // others are asked after that
	var others []xmpp.Token
	for {
		tok := cl.token()
		if strings.HasPrefix(string(tok.Raw), "<iq type='result' id='online'") {
			break
		}
		others = append(others, tok)
	}
	cl.early = others
	c.quiet()
	return cl
}

// quiet returns when all have heard of what was done so far.
func (c *cluster) quiet() {
	c.t.Helper()
	c.eventually("signals are handled", c.bus.quiet)
}

// gone returns when a user has no session, and all have heard of that.
func (c *cluster) gone(name string) {
	c.t.Helper()
	c.eventually(name+" is gone", func() bool { return len(c.sessions(name)) == 0 })
	c.quiet()
}

const streamHeader = "<?xml version='1.0'?><stream:stream to='" + domain + "' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"

func (cl *client) open() string {
	cl.t.Helper()
	cl.write(streamHeader)
	return cl.opened()
}

// opened returns the features of a stream that the client has opened.
func (cl *client) opened() string {
	cl.t.Helper()
	tok := cl.token()
	if tok.Kind != xmpp.KindOpen {
		cl.t.Fatalf("got %q instead of a stream header", tok.Raw)
	}
	return cl.expect("^<stream:features>")
}

func (cl *client) write(s string) {
	cl.t.Helper()
	_ = cl.conn.SetWriteDeadline(time.Now().Add(patience))
	if _, err := cl.conn.Write([]byte(s)); err != nil {
		cl.t.Fatalf("write %q: %v", s, err)
	}
}

// read returns the next token; the error is the connection's.
func (cl *client) read() (xmpp.Token, error) {
	if len(cl.early) > 0 {
		tok := cl.early[0]
		cl.early = cl.early[1:]
		return tok, nil
	}
	for {
		for len(cl.rest) > 0 {
			tok, rest, err := cl.scanner.Next(cl.rest)
			cl.rest = rest
			if err != nil {
				return tok, err
			}
			if tok.Kind != xmpp.KindNone && tok.Kind != xmpp.KindSpace {
				tok.Raw = bytes.Clone(tok.Raw)
				return tok, nil
			}
		}
		_ = cl.conn.SetReadDeadline(time.Now().Add(patience))
		n, err := cl.conn.Read(cl.buf)
		cl.rest = cl.buf[:n]
		if n == 0 && err != nil {
			return xmpp.Token{}, err
		}
	}
}

func (cl *client) token() xmpp.Token {
	cl.t.Helper()
	tok, err := cl.read()
	if err != nil {
		cl.t.Fatalf("%s: read: %v", cl.jid, err)
	}
	return tok
}

// next returns the next element.
func (cl *client) next() string {
	cl.t.Helper()
	tok := cl.token()
	if tok.Kind != xmpp.KindElement {
		cl.t.Fatalf("%s: got %q instead of an element", cl.jid, tok.Raw)
	}
	return string(tok.Raw)
}

// expect requires that the next element matches.
func (cl *client) expect(pattern string) string {
	cl.t.Helper()
	got := cl.next()
	if !regexp.MustCompile(pattern).MatchString(got) {
		cl.t.Fatalf("%s: got\n\t%s\nwant\n\t%s", cl.jid, got, pattern)
	}
	return got
}

// expectAll requires that the next elements match, each one pattern, in any order.
func (cl *client) expectAll(patterns ...string) []string {
	cl.t.Helper()
	var all []string
	left := slices.Clone(patterns)
	for len(left) > 0 {
		got := cl.next()
		i := slices.IndexFunc(left, func(p string) bool { return regexp.MustCompile(p).MatchString(got) })
		if i < 0 {
			cl.t.Fatalf("%s: got\n\t%s\nwant one of\n\t%s", cl.jid, got, strings.Join(left, "\n\t"))
		}
		left = slices.Delete(left, i, i+1)
		all = append(all, got)
	}
	return all
}

// skipTo reads until an element matches.
func (cl *client) skipTo(pattern string) string {
	cl.t.Helper()
	re := regexp.MustCompile(pattern)
	for {
		if got := cl.next(); re.MatchString(got) {
			return got
		}
	}
}

// skipToAll reads until each pattern has matched an element.
func (cl *client) skipToAll(patterns ...string) {
	cl.t.Helper()
	left := slices.Clone(patterns)
	for len(left) > 0 {
		got := cl.next()
		left = slices.DeleteFunc(left, func(p string) bool { return regexp.MustCompile(p).MatchString(got) })
	}
}

// end requires that the node ends the stream, with a stream error of that
// condition unless it is empty.
func (cl *client) end(condition string) {
	cl.t.Helper()
	if condition != "" {
		cl.expect("^<stream:error.*<" + condition + " ")
	}
	if tok := cl.token(); tok.Kind != xmpp.KindClose {
		cl.t.Fatalf("%s: got %q instead of the end", cl.jid, tok.Raw)
	}
}

// gone requires that the node closes the connection without another word.
func (cl *client) gone() {
	cl.t.Helper()
	tok, err := cl.read()
	var timeout net.Error
	if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		cl.t.Fatalf("got %q, %v instead of a close", tok.Raw, err)
	}
}

// close ends the client's stream properly. It returns when nothing is left of the session.
func (cl *client) close() {
	cl.t.Helper()
	cl.write("</stream:stream>")
	for {
		tok, err := cl.read()
		if err != nil {
			cl.t.Fatalf("%s: no end of stream: %v", cl.jid, err)
		}
		if tok.Kind == xmpp.KindClose {
			break
		}
	}
	cl.over()
}

// over returns when nothing is left of the session, whose stream has ended, and all have
// heard of that. The node takes nothing more then, not even space.
func (cl *client) over() {
	cl.t.Helper()
	cl.gone()
	cl.c.eventually("the connection is closed", func() bool {
		_, err := cl.conn.Write([]byte(" "))
		return err != nil
	})
	_ = cl.conn.Close()
	cl.c.quiet()
}

// sync returns when the node has handled all that was written so far.
func (cl *client) sync() {
	cl.t.Helper()
	cl.write("<iq type='get' id='sync' to='" + domain + "'><ping xmlns='urn:xmpp:ping'/></iq>")
	cl.expect("^<iq type='result' id='sync'")
}

// syncWith returns when what was written so far has come to the node of another client
// as well, of which it reads what that got until then.
func (cl *client) syncWith(other *client) {
	cl.t.Helper()
	cl.write("<message to='" + other.jid + "' type='headline' id='sync'/>")
	other.skipTo("^<message.* id='sync'")
}

func between(s, before, after string) string {
	_, s, _ = strings.Cut(s, before)
	s, _, _ = strings.Cut(s, after)
	return s
}

// eventually waits for a condition that something else brings about.
func (c *cluster) eventually(what string, ok func() bool) {
	c.t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-ticker.C:
		case <-deadline:
			c.t.Fatalf("never: %s", what)
		}
	}
}

// sessions returns what the store knows of a user's sessions.
func (c *cluster) sessions(name string) []store.Session {
	c.t.Helper()
	a, err := c.store.Account(c.t.Context(), name+"@"+domain)
	if err != nil {
		c.t.Fatal(err)
	}
	all, err := c.store.SessionsOf(c.t.Context(), a.Owner)
	if err != nil {
		c.t.Fatal(err)
	}
	return all
}

// head returns the numbers of a user's timeline.
func (c *cluster) head(name string) (head, delivered uint64) {
	c.t.Helper()
	a, err := c.store.Account(c.t.Context(), name+"@"+domain)
	if err != nil {
		c.t.Fatal(err)
	}
	head, delivered, err = c.store.Head(c.t.Context(), a.Owner)
	if err != nil {
		c.t.Fatal(err)
	}
	return head, delivered
}
