package backend_test

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/bus"
	"imlb/backend/store"
)

func TestTwoUsersTalk(t *testing.T) {
	c := newCluster(t, 2, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(1, "bob", "desk")
	alice.write("<message to='bob@example.com' type='chat' id='m1'><body>hello</body></message>")
	got := bob.expect("^<message .*<body>hello</body>")
	if want := "<stanza-id xmlns='urn:xmpp:sid:0' by='bob@example.com' id='1'/></message>"; !strings.HasSuffix(got, want) {
		t.Errorf("got %s, want it to end with %s", got, want)
	}
	bob.write("<message to='" + alice.jid + "' type='chat' id='m2'><body>hello yourself</body></message>")
	alice.expect("^<message .*from='bob@example.com/desk'.*<body>hello yourself</body>")
	alice.close()
	bob.close()
}

// TestDeliveryRules holds RFC 6121 §8.5, table 1, with the choices that message
// documents. bob has a resource of priority 1, one of priority 0, and one with
// negative priority. Each is named with what it must get; everybody else must get
// nothing, and carol, who writes, an error if one is named.
func TestDeliveryRules(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, stanza     string
		desk, phone, bot bool
		err              string
		stored           int // entries on bob's timeline
	}{
		{name: "normal, bare", stanza: "<message to='bob@example.com'><body>x</body></message>", desk: true, phone: true, stored: 1},
		{name: "chat, bare", stanza: "<message to='bob@example.com' type='chat'><body>x</body></message>", desk: true, phone: true, stored: 1},
		{name: "groupchat, bare", stanza: "<message to='bob@example.com' type='groupchat'><body>x</body></message>", err: "service-unavailable"},
		{name: "headline, bare", stanza: "<message to='bob@example.com' type='headline'><body>x</body></message>", desk: true, phone: true},
		{name: "error, bare", stanza: "<message to='bob@example.com' type='error'><body>x</body></message>"},
		{name: "unknown type", stanza: "<message to='bob@example.com' type='other'><body>x</body></message>", desk: true, phone: true, stored: 1},

		{name: "normal, full", stanza: "<message to='bob@example.com/phone'><body>x</body></message>", phone: true, stored: 1},
		{name: "chat, full", stanza: "<message to='bob@example.com/desk' type='chat'><body>x</body></message>", desk: true, stored: 1},
		{name: "chat, full, negative", stanza: "<message to='bob@example.com/bot' type='chat'><body>x</body></message>", bot: true, stored: 1},
		{name: "groupchat, full", stanza: "<message to='bob@example.com/desk' type='groupchat'><body>x</body></message>", desk: true},
		{name: "headline, full", stanza: "<message to='bob@example.com/desk' type='headline'><body>x</body></message>", desk: true},
		{name: "error, full", stanza: "<message to='bob@example.com/desk' type='error'><body>x</body></message>", desk: true},

		{name: "normal, gone", stanza: "<message to='bob@example.com/gone'><body>x</body></message>", desk: true, phone: true, stored: 1},
		{name: "chat, gone", stanza: "<message to='bob@example.com/gone' type='chat'><body>x</body></message>", desk: true, phone: true, stored: 1},
		{name: "groupchat, gone", stanza: "<message to='bob@example.com/gone' type='groupchat'><body>x</body></message>", err: "service-unavailable"},
		{name: "headline, gone", stanza: "<message to='bob@example.com/gone' type='headline'><body>x</body></message>"},
		{name: "error, gone", stanza: "<message to='bob@example.com/gone' type='error'><body>x</body></message>"},

		{name: "no such user", stanza: "<message to='nobody@example.com' type='chat'><body>x</body></message>", err: "service-unavailable"},
		{name: "error to no such user", stanza: "<message to='nobody@example.com' type='error'><body>x</body></message>"},
		{name: "the server", stanza: "<message to='example.com'><body>x</body></message>", err: "service-unavailable"},
		{name: "another domain", stanza: "<message to='bob@example.net'><body>x</body></message>", err: "remote-server-not-found"},
		{name: "no address", stanza: "<message to='bob@@example.com'><body>x</body></message>", err: "jid-malformed"},

		{name: "chat state", stanza: "<message to='bob@example.com' type='chat'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>", desk: true, phone: true},
		{name: "chat state with thread", stanza: "<message to='bob@example.com' type='chat'><composing xmlns='http://jabber.org/protocol/chatstates'/><thread>1</thread></message>", desk: true, phone: true},
		{name: "receipt", stanza: "<message to='bob@example.com'><received xmlns='urn:xmpp:receipts' id='1'/></message>", desk: true, phone: true, stored: 1},
		{name: "no-store", stanza: "<message to='bob@example.com'><body>x</body><no-store xmlns='urn:xmpp:hints'/></message>", desk: true, phone: true},
		{name: "store", stanza: "<message to='bob@example.com'><active xmlns='http://jabber.org/protocol/chatstates'/><store xmlns='urn:xmpp:hints'/></message>", desk: true, phone: true, stored: 1},
		{name: "no-permanent-store", stanza: "<message to='bob@example.com'><body>x</body><no-permanent-store xmlns='urn:xmpp:hints'/></message>", desk: true, phone: true, stored: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, nil)
			carol := c.online(1, "carol", "pad")
			desk, phone, bot := c.login(0, "bob", "desk"), c.login(0, "bob", "phone"), c.login(0, "bob", "bot")
			desk.write("<presence><priority>1</priority></presence>")
			desk.skipTo("from='" + desk.jid)
			phone.write("<presence/>")
			phone.skipTo("from='" + phone.jid)
			bot.write("<presence><priority>-1</priority></presence>")
			bot.skipTo("from='" + bot.jid)

			carol.write(tt.stanza)
			// What is sent next comes after it.
			carol.write("<message to='bob@example.com' type='headline'><body>end</body></message>" +
				"<message to='" + bot.jid + "' type='headline'><body>end</body></message>")
			for _, r := range []struct {
				cl  *client
				got bool
			}{{desk, tt.desk}, {phone, tt.phone}, {bot, tt.bot}} {
				if next := r.cl.skipTo("^<message "); strings.Contains(next, ">end<") == r.got {
					t.Errorf("%s got %s", r.cl.jid, next)
				}
			}
			if tt.err != "" {
				carol.expect("^<message [^>]*type='error'.*<" + tt.err + " ")
			}
			carol.sync()
			if head, _ := c.head("bob"); head != uint64(tt.stored) {
				t.Errorf("%d entries on the timeline, want %d", head, tt.stored)
			}
		})
	}
}

