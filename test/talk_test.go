package test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// placement logs a user in and out and returns the node that served it. That is where the
// user's sessions are. One who has none may be placed elsewhere the next time, because
// nodes tell of sessions that have ended already.
func placement(t *testing.T, d *dev, a account) string {
	t.Helper()
	s := d.dialTLS(t)
	s.session(d.Domain, "PLAIN", a)
	s.close()
	node := d.recordOf(t, a, s).text("node")
	if node == "" {
		t.Fatalf("the session record of %s names no node", a.jid)
	}
	return node
}

// recordOf returns the session record of a user's stream that has ended.
func (d *dev) recordOf(t *testing.T, a account, s *stream) record {
	t.Helper()
	source := s.source()
	return d.awaitRecord(t, "of "+a.jid, func(r record) bool {
		return r.text("user") == a.jid && r.text("source") == source
	})
}

// apart returns two users who live on different nodes.
func apart(t *testing.T, d *dev) (a, b account) {
	t.Helper()
	a = d.account(t)
	home := placement(t, d, a)
	for range 12 {
		b = d.account(t)
		if placement(t, d, b) != home {
			return a, b
		}
	}
	t.Fatalf("thirteen users in a row live on %s", home)
	return a, b
}

// testApart: two users on different nodes talk.
func testApart(t *testing.T, d *dev) {
	alice, bob := apart(t, d)
	c := startChat(t)
	a, b := c.client("a"), c.client("b")
	a.login(d, alice, login{mechanism: "SCRAM-SHA-1"})
	b.login(d, bob, login{direct: true, mechanism: "PLAIN"})

	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprintf("ping %d", i))
		a.send(bob.jid, want[i])
	}
	b.awaitBody(want[len(want)-1])
	if got := bodies(b.history("message")); !slices.Equal(got, want) {
		t.Errorf("bob received %q, want %q", got, want)
	}
	b.send(alice.jid, "pong")
	m := a.awaitBody("pong")
	if len(m.StanzaIDs) != 1 || m.LastChild != "{urn:xmpp:sid:0}stanza-id" {
		t.Errorf("message %+v: want one stanza-id, as the last child", m)
	}
	a.logout()
	b.logout()
}

// testTogether: two clients of one user meet on one node and both receive.
func testTogether(t *testing.T, d *dev) {
	alice, bob := apart(t, d)
	phone, laptop, sender := d.dialTLS(t), d.dialTLS(t), d.dialTLS(t)
	phone.session(d.Domain, "PLAIN", alice)
	laptop.session(d.Domain, "SCRAM-SHA-256", alice)
	phone.write("<presence/>")
	laptop.write("<presence/>")
	// Own presence comes back to each: from then on both are available.
	for _, s := range []*stream{phone, laptop} {
		s.readUntil("presence", func(e element) bool { return e.XMLName.Local == "presence" })
	}
	sender.session(d.Domain, "PLAIN", bob)
	sender.write("<message to='%s' type='chat'><body>to both</body></message>", alice.jid)
	for _, s := range []*stream{phone, laptop} {
		if got := s.message().body(); got != "to both" {
			t.Errorf("received %q", got)
		}
	}
	phone.close()
	laptop.close()
	sender.close()
	one, two := d.recordOf(t, alice, phone).text("node"), d.recordOf(t, alice, laptop).text("node")
	if one != two {
		t.Errorf("two sessions of one user were on %s and %s, want one node", one, two)
	}
}

// testOffline: what is sent to a user who is not there arrives at the next
// login, once, in order, with the time at which it was sent.
func testOffline(t *testing.T, d *dev) {
	alice, bob := apart(t, d)
	const count = 25
	s := d.dialTLS(t)
	s.session(d.Domain, "PLAIN", alice)
	for i := range count {
		s.write("<message to='%s' type='chat' id='o%d'><body>offline %d</body></message>", bob.jid, i, i)
	}
	s.sync(d)
	s.close()
	wantOffline(t, d, bob, "offline", count)
	wantNothingStored(t, d, bob)
}

// wantOffline logs in and reads count messages "WHAT 0" … from the store.
func wantOffline(t *testing.T, d *dev, a account, what string, count int) {
	t.Helper()
	s := d.dialTLS(t)
	s.session(d.Domain, "SCRAM-SHA-1", a)
	s.write("<presence/>")
	for i := range count {
		m := s.message()
		if want := fmt.Sprintf("%s %d", what, i); m.body() != want {
			t.Fatalf("message %d is %q, want %q", i, m.body(), want)
		}
		if m.child("urn:xmpp:delay", "delay").attr("stamp") == "" {
			t.Fatalf("message %d carries no <delay/>: %+v", i, m)
		}
	}
	s.close()
}

// wantNothingStored logs in and makes sure that no message waits.
func wantNothingStored(t *testing.T, d *dev, a account) {
	t.Helper()
	s := d.dialTLS(t)
	jid := s.session(d.Domain, "PLAIN", a)
	// A message to oneself comes after all that had been waiting.
	s.write("<presence/><message to='%s' type='chat'><body>marker</body></message>", jid)
	if m := s.message(); m.body() != "marker" {
		t.Errorf("a message that had been delivered came again: %q", m.body())
	}
	s.close()
}

// sync waits until the server has dealt with all that was sent: an IQ is
// answered in order (RFC 6120 §10.1).
func (s *stream) sync(d *dev) {
	s.t.Helper()
	s.write("<iq type='get' id='sync' to='%s'><ping xmlns='urn:xmpp:ping'/></iq>", d.Domain)
	s.readUntil("the answer to a ping", func(e element) bool { return e.attr("id") == "sync" })
}

