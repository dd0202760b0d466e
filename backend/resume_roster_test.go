package backend_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"imlb/backend"
	"imlb/backend/store"
)

// missed reads all that comes to a client until now but presence that says who is there, and the error in place of the
// roster that a killed node has sent, and requires that it matches, in order.
func (cl *client) missed(patterns ...string) {
	cl.t.Helper()
	cl.write("<iq type='get' id='now' to='" + domain + "'><ping xmlns='urn:xmpp:ping'/></iq>")
	var all []string
	for got := cl.next(); !strings.HasPrefix(got, "<iq type='result' id='now'"); got = cl.next() {
		if !strings.HasPrefix(got, "<r ") && !regexp.MustCompile("^<presence( type='unavailable')? from=|^<iq type='error' id='roster' .*<resource-constraint ").MatchString(got) {
			all = append(all, got)
		}
	}
	ok := len(all) == len(patterns)
	for i := 0; ok && i < len(all); i++ {
		ok = regexp.MustCompile(patterns[i]).MatchString(all[i])
	}
	if !ok {
		cl.t.Fatalf("%s: got\n\t%s\nwant\n\t%s", cl.jid, strings.Join(all, "\n\t"), strings.Join(patterns, "\n\t"))
	}
}

// push is a roster push of an item, which begins so.
func push(version int, item string) string {
	return fmt.Sprintf("^<iq type='set' id='[^']+' to='alice@example.com/phone'><query xmlns='jabber:iq:roster' ver='1.%d'><item %s", version, item)
}

// setItem is a roster set, and set does it.
func setItem(item string) string {
	return "<iq type='set' id='set'><query xmlns='jabber:iq:roster'><item " + item + "/></query></iq>"
}

func (cl *client) set(items ...string) {
	cl.t.Helper()
	for _, item := range items {
		cl.write(setItem(item))
		cl.skipTo("^<iq type='result' id='set'")
	}
	cl.c.quiet()
}

// knows returns when the store knows that a client has been told so much.
func (c *cluster) knows(cl *client, h int, told store.Versions) {
	c.t.Helper()
	cl.write(fmt.Sprintf("<a xmlns='urn:xmpp:sm:3' h='%d'/>", h))
	var last store.ResumePoint
	c.eventually(fmt.Sprintf("%d, %+v", h, told), func() bool {
		select {
		case last = <-c.points():
		default:
		}
		return last.Count == uint32(h) && last.Told == told //nolint:gosec // Small.
	})
}

// stores returns when it is stored that the client of a session has acknowledged so many stanzas.
func (c *cluster) stores(id string, h int) {
	for p := range c.points() {
		if p.ID == id && p.Count >= uint32(h) { //nolint:gosec // Small.
			return
		}
	}
}

// counted has all be handled that the client has written, in the store as well, and returns how many
// stanzas it has got.
func (cl *client) counted() (h int) {
	cl.t.Helper()
	cl.write(smAsk)
	for {
		switch got := cl.next(); {
		case strings.HasPrefix(got, "<a "):
			return h
		case !strings.HasPrefix(got, "<r "):
			h++
		}
	}
}

// newPointCluster starts nodes on a store that tells where sessions stand.
func newPointCluster(t *testing.T, nodes int) *cluster {
	t.Helper()
	c := newCluster(t, 0, nil)
	c.store = &pointStore{Store: c.store, points: make(chan store.ResumePoint, 100)}
	for i := range nodes {
		c.startNode(fmt.Sprintf("node-%d", i+1))
	}
	return c
}

// points are where sessions of such a cluster stand, as that is stored.
func (c *cluster) points() <-chan store.ResumePoint { return c.store.(*pointStore).points }

// parked returns when a session of alice's waits in the store.
func (c *cluster) parked(id string) {
	c.t.Helper()
	c.eventually("it waits in the store", func() bool {
		h, err := c.store.Holding(c.t.Context(), id, 1)
		return err == nil && h.Parked
	})
}

// leavings are how a session comes to have no node, or no client.
var leavings = map[string]func(*cluster, *client, string){
	"node killed":     func(c *cluster, _ *client, _ string) { c.die() },
	"connection lost": func(_ *cluster, cl *client, _ string) { _ = cl.conn.Close() },
	"node stopped":    func(c *cluster, _ *client, id string) { c.stopNode(c.nodes[0]); c.parked(id) },
}

