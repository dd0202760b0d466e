package test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"testing"
)

const nsFAST = "urn:xmpp:fast:0"

// flights counts how often a connection was written to and then waited for.
type flights struct {
	net.Conn

	wrote bool
	count int
}

func (c *flights) Write(p []byte) (int, error) {
	c.wrote = true
	return c.Conn.Write(p)
}

func (c *flights) Read(p []byte) (int, error) {
	if c.wrote {
		c.count++
	}
	c.wrote = false
	return c.Conn.Read(p)
}

// fastClient is a client that comes back with a token (XEP-0484) bound to its TLS connection. What it
// says first goes out together.
type fastClient struct {
	t         *testing.T
	d         *dev
	a         account
	tls       *tls.Config
	token, id string // id is the session's
}

// dial opens a stream over direct TLS, whose flights are counted below the TLS.
func (c *fastClient) dial() (*stream, *flights) {
	c.t.Helper()
	counted := &flights{Conn: dial(c.t, c.d.Front.XMPPS)}
	conn := tls.Client(counted, c.tls)
	if err := conn.HandshakeContext(within(c.t, patience)); err != nil {
		c.t.Fatal(err)
	}
	if v := conn.ConnectionState().Version; v != tls.VersionTLS13 {
		c.t.Errorf("the front takes %s", tls.VersionName(v))
	}
	return newStream(c.t, conn), counted
}

// say writes a header and an authentication at once, and reads as far as <success/>.
func (c *fastClient) say(s *stream, mechanism, response, more string) (success element) {
	c.t.Helper()
	s.write("<stream:stream xmlns='jabber:client' xmlns:stream='%s' from='%s' to='%s' version='1.0'>"+
		"<authenticate xmlns='%s' mechanism='%s'><initial-response>%s</initial-response>"+
		"<user-agent id='d4565fa7-4d72-4749-b3d3-740edbf87770'/>%s</authenticate>",
		nsStreams, c.a.jid, c.d.Domain, nsSASL2, mechanism, response, more)
	s.readHeader()
	return s.readUntil("<success/>", func(e element) bool {
		if e.is(nsSASL2, "failure") {
			c.t.Fatalf("login with %s: %+v", mechanism, e)
		}
		return e.is(nsSASL2, "success")
	})
}

// login gets a token and a session that can be resumed.
func (c *fastClient) login() *stream {
	c.t.Helper()
	s, _ := c.dial()
	success := c.say(s, "PLAIN", plainPayload(c.a), "<request-token xmlns='"+nsFAST+"' mechanism='HT-SHA-256-EXPR'/>"+
		"<bind xmlns='"+nsBind2+"'><enable xmlns='"+nsSM+"' resume='true'/></bind>")
	c.token = success.child(nsFAST, "token").attr("token")
	c.id = success.child(nsBind2, "bound").child(nsSM, "enabled").attr("id")
	if c.token == "" || c.id == "" {
		c.t.Fatalf("no token, or no session that can be resumed: %+v", success)
	}
	s.write("<presence/>")
	s.readUntil("own presence", func(e element) bool { return e.XMLName.Local == "presence" })
	return s
}

// proof is what the token is proved by on a connection (XEP-0484 §4).
func (c *fastClient) proof(s *stream) string {
	c.t.Helper()
	state := s.conn.(*tls.Conn).ConnectionState()
	binding, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	if err != nil {
		c.t.Fatal(err)
	}
	mac := hmac.New(sha256.New, []byte(c.token))
	mac.Write(append([]byte("Initiator"), binding...))
	return base64.StdEncoding.EncodeToString(mac.Sum([]byte(c.a.name + "\x00")))
}

// testFlights: a client that has lost its connection waits twice, once for TLS and once for
// everything else: it logs in by its token, has its session back, and what it has missed.
// A TLS ticket saves the certificate but no flight, since a token may not be in early data (XEP-0484 §3.1).
func testFlights(t *testing.T, d *dev) {
	c := &fastClient{t: t, d: d, a: d.account(t), tls: d.tls(t, "xmpp-client")}
	b := d.dialTLS(t)
	b.session(d.Domain, "PLAIN", d.account(t))
	lost := c.login()
	c.tls.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for i := range 3 {
		_ = lost.conn.(*tls.Conn).NetConn().Close()
		b.says(c.a, i, i+1)
		s, counted := c.dial()
		if resumed := s.conn.(*tls.Conn).ConnectionState().DidResume; resumed != (i > 0) {
			t.Errorf("connection %d: TLS was resumed: %t", i, resumed)
		}
		if counted.count != 1 {
			t.Errorf("connection %d: %d flights for TLS", i, counted.count)
		}
		success := c.say(s, "HT-SHA-256-EXPR", c.proof(s), "<fast xmlns='"+nsFAST+"'/>"+
			fmt.Sprintf("<resume xmlns='%s' previd='%s' h='%d'/>", nsSM, c.id, 1+i))
		if got := success.child(nsSM, "resumed"); got.attr("previd") != c.id {
			t.Fatalf("connection %d: not resumed: %+v", i, success)
		}
		s.hears(i, i+1)
		if counted.count != 2 {
			t.Errorf("connection %d: %d flights in all", i, counted.count)
		}
		lost = s
	}
	lost.close()
	b.close()
}
