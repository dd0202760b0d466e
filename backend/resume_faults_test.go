package backend_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/bus"
	"imlb/backend/store"
)

// bodies returns those of the messages that come until one with a text.
func (cl *client) bodies(last string) []string {
	cl.t.Helper()
	for all := []string(nil); ; {
		got := between(cl.skipTo("<body>"), "<body>", "</body>")
		if got == last {
			return all
		}
		all = append(all, got)
	}
}

const liveToDesk = "<message type='chat' to='bob@example.com/desk'><body>live</body><no-store xmlns='urn:xmpp:hints'/></message>"

// A count that is owed to a client for a message that was refused does not take the place of a later
// one, neither in the store nor in what the client is told. The node looks up the recipient's sessions for "three", so that
// it is then known to have heard the question before, and not to look for what it owes until "three" is on its way; "two"
// is refused in between.
func TestRefusedCountComesInOrder(t *testing.T) {
	t.Parallel()
	refusing, asked := make(chan struct{}), make(chan struct{})
	stored, answer := make(chan struct{}), make(chan struct{})
	looks := sync.OnceFunc(func() {
		<-refusing
		close(asked)
	})
	var begun atomic.Bool
	c := newHookedCluster(t, 1, &hookedStore{
		append: func(text string, do func() ([]store.Appended, error)) ([]store.Appended, error) {
			if strings.Contains(text, "<body>two</body>") {
				close(refusing)
				<-asked
			}
			answers, err := do()
			if strings.Contains(text, "<body>three</body>") {
				close(stored)
				<-answer
			}
			return answers, err
		},
		fails: func(what string) error {
			switch {
			case !begun.Load():
			case what == "sessions":
				looks()
			case what == "save":
				<-stored
			}
			return nil
		},
	}, func(o *backend.Options) { o.Limits.Waiting = 1 })
	carol := c.online(0, "carol", "pad")
	alice := c.online(0, "alice", "phone")
	alice.resumable()
	begun.Store(true)
	alice.write(say("bob", "one") + say("bob", "two") + smAsk +
		"<message type='chat' to='carol@example.com/tab'><body>three</body></message>")
	<-stored
	for range 50 { // the node has time enough to make a mistake
		carol.settled()
	}
	close(answer)
	alice.write(smAsk)
	last := ""
	for last != "3" {
		h := between(alice.skipTo("^<a "), "h='", "'")
		if h < last {
			t.Fatalf("h went from %s to %s", last, h)
		}
		last = h
	}
	if got := c.sessions("alice")[0].Handled; got != 3 {
		t.Errorf("the store has %d, want 3", got)
	}
}

// When nobody knows whether a message was stored, and it was, the store's count says so to the client, and
// the recipient gets it, although no signal told of it.
func TestResumeAfterUnknownOutcome(t *testing.T) {
	t.Parallel()
	for name, node := range map[string]int{"same node": 0, "other node": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newHookedCluster(t, 2, &hookedStore{append: func(text string, do func() ([]store.Appended, error)) ([]store.Appended, error) {
				answers, err := do()
				if strings.Contains(text, "<body>doubtful</body>") {
					return nil, fmt.Errorf("the connection was lost: %w", store.ErrOutcomeUnknown)
				}
				return answers, err
			}}, nil)
			bob := c.online(1, "bob", "desk")
			alice := c.online(0, "alice", "phone")
			id := alice.resumable()
			alice.write(say("bob", "doubtful"))
			alice.expect("^<a [^>]*h='0'/>")
			alice.end("internal-server-error")
			bob.hears("doubtful")
			again := c.returns(node, "alice")
			again.resumed(id, 0, 1)
			again.write(say("bob", "sure"))
			bob.hears("sure")
		})
	}
}

