package chatload_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/xdg-go/scram"
	"go.uber.org/goleak"

	"imlb/backend/chatload"
	"imlb/backend/xmpp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const domain = "example.com"

// fake is a server that knows just enough, and does harm on demand. Any user is let in
// whose password is the name.
type fake struct {
	t     *testing.T
	addr  string
	tls   *tls.Config
	roots *x509.CertPool

	unmanaged bool                                // no XEP-0198
	route     func(f *fake, from, to, raw string) // instead of delivery
	ack       func(n uint32) uint32               // what is acknowledged instead of n
	page      func(asked int) int                 // how many entries a page has
	entry     func(i int) string                  // the id of the message in an entry of a page
	greet     func(c *fakeConn)                   // before a login is answered
	mechs     []string                            // default: all

	serving sync.WaitGroup
	mu      sync.Mutex
	conns   map[string]*fakeConn // by full address
	keys    map[string]scram.StoredCredentials
	last    int
	resumed int
}

// fakeConn is one client.
type fakeConn struct {
	f       *fake
	conn    net.Conn
	scanner *xmpp.Scanner
	rest    []byte
	user    string
	jid     string
	got     uint32
	counts  bool
	wmu     sync.Mutex
}

// newFake starts a server; tune may change it before anybody comes.
func newFake(t *testing.T, tune func(*fake)) *fake {
	t.Helper()
	f := &fake{t: t, conns: make(map[string]*fakeConn), keys: make(map[string]scram.StoredCredentials), mechs: []string{"SCRAM-SHA-512", "SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN"}}
	f.makeTLS()
	if tune != nil {
		tune(f)
	}
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = ln.Addr().String()
	f.serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			f.serving.Go(func() { f.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		f.serving.Wait()
	})
	return f
}

func (f *fake) makeTLS() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{domain}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		f.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		f.t.Fatal(err)
	}
	f.tls = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	f.roots = x509.NewCertPool()
	f.roots.AddCert(cert)
}

// options are of a short run without TLS.
func (f *fake) options(users int) chatload.Options {
	o := chatload.Default()
	o.Servers, o.Domain, o.TLS, o.TLSConfig = []string{f.addr}, domain, chatload.NoTLS, &tls.Config{RootCAs: f.roots}
	o.Warmup, o.Duration, o.Settle = 20*time.Millisecond, 200*time.Millisecond, 10*time.Millisecond
	for i := range users {
		name := fmt.Sprintf("user%d", i+1)
		o.Accounts = append(o.Accounts, chatload.Account{Name: name, Password: name})
	}
	return o
}

func (f *fake) serve(conn net.Conn) {
	c := &fakeConn{f: f, conn: conn, scanner: xmpp.NewScanner(xmpp.Limits{})}
	defer func() { _ = c.conn.Close() }()
	defer func() {
		f.mu.Lock()
		delete(f.conns, c.jid)
		f.mu.Unlock()
	}()
	for {
		tok, err := c.next()
		switch {
		case err != nil:
			return
		case tok.Kind == xmpp.KindClose:
			c.say(xmpp.StreamEnd)
			return
		case tok.Kind == xmpp.KindOpen:
			c.features()
		case tok.Kind == xmpp.KindElement:
			c.element(string(tok.Raw))
		}
	}
}

func (c *fakeConn) next() (xmpp.Token, error) {
	for {
		tok, rest, err := c.scanner.Next(c.rest)
		if err != nil {
			return tok, err
		}
		if c.rest = rest; tok.Kind != xmpp.KindNone {
			return tok, nil
		}
		buf := make([]byte, 4096)
		n, err := c.conn.Read(buf)
		if c.rest = buf[:n]; n == 0 && err != nil {
			return tok, err
		}
	}
}

// say writes, whoever asks for it.
func (c *fakeConn) say(format string, values ...any) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	_, _ = fmt.Fprintf(c.conn, format, values...)
}

func (c *fakeConn) features() {
	c.say("<?xml version='1.0'?><stream:stream from='%s' id='1' version='1.0' xmlns='jabber:client' xmlns:stream='%s'><stream:features>", domain, xmpp.NSStream)
	_, secure := c.conn.(*tls.Conn)
	switch {
	case c.user != "":
		c.say("<bind xmlns='%s'/>", xmpp.NSBind)
		if !c.f.unmanaged {
			c.say("<sm xmlns='%s'/>", xmpp.NSSM)
		}
	default:
		if !secure {
			c.say("<starttls xmlns='%s'/>", xmpp.NSTLS)
		}
		c.say("<mechanisms xmlns='%s'><mechanism>%s</mechanism></mechanisms>", xmpp.NSSASL, strings.Join(c.f.mechs, "</mechanism><mechanism>"))
	}
	c.say("</stream:features>")
}

func (c *fakeConn) element(raw string) {
	e, err := xmpp.ParseElement([]byte(raw))
	if err != nil {
		return
	}
	switch e.Local() {
	case "starttls":
		c.say("<proceed xmlns='%s'/>", xmpp.NSTLS)
		conn := tls.Server(c.conn, c.f.tls)
		c.conn = conn
		c.scanner.Reset()
		if conn.Handshake() == nil && conn.ConnectionState().DidResume {
			c.f.mu.Lock()
			c.f.resumed++
			c.f.mu.Unlock()
		}
	case "auth":
		c.auth(e)
	case "enable":
		c.counts = true
		c.say("<enabled xmlns='%s'/>", xmpp.NSSM)
	case "r":
		n := c.got
		if c.f.ack != nil {
			n = c.f.ack(n)
		}
		c.say("<a xmlns='%s' h='%d'/>", xmpp.NSSM, n)
	case "message", "presence", "iq":
		if c.counts {
			c.got++
		}
		c.stanza(e)
	}
}

