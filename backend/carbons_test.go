package backend_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/bus"
)

// carbons asks for copies.
func (cl *client) carbons(what string) {
	cl.t.Helper()
	cl.write("<iq type='set' id='carbons'><" + what + " xmlns='urn:xmpp:carbons:2'/></iq>")
	cl.expect("^<iq type='result' id='carbons'")
}

// A client that has got the copy of a message for another one does not get the message as
// well when that one does not come back.
func TestCopyIsEnough(t *testing.T) {
	t.Parallel()
	for _, counts := range []bool{false, true} {
		c := newCluster(t, 1, func(o *backend.Options) { o.Timeouts.Resume = time.Second })
		bob, desk := c.online(0, "bob", "desk"), c.online(0, "alice", "desk")
		desk.carbons("enable")
		if counts {
			desk.counts()
		}
		phone := c.login(0, "alice", "phone")
		phone.write(smResumable)
		phone.expect("^<enabled ")
		_ = phone.conn.Close()
		bob.write("<message to='alice@example.com/phone' type='chat'><body>once</body></message>")
		desk.skipTo("<received .*<body>once</body>")
		if counts {
			desk.write("<a xmlns='urn:xmpp:sm:3' h='1'/>")
		}
		c.eventually("the message is received", func() bool { _, delivered := c.head("alice"); return delivered == 1 })
		bob.write("<message to='alice@example.com' type='chat'><body>twice</body></message>")
		if got := desk.skipTo("<body>"); !strings.Contains(got, "twice") {
			t.Errorf("got %s", got)
		}
	}
}

// alicesDevices are three: phone, and tab and car, which want copies; car has a
// negative priority.
func alicesDevices(c *cluster) (phone, tab, car *client) {
	phone = c.online(0, "alice", "phone")
	tab = c.login(0, "alice", "tab")
	tab.carbons("enable")
	tab.write("<presence/>")
	tab.expectAll("from='alice@example.com/tab'", "from='alice@example.com/phone'")
	car = c.login(0, "alice", "car")
	car.write("<presence><priority>-1</priority></presence>")
	car.expectAll("from='alice@example.com/tab'", "from='alice@example.com/phone'", "from='alice@example.com/car'")
	car.carbons("enable")
	tab.expect("from='alice@example.com/car'")
	phone.expectAll("from='alice@example.com/tab'", "from='alice@example.com/car'")
	return phone, tab, car
}

// TestCarbons: each message ends up at each device once, as itself or as a copy.
func TestCarbons(t *testing.T) {
	c := newCluster(t, 2, nil)
	bob := c.online(1, "bob", "desk")
	phone, tab, car := alicesDevices(c)

	sent := "^<message from='alice@example.com' to='%s' type='chat'><sent xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>" +
		"<message xmlns='jabber:client' [^>]*from='alice@example.com/phone'[^>]*><body>1</body>" +
		"<stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='1'/></message></forwarded></sent>%s</message>$"
	phone.write("<message to='bob@example.com' type='chat' id='m1'><body>1</body></message>")
	bob.expect("<body>1</body>")
	tab.expect(fmt.Sprintf(sent, tab.jid, "<stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='1'/>"))
	car.expect(fmt.Sprintf(sent, car.jid, "")) // it does not have all entries before

	bob.write("<message to='" + phone.jid + "' type='chat'><body>2</body></message>")
	// The number is first where an entry before it is still on its way (DESIGN.md).
	phone.expect("^<message [^>]*from='bob@example.com/desk'[^>]*>(<stanza-id [^>]*/>)?<body>2</body>")
	for _, cl := range []*client{tab, car} {
		cl.expect("<received xmlns='urn:xmpp:carbons:2'><forwarded [^>]*><message xmlns='jabber:client' [^>]*>(<stanza-id [^>]* id='2'/>)?<body>2</body>(<stanza-id [^>]* id='2'/>)?")
	}

	// To all: copies only for those who take nothing.
	bob.write("<message to='alice@example.com' type='chat'><body>3</body></message>")
	phone.expect("^<message [^>]*from='bob@example.com/desk'[^>]*>(<stanza-id [^>]*/>)?<body>3</body>")
	tab.expect("^<message [^>]*from='bob@example.com/desk'[^>]*>(<stanza-id [^>]*/>)?<body>3</body>")
	car.expect("<received .*<body>3</body>")

	// To one's own device: those who neither sent nor get it.
	phone.write("<message to='" + tab.jid + "' type='chat'><body>4</body></message>")
	tab.expect("^<message [^>]*from='alice@example.com/phone'[^>]*>(<stanza-id [^>]*/>)?<body>4</body>")
	car.expect("<received .*<body>4</body>")

	tab.carbons("disable")
	phone.write("<message to='bob@example.com' type='chat'><body>5</body></message>")
	car.expect("<sent .*<body>5</body>")
	for _, cl := range []*client{phone, tab, car} {
		cl.sync()
	}
	c.eventually("all delivered", func() bool { head, delivered := c.head("alice"); return head == 6 && delivered == 6 })
}