// The nodes that have sessions of a user look one after the other whether a message reached
// one of them, and the sender hears once that it did not. A copy is as good as the message.
func TestNoStoreToManyNodes(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 4, nil)
	alice := c.online(0, "alice", "phone")
	var bobs []*client
	for i, resource := range []string{"desk", "pad", "tab", "car"} {
		bob := c.login(i, "bob", resource)
		bob.write("<presence><priority>-1</priority></presence>")
		bob.skipTo("from='" + bob.jid + "'")
		bobs = append(bobs, bob)
	}
	send := func() {
		t.Helper()
		alice.write("<message to='bob@example.com' type='chat' id='m'><body>x</body><no-store xmlns='urn:xmpp:hints'/></message>")
	}
	for range 2 { // the second does not find a second answer to the first
		send()
		alice.expect("^<message [^>]*type='error'.*<service-unavailable ")
		alice.sync()
	}
	bobs[3].write("<iq type='set' id='carbons'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
	bobs[3].skipTo("^<iq type='result' id='carbons'")
	send()
	bobs[3].skipTo("<received .*id='m'")
	bobs[2].write("<presence/>")
	bobs[2].skipTo("^<presence [^>]*from='bob@example.com/tab'[^>]*/>")
	send()
	bobs[2].skipTo("^<message .*id='m'")
	alice.sync()
}

func TestStampedAndStripped(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(0, "bob", "desk")
	alice.write("<message to='bob@example.com' from='alice@example.com' id='m'><body>x</body>" +
		"<stanza-id xmlns='urn:xmpp:sid:0' by='bob@example.com' id='99'/><stanza-id xmlns='urn:xmpp:sid:0' by='room@example.net' id='7'/>" +
		"<at xmlns='urn:imlb:front:0' entry='99'/></message>")
	got := bob.expect("^<message [^>]*from='alice@example.com/phone'")
	if strings.Contains(got, "'99'") || !strings.Contains(got, "by='room@example.net' id='7'") {
		t.Errorf("got %s", got)
	}
}

