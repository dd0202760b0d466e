package backend_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/store"
)

// What a client has not received comes to it where it resumes its session, although another client of the user has received it, and
// this one has become unavailable and available since it was written.
func TestReceivedByAnother(t *testing.T) {
	t.Parallel()
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("killed: ", killed), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 3, nil)
			bob := c.online(2, "bob", "desk")
			phone, tab := c.online(0, "alice", "phone"), c.online(0, "alice", "tab")
			id := tab.resumableAmid()
			bob.write(say("alice", "one"))
			phone.skipTo("<body>one</body>")
			c.eventually("it is received", func() bool { _, delivered := c.head("alice"); return delivered == 1 })
			tab.skipTo("<body>one</body>") // and does not acknowledge that
			tab.write("<presence type='unavailable'/><presence/>" + smAsk)
			tab.skipTo("^<a ")
			if killed {
				c.die()
			} else {
				_ = tab.conn.Close()
			}
			again := c.returns(1, "alice")
			again.resume(id, 0)
			again.skipTo("^<resumed ")
			bob.write(say("alice", "last"))
			if got := again.bodies("last"); !slices.Equal(got, []string{"one"}) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// What comes after a copy of what another client is to receive comes once, in order, wherever the session is resumed, and whatever of
// it the client has: the copy as well as what others have received meanwhile.
func TestAfterACopy(t *testing.T) {
	t.Parallel()
	texts := []string{"held", "two", "three"}
	for end, node := range map[string]int{"same node": 0, "other node": 1, "killed": 1} {
		for h := range len(texts) + 1 {
			t.Run(fmt.Sprintf("%s, %d", end, h), func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, 3, nil)
				bob := c.online(2, "bob", "desk")
				phone, pad := c.online(0, "alice", "phone"), c.online(0, "alice", "pad")
				phone.write(smResumable) // and acknowledges nothing
				phone.skipTo("^<enabled ")
				tab := c.login(0, "alice", "tab")
				tab.carbons("enable")
				tab.write("<presence/>")
				tab.skipTo("from='alice@example.com/phone'")
				tab.syncWith(tab)
				id := tab.resumable()
				bob.write("<message type='chat' to='alice@example.com/phone'><body>held</body></message>" + say("alice", "two"))
				pad.skipTo("<body>two</body>")
				tail := tab.noted(nil, "<body>two</body>")
				pad.write(say("bob", "three"))
				tail = tab.noted(tail, "<body>three</body>")
				if end == "killed" {
					c.die()
					c.settles(1, id, tail)
				} else {
					_ = tab.conn.Close()
					c.eventually("the session waits", func() bool { return c.counter(0, "imlb_node_sessions_parked", nil) == 1 })
				}
				again := c.returns(node, "alice")
				again.resume(id, h)
				again.skipTo("^<resumed ")
				bob.write(say("alice", "last"))
				if got := again.bodies("last"); !slices.Equal(got, texts[h:]) {
					t.Errorf("got %q", got)
				}
			})
		}
	}
}

// What a client has passed is not taken for received when its node is killed before it could begin to deliver that, although
// the client is known to be available by then, and to have had what came after it.
func TestKilledBeforeItBegins(t *testing.T) {
	t.Parallel()
	var armed atomic.Bool
	reached, goOn := make(chan struct{}), make(chan struct{})
	c := newHookedCluster(t, 3, &hookedStore{fails: func(what string) error {
		if what == "head" && armed.CompareAndSwap(true, false) {
			close(reached)
			<-goOn
			return errAway
		}
		return nil
	}}, nil)
	defer close(goOn)
	bob := c.online(2, "bob", "desk")
	tab := c.login(0, "alice", "tab")
	id := tab.resumable()
	bob.write(say("alice", "one") + "<message type='chat' to='alice@example.com/tab'><body>early</body></message>")
	tail := tab.noted(nil, "<body>early</body>")
	armed.Store(true)
	tab.write("<presence/>")
	<-reached
	tab.write(say("bob", "here")) // before which is stored what the session is
	bob.skipTo("<body>here</body>")
	c.die()
	c.settles(1, id, tail)
	again := c.returns(1, "alice")
	again.resumed(id, 1, 2)
	bob.write(say("alice", "last"))
	if got := again.bodies("last"); !slices.Equal(got, []string{"one"}) {
		t.Errorf("got %q", got)
	}
}

