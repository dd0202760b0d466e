package backend_test

import (
	"fmt"
	"strings"
	"testing"

	"imlb/backend"
)

const (
	getBlocklist = "<iq type='get' id='blocklist'><blocklist xmlns='urn:xmpp:blocking'/></iq>"
	refused      = "type='error'.*<error type='cancel'><not-acceptable [^>]*/><blocked xmlns='urn:xmpp:blocking:errors'/></error>"
	unavailable  = "^<[^>]* type='error'.*<service-unavailable "
)

// block makes a client block addresses; it returns when the node acts on it.
func (cl *client) block(addresses ...string) {
	cl.t.Helper()
	cl.write("<iq type='set' id='block'><block xmlns='urn:xmpp:blocking'>" + blockItems(addresses) + "</block></iq>")
	cl.skipTo("^<iq type='result' id='block'")
}

// unblock returns when what matches has come too, in any order.
func (cl *client) unblock(addresses []string, also ...string) {
	cl.t.Helper()
	cl.write("<iq type='set' id='unblock'><unblock xmlns='urn:xmpp:blocking'>" + blockItems(addresses) + "</unblock></iq>")
	cl.skipToAll(append(also, "^<iq type='result' id='unblock'")...)
}

// settled returns when the nodes of a user's clients have handled all signals that came of
// what the first of them has written so far.
func settled(clients ...*client) {
	clients[0].t.Helper()
	clients[0].write("<message type='headline'><body>settled</body></message>")
	for _, cl := range clients {
		cl.skipTo("<body>settled</body>")
	}
}

func blockItems(addresses []string) string {
	var b strings.Builder
	for _, a := range addresses {
		fmt.Fprintf(&b, "<item jid='%s'/>", a)
	}
	return b.String()
}

// XEP-0191 §3.2 to §3.5, with clients on two nodes that have asked for the list and one
// that has not.
func TestBlocklist(t *testing.T) {
	c := newCluster(t, 2, nil)
	phone, tab, dumb := c.login(0, "alice", "phone"), c.login(1, "alice", "tab"), c.login(1, "alice", "dumb")
	for _, cl := range []*client{phone, tab} {
		cl.write(getBlocklist)
		cl.expect("^<iq type='result' id='blocklist' to='[^']*'><blocklist xmlns='urn:xmpp:blocking'></blocklist></iq>")
	}
	change := func(name, want string, addresses ...string) {
		t.Helper()
		phone.write("<iq type='set' id='change'><" + name + " xmlns='urn:xmpp:blocking'>" + blockItems(addresses) + "</" + name + "></iq>")
		want = "'><" + name + " xmlns='urn:xmpp:blocking'>" + want + "</" + name + "></iq>$"
		phone.expectAll("^<iq type='result' id='change' to='[^']+'></iq>", "^<iq type='set' id='[^']+' to='"+phone.jid+want)
		tab.expect("^<iq type='set' id='[^']+' to='" + tab.jid + want)
	}
	change("block", "<item jid='bob@example.com'/><item jid='bob@example.com/Desk &amp; co'/><item jid='example.net'/>",
		"EXAMPLE.net", "bob@example.com", "bob@example.com/Desk &amp; co")
	change("block", "<item jid='bob@example.com'/>", "bob@example.com") // again
	dumb.write(getBlocklist)
	dumb.expect("<item jid='bob@example.com'/><item jid='bob@example.com/Desk &amp; co'/><item jid='example.net'/></blocklist>")
	dumb.write("<iq type='set' id='forget'><query xmlns='jabber:iq:private'><x xmlns='urn:x'/></query></iq>")
	dumb.expect("^<iq type='result' id='forget'")

	change("unblock", "<item jid='bob@example.com'/><item jid='nobody@example.com'/>", "bob@example.com", "nobody@example.com")
	change("unblock", "")
	phone.write(getBlocklist)
	phone.expect("<blocklist xmlns='urn:xmpp:blocking'></blocklist>")
}