// What comes after a message that is on its way while the session ends is not handled, be it a message that is
// not stored: the client will send it again.
func TestNothingOvertakesAtTheEnd(t *testing.T) {
	t.Parallel()
	begun, goOn := make(chan struct{}, 10), make(chan struct{})
	c := newHookedCluster(t, 2, &hookedStore{append: func(text string, do func() ([]store.Appended, error)) ([]store.Appended, error) {
		if strings.Contains(text, "<body>slow</body>") {
			begun <- struct{}{}
			<-goOn
		}
		return do()
	}}, nil)
	bob := c.online(1, "bob", "desk")
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	alice.write(say("bob", "slow") + liveToDesk)
	<-begun
	again := c.returns(1, "alice")
	again.resumed(id, 0, 0)
	close(goOn)
	again.write(say("bob", "slow") + liveToDesk)
	bob.hears("slow", "live")
	bob.settled()
}

// What a client has received before it was available does not come again, when it is available or its
// session is resumed.
func TestEarlyComesOnce(t *testing.T) {
	t.Parallel()
	for name, killed := range map[string]bool{"planned": false, "killed": true} {
		for when, before := range map[string]bool{"available before": true, "available after": false} {
			t.Run(name+", "+when, func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, 3, nil)
				bob := c.online(2, "bob", "desk")
				alice := c.login(0, "alice", "phone")
				id := alice.resumable()
				bob.write(say("alice", "one") +
					"<message type='chat' to='alice@example.com/phone'><body>early</body></message>" + say("alice", "two"))
				alice.hears("early")
				alice.write("<a xmlns='urn:xmpp:sm:3' h='1'/><presence to='bob@example.com/desk'/>" + smAsk)
				alice.skipTo("^<a ")
				if before {
					alice.write("<presence/>")
					alice.skipTo("<body>one</body>")
					alice.write(smAsk)
					alice.skipTo("^<a ")
				}
				if killed {
					c.die()
				} else {
					_ = alice.conn.Close()
				}
				again := c.returns(1, "alice")
				again.resume(id, 1)
				again.expect("^<resumed ")
				if !before {
					again.write("<presence/>")
				}
				again.skipTo("<body>one</body>")
				bob.write(say("alice", "last"))
				if got := again.bodies("last"); !slices.Equal(got, []string{"two"}) {
					t.Errorf("got %q after one", got)
				}
			})
		}
	}
}

// What a front says of a session comes late, when the session has been resumed and died once more.
func TestNoteComesLate(t *testing.T) {
	t.Parallel()
	for name, node := range map[string]int{"where it is": 1, "elsewhere": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 3, nil)
			c.befriend("alice", "carol")
			bob := c.online(2, "bob", "desk")
			alice := c.online(0, "alice", "phone")
			id := alice.resumable()
			bob.write(say("alice", "one") + say("alice", "two") + say("alice", "three"))
			alice.hears("one", "two", "three")
			c.die()
			again := c.returns(1, "alice")
			again.resumed(id, 1, 0)
			again.expect("^<presence type='unavailable' from='carol@example.com'") // which counts
			again.hears("one", "two", "three")
			c.dial(node, leg{settle: "alice@example.com\x000\x00" + id + "\x003\x001,2,3"}).gone()
			third := c.returns(2, "alice")
			third.resumed(id, 3, 0) // nothing but one
			bob.write(say("alice", "last"))
			if got := third.bodies("last"); !slices.Contains(got, "two") || !slices.Contains(got, "three") {
				t.Errorf("got %q", got)
			}
		})
	}
}

// The same, when what the front tells late could be true of the session as it is now: only the connection that it
// tells of says that it is not.
func TestNoteOfAnotherConnection(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	c.befriend("alice", "carol")
	bob := c.online(2, "bob", "desk")
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	bob.write(say("alice", "one"))
	alice.hears("one")
	c.die()
	again := c.returnsOn(1, leg{id: "conn-2"}, "alice")
	again.resumed(id, 0, 0)                                                // it has not come
	again.expect("^<presence type='unavailable' from='carol@example.com'") // which counts
	again.hears("one")
	c.dial(2, leg{settle: "alice@example.com\x000\x00" + id + "\x001\x001"}).gone()
	c.die()
	third := c.returnsOn(2, leg{id: "conn-3"}, "alice")
	third.resumed(id, 1, 0) // nothing but the presence
	bob.write(say("alice", "last"))
	if got := third.bodies("last"); !slices.Contains(got, "one") {
		t.Errorf("got %q", got)
	}
}