// That we were late is ours to say (XEP-0203 §5). Others may say so of themselves. It is not stored,
// so what is exported, imported and exported again is the same.
func TestForgedDelay(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	delay := func(from string) string {
		return "<delay xmlns='urn:xmpp:delay' " + from + "stamp='2001-01-01T00:00:00Z'/>"
	}
	forged := delay("from='example.com' ") + delay("from='EXAMPLE.com' ")
	theirs := delay("from='alice@example.com/phone' ") + delay("from='example.net' ") + delay("") + "<delay xmlns='urn:x' from='example.com'/>"
	alice, bob := c.online(0, "alice", "phone"), c.login(0, "bob", "desk")
	alice.write("<message to='bob@example.com' type='chat'>" + forged + "<body>1</body>" + theirs + "</message>")
	alice.sync()
	document := export(t, c.store, "bob@example.com")
	if again := export(t, importedAgain(t, document), "bob@example.com"); again != document {
		t.Errorf("exported again:\n%s\nat first:\n%s", again, document)
	}
	sent := time.Now()
	c.eventually("the clock moves", func() bool { return time.Since(sent) > 5*time.Millisecond })
	bob.write("<presence/>")
	bob.expectAll("^<presence ", "'><body>1</body>"+theirs+"<delay xmlns='urn:xmpp:delay' from='example.com' stamp='[^']*Z'/><stanza-id [^>]*/></message>$")
	alice.write("<message to='" + bob.jid + "' type='headline'>" + forged + "<body>2</body></message>")
	bob.expect("'><body>2</body></message>$")
}

func TestToOneself(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	alice.write("<message type='chat'><body>note</body></message>")
	alice.expect("<body>note</body>.* id='1'/></message>")
	c.eventually("both entries", func() bool { head, delivered := c.head("alice"); return head == 2 && delivered == 2 })
}

// A message that may not be stored reaches somebody, or its sender is told (RFC 6121
// §8.5.2.2, §8.5.3.2).
func TestNoStoreToNobody(t *testing.T) {
	t.Parallel()
	const body, hint = "<body>x</body>", "<no-store xmlns='urn:xmpp:hints'/>"
	tests := []struct {
		name, to, kind, inside string
		node                   int    // of bob/desk; -1: there is none
		presence               string // of bob/desk
		got, bounced           bool
	}{
		{name: "offline", to: "bob@example.com", inside: body + hint, node: -1, bounced: true},
		{name: "offline, chat", to: "bob@example.com", kind: "chat", inside: body + hint, node: -1, bounced: true},
		{name: "offline, chat state", to: "bob@example.com", kind: "chat", inside: "<composing xmlns='http://jabber.org/protocol/chatstates'/>" + hint, node: -1},
		{name: "offline, headline", to: "bob@example.com", kind: "headline", inside: body + hint, node: -1},
		{name: "offline, resource", to: "bob@example.com/desk", inside: body + hint, node: -1, bounced: true},
		{name: "here", to: "bob@example.com", inside: body + hint, presence: "<presence/>", got: true},
		{name: "here, not available", to: "bob@example.com", inside: body + hint, bounced: true},
		{name: "here, negative", to: "bob@example.com", inside: body + hint, presence: "<presence><priority>-1</priority></presence>", bounced: true},
		{name: "here, to the resource", to: "bob@example.com/desk", inside: body + hint, got: true},
		{name: "here, to another resource", to: "bob@example.com/gone", inside: body + hint, presence: "<presence/>", bounced: true},
		{name: "here, chat to another resource", to: "bob@example.com/gone", kind: "chat", inside: body + hint, presence: "<presence/>", got: true},
		{name: "offline, chat to a resource", to: "bob@example.com/gone", kind: "chat", inside: body + hint, node: -1, bounced: true},
		{name: "here, chat state to another resource", to: "bob@example.com/gone", kind: "chat", inside: "<composing xmlns='http://jabber.org/protocol/chatstates'/>" + hint, presence: "<presence/>"},
		{name: "elsewhere", to: "bob@example.com", inside: body + hint, node: 1, presence: "<presence/>", got: true},
		{name: "elsewhere, not available", to: "bob@example.com", inside: body + hint, node: 1, bounced: true},
		{name: "elsewhere, negative", to: "bob@example.com", kind: "chat", inside: body + hint, node: 1, presence: "<presence><priority>-1</priority></presence>", bounced: true},
		{name: "elsewhere, not available, chat state", to: "bob@example.com", kind: "chat", inside: "<composing xmlns='http://jabber.org/protocol/chatstates'/>" + hint, node: 1},
		{name: "elsewhere, to the resource", to: "bob@example.com/desk", inside: body + hint, node: 1, got: true},
		{name: "elsewhere, to another resource", to: "bob@example.com/gone", inside: body + hint, node: 1, presence: "<presence/>", bounced: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, nil)
			alice := c.online(0, "alice", "phone")
			var desk *client
			if tt.node >= 0 {
				desk = c.login(tt.node, "bob", "desk")
				if desk.write(tt.presence); tt.presence != "" {
					desk.skipTo("^<presence [^>]*from='bob@example.com/desk'")
				}
				desk.sync()
			}
			alice.write("<message to='" + tt.to + "' type='" + cmp.Or(tt.kind, "normal") + "' id='m'>" + tt.inside + "</message>")
			if tt.bounced {
				alice.expect("^<message [^>]*type='error'.*<service-unavailable ")
			}
			alice.sync()
			if desk != nil {
				alice.write("<message to='" + desk.jid + "' type='headline' id='end'/>")
				if next := desk.next(); strings.Contains(next, "id='m'") != tt.got {
					t.Errorf("%s got %s", desk.jid, next)
				}
			}
			if head, _ := c.head("bob"); head != 0 {
				t.Errorf("%d entries on the timeline", head)
			}
		})
	}
}

