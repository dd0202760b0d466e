package backend_test

import (
	"errors"
	"strings"
	"testing"

	"imlb/backend"
	"imlb/backend/bus"
	"imlb/backend/store"
)

// Contacts see a user go when it blocks them and come when it unblocks them
// (XEP-0191 §3.3, §3.4), from all nodes.
func TestBlockAndPresence(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"bob@example.com", "example.com", "bob@example.com/desk"} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, nil)
			c.befriend("alice", "bob")
			c.subscribed("alice", "carol", store.SubscriptionTo) // who does not see alice
			phone, tab := c.online(0, "alice", "phone"), c.online(1, "alice", "tab")
			bob, carol := c.online(0, "bob", "desk"), c.online(1, "carol", "pad")
			bob.expectAll("from='alice@example.com/phone'", "from='alice@example.com/tab'")
			phone.skipTo("from='bob@example.com/desk'")
			tab.skipTo("from='bob@example.com/desk'")

			phone.block(address)
			bob.expectAll("type='unavailable'.*from='alice@example.com/phone'", "type='unavailable'.*from='alice@example.com/tab'")
			bob.write("<presence><show>away</show></presence>")
			bob.expect("from='bob@example.com/desk'.*away")
			phone.sync() // has not seen that
			phone.block(address)
			phone.sync()
			bob.sync() // is not told again
			phone.write("<presence><show>dnd</show></presence>")
			phone.skipTo("dnd")
			tab.skipTo("dnd")
			bob.sync()

			var seen []string
			if address != "bob@example.com/desk" {
				seen = []string{"from='bob@example.com/desk'.*away"}
			}
			phone.unblock([]string{address}, seen...)
			bob.expectAll("^<presence [^>]*from='alice@example.com/phone'", "^<presence [^>]*from='alice@example.com/tab'")
			if address != "bob@example.com/desk" {
				tab.skipTo("from='bob@example.com/desk'.*away")
			}
			carol.sync() // has never seen anything
		})
	}
}