// The places of a session that was resumed, and takes only what is for its resource, count as they did before that.
func TestPlacesWhereItIsResumed(t *testing.T) {
	t.Parallel()
	const toTab = "<message type='chat' to='alice@example.com/tab'><body>%s</body></message>"
	c := newCluster(t, 3, nil)
	bob := c.online(2, "bob", "desk")
	tab := c.login(0, "alice", "tab")
	id := tab.resumable()
	_ = tab.conn.Close()
	again := c.returns(1, "alice")
	again.resumed(id, 0, 0)
	bob.write(fmt.Sprintf(toTab, "one"))
	tail := again.noted(nil, "<body>one</body>")
	c.die()
	c.settles(2, id, tail)
	third := c.returns(2, "alice")
	third.resumed(id, 1, 0)
	bob.write(fmt.Sprintf(toTab, "last"))
	if got := third.bodies("last"); len(got) > 0 {
		t.Errorf("%q comes again", got)
	}
}

// What was written to a client while it was available, and has not arrived, comes to it where it resumes its session, although it has
// become unavailable since then, and another client of the user has received it.
func TestWrittenBeforeItLeft(t *testing.T) {
	t.Parallel()
	for name, leaves := range map[string]string{
		"unavailable": "<presence type='unavailable'/>", "takes nothing": "<presence><priority>-1</priority></presence>",
	} {
		for _, killed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, killed: %t", name, killed), func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, 3, nil)
				bob := c.online(2, "bob", "desk")
				phone, tab := c.online(0, "alice", "phone"), c.online(0, "alice", "tab")
				id := tab.resumableAmid()
				bob.write(say("alice", "one"))
				phone.skipTo("<body>one</body>")
				c.eventually("it is received", func() bool { _, delivered := c.head("alice"); return delivered == 1 })
				tail := tab.noted(nil, "<body>one</body>")
				h := len(tail) - 1
				tab.write(leaves + smAsk)
				tail = tab.noted(tail, "^<a ")
				if killed {
					c.die()
					c.settles(1, id, tail)
				} else {
					_ = tab.conn.Close()
				}
				again := c.returns(1, "alice")
				again.resume(id, h)
				again.skipTo("^<resumed ")
				again.skipTo("<body>one</body>")
				again.write("<presence/>")
				bob.write(say("alice", "last"))
				if got := again.bodies("last"); len(got) > 0 {
					t.Errorf("%q comes again", got)
				}
			})
		}
	}
}

// What a client has got that was for another one comes to it once, however often it resumes its session, although what was left to
// it when it was resumed for the first time is noted.
func TestTakenForAnotherOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	bob := c.online(2, "bob", "desk")
	phone := c.login(1, "alice", "phone")
	phone.counts()
	tab := c.online(0, "alice", "tab")
	id := tab.resumableAmid()
	bob.write("<message type='chat' to='alice@example.com/phone'><body>both</body></message>")
	h := len(tab.noted(nil, "<body>both</body>"))
	for range 3 {
		tab = c.returns(2, "alice")
		tab.resume(id, h)
		tab.skipTo("^<resumed ")
	}
	bob.write(say("alice", "last"))
	if got := tab.bodies("last"); len(got) > 0 {
		t.Errorf("%q comes again", got)
	}
}

