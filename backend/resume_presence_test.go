package backend_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/bus"
	"imlb/backend/store"
)

// Who logs in while nobody has a session sees it once it is resumed (RFC 6121 §4.3.2): a contact, one who is not seen in
// turn, and another client of the user; but nobody who is blocked.
func TestResumedSessionIsSeen(t *testing.T) {
	t.Parallel()
	killed := func(c *cluster, _ string) {
		c.bus.lose(func(sig bus.Signal) bool {
			return sig.User == alicesJID && strings.Contains(string(sig.Data), "type='probe'")
		})
	}
	stopped := func(c *cluster, id string) { c.stopNode(c.nodes[0]); c.parked(id) }
	for name, tt := range map[string]struct {
		leave func(c *cluster, id string)
		fails bool // to be resumed at first
	}{
		"node killed":                   {killed, false},
		"node killed, and store fails":  {killed, true},
		"node stopped":                  {stopped, false},
		"node stopped, and store fails": {stopped, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var failing atomic.Bool
			c := newHookedCluster(t, 3, &hookedStore{fails: func(what string) error {
				if what == "head" && failing.Load() {
					return errAway
				}
				return nil
			}}, func(o *backend.Options) { o.Timeouts.Lease = time.Hour }) // it is not renewed
			c.befriend("alice", "bob")
			c.subscribed("alice", "carol", store.SubscriptionFrom)
			c.subscribed("carol", "alice", store.SubscriptionTo)
			c.account("dave")
			c.befriend("alice", "dave")
			alice := c.online(0, "alice", "phone")
			alice.block("dave@example.com")
			alice.write("<presence><status>here</status></presence>")
			alice.expect("<status>here</status>")
			id := alice.resumable()
			h := alice.counted()
			tt.leave(c, id)
			dave := c.online(2, "dave", "pc")
			bob, carol, tab := c.online(2, "bob", "desk"), c.online(1, "carol", "pad"), c.online(1, "alice", "tab")
			c.die()
			if failing.Store(tt.fails); tt.fails {
				inVain := c.returns(1, "alice")
				inVain.resume(id, h)
				inVain.end("internal-server-error")
				failing.Store(false)
			}
			again := c.returns(1, "alice")
			again.resume(id, h)
			again.expect("^<resumed ")
			for _, cl := range []*client{bob, carol, tab} {
				cl.skipTo("^<presence [^>]*from='alice@example.com/phone'[^>]*><status>here</status>")
			}
			again.skipToAll("^<presence [^>]*from='bob@example.com/desk'", "^<presence [^>]*from='alice@example.com/tab'")
			c.quiet()
			nothingMore(dave)
		})
	}
}

// Nobody is asked for who had asked before the session was lost, and has had its answer.
func TestNotAskedBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	c.befriend("alice", "bob")
	c.online(0, "bob", "desk")
	var asked atomic.Int64
	c.bus.lose(func(sig bus.Signal) bool {
		if sig.User == alicesJID && strings.Contains(string(sig.Data), "type='probe'") {
			asked.Add(1)
		}
		return false
	})
	for id, want := range map[string]int64{
		"away 3600000": 1, "away -3600000": 0, // bob has logged in an hour before
		"away ": 0, "answer": 0, "": 0,
	} {
		asked.Store(0)
		probe := "<presence type='probe' from='alice@example.com/phone' to='bob@example.com' id='" + id + "'/>"
		err := c.bus.nodes[0].Publish(bus.Signal{
			Kind: bus.Stanza, Partition: partition("bob@example.com"), User: "bob@example.com", Data: []byte(probe),
		})
		if err != nil {
			t.Fatal(err)
		}
		c.quiet()
		if got := asked.Load(); got != want {
			t.Errorf("%q: alice is asked %d times, want %d", id, got, want)
		}
	}
}

// Who may see a session from when nobody has it, since it has been allowed to or was unblocked, or has unblocked it, sees
// it once it is resumed, and is seen by it.
func TestResumedSessionIsSeenByOthers(t *testing.T) {
	t.Parallel()
	bobs, alices := []string{"bob@example.com"}, []string{alicesJID}
	for name, tt := range map[string]struct {
		alice, bob        store.Subscription
		before, meanwhile func(tab, bob *client)
	}{
		"has allowed": {
			alice: store.SubscriptionFrom, bob: store.SubscriptionTo,
			before: func(tab, bob *client) {
				tab.write("<presence type='subscribe' to='bob@example.com'/>")
				bob.skipTo("^<presence [^>]*type='subscribe'")
			},
			meanwhile: func(tab, bob *client) {
				bob.write("<presence type='subscribed' to='alice@example.com'/>")
				tab.skipTo("^<presence [^>]*from='bob@example.com/desk'")
			},
		},
		"allowed": {
			alice: store.SubscriptionTo, bob: store.SubscriptionFrom,
			before: func(tab, bob *client) {
				bob.write("<presence type='subscribe' to='alice@example.com'/>")
				tab.skipTo("^<presence [^>]*type='subscribe'")
			},
			meanwhile: func(tab, bob *client) {
				tab.write("<presence type='subscribed' to='bob@example.com'/>")
				bob.skipTo("^<presence [^>]*from='alice@example.com/tab'")
			},
		},
		"unblocked": {
			alice: store.SubscriptionBoth, bob: store.SubscriptionBoth,
			before:    func(tab, _ *client) { tab.block(bobs...) },
			meanwhile: func(tab, _ *client) { tab.unblock(bobs) },
		},
		"has unblocked": {
			alice: store.SubscriptionBoth, bob: store.SubscriptionBoth,
			before:    func(_, bob *client) { bob.block(alices...) },
			meanwhile: func(_, bob *client) { bob.unblock(alices) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 3, nil)
			c.subscribed("alice", "bob", tt.alice)
			c.subscribed("bob", "alice", tt.bob)
			tab, bob := c.online(1, "alice", "tab"), c.online(2, "bob", "desk")
			tt.before(tab, bob)
			c.quiet()
			alice := c.login(0, "alice", "phone")
			alice.write("<presence><status>here</status></presence>")
			alice.skipTo("<status>here</status>")
			id := alice.resumableAmid()
			h := alice.counted()
			c.quiet()
			c.stopNode(c.nodes[0])
			c.parked(id)
			tt.meanwhile(tab, bob)
			c.quiet()
			again := c.returns(1, "alice")
			again.resume(id, h)
			again.expect("^<resumed ")
			bob.skipTo("^<presence [^>]*from='alice@example.com/phone'[^>]*><status>here</status>")
			again.skipTo("^<presence [^>]*from='bob@example.com/desk'")
		})
	}
}
