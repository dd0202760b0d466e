package backend_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/store"
)

// Who was shown directed presence is told once that the session is gone (RFC 6121 §4.6.3) when its node is killed, be it that nobody has
// come back or that another session has its resource by then, whether it could be resumed or not.
func TestDirectedPresenceAndKilledNode(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		resumable bool
		end       func(*cluster)
	}{
		"reaped": {end: func(c *cluster) { c.lapse("node-1") }},
		"replaced": {end: func(c *cluster) {
			c.login(1, "alice", "phone").sync()
			left, err := c.store.ReapSessions(c.t.Context(), "node-2", 10)
			if err != nil || len(left) > 0 {
				c.t.Errorf("still to be announced: %v, %v", left, err)
			}
		}},
		"could be resumed, and is replaced": {resumable: true, end: func(c *cluster) { c.login(1, "alice", "phone").sync() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, func(o *backend.Options) {
				o.Timeouts.Lease = time.Hour
				if o.Name == "node-2" {
					o.Timeouts.Lease = 300 * time.Millisecond // it looks often
				}
			})
			bob, carol := c.login(1, "bob", "desk"), c.login(1, "carol", "pad")
			alice := c.login(0, "alice", "phone")
			if tt.resumable {
				alice.resumable()
			}
			alice.write("<presence to='bob@example.com/desk'/><presence to='carol@example.com/pad'/>")
			for _, cl := range []*client{bob, carol} {
				cl.expect("^<presence [^>]*from='alice@example.com/phone'")
			}
			c.bus.kill(0)
			tt.end(c)
			for _, cl := range []*client{bob, carol} {
				cl.expect(gone)
			}
			c.quiet()
			bob.sync()
			carol.sync()
		})
	}
}

// lapse makes the lease of a node run out that does not renew it.
func (c *cluster) lapse(node string) {
	c.t.Helper()
	if err := c.store.TakeLease(c.t.Context(), node, "later", time.Millisecond); err != nil {
		c.t.Fatal(err)
	}
}

// When whoever replaces a session is killed before it has told those who were shown directed presence, another node
// does.
func TestDirectedPresenceAndWhoReplacesItKilled(t *testing.T) {
	t.Parallel()
	held := &createStore{made: make(chan struct{}), goAhead: make(chan struct{})}
	c := newCluster(t, 3, func(o *backend.Options) {
		o.Timeouts.Lease = time.Hour
		switch o.Name {
		case "node-2":
			held.Store, o.Store = o.Store, held
		case "node-3":
			o.Timeouts.Lease = 300 * time.Millisecond
		}
	})
	carol := c.login(2, "carol", "pad")
	alice := c.login(0, "alice", "phone")
	alice.write("<presence to='carol@example.com/pad'/>")
	carol.expect("^<presence [^>]*from='alice@example.com/phone'")
	again := c.returns(1, "alice")
	again.write("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>phone</resource></bind></iq>")
	<-held.made
	defer close(held.goAhead)
	c.bus.kill(1)
	c.lapse("node-2")
	carol.expect(gone)
}

// Of a session whose end is announced when its user is back with the same resource, those are told whom the new one has
// not shown itself to.
func TestDirectedPresenceOfBoth(t *testing.T) {
	t.Parallel()
	c, rival := newRivalCluster(t)
	bob, carol := c.login(0, "bob", "desk"), c.login(0, "carol", "pad")
	const both = "<presence to='bob@example.com/desk'/><presence to='carol@example.com/pad'/>"
	const seen = "^<presence [^>]*from='alice@example.com/phone'"
	c.login(1, "alice", "phone").write(both)
	bob.expect(seen)
	carol.expect(seen)
	c.bus.kill(1)
	if err := c.store.TakeLease(t.Context(), "rival", "run", time.Hour); err != nil {
		t.Fatal(err)
	}
	c.lapse("node-2")
	<-rival.reaped
	c.login(0, "alice", "phone").write("<presence to='bob@example.com/desk'/>")
	bob.expect(seen)
	if err := c.store.EndLease(t.Context(), "rival", "run"); err != nil {
		t.Fatal(err)
	}
	carol.expect(gone)
	c.quiet()
	bob.sync()
	carol.sync()
}

// shownStore counts what is noted of whom sessions have shown themselves.
type shownStore struct {
	store.Store
	noted atomic.Int64
	away  atomic.Bool
}

func (s *shownStore) NoteShown(ctx context.Context, id string, epoch uint64, shown string) error {
	if s.noted.Add(1); s.away.Load() {
		return store.ErrUnavailable
	}
	return s.Store.NoteShown(ctx, id, epoch, shown)
}

// Only directed presence to somebody new is noted, before it is shown; while the store is away it is shown all the same.
func TestDirectedPresenceIsNotedOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 0, nil)
	s := &shownStore{Store: c.store}
	c.store = s
	c.startNode("node-1")
	c.befriend("alice", "bob")
	bob, alice := c.online(0, "bob", "desk"), c.online(0, "alice", "phone")
	alice.write("<presence to='carol@example.com'/><presence to='carol@example.com'><show>away</show></presence>" +
		"<presence to='bob@example.com/desk'/><presence type='unavailable' to='bob@example.com/desk'/><presence/>")
	bob.skipTo("type='unavailable'")
	bob.expect("^<presence [^>]*from='alice@example.com/phone'")
	if n := s.noted.Load(); n != 2 {
		t.Errorf("noted %d times", n)
	}
	s.away.Store(true)
	alice.write("<presence to='bob@example.com/desk'><status>here</status></presence>")
	bob.expect("<status>here</status>")
	if log := c.nodes[0].log.String(); !strings.Contains(log, "note whom a session has shown itself") {
		t.Errorf("log:\n%s", log)
	}
}
