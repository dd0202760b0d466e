package proxy_test

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"imlb/proxy"
	"imlb/proxy/limit"
	"imlb/proxy/loop"
)

// entry is a message that is entry n of alice's timeline.
func entry(n string) string {
	return "<message><body>hi</body><stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='" + n + "'/></message>"
}

// loggedIn returns a front, a client of alice's on it, and the node's end.
func loggedIn(t *testing.T, change func(*proxy.Options)) (*front, *peer, *peer) {
	t.Helper()
	n, pick := onlyNode(t)
	f := startFront(t, pick, change)
	client := f.dialTLS()
	return f, client, login(client, n, "alice")
}

// A node that dies in the middle of a stanza leaves the client with a
// well-formed stream, and the next node is told what the client has received.
// Until then a login of the user waits.
func TestNodeLost(t *testing.T) {
	t.Parallel()
	one, two := startNode(t, "one"), startNode(t, "two")
	pick := &picker{nodes: map[string][]proxy.Node{"": {one.at(), two.at()}}}
	f := startFront(t, pick, nil)
	client := f.dialTLS()
	leg := login(client, one, "alice")
	leg.send(entry("7") + entry("8") + "<message><body>half of")
	client.expect(entry("7") + entry("8"))
	leg.reset()
	client.expect(streamError("system-shutdown") + streamEnd)

	// The user is back at once, before the old stream has ended.
	one.ln.Close()
	again := begin(f, plain("alice", "secret"))
	client.send(streamEnd)
	client.eof()
	settle := two.accept()
	if got := settleNote(t, settle.proxy); got != "alice@example.com\x008" {
		t.Errorf("settled %q, want entry 8 of alice", got)
	}
	settle.eof()
	settle.close()
	client.close()
	if r := f.ended("node-lost"); r["settled"] != "done" || r["last_entry"] != "8" {
		t.Errorf("logged %v", r)
	}

	atTwo := two.accept().offer()
	atTwo.letsIn(again, plain("alice", "secret"))
	f.leaves(again, atTwo)
	if pick.live != 0 {
		t.Errorf("%d choices were not released", pick.live)
	}
}

func settleNote(t testing.TB, h *proxyproto.Header) string {
	t.Helper()
	tlvs, err := h.TLVs()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range tlvs {
		if v.Type == 0xE2 {
			return string(v.Value)
		}
	}
	return ""
}

// Where there is no other node, the one that was lost is told when it is back.
func TestOnlyNodeLost(t *testing.T) {
	t.Parallel()
	one, pick := onlyNode(t)
	f := startFront(t, pick, nil)
	client := f.dialTLS()
	leg := login(client, one, "alice")
	passes(leg, client, entry("7"))
	leg.reset()
	client.expect(streamError("system-shutdown") + streamEnd)
	client.send(streamEnd)
	client.eof()
	one.settled("alice@example.com\x007")
	client.close()
	if r := f.ended("node-lost"); r["settled"] != "done" {
		t.Errorf("logged %v", r)
	}
}

// Nothing is settled for a client that may not have received what was written.
func TestNodeLostUnproved(t *testing.T) {
	t.Parallel()
	f, client, leg := loggedIn(t, nil)
	leg.send(entry("7"))
	client.expect(entry("7"))
	leg.reset()
	client.expect(streamError("system-shutdown"))
	client.reset()
	if r := f.ended("node-lost"); r["settled"] != "unproved" {
		t.Errorf("logged %v", r)
	}
}

// The end of a QUIC connection proves nothing, however polite: its client may have left what
// it was sent unread.
func TestNodeLostUnprovedQUIC(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, nil)
	conn := f.dialQUIC()
	client := f.openQUIC(conn)
	leg := login(client, n, "alice")
	leg.send(entry("7"))
	client.expect(entry("7"))
	leg.reset()
	client.expect(streamError("system-shutdown"))
	if err := conn.CloseWithError(0, ""); err != nil {
		t.Fatal(err)
	}
	if r := f.ended("node-lost"); r["settled"] != "unproved" {
		t.Errorf("logged %v", r)
	}
}

// Only what the node itself adds as the last child counts as an entry's number.
func TestForgedEntry(t *testing.T) {
	t.Parallel()
	f, client, leg := loggedIn(t, nil)
	for _, m := range []string{
		strings.Replace(entry("5"), "alice@", "bob@", 1),
		strings.Replace(entry("5"), "urn:xmpp:sid:0", "urn:x", 1),
		strings.Replace(entry("5"), "</message>", "<x/></message>", 1),
		"<message><x><stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='5'/></x></message>",
		"<message><body><![CDATA[<stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='5'/>]]></body></message>",
		strings.Replace(entry("5"), "'5'", "'-5'", 1),
	} {
		leg.send(m)
		client.expect(m)
	}
	if r := f.leaves(client, leg); r["last_entry"] != "" {
		t.Errorf("entry %s was believed", r["last_entry"])
	}
}

