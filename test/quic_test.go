package test

import (
	"net"
	"testing"

	"github.com/quic-go/quic-go"
)

// testQUIC: XMPP over QUIC (XEP-0467) with each mechanism family: a message
// to a client on TCP and one back.
func testQUIC(t *testing.T, d *dev) {
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256"} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			alice, bob := d.account(t), d.account(t)
			q := quicStream(t, d.dialQUIC(t))
			aliceJID := q.session(d.Domain, mechanism, alice)
			q.write("<presence/>")
			s := d.dialTLS(t)
			s.session(d.Domain, "PLAIN", bob)
			s.write("<presence/>")

			q.write("<message to='%s' type='chat'><body>over QUIC</body></message>", bob.jid)
			m := s.message()
			if m.body() != "over QUIC" || m.attr("from") != aliceJID {
				t.Errorf("received %q from %q", m.body(), m.attr("from"))
			}
			s.write("<message to='%s' type='chat'><body>over TLS</body></message>", aliceJID)
			if got := q.message().body(); got != "over TLS" {
				t.Errorf("received %q", got)
			}
			q.close()
			r := d.awaitRecord(t, "of "+alice.jid, func(r record) bool { return r.text("user") == alice.jid })
			if r.text("transport") != "quic" || r.text("reason") != "client-closed" {
				t.Errorf("session record %v: want transport quic, reason client-closed", r)
			}
		})
	}
	t.Run("moves", func(t *testing.T) {
		t.Parallel()
		testQUICMoves(t, d)
	})
}

// testQUICMoves: a client that goes from one address to another keeps its session.
func testQUICMoves(t *testing.T, d *dev) {
	alice := d.account(t)
	ctx := within(t, patience)
	home, away := quicAt(t, "127.0.0.1:0"), quicAt(t, "127.0.0.2:0")
	front, err := net.ResolveUDPAddr("udp", d.Front.QUIC)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := home.Dial(ctx, front, d.tls(t, "xmpp-client"), &quic.Config{MaxIdleTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	s := quicStream(t, conn)
	s.session(d.Domain, "PLAIN", alice)
	s.sync(d)
	path, err := conn.AddPath(away)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.Probe(ctx); err != nil {
		t.Fatal(err)
	}
	if err := path.Switch(); err != nil {
		t.Fatal(err)
	}
	s.sync(d)
	s.close()
	r := d.awaitRecord(t, "of "+alice.jid, func(r record) bool { return r.text("user") == alice.jid })
	if r.text("source") != home.Conn.LocalAddr().String() || r.text("moved") != away.Conn.LocalAddr().String() {
		t.Errorf("session record %v: want a move from %v to %v", r, home.Conn.LocalAddr(), away.Conn.LocalAddr())
	}
}

// quicAt returns a client's transport on an address.
func quicAt(t *testing.T, address string) *quic.Transport {
	t.Helper()
	socket, err := (&net.ListenConfig{}).ListenPacket(within(t, patience), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	tr := &quic.Transport{Conn: socket}
	t.Cleanup(func() {
		_ = tr.Close()
		_ = socket.Close()
	})
	return tr
}

// testQUICManySessions: two streams of one connection are two sessions, of two
// users; the end of one leaves the other alone.
func testQUICManySessions(t *testing.T, d *dev) {
	alice, bob := apart(t, d)
	conn := d.dialQUIC(t)
	a, b := quicStream(t, conn), quicStream(t, conn)
	aliceJID := a.session(d.Domain, "SCRAM-SHA-1", alice)
	b.session(d.Domain, "PLAIN", bob)
	a.write("<presence/>")
	b.write("<presence/>")
	b.write("<message to='%s' type='chat'><body>next door</body></message>", aliceJID)
	if got := a.message().body(); got != "next door" {
		t.Errorf("received %q", got)
	}
	a.close()
	b.sync(d)
	b.close()
}
