package backend_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"imlb/backend"
	"imlb/backend/store"
)

// TestDeliveryOfPresenceAndIQ holds the rows of RFC 6121 §8.5 table 1 for presence and IQ
// (TestDeliveryRules has those for messages). Bob has resources of priority 1, 0
// and −1, and one that is connected but not available; those named get the stanza, and
// carol, who may see bob, the answer if one is named.
func TestDeliveryOfPresenceAndIQ(t *testing.T) {
	t.Parallel()
	const ping = "<ping xmlns='urn:xmpp:ping'/>"
	for _, tt := range []struct {
		stanza string
		gets   string // resources of bob's
		answer string
	}{
		// §8.5.1: no such user
		{stanza: "<presence to='nobody@example.com'/>"},
		{stanza: "<presence to='nobody@example.com' type='unavailable'/>"},
		{stanza: "<presence to='nobody@example.com' type='probe'/>"},
		{stanza: "<presence to='nobody@example.com' type='unsubscribe'/>"},
		{stanza: "<presence to='nobody@example.com/x'/>"},
		{stanza: "<iq to='nobody@example.com' id='1' type='get'>" + ping + "</iq>", answer: "<service-unavailable "},
		{stanza: "<iq to='nobody@example.com/x' id='1' type='set'><x xmlns='urn:x'/></iq>", answer: "<service-unavailable "},
		{stanza: "<iq to='nobody@example.com' id='1' type='result'/>"},
		{stanza: "<iq to='nobody@example.com' id='1' type='error'/>"},
		// §8.5.2: bare JID
		{stanza: "<presence to='bob@example.com'><status>x</status></presence>", gets: "desk phone bot"},
		{stanza: "<presence to='bob@example.com' type='unavailable'/>", gets: "desk phone bot"},
		{stanza: "<presence to='bob@example.com' type='probe'/>", answer: "presence"},
		{stanza: "<iq to='bob@example.com' id='1' type='get'><x xmlns='urn:x'/></iq>", answer: "<service-unavailable "},
		{stanza: "<iq to='bob@example.com' id='1' type='set'><x xmlns='urn:x'/></iq>", answer: "<service-unavailable "},
		{stanza: "<iq to='bob@example.com' id='1' type='set'><query xmlns='jabber:iq:roster'><item jid='a@b.example'/></query></iq>", answer: "<error type='auth'><forbidden "},
		{stanza: "<iq to='bob@example.com' id='1' type='get'><query xmlns='jabber:iq:roster'/></iq>", answer: "<service-unavailable "},
		{stanza: "<iq to='bob@example.com' id='1' type='result'/>"},
		{stanza: "<iq to='bob@example.com' id='1' type='error'/>"},
		// §8.5.3.1: full JID that is there
		{stanza: "<presence to='bob@example.com/desk'/>", gets: "desk"},
		{stanza: "<presence to='bob@example.com/bot' type='unavailable'/>", gets: "bot"},
		{stanza: "<presence to='bob@example.com/cron'/>", gets: "cron"},
		{stanza: "<presence to='bob@example.com/phone' type='probe'/>", answer: "^<presence[^>]* from='bob@example.com/phone'"},
		{stanza: "<iq to='bob@example.com/desk' id='1' type='get'>" + ping + "</iq>", gets: "desk"},
		{stanza: "<iq to='bob@example.com/cron' id='1' type='set'><x xmlns='urn:x'/></iq>", gets: "cron"},
		{stanza: "<iq to='bob@example.com/bot' id='1' type='result'/>", gets: "bot"},
		{stanza: "<iq to='bob@example.com/desk' id='1' type='error'/>", gets: "desk"},
		// §8.5.3.2: full JID that is not there
		{stanza: "<presence to='bob@example.com/gone'/>"},
		{stanza: "<presence to='bob@example.com/gone' type='unavailable'/>"},
		{stanza: "<presence to='bob@example.com/gone' type='probe'/>", answer: "^<presence type='unavailable' from='bob@example.com/gone'"},
		{stanza: "<iq to='bob@example.com/gone' id='1' type='get'>" + ping + "</iq>", answer: "<service-unavailable "},
		{stanza: "<iq to='bob@example.com/gone' id='1' type='set'><x xmlns='urn:x'/></iq>", answer: "<service-unavailable "},
		{stanza: "<iq to='bob@example.com/gone' id='1' type='result'/>"},
		{stanza: "<iq to='bob@example.com/gone' id='1' type='error'/>"},
	} {
		t.Run(tt.stanza, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, nil)
			c.subscribed("carol", "bob", store.SubscriptionTo)
			c.subscribed("bob", "carol", store.SubscriptionFrom)
			bobs := make(map[string]*client)
			for resource, presence := range map[string]string{
				"desk": "<presence><priority>1</priority></presence>", "phone": "<presence/>", "bot": "<presence><priority>-1</priority></presence>", "cron": "",
			} {
				cl := c.login(0, "bob", resource)
				bobs[resource] = cl
				if presence != "" {
					cl.write(presence)
					cl.skipTo("^<presence[^>]* from='" + cl.jid + "'")
				}
			}
			carol := c.login(1, "carol", "pad")
			carol.write("<presence/>")
			carol.expectAll("from='carol@example.com/pad'", "from='bob@example.com/desk'", "from='bob@example.com/phone'", "from='bob@example.com/bot'")

			carol.write(tt.stanza)
			for resource := range bobs { // what is sent next comes after it
				carol.write("<message to='bob@example.com/" + resource + "' type='headline'><body>end</body></message>")
			}
			name := tt.stanza[:strings.Index(tt.stanza, " ")]
			for resource, cl := range bobs {
				want := strings.Contains(" "+tt.gets+" ", " "+resource+" ")
				if got := cl.skipTo("<body>end</body>|^" + name + " [^>]*from='carol@example.com/pad'"); strings.HasPrefix(got, name) != want {
					t.Errorf("%s got %s", resource, got)
				}
			}
			switch tt.answer {
			case "":
			case "presence":
				carol.expectAll("from='bob@example.com/desk'", "from='bob@example.com/phone'", "from='bob@example.com/bot'")
			default:
				carol.expect(tt.answer)
			}
			carol.sync()
		})
	}
}