// What a front knows a client to have does not come to it again, wherever the cursor of its session goes back to.
func TestNotedComesOnce(t *testing.T) {
	t.Parallel()
	const early = "<message type='chat' to='alice@example.com/tab'><body>early</body></message>"
	for name, carbons := range map[string]bool{"copies": true, "no copies": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newPointCluster(t, 3)
			bob := c.online(2, "bob", "desk")
			tab := c.login(0, "alice", "tab")
			if carbons {
				tab.carbons("enable")
			}
			id := tab.resumable()
			<-c.points() // and no other as long as the client acknowledges nothing
			bob.write(say("alice", "one") + early)
			tail := tab.noted(nil, "<body>early</body>")
			c.die()
			c.settles(1, id, tail)
			again := c.returns(1, "alice")
			again.resumed(id, len(tail), 0)
			again.write("<presence/>")
			bob.write(say("alice", "last"))
			if got := again.bodies("last"); !slices.Equal(got, []string{"one"}) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// A copy that was written to a client comes to it where it resumes its session, although it has become unavailable, or wants no copies any more,
// and something before it has not come either.
func TestCopyWrittenBeforeItLeft(t *testing.T) {
	t.Parallel()
	for name, leaves := range map[string]string{
		"unavailable": "<presence type='unavailable'/>",
		"no copies":   "<iq type='set' id='off'><disable xmlns='urn:xmpp:carbons:2'/></iq>",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 3, nil)
			bob, phone := c.online(2, "bob", "desk"), c.online(1, "alice", "phone")
			tab := c.login(0, "alice", "tab")
			tab.carbons("enable")
			id := tab.resumable()
			tab.write("<presence/>")
			tab.skipTo("from='alice@example.com/phone'")
			tab.syncWith(tab)
			bob.write(say("alice", "one"))
			tab.skipTo("<body>one</body>")
			phone.write(say("bob", "two"))
			tab.skipTo("<body>two</body>")
			tab.write(leaves + smAsk)
			tab.skipTo("^<a ")
			_ = tab.conn.Close()
			again := c.returns(1, "alice")
			again.resume(id, 0)
			again.skipTo("<body>one</body>")
			again.skipTo("<sent .*<body>two</body>")
		})
	}
}

// aheadStore is one whose clock is ahead of the nodes'.
type aheadStore struct{ store.Store }

func (s aheadStore) Read(ctx context.Context, owner store.OwnerID, after uint64, limit int) ([]store.Entry, error) {
	page, err := s.Store.Read(ctx, owner, after, limit)
	for i := range page {
		page[i].Time = page[i].Time.Add(time.Second)
	}
	return page, err
}

// The copies that a client has got while it took nothing for the user do not come again when it does, whatever time it is in the store.
func TestCopiesComeOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, func(o *backend.Options) { o.Store = aheadStore{o.Store} })
	bob, phone := c.online(1, "bob", "desk"), c.counted(0, "alice", "phone") // which acknowledges nothing
	tab := c.login(0, "alice", "tab")
	tab.carbons("enable")
	tab.write("<presence><priority>-1</priority></presence>")
	tab.syncWith(tab)
	bob.write(say("alice", "one"))
	tab.skipTo("<received .*<body>one</body>")
	phone.write(say("bob", "two"))
	tab.skipTo("<sent .*<body>two</body>")
	tab.write("<presence/>")
	tab.skipTo("<body>one</body>")
	bob.write(say("alice", "last"))
	if got := tab.bodies("last"); len(got) > 0 {
		t.Errorf("%q comes again", got)
	}
}

// What the node of a session has left out, since another client of the user had received it, does not come later, out of order, when
// that is resumed on a node which does not know of it.
func TestLeftOutForGood(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	bob, phone := c.online(2, "bob", "desk"), c.counted(2, "alice", "phone")
	pad := c.online(0, "alice", "pad")
	tab := c.login(0, "alice", "tab")
	id := tab.resumable()
	bob.write("<message type='chat' to='alice@example.com/tab'><body>early</body></message>" + say("alice", "one"))
	tab.skipTo("<body>early</body>")
	pad.skipTo("<body>one</body>")
	phone.skipTo("<body>one</body>")
	tab.write("<presence/>")
	tab.skipTo("from='alice@example.com/pad'")
	bob.write(say("alice", "two"))
	tab.skipTo("<body>two</body>")
	_ = tab.conn.Close()
	again := c.returns(1, "alice")
	again.resume(id, 0)
	again.skipTo("<body>early</body>")
	again.skipTo("<body>two</body>")
	again.write("<presence type='unavailable'/><presence/>")
	bob.write(say("alice", "last"))
	if got := again.bodies("last"); len(got) > 0 {
		t.Errorf("%q comes late", got)
	}
}

