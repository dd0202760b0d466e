package test

import (
	"crypto/tls"
	"strings"
	"testing"

	xquic "golang.org/x/net/quic"
)

// flushed is a stream of x/net's QUIC, which keeps what is written until it is told to send it.
type flushed struct{ *xquic.Stream }

func (f flushed) Write(b []byte) (int, error) {
	n, err := f.Stream.Write(b)
	if err == nil {
		err = f.Flush()
	}
	return n, err
}

// testQUICOther: a client with another implementation of QUIC than the front's. Two of its
// streams are two sessions, and stanzas that take many packets arrive, both ways.
func testQUICOther(t *testing.T, d *dev) {
	alice, bob := d.account(t), d.account(t)
	ctx := within(t, patience)
	endpoint, err := xquic.Listen("udp", "127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = endpoint.Close(ctx) })
	config := d.tls(t, "xmpp-client")
	config.MinVersion = tls.VersionTLS13
	conn, err := endpoint.Dial(ctx, "udp", d.Front.QUIC, &xquic.Config{TLSConfig: config})
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != "xmpp-client" {
		t.Errorf("ALPN %q", got)
	}
	open := func() *stream {
		s, err := conn.NewStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		s.SetReadContext(ctx)
		s.SetWriteContext(ctx)
		return newStream(t, flushed{s})
	}
	a, b := open(), open()
	aliceJID := a.session(d.Domain, "SCRAM-SHA-256", alice)
	bobJID := b.session(d.Domain, "PLAIN", bob)
	for _, s := range []*stream{a, b} {
		s.write("<presence/>")
	}
	long := strings.Repeat("many packets ", 15_000)
	a.write("<message to='%s' type='chat'><body>%s</body></message>", bobJID, long)
	if m := b.message(); m.body() != long || m.attr("from") != aliceJID {
		t.Errorf("received %d bytes from %q, want %d from %q", len(m.body()), m.attr("from"), len(long), aliceJID)
	}
	b.write("<message to='%s' type='chat'><body>%s</body></message>", aliceJID, long)
	if m := a.message(); m.body() != long {
		t.Errorf("received %d bytes, want %d", len(m.body()), len(long))
	}
	a.close()
	b.sync(d)
	b.close()
	for _, who := range []account{alice, bob} {
		r := d.awaitRecord(t, "of "+who.jid, func(r record) bool { return r.text("user") == who.jid })
		if r.text("transport") != "quic" || r.text("reason") != "client-closed" {
			t.Errorf("session record %v: want transport quic, reason client-closed", r)
		}
	}
}
