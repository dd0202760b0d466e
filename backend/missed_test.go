package backend_test

import (
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

// loseSignals makes the bus lose what is said while the switch is on.
func (c *cluster) loseSignals() *atomic.Bool {
	lost := &atomic.Bool{}
	c.bus.mu.Lock()
	defer c.bus.mu.Unlock()
	c.bus.cut = func(bus.Signal) bool { return lost.Load() }
	return lost
}

// noticed has all nodes learn that signals to a user were lost.
func (c *cluster) noticed(user string) {
	for _, n := range c.nodes {
		n.SignalsLost(partition(user))
	}
}

const alicesJID = "alice@example.com"

// What became of a roster while signals were lost is told when a node learns of that: clients get
// pushes (RFC 6121 §2.1.6), those who may not see the user any more see it go (§3.2.2,
// §3.3.3), and nobody is shown what is not for it.
func TestLostRosterSignals(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	c.account("dave")
	for _, contact := range []string{"bob", "carol", "dave"} {
		c.befriend("alice", contact)
	}
	phone, tab := c.interested(0, "alice", "phone"), c.interested(1, "alice", "tab")
	phone.expect("from='alice@example.com/tab'")
	bob, carol, dave := c.online(1, "bob", "desk"), c.online(1, "carol", "pad"), c.online(0, "dave", "car")
	for _, alices := range []*client{phone, tab} {
		alices.skipToAll("from='bob@example.com/desk'", "from='carol@example.com/pad'", "from='dave@example.com/car'")
	}
	for _, other := range []*client{bob, carol, dave} {
		other.skipToAll("from='alice@example.com/phone'", "from='alice@example.com/tab'")
	}

	lost := c.loseSignals()
	lost.Store(true)
	tab.write("<presence to='bob@example.com' type='unsubscribed'/>" +
		"<iq type='set' id='r'><query xmlns='jabber:iq:roster'><item jid='carol@example.com' subscription='remove'/></query></iq>" +
		"<iq type='set' id='s'><query xmlns='jabber:iq:roster'><item jid='dave@example.com' name='Dave'/></query></iq>" +
		"<iq type='set' id='n'><query xmlns='jabber:iq:roster'><item jid='new@example.com'/></query></iq>")
	for _, id := range []string{"r", "s", "n"} {
		tab.expect("^<iq type='result' id='" + id + "'")
	}
	lost.Store(false)
	c.noticed(alicesJID)
	push := func(item string) string {
		return "^<iq type='set' .*<query xmlns='jabber:iq:roster' ver='[0-9.]+'>" + item
	}
	for _, alices := range []*client{phone, tab} {
		alices.skipToAll(
			push("<item jid='bob@example.com' subscription='to'>"),
			push("<item jid='carol@example.com' subscription='remove'/>"),
			push("<item jid='dave@example.com' name='Dave' subscription='both'>"),
			push("<item jid='new@example.com' subscription='none'>"),
			"^<presence [^>]*type='unavailable'[^>]* from='carol@example.com'",
		)
	}
	for _, other := range []*client{bob, carol} {
		other.skipToAll("type='unavailable'.* from='alice@example.com/phone'", "type='unavailable'.* from='alice@example.com/tab'")
	}
	phone.write("<presence><status>private</status></presence>")
	dave.skipTo("private")
	phone.skipTo("private")
	for _, other := range []*client{bob, carol} {
		other.write("<presence to='alice@example.com' type='probe'/>")
		other.seesOnly("^<presence [^>]*type='unavailable'")
	}
	// What is told is not told again.
	before := c.rosterVersion("alice")
	tab.write("<iq type='set' id='l'><query xmlns='jabber:iq:roster'><item jid='last@example.com'/></query></iq>")
	phone.skipTo(fmt.Sprintf("ver='1.%d'><item jid='last@example.com'", before+1))
}

// seesOnly requires that what has come by now matches.
func (cl *client) seesOnly(pattern string) {
	cl.t.Helper()
	cl.write("<iq type='get' id='end' to='" + domain + "'><ping xmlns='urn:xmpp:ping'/></iq>")
	for got := cl.next(); !strings.HasPrefix(got, "<iq type='result' id='end'"); got = cl.next() {
		if !regexp.MustCompile(pattern).MatchString(got) {
			cl.t.Fatalf("%s: got\n\t%s\nwant\n\t%s", cl.jid, got, pattern)
		}
	}
}

func (c *cluster) rosterVersion(name string) uint64 {
	c.t.Helper()
	a, err := c.store.Account(c.t.Context(), name+"@"+domain)
	if err != nil {
		c.t.Fatal(err)
	}
	_, version, err := c.store.Roster(c.t.Context(), a.Owner)
	if err != nil {
		c.t.Fatal(err)
	}
	return version
}

// A request for a subscription and its approval, of both of which nobody has heard, are shown when a
// node learns of that, and so is the presence that one may see then.
func TestLostSubscriptionSignals(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	alice, bob := c.interested(0, "alice", "phone"), c.interested(1, "bob", "desk")
	bob.sync() // what waited for it was looked for
	lost := c.loseSignals()
	lost.Store(true)
	alice.write("<presence to='bob@example.com' type='subscribe'/>")
	alice.sync()
	lost.Store(false)
	c.noticed("bob@example.com")
	bob.skipTo("^<presence [^>]*type='subscribe'")

	lost.Store(true)
	bob.write("<presence to='alice@example.com' type='subscribed'/>")
	bob.sync()
	lost.Store(false)
	c.noticed("bob@example.com") // who shows itself: alice's node knows of nothing
	alice.skipTo("^<presence [^>]*from='bob@example.com/desk'")
	bob.skipTo("<item jid='alice@example.com' subscription='from'>")
	c.noticed(alicesJID)
	alice.skipTo("<item jid='bob@example.com' subscription='to'>")
}

// Who came, left, or changed its presence while signals were lost is asked for it.
func TestLostPresence(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	c.account("dave")
	for _, contact := range []string{"bob", "carol", "dave"} {
		c.befriend("alice", contact)
	}
	alice := c.online(0, "alice", "phone")
	bob, carol, dave := c.online(1, "bob", "desk"), c.online(1, "carol", "pad"), c.online(1, "dave", "car")
	alice.expectAll("from='bob@example.com/desk'", "from='carol@example.com/pad'", "from='dave@example.com/car'")
	for _, other := range []*client{bob, carol, dave} {
		other.expect("from='alice@example.com/phone'")
	}
	lost := c.loseSignals()
	lost.Store(true)
	bob.write("<presence type='unavailable'/>")
	bob.expect("type='unavailable'.*from='bob@example.com/desk'")
	bob.sync()
	bob.close()
	c.gone("bob")
	carol.write("<presence><status>new</status></presence>")
	carol.sync()
	dave.write("<presence type='unavailable'/>")
	dave.expect("type='unavailable'.*from='dave@example.com/car'")
	dave.sync()
	lost.Store(false)
	c.noticed(alicesJID)
	alice.skipToAll(
		"^<presence [^>]*type='unavailable'[^>]* from='bob@example.com'",
		"^<presence [^>]*from='carol@example.com/pad'.*<status>new</status>",
		"^<presence [^>]*type='unavailable'[^>]* from='dave@example.com'",
	)
}

// A blocklist that was changed while signals were lost counts from when a node learns of that.
func TestLostBlocklist(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	c.befriend("alice", "carol")
	phone, tab := c.online(0, "alice", "phone"), c.online(1, "alice", "tab")
	bob, carol := c.online(1, "bob", "desk"), c.online(1, "carol", "pad")
	bob.skipToAll("from='alice@example.com/phone'", "from='alice@example.com/tab'")
	carol.skipToAll("from='alice@example.com/phone'", "from='alice@example.com/tab'")
	tab.block("carol@example.com")
	carol.skipToAll("type='unavailable'.* from='alice@example.com/phone'", "type='unavailable'.* from='alice@example.com/tab'")
	phone.write("<iq type='get' id='b'><blocklist xmlns='urn:xmpp:blocking'/></iq>")
	phone.skipTo("^<iq type='result' id='b'.*carol")

	lost := c.loseSignals()
	lost.Store(true)
	tab.block("bob@example.com")
	tab.unblock([]string{"carol@example.com"})
	lost.Store(false)
	c.noticed(alicesJID)
	phone.skipToAll("^<iq type='set' .*<unblock .*<item jid='carol@example.com'/>", "^<iq type='set' .*<block .*<item jid='bob@example.com'/>")
	bob.skipToAll("type='unavailable'.* from='alice@example.com/phone'", "type='unavailable'.* from='alice@example.com/tab'")
	carol.skipTo("^<presence [^>]*from='alice@example.com/phone'")
	phone.write("<presence><status>private</status></presence>")
	carol.skipTo("private")
	bob.seesOnly("^<presence [^>]*type='unavailable'")
}

// While signals do not arrive, what a user's other clients change of who may see it is found
// out all the same.
func TestDeafNodeReadsRosters(t *testing.T) {
	t.Parallel()
	deaf := &atomic.Bool{}
	c := newCluster(t, 2, func(o *backend.Options) {
		o.Timeouts.Lease = 150 * time.Millisecond
		o.Bus = hearingBus{o.Bus, deaf}
	})
	c.befriend("alice", "bob")
	phone, bob := c.interested(0, "alice", "phone"), c.online(1, "bob", "desk")
	bob.expect("from='alice@example.com/phone'")
	lost := c.loseSignals()
	lost.Store(true)
	c.subscribed("alice", "bob", store.SubscriptionTo) // by somebody elsewhere
	deaf.Store(true)
	phone.skipTo("<item jid='bob@example.com' subscription='to'>")
	lost.Store(false)
	phone.write("<presence><status>private</status></presence>")
	phone.skipTo("private")
	bob.sync() // has not even heard that it sees no more
	c.noticed(alicesJID)
	bob.expect("type='unavailable'.* from='alice@example.com/phone'")
}

// A store that does not answer is asked again.
func TestLostSignalsStoreAway(t *testing.T) {
	t.Parallel()
	broken := &brokenStore{}
	c := newCluster(t, 1, func(o *backend.Options) { broken.Store, o.Store = o.Store, broken })
	alice := c.interested(0, "alice", "phone")
	alice.sync()
	c.subscribed("alice", "bob", store.SubscriptionTo)
	broken.noRoster.Store(true)
	c.noticed(alicesJID)
	c.eventually("the node says so", func() bool { return strings.Contains(c.nodes[0].log.String(), "make up for lost signals") })
	broken.noRoster.Store(false)
	alice.expect("<item jid='bob@example.com' subscription='to'>")
}