// What becomes of the roster while a session has no node is told when it is resumed (RFC 6121 §2.1.6), in order and
// once. If it has a node, and no client, that tells it all.
func TestResumeTellsOfRoster(t *testing.T) {
	t.Parallel()
	for name, leave := range leavings {
		for _, enabled := range []string{"before", "after"} {
			t.Run(name+", enabled "+enabled, func(t *testing.T) {
				t.Parallel()
				c := newPointCluster(t, 3)
				c.befriend("alice", "bob")   // version 1
				c.befriend("alice", "carol") // version 2
				tab := c.interested(2, "alice", "tab")
				var alice *client
				var id string
				if enabled == "before" {
					alice = c.login(0, "alice", "phone")
					id = alice.resumable()
					alice.write(getRoster + "<presence/>")
				} else {
					alice = c.interested(0, "alice", "phone")
					alice.skipTo("from='alice@example.com/tab'")
					id = alice.resumable()
				}
				h := alice.counted()
				tab.set("jid='dave@example.com'")
				h += alice.counted()
				c.knows(alice, h, store.Versions{Roster: 3})
				leave(c, alice, id)
				tab.set("jid='bob@example.com' name='Bob'", "jid='erin@example.com'", "jid='carol@example.com' subscription='remove'",
					"jid='frank@example.com'", "jid='frank@example.com' subscription='remove'", "jid='erin@example.com' name='Erin'") // up to 9
				again := c.returns(1, "alice")
				again.resume(id, h)
				again.expect("^<resumed ")
				want := []string{
					push(4, "jid='bob@example.com' name='Bob' subscription='both'"),
					push(6, "jid='carol@example.com' subscription='remove'/>"),
					push(8, "jid='frank@example.com' subscription='remove'/>"),
					push(9, "jid='erin@example.com' name='Erin'"),
				}
				if name == "connection lost" {
					want = []string{want[0], push(5, "jid='erin@example.com'"), want[1], push(7, "jid='frank@example.com'"), want[2], want[3]}
				}
				again.missed(want...)
				tab.set("jid='last@example.com'")
				again.missed(push(10, "jid='last@example.com'"))
			})
		}
	}
}

// What was written of it and not acknowledged comes again: from the node that has left the session, or from the store if
// that has died, as if it had not been told at all.
func TestResumeTellsOfRosterAgain(t *testing.T) {
	t.Parallel()
	for name, leave := range leavings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newPointCluster(t, 3)
			tab, alice := c.interested(2, "alice", "tab"), c.interested(0, "alice", "phone")
			alice.skipTo("from='alice@example.com/tab'")
			id := alice.resumable()
			tab.set("jid='one@example.com'", "jid='two@example.com'")
			alice.expect(push(1, "jid='one@example.com'"))
			alice.expect(push(2, "jid='two@example.com'"))
			c.knows(alice, 1, store.Versions{Roster: 1})
			leave(c, alice, id)
			again := c.returns(1, "alice")
			again.resumed(id, 1, 0)
			again.missed(push(2, "jid='two@example.com'"))
			c.bus.lose(nil)
			_ = again.conn.Close()
			third := c.returns(2, "alice") // where the tab is, so that nobody reads the roster
			third.resume(id, 1)
			third.expect("^<resumed ")
			third.skipTo(push(2, "jid='two@example.com'"))
			third.skipTo("^<iq type='result' id='now'") // not acknowledged either
			third.missed()
		})
	}
}

// A client that has asked for the roster when its node dies, and has not acknowledged the answer, is told all.
func TestResumeTellsOfAllTheRoster(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	c.befriend("alice", "carol")
	alice := c.login(0, "alice", "phone")
	id := alice.resumable()
	alice.write("<presence/>") // which is told of requests up to version 2
	alice.skipTo("^<presence ")
	alice.write(getRoster + smAsk)
	alice.skipTo("^<a [^>]*h='2'")
	c.die()
	again := c.returns(1, "alice")
	again.resumed(id, 1, 2)
	again.missed(push(1, "jid='bob@example.com'"), push(2, "jid='carol@example.com'"))
}

// What contacts have done about subscriptions while a session has no node is told as well (RFC 6121 §3.1.3, §3.1.6,
// §3.3.3): requests, if it is available, and what the roster has of it, if it has asked for that.
func TestResumeTellsOfSubscriptions(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]string{
		"available and interested": getRoster + "<presence/>", "available": "<presence/>", "interested": getRoster,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, nil)
			c.account("dave")
			c.befriend("alice", "bob") // version 1
			bob, carol, dave := c.interested(1, "bob", "desk"), c.online(1, "carol", "pad"), c.online(1, "dave", "car")
			alice := c.login(0, "alice", "phone")
			id := alice.resumable()
			alice.write(first + "<presence type='subscribe' to='dave@example.com'/>") // version 2
			h := alice.counted()
			dave.skipTo("type='subscribe'")
			c.quiet()
			h += alice.counted()
			c.stopNode(c.nodes[0])
			c.parked(id)
			carol.write("<presence type='subscribe' to='alice@example.com'/>") // version 3
			carol.settledBut("^<presence ")
			dave.write("<presence type='subscribed' to='alice@example.com'/>") // version 4
			dave.settledBut("^<presence ")
			bob.write("<presence type='unsubscribed' to='alice@example.com'/>") // version 5
			bob.settledBut("^<presence |^<iq ")
			c.startNode("node-3")
			again := c.returns(2, "alice")
			again.resume(id, h)
			again.expect("^<resumed ")
			var want []string
			if strings.Contains(first, "<presence") {
				want = append(want, "^<presence [^>]*type='subscribe'[^>]* from='carol@example.com'|^<presence [^>]*from='carol@example.com'[^>]* type='subscribe'")
			}
			if strings.Contains(first, "<iq") {
				want = append(want, push(4, "jid='dave@example.com' subscription='to'"), push(5, "jid='bob@example.com' subscription='from'"))
			}
			again.missed(want...)
		})
	}
}