// What a session leaves to the user's others comes to them although the store does not answer at first.
func TestLeftWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	var away atomic.Int64
	c := newHookedCluster(t, 1, &hookedStore{fails: func(what string) error {
		if what == "read 1" && away.Add(-1) >= 0 {
			return errAway
		}
		return nil
	}}, nil)
	bob := c.online(0, "bob", "desk")
	phone, tab := c.counted(0, "alice", "phone"), c.online(0, "alice", "tab")
	bob.write("<message type='chat' to='alice@example.com/phone'><body>left</body></message>")
	phone.skipTo("<body>left</body>")
	tab.syncWith(tab) // it has left it to the other one
	away.Store(2)
	_ = phone.conn.Close()
	tab.skipTo("<body>left</body>")
	bob.write(say("alice", "last"))
	if got := tab.bodies("last"); len(got) > 0 {
		t.Errorf("got %q", got)
	}
}

// Who has written to a client that is away is told when its session ends since too much waits for it.
func TestParkedMessagesWhenTooMuchWaits(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.QueueBytes = 100 << 10 })
	bob, tab := c.online(0, "bob", "desk"), c.online(0, "alice", "tab")
	alice := c.online(0, "alice", "phone")
	alice.skipTo("^<presence [^>]*from='alice@example.com/tab'")
	alice.resumable()
	_ = alice.conn.Close()
	c.eventually("the session waits", func() bool { return c.counter(0, "imlb_node_sessions_parked", nil) == 1 })
	bob.write("<message type='chat' to='alice@example.com/phone'><body>x</body><no-store xmlns='urn:xmpp:hints'/></message>")
	bob.settled()
	tab.write(strings.Repeat("<message type='headline' to='alice@example.com/phone'><body>"+strings.Repeat("x", 10<<10)+"</body></message>", 15))
	bob.expect("^<message [^>]*type='error'.*<service-unavailable ")
}

// A session that waits in the store for its client has nobody who takes what is not stored: whoever
// writes to it is told so at once, and when it ends what had come before is given back.
func TestLiveToSessionInTheStore(t *testing.T) {
	t.Parallel()
	const noStore = "<body>x</body><no-store xmlns='urn:xmpp:hints'/></message>"
	c := newCluster(t, 2, func(o *backend.Options) { o.Timeouts.Resume, o.Timeouts.Lease = 3*time.Second, time.Second })
	bob := c.online(1, "bob", "desk")
	alice := c.online(0, "alice", "phone")
	alice.write(smResumable)
	alice.expect("^<enabled ")
	_ = alice.conn.Close()
	c.eventually("the session waits", func() bool { return c.counter(0, "imlb_node_sessions_parked", nil) == 1 })
	bob.write("<message type='chat' id='before' to='alice@example.com/phone'>" + noStore)
	bob.settled()
	c.quiet()
	c.stopNode(c.nodes[0])
	for _, attrs := range []string{
		"type='chat' id='client' to='alice@example.com/phone'", "type='normal' id='normal' to='alice@example.com/phone'",
		"type='chat' id='user' to='alice@example.com'", "type='groupchat' id='room' to='alice@example.com/phone'",
	} {
		bob.write("<message " + attrs + ">" + noStore)
		bob.expect("^<message [^>]*type='error'.*<service-unavailable ")
	}
	if len(c.sessions("alice")) != 1 {
		t.Error("the session has ended")
	}
	bob.expect("^<message [^>]*id='before'.*<service-unavailable ")
}

// What is for a client that does not come to it any more is not left to that one.
func TestNotLeftToWhoHasPassedIt(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	bob := c.online(0, "bob", "desk")
	before := c.login(0, "alice", "phone")
	before.counts()
	bob.write("<message type='chat' to='alice@example.com/phone'><body>one</body></message>")
	before.hears("one")
	_ = before.conn.Close() // without having acknowledged it
	c.gone("alice")
	phone := c.login(0, "alice", "phone")
	tab := c.login(0, "alice", "tab")
	tab.write("<presence/>")
	tab.skipTo("<body>one</body>")
	bob.write("<message type='chat' to='alice@example.com/phone'><body>two</body></message>")
	phone.hears("two")
	phone.write("<presence><priority>-1</priority></presence>")
	bob.write(say("alice", "three"))
	if got := tab.bodies("three"); len(got) > 0 {
		t.Errorf("got %q", got)
	}
	c.eventually("all counts as received", func() bool { _, delivered := c.head("alice"); return delivered == 3 })
}

