package backend_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"imlb/backend"
)

func TestFirstBytes(t *testing.T) {
	c := newCluster(t, 1, nil)
	log := func(reason string) {
		t.Helper()
		c.eventually("log line with "+reason, func() bool { return strings.Contains(c.nodes[0].log.String(), "reason="+reason) })
	}

	garbage := c.dial(0, leg{raw: []byte("GET / HTTP/1.1\r\n\r\n")})
	garbage.gone()
	log("proxy-header")

	old := c.dial(0, leg{raw: []byte("PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n")})
	old.gone()

	probe := c.dial(0, leg{local: true})
	probe.gone()
	if got := c.nodes[0].log.String(); strings.Contains(got, "probe") {
		t.Errorf("a health check is logged: %s", got)
	}

	left := c.dial(0, leg{})
	_ = left.conn.Close()
	log("gone-before-login")
}

func TestUntrustedPeer(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) {
		o.TrustedFronts = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	})
	cl := c.dial(0, leg{})
	cl.gone()
	c.eventually("log line", func() bool { return strings.Contains(c.nodes[0].log.String(), "reason=untrusted") })
}

func TestForeignDomain(t *testing.T) {
	c := newCluster(t, 1, nil)
	cl := c.dial(0, leg{})
	cl.write("<stream:stream to='example.net' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>")
	if header := string(cl.token().Raw); !strings.Contains(header, "from='example.com'") {
		t.Errorf("got %s", header)
	}
	cl.end("host-unknown")
}

func TestBrokenStreams(t *testing.T) {
	c := newCluster(t, 1, nil)
	for input, condition := range map[string]string{
		"<message><body></message>":                                         "not-well-formed",
		"<message from='bob@example.com'/>":                                 "invalid-from",
		"<hello xmlns='urn:example'/>":                                      "unsupported-stanza-type",
		"<message xmlns='jabber:server'/>":                                  "invalid-namespace",
		"<message xmlns='' to='bob@example.com'/>":                          "unsupported-stanza-type",
		"<iq xmlns='' type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>": "unsupported-stanza-type",
		"<q:message xmlns:q='jabber:client' to='bob@example.com'/>":         "bad-namespace-prefix",
		"<!-- x --><presence/>":                                             "restricted-xml",
		"<message><x>" + strings.Repeat("x", 300<<10) + "</x></message>":    "policy-violation",
	} {
		cl := c.login(0, "alice", "phone")
		cl.write(input)
		cl.end(condition)
		_ = cl.conn.Close()
	}
}

func TestHandshakeTimeout(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(o *backend.Options) { o.Timeouts.Handshake = 2 * time.Second }) // the header comes within it
	cl := c.dial(0, leg{})
	cl.open()
	cl.end("connection-timeout")
}

// A front says what it has written to a client whose node died.
func TestSettle(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	for _, body := range []string{"1", "2", "3"} {
		alice.write("<message to='bob@example.com' type='chat'><body>" + body + "</body></message>")
	}
	c.eventually("three messages", func() bool { head, _ := c.head("bob"); return head == 3 })
	for _, s := range []struct {
		word      string
		delivered uint64
	}{{"bob@example.com\x002", 2}, {"bob@example.com\x001", 2}, {"bob@example.com\x00x", 2}, {"nobody@example.com\x007", 2}, {"BOB@example.com\x0099", 3}} {
		cl := c.dial(0, leg{settle: s.word})
		cl.gone()
		if _, delivered := c.head("bob"); delivered != s.delivered {
			t.Errorf("after %q: delivered %d, want %d", s.word, delivered, s.delivered)
		}
	}
}

// The word of a front counts for a user who is here already.
func TestSettleWhileThere(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice, bob := c.online(0, "alice", "phone"), c.counted(0, "bob", "desk")
	alice.write("<message to='bob@example.com' type='chat'><body>1</body></message>")
	bob.expect("<body>1</body>")
	c.dial(0, leg{settle: "bob@example.com\x001"}).gone()
	_ = bob.conn.Close() // without having acknowledged it
	c.gone("bob")
	c.online(0, "bob", "desk").sync()
}