// Somebody who was shown directed presence sees the user go, and that only once.
func TestBlockAndDirectedPresence(t *testing.T) {
	c := newCluster(t, 2, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(1, "bob", "desk")
	alice.write("<presence to='bob@example.com/desk'/>")
	bob.expect("^<presence [^>]*from='alice@example.com/phone'")
	alice.block("bob@example.com")
	bob.expect("type='unavailable'.*from='alice@example.com/phone'")
	alice.close()
	bob.sync()
}

// A contact of whom one resource is blocked sees everything with the others, and nothing
// with that one, whatever becomes of the block and of the session.
func TestBlockOneResource(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	desk, pad := c.online(0, "bob", "desk"), c.online(1, "bob", "pad")
	desk.skipTo("from='bob@example.com/pad'")
	alice := c.login(0, "alice", "phone")
	alice.block("bob@example.com/desk")
	seen := func(pattern string) {
		t.Helper()
		pad.skipTo(pattern)
		desk.write("<presence to='alice@example.com' type='probe'/>") // has no answer
		desk.sync()
		pad.write("<message to='bob@example.com/desk' type='headline' id='after'/>")
		desk.expect("^<message [^>]*id='after'")
	}
	alice.write("<presence/>")
	seen("^<presence [^>]*from='alice@example.com/phone'")
	alice.write("<presence to='bob@example.com'/>")
	seen("^<presence [^>]*from='alice@example.com/phone'")
	alice.write("<presence><show>away</show></presence>")
	seen("from='alice@example.com/phone'.*away")

	alice.block("bob@example.com")
	seen("type='unavailable'.*from='alice@example.com/phone'")
	alice.unblock([]string{"bob@example.com"})
	seen("^<presence [^>]*from='alice@example.com/phone'")
	alice.write("<presence type='unavailable'/>")
	seen("type='unavailable'.*from='alice@example.com/phone'")
	alice.write("<presence/>")
	seen("^<presence [^>]*from='alice@example.com/phone'")
	_ = c.login(1, "alice", "phone") // replaces the first
	seen("type='unavailable'.*from='alice@example.com/phone'")
}

// Who was shown directed presence by one resource of theirs does not see it any more when that
// is blocked, and the others do.
func TestBlockOneResourceAndDirectedPresence(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	desk, pad := c.online(0, "bob", "desk"), c.online(1, "bob", "pad")
	desk.skipTo("from='bob@example.com/pad'")
	alice := c.online(0, "alice", "phone")
	alice.write("<presence to='bob@example.com'/>")
	desk.expect("^<presence [^>]*from='alice@example.com/phone'")
	pad.skipTo("^<presence [^>]*from='alice@example.com/phone'")
	alice.block("bob@example.com/desk")
	desk.expect("type='unavailable'.*from='alice@example.com/phone'")
	pad.sync()
	alice.close()
	pad.expect("type='unavailable'.*from='alice@example.com/phone'")
	desk.sync()
}

// A session that is resumed where nobody else of the user's is knows whom the user has blocked.
func TestBlockAndResumption(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	bob := c.online(1, "bob", "desk")
	alice := c.login(0, "alice", "phone")
	alice.block("bob@example.com")
	alice.write("<presence/>")
	alice.expect("^<presence [^>]*from='alice@example.com/phone'")
	id := alice.resumable()
	_ = alice.conn.Close()
	alice = c.returns(1, "alice")
	alice.resumed(id, 0, 0)
	bob.write("<presence><show>away</show></presence>")
	bob.expect("from='bob@example.com/desk'.*away")
	alice.sync()
	alice.write("<presence type='unavailable'/>")
	alice.expect("type='unavailable'.*from='alice@example.com/phone'")
	alice.sync()
	bob.sync()
}

// A blocked contact does not see the user's sessions come, go, or be cleaned up.
func TestBlockLasts(t *testing.T) {
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	bob := c.online(1, "bob", "desk")
	alice := c.login(0, "alice", "phone")
	alice.block("bob@example.com")
	alice.write("<presence/>")
	alice.expect("^<presence [^>]*from='alice@example.com/phone'") // and nothing of bob's
	alice.sync()
	second := c.login(1, "alice", "phone") // replaces the first
	alice.end("conflict")
	second.write("<presence/>")
	second.skipTo("^<presence [^>]*from='alice@example.com/phone'")
	second.close()
	bob.sync()
}

// A request for subscription from somebody blocked is not seen, now or later; one that
// waits is not seen while its sender is blocked.
func TestBlockAndRequests(t *testing.T) {
	c := newCluster(t, 2, nil)
	alice, bob, carol := c.online(0, "alice", "phone"), c.online(1, "bob", "desk"), c.online(1, "carol", "pad")
	carol.write("<presence to='alice@example.com' type='subscribe'/>")
	carol.sync()
	alice.expect("type='subscribe'.*carol")
	tab := c.login(1, "alice", "tab")
	tab.write("<presence><priority>1</priority></presence>")
	tab.skipTo("type='subscribe'.*carol")
	alice.expect("from='alice@example.com/tab'")
	alice.block("bob@example.com", "carol@example.com")
	settled(alice, tab)
	tab.close()
	alice.expect("type='unavailable'")
	bob.write("<presence to='alice@example.com' type='subscribe'/>")
	bob.sync()
	alice.sync()
	alice.close()

	alice = c.online(0, "alice", "phone")
	alice.sync()
	alice.unblock(nil)
	alice.close()
	alice = c.login(0, "alice", "phone")
	alice.write("<presence/>")
	alice.expectAll("from='alice@example.com/phone'", "type='subscribe'.*carol")
	alice.sync()
}

// A node that has the old list in mind hears of the change, although it serves nobody
// of the user's.
func TestBlockIsHeardEverywhere(t *testing.T) {
	c := newCluster(t, 2, nil)
	bob := c.online(1, "bob", "desk")
	bob.write("<message to='alice@example.com'><body>1</body></message>") // node 2 knows the list now
	bob.sync()
	alice := c.login(0, "alice", "phone")
	alice.block("bob@example.com")
	c.eventually("bob is refused", func() bool {
		bob.write("<message to='alice@example.com' type='headline'><body>2</body></message>" +
			"<iq type='get' id='sync' to='" + domain + "'><ping xmlns='urn:xmpp:ping'/></iq>")
		if strings.HasPrefix(bob.next(), "<iq") {
			return false
		}
		bob.expect("^<iq type='result' id='sync'")
		return true
	})
}

// Changes that are made at the same time are heard of in any order: what was undone since is neither told nor done.
func TestBlockAndLateUnblock(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	phone, tab := c.online(0, "alice", "phone"), c.online(1, "alice", "tab")
	bob := c.online(0, "bob", "desk")
	bob.expectAll("from='alice@example.com/phone'", "from='alice@example.com/tab'")
	tab.write("<iq type='get' id='list'><blocklist xmlns='urn:xmpp:blocking'/></iq>") // hears of changes from now on
	tab.skipTo("^<iq type='result' id='list'")
	phone.block("bob@example.com")
	tab.skipTo("<block xmlns='urn:xmpp:blocking'>")
	bob.expectAll("type='unavailable'.*from='alice@example.com/phone'", "type='unavailable'.*from='alice@example.com/tab'")

	var late []bus.Signal
	c.bus.lose(func(sig bus.Signal) bool {
		if sig.User != alicesJID || !strings.Contains(string(sig.Data), `"blocks":`) {
			return false
		}
		late = append(late, sig)
		return true
	})
	phone.unblock([]string{"bob@example.com"})
	bob.expect("^<presence [^>]*from='alice@example.com/phone'")
	c.bus.lose(nil)
	tab.block("bob@example.com")
	bob.skipTo("type='unavailable'.*from='alice@example.com/phone'")
	c.quiet()
	settled(tab)
	bob.write("<iq type='get' id='so far'><ping xmlns='urn:xmpp:ping'/></iq>")
	bob.skipTo("^<iq type='result' id='so far'")
	if len(late) != 1 {
		t.Fatalf("%d signals are late, want 1", len(late))
	}
	c.nodes[1].Signal(late[0])
	c.quiet()
	tab.sync()
	bob.sync()
}

// deafBus is a bus that brings nothing that is said to all nodes.
type deafBus struct{ backend.Bus }

func (b deafBus) Host(p uint16) error {
	if p == partition(domain) {
		return errors.New("not yet")
	}
	return b.Bus.Host(p)
}

// A node that does not hear of changes yet keeps no list in mind.
func TestBlockBeforeTheNodeHears(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, func(o *backend.Options) {
		if o.Name == "node-1" {
			o.Bus = deafBus{o.Bus}
		}
	})
	bob, alice := c.online(0, "bob", "desk"), c.login(1, "alice", "phone")
	bob.write(say("alice", "1"))
	bob.sync()
	alice.block("bob@example.com")
	bob.write(say("alice", "2"))
	bob.expect("^<message [^>]*type='error'.*<service-unavailable ")
}