// What is on its way to a client when another one takes its resource, and does not come to it, is for that one
// or the others.
func TestLeftToWhoWasReplaced(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	bob, tab := c.online(0, "bob", "desk"), c.online(0, "alice", "tab")
	before := c.login(0, "alice", "phone")
	before.counts()
	bob.write("<message type='chat' to='alice@example.com/phone'><body>one</body></message>")
	before.hears("one")
	tab.syncWith(tab) // it has left it to that one
	c.login(0, "alice", "phone")
	c.eventually("it has been received", func() bool { _, delivered := c.head("alice"); return delivered == 1 })
}

// A session whose place another one has taken, without its node having heard of that, says nothing to the
// contacts when it ends.
func TestNoGoodbyeFromWhoWasReplaced(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	bob := c.online(1, "bob", "desk")
	old := c.online(0, "alice", "phone")
	bob.skipTo("^<presence [^>]*from='alice@example.com/phone'")
	c.bus.lose(func(sig bus.Signal) bool { return bytes.Contains(sig.Data, []byte(`"conflict"`)) })
	c.online(1, "alice", "phone")
	bob.skipTo("^<presence from='alice@example.com/phone'")
	_ = old.conn.Close()
	c.eventually("the old session has ended", func() bool { return strings.Contains(c.nodes[0].log.String(), "reason=client-lost") })
	c.quiet()
	bob.settled()
}

// A session that ends while the store is away does not stay in there when that is back.
func TestRecordsAreRemovedLater(t *testing.T) {
	t.Parallel()
	var away atomic.Bool
	c := newHookedCluster(t, 1, &hookedStore{fails: func(what string) error {
		if what == "end" && away.Load() {
			return errAway
		}
		return nil
	}}, func(o *backend.Options) { o.Timeouts.Lease = time.Second })
	alice := c.online(0, "alice", "phone")
	away.Store(true)
	alice.close()
	if len(c.sessions("alice")) != 1 {
		t.Error("the record was removed")
	}
	away.Store(false)
	c.gone("alice")
}

// However many messages a client has not received of those that are written again, none of them counts as
// received before it was.
func TestResumeManyOutOfTurn(t *testing.T) {
	t.Parallel()
	const many, heard = 1100, 1040
	c := newCluster(t, 2, nil)
	bob := c.online(1, "bob", "desk")
	alice := c.login(0, "alice", "phone")
	id := alice.resumable()
	alice.write("<presence/>")
	alice.skipTo("^<presence ")
	for i := range many {
		bob.write(say("alice", fmt.Sprint(i)))
	}
	alice.skipTo(fmt.Sprintf("<body>%d</body>", many-1))
	alice.write("<presence><priority>-1</priority></presence><presence><status>back</status></presence>") // the cursor goes back
	alice.skipTo("<status>back</status>")
	_ = alice.conn.Close()

	again := c.returns(1, "alice")
	again.resumed(id, 1, 3)
	again.skipTo(fmt.Sprintf("<body>%d</body>", heard-1))
	again.write(fmt.Sprintf("<a xmlns='urn:xmpp:sm:3' h='%d'/>", 1+heard))
	again.close()
	c.gone("alice")
	last := c.login(0, "alice", "tab")
	last.write("<presence/>")
	last.skipTo(fmt.Sprintf("<body>%d</body>", heard))
	bob.write(say("alice", "last"))
	if got := last.bodies("last"); len(got) != many-heard-1 {
		t.Errorf("%d messages came, of %d", 1+len(got), many-heard)
	}
}