// auth lets in whose password is the name.
func (c *fakeConn) auth(e xmpp.Element) {
	frame, _, err := xmpp.ParseSASL(e.Raw())
	if err != nil {
		return
	}
	if c.f.greet != nil {
		c.f.greet(c)
	}
	user, data := "", []byte(nil)
	if frame.Mechanism == "PLAIN" {
		parts := strings.Split(string(frame.Payload), "\x00")
		if len(parts) == 3 && parts[1] == parts[2] {
			user = parts[1]
		}
	} else {
		user, data = c.scram(frame)
	}
	if user == "" {
		c.say("<failure xmlns='%s'><not-authorized/></failure>", xmpp.NSSASL)
		return
	}
	c.user = user
	c.scanner.Reset()
	c.say("%s", xmpp.SASLFrame{Kind: xmpp.SASLSuccess, Payload: data, HasPayload: len(data) > 0}.Append(nil))
}

func (c *fakeConn) scram(first xmpp.SASLFrame) (user string, final []byte) {
	hash := map[string]scram.HashGeneratorFcn{"SCRAM-SHA-1": scram.SHA1, "SCRAM-SHA-256": scram.SHA256, "SCRAM-SHA-512": scram.SHA512}[first.Mechanism]
	server, err := hash.NewServer(func(name string) (scram.StoredCredentials, error) {
		return c.f.stored(first.Mechanism, hash, name)
	})
	if err != nil {
		return "", nil
	}
	talk := server.NewConversation()
	said, err := talk.Step(string(first.Payload))
	if err != nil {
		return "", nil
	}
	c.say("%s", xmpp.SASLFrame{Kind: xmpp.SASLChallenge, Payload: []byte(said), HasPayload: true}.Append(nil))
	tok, err := c.next()
	if err != nil {
		return "", nil
	}
	answer, _, err := xmpp.ParseSASL(tok.Raw)
	if err != nil {
		return "", nil
	}
	if said, err = talk.Step(string(answer.Payload)); err != nil || !talk.Valid() {
		return "", nil
	}
	return talk.Username(), []byte(said)
}

// stored derives a user's keys once.
func (f *fake) stored(mechanism string, hash scram.HashGeneratorFcn, name string) (scram.StoredCredentials, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if keys, ok := f.keys[mechanism+name]; ok {
		return keys, nil
	}
	client, err := hash.NewClient(name, name, "")
	if err != nil {
		return scram.StoredCredentials{}, err
	}
	keys, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "salt", Iters: 4096})
	f.keys[mechanism+name] = keys
	return keys, err
}

func (c *fakeConn) stanza(e xmpp.Element) {
	id, _ := e.Attr("id")
	switch {
	case e.Local() == "message":
		to, _ := e.Attr("to")
		if c.f.route != nil {
			c.f.route(c.f, c.jid, to, string(e.Raw()))
		} else {
			c.f.deliver(to, string(e.Raw()))
		}
	case strings.Contains(string(e.Raw()), xmpp.NSBind):
		c.f.mu.Lock()
		c.f.last++
		c.jid = fmt.Sprintf("%s@%s/r%d", c.user, domain, c.f.last)
		c.f.conns[c.jid] = c
		c.f.mu.Unlock()
		c.say("<iq type='result' id='%s'><bind xmlns='%s'><jid>%s</jid></bind></iq>", id, xmpp.NSBind, c.jid)
	case strings.Contains(string(e.Raw()), xmpp.NSMAM):
		c.archive(id)
	case strings.Contains(string(e.Raw()), xmpp.NSPing):
		c.say("<r xmlns='%s'/><iq type='get' id='back'><ping xmlns='%s'/></iq>", xmpp.NSSM, xmpp.NSPing)
		c.say("<iq type='result' id='%s'/>", id)
	}
}

func (c *fakeConn) archive(id string) {
	n := 50
	if c.f.page != nil {
		n = c.f.page(n)
	}
	name := c.f.entry
	if name == nil {
		name = strconv.Itoa
	}
	for i := range n {
		c.say("<message><result xmlns='%s' queryid='%s' id='1'><forwarded xmlns='%s'><message xmlns='jabber:client' id='%s'><body>x</body></message></forwarded></result></message>",
			xmpp.NSMAM, id, xmpp.NSForward, name(i))
	}
	c.say("<iq type='result' id='%s'><fin xmlns='%s'/></iq>", id, xmpp.NSMAM)
}

// deliver writes a message to whom it is addressed.
func (f *fake) deliver(to, raw string) {
	f.mu.Lock()
	c := f.conns[to]
	f.mu.Unlock()
	if c != nil {
		c.say("%s", raw)
	}
}

// run puts a load on the server.
func run(t *testing.T, o chatload.Options) *chatload.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := chatload.Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// runUntil runs until what is looked for was seen, for longer each time: a busy machine
// may get nothing done in a short one.
func runUntil(t *testing.T, o chatload.Options, seen func(*chatload.Result) bool) *chatload.Result {
	t.Helper()
	for {
		r := run(t, o)
		if !r.OK() || seen(r) || o.Duration > 10*time.Second {
			return r
		}
		o.Duration *= 2
	}
}
