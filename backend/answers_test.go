package backend_test

import (
	"strings"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/bus"
)

// What a client has asked for, and its node has said that it has handled, is answered although that dies: by the answer, or by an
// error after which the client may ask again.
func TestAnswersAfterAKill(t *testing.T) {
	t.Parallel()
	for name, where := range map[string]struct {
		first, asks string // what the client does before, and what it asks for
		again       string // what answers that once more
	}{
		"done": {
			asks:  "<iq type='set' id='q'><query xmlns='jabber:iq:private'><x xmlns='urn:x'/></query></iq>",
			again: "^<iq type='result' id='q' [^>]*></iq>$",
		},
		"roster": {asks: "<iq type='get' id='q'><query xmlns='jabber:iq:roster'/></iq>", again: "^<iq type='error' id='q' .*<resource-constraint "},
		"page": {
			first: say("bob", "one") + "<iq type='get' id='f' to='example.com'><ping xmlns='urn:xmpp:ping'/></iq>",
			asks:  "<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2'/></iq>", again: "^<iq type='error' id='q' .*<resource-constraint ",
		},
		"refused": {asks: "<iq type='get' id='q' to='example.com'><x xmlns='urn:x'/></iq>", again: "^<iq [^>]*type='error'.*<service-unavailable "},
		"message": {asks: "<message to='nobody@example.com' id='q' type='chat'><body>x</body></message>", again: "^<message [^>]*type='error'.*<service-unavailable "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 3, nil)
			alice := c.online(0, "alice", "phone")
			if where.first != "" {
				alice.write(where.first)
				alice.skipTo("^<iq [^>]*id='f'")
			}
			id := alice.resumable()
			c.die()
			alice.write(where.asks + say("bob", "durable") + smAsk)
			alice.skipTo("^<[^>]*id='q'")
			alice.expect("^<a [^>]*h='2'/>")
			for node := 1; node <= 2; node++ { // the next one dies as well
				again := c.returns(node, "alice")
				again.resumed(id, 0, 2)
				again.expect(where.again)
				again.settledBy("no more")
			}
		})
	}
}

// settledBy is settled with an id of its own.
func (cl *client) settledBy(id string) {
	cl.t.Helper()
	cl.write("<iq type='get' id='" + id + "' to='example.com'><ping xmlns='urn:xmpp:ping'/></iq>")
	for {
		got := cl.next()
		if strings.HasPrefix(got, "<iq type='result' id='"+id+"'") {
			return
		} else if !strings.HasPrefix(got, "<r ") {
			cl.t.Fatalf("%s: got\n\t%s", cl.jid, got)
		}
	}
}

// What the client has counted does not come again.
func TestAnswersThatHaveArrived(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	bob := c.online(1, "bob", "desk")
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	c.die()
	alice.write("<iq type='get' id='p' to='example.com'><ping xmlns='urn:xmpp:ping'/></iq>" + askBob)
	alice.skipTo("^<iq type='result' id='p'")
	bob.expect("^<iq [^>]*id='q'")
	bob.write("<iq type='result' id='q' to='alice@example.com/phone'/>")
	alice.skipTo("^<iq [^>]*id='q'")
	alice.write(smAsk)
	alice.expect("^<a [^>]*h='2'/>")
	again := c.returns(1, "alice")
	again.resumed(id, 2, 2)
	again.settled()
}

// The error for a message that the store has refused is not lost either, if the client has said something else after that.
func TestRefusalAfterAKill(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, func(o *backend.Options) { o.Limits.Waiting = 1 })
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	c.die()
	alice.write(say("bob", "one") + say("bob", "two"))
	alice.expect("^<message [^>]*type='error'.*<service-unavailable ")
	alice.write(say("carol", "three"))
	c.eventually("all is handled", func() bool { return c.sessions("alice")[0].Handled == 3 })
	again := c.returns(1, "alice")
	again.resumed(id, 0, 3)
	again.expect("^<message [^>]*type='error'.*<service-unavailable ")
	again.settled()
}