// What is on its way to a client does not keep what others get from counting as received once the client goes
// on elsewhere; if it does not go on, the others get it.
func TestLeftToWhoGoesOnElsewhere(t *testing.T) {
	t.Parallel()
	for name, acknowledged := range map[string]bool{"received": true, "not received": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, func(o *backend.Options) { o.Timeouts.Store = time.Second })
			bob := c.online(1, "bob", "desk")
			tab, phone := c.online(0, "alice", "tab"), c.online(0, "alice", "phone")
			id := phone.resumableAmid()
			bob.write("<message type='chat' to='alice@example.com/phone'><body>on its way</body></message>")
			phone.hears("on its way")
			again := c.returns(1, "alice")
			again.resumed(id, 0, 0)
			h := again.upTo("<body>on its way</body>") // that may have taken so long that the tab is asked for its presence
			if acknowledged {
				again.write(fmt.Sprintf("<a xmlns='urn:xmpp:sm:3' h='%d'/>", h))
			}
			again.close()
			if !acknowledged {
				tab.skipTo("<body>on its way</body>")
			}
			bob.write(say("alice", "one") + say("alice", "two"))
			if got := tab.bodies("two"); !slices.Equal(got, []string{"one"}) {
				t.Errorf("got %q before two", got)
			}
			c.eventually("all counts as received", func() bool { _, delivered := c.head("alice"); return delivered == 3 })
		})
	}
}

// What was left to a session that goes on elsewhere waits for that, whichever other one of the user ends.
func TestNotPassedOnEarly(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	bob := c.online(1, "bob", "desk")
	tab, desk, phone := c.online(0, "alice", "tab"), c.online(0, "alice", "desk"), c.online(0, "alice", "phone")
	id := phone.resumableAmid()
	bob.write("<message type='chat' to='alice@example.com/phone'><body>on its way</body></message>")
	phone.skipTo("<body>on its way</body>")
	for _, other := range []*client{tab, desk} {
		other.write("<iq type='get' id='left' to='example.com'><ping xmlns='urn:xmpp:ping'/></iq>")
		other.skipTo("^<iq [^>]*id='left'") // it has left the message to the phone
	}
	again := c.returns(1, "alice")
	again.resume(id, 0)
	again.skipTo("<body>on its way</body>")
	desk.close()
	c.eventually("the desk is gone", func() bool { return len(c.sessions("alice")) == 2 })
	bob.write(say("alice", "one"))
	if got := tab.bodies("one"); len(got) > 0 {
		t.Errorf("got %q before one", got)
	}
}

// A session that cannot be resumed since the store does not answer stays as it was.
func TestResumeWhileTheStoreFails(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"head", "roster"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			var failing atomic.Bool
			c := newHookedCluster(t, 3, &hookedStore{fails: func(asked string) error {
				if asked == what && failing.Load() {
					return errAway
				}
				return nil
			}}, nil)
			c.befriend("alice", "bob")
			bob := c.online(2, "bob", "desk")
			alice := c.online(0, "alice", "phone")
			bob.skipTo("^<presence [^>]*from='alice@example.com/phone'")
			alice.skipTo("^<presence [^>]*from='bob@example.com/desk'")
			id := alice.resumable()
			bob.write(say("alice", "one") + composesTo)
			alice.hears("one")
			alice.skipTo("<composing ")
			_ = alice.conn.Close()
			failing.Store(true)
			inVain := c.returns(1, "alice")
			inVain.resume(id, 0)
			inVain.end("internal-server-error")
			failing.Store(false)
			again := c.returns(1, "alice")
			again.resumed(id, 0, 0)
			again.hears("one")
			again.expect("<composing ")
			bob.write(say("alice", "two"))
			again.skipTo("<body>two</body>")
			bob.missed()
		})
	}
}

// After a planned stop a client learns who has left while its session waited in the store.
func TestResumeAfterDrainTellsWhoHasGone(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	bob := c.online(1, "bob", "desk")
	alice := c.online(0, "alice", "phone")
	alice.skipTo("^<presence [^>]*from='bob@example.com/desk'")
	id := alice.resumable()
	alice.settled()
	c.stopNode(c.nodes[0])
	bob.close()
	again := c.returns(1, "alice")
	again.resumed(id, 1, 1)
	again.expect("^<presence type='unavailable' from='bob@example.com'")
}