// testAcknowledgements: with XEP-0198 every message is acknowledged, and what
// was acknowledged is there after the sender has vanished.
func testAcknowledgements(t *testing.T, d *dev) {
	alice, bob := d.account(t), d.account(t)
	const count = 20
	c := startChat(t)
	a := c.client("a")
	a.login(d, alice, login{sm: true})
	a.do("talk", map[string]any{"to": bob.jid, "prefix": "x", "count": count, "every": 0})
	a.await("acked", func(e event) bool { return e.Body == fmt.Sprintf("x-%d", count) })
	a.do("cut", nil)
	a.await("offline", nil)
	if got := len(a.history("acked")); got != count {
		t.Errorf("%d of %d messages were acknowledged", got, count)
	}
	b := c.client("b")
	b.login(d, bob, login{sm: true})
	b.awaitBody(fmt.Sprintf("x-%d", count))
	if got := bodies(b.history("message")); len(got) != count || !slices.IsSortedFunc(got, byNumber) {
		t.Errorf("bob received %q, want x-1 … x-%d in order", got, count)
	}
	b.logout()
	r := d.awaitRecord(t, "of "+alice.jid, func(r record) bool { return r.text("user") == alice.jid })
	if reason := r.text("reason"); !strings.HasPrefix(reason, "client-") {
		t.Errorf("a connection that the client aborted ended with reason %q", reason)
	}
}

// testRelogin: a receiver that leaves in good order and comes back, again and
// again under traffic, gets every message once: those before the end of its
// stream then, the others later.
func testRelogin(t *testing.T, d *dev) {
	alice, bob := apart(t, d)
	c := startChat(t)
	a, b := c.client("a"), c.client("b")
	a.login(d, alice, login{sm: true})
	a.do("talk", map[string]any{"to": bob.jid, "prefix": "a", "every": 0.005})
	for range 12 {
		b.login(d, bob, login{})
		b.await("message", nil)
		b.logout()
	}
	a.do("hush", nil)
	a.await("talked", nil)
	a.send(bob.jid, "the last word")
	b.login(d, bob, login{})
	b.awaitBody("the last word")
	a.logout()
	b.logout()
	conversation(a, b, "a").check(t, "alice to bob")
	wantNothingStored(t, d, bob)
}

// testConflict: of two sessions with the same resource the newer stays
// (RFC 6120 §7.7.2.2).
func testConflict(t *testing.T, d *dev) {
	alice := d.account(t)
	old, young := d.dialTLS(t), d.dialTLS(t)
	for _, s := range []*stream{old, young} {
		s.open(d.Domain)
		if got := s.plain(alice, alice.password); !got.is(nsSASL, "success") {
			t.Fatalf("login: %+v", got)
		}
		s.open(d.Domain)
		s.write("<iq type='set' id='b1'><bind xmlns='%s'><resource>desk</resource></bind></iq>", nsBind)
		result := s.readUntil("the result of binding", func(e element) bool { return e.attr("id") == "b1" })
		if got := result.child(nsBind, "bind").child(nsBind, "jid").Text; got != alice.jid+"/desk" {
			t.Errorf("bound to %q, want %s/desk", got, alice.jid)
		}
	}
	old.wantStreamError("conflict")
	young.sync(d)
	young.close()
}

// testTooLarge: a stanza above the limit ends the stream (RFC 6120 §13.12).
func testTooLarge(t *testing.T, d *dev) {
	alice, bob := d.account(t), d.account(t)
	s := d.dialTLS(t)
	s.session(d.Domain, "PLAIN", alice)
	s.write("<message to='%s' type='chat'><body>%s</body></message>", bob.jid, strings.Repeat("y", 200<<10))
	s.sync(d)
	// The server may close before it has taken all of it.
	_, _ = fmt.Fprintf(s.conn, "<message to='%s' type='chat'><body>%s</body></message>", bob.jid, strings.Repeat("z", 400<<10))
	s.wantStreamError("policy-violation")
}

// testSubscription: presence subscriptions work between users on two nodes.
func testSubscription(t *testing.T, d *dev) {
	alice, bob := apart(t, d)
	c := startChat(t)
	a, b := c.client("a"), c.client("b")
	a.login(d, alice, login{})
	bobJID := b.login(d, bob, login{}).JID

	// slixmpp accepts a request and asks back, unless it is told otherwise.
	a.do("presence", map[string]any{"to": bob.jid, "type": "subscribe"})
	a.await("presence", func(e event) bool { return e.From == bobJID && e.Type == "available" })
	eventuallyBoth(t, a, bob.jid)
	eventuallyBoth(t, b, alice.jid)
	b.logout()
	a.await("presence", func(e event) bool { return e.From == bobJID && e.Type == "unavailable" })
	a.logout()
}

// eventuallyBoth asks for the roster until the contact is subscribed both ways.
func eventuallyBoth(t *testing.T, c *client, contact string) {
	t.Helper()
	eventually(t, c.name+"'s subscription to "+contact, func(context.Context) (bool, string) {
		c.do("roster", nil)
		items := c.await("roster", nil).Items
		return items[contact] == "both", fmt.Sprint(items)
	})
}

// byNumber orders bodies of a talk ("PREFIX-7") by their number.
func byNumber(a, b string) int { return number(a) - number(b) }

// number returns the 7 of "PREFIX-7"; 0 for what is not of a talk.
func number(body string) int {
	n, err := strconv.Atoi(body[strings.LastIndex(body, "-")+1:])
	if err != nil {
		return 0
	}
	return n
}
