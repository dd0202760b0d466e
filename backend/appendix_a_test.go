package backend_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"imlb/backend/store"
)

// The states of RFC 6121 appendix A.1, by what they are called below.
var rosterStates = map[string]store.RosterItem{
	"none":        {},
	"none+out":    {Ask: true},
	"none+in":     {PendingIn: []byte("x")},
	"none+out+in": {Ask: true, PendingIn: []byte("x")},
	"to":          {Subscription: store.SubscriptionTo},
	"to+in":       {Subscription: store.SubscriptionTo, PendingIn: []byte("x")},
	"from":        {Subscription: store.SubscriptionFrom},
	"from+out":    {Subscription: store.SubscriptionFrom, Ask: true},
	"both":        {Subscription: store.SubscriptionBoth},
}

// mirrored is what the contact has when the user has a state.
var mirrored = map[string]string{
	"none": "none", "none+out": "none+in", "none+in": "none+out", "none+out+in": "none+out+in",
	"to": "from", "to+in": "from+out", "from": "to", "from+out": "to+in", "both": "both",
}

// setState gives a user's item of a contact, which clients see, a state.
func (c *cluster) setState(user, contact, state string) {
	c.t.Helper()
	a, err := c.store.Account(c.t.Context(), user+"@"+domain)
	if err != nil {
		c.t.Fatal(err)
	}
	_, _, err = c.store.UpdateRoster(c.t.Context(), a.Owner, contact+"@"+domain, func(it *store.RosterItem) bool {
		*it = rosterStates[state]
		it.InRoster = true
		if len(it.PendingIn) > 0 {
			it.PendingIn = fmt.Appendf(nil, "<presence type='subscribe' from='%s@%s' to='%s@%[2]s'/>", contact, domain, user)
		}
		return true
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// state returns the state of an item, "+approved" if it is pre-approved, and "nothing"
// if there is no item.
func (c *cluster) state(user, contact string) string {
	c.t.Helper()
	a, err := c.store.Account(c.t.Context(), user+"@"+domain)
	if err != nil {
		c.t.Fatal(err)
	}
	items, _, err := c.store.Roster(c.t.Context(), a.Owner)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, it := range items {
		if it.Contact != contact+"@"+domain {
			continue
		}
		for name, s := range rosterStates {
			if s.Subscription == it.Subscription && s.Ask == it.Ask && (len(s.PendingIn) > 0) == (len(it.PendingIn) > 0) {
				if it.Approved {
					name += "+approved"
				}
				return name
			}
		}
		return fmt.Sprintf("%+v", it)
	}
	return "nothing"
}

// shown is how a state looks in a roster push.
func shown(contact, state string) string {
	subscription, _, _ := strings.Cut(state, "+")
	item := "<item jid='" + contact + "@" + domain + "' subscription='" + subscription + "'"
	if strings.Contains(state, "+out") {
		item += " ask='subscribe'"
	}
	if strings.Contains(state, "+approved") {
		item += " approved='true'"
	}
	return "^<iq type='set'.*" + regexp.QuoteMeta(item+"></item>")
}

// TestAppendixA holds the tables of RFC 6121 appendix A as clients see them: alice sends
// a stanza in each state; her item and bob's, which agreed before, are as named after
// it. Where a state looks another way, the user's client gets a push. Bob, on another
// node, gets the stanza if the table says so (before his push, §3.1.6); alice or bob get
// the presence that they may see from now on, or the end of what they may not any more.
func TestAppendixA(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		kind, state string
		alice, bob  string // afterwards
		delivered   bool   // to bob
		seen        string // what bob sees of alice (b) or alice of bob (a): comes or goes
	}{
		// A.2.1, A.3.1
		{kind: "subscribe", state: "none", alice: "none+out", bob: "none+in", delivered: true},
		{kind: "subscribe", state: "none+out", alice: "none+out", bob: "none+in"},
		{kind: "subscribe", state: "none+in", alice: "none+out+in", bob: "none+out+in", delivered: true},
		{kind: "subscribe", state: "none+out+in", alice: "none+out+in", bob: "none+out+in"},
		{kind: "subscribe", state: "to", alice: "to", bob: "from"},
		{kind: "subscribe", state: "to+in", alice: "to+in", bob: "from+out"},
		{kind: "subscribe", state: "from", alice: "from+out", bob: "to+in", delivered: true},
		{kind: "subscribe", state: "from+out", alice: "from+out", bob: "to+in"},
		{kind: "subscribe", state: "both", alice: "both", bob: "both"},
		// A.2.2, A.3.2
		{kind: "unsubscribe", state: "none", alice: "none", bob: "none"},
		{kind: "unsubscribe", state: "none+out", alice: "none", bob: "none", delivered: true},
		{kind: "unsubscribe", state: "none+in", alice: "none+in", bob: "none+out"},
		{kind: "unsubscribe", state: "none+out+in", alice: "none+in", bob: "none+out", delivered: true},
		{kind: "unsubscribe", state: "to", alice: "none", bob: "none", delivered: true, seen: "alice: bob goes"},
		{kind: "unsubscribe", state: "to+in", alice: "none+in", bob: "none+out", delivered: true, seen: "alice: bob goes"},
		{kind: "unsubscribe", state: "from", alice: "from", bob: "to"},
		{kind: "unsubscribe", state: "from+out", alice: "from", bob: "to", delivered: true},
		{kind: "unsubscribe", state: "both", alice: "from", bob: "to", delivered: true, seen: "alice: bob goes"},
		// A.2.3, A.3.3
		{kind: "subscribed", state: "none", alice: "none+approved", bob: "none"}, // §3.4
		{kind: "subscribed", state: "none+out", alice: "none+out+approved", bob: "none+in"},
		{kind: "subscribed", state: "none+in", alice: "from", bob: "to", delivered: true, seen: "bob: alice comes"},
		{kind: "subscribed", state: "none+out+in", alice: "from+out", bob: "to+in", delivered: true, seen: "bob: alice comes"},
		{kind: "subscribed", state: "to", alice: "to+approved", bob: "from"},
		{kind: "subscribed", state: "to+in", alice: "both", bob: "both", delivered: true, seen: "bob: alice comes"},
		{kind: "subscribed", state: "from", alice: "from", bob: "to"},
		{kind: "subscribed", state: "from+out", alice: "from+out", bob: "to+in"},
		{kind: "subscribed", state: "both", alice: "both", bob: "both"},
		// A.2.4, A.3.4
		{kind: "unsubscribed", state: "none", alice: "none", bob: "none"},
		{kind: "unsubscribed", state: "none+out", alice: "none+out", bob: "none+in"},
		{kind: "unsubscribed", state: "none+in", alice: "none", bob: "none", delivered: true},
		{kind: "unsubscribed", state: "none+out+in", alice: "none+out", bob: "none+in", delivered: true},
		{kind: "unsubscribed", state: "to", alice: "to", bob: "from"},
		{kind: "unsubscribed", state: "to+in", alice: "to", bob: "from", delivered: true},
		{kind: "unsubscribed", state: "from", alice: "none", bob: "none", delivered: true, seen: "bob: alice goes"},
		{kind: "unsubscribed", state: "from+out", alice: "none+out", bob: "none+in", delivered: true, seen: "bob: alice goes"},
		{kind: "unsubscribed", state: "both", alice: "to", bob: "from", delivered: true, seen: "bob: alice goes"},
	} {
		t.Run(tt.kind+" in "+tt.state, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, nil)
			c.setState("alice", "bob", tt.state)
			c.setState("bob", "alice", mirrored[tt.state])
			alice, bob := c.interested(0, "alice", "phone"), c.interested(1, "bob", "desk")
			quiet := c.login(1, "bob", "quiet") // is not interested, and gets no answers (§3.1.6)
			quiet.write("<presence/><iq type='get' id='asked'><ping xmlns='urn:xmpp:ping'/></iq>")
			quiet.skipToAll("from='bob@example.com/quiet'", "^<iq type='result' id='asked'")
			for range 2 { // there and back
				settled(bob, quiet)
				settled(alice)
			}

			alice.write("<presence type='" + tt.kind + "' to='bob@example.com/desk' id='s'><status>!</status></presence>")
			var forAlice, forBob []string
			if looks := shown("bob", tt.alice); looks != shown("bob", tt.state) {
				forAlice = append(forAlice, looks)
			}
			if tt.delivered {
				forBob = append(forBob, "^<presence type='"+tt.kind+"' to='bob@example.com' id='s' from='alice@example.com'><status>!</status></presence>$")
			}
			if looks := shown("alice", tt.bob); looks != shown("alice", mirrored[tt.state]) {
				forBob = append(forBob, looks)
			}
			switch tt.seen {
			case "alice: bob goes":
				forAlice = append(forAlice, "type='unavailable'.*from='bob@example.com/desk'", "type='unavailable'.*from='bob@example.com/quiet'")
			case "bob: alice comes":
				forBob = append(forBob, "^<presence [^>]*from='alice@example.com/phone'[^>]*>")
			case "bob: alice goes":
				forBob = append(forBob, "^<presence [^>]*type='unavailable'.*from='alice@example.com/phone'")
			}
			alice.expectAll(forAlice...)
			if len(forBob) > 0 {
				bob.expect(forBob[0])
				bob.expectAll(forBob[1:]...)
			}
			nothingMore(alice)
			if tt.kind == "subscribe" && tt.delivered {
				quiet.expect("^<presence type='subscribe' ") // §8.5.2.1.2: all that are available
			}
			if tt.seen == "bob: alice comes" || tt.seen == "bob: alice goes" {
				quiet.expect("^<presence [^>]*from='alice@example.com/phone'")
			}
			nothingMore(bob, quiet)
			if got := c.state("alice", "bob"); got != tt.alice {
				t.Errorf("alice has %s, want %s", got, tt.alice)
			}
			if got := c.state("bob", "alice"); got != tt.bob {
				t.Errorf("bob has %s, want %s", got, tt.bob)
			}
		})
	}
}

// nothingMore requires that a user's clients get nothing but what the first one sends them
// to say so.
func nothingMore(clients ...*client) {
	clients[0].t.Helper()
	clients[0].write("<message type='headline'><body>no more</body></message>")
	for _, cl := range clients {
		cl.expect("<body>no more</body>")
	}
}

// interested is online after asking for the roster.
func (c *cluster) interested(node int, name, resource string) *client {
	c.t.Helper()
	cl := c.login(node, name, resource)
	cl.write(getRoster)
	cl.expect("^<iq type='result' id='roster'")
	cl.write("<presence/>")
	cl.skipTo("^<presence[^>]* from='" + cl.jid + "'")
	c.quiet()
	return cl
}

// Two users who agree are in states that agree.
func TestMirroredStates(t *testing.T) {
	for state, other := range mirrored {
		if mirrored[other] != state {
			t.Errorf("%s: %s: %s", state, other, mirrored[other])
		}
	}
}