// A node that ends its stream, because it drains, says why to the client itself; the
// front adds no error of its own, and tells the next node what the client has.
func TestNodeCloses(t *testing.T) {
	t.Parallel()
	one, two := startNode(t, "one"), startNode(t, "two")
	pick := &picker{nodes: map[string][]proxy.Node{"": {one.at(), two.at()}}}
	f := startFront(t, pick, nil)
	client := f.dialTLS()
	leg := login(client, one, "alice")
	leg.send(entry("7") + streamError("system-shutdown") + streamEnd)
	client.expect(entry("7") + streamError("system-shutdown") + streamEnd)
	client.send(streamEnd)
	client.eof()
	settle := two.accept()
	if got := settleNote(t, settle.proxy); got != "alice@example.com\x007" {
		t.Errorf("settled %q, want entry 7 of alice", got)
	}
	settle.eof()
	settle.close()
	client.close()
	leg.eof()
	if r := f.ended("node-closed"); r["settled"] != "done" {
		t.Errorf("logged %v", r)
	}
}

// So it is when the front first meets that the connection is closed, because the client goes on to speak while what
// the node has said last waits for its turn.
func TestNodeClosesFirst(t *testing.T) {
	t.Parallel()
	for name, dial := range map[string]func(*front) *peer{
		"on a loop":     (*front).dialTLS,
		"on goroutines": func(f *front) *peer { return f.openQUIC(f.dialQUIC()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, two := startNode(t, "one"), startNode(t, "two")
			pick := &picker{nodes: map[string][]proxy.Node{"": {one.at(), two.at()}}}
			f := startFront(t, pick, func(o *proxy.Options) {
				o.Rules.User.Out = limit.Bandwidth{PerSecond: 10_000, Burst: 1000}
			})
			client := dial(f)
			leg := login(client, one, "alice")
			long := "<message><body>" + strings.Repeat("x", 10_000) + "</body></message>"
			leg.send(long)
			client.expect(long) // for which the next has to wait for a second
			leg.send(entry("7") + streamError("system-shutdown") + streamEnd)
			client.send("<presence/>")
			leg.expect("<presence/>")
			leg.reset()
			client.send("<presence/>")
			client.expect(entry("7") + streamError("system-shutdown") + streamEnd)
			client.send(streamEnd)
			settle := two.accept()
			if got := settleNote(t, settle.proxy); got != "alice@example.com\x007" {
				t.Errorf("settled %q, want entry 7 of alice", got)
			}
			settle.eof()
			settle.close()
			client.close()
			if r := f.ended("node-closed"); r["settled"] != "done" {
				t.Errorf("logged %v", r)
			}
			pick.mu.Lock()
			defer pick.mu.Unlock()
			if slices.Contains(pick.outcomes, "one: lost") {
				t.Errorf("reported %q", pick.outcomes)
			}
		})
	}
}

// The client of a node that is lost in its last words gets one stream error (RFC 6120
// §4.9.1.1).
func TestNodeLostAfterError(t *testing.T) {
	t.Parallel()
	_, client, leg := loggedIn(t, nil)
	leg.send(streamError("conflict"))
	client.expect(streamError("conflict"))
	leg.reset()
	client.expect(streamEnd)
	client.close()
}

// A node that sends what is no XMPP is cut off.
func TestNodeError(t *testing.T) {
	t.Parallel()
	f, client, leg := loggedIn(t, nil)
	leg.send("<presence/><a></b>")
	client.expect("<presence/>" + streamError("internal-server-error") + streamEnd)
	client.close()
	f.ended("node-error")
}

// A client that breaks the rules is told so, and the node's stream ends in order:
// what it still has to say comes first.
func TestClientError(t *testing.T) {
	t.Parallel()
	f, client, leg := loggedIn(t, nil)
	client.send("<presence/><!-- no -->")
	leg.expect("<presence/>" + streamEnd)
	leg.send("<presence type='unavailable'/>" + streamEnd)
	client.expect("<presence type='unavailable'/>")
	if e := client.element(); !strings.Contains(e, "<restricted-xml ") {
		t.Errorf("got %s, want restricted-xml", e)
	}
	client.expect(streamEnd)
	client.close()
	f.ended("protocol-error")
}

// A client that ends its connection without its stream is gone in order; the node
// sees the end, and what it says is still passed on.
func TestClientHalfClose(t *testing.T) {
	t.Parallel()
	f, client, leg := loggedIn(t, nil)
	if err := client.conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	leg.eof()
	leg.send("<message/>")
	leg.close()
	client.expect("<message/>" + streamEnd)
	client.eof()
	f.ended("client-closed")
}

// Many clients end TCP without ending TLS, and are gone in order all the same.
func TestClientWithoutCloseNotify(t *testing.T) {
	t.Parallel()
	f, client, leg := loggedIn(t, nil)
	client.conn.(*tls.Conn).NetConn().Close()
	leg.eof()
	leg.close()
	f.ended("client-closed")
}

// A client whose connection breaks takes the node leg with it.
func TestClientReset(t *testing.T) {
	t.Parallel()
	f, client, leg := loggedIn(t, nil)
	client.reset()
	leg.eof()
	f.ended("client-reset")
}

