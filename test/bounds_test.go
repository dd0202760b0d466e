package test

import (
	"encoding/xml"
	"fmt"
	"strings"
	"testing"
	"time"
)

// testBounds: whatever a client sends that its node takes, its recipient gets, and the recipient's
// other clients, and those who log in later. What the node does not take ends the client that has sent it.
func testBounds(t *testing.T, d *dev) {
	attrs := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, " a%d='1'", i)
		}
		return b.String()
	}
	nested := func(n int) string { return strings.Repeat("<a xmlns='u'>", n) + strings.Repeat("</a>", n) }
	const room = 256 << 10
	head := "<message type='chat' id='poison' to='%s'"
	for name, c := range map[string]struct {
		lang, stanza string
		refused      bool
	}{
		"deep":            {stanza: head + ">" + nested(55) + "</message>"},
		"too deep":        {stanza: head + ">" + nested(62) + "</message>", refused: true},
		"attributes":      {stanza: head + attrs(53) + "><body>hi</body></message>"},
		"many attributes": {stanza: head + attrs(61) + "><body>hi</body></message>", refused: true},
		"long":            {lang: strings.Repeat("'", 9500), stanza: head + "><body>" + strings.Repeat("y", room-200) + "</body></message>"},
	} {
		alice, bob := d.account(t), d.account(t)
		sender := d.dialTLS(t)
		sender.open(d.Domain)
		sender.plain(alice, alice.password)
		sender.dec = xml.NewDecoder(sender.conn)
		sender.write("<stream:stream to='%s' version='1.0' xml:lang=\"%s\" xmlns='jabber:client' xmlns:stream='%s'>", d.Domain, c.lang, nsStreams)
		sender.readHeader()
		sender.read()
		sender.write("<iq type='set' id='b'><bind xmlns='%s'><resource>%s</resource></bind></iq>", nsBind, strings.Repeat("&apos;", 1000))
		sender.readUntil("the result of binding", func(e element) bool { return e.attr("id") == "b" })
		sender.write("<presence type='subscribe' id='asks' to='%s'%s/>", bob.jid, attrs(53))
		sender.write(c.stanza, bob.jid)
		if c.refused {
			sender.readUntil("the stream error", func(e element) bool { return e.child(nsStream, "policy-violation").XMLName.Local != "" })
			continue
		}
		sender.write("<message type='chat' id='after' to='%s'><body>after</body></message>", bob.jid)
		sender.sync(d)
		for range 2 {
			s := d.dialTLS(t)
			s.session(d.Domain, "PLAIN", bob)
			s.write("<iq type='set' id='mam'><query xmlns='urn:xmpp:mam:2'/></iq>")
			found := 0
			s.readUntil("the end of the page: "+name, func(e element) bool {
				if e.child("urn:xmpp:mam:2", "result").XMLName.Local != "" {
					found++
				}
				return e.attr("id") == "mam"
			})
			if found != 2 {
				t.Errorf("%s: %d messages in the archive", name, found)
			}
			s.write("<presence/>")
			s.readUntil("the request: "+name, func(e element) bool { return e.attr("id") == "asks" })
			s.close()
		}
		sender.close()
	}
}

// testLongRoster: a roster may be longer than any stanza of a client.
func testLongRoster(t *testing.T, d *dev) {
	alice := d.account(t)
	s := d.dialTLS(t)
	s.session(d.Domain, "PLAIN", alice)
	const contacts = 300
	name := strings.Repeat("&apos;", 1000) // which takes as much room as many contacts do
	for i := range contacts {
		if err := s.conn.(deadliner).SetDeadline(time.Now().Add(patience)); err != nil { // for each
			t.Fatal(err)
		}
		s.write("<iq type='set' id='set'><query xmlns='jabber:iq:roster'><item jid='contact%d@example.net' name=\"%s\"/></query></iq>", i, name)
		s.readUntil("the result", func(e element) bool { return e.attr("id") == "set" })
	}
	for range 2 {
		s.write("<iq type='get' id='get'><query xmlns='jabber:iq:roster'/></iq>")
		got := s.readUntil("the roster", func(e element) bool { return e.attr("id") == "get" })
		if n := len(got.child("jabber:iq:roster", "query").Children); n != contacts {
			t.Errorf("%d contacts, want %d", n, contacts)
		}
	}
	s.sync(d)
	s.close()
}