// A client that takes nothing gets a copy also of what waits for another, and no second one when
// that comes, on this node or on another.
func TestCarbonsOfWhatWaits(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	bob := c.online(1, "bob", "desk")
	car := c.login(0, "alice", "car")
	car.carbons("enable")
	car.write("<presence><priority>-1</priority></presence>")
	car.expect("from='alice@example.com/car'")
	for _, to := range []string{"alice@example.com", "alice@example.com/gone"} {
		bob.write("<message to='" + to + "' type='chat'><body>waits</body></message>")
		car.expect("^<message from='alice@example.com' to='alice@example.com/car' type='chat'><received .*<body>waits</body>")
	}
	for i := range c.nodes {
		phone := c.login(i, "alice", "phone")
		phone.write("<presence/>")
		phone.skipToAll("from='alice@example.com/car'", "from='alice@example.com/phone'")
		if i == 0 {
			c.eventually("what waited is delivered", func() bool { head, delivered := c.head("alice"); return head == 2 && delivered == 2 })
		}
		car.expect("from='alice@example.com/phone'")
		bob.write("<message to='" + phone.jid + "' type='chat'><body>stored</body></message>" +
			"<message to='" + phone.jid + "' type='chat'><body>live</body><no-store xmlns='urn:xmpp:hints'/></message>")
		car.expectAll("<received .*<body>stored</body>", "<received .*<body>live</body>")
		phone.close()
		car.expect("type='unavailable'")
	}
	car.sync()
}

// What is not stored is copied as well, if it belongs to a conversation.
func TestCarbonsOfLiveMessages(t *testing.T) {
	c := newCluster(t, 2, nil)
	bob := c.online(1, "bob", "desk")
	phone, tab, car := alicesDevices(c)

	phone.write("<message to='bob@example.com' type='chat'>" + composing + "</message>")
	bob.expect("<composing ")
	tab.expect("<sent .*<composing ")
	car.expect("<sent .*<composing ")
	bob.write("<message to='" + phone.jid + "' type='chat'>" + composing + "</message>")
	phone.expect("^<message [^>]*from='bob@example.com/desk'[^>]*><composing ")
	tab.expect("<received .*<composing ")
	car.expect("<received .*<composing ")
	bob.write("<message to='" + phone.jid + "'><body>x</body><no-store xmlns='urn:xmpp:hints'/></message>")
	phone.expect("<no-store ")
	tab.expect("^<message from='alice@example.com' to='alice@example.com/tab'><received .*<no-store ")
	car.expect("<received .*<no-store ")
	for _, of := range []string{composing, "<received xmlns='urn:xmpp:receipts' id='1'/>", "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>"} {
		bob.write("<message to='" + phone.jid + "'>" + of + "<no-store xmlns='urn:xmpp:hints'/></message>")
		phone.expect("<no-store ")
		tab.expect("<received .*<no-store ")
		car.expect("<received .*<no-store ")
	}
	bob.write("<message to='" + phone.jid + "'><x xmlns='urn:x'/><no-store xmlns='urn:xmpp:hints'/></message>")
	phone.expect("<no-store ")
	for _, kind := range []string{"headline", "groupchat"} {
		bob.write("<message to='" + phone.jid + "' type='" + kind + "'><body>x</body></message>")
		phone.expect("type='" + kind + "'")
	}
	for _, cl := range []*client{phone, tab, car} {
		cl.sync()
	}
}