// Of many answers that the client does not acknowledge the node asks for that.
func TestAnswersAreAcknowledged(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	alice.resumable()
	for range 15 {
		alice.sync()
	}
	alice.write("<iq type='get' id='p' to='example.com'><ping xmlns='urn:xmpp:ping'/></iq>")
	alice.expectAll("^<iq [^>]*id='p'", "^<r ")
}

// A request to another client is answered although the node of whoever has asked has died, and the answer with it.
func TestRequestToClientAfterAKill(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	bob := c.online(1, "bob", "desk")
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	c.die()
	alice.write(askBob + smAsk)
	alice.expect("^<a [^>]*h='1'/>")
	bob.expect("^<iq [^>]*id='q'")
	again := c.returns(1, "alice")
	again.resumed(id, 0, 1)
	again.expect("^<iq type='error' id='q' from='bob@example.com/desk' .*<service-unavailable ")
	again.settled()
}

// After a planned stop, an answer that came while nobody had the session is missed; one that comes later is waited for.
func TestRequestToClientAfterAStop(t *testing.T) {
	t.Parallel()
	for name, missed := range map[string]bool{"missed": true, "comes later": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, nil)
			bob := c.online(1, "bob", "desk")
			alice := c.online(0, "alice", "phone")
			id := alice.resumable()
			alice.write(askBob + smAsk)
			alice.expect("^<a [^>]*h='1'/>")
			bob.expect("^<iq [^>]*id='q'")
			answer := func() {
				bob.write("<iq type='result' id='q' to='alice@example.com/phone'/>")
				bob.settled()
			}
			if missed {
				c.stopNode(c.nodes[0])
				answer()
			}
			again := c.returns(1, "alice")
			again.resumed(id, 0, 1)
			if missed {
				again.skipTo("^<iq type='error' id='q' from='bob@example.com/desk' .*<service-unavailable ")
			} else {
				answer()
				again.skipTo("^<iq [^>]*type='result' [^>]*id='q'")
			}
			again.settled()
		})
	}
}

// A request is answered once when the node has died that had the client which it was for, whether that client goes on elsewhere
// or not.
func TestRequestToClientOfDeadNode(t *testing.T) {
	t.Parallel()
	for name, resumed := range map[string]bool{"over": false, "resumed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 0, func(o *backend.Options) {
				o.Timeouts.Lease = 10 * time.Minute
				if o.Name == "node-1" {
					o.Timeouts.Lease = 300 * time.Millisecond
				}
			})
			for _, node := range []string{"node-1", "node-2", "node-3"} {
				c.startNode(node)
			}
			alice := c.online(0, "alice", "phone")
			bob := c.online(1, "bob", "desk")
			id := ""
			if resumed {
				id = bob.resumable()
			}
			c.bus.lose(func(sig bus.Signal) bool { // it has died already
				return sig.Kind == bus.Stanza && sig.Target == "desk" || strings.Contains(string(sig.Data), "yield")
			})
			alice.write(askBob)
			alice.settled()
			if resumed {
				c.returns(2, "bob").resumed(id, 0, 0)
			} else if err := c.store.TakeLease(t.Context(), "node-2", "later", time.Millisecond); err != nil {
				t.Fatal(err)
			}
			alice.expect("^<iq type='error' id='q' from='bob@example.com/desk' .*<service-unavailable ")
			alice.settled()
		})
	}
}

// As long as the client is there, or is to be resumed, nobody answers for it.
func TestRequestThatIsNotAnswered(t *testing.T) {
	t.Parallel()
	looks := make(chan struct{}, 1000)
	c := newHookedCluster(t, 2, &hookedStore{fails: func(what string) error {
		if what == "sessions" {
			looks <- struct{}{}
		}
		return nil
	}}, func(o *backend.Options) { o.Timeouts.Lease = 300 * time.Millisecond })
	alice := c.online(0, "alice", "phone")
	bob := c.online(1, "bob", "desk")
	alice.write(askBob)
	bob.expect("^<iq [^>]*id='q'")
	for range 4 {
		<-looks
	}
	alice.settled()
	bob.write("<iq type='result' id='q' to='alice@example.com/phone'/>")
	alice.expect("^<iq [^>]*id='q'")
}