// flood writes stanzas until nobody takes them any more, or there would have been enough.
func (p *peer) flood() {
	message := "<message><body>" + strings.Repeat("x", 60000) + "</body></message>"
	for range 1000 {
		if _, err := p.conn.Write([]byte(message)); err != nil {
			return
		}
	}
}

// A client that does not read holds up its node, up to a point.
func TestSlowClient(t *testing.T) {
	t.Parallel()
	f, _, leg := loggedIn(t, func(o *proxy.Options) { o.Timeouts.Write = 100 * time.Millisecond })
	leg.flood()
	f.ended("slow-client")
}

// A node that does not read holds up its client, up to a point.
func TestSlowNode(t *testing.T) {
	t.Parallel()
	f, client, _ := loggedIn(t, func(o *proxy.Options) { o.Timeouts.Write = 100 * time.Millisecond })
	client.flood()
	client.expect(streamError("system-shutdown") + streamEnd)
	client.close()
	f.ended("slow-node")
}

// An idle session is ended; one in which either side speaks is not idle.
func TestIdle(t *testing.T) {
	t.Parallel()
	const idle = 800 * time.Millisecond
	f, client, leg := loggedIn(t, func(o *proxy.Options) { o.Timeouts.Idle = idle })
	var last time.Time
	for began := time.Now(); time.Since(began) < 2*idle+idle/8; { // so that the last comes soon after a look whether any did
		last = time.Now()
		leg.send(" ")
		client.expect(" ")
	}
	leg.eof() // and not the end of the stream: the client may resume its session
	if quiet := time.Since(last); quiet < idle || quiet > idle*7/4 {
		t.Errorf("the session ended %v after the last byte", quiet)
	}
	leg.close()
	client.expect(streamError("connection-timeout") + streamEnd)
	client.close()
	f.ended("idle-timeout")
}

// When the front stops, sessions end in order: the node's connection first, then the
// client's, and what the node still has to say is not lost.
func TestShutdown(t *testing.T) {
	t.Parallel()
	f, client, leg := loggedIn(t, nil)
	waiting := f.dialTLS()
	waiting.send(streamOpen)
	waiting.expect(frontHeader + frontOffer)

	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		done <- f.Shutdown(ctx)
	}()
	waiting.expect(streamError("system-shutdown") + streamEnd)
	waiting.close()
	f.ended("shutdown")

	leg.eof() // and not the end of the stream: the client may resume its session
	leg.send(entry("9"))
	leg.close()
	client.expect(entry("9") + streamError("system-shutdown") + streamEnd)
	client.close()
	f.ended("shutdown")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := f.Serving(); err == nil {
		t.Error("a front that has stopped says that it serves")
	}
}

// A login is not waited for: its session would end at once.
func TestShutdownDuringLogin(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, func(o *proxy.Options) { o.Timeouts.Identify, o.Timeouts.Shutdown = time.Hour, time.Hour })
	client := begin(f, plain("alice", "secret"))
	leg := n.accept().offer()
	leg.expect(plain("alice", "secret"))
	done := make(chan error, 1)
	go func() { done <- f.Shutdown(context.WithoutCancel(t.Context())) }()
	client.expect(streamError("system-shutdown") + streamEnd)
	leg.eof()
	client.close()
	f.ended("shutdown")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Who does not leave in time is cut off.
func TestShutdownImpatient(t *testing.T) {
	t.Parallel()
	f, client, _ := loggedIn(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Shutdown(ctx); err == nil {
		t.Error("an interrupted shutdown returned no error")
	}
	if _, err := client.token(); err == nil {
		t.Error("the client is still connected")
	}
	f.record()
}

// So is who has left its node, and does not read what that has sent last.
func TestShutdownDuringLastWords(t *testing.T) {
	t.Parallel()
	f, client, leg := loggedIn(t, func(o *proxy.Options) {
		o.Timeouts.Shutdown, o.Timeouts.Write = 300*time.Millisecond, time.Hour
	})
	if err := client.conn.(*tls.Conn).NetConn().(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	leg.send(strings.Repeat("<message><body>"+strings.Repeat("x", 10_000)+"</body></message>", 60) + streamEnd)
	leg.eof()
	done := make(chan error, 1)
	go func() { done <- f.Shutdown(context.WithoutCancel(t.Context())) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("the front waits for a client that does not read")
		client.reset()
	}
	f.ended("node-closed")
}

// A client that is slow to read what its node sent last, and says something meanwhile, gets
// all of it, and the end of the stream.
func TestSlowLastWords(t *testing.T) {
	t.Parallel()
	f, client, leg := loggedIn(t, nil)
	if err := client.conn.(*tls.Conn).NetConn().(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	message := "<message><body>" + strings.Repeat("x", 10_000) + "</body></message>"
	const messages = 60
	leg.send(strings.Repeat(message, messages) + streamEnd)
	<-time.After(loop.AnswerTime + 500*time.Millisecond)
	client.send(" ")
	for range messages {
		client.expect(message)
	}
	client.expect(streamEnd)
	client.send(streamEnd)
	client.close()
	f.ended("node-closed")
}