// ghostBus hears a node that is not there as long as that lives.
type ghostBus struct {
	backend.Bus
	lives *atomic.Bool
}

func (b ghostBus) Hears(node string) bool { return node != "ghost" || b.lives.Load() }

// A node that has died may have stored something last of which no signal told, also if it was not seen to be
// unheard before its lease was over.
func TestLookAfterTheLastWords(t *testing.T) {
	t.Parallel()
	var lives, seen atomic.Bool
	lives.Store(true)
	c := newHookedCluster(t, 1, &hookedStore{fails: func(what string) error {
		if what == "ghost" && lives.Load() {
			seen.Store(true)
			return errAway
		}
		return nil
	}}, func(o *backend.Options) { o.Timeouts.Lease, o.Bus = 300*time.Millisecond, ghostBus{o.Bus, &lives} })
	alice, bob := c.online(0, "alice", "phone"), c.online(0, "bob", "desk")
	c.eventually("the other node is seen", seen.Load)
	c.bus.lose(func(sig bus.Signal) bool { return sig.Kind == bus.Entry })
	bob.write(say("alice", "one"))
	bob.sync()
	lives.Store(false)
	alice.hears("one")
}

// A node that finds its session to be another's asks the store once, however much of it is on its way.
func TestFencedOnce(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	begun, goOn := make(chan struct{}, 100), make(chan struct{})
	c := newHookedCluster(t, 2, &hookedStore{
		append: func(text string, do func() ([]store.Appended, error)) ([]store.Appended, error) {
			if strings.Contains(text, "<body>slow</body>") {
				begun <- struct{}{}
				<-goOn
			}
			return do()
		},
		fails: func(what string) error {
			if what == "session" {
				asked.Add(1)
			}
			return nil
		},
	}, nil)
	c.die()
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	alice.write(strings.Repeat(say("bob", "slow"), 50))
	<-begun
	c.returns(1, "alice").resumed(id, 0, 0)
	close(goOn)
	alice.skipTo("<conflict ")
	c.eventually("the node has parted with it", func() bool { return strings.Contains(c.nodes[0].log.String(), "reason=conflict") })
	if n := asked.Load(); n > 3 {
		t.Errorf("the store was asked %d times", n)
	}
}

// What is stored of a session while its cursor goes back, and was reckoned before, does not undo that: after a kill
// the client gets what had waited for it, and has not arrived.
func TestStoredLateWhileTheCursorGoesBack(t *testing.T) {
	t.Parallel()
	saving, goOn := make(chan struct{}), make(chan struct{})
	var armed atomic.Bool
	c := newHookedCluster(t, 3, &hookedStore{fails: func(what string) error {
		switch {
		case !armed.Load():
		case what == "save" && armed.CompareAndSwap(true, false):
			close(saving)
			<-goOn
		case what == "head":
			<-saving
		}
		return nil
	}}, nil)
	bob := c.online(2, "bob", "desk")
	bob.write(say("alice", "one") + say("alice", "two"))
	bob.settled()
	alice := c.login(0, "alice", "phone")
	id := alice.resumable()
	armed.Store(true)
	alice.write("<presence/>" + smAsk)
	alice.skipTo("<body>two</body>")
	close(goOn)
	alice.skipTo("^<a ")
	c.die()
	again := c.returns(1, "alice")
	again.resumed(id, 0, 1)
	again.skipTo("<body>one</body>")
	again.skipTo("<body>two</body>")
}

// What a client has received out of turn is stored with the point at which it stands, when nothing else of its session
// is: it does not come again after a kill.
func TestEarlyIsKnownAfterAKill(t *testing.T) {
	t.Parallel()
	c := newPointCluster(t, 3)
	bob := c.online(2, "bob", "desk")
	alice := c.login(0, "alice", "phone")
	id := alice.resumable()
	bob.write(say("alice", "one") + "<message type='chat' to='alice@example.com/phone'><body>early</body></message>" + say("alice", "two"))
	alice.hears("early")
	alice.write("<a xmlns='urn:xmpp:sm:3' h='1'/>")
	for p := range c.points() {
		if p.Count == 1 {
			break
		}
	}
	c.die()
	again := c.returns(1, "alice")
	again.resumed(id, 1, 0)
	again.write("<presence/>")
	again.skipTo("<body>one</body>")
	bob.write(say("alice", "last"))
	if got := again.bodies("last"); !slices.Equal(got, []string{"two"}) {
		t.Errorf("got %q after one", got)
	}
}

