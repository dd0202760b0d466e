package backend_test

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/bus"
)

const (
	askBob      = "<iq type='get' id='q' to='bob@example.com/desk'><query xmlns='jabber:iq:version'/></iq>"
	nobodyThere = "^<iq [^>]*type='error'.*<service-unavailable "
)

// holdBack keeps what is sent to a client, but for presence, from it. The result sends what was
// kept so far to all nodes that host the user by then.
func (c *cluster) holdBack(resource string) (release func() int) {
	var mu sync.Mutex
	var held []bus.Signal
	c.bus.lose(func(sig bus.Signal) bool {
		mu.Lock()
		defer mu.Unlock()
		kept := sig.Kind == bus.Stanza && sig.Target == resource
		if kept {
			sig.Data = bytes.Clone(sig.Data)
			held = append(held, sig)
		}
		return kept
	})
	return func() int {
		c.bus.lose(nil)
		mu.Lock()
		defer mu.Unlock()
		for _, sig := range held {
			if err := c.bus.nodes[0].Publish(sig); err != nil {
				c.t.Error(err)
			}
		}
		return len(held)
	}
}

// A request that is on its way when its session ends is answered once: by the node that
// had the session, although others host the user as well.
func TestRequestToClientThatHasGone(t *testing.T) {
	t.Parallel()
	for name, node := range map[string]int{"same node": 0, "other node": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 3, nil)
			alice, bob := c.online(0, "alice", "phone"), c.online(node, "bob", "desk")
			c.online(2, "bob", "pad")
			release := c.holdBack("desk")
			alice.write(askBob)
			alice.sync()
			bob.close()
			release()
			alice.expect(nobodyThere)
			c.quiet()
			alice.sync()
			alice.write(askBob)
			alice.expect(nobodyThere)
		})
	}
}

// Nobody else hosts the user by then.
func TestRequestToUserWhoHasGone(t *testing.T) {
	t.Parallel()
	for name, node := range map[string]int{"same node": 0, "other node": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, nil)
			alice, bob := c.online(0, "alice", "phone"), c.online(node, "bob", "desk")
			release := c.holdBack("desk")
			alice.write(askBob)
			alice.sync()
			bob.close()
			c.gone("bob")
			release()
			alice.expect(nobodyThere)
			c.quiet()
			alice.sync()
		})
	}
}

// The node that the request names has said that nobody took it, so the one that has the resource
// by now does not pass it on.
func TestRequestToResourceThatMoves(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(1, "bob", "desk")
	release := c.holdBack("desk")
	alice.write(askBob)
	alice.sync()
	bob.close()
	again := c.online(2, "bob", "desk")
	release()
	alice.expect(nobodyThere)
	c.quiet()
	alice.sync()
	again.sync()
	alice.write(askBob) // the new one is asked from now on
	again.expect("^<iq [^>]*id='q'")
}

// Answers are not answered (RFC 6120 §8.2.3), and neither is what is asked by somebody who has
// gone as well.
func TestAnswerToClientThatHasGone(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(1, "bob", "desk")
	release := c.holdBack("desk")
	alice.write("<iq type='result' id='r' to='bob@example.com/desk'/>" +
		"<iq type='error' id='e' to='bob@example.com/desk'><error type='cancel'><conflict xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
	alice.sync()
	bob.close()
	if held := release(); held != 2 {
		t.Errorf("%d signals of answers, want 2", held)
	}
	c.quiet()
	alice.sync()
}

// What a hub does not let through, since its user has just blocked the sender, is answered.
func TestRequestBlockedOnItsWay(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(1, "bob", "desk")
	release := c.holdBack("desk")
	alice.write(askBob)
	alice.sync()
	bob.write("<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='alice@example.com'/></block></iq>")
	bob.skipTo("^<iq type='result' id='b'")
	c.quiet()
	release()
	alice.skipTo(nobodyThere)
	c.quiet()
	alice.sync()
	bob.sync()
}

// A request that waits behind much that the client does not read is answered when the client
// goes, or is given up as too slow.
func TestRequestThatIsNotWritten(t *testing.T) {
	t.Parallel()
	for name, tooSlow := range map[string]bool{"gone": false, "too slow": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, func(o *backend.Options) {
				if o.Limits.QueueBytes = 64 << 20; tooSlow {
					o.Limits.QueueBytes, o.Timeouts.Write = 1<<20, time.Second
				}
			})
			alice, bob := c.online(0, "alice", "phone"), c.online(1, "bob", "desk")
			if err := bob.conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
				t.Fatal(err)
			}
			for range 160 {
				alice.write("<message type='headline' to='bob@example.com/desk'><body>" + strings.Repeat("x", 100<<10) + "</body></message>")
			}
			if alice.write(askBob); !tooSlow {
				alice.sync()
				c.quiet()
				_ = bob.conn.Close()
			}
			alice.expect(nobodyThere)
			c.gone("bob")
			alice.sync()
		})
	}
}