func TestBlocklistErrors(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.Blocked = 3 })
	alice := c.login(0, "alice", "phone")
	alice.block("a@example.com", "b@example.com")
	long := strings.Repeat("x", 1000)
	var many strings.Builder
	for i := range 70 {
		fmt.Fprintf(&many, "<item jid='a@example.com/%d%s'/>", i, long)
	}
	for command, condition := range map[string]string{
		"<block xmlns='urn:xmpp:blocking'/>":                                                              "bad-request",
		"<block xmlns='urn:xmpp:blocking'><item/></block>":                                                "bad-request",
		"<block xmlns='urn:xmpp:blocking'><other jid='a@b.example'/></block>":                             "bad-request",
		"<block xmlns='urn:xmpp:blocking'><item xmlns='urn:x' jid='a@b.example'/></block>":                "bad-request",
		"<block xmlns='urn:xmpp:blocking'><item jid='a@@b'/></block>":                                     "jid-malformed",
		"<unblock xmlns='urn:xmpp:blocking'><item jid=''/></unblock>":                                     "jid-malformed",
		"<block xmlns='urn:xmpp:blocking'><item jid='alice@example.com/tab'/></block>":                    "not-allowed",
		"<block xmlns='urn:xmpp:blocking'><item jid='c@example.com'/><item jid='d@example.com'/></block>": "resource-constraint",
		"<block xmlns='urn:xmpp:blocking'>" + many.String() + "</block>":                                  "resource-constraint",
		"<blocklist xmlns='urn:xmpp:blocking'/>":                                                          "bad-request",
	} {
		alice.write("<iq type='set' id='x'>" + command + "</iq>")
		alice.expect("^<iq [^>]*id='x'.*type='error'.*<" + condition + " |^<iq [^>]*type='error'.*<" + condition + " ")
	}
	alice.write("<iq type='get' id='x'><block xmlns='urn:xmpp:blocking'/></iq>")
	alice.expect("<bad-request ")
	alice.write("<iq type='get' id='x' to='bob@example.com'><blocklist xmlns='urn:xmpp:blocking'/></iq>")
	alice.expect("<service-unavailable ")
	c.quiet() // who has asked for the list gets pushes
	alice.write(getBlocklist)
	alice.expect("<item jid='a@example.com'/><item jid='b@example.com'/></blocklist>")
}

// A report of abuse (XEP-0377) goes to the log; the address is blocked as without.
func TestReport(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.login(0, "alice", "phone")
	alice.write("<iq type='set' id='r'><block xmlns='urn:xmpp:blocking'><item jid='bob@example.com'>" +
		"<report xmlns='urn:xmpp:reporting:1' reason='urn:xmpp:reporting:spam'><text>Again!</text></report></item></block></iq>")
	alice.expect("^<iq type='result' id='r'")
	if log := c.nodes[0].log.String(); !strings.Contains(log, "reported=bob@example.com reason=urn:xmpp:reporting:spam") {
		t.Errorf("the log says %s", log)
	}
}