// The copies that a client has got while it took nothing for the user do not come again either when its session is resumed before all
// has arrived that it takes since then.
func TestCopiesComeOnceWhereItIsResumed(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	bob, phone := c.online(1, "bob", "desk"), c.counted(1, "alice", "phone") // which acknowledges nothing
	tab := c.login(0, "alice", "tab")
	tab.carbons("enable")
	id := tab.resumable()
	tab.write("<presence><priority>-1</priority></presence><message to='alice@example.com/tab' type='headline' id='here'/>")
	h := len(tab.noted(nil, "^<message .*id='here'"))
	bob.write(say("alice", "one"))
	phone.skipTo("<body>one</body>")
	phone.write(say("bob", "two"))
	h += len(tab.noted(nil, "<sent .*<body>two</body>"))
	tab.write("<presence/>")
	tab.skipTo("^<message [^>]*to='alice@example.com'.*<body>one</body>")
	_ = tab.conn.Close()
	again := c.returns(1, "alice")
	again.resume(id, h)
	again.skipTo("^<resumed ")
	bob.write(say("alice", "last"))
	if got := again.bodies("last"); !slices.Equal(got, []string{"one"}) {
		t.Errorf("got %q", got)
	}
}

// What is written again to a client comes once more also when the node is killed that has written it, whoever else has it.
func TestWrittenAgainThenKilled(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 4, nil)
	bob, pad := c.online(3, "bob", "desk"), c.online(3, "alice", "pad")
	tab := c.online(0, "alice", "tab")
	id := tab.resumableAmid()
	bob.write("<message type='chat' to='alice@example.com/tab'><body>own</body></message>")
	pad.skipTo("<body>own</body>") // for which it is not here
	c.eventually("it is received", func() bool { _, delivered := c.head("alice"); return delivered == 1 })
	tab.skipTo("<body>own</body>")
	tab.write("<presence type='unavailable'/><presence/>" + smAsk)
	tab.skipTo("^<a ")
	_ = tab.conn.Close()
	tab = c.returns(1, "alice")
	tab.resume(id, 0)
	tab.skipTo("<body>own</body>")
	c.die()
	tab = c.returns(2, "alice")
	tab.resume(id, 0)
	tab.skipTo("<body>own</body>")
	bob.write(say("alice", "last"))
	if got := tab.bodies("last"); len(got) > 0 {
		t.Errorf("%q comes again", got)
	}
}

// What was there for another client before one was available, so that this one got no copy of it, does not count as received where
// this one's session is resumed: it comes there, if the other one is not there.
func TestLeftWithoutACopy(t *testing.T) {
	t.Parallel()
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("killed: ", killed), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 3, nil)
			bob, phone := c.online(2, "bob", "desk"), c.counted(0, "alice", "phone") // which acknowledges nothing
			tab := c.login(0, "alice", "tab")
			tab.carbons("enable")
			id := tab.resumable()
			bob.write("<message type='chat' to='alice@example.com/phone'><body>held</body></message>")
			phone.skipTo("<body>held</body>")
			written := time.Now()
			c.eventually("that was before", func() bool { return time.Now().Truncate(time.Millisecond).After(written) }) // for the store as well
			tab.write("<presence/><message to='alice@example.com/tab' type='headline' id='here'/>")
			tail := tab.noted(nil, "^<message .*id='here'")
			bob.write(say("alice", "two"))
			tail = tab.noted(tail, "<body>two</body>")
			tab.write(smAsk)
			tail = tab.noted(tail, "^<a ")
			if killed {
				c.die()
				c.settles(1, id, tail)
			}
			again := c.returns(1, "alice")
			again.resume(id, len(tail))
			again.skipTo("<body>held</body>")
		})
	}
}

