package backend_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"imlb/backend"
)

const (
	csiInactive = "<inactive xmlns='urn:xmpp:csi:0'/>"
	csiActive   = "<active xmlns='urn:xmpp:csi:0'/>"
	composing   = "<composing xmlns='http://jabber.org/protocol/chatstates'/>"
)

// An inactive client gets messages at once, and of presence and chat states only the last,
// later.
func TestInactiveClient(t *testing.T) {
	c := newCluster(t, 1, nil)
	for _, friend := range []string{"alice", "carol"} {
		c.befriend("bob", friend)
	}
	bob := c.online(0, "bob", "phone")
	bob.write(csiInactive)
	bob.sync()
	carol := c.online(0, "carol", "pad")
	carol.expect("from='bob@example.com/phone'")
	alice := c.online(0, "alice", "desk")
	alice.expect("from='bob@example.com/phone'")
	for i := range 5 {
		alice.write(fmt.Sprintf("<presence><status>%d</status></presence>", i))
		alice.expect("<status>")
		carol.write("<message to='bob@example.com/phone' type='chat'>" + composing + "</message>")
	}
	carol.sync()
	bob.sync() // nothing but the answer
	stored := "<message to='bob@example.com' type='chat'>" + composing + "<store xmlns='urn:xmpp:hints'/></message>"
	carol.write(stored) // what is on the timeline does not wait
	bob.expect("^<presence [^>]*from='carol@example.com/pad'")
	bob.expect("^<message [^>]*>" + composing + "</message>")
	bob.expect("<store ")
	carol.write("<presence><status>a</status></presence><message to='bob@example.com/phone' type='chat'>" + composing + "</message>")
	carol.skipTo("<status>a")
	carol.sync()

	// alice's presence comes before what she says, carol's waits.
	alice.write("<message to='bob@example.com' type='chat'><body>hello</body></message>")
	bob.expect("^<presence [^>]*from='alice@example.com/desk'.*<status>4</status>")
	bob.expect("<body>hello</body>")
	bob.sync()
	bob.write(csiActive)
	bob.expect("^<presence [^>]*from='carol@example.com/pad'.*<status>a")
	bob.expect("^<message [^>]*from='carol@example.com/pad'[^>]*>" + composing)
	bob.sync()

	// Active again: nothing is held.
	alice.write("<presence><status>6</status></presence>")
	bob.expect("<status>6</status>")
	bob.write("<other xmlns='urn:xmpp:csi:0'/>")
	bob.end("unsupported-stanza-type")
}

// Requests, headlines, errors and subscriptions do not wait; copies of chat states do.
func TestWhatDoesNotWait(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "desk")
	bob, other := c.login(0, "bob", "phone"), c.online(0, "bob", "tab")
	other.syncWith(other) // it has asked what others there are
	bob.write("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>")
	bob.expect("^<iq ")
	bob.carbons("enable")
	bob.write("<presence/>")
	bob.expectAll("from='bob@example.com/phone'", "from='bob@example.com/tab'")
	other.expect("from='bob@example.com/phone'")
	bob.write(csiInactive)
	bob.sync()
	other.write("<message to='alice@example.com' type='chat'>" + composing + "</message>")
	alice.expect("<composing ")
	other.sync()
	alice.write("<presence to='bob@example.com' type='subscribe'/>")
	bob.expect("^<presence [^>]*type='subscribe'")
	for _, stanza := range []string{
		"<message to='bob@example.com/phone' type='headline'><body>x</body></message>",
		"<message to='bob@example.com/phone' type='error'>" + composing + "</message>",
		"<iq to='bob@example.com/phone' type='get' id='i'><query xmlns='x'/></iq>",
	} {
		alice.write("<message to='bob@example.com/phone' type='chat' id='before'>" + composing + "</message>" + stanza)
		bob.expect("^<message [^>]* id='before'") // what the same client has said before it does not wait any more
		bob.expect("from='alice@example.com/desk'")
	}
	bob.write(csiActive)
	bob.expect("<sent .*<composing ")
}