// A message to a user who is not there comes once, in order, marked as late.
func TestOffline(t *testing.T) {
	c := newCluster(t, 2, nil)
	alice := c.online(0, "alice", "phone")
	const many = 250 // more than a page
	for i := range many {
		alice.write(fmt.Sprintf("<message to='bob@example.com' type='chat' id='m%d'><body>%d</body></message>", i, i))
	}
	alice.sync()
	bob := c.login(1, "bob", "desk")
	bob.write("<presence/>")
	for i := range many {
		got := bob.skipTo(fmt.Sprintf("<body>%d</body><delay xmlns='urn:xmpp:delay' from='example.com' stamp='[^']*Z'/><stanza-id [^>]*id='%d'/></message>$", i, i+1))
		if i == 0 && !regexp.MustCompile(`stamp='\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z'`).MatchString(got) {
			t.Errorf("got %s", got)
		}
	}
	bob.close()

	alice.write("<message to='bob@example.com' type='chat'><body>more</body></message>")
	alice.sync()
	again := c.login(0, "bob", "desk")
	again.write("<presence/>")
	again.expectAll("<body>more</body><delay ", "^<presence ")
	again.sync()
}

// claims tells whether a message ends with its number.
func claims(stanza string) bool {
	return regexp.MustCompile("<stanza-id [^<>]*/></message>$").MatchString(stanza)
}

// Negative priority: nothing that is for the user; it waits.
func TestNegativePriorityTakesNothing(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice, bob := c.online(0, "alice", "phone"), c.login(0, "bob", "desk")
	bob.write("<presence><priority>-5</priority></presence>")
	bob.expect("<priority>-5")
	alice.write("<message to='bob@example.com' type='chat'><body>1</body></message>" +
		"<message to='" + bob.jid + "' type='chat'><body>2</body></message>" +
		"<message to='bob@example.com' type='chat'><body>3</body></message>")
	alice.sync()
	got := bob.expect("<body>2</body>")
	if claims(got) || !strings.Contains(got, "<stanza-id xmlns='urn:xmpp:sid:0' by='bob@example.com' id='2'/><body>") {
		t.Errorf("a message out of turn ends with its number, or has none: %s", got)
	}
	bob.sync()
	bob.write("<presence><priority>5</priority></presence>")
	bob.expectAll("<priority>5", "<body>1</body>.*id='1'/>", "<body>3</body>.*id='3'/>") // 2 was received before
	bob.sync()
	c.eventually("all delivered", func() bool { _, delivered := c.head("bob"); return delivered == 3 })
}