// What was left to another client that is gone, and so was written out of turn, comes once when the node is killed then, and its front
// knows whether the client has it.
func TestLeftToOneThatIsGoneThenKilled(t *testing.T) {
	t.Parallel()
	for _, missing := range []int{0, 1} {
		t.Run(fmt.Sprint("missing: ", missing), func(t *testing.T) {
			t.Parallel()
			var node killedStore
			c := newCluster(t, 3, func(o *backend.Options) {
				if o.Name == "node-1" {
					node.Store, o.Store = o.Store, &node
				}
			})
			bob, phone, tab := c.online(2, "bob", "desk"), c.counted(0, "alice", "phone"), c.online(0, "alice", "tab")
			id := tab.resumableAmid()
			bob.write("<message type='chat' to='alice@example.com/phone'><body>held</body></message>" + say("alice", "two"))
			phone.skipTo("<body>two</body>") // and acknowledges nothing
			tail := tab.noted(nil, "<body>two</body>")
			_ = phone.conn.Close()
			tail = tab.noted(tail, "<body>held</body>")
			node.killed.Store(true)
			c.die()
			c.settles(1, id, tail)
			again := c.returns(1, "alice")
			again.resume(id, len(tail)-missing)
			again.skipTo("^<resumed ")
			bob.write(say("alice", "last"))
			if got := again.bodies("last"); len(got) != missing {
				t.Errorf("got %q", got)
			}
		})
	}
}

// The copies that a front knows a client to have do not come again when its cursor has gone back, and its node is killed then.
func TestCopiesComeOnceAfterAKill(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	bob, phone := c.online(2, "bob", "desk"), c.counted(2, "alice", "phone") // which acknowledges nothing
	tab := c.login(0, "alice", "tab")
	tab.carbons("enable")
	id := tab.resumable()
	tab.write("<presence><priority>-1</priority></presence><message to='alice@example.com/tab' type='headline' id='here'/>")
	tail := tab.noted(nil, "^<message .*id='here'")
	bob.write(say("alice", "one"))
	phone.skipTo("<body>one</body>")
	phone.write(say("bob", "two"))
	tail = tab.noted(tail, "<sent .*<body>two</body>")
	tab.write("<presence/>" + smAsk)
	tail = tab.noted(tail, "^<message [^>]*to='alice@example.com'.*<body>one</body>")
	c.die()
	c.settles(1, id, tail)
	again := c.returns(1, "alice")
	again.resume(id, len(tail))
	again.skipTo("^<resumed ")
	bob.write(say("alice", "last"))
	if got := again.bodies("last"); len(got) > 0 {
		t.Errorf("%q comes again", got)
	}
}

// What a client has got, and with it its user, is left no longer to another client on the node where the session is resumed, although only
// the front knows that it has come.
func TestClaimedByTheFront(t *testing.T) {
	t.Parallel()
	var node killedStore
	c := newCluster(t, 3, func(o *backend.Options) {
		if o.Name == "node-2" {
			node.Store, o.Store = o.Store, &node
		}
	})
	bob, tab := c.online(2, "bob", "desk"), c.online(1, "alice", "tab")
	phone, pad := c.counted(0, "alice", "phone"), c.counted(0, "alice", "pad") // which acknowledge nothing
	id := tab.resumableAmid()
	bob.write("<message type='chat' to='alice@example.com/phone'><body>held</body></message>" + say("alice", "two"))
	pad.skipTo("<body>two</body>")
	phone.skipTo("<body>two</body>")
	tail := tab.noted(nil, "<body>two</body>")
	node.killed.Store(true)
	c.die()
	c.settles(0, id, tail)
	again := c.returns(0, "alice")
	again.resume(id, len(tail))
	again.skipTo("^<resumed ")
	_ = phone.conn.Close()
	c.eventually("phone is gone", func() bool { return len(c.sessions("alice")) == 2 })
	bob.write(say("alice", "last"))
	if got := again.bodies("last"); len(got) > 0 {
		t.Errorf("%q comes again", got)
	}
}