// RFC 6121 §8.5.2.2, §8.5.3.2: nobody is there to take what is for the user, since bob has
// only a resource of negative priority, or a connected one, or none. Messages wait or are
// refused by their type; a request waits; other presence is nothing.
func TestNobodyIsThere(t *testing.T) {
	t.Parallel()
	for _, has := range []string{"nothing", "<presence><priority>-1</priority></presence>", "no presence"} {
		for _, to := range []string{"bob@example.com", "bob@example.com/gone"} {
			t.Run(has+" "+to, func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, 2, nil)
				carol := c.online(1, "carol", "pad")
				var bob *client
				if has != "nothing" {
					bob = c.login(0, "bob", "bot")
				}
				if bob != nil && has != "no presence" {
					bob.write(has)
					bob.expect("^<presence ")
				}
				for _, message := range []struct {
					kind, err string
					stored    uint64 // so far
				}{
					{"normal", "", 1},
					{"chat", "", 2},
					{"groupchat", unavailable, 2},
					{"headline", "", 2},
					{"error", "", 2},
				} {
					carol.write("<message to='" + to + "' type='" + message.kind + "'><body>" + message.kind + "</body></message>")
					if message.err != "" {
						carol.expect(message.err)
					}
					carol.sync()
					if head, _ := c.head("bob"); head != message.stored {
						t.Errorf("after %s: %d entries", message.kind, head)
					}
				}
				carol.write("<presence to='" + to + "'/><presence to='" + to + "' type='unavailable'/><presence to='" + to + "' type='subscribe'/>")
				carol.sync()
				if bob != nil { // what comes live is not for desk
					carol.syncWith(bob)
				}
				desk := c.login(0, "bob", "desk")
				desk.write("<presence/>")
				want := []string{"from='bob@example.com/desk'", "<body>normal</body>", "<body>chat</body>", "type='subscribe'.*from='carol@example.com'"}
				if strings.HasPrefix(has, "<presence") {
					want = append(want, "from='bob@example.com/bot'")
				}
				desk.expectAll(want...)
				desk.sync()
			})
		}
	}
}

// What is not stored does not overtake what its sender has said before, and what waits for the client still
// (RFC 6120 §10.1): be it that this has just logged in, or is back after its node died.
func TestLiveDoesNotOvertakeWhatWaits(t *testing.T) {
	t.Parallel()
	for name, resumes := range map[string]bool{"login": false, "resumption": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reads, goOn := make(chan struct{}, 10), make(chan struct{})
			c := newHookedCluster(t, 3, &hookedStore{fails: func(what string) error {
				if what == "read 3" {
					reads <- struct{}{}
					<-goOn
				}
				return nil
			}}, func(o *backend.Options) { o.Limits.Unacked = 6 }) // so that three are read at a time
			bob := c.online(2, "bob", "desk")
			var id string
			if resumes {
				phone := c.online(0, "alice", "phone")
				id = phone.resumable()
				c.die()
			}
			said := []string{"1", "2", "3", "4", "5"}
			for _, text := range said {
				bob.write(say("alice", text))
			}
			bob.sync()
			var alice *client
			if resumes {
				alice = c.returns(1, "alice")
				alice.resume(id, 0)
			} else {
				alice = c.login(1, "alice", "pad")
				alice.write("<presence/>")
			}
			<-reads
			bob.write("<message type='chat' to='alice@example.com'><body>live</body><no-store xmlns='urn:xmpp:hints'/></message>")
			bob.sync()
			c.quiet()
			close(goOn)
			if got := alice.acknowledges("live"); !slices.Equal(got, said) {
				t.Errorf("got %q before what is not stored", got)
			}
		})
	}
}

// acknowledges is bodies for a client that acknowledges what it gets when it is asked to.
func (cl *client) acknowledges(last string) (all []string) {
	cl.t.Helper()
	for h := 0; ; {
		switch got := cl.next(); {
		case strings.HasPrefix(got, "<r "):
			cl.write(fmt.Sprintf("<a xmlns='urn:xmpp:sm:3' h='%d'/>", h))
		case strings.HasPrefix(got, "<resumed ") || strings.HasPrefix(got, "<a "):
		default:
			h++
			if text := between(got, "<body>", "</body>"); text == last {
				return all
			} else if text != "" {
				all = append(all, text)
			}
		}
	}
}

// A message that is longer than what the servers of the bus take comes at once all the same.
func TestLongerThanASignal(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	c.bus.most = 1000
	bob, alice := c.online(0, "bob", "desk"), c.online(1, "alice", "phone")
	bob.write(say("alice", strings.Repeat("x", 1000)))
	alice.skipTo("<body>xxx")
}
