package backend_test

import (
	"strings"
	"testing"
	"time"

	"imlb/backend"
)

// RFC 6121 §4.3.2: a client that asks gets an answer in each case.
func TestProbe(t *testing.T) {
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	alice := c.online(0, "alice", "phone")
	ask := func(to string, want ...string) {
		t.Helper()
		alice.write("<presence type='probe' to='" + to + "'/>")
		alice.expectAll(want...)
		nothingMore(alice)
	}
	ask("bob@example.com", "^<presence type='unavailable' from='bob@example.com' to='alice@example.com/phone'/>$")
	ask("bob@example.com/desk", "^<presence type='unavailable' from='bob@example.com/desk'")
	ask("carol@example.com")
	ask("nobody@example.com")
	bob := c.online(1, "bob", "desk")
	alice.expect("from='bob@example.com/desk'")
	tab := c.online(1, "bob", "tab")
	alice.expect("from='bob@example.com/tab'")
	for _, cl := range []*client{bob, tab} {
		cl.skipTo("from='alice@example.com/phone'")
	}
	alice.write("<presence type='probe' to='bob@example.com'/>")
	alice.expectAll("from='bob@example.com/desk'", "from='bob@example.com/tab'")
	alice.write("<presence type='probe' to='bob@example.com/tab'/>")
	alice.expect("from='bob@example.com/tab'")

	// Who is connected and not available looks like who is not connected.
	for _, cl := range []*client{bob, tab} {
		cl.write("<presence type='unavailable'/>")
		alice.expect("type='unavailable'")
	}
	ask("bob@example.com", "^<presence type='unavailable' from='bob@example.com' to='alice@example.com/phone'/>$")
	ask("bob@example.com/tab", "^<presence type='unavailable' from='bob@example.com/tab'")

	// Bob's list says that he does not show himself any more; alice's does not know.
	c.setState("bob", "alice", "to")
	alice.write(getRoster)
	alice.expect("subscription='both'")
	alice.write("<presence type='probe' to='bob@example.com'/>")
	alice.expect("^<presence type='unsubscribed' from='bob@example.com' to='alice@example.com'/>$")
	alice.skipTo("<item jid='bob@example.com' subscription='from'>")
	if got := c.state("alice", "bob"); got != "from" {
		t.Errorf("alice has %s", got)
	}
}

// RFC 6121 §4.6: those who were shown directed presence may ask for it, and see it end with
// unavailable presence to them, to all, or with the session; contacts see that once.
func TestDirectedPresenceEnds(t *testing.T) {
	t.Parallel()
	for _, end := range []string{
		"<presence type='unavailable' to='bob@example.com/desk'/><presence type='unavailable' to='carol@example.com'/>",
		"<presence type='unavailable'/>", "</stream:stream>", "",
	} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, nil)
			c.account("dave")
			c.befriend("alice", "dave")
			dave := c.online(0, "dave", "pc")
			dave.write("<presence type='probe' to='alice@example.com'/>")
			dave.expect("^<presence type='unavailable' from='alice@example.com'") // and the probe of his login came before
			alice, bob, carol := c.login(0, "alice", "phone"), c.online(1, "bob", "desk"), c.online(1, "carol", "pad")
			bob.write("<presence type='probe' to='alice@example.com/phone'/><presence to='alice@example.com/phone'/>")
			alice.expect("^<presence [^>]*from='bob@example.com/desk'") // and the probe came before
			bob.sync()
			alice.write("<presence to='bob@example.com/desk'/><presence to='carol@example.com'/><presence to='dave@example.com/pc'/>")
			for _, cl := range []*client{bob, carol, dave} {
				cl.expect("^<presence [^>]*from='alice@example.com/phone'")
			}
			bob.write("<presence type='probe' to='alice@example.com/phone'/>")
			bob.expect("^<presence from='alice@example.com/phone' to='bob@example.com/desk'/>$")
			alice.write("<presence><show>away</show></presence>")
			alice.skipTo("away")
			dave.expect("away")
			carol.write("<presence type='probe' to='alice@example.com'/>")
			carol.expect("^<presence from='alice@example.com/phone' to='carol@example.com/pad'/>$") // and not what is broadcast
			bob.sync()

			if end == "" {
				_ = alice.conn.Close()
			} else {
				alice.write(end)
			}
			bob.expect("type='unavailable'.*from='alice@example.com/phone'|from='alice@example.com/phone'.*type='unavailable'")
			carol.expect("^<presence [^>]*type='unavailable'")
			if strings.Contains(end, "to=") {
				alice.write("<presence type='unavailable'/>")
			}
			dave.expect("^<presence [^>]*type='unavailable'")
			for _, cl := range []*client{bob, carol, dave} {
				nothingMore(cl)
			}
		})
	}
}

// A session that is replaced, or that nobody goes on with, says goodbye like any other, to those
// who have seen it and to nobody else.
func TestReplacedSessionSaysGoodbye(t *testing.T) {
	t.Parallel()
	const seen = "^<presence [^>]*from='alice@example.com/phone'"
	const gone = "^<presence type='unavailable' from='alice@example.com/phone'"
	for where, replaced := range []func(*cluster){
		func(c *cluster) { c.login(0, "alice", "phone").sync() },
		func(c *cluster) { c.login(1, "alice", "phone").sync() },
		func(c *cluster) { c.stopNode(c.nodes[0]) },
	} {
		c := newCluster(t, 2, func(o *backend.Options) {
			o.Timeouts.Lease, o.Timeouts.Resume = 300*time.Millisecond, time.Second
		})
		c.befriend("alice", "bob")
		bob, carol := c.online(1, "bob", "desk"), c.online(1, "carol", "pad")
		alice := c.login(0, "alice", "phone")
		alice.write(smResumable)
		alice.expect("^<enabled ")
		if where < 2 {
			replaced(c) // without having been available
			alice.skipTo("^<a [^>]*h='0'/>")
			alice.end("conflict")
			if where == 1 {
				c.login(0, "alice", "phone").sync()
			}
			alice = c.login(0, "alice", "phone")
			alice.write(smResumable)
			alice.expect("^<enabled ")
			nothingMore(bob)
		}
		alice.write("<presence/><presence to='" + carol.jid + "'/>" + smAsk)
		bob.expect(seen)
		carol.expect(seen)
		alice.skipTo("^<a [^>]*h='2'/>")
		c.quiet() // else the answer to her probe comes to whoever replaces her
		replaced(c)
		bob.expect(gone)
		carol.expect(gone)
		nothingMore(bob)
		nothingMore(carol)
	}
}

// What else there is of a client under another address is seen to go as well.
func TestBind2TwinSaysGoodbye(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	c.befriend("alice", "bob")
	bob := c.online(0, "bob", "desk")
	alice, _ := c.bound2(0, "alice", phone+bind("<tag>T</tag>"))
	alice.write("<presence/>")
	bob.expect("^<presence [^>]*from='" + alice.jid + "'")
	c.bound2(0, "alice", phone+bind("<tag>T2</tag>"))
	bob.expect("^<presence type='unavailable' from='" + alice.jid + "'")
}

func TestManyDirectedPresences(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.Directed = 2 })
	alice := c.login(0, "alice", "phone")
	to := func(address string) { alice.write("<presence to='" + address + "@example.com'/>") }
	to("bob")
	to("carol")
	to("bob") // is no other
	alice.sync()
	to("dave")
	alice.expect("^<presence [^>]*type='error'.*<resource-constraint ")
	alice.write("<presence to='bob@example.com' type='unavailable'/>")
	to("dave")
	alice.sync()
}