// A session that has gone leaves what was meant for it to the others.
func TestLeftToTheOthers(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(0, "bob", "desk")
	tab := c.login(0, "bob", "tab")
	tab.write("<enable xmlns='urn:xmpp:sm:3'/>")
	tab.expect("^<enabled ")
	tab.write("<presence/>")
	tab.skipTo("from='bob@example.com/tab'")
	bob.expect("from='bob@example.com/tab'")
	alice.write("<message to='" + tab.jid + "' type='chat'><body>1</body></message>" +
		"<message to='bob@example.com' type='chat'><body>2</body></message>")
	tab.skipTo("<body>1</body>")
	tab.skipTo("<body>2</body>")
	if got := bob.expect("<body>2</body>"); claims(got) {
		t.Errorf("the first is not acknowledged, but the second ends with its number: %s", got)
	}
	_ = tab.conn.Close() // without having acknowledged anything
	got := bob.expectAll("<body>1</body>", "^<presence [^>]*type='unavailable'")
	if claims(got[0]) || claims(got[1]) {
		t.Errorf("got %s", got)
	}
	c.eventually("all delivered", func() bool { _, delivered := c.head("bob"); return delivered == 2 })
}

// Lost signals cost time, and never a message.
func TestLostSignals(t *testing.T) {
	c := newCluster(t, 2, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(1, "bob", "desk")
	lose := true
	c.bus.mu.Lock()
	c.bus.cut = func(sig bus.Signal) bool { return lose && sig.Kind == bus.Entry }
	c.bus.mu.Unlock()
	for i := range 3 {
		alice.write(fmt.Sprintf("<message to='bob@example.com' type='chat'><body>%d</body></message>", i))
	}
	alice.sync()
	c.bus.mu.Lock()
	lose = false
	c.bus.mu.Unlock()
	alice.write("<message to='bob@example.com' type='chat'><body>3</body></message>")
	for i := range 4 {
		if got := bob.expect(fmt.Sprintf("<body>%d</body>.*id='%d'/>", i, i+1)); strings.Contains(got, "<delay") {
			t.Errorf("marked as late: %s", got)
		}
	}

	c.bus.mu.Lock()
	lose = true
	c.bus.mu.Unlock()
	alice.write("<message to='bob@example.com' type='chat'><body>last</body></message>")
	alice.sync()
	c.nodes[1].SignalsLost(partition("bob@example.com"))
	bob.expect("<body>last</body>")
}

// A client that does not read is ended by what cannot wait, and loses no message.
func TestSlowClient(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.QueueBytes = 4 << 10 })
	alice, bob := c.online(0, "alice", "phone"), c.online(0, "bob", "desk")
	const many = 3000
	body := strings.Repeat("x", 4000)
	for i := range many {
		alice.write(fmt.Sprintf("<message to='bob@example.com' type='chat'><body>%d %s</body></message>", i, body))
	}
	alice.sync()
	for i := range many {
		bob.expect(fmt.Sprintf("<body>%d x", i))
	}
}

// What cannot be fetched again ends a client that does not read.
func TestSlowClientIsEnded(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.QueueBytes = 4 << 10 })
	bob, tab := c.online(0, "bob", "desk"), c.online(0, "bob", "tab")
	headline := "<message to='bob@example.com/desk' type='headline'><body>" + strings.Repeat("x", 8000) + "</body></message>"
	c.eventually("bob is ended", func() bool {
		tab.write(strings.Repeat(headline, 100))
		return strings.Contains(c.nodes[0].log.String(), "reason=slow-client")
	})
	_ = bob.conn.Close()
	c.eventually("the log line", func() bool { return strings.Contains(c.nodes[0].log.String(), "reason=slow-client") })
}