// A session that nobody has, since the store was away when it was to be left or resumed, is over when its client does not
// come back in time, and not only when the node ends which has its record.
func TestResumedByNobody(t *testing.T) {
	t.Parallel()
	for name, failing := range map[string][]string{
		"outcome unknown":   {"resumed"},
		"not put back":      {"head", "save"},
		"not left in order": {"resume", "save"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var away atomic.Bool
			c := newHookedCluster(t, 3, &hookedStore{fails: func(what string) error {
				if away.Load() && slices.Contains(failing, what) {
					return errAway
				}
				return nil
			}}, func(o *backend.Options) { o.Timeouts.Lease, o.Timeouts.Resume = time.Second, 2*time.Second })
			c.befriend("alice", "bob")
			bob := c.online(2, "bob", "desk")
			alice := c.online(0, "alice", "phone")
			bob.skipTo("^<presence [^>]*from='alice@example.com/phone'")
			id := alice.resumableAmid()
			away.Store(true)
			again := c.returns(1, "alice")
			again.resume(id, 0)
			again.end("internal-server-error")
			away.Store(false)
			c.gone("alice")
			bob.skipTo("^<presence type='unavailable' from='alice@example.com/phone'")
		})
	}
}

// The contacts of a session that was removed hear of its end once, although the store did not say that it was removed, or
// did not say who they are. If its user is back by then, they are not told.
func TestEndIsAnnouncedLater(t *testing.T) {
	t.Parallel()
	for name, where := range map[string]struct {
		failing string
		back    bool
	}{
		"outcome unknown":          {failing: "reaped"},
		"outcome unknown, is back": {failing: "reaped", back: true},
		"contacts unknown":         {failing: "roster"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var away, looked atomic.Bool
			failed, over := make(chan struct{}), make(chan struct{})
			fail, end := sync.OnceFunc(func() { close(failed) }), sync.OnceFunc(func() { close(over) })
			c := newHookedCluster(t, 2, &hookedStore{fails: func(what string) error {
				switch {
				case what == where.failing && away.Load():
					fail()
					return fmt.Errorf("the connection was lost: %w", store.ErrOutcomeUnknown)
				case what == "states": // of somebody whose end is to be announced
					looked.Store(!away.Load())
				case what == "reaped" && looked.Load():
					end()
				}
				return nil
			}}, func(o *backend.Options) {
				o.Timeouts.Lease = 10 * time.Minute
				if o.Name == "node-1" { // which reaps
					o.Timeouts.Lease = 500 * time.Millisecond
				}
			})
			c.befriend("alice", "bob")
			bob := c.online(0, "bob", "desk")
			alice := c.online(1, "alice", "phone")
			bob.skipTo("^<presence [^>]*from='alice@example.com/phone'")
			alice.settledBut("^<presence ")
			bob.settledBut("^<presence ")
			away.Store(true)
			if err := c.store.TakeLease(t.Context(), "node-2", "later", time.Millisecond); err != nil {
				t.Fatal(err)
			}
			<-failed
			if where.back {
				c.login(0, "alice", "phone").write("<presence/>")
				bob.skipTo("^<presence [^>]*from='alice@example.com/phone'")
			}
			away.Store(false)
			if !where.back {
				bob.skipTo("^<presence type='unavailable' from='alice@example.com/phone'")
			}
			<-over
			c.quiet()
			bob.settled()
		})
	}
}

