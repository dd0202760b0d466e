package proxy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"imlb/proxy"
	"imlb/proxy/limit"
)

// sessionsOf returns the sessions on a node.
func (f *front) sessionsOf(node string) []proxy.SessionInfo {
	f.t.Helper()
	page, more := f.Sessions(proxy.SessionQuery{Node: node, Limit: 100})
	if more {
		f.t.Errorf("there are more than %d sessions", len(page))
	}
	return page
}

// Sessions are seen from login to end, with the node on which they live.
func TestSessions(t *testing.T) {
	t.Parallel()
	one, two := startNode(t, "one"), startNode(t, "two")
	f := startFront(t, &picker{nodes: map[string][]proxy.Node{
		"": {one.at()}, "bob@example.com": {two.at()},
	}}, nil)
	waiting := f.dialTLS()
	waiting.send(streamOpen)
	waiting.expect(frontHeader + frontOffer)
	alice, bob := f.dialTLS(), f.dialStartTLS()
	atOne, atTwo := login(alice, one, "alice"), login(bob, two, "bob")

	if all := f.sessionsOf(""); len(all) != 2 {
		t.Errorf("sessions %v", all)
	}
	of := f.sessionsOf("two")
	if len(of) != 1 {
		t.Fatalf("sessions of two: %v", of)
	}
	s := of[0]
	if s.User != "bob@example.com" || s.Node != "two" || s.Listener != "xmpp" || s.Pool != "nodes" || s.Transport != "starttls" ||
		s.Source != bob.conn.LocalAddr().String() || s.Since.IsZero() {
		t.Errorf("session of two: %+v", s)
	}
	for q, want := range map[proxy.SessionQuery]int{
		{User: "bob@example.com"}: 1, {User: "bob"}: 0, {Pool: "nodes"}: 2, {Pool: "others"}: 0, {User: "bob@example.com", Node: "one"}: 0,
	} {
		q.Limit = 10
		if page, _ := f.Sessions(q); len(page) != want {
			t.Errorf("%+v: %v", q, page)
		}
	}
	if r := f.leaves(bob, atTwo); r["id"] != s.ID {
		t.Errorf("session %s was logged as %s", s.ID, r["id"])
	}
	if left := f.sessionsOf("two"); len(left) != 0 {
		t.Errorf("sessions of two: %v", left)
	}
	f.leaves(alice, atOne)
}

// Pages of sessions have each of them once, in one order.
func TestSessionsPages(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.TCP}, nil)
	const sessions = 7
	for range sessions {
		client := f.dial()
		leg := n.leg()
		leg.send("hello")
		client.recv("hello")
	}
	for size := 1; size <= sessions+1; size++ {
		var seen []string
		q := proxy.SessionQuery{Limit: size}
		for more := true; more; {
			var page []proxy.SessionInfo
			if page, more = f.Sessions(q); len(page) == 0 || len(page) > size || more && len(page) < size {
				t.Fatalf("a page of %d has %d sessions, and more is %v", size, len(page), more)
			}
			for _, s := range page {
				seen = append(seen, s.ID)
			}
			var err error
			if q.After, err = proxy.ParseID(seen[len(seen)-1]); err != nil {
				t.Fatal(err)
			}
		}
		if len(seen) != sessions || !slices.IsSorted(seen) || len(slices.Compact(seen)) != sessions {
			t.Errorf("pages of %d have %q", size, seen)
		}
	}
}

// endOnly ends the only session of a front.
func (f *front) endOnly() proxy.SessionInfo {
	f.t.Helper()
	all := f.sessionsOf("")
	if len(all) != 1 {
		f.t.Fatalf("sessions %v", all)
	}
	id, err := proxy.ParseID(all[0].ID)
	if err != nil {
		f.t.Fatal(err)
	}
	if !f.EndSession(id) {
		f.t.Errorf("there is no session %v", id)
	}
	return all[0]
}

// An XML stream that an administrator ends is told so, whatever carries it; the node's connection ends without the
// end of the stream, and what the node still has to say is not lost.
func TestEndSession(t *testing.T) {
	t.Parallel()
	for name, dial := range map[string]func(*front) *peer{
		"tls":      (*front).dialTLS,
		"starttls": (*front).dialStartTLS,
		"quic":     func(f *front) *peer { return f.openQUIC(f.dialQUIC()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, pick := onlyNode(t)
			f := startFront(t, pick, nil)
			client := dial(f)
			leg := login(client, n, "alice")
			client.send("<presence/>")
			leg.expect("<presence/>")
			leg.send("<message/>")
			client.expect("<message/>")
			if s := f.endOnly(); s.Transport != name || s.In == 0 || s.Out == 0 {
				t.Errorf("the session was %+v", s)
			}
			leg.eof()
			leg.send(entry("9"))
			leg.close()
			client.expect(entry("9"))
			if e := client.element(); !strings.Contains(e, "<policy-violation ") || !strings.Contains(e, "an administrator has ended the session") {
				t.Errorf("the client was told %s", e)
			}
			client.expect(streamEnd)
			client.close()
			f.ended("ended-by-admin")
			pick.mu.Lock()
			defer pick.mu.Unlock()
			if slices.Contains(pick.outcomes, "one: lost") || pick.live != 0 {
				t.Errorf("reported %q, %d choices were not released", pick.outcomes, pick.live)
			}
		})
	}
}

