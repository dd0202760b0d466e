package backend_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"imlb/backend/store"
)

// befriend gives two users each other's presence.
func (c *cluster) befriend(a, b string) {
	c.t.Helper()
	c.subscribed(a, b, store.SubscriptionBoth)
	c.subscribed(b, a, store.SubscriptionBoth)
}

// subscribed puts contact into the roster of user.
func (c *cluster) subscribed(user, contact string, state store.Subscription) {
	c.t.Helper()
	a, err := c.store.Account(c.t.Context(), user+"@"+domain)
	if err != nil {
		c.t.Fatal(err)
	}
	_, _, err = c.store.UpdateRoster(c.t.Context(), a.Owner, contact+"@"+domain, func(it *store.RosterItem) bool {
		it.InRoster, it.Subscription = true, state
		return true
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

func TestPresenceAmongFriends(t *testing.T) {
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	c.subscribed("carol", "alice", store.SubscriptionTo) // alice does not know: not shown
	carol := c.online(1, "carol", "pad")
	alice := c.login(0, "alice", "phone")
	alice.write("<presence><show>dnd</show><priority>3</priority></presence>")
	alice.expect("from='alice@example.com/phone'")

	bob := c.online(1, "bob", "desk")
	bob.expect("^<presence [^>]*from='alice@example.com/phone'.*<show>dnd</show>")
	alice.expect("^<presence [^>]*from='bob@example.com/desk'[^>]*to='alice@example.com'|^<presence [^>]*to='alice@example.com'[^>]*from='bob@example.com/desk'")

	alice.write("<presence><show>away</show></presence>")
	alice.expect("<show>away</show>")
	bob.expect("from='alice@example.com/phone'.*<show>away</show>")

	// A second resource of alice sees the first, and is seen.
	tab := c.login(0, "alice", "tab")
	tab.write("<presence/>")
	tab.expectAll("from='alice@example.com/tab'", "from='alice@example.com/phone'.*<show>away", "from='bob@example.com/desk'")
	alice.expect("from='alice@example.com/tab'")
	bob.expect("from='alice@example.com/tab'")

	tab.close()
	alice.expect("type='unavailable'.*from='alice@example.com/tab'|from='alice@example.com/tab'.*type='unavailable'")
	bob.expect("type='unavailable'")

	alice.write("<presence type='unavailable'><status>gone</status></presence>")
	got := bob.expect("type='unavailable'.*<status>gone</status>")
	if !strings.Contains(got, "from='alice@example.com/phone'") {
		t.Errorf("got %s", got)
	}
	// The resource that it comes from gets it too (§4.5.2), but not if it was not available.
	alice.expect("^<presence [^>]*type='unavailable'[^>]*from='alice@example.com/phone'.*<status>gone</status>")
	alice.write("<presence type='unavailable'/>")
	alice.sync()
	_ = alice.conn.Close() // nothing more to be told
	bob.sync()
	carol.sync() // has never seen anything
}

func TestAbruptEndIsSeen(t *testing.T) {
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	bob := c.online(1, "bob", "desk")
	alice := c.online(0, "alice", "phone")
	bob.expect("from='alice@example.com/phone'")
	_ = alice.conn.Close()
	bob.expect("type='unavailable'.*from='alice@example.com/phone'")
	c.gone("alice")
}

func TestDirectedPresence(t *testing.T) {
	c := newCluster(t, 2, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(1, "bob", "desk")
	alice.write("<presence to='bob@example.com/desk'><status>for you</status></presence>")
	bob.expect("^<presence [^>]*from='alice@example.com/phone'.*for you")
	alice.write("<presence><status>not for you</status></presence>")
	alice.expect("not for you")
	bob.sync()
	alice.close()
	bob.expect("type='unavailable'.*from='alice@example.com/phone'")
}

func TestBadPresence(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	for stanza, condition := range map[string]string{
		"<presence><priority>300</priority></presence>": "bad-request",
		"<presence type='here'/>":                       "bad-request",
		"<presence type=''/>":                           "bad-request",
		"<presence type='' to='bob@example.com'/>":      "bad-request",
		"<presence to='a@b@c'/>":                        "jid-malformed",
		"<presence to='bob@example.net'/>":              "remote-server-not-found",
		"<presence type='subscribe'/>":                  "jid-malformed",
		"<presence type='subscribe' to='example.com'/>": "service-unavailable",
		"<presence type='subscribe' to='example.net'/>": "remote-server-not-found",
	} {
		alice.write(stanza)
		alice.expect("^<presence [^>]*type='error'.*<" + condition + " ")
	}
}

const getRoster = "<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq>"

// TestSubscription goes through RFC 6121 §3 as its examples do: request, approval,
// the other direction, and both ends.
func TestSubscription(t *testing.T) {
	c := newCluster(t, 2, nil)
	alice, bob := c.login(0, "alice", "phone"), c.login(1, "bob", "desk")
	for _, cl := range []*client{alice, bob} {
		cl.write(getRoster)
		cl.expect("^<iq .*<query xmlns='jabber:iq:roster' ver='\\d+\\.0'></query>")
		cl.write("<presence/>")
		cl.expect("^<presence ")
		cl.sync() // has been shown all requests that wait
	}
	push := func(cl *client, item string) {
		t.Helper()
		cl.expect("^<iq type='set'.*<query xmlns='jabber:iq:roster' ver='[0-9.]+'><item " + item)
	}

	alice.write("<presence type='subscribe' to='bob@example.com/desk' id='s1'/>")
	push(alice, "jid='bob@example.com' subscription='none' ask='subscribe'>")
	bob.expect("^<presence type='subscribe' to='bob@example.com' id='s1' from='alice@example.com'/>")

	bob.write("<presence type='subscribed' to='alice@example.com'/>")
	push(bob, "jid='alice@example.com' subscription='from'>")
	alice.expect("^<presence type='subscribed' to='alice@example.com' from='bob@example.com'/>")
	push(alice, "jid='bob@example.com' subscription='to'>")
	alice.expect("^<presence [^>]*from='bob@example.com/desk'")

	bob.write("<presence type='subscribe' to='alice@example.com'/>")
	push(bob, "jid='alice@example.com' subscription='from' ask='subscribe'>")
	alice.expect("^<presence type='subscribe' ")
	alice.write("<presence type='subscribed' to='bob@example.com'/>")
	push(alice, "jid='bob@example.com' subscription='both'>")
	bob.expect("^<presence type='subscribed' ")
	push(bob, "jid='alice@example.com' subscription='both'>")
	bob.expect("^<presence [^>]*from='alice@example.com/phone'")

	// §3.3: alice does not want bob's presence any more.
	alice.write("<presence type='unsubscribe' to='bob@example.com'/>")
	push(alice, "jid='bob@example.com' subscription='from'>")
	bob.expect("^<presence type='unsubscribe' ")
	push(bob, "jid='alice@example.com' subscription='to'>")
	alice.expect("^<presence type='unavailable' .*from='bob@example.com/desk'")

	// §3.2: alice does not show bob hers any more.
	alice.write("<presence type='unsubscribed' to='bob@example.com'/>")
	push(alice, "jid='bob@example.com' subscription='none'>")
	bob.expect("^<presence type='unsubscribed' ")
	push(bob, "jid='alice@example.com' subscription='none'>")
	bob.expect("^<presence type='unavailable' .*from='alice@example.com/phone'")

	alice.sync()
	bob.sync()
}

func TestPendingRequestComesAtLogin(t *testing.T) {
	c := newCluster(t, 2, nil)
	alice := c.online(0, "alice", "phone")
	alice.write("<presence type='subscribe' to='bob@example.com'><status>please</status></presence>")
	alice.sync()
	for range 2 { // until it is answered
		bob := c.login(1, "bob", "desk")
		bob.write("<presence/>")
		bob.expectAll("^<presence [^>]*from='bob@example.com/desk'", "^<presence type='subscribe' .*please")
		bob.write(getRoster)
		bob.expect("<query xmlns='jabber:iq:roster' ver='2.1'></query>") // it is not in the roster
		bob.close()
	}
}

func TestPreApproval(t *testing.T) {
	c := newCluster(t, 2, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(1, "bob", "desk")
	bob.write(getRoster)
	bob.expect("^<iq ")
	bob.write("<presence type='subscribed' to='alice@example.com'/>")
	bob.expect("<item jid='alice@example.com' subscription='none' approved='true'>")
	alice.write(getRoster)
	alice.expect("^<iq ")
	alice.write("<presence type='subscribe' to='bob@example.com'/>")
	alice.expect("ask='subscribe'")
	alice.expect("^<presence type='subscribed' ")
	alice.expect("jid='bob@example.com' subscription='to'>")
	alice.expect("^<presence [^>]*from='bob@example.com/desk'")
	bob.expect("<item jid='alice@example.com' subscription='from' approved='true'>")
}

func TestSubscribeToNobody(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	alice.write(getRoster)
	alice.expect("^<iq ")
	alice.write("<presence type='subscribe' to='nobody@example.com'/>")
	alice.expect("<item jid='nobody@example.com' subscription='none' ask='subscribe'>")
	alice.expect("^<presence type='unsubscribed' from='nobody@example.com' to='alice@example.com'/>")
	alice.expect("<item jid='nobody@example.com' subscription='none'>")
}

func TestRoster(t *testing.T) {
	c := newCluster(t, 2, nil)
	phone, tab := c.login(0, "alice", "phone"), c.login(1, "alice", "tab")
	tab.write(getRoster)
	tab.expect("^<iq ")

	set := func(item, want string) {
		t.Helper()
		phone.write("<iq type='set' id='set'><query xmlns='jabber:iq:roster'>" + item + "</query></iq>")
		if got := phone.skipTo("^<iq [^>]*id='set'"); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s: got %s, want %s", item, got, want)
		}
	}
	ok := "^<iq type='result' id='set'"
	set("<item jid='bob@example.com' name='Bob &amp; co'><group>b</group><group>a</group></item>", ok)
	want := "<item jid='bob@example.com' name='Bob &amp; co' subscription='none'><group>a</group><group>b</group></item>"
	tab.expect("^<iq type='set' id='[^']+' to='alice@example.com/tab'><query xmlns='jabber:iq:roster' ver='1.1'>" + want)
	phone.write(getRoster)
	phone.skipTo("id='roster'.*ver='1.1'>" + want + "</query>")
	phone.write("<iq type='get' id='same'><query xmlns='jabber:iq:roster' ver='1.1'/></iq>")
	phone.skipTo("^<iq type='result' id='same' to='alice@example.com/phone'></iq>")

	for item, condition := range map[string]string{
		"":                    "bad-request",
		"<item jid='a@b@c'/>": "jid-malformed",
		"<item jid='a@b.example'><group/></item>":                            "not-acceptable",
		"<item jid='a@b.example'><group>x</group><group>x</group></item>":    "bad-request",
		"<item jid='a@b.example' name='" + strings.Repeat("x", 2000) + "'/>": "not-acceptable",
		"<item jid='alice@example.com'/>":                                    "not-allowed",
		"<item jid='nobody@example.com' subscription='remove'/>":             "item-not-found",
		"<item jid='a@b.example'/><item jid='c@b.example'/>":                 "bad-request",
	} {
		set(item, "type='error'.*<"+condition+" ")
	}
	set("<item jid='bob@example.com' subscription='remove'/>", ok)
	tab.expect("<item jid='bob@example.com' subscription='remove'/>")
}

// Removing a contact ends the subscriptions (RFC 6121 §2.5.2).
func TestRemoveContact(t *testing.T) {
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	bob := c.online(1, "bob", "desk")
	bob.write(getRoster)
	bob.expect("subscription='both'")
	alice := c.online(0, "alice", "phone")
	alice.expect("from='bob@example.com/desk'")
	bob.expect("from='alice@example.com/phone'")
	alice.write("<iq type='set' id='r'><query xmlns='jabber:iq:roster'><item jid='bob@example.com' subscription='remove'/></query></iq>")
	alice.expectAll("^<iq type='result'", "^<presence type='unavailable' .*from='bob@example.com/desk'")
	bob.expect("^<presence type='unsubscribe' ")
	bob.expect("subscription='to'>")
	bob.expectAll("^<presence type='unsubscribed' ", "subscription='none'>", "^<presence type='unavailable' .*from='alice@example.com/phone'")
}

func TestIQ(t *testing.T) {
	c := newCluster(t, 2, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(1, "bob", "desk")
	ask := func(kind, to, payload, want string) {
		t.Helper()
		alice.write(fmt.Sprintf("<iq type='%s' id='q'%s>%s</iq>", kind, to, payload))
		alice.expect(want)
	}
	ping := "<ping xmlns='urn:xmpp:ping'/>"
	ask("get", "", ping, "^<iq type='result' id='q' to='alice@example.com/phone'></iq>")
	ask("get", " to='example.com'", ping, "^<iq type='result' id='q' from='example.com'")
	ask("get", " to='alice@example.com'", ping, "^<iq type='result' id='q' from='alice@example.com'")
	ask("get", " to='bob@example.com'", ping, "<service-unavailable ")
	ask("get", " to='bob@example.com/gone'", ping, "<service-unavailable ")
	ask("get", " to='nobody@example.com/x'", ping, "<service-unavailable ")
	ask("get", " to='example.net'", ping, "<remote-server-not-found ")
	ask("get", " to='example.com'", "<query xmlns='urn:unknown'/>", "<service-unavailable ")
	ask("get", "", ping+ping, "<bad-request ")
	ask("put", "", ping, "<bad-request ")
	ask("set", "", "<session xmlns='urn:ietf:params:xml:ns:xmpp-session'/>", "^<iq type='result'")
	ask("set", "", "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>", "<not-allowed ")
	ask("get", " to='example.com'", "<query xmlns='http://jabber.org/protocol/disco#info'/>", "category='server'.*<feature var='urn:xmpp:ping'/>")
	ask("get", " to='example.com'", "<query xmlns='http://jabber.org/protocol/disco#items'/>", "disco#items'/></iq>")
	ask("get", " to='example.com'", "<query xmlns='http://jabber.org/protocol/disco#info' node='x'/>", "<item-not-found ")
	ask("get", " to='alice@example.com'", "<query xmlns='http://jabber.org/protocol/disco#info'/>", "category='account'")
	ask("get", " to='example.com'", "<query xmlns='jabber:iq:version'/>", "<name>imlb</name><version>[^<]+</version>")
	ask("get", " to='example.com'", "<time xmlns='urn:xmpp:time'/>", `<tzo>\+00:00</tzo><utc>\d{4}-\d\d-\d\dT[0-9:.]+Z</utc>`)
	ask("get", " to='example.com'", "<query xmlns='jabber:iq:last'/>", `<query xmlns='jabber:iq:last' seconds='\d+'/>`)
	ask("get", " to='alice@example.com'", "<query xmlns='jabber:iq:last'/>", "seconds='0'/>")
	ask("get", " to='bob@example.com'", "<query xmlns='jabber:iq:last'/>", "<forbidden ") // see TestLastActivity
	for _, misnamed := range []string{
		"<x xmlns='urn:xmpp:ping'/>", "<x xmlns='jabber:iq:roster'/>", "<x xmlns='jabber:iq:last'/>", "<x xmlns='urn:xmpp:time'/>",
		"<x xmlns='http://jabber.org/protocol/disco#info'/>", "<x xmlns='jabber:iq:version'/>",
	} {
		ask("get", "", misnamed, "<service-unavailable ")
		ask("get", " to='example.com'", misnamed, "<service-unavailable ")
	}
	ask("set", " to='example.com'", "<time xmlns='urn:xmpp:time'/>", "<service-unavailable ")
	ask("get", " to='alice@example.com'", "<query xmlns='jabber:iq:version'/>", "<service-unavailable ")

	alice.write("<iq type='get' id='v' to='bob@example.com/desk'><query xmlns='jabber:iq:version'/></iq>")
	bob.expect("^<iq .*from='alice@example.com/phone'.*jabber:iq:version")
	bob.write("<iq type='result' id='v' to='alice@example.com/phone'><query xmlns='jabber:iq:version'/></iq>")
	alice.expect("^<iq .*type='result'.*from='bob@example.com/desk'|^<iq type='result'")
	// Two answers are none; bob is not told, but alice is.
	bob.write("<iq type='result' id='w' to='alice@example.com/phone'><x xmlns='urn:x'/><y xmlns='urn:x'/></iq>")
	alice.expect("^<iq type='error' id='w' to='alice@example.com/phone' from='bob@example.com/desk'><error type='cancel'><undefined-condition [^>]*/><text [^>]*>the answer was malformed</text></error></iq>$")
	bob.write("<iq type='result' id='x' to='alice@example.com/phone'><x xmlns='urn:x'/></iq>")
	alice.expect("^<iq type='result' id='x' [^>]*><x xmlns='urn:x'/></iq>$")
	bob.sync()
	alice.write("<iq type='result' id='unasked' to='bob@example.com/gone'/><iq type='error' id='unasked' to='example.com'/>")
	alice.sync()
}

// XEP-0115 §8.4: contacts hear capabilities once, and newcomers hear them as well.
func TestCapsOptimization(t *testing.T) {
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	c.befriend("alice", "carol")
	alice := c.online(0, "alice", "phone")
	bob := c.online(1, "bob", "desk")
	bob.expect("^<presence [^>]*from='alice@example.com/phone'")
	caps := func(ver string) string {
		return "<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='urn:x' ver='" + ver + "'/>" +
			"<c xmlns='urn:xmpp:caps'><hash xmlns='urn:xmpp:hashes:2' algo='sha-256'>" + ver + "</hash></c>"
	}
	const prefixed = "<presence id='%s' xmlns:c='http://jabber.org/protocol/caps'><c:c hash='sha-1' node='urn:x' ver='AAAA'/></presence>"
	for i, step := range []struct {
		name, stanza, ver string // the capabilities that bob is told of
	}{
		{"first", "<presence id='%s'>" + caps("AAAA") + "</presence>", "AAAA"},
		{"the same", "<presence id='%s'><show>away</show>" + caps("AAAA") + "</presence>", ""},
		{"directed", "<presence id='%s' to='bob@example.com'>" + caps("AAAA") + "</presence>", "AAAA"},
		{"others", "<presence id='%s'>" + caps("BBBB") + "</presence>", "BBBB"},
		{"none", "<presence id='%s'/>", ""},
		{"after none", "<presence id='%s'>" + caps("BBBB") + "</presence>", ""},
		{"unavailable", "<presence id='%s' type='unavailable'/>", ""},
		{"available again", "<presence id='%s'>" + caps("BBBB") + "</presence>", "BBBB"},
		{"with a prefix", prefixed, "AAAA"},
		{"with a prefix again", prefixed, ""},
		{"the last", "<presence id='%s'>" + caps("CCCC") + "</presence>", "CCCC"},
		{"the last again", "<presence id='%s'><show>dnd</show>" + caps("CCCC") + "</presence>", ""},
		{"left out", "<presence id='%s'><show>xa</show></presence>", ""},
	} {
		id := fmt.Sprintf("p%d", i)
		alice.write(fmt.Sprintf(step.stanza, id))
		got := bob.skipTo("^<presence [^>]*id='" + id + "'")
		if strings.Contains(got, "<c") != (step.ver != "") || !strings.Contains(got, step.ver) {
			t.Errorf("%s: got %s", step.name, got)
		}
	}
	// Who comes now is told all, and so is who asks.
	whole := "<show>xa</show>" + regexp.QuoteMeta(caps("CCCC")) + "</presence>$"
	c.online(1, "carol", "pad").expect("^<presence [^>]*from='alice@example.com/phone'.*" + whole)
	bob.write("<presence type='probe' to='alice@example.com'/>")
	bob.skipTo("^<presence [^>]*from='alice@example.com/phone'.*" + whole)
}

// A client that does not look hears the capabilities with the last presence, even if they
// came with one before it.
func TestCapsOptimizationWhileInactive(t *testing.T) {
	c := newCluster(t, 1, nil)
	c.befriend("alice", "bob")
	bob := c.online(0, "bob", "desk")
	bob.write("<inactive xmlns='urn:xmpp:csi:0'/>")
	bob.sync()
	alice := c.login(0, "alice", "phone")
	const caps = "<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='urn:x' ver='AAAA'/>"
	alice.write("<presence>" + caps + "</presence><presence><show>away</show>" + caps + "</presence><presence><show>dnd</show>" + caps + "</presence>")
	for range 3 {
		alice.skipTo("^<presence [^>]*from='alice@example.com/phone'")
	}
	bob.write("<active xmlns='urn:xmpp:csi:0'/>")
	bob.expect("^<presence [^>]*from='alice@example.com/phone'[^>]*><show>dnd</show>" + caps + "</presence>$")
}

// Capabilities may have their prefix from the stanza that they came in, which is not the one that a client that does
// not look gets in the end.
func TestCapsWithAPrefixWhileInactive(t *testing.T) {
	c := newCluster(t, 1, nil)
	c.befriend("alice", "bob")
	bob := c.online(0, "bob", "desk")
	bob.write("<inactive xmlns='urn:xmpp:csi:0'/>")
	bob.sync()
	alice := c.login(0, "alice", "phone")
	alice.write("<presence xmlns:k='http://jabber.org/protocol/caps'><k:c hash='sha-1' node='urn:x' ver='AAAA'/></presence><presence><show>dnd</show></presence>")
	for range 2 {
		alice.skipTo("^<presence [^>]*from='alice@example.com/phone'")
	}
	bob.write("<active xmlns='urn:xmpp:csi:0'/>")
	bob.expect("^<presence [^>]*from='alice@example.com/phone'[^>]*><show>dnd</show>" +
		"<k:c hash='sha-1' node='urn:x' ver='AAAA' xmlns:k='http://jabber.org/protocol/caps'/></presence>$")
}