// Where the signal is lost, the recipient's node still lets nothing unstored through, and the
// sender's looks again when it learns that it may have missed something.
func TestBlockWithoutSignals(t *testing.T) {
	c := newCluster(t, 2, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(1, "bob", "desk")
	bob.write("<message to='alice@example.com' type='headline'><body>1</body></message>")
	alice.expect("<body>1</body>")
	c.bus.mu.Lock()
	c.bus.cut = func(sig bus.Signal) bool { return sig.Kind == bus.Control }
	c.bus.mu.Unlock()
	alice.block("bob@example.com")
	bob.write("<message to='alice@example.com' type='headline'><body>2</body></message>")
	bob.sync()
	alice.sync()
	c.nodes[1].SignalsLost(partition(domain))
	bob.write("<message to='alice@example.com' type='headline'><body>3</body></message>")
	bob.expect(unavailable)
	alice.sync()
}

// A message that nobody has received when its sender is blocked is not delivered any more, and
// stays in the archive (XEP-0191 §3.3). What comes after it is delivered.
func TestBlockAndWaitingMessages(t *testing.T) {
	t.Parallel()
	for address, got := range map[string][]string{
		"bob@example.com":      {"carol's"},
		"bob@example.com/desk": {"bob's other", "carol's"},
	} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, nil)
			alice := c.login(0, "alice", "phone")
			for _, m := range []struct{ user, resource, body string }{
				{"bob", "desk", "bob's"}, {"bob", "pad", "bob's other"}, {"carol", "pad", "carol's"},
			} {
				cl := c.login(1, m.user, m.resource)
				cl.write("<message type='chat' to='alice@example.com'><body>" + m.body + "</body></message>")
				cl.sync()
				cl.close()
			}
			alice.block(address)
			alice.write("<presence/>")
			comes := []string{"^<presence "}
			for _, body := range got {
				comes = append(comes, "^<message .*<body>"+body+"</body>")
			}
			alice.expectAll(comes...)
			alice.sync()
			c.eventually("all counts as delivered", func() bool {
				head, delivered := c.head("alice")
				return head == 3 && delivered == 3
			})

			alice.unblock(nil)
			alice.write("<iq type='set' id='mam'><query xmlns='urn:xmpp:mam:2'/></iq>")
			alice.expect("^<message .*<result .*<body>bob's</body>")
			alice.close()
			alice = c.online(1, "alice", "phone")
			alice.sync()
		})
	}
}

// What an inactive client is spared does not come later if its sender was blocked meanwhile.
func TestBlockWhileInactive(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	c.befriend("alice", "bob")
	c.befriend("alice", "carol")
	alice := c.online(0, "alice", "phone")
	alice.write(csiInactive)
	alice.sync()
	for _, name := range []string{"bob", "carol"} {
		c.online(0, name, "desk").skipTo("from='alice@example.com/phone'")
	}
	alice.block("bob@example.com")
	alice.write(csiActive)
	alice.expect("^<presence [^>]*from='carol@example.com/desk'")
	alice.sync()
}

// Messages that were left to a session of the user's that is gone are not delivered to another
// if their sender was blocked in the meantime.
func TestBlockAndOrphans(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	bob, carol := c.login(0, "bob", "desk"), c.login(0, "carol", "pad")
	phone, tab := c.online(0, "alice", "phone"), c.online(0, "alice", "tab")
	phone.expect("from='alice@example.com/tab'")
	tab.write("<enable xmlns='urn:xmpp:sm:3'/>")
	tab.skipTo("^<enabled ")
	for _, cl := range []*client{bob, carol} {
		cl.write("<message type='chat' to='alice@example.com/tab'><body>for the tab</body></message>")
		cl.sync()
		tab.skipTo("<body>for the tab</body>")
	}
	phone.block("bob@example.com")
	_ = tab.conn.Close() // without having acknowledged anything
	phone.expectAll("type='unavailable'", "^<message [^>]*from='carol@example.com/pad'")
	phone.sync()
	phone.close()
	c.eventually("all counts as delivered", func() bool {
		_, delivered := c.head("alice")
		return delivered == 2
	})
}
