package backend_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/store"
)

// absences are how a session comes to have no node.
var absences = map[string]func(*cluster, string){
	"node killed":  func(c *cluster, _ string) { c.bus.kill(0) },
	"node stopped": func(c *cluster, id string) { c.stopNode(c.nodes[0]); c.parked(id) },
}

// Who may not see a user any more is told that a session has gone which no node has at the time (XEP-0191 §3.3, RFC 6121
// §3.2.2, §3.3.3), at once, and hears nothing of it when it is resumed and becomes unavailable.
func TestHiddenWhileAbsent(t *testing.T) {
	t.Parallel()
	for name, hide := range map[string]func(tab, bob *client){
		"blocked":            func(tab, _ *client) { tab.block("bob@example.com") },
		"the domain blocked": func(tab, _ *client) { tab.block("example.com") },
		"a resource blocked": func(tab, _ *client) { tab.block("bob@example.com/desk") },
		"subscription cancelled": func(tab, _ *client) {
			tab.write("<presence type='unsubscribed' to='bob@example.com'/>")
			tab.settled()
		},
		"removed": func(tab, _ *client) {
			tab.write(setItem("jid='bob@example.com' subscription='remove'"))
			tab.skipTo("^<iq type='result' id='set'")
		},
		"unsubscribed": func(_, bob *client) {
			bob.write("<presence type='unsubscribe' to='alice@example.com'/>")
		},
		"has removed": func(_, bob *client) {
			bob.write(setItem("jid='alice@example.com' subscription='remove'"))
			bob.skipToAll("^<iq type='result' id='set'", gone)
		},
	} {
		for how, leave := range absences {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, 3, func(o *backend.Options) { o.Timeouts.Lease = time.Hour }) // it is not renewed
				c.befriend("alice", "bob")
				bob, tab := c.online(2, "bob", "desk"), c.login(1, "alice", "tab")
				alice := c.login(0, "alice", "phone")
				id := alice.resumable()
				alice.write("<presence/>")
				bob.skipTo("^<presence from='alice@example.com/phone'")
				h := alice.counted()
				c.quiet()
				h += alice.counted()
				leave(c, id)
				hide(tab, bob)
				if name != "has removed" {
					bob.skipTo(gone)
				}
				c.quiet()
				bob.settledBut("^<presence (to|from)='[^']+' (to|from)='[^']+' type='(unsubscribe|unsubscribed)'")
				again := c.returns(1, "alice")
				again.resume(id, h)
				again.expect("^<resumed ")
				again.write("<presence type='unavailable'/>")
				again.skipTo("type='unavailable'.*from='alice@example.com/phone'")
				c.quiet()
				bob.sync()
			})
		}
	}
}

const gone = "^<presence type='unavailable' from='alice@example.com/phone'"

// Who was shown directed presence is told as well, and does not hear that the session ends, be it by itself or
// because nobody has come back.
func TestBlockedWhileAbsentByDirectedPresence(t *testing.T) {
	t.Parallel()
	for _, comesBack := range []bool{true, false} {
		t.Run(fmt.Sprintf("comes back: %t", comesBack), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, nil)
			bob, carol, tab := c.login(1, "bob", "desk"), c.login(1, "carol", "pad"), c.login(1, "alice", "tab")
			alice := c.login(0, "alice", "phone")
			id := alice.resumable()
			alice.write("<presence to='bob@example.com/desk'/><presence to='carol@example.com/pad'/>")
			for _, cl := range []*client{bob, carol} {
				cl.expect("^<presence [^>]*from='alice@example.com/phone'")
			}
			h := alice.counted()
			c.stopNode(c.nodes[0])
			c.parked(id)
			tab.block("bob@example.com")
			bob.expect(gone)
			bob.sync()
			carol.sync()
			if comesBack {
				again := c.returns(1, "alice")
				again.resumed(id, h, 2)
				again.close()
			} else {
				c.login(1, "alice", "phone")
			}
			carol.expect(gone)
			c.quiet()
			bob.sync()
		})
	}
}

// Whoever is not to see a user any more does not learn of sessions that are not available and live on another node, nor of one that was
// not when its node died; of one of which nobody knows, it is said that it has gone.
func TestHiddenWhileNotThere(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		resumable, killed bool
		told              string
	}{
		"lives": {}, "lives, resumable": {resumable: true}, "killed, resumable": {resumable: true, killed: true},
		"killed": {killed: true, told: gone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var deaf atomic.Bool
			c := newCluster(t, 2, func(o *backend.Options) {
				o.Timeouts.Lease = time.Hour // it is not renewed
				o.Bus = hearingBus{o.Bus, &deaf}
			})
			c.befriend("alice", "bob")
			bob, tab := c.online(1, "bob", "desk"), c.login(1, "alice", "tab")
			alice := c.login(0, "alice", "phone")
			if tt.resumable {
				alice.resumable()
				alice.write("<presence/>")
				bob.skipTo("^<presence from='alice@example.com/phone'")
				alice.write("<presence type='unavailable'/>")
				bob.expect(gone)
				alice.counted()
				c.quiet()
			}
			if tt.killed {
				c.bus.kill(0)
				deaf.Store(true)
			}
			tab.block("bob@example.com")
			if tt.told != "" {
				bob.expect(tt.told)
			}
			c.quiet()
			bob.sync()
		})
	}
}

// The change of a blocklist of which the outcome is unknown is acted upon when it turns out to have been made.
func TestHiddenWhileAbsentAndOutcomeUnknown(t *testing.T) {
	t.Parallel()
	for _, roster := range []bool{true, false} {
		t.Run(fmt.Sprintf("roster: %t", roster), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 0, nil)
			doubtful := &doubtfulStore{Store: c.store}
			c.store = doubtful
			for _, name := range []string{"node-1", "node-2"} {
				c.startNode(name)
			}
			c.befriend("alice", "bob")
			bob, tab := c.online(1, "bob", "desk"), c.online(1, "alice", "tab")
			alice := c.login(0, "alice", "phone")
			id := alice.resumable()
			alice.write("<presence/>")
			bob.skipTo("^<presence from='alice@example.com/phone'")
			alice.counted()
			c.quiet()
			c.stopNode(c.nodes[0])
			c.parked(id)
			doubtful.on.Store(true)
			if roster {
				tab.write(setItem("jid='bob@example.com' subscription='remove'"))
			} else {
				tab.write("<iq type='set' id='set'><block xmlns='urn:xmpp:blocking'><item jid='bob@example.com'/></block></iq>")
			}
			tab.skipTo("^<iq type='error' id='set'|^<iq [^>]*id='set' type='error'|^<iq .*id='set'.*<error ")
			bob.skipTo(gone)
		})
	}
}

// doubtfulStore makes changes of which it does not know that they were made.
type doubtfulStore struct {
	store.Store
	on atomic.Bool
}

func (d *doubtfulStore) UpdateRoster(
	ctx context.Context, owner store.OwnerID, contact string, change func(*store.RosterItem) bool,
) (store.RosterItem, uint64, error) {
	it, version, err := d.Store.UpdateRoster(ctx, owner, contact, change)
	if err == nil && d.on.Load() {
		err = store.ErrOutcomeUnknown
	}
	return it, version, err
}

func (d *doubtfulStore) UpdateBlocklist(
	ctx context.Context, owner store.OwnerID, change func([]string) []string,
) (store.Blocklist, error) {
	list, err := d.Store.UpdateBlocklist(ctx, owner, change)
	if err == nil && d.on.Load() {
		err = store.ErrOutcomeUnknown
	}
	return list, err
}