// In a WebSocket and by BOSH the client is told in their words.
func TestEndSessionWeb(t *testing.T) {
	t.Parallel()
	t.Run("websocket", func(t *testing.T) {
		t.Parallel()
		n, pick := onlyNode(t)
		f := startFront(t, pick, nil)
		client := f.dialWS()
		leg := loginWS(client, n)
		f.endOnly()
		leg.eof()
		leg.close()
		if e := client.element(); !strings.Contains(e, "<policy-violation ") {
			t.Errorf("the client was told %s", e)
		}
		client.expect(wsClose)
		client.close()
		f.ended("ended-by-admin")
	})
	t.Run("bosh", func(t *testing.T) {
		t.Parallel()
		f, b, leg := boshSession(t)
		down := b.asks("", "<iq/>")
		leg.expect("<iq/>")
		if s := f.endOnly(); s.Transport != "bosh" {
			t.Errorf("the session was %+v", s)
		}
		leg.eof()
		leg.close()
		if told := down.says(); !strings.Contains(told, "type='terminate'") || !strings.Contains(told, "<policy-violation ") {
			t.Errorf("the client was told %s", told)
		}
		f.endedBOSH("ended-by-admin")
	})
}

// A node that does not leave, and limits on bytes, do not keep a session from ending.
func TestEndSessionHeldUp(t *testing.T) {
	t.Parallel()
	for name, dial := range map[string]func(*front) *peer{
		"on a loop":     (*front).dialTLS,
		"on goroutines": func(f *front) *peer { return f.openQUIC(f.dialQUIC()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, pick := onlyNode(t)
			f := startFront(t, pick, func(o *proxy.Options) {
				slow := limit.Bandwidth{PerSecond: 100, Burst: 10_000}
				o.Rules.Global.In, o.Rules.Global.Out = slow, slow
			})
			client := dial(f)
			leg := login(client, n, "alice")
			stanza := "<message><body>" + strings.Repeat("x", 20_000) + "</body></message>"
			client.send(stanza)
			leg.expect(stanza)
			leg.send(stanza)
			client.expect(stanza)
			f.endOnly()
			if e := client.element(); !strings.Contains(e, "<policy-violation ") {
				t.Errorf("the client was told %s", e)
			}
			client.expect(streamEnd)
			client.close()
			f.ended("ended-by-admin")
		})
	}
}

// An opaque session that an administrator ends breaks for both sides: neither must take what it has got for all. A
// WebSocket has a status for it.
func TestEndSessionOpaque(t *testing.T) {
	t.Parallel()
	everywhere(t, nil, func(t *testing.T, f *front, n *node, dial func() *stream) {
		client, leg := opened(n, dial)
		leg.send("welcome")
		client.recv("welcome")
		if s := f.endOnly(); s.User != "127.0.0.1/32" || s.In != 5 || s.Out != 7 {
			t.Errorf("the session was %+v", s)
		}
		leg.broken()
		client.soon()
		_, err := client.Read(make([]byte, 1))
		if strings.HasPrefix(t.Name(), "TestEndSessionOpaque/ws") {
			if websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
				t.Errorf("the client has read %v", err)
			}
		} else if err == nil || err.Error() == "EOF" {
			t.Errorf("the client has read %v", err)
		}
		client.Close()
		f.ended("ended-by-admin")
		if left := f.sessionsOf(""); len(left) != 0 {
			t.Errorf("sessions %v", left)
		}
	})
}

// Sessions that have not logged in, or have ended, are none to end.
func TestEndSessionNone(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.TCP}, nil)
	client, leg := opened(n, f.dial)
	info := f.sessionsOf("one")[0]
	f.hangsUp(client, leg)
	id, err := proxy.ParseID(info.ID)
	if err != nil || f.EndSession(id) || f.EndSession(proxy.ID{}) {
		t.Errorf("a session that has ended was ended (%v)", err)
	}
	for _, text := range []string{"", "x", info.ID[1:], info.ID + "0", strings.Repeat("g", 32)} {
		if id, err := proxy.ParseID(text); err == nil {
			t.Errorf("%q is %v", text, id)
		}
	}
}

// Sessions that are ended while they begin end all the same.
func TestEndSessionAtOnce(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, nil)
	for i := range 20 {
		var client *peer
		if i%2 == 0 {
			client = f.openQUIC(f.dialQUIC())
		} else {
			client = f.dialTLS()
		}
		client.send(streamOpen)
		client.expect(frontHeader + frontOffer)
		client.send(plain("alice", "secret"))
		leg := n.accept().offer()
		leg.expect(plain("alice", "secret"))
		leg.send(saslSuccess)
		for began := time.Now(); ; {
			if page, _ := f.Sessions(proxy.SessionQuery{Limit: 1}); len(page) > 0 {
				if id, err := proxy.ParseID(page[0].ID); err != nil || !f.EndSession(id) {
					t.Error(fmt.Errorf("session %s: %w", page[0].ID, err))
				}
				break
			}
			if time.Since(began) > patience {
				t.Fatal("there is no session")
			}
		}
		client.expect(saslSuccess)
		leg.eof()
		leg.close()
		client.close()
		f.ended("ended-by-admin")
	}
}