// settledBut syncs, whatever comes that matches.
func (cl *client) settledBut(pattern string) {
	cl.t.Helper()
	cl.write("<iq type='get' id='settled' to='example.com'><ping xmlns='urn:xmpp:ping'/></iq>")
	for {
		got := cl.next()
		if strings.HasPrefix(got, "<iq type='result' id='settled'") {
			return
		}
		if !regexp.MustCompile(pattern).MatchString(got) {
			cl.t.Fatalf("%s: got\n\t%s", cl.jid, got)
		}
	}
}

// What becomes of the blocklist meanwhile is told as well (XEP-0191 §3.3): nobody knows what it was, so all are
// unblocked first.
func TestResumeTellsOfBlocklist(t *testing.T) {
	t.Parallel()
	block := func(name string, jids ...string) string {
		items := ""
		for _, jid := range jids {
			items += "<item jid='" + jid + "'/>"
		}
		return "<" + name + " xmlns='urn:xmpp:blocking'>" + items + "</" + name + ">"
	}
	pushed := func(command string) string {
		return "^<iq type='set' id='[^']+' to='alice@example.com/phone'>" + command + "</iq>$"
	}
	set := func(cl *client, commands ...string) {
		for _, command := range commands {
			cl.write("<iq type='set' id='set'>" + command + "</iq>")
			cl.skipTo("^<iq type='result' id='set'")
		}
		cl.c.quiet()
	}
	for name, leave := range leavings {
		for _, end := range []string{"some", "none", "same"} {
			t.Run(name+", "+end, func(t *testing.T) {
				t.Parallel()
				c := newPointCluster(t, 3)
				tab, alice := c.online(2, "alice", "tab"), c.login(0, "alice", "phone")
				set(tab, block("block", "x@example.com"))
				id := alice.resumable()
				alice.write("<iq type='get' id='b'><blocklist xmlns='urn:xmpp:blocking'/></iq>")
				alice.expect("^<iq type='result' id='b'")
				set(tab, block("block", "y@example.com"))
				alice.expect(pushed(block("block", "y@example.com")))
				alice.counted()
				c.knows(alice, 2, store.Versions{Blocklist: 2})
				leave(c, alice, id)
				var want []string
				switch end {
				case "some":
					changes := []string{block("unblock", "x@example.com"), block("block", "z@example.com")}
					set(tab, changes...)
					want = []string{pushed(block("unblock")), pushed(block("block", "y@example.com", "z@example.com"))}
					if name == "connection lost" {
						want = []string{pushed(changes[0]), pushed(changes[1])}
					}
				case "none":
					set(tab, block("unblock"))
					want = []string{pushed(block("unblock"))}
				}
				again := c.returns(1, "alice")
				again.resume(id, 2)
				again.expect("^<resumed ")
				again.missed(want...)
			})
		}
	}
}

// Who resumes a session of which the client has missed nothing does not look for it.
func TestResumeAsksForNoRoster(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1000)
	c := newHookedCluster(t, 2, &hookedStore{fails: func(what string) error {
		if strings.HasPrefix(what, "roster") {
			asked <- what
		}
		return nil
	}}, nil)
	c.befriend("alice", "bob")
	tab, alice := c.interested(1, "alice", "tab"), c.interested(0, "alice", "phone")
	alice.skipTo("from='alice@example.com/tab'")
	id := alice.resumable()
	tab.set("jid='carol@example.com'")
	h := alice.counted()
	for len(asked) > 0 {
		<-asked
	}
	again := c.returns(1, "alice")
	again.resumed(id, h, 0)
	again.missed()
	if len(asked) > 0 {
		t.Errorf("asked for %s", <-asked)
	}
}

// A client that has missed more than may wait for it is told all the same, and goes on.
func TestResumeTellsOfMuchRoster(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, func(o *backend.Options) { o.Limits.QueueBytes = 100 << 10 })
	alice := c.interested(0, "alice", "phone")
	id := alice.resumable()
	c.stopNode(c.nodes[0])
	c.parked(id)
	const many = 1000
	for i := range many {
		c.subscribed("alice", fmt.Sprint("contact-", i), store.SubscriptionNone)
	}
	again := c.returns(1, "alice")
	again.resumed(id, 0, 0)
	again.write(setItem("jid='last@example.com'"))
	for i := range many {
		again.skipTo(push(i+1, fmt.Sprintf("jid='contact-%d@example.com'", i)))
	}
	again.skipToAll(push(many+1, "jid='last@example.com'"), "^<iq type='result' id='set'")
	again.missed()
}
