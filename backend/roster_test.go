package backend_test

import (
	"fmt"
	"strings"
	"testing"

	"imlb/backend"
	"imlb/backend/bus"
	"imlb/backend/store"
)

// RFC 6121 §2.6: each change has the next version, which a push names; a client that
// has the last version gets nothing, and one that has another everything.
func TestRosterVersions(t *testing.T) {
	c := newCluster(t, 2, nil)
	phone, tab := c.interested(0, "alice", "phone"), c.interested(1, "alice", "tab")
	phone.expect("from='alice@example.com/tab'")
	tab.expect("from='alice@example.com/phone'")
	for i, change := range []string{
		"<iq type='set' id='c'><query xmlns='jabber:iq:roster'><item jid='bob@example.com'/></query></iq>",
		"<presence type='subscribe' to='bob@example.com'/>",
		"<iq type='set' id='c'><query xmlns='jabber:iq:roster'><item jid='bob@example.com' name='Bob'/></query></iq>",
		"<presence type='subscribed' to='carol@example.com'/>",
		"<presence type='unsubscribe' to='bob@example.com'/>",
		"<iq type='set' id='c'><query xmlns='jabber:iq:roster'><item jid='bob@example.com' subscription='remove'/></query></iq>",
	} {
		phone.write(change)
		want := []string{fmt.Sprintf("^<iq type='set' .*<query xmlns='jabber:iq:roster' ver='1.%d'><item [^>]*>(</item>)?</query></iq>$", i+1)}
		tab.expect(want[0])
		if strings.HasPrefix(change, "<iq") {
			want = append(want, "^<iq type='result' id='c'")
		}
		phone.expectAll(want...)
		for version, full := range map[int]bool{i: true, i + 1: false, 99: true} {
			tab.write(fmt.Sprintf("<iq type='get' id='g'><query xmlns='jabber:iq:roster' ver='1.%d'/></iq>", version))
			if got := tab.expect("^<iq type='result' id='g'"); strings.Contains(got, fmt.Sprintf("<query xmlns='jabber:iq:roster' ver='1.%d'>", i+1)) != full {
				t.Errorf("version %d after change %d: %s", version, i+1, got)
			}
		}
	}
	if features := c.dialBound(0, "alice"); !strings.Contains(features, "<ver xmlns='urn:xmpp:features:rosterver'/>") || !strings.Contains(features, "<sub xmlns='urn:xmpp:features:pre-approval'/>") {
		t.Errorf("features: %s", features)
	}
}

// Who takes the name of an account that was deleted, or comes with an import in its place, counts
// anew: what its clients have got of the other one's roster is not taken for its own.
func TestRosterVersionOfAnotherAccount(t *testing.T) {
	c := newCluster(t, 1, nil)
	set := func(contact string) (version string) {
		phone := c.interested(0, "alice", "phone")
		phone.write("<iq type='set' id='s'><query xmlns='jabber:iq:roster'><item jid='" + contact + "'/></query></iq>")
		version = between(phone.skipTo("^<iq type='set'"), " ver='", "'")
		phone.close()
		return version
	}
	version := set("bob@example.com")
	if err := c.store.DeleteAccount(t.Context(), "alice@"+domain); err != nil {
		t.Fatal(err)
	}
	c.account("alice")
	set("carol@example.com")
	phone := c.login(0, "alice", "phone")
	phone.write("<iq type='get' id='g'><query xmlns='jabber:iq:roster' ver='" + version + "'/></iq>")
	phone.expect("^<iq type='result' id='g'.*<item jid='carol@example.com'")
}

// Signals of changes that are made at the same time come in any order. Then no client is left with an item as it
// was before, nor with a version of which it does not have all.
func TestRosterPushesOutOfOrder(t *testing.T) {
	c := newCluster(t, 1, nil)
	phone := c.interested(0, "alice", "phone")
	var late []bus.Signal
	hold := true
	c.bus.lose(func(sig bus.Signal) bool {
		if hold && sig.Kind == bus.Control {
			late = append(late, sig)
		}
		return hold
	})
	set := func(holding bool, item string) {
		t.Helper()
		c.bus.mu.Lock()
		hold = holding
		c.bus.mu.Unlock()
		phone.write("<iq type='set' id='s'><query xmlns='jabber:iq:roster'><item " + item + "/></query></iq>")
	}
	push := func(version int, item string) string {
		return fmt.Sprintf("^<iq type='set' .*<query xmlns='jabber:iq:roster' ver='1.%d'><item %s ", version, item)
	}
	const done = "^<iq type='result' id='s'"
	set(true, "jid='bob@example.com' name='first'")
	phone.expect(done)
	set(true, "jid='carol@example.com'")
	phone.expect(done)
	set(false, "jid='bob@example.com' name='last'")
	phone.expectAll(push(0, "jid='bob@example.com' name='last'"), done)
	if len(late) != 2 {
		t.Fatalf("%d signals are late, want 2", len(late))
	}
	c.nodes[0].Signal(late[0])
	phone.sync()
	c.nodes[0].Signal(late[1])
	phone.expect(push(3, "jid='carol@example.com'"))
	set(false, "jid='dave@example.com'")
	phone.expectAll(push(4, "jid='dave@example.com'"), done)
}

