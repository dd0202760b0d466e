package backend_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/store"
)

func TestPrivateXML(t *testing.T) {
	c := newCluster(t, 2, func(o *backend.Options) { o.Limits.PrivateSpaces, o.Limits.PrivateBytes = 3, 300 })
	phone, tab := c.login(0, "alice", "phone"), c.login(1, "alice", "tab")
	ask := func(cl *client, kind, to, payload, want string) {
		t.Helper()
		cl.write(fmt.Sprintf("<iq type='%s' id='q'%s><query xmlns='jabber:iq:private'>%s</query></iq>", kind, to, payload))
		cl.expect(want)
	}
	const ok = "^<iq type='result' id='q' to='[^']+'></iq>"
	result := func(payload string) string { return "<query xmlns='jabber:iq:private'>" + payload + "</query></iq>$" }
	ask(phone, "get", "", "<exodus xmlns='exodus:prefs'/>", result("<exodus xmlns='exodus:prefs'/>"))
	ask(phone, "set", "", "<exodus xmlns='exodus:prefs'><nick>H &amp; M</nick></exodus>", ok)
	ask(tab, "get", "", "<exodus xmlns='exodus:prefs'/>", result("<exodus xmlns='exodus:prefs'><nick>H &amp; M</nick></exodus>"))
	ask(tab, "get", " to='alice@example.com'", "<x:any xmlns:x='exodus:prefs'/>", result("<exodus xmlns='exodus:prefs'><nick>H &amp; M</nick></exodus>"))
	ask(tab, "set", "", "<p:a xmlns:p='urn:p'><p:b/></p:a><s xmlns='storage:x'/><p:c xmlns:p='urn:p'/>", ok)
	ask(phone, "get", "", "<a xmlns='urn:p'/>", result("<p:a xmlns:p='urn:p'><p:b/></p:a><p:c xmlns:p='urn:p'/>"))
	ask(phone, "set", "", "<a xmlns='urn:p'/>", ok)
	ask(phone, "get", "", "<a xmlns='urn:p'/>", result("<a xmlns='urn:p'/>"))

	for _, bad := range []struct{ kind, to, payload, want string }{
		{"get", "", "", "<bad-request "},
		{"get", "", "<a xmlns='urn:a'/><b xmlns='urn:b'/>", "<bad-request "},
		{"get", "", "<a/>", "<not-acceptable "},
		{"set", "", "", "<not-acceptable "},
		{"set", "", "<a/>", "<not-acceptable "},
		{"set", "", "<a xmlns=''/>", "<not-acceptable "},
		{"set", "", "<a xmlns='urn:4th'/>", "<policy-violation "},
		{"set", "", "<a xmlns='urn:p'>" + strings.Repeat("x", 300) + "</a>", "<policy-violation "},
		{"set", "", "<a xmlns='" + strings.Repeat("x", 1024) + "'/>", "<policy-violation .*the namespace is too long"},
		{"get", " to='bob@example.com'", "<a xmlns='urn:a'/>", "<error type='auth'><forbidden "},
		{"set", " to='bob@example.com'", "<a xmlns='urn:a'/>", "<error type='auth'><forbidden "},
		{"set", " to='nobody@example.com'", "<a xmlns='urn:a'/>", "<error type='auth'><forbidden "},
		{"get", " to='example.com'", "<a xmlns='urn:a'/>", "<service-unavailable "},
	} {
		ask(phone, bad.kind, bad.to, bad.payload, "type='error'.*"+bad.want)
	}
	phone.write("<iq type='set' id='q' xmlns:p='urn:p'><query xmlns='jabber:iq:private'><p:a/></query></iq>")
	phone.expect("<not-acceptable ")
	phone.write("<iq type='get' id='q'><other xmlns='jabber:iq:private'><a xmlns='urn:a'/></other></iq>")
	phone.expect("<bad-request ")
}

func TestVCard(t *testing.T) {
	c := newCluster(t, 2, func(o *backend.Options) { o.Limits.VCardBytes = 1000 })
	alice, bob := c.login(0, "alice", "phone"), c.login(1, "bob", "desk")
	ask := func(cl *client, kind, to, card, want string) {
		t.Helper()
		cl.write(fmt.Sprintf("<iq type='%s' id='q'%s>%s</iq>", kind, to, card))
		cl.expect(want)
	}
	const none, card = "<vCard xmlns='vcard-temp'/>", "<vCard xmlns='vcard-temp'><FN>Alice &amp; co</FN><PHOTO><BINVAL>AAAA</BINVAL></PHOTO></vCard>"
	ask(alice, "get", "", none, "type='result' id='q' to='[^']+'><vCard xmlns='vcard-temp'/></iq>$")
	ask(bob, "get", " to='alice@example.com'", none, "type='error'.*<service-unavailable ") // like the next
	ask(bob, "get", " to='nobody@example.com'", none, "type='error'.*<service-unavailable ")
	ask(alice, "set", "", card, "type='result'")
	ask(alice, "get", " to='alice@example.com'", none, "type='result' id='q' from='alice@example.com' to='[^']+'>"+card+"</iq>$")
	ask(bob, "get", " to='alice@example.com'", none, "type='result' id='q' from='alice@example.com' to='bob@example.com/desk'>"+card+"</iq>$")
	ask(bob, "set", " to='alice@example.com'", card, "type='error'.*<error type='auth'><forbidden ")
	ask(bob, "set", " to='nobody@example.com'", card, "type='error'.*<error type='auth'><forbidden ")
	ask(bob, "set", " to='example.com'", card, "type='error'.*<service-unavailable ")
	ask(alice, "set", "", "<vCard xmlns='vcard-temp'><FN>"+strings.Repeat("x", 1000)+"</FN></vCard>", "type='error'.*<policy-violation ")
	ask(alice, "set", " xmlns:v='vcard-temp'", "<v:vCard/>", "type='error'.*<not-acceptable ")
	ask(alice, "set", "", "<other xmlns='vcard-temp'/>", "type='error'.*<bad-request ")
	ask(bob, "get", " to='alice@example.com'", "<other xmlns='vcard-temp'/>", "type='error'.*<service-unavailable ")
	ask(alice, "get", "", none, "<FN>Alice &amp; co</FN>")

	if err := c.store.DeleteAccount(t.Context(), "alice@example.com"); err != nil {
		t.Fatal(err)
	}
	c.account("alice")
	c.startNode("node-3") // remembers nothing of the first
	late := c.login(2, "alice", "phone")
	ask(late, "get", "", none, "type='result' id='q' to='[^']+'><vCard xmlns='vcard-temp'/></iq>$")
}