// Contacts who change their presence in a loop do not end a client that does not read. It hears the last.
func TestPresenceDoesNotEndSlowClients(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.QueueBytes = 256 << 10 })
	c.befriend("alice", "bob")
	alice, bob := c.online(0, "alice", "phone"), c.online(0, "bob", "desk")
	const many = 3000
	presence := "<presence to='bob@example.com'><status>" + strings.Repeat("x", 8000) + "</status></presence>"
	for range many / 100 {
		alice.write(strings.Repeat(presence, 100))
	}
	alice.write("<presence to='bob@example.com'><status>last</status></presence>")
	alice.skipTo("^<presence [^>]*from='bob@example.com/desk'")
	alice.sync()
	heard := 0
	for !strings.Contains(bob.next(), "<status>last</status>") {
		heard++
	}
	if heard >= many {
		t.Errorf("bob has heard all that alice has said")
	}
	bob.sync()
}

// Presence of so many resources of a contact that a client which does not read is not told of all is counted.
func TestUnseenPresence(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.QueueBytes = 256 << 10 })
	c.befriend("alice", "bob")
	alice := c.online(0, "alice", "phone")
	resources := 0
	c.eventually("presence is not seen", func() bool {
		for range 100 {
			resources++
			presence := fmt.Appendf(nil, "<presence from='bob@example.com/%d' to='alice@example.com'><status>%s</status></presence>",
				resources, strings.Repeat("x", 8000))
			err := c.bus.nodes[0].Publish(bus.Signal{Kind: bus.Stanza, Partition: partition(alicesJID), User: alicesJID, Data: presence})
			if err != nil {
				t.Fatal(err)
			}
		}
		return c.counter(0, "imlb_node_stanzas_dropped_total", map[string]string{"why": "resources"}) > 0
	})
	alice.write("<iq type='get' id='there'><ping xmlns='urn:xmpp:ping'/></iq>")
	alice.skipTo("^<iq type='result' id='there'")
}

// Nobody ends the session of somebody else by sending more than its client reads.
func TestStrangersDoNotEndSlowClients(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.QueueBytes = 64 << 10 })
	alice, bob := c.online(0, "alice", "phone"), c.online(0, "bob", "desk")
	big := strings.Repeat("x", 8000)
	headline := "<message to='bob@example.com' type='headline'><body>" + big + "</body></message>"
	presence := "<presence to='bob@example.com/desk'><status>" + big + "</status></presence>"
	// Who has written to a person is told that it does not arrive.
	note := "<message to='bob@example.com' type='chat'><body>1</body><no-store xmlns='urn:xmpp:hints'/></message>"
	c.eventually("a message comes back", func() bool {
		alice.write(strings.Repeat(headline+presence, 100) + note + "<iq type='get' id='so far'><ping xmlns='urn:xmpp:ping'/></iq>")
		back := false
		for got := alice.next(); !strings.HasPrefix(got, "<iq type='result' id='so far'"); got = alice.next() {
			back = back || strings.Contains(got, "<service-unavailable ")
		}
		return back
	})
	bob.write("<iq type='get' id='there'><ping xmlns='urn:xmpp:ping'/></iq>")
	bob.skipTo("^<iq type='result' id='there'")
	if c.counter(0, "imlb_node_stanzas_dropped_total", map[string]string{"why": "anybody"}) == 0 {
		t.Error("nothing is counted as dropped")
	}
}

// A recipient that is deleted while its address is remembered.
func TestDeletedRecipient(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	alice.counts()
	alice.write("<message to='bob@example.com' type='chat'><body>1</body></message>")
	alice.sync()
	if err := c.store.DeleteAccount(t.Context(), "bob@example.com"); err != nil {
		t.Fatal(err)
	}
	alice.write("<message to='bob@example.com' type='chat' id='m2'><body>2</body></message>")
	alice.expect("^<message [^>]*type='error'.*<service-unavailable ")
	alice.write("<message to='bob@example.com' type='chat' id='m3'><body>3</body></message>")
	alice.expect("^<message [^>]*type='error'.*<service-unavailable ")
	alice.write(smAsk)
	alice.expect("^<a [^>]*h='4'/>")
}

// A client that only sends leaves nothing behind that is taken for undelivered.
func TestSenderWithoutPresence(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.login(0, "alice", "cron")
	for range 3 {
		alice.write("<message to='bob@example.com' type='chat'><body>x</body></message>")
	}
	c.eventually("all is settled", func() bool { head, delivered := c.head("alice"); return head == 3 && delivered == 3 })
	alice.sync()
}