// dialBound logs in and returns the features of the stream then.
func (c *cluster) dialBound(node int, name string) string {
	c.t.Helper()
	cl := c.dial(node, leg{})
	cl.open()
	cl.write(auth("PLAIN", b64("\x00"+name+"\x00pencil")))
	cl.expect("^<success ")
	cl.scanner.Reset()
	return cl.open()
}

// RFC 6121 §3.4: a pre-approval is seen in the roster, can be taken back, ends with the
// item, and answers a request that comes while the user is not there.
func TestPreApprovals(t *testing.T) {
	c := newCluster(t, 2, nil)
	alice, bob := c.interested(0, "alice", "phone"), c.interested(1, "bob", "desk")
	bob.write("<presence type='subscribed' to='alice@example.com'/>")
	bob.expect("<item jid='alice@example.com' subscription='none' approved='true'>")
	bob.write("<presence type='subscribed' to='alice@example.com'/>") // again: nothing
	bob.sync()
	bob.write("<presence type='unsubscribed' to='alice@example.com'/>")
	bob.expect("<item jid='alice@example.com' subscription='none'>")
	alice.write("<presence type='subscribe' to='bob@example.com'/>")
	alice.expect("ask='subscribe'")
	bob.expect("^<presence type='subscribe' ")
	bob.write("<presence type='unsubscribed' to='alice@example.com'/>")
	alice.expect("^<presence type='unsubscribed' ")
	alice.expect("<item jid='bob@example.com' subscription='none'>")

	bob.write("<presence type='subscribed' to='alice@example.com'/>")
	bob.expect("approved='true'")
	bob.write("<iq type='set' id='r'><query xmlns='jabber:iq:roster'><item jid='alice@example.com' subscription='remove'/></query></iq>")
	bob.expectAll("subscription='remove'", "^<iq type='result'")
	if got := c.state("bob", "alice"); got != "nothing" {
		t.Errorf("bob has %s", got)
	}

	bob.write("<presence type='subscribed' to='alice@example.com'/>")
	bob.expect("approved='true'")
	bob.close()
	alice.write("<presence type='subscribe' to='bob@example.com'/>")
	alice.expect("ask='subscribe'")
	alice.expect("^<presence type='subscribed' ")
	alice.expect("<item jid='bob@example.com' subscription='to'>")
	if got := c.state("bob", "alice"); got != "from+approved" {
		t.Errorf("bob has %s", got)
	}
}

// Requests make items too, so they count, and one who asks many others fills nobody's list.
func TestRequestsAreBounded(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.RosterItems = 2 })
	c.account("dave")
	alice := c.login(0, "alice", "phone")
	for _, kind := range []string{"subscribe", "subscribed"} {
		alice.write("<presence type='" + kind + "' to='" + kind + "1@example.com'/>")
		alice.sync()
	}
	for _, kind := range []string{"subscribe", "subscribed"} {
		alice.write("<presence type='" + kind + "' to='bob@example.com'/>")
		alice.expect("^<presence [^>]*type='error'.*<resource-constraint ")
	}
	alice.write("<presence type='subscribe' to='subscribed1@example.com'/>") // is in the list
	alice.sync()

	bob, carol, dave := c.login(0, "bob", "desk"), c.login(0, "carol", "pad"), c.login(0, "dave", "pc")
	long := strings.Repeat("x", 10_000)
	bob.write("<presence type='subscribe' to='carol@example.com'><status>" + long + "</status></presence>")
	bob.expect("^<presence [^>]*type='error'.*<policy-violation ")
	c.setState("carol", "alice", "none")
	for _, cl := range []*client{bob, dave} {
		cl.write("<presence type='subscribe' to='carol@example.com'/>")
		cl.sync()
	}
	c.account("eve")
	eve := c.login(0, "eve", "e")
	eve.write("<presence type='subscribe' to='carol@example.com'/>")
	eve.sync()
	if got := c.state("carol", "bob") + " " + c.state("carol", "dave") + " " + c.state("carol", "eve"); got != "none+in none+in nothing" {
		t.Errorf("carol has %s", got)
	}
	carol.write("<iq type='set' id='s'><query xmlns='jabber:iq:roster'><item jid='x@example.com'/></query></iq>")
	carol.expect("^<iq type='result'") // what others ask for takes no room
}

// However many requests wait, and however long they are, the user can log in.
func TestManyRequestsComeAtLogin(t *testing.T) {
	const many = 200
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.QueueBytes = 64 << 10 })
	bob, err := c.store.Account(t.Context(), "bob@example.com")
	if err != nil {
		t.Fatal(err)
	}
	status := strings.Repeat("x", 9000)
	for i := range many {
		from := fmt.Sprintf("stranger-%d@example.com", i)
		_, _, err := c.store.UpdateRoster(t.Context(), bob.Owner, from, func(it *store.RosterItem) bool {
			it.PendingIn = fmt.Appendf(nil, "<presence type='subscribe' from='%s' to='bob@example.com'><status>%s</status></presence>", from, status)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	desk := c.login(0, "bob", "desk")
	desk.write("<presence/>")
	for range many {
		desk.skipTo("^<presence [^>]*type='subscribe' from='stranger-")
	}
	desk.sync()
}