// Who has several clients sees at all of them that a message has come back, and which one, if it
// is one that is copied (XEP-0280 §6.1). Of errors that clients send nobody knows that.
func TestCarbonsOfBounces(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	bob := c.login(1, "bob", "desk") // not available
	phone, tab, car := alicesDevices(c)
	phone.write("<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='carol@example.com'/></block></iq>")
	phone.skipTo("^<iq [^>]*id='b'")
	const noStore = "<no-store xmlns='urn:xmpp:hints'/>"
	for _, tt := range []struct {
		name, to, kind, inside, condition string
		copied                            bool
	}{
		{"nobody", "nobody@example.com", "chat", "<body>x</body>", "service-unavailable", true},
		{"nobody, normal", "nobody@example.com", "normal", "<body>x</body>", "service-unavailable", true},
		{"nobody, chat state", "nobody@example.com", "chat", composing, "service-unavailable", true},
		{"another domain", "bob@example.net", "chat", "<body>x</body>", "remote-server-not-found", true},
		{"nobody there", "bob@example.com/gone", "normal", "<body>x</body>" + noStore, "service-unavailable", true},
		{"nobody there, as another node says", "bob@example.com", "chat", "<body>x</body>" + noStore, "service-unavailable", true},
		{"blocked", "carol@example.com", "chat", "<body>x</body>", "not-acceptable", true},
		{"normal without words", "nobody@example.com", "normal", "<x xmlns='urn:x'/>", "service-unavailable", false},
		{"headline", "nobody@example.com", "headline", "<body>x</body>", "service-unavailable", false},
		{"group chat", "bob@example.com", "groupchat", "<body>x</body>", "service-unavailable", false},
		{"private", "nobody@example.com", "chat", "<body>x</body><private xmlns='urn:xmpp:carbons:2'/>", "service-unavailable", false},
		{"no address", "@example.com", "chat", "<body>x</body>", "jid-malformed", false},
	} {
		phone.write(fmt.Sprintf("<message to='%s' type='%s' id='m'>%s</message>", tt.to, tt.kind, tt.inside))
		bounce := "type='error'[^>]*><error type='[a-z]+'><" + tt.condition + " "
		phone.skipTo("^<message [^>]*" + bounce)
		for _, cl := range []*client{tab, car} {
			if tt.copied {
				cl.skipTo("^<message from='alice@example.com' to='" + cl.jid + "' type='" + tt.kind + "'><sent [^>]*><forwarded [^>]*><message [^>]*id='m'[^>]*from='alice@example.com/phone'")
				cl.expect("^<message from='alice@example.com' to='" + cl.jid + "' type='error'><received [^>]*><forwarded [^>]*><message [^>]*" + bounce)
			}
			if cl.sync(); t.Failed() {
				t.Fatal(tt.name)
			}
		}
	}
	bob.write("<message to='" + phone.jid + "' type='error' id='m'><body>x</body><error type='cancel'><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>")
	phone.skipTo("<gone ")
	tab.sync()

	// The store is the one to refuse it.
	phone.write("<message to='bob@example.com' type='chat'><body>y</body></message>")
	phone.sync()
	if err := c.store.DeleteAccount(t.Context(), "bob@example.com"); err != nil {
		t.Fatal(err)
	}
	phone.write("<message to='bob@example.com' type='chat'><body>z</body></message>")
	phone.skipTo("^<message [^>]*type='error'")
	tab.skipTo("<sent .*<body>z</body></message>")
	tab.expect("type='error'><received .*<service-unavailable ")
}

func TestCarbonsRuledOut(t *testing.T) {
	c := newCluster(t, 1, nil)
	bob := c.online(0, "bob", "desk")
	phone, tab, car := alicesDevices(c)
	for _, mark := range []string{"<private xmlns='urn:xmpp:carbons:2'/>", "<no-copy xmlns='urn:xmpp:hints'/>"} {
		for _, more := range []string{"", "<no-store xmlns='urn:xmpp:hints'/>"} {
			body := "<body>private</body>" + mark + more
			phone.write("<message to='bob@example.com' type='chat'>" + body + "</message>")
			if got := bob.expect("<body>private</body>"); strings.Contains(got, "<private") {
				t.Errorf("got %s", got)
			}
			bob.write("<message to='" + phone.jid + "' type='chat'>" + body + "</message>")
			if got := phone.expect("<body>private</body>"); strings.Contains(got, "<private") {
				t.Errorf("got %s", got)
			}
		}
	}
	for _, cl := range []*client{phone, tab, car} {
		cl.sync()
	}
	tab.write("<iq type='set' id='x'><other xmlns='urn:xmpp:carbons:2'/></iq>")
	tab.expect("type='error'.*<bad-request ")
	tab.write("<iq type='get' id='x' to='example.com'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>")
	tab.expect("<feature var='urn:xmpp:carbons:2'/>")
}

// What was sent before the client was there is in the archive, and does not come as a
// copy; what was sent while a signal was lost does.
func TestCarbonsAndGaps(t *testing.T) {
	c := newCluster(t, 2, nil)
	phone := c.online(0, "alice", "phone")
	phone.write("<message to='bob@example.com' type='chat'><body>before</body></message>")
	phone.sync()
	tab := c.login(1, "alice", "tab") // another node: its copies are not in the signals
	tab.carbons("enable")
	tab.write("<presence/>")
	tab.expectAll("from='alice@example.com/tab'", "from='alice@example.com/phone'")
	phone.expect("from='alice@example.com/tab'")
	for i := range 5 {
		i, lost := i, i%2 == 0
		c.bus.mu.Lock()
		c.bus.cut = func(sig bus.Signal) bool { return lost && sig.Kind == bus.Entry }
		c.bus.mu.Unlock()
		phone.write(fmt.Sprintf("<message to='bob@example.com' type='chat'><body>%d</body></message>", i))
		phone.sync()
	}
	for i := range 4 {
		if got := tab.expect(fmt.Sprintf("<sent .*<body>%d</body>", i)); strings.Contains(got, "<delay ") {
			t.Errorf("marked as late: %s", got)
		}
	}
}