// A question that is for one client reaches it only from who may know the answer (XEP-0012 §4).
func TestLastActivityOfAClient(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	c.subscribed("bob", "alice", store.SubscriptionFrom)
	alice, bob, carol := c.online(0, "alice", "phone"), c.online(1, "bob", "desk"), c.online(0, "carol", "pad")
	ask := func(cl *client, to string) {
		cl.write("<iq type='get' id='l' to='" + to + "'><query xmlns='jabber:iq:last'/></iq>")
	}
	for _, to := range []string{bob.jid, "bob@example.com/none", "nobody@example.com/desk"} {
		ask(carol, to)
		carol.expect("^<iq [^>]*type='error'.*<forbidden ")
	}
	ask(alice, "bob@example.com/none")
	alice.skipTo("^<iq [^>]*type='error'.*<service-unavailable ")
	ask(alice, bob.jid)
	bob.expect("^<iq [^>]*from='alice@example.com/phone'")
	ask(bob, bob.jid)
	bob.expect("^<iq [^>]*from='bob@example.com/desk'")
	bob.block("alice@example.com")
	c.quiet()
	ask(alice, bob.jid)
	alice.skipTo("^<iq [^>]*type='error'.*<forbidden ")
	bob.block("carol@example.com") // who learns nothing by that
	ask(carol, bob.jid)
	carol.expect("^<iq [^>]*type='error'.*<forbidden ")
}

// endedStore says when sessions have ended last.
type endedStore struct {
	store.Store
	ended time.Time
}

func (s *endedStore) LastEnd(context.Context, store.OwnerID) (time.Time, error) { return s.ended, nil }

// XEP-0012 §3, §4: who may see a user's presence learns for how long the user is away.
func TestLastActivity(t *testing.T) {
	t.Parallel()
	const forbidden, hours = "<error type='auth'><forbidden ", `<query xmlns='jabber:iq:last' seconds='(7200|72[0-9][0-9])'/>`
	const now, never = "<query xmlns='jabber:iq:last' seconds='0'/>", `<query xmlns='jabber:iq:last' seconds='\d{1,2}'/>`
	tests := []struct {
		name, to, want string
		node           int  // of bob's session; -1: there is none
		available      bool // bob's session
		blocked, fresh bool // no session of bob has ended yet
	}{
		{name: "offline", to: "bob", node: -1, want: hours},
		{name: "offline for ever", to: "bob", node: -1, fresh: true, want: never},
		{name: "available", to: "bob", available: true, want: now},
		{name: "not available", to: "bob", want: now},
		{name: "not available elsewhere", to: "bob", node: 1, want: now},
		{name: "elsewhere", to: "bob", node: 1, available: true, want: now},
		{name: "not shown", to: "carol", node: -1, want: forbidden},
		{name: "nobody", to: "nobody", node: -1, want: forbidden},
		{name: "blocked", to: "bob", node: 1, blocked: true, want: forbidden},
		{name: "oneself", to: "alice", node: -1, want: now},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 0, nil)
			c.subscribed("bob", "alice", store.SubscriptionFrom)
			c.subscribed("carol", "alice", store.SubscriptionTo) // the other way round
			ended := &endedStore{Store: c.store}
			if !tt.fresh {
				ended.ended = time.Now().Add(-2 * time.Hour)
			}
			c.store = ended
			c.startNode("node-1")
			c.startNode("node-2")
			alice := c.online(0, "alice", "phone")
			if tt.node >= 0 {
				bob := c.login(tt.node, "bob", "desk")
				if tt.available {
					bob.write("<presence/>")
					bob.skipTo("^<presence [^>]*from='bob@example.com/desk'")
					alice.skipTo("^<presence [^>]*from='bob@example.com/desk'")
				}
				if tt.blocked {
					bob.block("alice@example.com")
				}
			}
			ask := func() string {
				alice.write("<iq type='get' id='l' to='" + tt.to + "@example.com'><query xmlns='jabber:iq:last'/></iq>")
				return alice.skipTo("^<iq [^>]*id='l'")
			}
			c.eventually(tt.want, func() bool { return regexp.MustCompile(tt.want).MatchString(ask()) })
		})
	}
}