// Requests that wait for a client which does not come back are answered, however that ends.
func TestParkedRequestsAreAnswered(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(c *cluster){
		"replaced":           func(c *cluster) { c.login(0, "bob", "desk") },
		"replaced elsewhere": func(c *cluster) { c.login(1, "bob", "desk") },
		"replaced after its node has stopped": func(c *cluster) {
			c.stopNode(c.nodes[0])
			c.login(1, "bob", "desk")
		},
		"too much comes": func(c *cluster) {
			tab := c.online(0, "bob", "tab")
			tab.write(strings.Repeat("<message type='headline' to='bob@example.com/desk'><body>"+strings.Repeat("x", 10<<10)+"</body></message>", 15))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, func(o *backend.Options) { o.Limits.QueueBytes = 100 << 10 })
			alice, bob := c.online(1, "alice", "phone"), c.online(0, "bob", "desk")
			bob.resumable()
			_ = bob.conn.Close()
			c.eventually("the session waits", func() bool { return c.counter(0, "imlb_node_sessions_parked", nil) == 1 })
			alice.write(askBob)
			alice.sync()
			c.quiet()
			end(c)
			alice.expect(nobodyThere)
		})
	}
}

// Who goes on with a session without its node does not know what waited there.
func TestRequestLeftToFencedNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	alice, bob := c.online(1, "alice", "phone"), c.online(0, "bob", "desk")
	id := bob.resumable()
	_ = bob.conn.Close()
	c.eventually("the session waits", func() bool { return c.counter(0, "imlb_node_sessions_parked", nil) == 1 })
	alice.write(askBob)
	alice.sync()
	c.quiet()
	c.bus.lose(func(sig bus.Signal) bool { return sig.Kind == bus.Control })
	again := c.returns(1, "bob")
	again.resumed(id, 0, 0)
	c.bus.lose(nil)
	c.stopNode(c.nodes[0]) // it learns that the session is not its own
	alice.expect(nobodyThere)
	again.sync()
}

// A session that waits in the store alone is nobody's to answer for, so the sender's node does.
func TestRequestToSessionThatNoNodeHas(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	alice, bob := c.online(1, "alice", "phone"), c.online(0, "bob", "desk")
	id := bob.resumable()
	c.stopNode(c.nodes[0])
	alice.write(askBob)
	alice.expect(nobodyThere)
	again := c.returns(1, "bob")
	again.resumed(id, 0, 0)
	alice.write(askBob)
	again.expect("^<iq [^>]*id='q'")
}

// A request that the client has answered, but not acknowledged, is not answered once more.
func TestParkedRequestThatWasAnswered(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	alice, bob := c.online(1, "alice", "phone"), c.online(0, "bob", "desk")
	bob.resumable()
	alice.write(askBob)
	bob.expect("^<iq [^>]*id='q'")
	bob.write("<iq type='result' id='q' to='alice@example.com/phone'/>")
	alice.expect("^<iq [^>]*type='result'")
	_ = bob.conn.Close()
	c.eventually("the session waits", func() bool { return c.counter(0, "imlb_node_sessions_parked", nil) == 1 })
	alice.write(askBob)
	alice.sync()
	c.quiet()
	c.login(0, "bob", "desk")
	alice.expect(nobodyThere) // that which waited
	c.quiet()
	alice.sync()
}