// What a blocked user sends does not arrive (XEP-0191 §3.3), whatever part of its address
// is blocked (§5), and nobody else is concerned. The recipient is on another node.
func TestBlockedSender(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"bob@example.com/desk", "bob@example.com", "example.com"} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, nil)
			alice, tab, bob := c.online(0, "alice", "phone"), c.online(1, "alice", "tab"), c.online(1, "bob", "desk")
			alice.expect("from='alice@example.com/tab'")
			ping := "<iq type='get' id='p' to='alice@example.com/phone'><ping xmlns='urn:xmpp:ping'/></iq>"
			bob.write("<message to='alice@example.com'><body>before</body></message>" + ping)
			alice.expect("<body>before</body>")
			alice.expect("^<iq .*<ping ")
			alice.block(address)
			settled(alice, tab)
			for _, stanza := range []string{
				"<message to='alice@example.com' type='chat'><body>x</body></message>",
				"<message to='alice@example.com/phone'><body>x</body></message>",
				"<message to='alice@example.com' type='headline'><body>x</body></message>",
				"<message to='alice@example.com/phone' type='groupchat'><body>x</body></message>",
				"<message to='alice@example.com' type='chat'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>",
				ping,
				"<iq type='set' id='p' to='alice@example.com/phone'><x xmlns='urn:x'/></iq>",
				"<iq type='get' id='p' to='alice@example.com'><vCard xmlns='vcard-temp'/></iq>",
			} {
				bob.write(stanza)
				bob.expect(unavailable)
			}
			bob.write("<iq type='result' id='p' to='alice@example.com/phone'/>" +
				"<message to='alice@example.com/phone' type='error'><body>x</body></message>" +
				"<presence to='alice@example.com'/><presence to='alice@example.com/phone'/>" +
				"<presence to='alice@example.com' type='probe'/><presence to='alice@example.com' type='subscribe'/>")
			bob.sync() // no answer
			alice.sync()
			tab.sync()
			if head, _ := c.head("alice"); head != 1 {
				t.Errorf("%d entries on alice's timeline", head)
			}
			alice.unblock(nil)
			settled(alice, tab)
			bob.write("<message to='alice@example.com'><body>after</body></message>")
			alice.skipTo("<body>after</body>")
		})
	}
}

// Other addresses of a blocked one's are not.
func TestNotBlocked(t *testing.T) {
	c := newCluster(t, 2, nil)
	alice, tab, bob := c.online(0, "alice", "phone"), c.online(1, "bob", "tab"), c.online(1, "bob", "desk")
	tab.expect("from='bob@example.com/desk'")
	bob.expect("from='bob@example.com/tab'")
	other := c.online(1, "alice", "other")
	alice.expect("from='alice@example.com/other'")
	alice.block("bob@example.com/tab", "example.net", "example.com/tab", "carol@example.com")
	settled(alice, other)
	bob.write("<message to='alice@example.com' type='headline'><body>desk</body></message>")
	alice.expect("<body>desk</body>")
	tab.write("<message to='alice@example.com' type='headline'><body>tab</body></message>")
	tab.expect(unavailable)
	alice.sync()
}

// What the user itself sends to somebody blocked comes back (XEP-0191 §3.3), in order.
func TestSendToBlocked(t *testing.T) {
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	alice, bob := c.online(0, "alice", "phone"), c.online(1, "bob", "desk")
	alice.expect("from='bob@example.com/desk'")
	bob.expect("from='alice@example.com/phone'")
	alice.counts()
	alice.block("bob@example.com")
	bob.expect("^<presence type='unavailable' .*from='alice@example.com/phone'|^<presence [^>]*type='unavailable'")
	alice.write("<message to='carol@example.com'><body>fine</body></message>")
	for _, stanza := range []string{
		"<message to='bob@example.com'><body>x</body></message>",
		"<message to='bob@example.com/desk' type='headline'><body>x</body></message>",
		"<presence to='bob@example.com/desk'/>",
		"<presence to='bob@example.com' type='subscribe'/>",
		"<presence to='bob@example.com' type='probe'/>",
		"<iq type='get' id='x' to='bob@example.com/desk'><ping xmlns='urn:xmpp:ping'/></iq>",
		"<iq type='get' id='x' to='bob@example.com'><vCard xmlns='vcard-temp'/></iq>",
	} {
		alice.write(stanza)
		alice.expect(refused)
	}
	alice.write("<iq type='result' id='x' to='bob@example.com/desk'/><message to='bob@example.com' type='error'/>")
	alice.sync()
	alice.write(smAsk)
	alice.expect("^<a [^>]*h='12'/>")
	bob.sync()
	if head, _ := c.head("bob"); head != 0 {
		t.Errorf("%d entries on bob's timeline", head)
	}
	// The user and the server are never blocked for the user.
	alice.block("example.com")
	alice.sync()
	alice.write("<message><body>note</body></message>")
	alice.expect("<body>note</body>")
}