// What goes with a chat state does not make it more than that, neither for a client that is inactive
// nor for one that is not there. A copy of one that is stored does not wait.
func TestChatStateWithAsides(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	alice, bob := c.online(0, "alice", "desk"), c.online(0, "bob", "phone")
	other := c.online(0, "bob", "tab")
	bob.skipTo("from='bob@example.com/tab'")
	other.skipTo("from='bob@example.com/phone'")
	bob.carbons("enable")
	bob.write(csiInactive)
	bob.sync()
	asides := "<thread>1</thread><origin-id xmlns='urn:xmpp:sid:0' id='1'/><no-copy xmlns='urn:xmpp:hints'/>" +
		"<delay xmlns='urn:xmpp:delay' stamp='2001-01-01T00:00:00Z'/>"
	alice.write("<message to='bob@example.com/phone' type='chat'>" + composing + asides + "<private xmlns='urn:xmpp:carbons:2'/></message>")
	other.write("<message to='alice@example.com' type='chat'>" + composing + "<origin-id xmlns='urn:xmpp:sid:0' id='2'/></message>")
	alice.skipTo("<composing ")
	alice.sync()
	other.sync()
	bob.sync() // nothing but the answer
	if head, _ := c.head("bob"); head != 0 {
		t.Errorf("%d entries on the timeline", head)
	}
	other.write("<message to='alice@example.com' type='chat'>" + composing + "<store xmlns='urn:xmpp:hints'/></message>")
	bob.expect("<sent .*<origin-id ")
	bob.expect("<sent .*<store ")
	bob.write(csiActive)
	bob.expect("^<message [^>]*from='alice@example.com/desk'[^>]*>" + composing + asides)
}

// A copy is what the one says whose message it has inside: it takes the place of what that one has said
// before, and of nothing else, and comes before what it says next.
func TestCopiesOfChatStatesWait(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	alice, carol := c.online(0, "alice", "desk"), c.online(0, "carol", "pad")
	bob, other := c.online(0, "bob", "phone"), c.online(0, "bob", "tab")
	bob.skipTo("from='bob@example.com/tab'")
	other.skipTo("from='bob@example.com/phone'")
	bob.carbons("enable")
	quiet := func() {
		t.Helper()
		bob.write(csiInactive)
		bob.sync()
	}
	says := func(cl *client, to, state string) {
		t.Helper()
		cl.write("<message to='" + to + "' type='chat'><" + state + " xmlns='http://jabber.org/protocol/chatstates'/></message>")
		cl.sync()
	}

	quiet()
	for _, state := range []string{"composing", "paused"} {
		says(alice, other.jid, state)
		other.expect("<" + state + " ")
	}
	says(carol, other.jid, "composing")
	other.expect("<composing ")
	says(other, "alice@example.com", "composing")
	says(other, "carol@example.com", "composing")
	alice.expect("<composing ")
	carol.expect("<composing ")
	bob.sync() // nothing but the answer
	bob.write(csiActive)
	bob.expect("<received .*from='alice@example.com/desk'.*<paused ")
	bob.expect("<received .*from='carol@example.com/pad'.*<composing ")
	bob.expect("<sent .*to='alice@example.com'.*<composing ")
	bob.expect("<sent .*to='carol@example.com'.*<composing ")
	bob.sync()

	quiet()
	says(alice, other.jid, "composing")
	other.expect("<composing ")
	alice.write("<message to='bob@example.com' type='chat'><body>to all</body></message>")
	bob.expect("<received .*<composing ")
	bob.expect("^<message [^>]*from='alice@example.com/desk'.*<body>to all</body>")
	says(alice, bob.jid, "composing")
	alice.write("<message to='" + other.jid + "' type='chat'><body>to one</body></message>")
	bob.expect("^<message [^>]*from='alice@example.com/desk'[^>]*>" + composing)
	bob.expect("<received .*<body>to one</body>")
	bob.sync()
}

// What is held is bounded.
func TestInactiveClientHoldsLittle(t *testing.T) {
	c := newCluster(t, 1, nil)
	c.befriend("bob", "alice")
	bob := c.online(0, "bob", "phone")
	bob.write(csiInactive)
	bob.sync()
	status := strings.Repeat("x", 40_000)
	for i := range 4 {
		alice := c.login(0, "alice", fmt.Sprint(i))
		alice.write("<presence><status>" + status + "</status></presence>")
	}
	for range 4 {
		bob.expect("^<presence [^>]*from='alice@example.com/[0-3]'")
	}
}

// A client that says nothing is asked, and ended when it does not answer.
func TestSilentClient(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(o *backend.Options) {
		o.Timeouts.Idle, o.Timeouts.Ping = time.Second, 2*time.Second // a slow client is not silent
	})
	alice, bob := c.online(0, "alice", "phone"), c.online(0, "bob", "desk")
	for range 3 {
		ping := alice.expect("^<iq type='get' id='[^']+' from='example.com' to='alice@example.com/phone'><ping xmlns='urn:xmpp:ping'/></iq>$")
		alice.write("<iq type='result' id='" + between(ping, "id='", "'") + "' to='example.com'/>")
	}
	bob.expect("<ping ")
	bob.end("connection-timeout")
	_ = bob.conn.Close()
	c.gone("bob")
	c.eventually("the log line", func() bool { return strings.Contains(c.nodes[0].log.String(), "reason=client-timeout") })
}