// What has become of a roster is told to the user's clients, on all nodes, although the store could not say that it was
// stored.
func TestRosterChangeOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	var failing atomic.Bool
	c := newHookedCluster(t, 2, &hookedStore{fails: func(what string) error {
		if what == "roster changed" && failing.CompareAndSwap(true, false) {
			return fmt.Errorf("the connection was lost: %w", store.ErrOutcomeUnknown)
		}
		return nil
	}}, nil)
	phone, tab := c.login(0, "alice", "phone"), c.login(1, "alice", "tab")
	for _, cl := range []*client{phone, tab} {
		cl.write(getRoster)
		cl.expect("^<iq [^>]*type='result'")
	}
	failing.Store(true)
	phone.write("<iq type='set' id='s'><query xmlns='jabber:iq:roster'><item jid='bob@example.com' name='Bob'/></query></iq>")
	const push = "^<iq [^>]*type='set'.*<query [^>]*ver='1.1'><item jid='bob@example.com' name='Bob'"
	phone.expectAll("^<iq [^>]*type='error'", push)
	tab.expect(push)
}

// TestParkedThenKilled loses a client's connection, and then the node with its session, of whose last stanzas it
// has acknowledged none. The client that comes back gets those that it has not counted, and none for a second time.
func TestParkedThenKilled(t *testing.T) {
	t.Parallel()
	for h, want := range map[int][]string{2: {"three", "four"}, 3: {"three", "four"}, 4: {"four"}} {
		t.Run(fmt.Sprint("h ", h), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, nil)
			bob := c.online(1, "bob", "desk")
			alice := c.online(0, "alice", "phone")
			id := alice.resumable()
			bob.write(say("alice", "one") + say("alice", "two") + composesTo + say("alice", "three"))
			alice.hears("one", "two")
			alice.skipTo("<composing ")
			alice.hears("three")
			_ = alice.conn.Close()
			c.eventually("the session waits", func() bool { return c.counter(0, "imlb_node_sessions_parked", nil) == 1 })
			bob.write(say("alice", "four"))
			bob.settled()

			c.die()
			again := c.returns(1, "alice")
			again.resumed(id, h, 0)
			if h == 2 {
				again.skipTo("<composing ")
			}
			again.hears(want...)
			again.settled()
		})
	}
}

// A client that has gone while its old node was waited for does not get the session: it may be back on another
// connection already.
func TestGoneBeforeItIsResumed(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	bob := c.online(1, "bob", "desk")
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	c.die()
	gone := c.returns(1, "alice")
	gone.resume(id, 0)
	_ = gone.conn.Close()
	c.eventually("it is seen to be gone", func() bool {
		return c.counter(1, "imlb_node_connections_ended_total", map[string]string{"reason": "gone-before-login"}) == 1
	})
	if all := c.sessions("alice"); len(all) != 1 || all[0].Epoch != 1 {
		t.Errorf("sessions: %+v", all)
	}
	again := c.returns(1, "alice")
	again.resumed(id, 0, 0)
	bob.write(say("alice", "one"))
	again.hears("one")
}

// Who resumes a session that somebody else has taken just before, after it was left, does not take it from that one, which has
// what was left.
func TestResumedInBetween(t *testing.T) {
	t.Parallel()
	var met atomic.Bool
	reached, between := make(chan struct{}), make(chan struct{})
	hooks := &hookedStore{fails: func(what string) error {
		if what == "resume" && met.CompareAndSwap(false, true) {
			close(reached)
			<-between
		}
		return nil
	}}
	c := newHookedCluster(t, 3, hooks, nil)
	bob := c.online(2, "bob", "desk")
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	bob.write(say("alice", "one") + composesTo + say("alice", "two"))
	alice.hears("one")
	alice.skipTo("<composing ")
	alice.hears("two")
	_ = alice.conn.Close()
	c.eventually("the session waits", func() bool { return c.counter(0, "imlb_node_sessions_parked", nil) == 1 })

	later, earlier := c.returns(2, "alice"), c.returns(1, "alice")
	later.resume(id, 1)
	<-reached
	earlier.resumed(id, 1, 0)
	earlier.skipTo("<composing ")
	close(between)
	later.skipTo("^<stream:error.*<internal-server-error ") // and no conflict: she is to come back
	earlier.hears("two")
	earlier.settled()
}