// lookupStore counts how often it is asked for the sessions of a user.
type lookupStore struct {
	store.Store
	asked atomic.Int64
}

func (s *lookupStore) SessionsOf(ctx context.Context, owner store.OwnerID) ([]store.Session, error) {
	s.asked.Add(1)
	return s.Store.SessionsOf(ctx, owner)
}

func (s *lookupStore) NodeOf(ctx context.Context, owner store.OwnerID, resource string) (string, error) {
	s.asked.Add(1)
	return s.Store.NodeOf(ctx, owner, resource)
}

func (s *lookupStore) NodesOf(ctx context.Context, owner store.OwnerID) ([]string, error) {
	s.asked.Add(1)
	return s.Store.NodesOf(ctx, owner)
}

// However many sessions a user has elsewhere, the store is asked for them once when a message comes that is not stored;
// and not at all when a session ends that nobody has seen.
func TestSessionsAreAskedForOnce(t *testing.T) {
	t.Parallel()
	counts := &lookupStore{}
	c := newCluster(t, 2, func(o *backend.Options) {
		if o.Name == "node-1" {
			counts.Store, o.Store = o.Store, counts
		}
	})
	var bobs []*client
	for _, resource := range []string{"desk", "phone", "pad"} {
		bobs = append(bobs, c.online(1, "bob", resource))
	}
	alice, unseen := c.online(0, "alice", "phone"), c.login(0, "carol", "phone")
	before := counts.asked.Load()
	alice.write("<message type='chat' to='bob@example.com'><body>live</body><no-store xmlns='urn:xmpp:hints'/></message>")
	for _, bob := range bobs {
		bob.skipTo("<body>live</body>")
	}
	if n := counts.asked.Load() - before; n != 1 {
		t.Errorf("the store was asked %d times for a message", n)
	}
	unseen.close()
	c.gone("carol")
	if n := counts.asked.Load() - before; n != 1 {
		t.Errorf("with the end of a session it was asked %d times", n)
	}
}

// An empty string is no address (RFC 7622 §3.2), and something else than none.
func TestEmptyAddress(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	for _, stanza := range []string{
		"<message to='' type='chat'><body>x</body></message>",
		"<presence to=''/>",
		"<presence to='' type='subscribe'/>",
		"<iq to='' type='get' id='i'><ping xmlns='urn:xmpp:ping'/></iq>",
		"<iq to='' type='get' id='i'><query xmlns='jabber:iq:roster'/></iq>",
	} {
		alice.write(stanza)
		if got := alice.expect(" type='error'.*<error type='modify'><jid-malformed "); strings.Contains(got, " from=''") {
			t.Errorf("%s is answered with %s", stanza, got)
		}
	}
	alice.write("<iq to='' type='result' id='i'/>")
	alice.sync()
	if head, _ := c.head("alice"); head != 0 {
		t.Errorf("%d messages are stored", head)
	}
}

// What a client has received is not left to it once more when another one of the user comes to it later.
func TestNotLeftTwice(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	bob := c.online(0, "bob", "desk")
	tab, phone := c.online(0, "alice", "tab"), c.online(0, "alice", "phone")
	for _, cl := range []*client{tab, phone} {
		cl.write(smEnable)
		cl.skipTo("^<enabled ")
	}
	bob.write("<message type='chat' to='alice@example.com/tab'><body>one</body></message>" +
		"<message type='chat' to='alice@example.com/phone'><body>two</body></message>")
	tab.skipTo("<body>one</body>")
	phone.skipTo("<body>two</body>")
	phone.write("<a xmlns='urn:xmpp:sm:3' h='1'/>")
	phone.settled()
	tab.write("<presence type='unavailable'/>")
	tab.skipTo("^<presence [^>]*type='unavailable'")
	tab.write("<presence/>")
	tab.skipTo("^<presence [^>]*from='alice@example.com/tab'")
	tab.write("<a xmlns='urn:xmpp:sm:3' h='3'/>")
	c.eventually("all counts as received", func() bool { _, delivered := c.head("alice"); return delivered == 2 })
}
