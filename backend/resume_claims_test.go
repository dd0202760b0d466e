package backend_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"imlb/backend"
)

// A client that has become available, and of which the node could not learn in time what waits for it, gets that
// where it resumes its session.
func TestAvailableWithoutWhatWaits(t *testing.T) {
	t.Parallel()
	var armed atomic.Bool
	c := newHookedCluster(t, 2, &hookedStore{fails: func(what string) error {
		if what == "head" && armed.CompareAndSwap(true, false) {
			return errAway
		}
		return nil
	}}, nil)
	alice := c.login(0, "alice", "phone")
	id := alice.resumable()
	bob := c.online(1, "bob", "desk")
	bob.write(say("alice", "one") + say("alice", "two"))
	bob.settled()
	alice.sync() // the cursor has passed what is not for it yet
	armed.Store(true)
	alice.write("<presence/>")
	alice.skipTo("^<stream:error.*<internal-server-error ")
	_ = alice.conn.Close()
	c.eventually("the session waits", func() bool { return c.counter(0, "imlb_node_sessions_parked", nil) == 1 })
	again := c.returns(1, "alice")
	again.resumed(id, 1, 2)
	again.skipTo("<body>one</body>")
	again.skipTo("<body>two</body>")
}

// noted reads until a stanza matches, and returns what a front has noted by then of those that count.
func (cl *client) noted(tail []string, pattern string) []string {
	cl.t.Helper()
	for {
		got := cl.next()
		if strings.HasPrefix(got, "<message") || strings.HasPrefix(got, "<presence") || strings.HasPrefix(got, "<iq") {
			tail = append(tail, markOf(got))
		}
		if regexp.MustCompile(pattern).MatchString(got) {
			return tail
		}
	}
}

// What a client has received does not come to it again when it resumes its session elsewhere, and becomes unavailable and
// available, there or before, although what another client of the user has not received yet comes before that.
func TestClaimGoesAlong(t *testing.T) {
	t.Parallel()
	const goes, comes = "<presence type='unavailable'/>", "<presence/>"
	const held = "<message type='chat' to='alice@example.com/phone'><body>held</body></message>"
	for name, s := range map[string]struct{ before, after string }{
		"gone and back after": {"", goes + comes},
		"gone before":         {goes, comes},
		"back before":         {goes + comes, ""},
	} {
		for _, end := range []string{"left", "killed", "killed, the front knows"} {
			t.Run(name+", "+end, func(t *testing.T) {
				t.Parallel()
				c := newPointCluster(t, 3)
				bob := c.online(2, "bob", "desk")
				phone, tab := c.online(0, "alice", "phone"), c.online(0, "alice", "tab")
				phone.write(smResumable)
				phone.skipTo("^<enabled ")
				id := tab.resumableAmid()
				bob.write(held + say("alice", "one") + say("alice", "two"))
				phone.skipTo("<body>two</body>") // and does not acknowledge that
				tail := tab.noted(nil, "<body>two</body>")
				h := len(tail)
				tab.write(fmt.Sprintf("<a xmlns='urn:xmpp:sm:3' h='%d'/>", h) + s.before + smAsk)
				tail = tab.noted(tail, "^<a ")
				switch end {
				case "killed":
					c.stores(id, h)
					c.die()
				case "killed, the front knows":
					c.die()
					c.settles(1, id, tail)
				}
				again := c.returns(1, "alice")
				again.resume(id, len(tail))
				again.skipTo("^<resumed ")
				again.write(s.after + smAsk)
				again.skipTo("^<a ")
				bob.write(say("alice", "last"))
				for _, got := range again.bodies("last") {
					if got != "held" {
						t.Errorf("%q comes again", got)
					}
				}
			})
		}
	}
}

// What a client has got and not acknowledged, however much that is, does not come again after its node was killed.
func TestMuchUnacknowledged(t *testing.T) {
	t.Parallel()
	const much = 2000
	c := newPointCluster(t, 2)
	bob := c.online(1, "bob", "desk")
	tab := c.online(0, "alice", "tab")
	id := tab.resumableAmid()
	for n := range much {
		bob.write(say("alice", fmt.Sprint("number ", n)))
	}
	tail := tab.noted(nil, fmt.Sprint("<body>number ", much-1, "</body>"))
	c.die()
	c.settles(1, id, tail)
	again := c.returns(1, "alice")
	again.resumed(id, len(tail)-1, 0)
	bob.write(say("alice", "last"))
	if got, want := again.bodies("last"), []string{fmt.Sprint("number ", much-1)}; !slices.Equal(got, want) {
		t.Errorf("%q come again, want %q", got, want)
	}
}

// What a client has got that was for another one of its user, which was not on its node, does not come to it again when it resumes
// its session elsewhere, although something else has not been received yet.
func TestTakenForAnother(t *testing.T) {
	t.Parallel()
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("killed: ", killed), func(t *testing.T) {
			t.Parallel()
			c := newPointCluster(t, 3)
			bob := c.online(2, "bob", "desk")
			pad := c.online(1, "alice", "pad")
			phone, tab := c.online(0, "alice", "phone"), c.online(0, "alice", "tab")
			for _, other := range []*client{pad, phone} { // which acknowledge nothing
				other.write(smResumable)
				other.skipTo("^<enabled ")
			}
			id := tab.resumableAmid()
			bob.write("<message type='chat' to='alice@example.com/phone'><body>held</body></message>" +
				"<message type='chat' to='alice@example.com/pad'><body>both</body></message>" + say("alice", "two"))
			pad.skipTo("<body>both</body>")
			phone.skipTo("<body>two</body>")
			tail := tab.noted(nil, "<body>two</body>")
			tab.write(fmt.Sprintf("<a xmlns='urn:xmpp:sm:3' h='%d'/>", len(tail)))
			if killed {
				c.stores(id, len(tail))
				c.die()
			}
			again := c.returns(2, "alice")
			again.resume(id, len(tail))
			again.skipTo("^<resumed ")
			bob.write(say("alice", "last"))
			if got := again.bodies("last"); !slices.Equal(got, []string{"held"}) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// What is written to a client before it has said anything has not arrived for that: if the connection is lost then, it comes
// to the next session with its address. Once the client has spoken, or has acknowledged anything, it has arrived.
func TestBeforeTheClientSpeaks(t *testing.T) {
	t.Parallel()
	const early = "<message type='chat' to='alice@example.com/phone'><body>early</body></message>"
	begin := func(t *testing.T) (c *cluster, bob, alice *client) {
		t.Helper()
		c = newCluster(t, 2, nil)
		bob, alice = c.online(1, "bob", "desk"), c.login(0, "alice", "phone")
		bob.write(early)
		alice.hears("early")
		return c, bob, alice
	}
	afterwards := func(t *testing.T, c *cluster, bob *client, want ...string) {
		t.Helper()
		c.gone("alice")
		again := c.login(1, "alice", "phone")
		again.write("<presence/>")
		bob.write(say("alice", "last"))
		if got := again.bodies("last"); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for name, speaks := range map[string]func(*client){
		"nothing":      func(*client) {},
		"only enables": func(alice *client) { alice.write("<enable xmlns='urn:xmpp:sm:3'/>"); alice.skipTo("^<enabled ") },
		"asks":         func(alice *client) { alice.settled() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, bob, alice := begin(t)
			speaks(alice)
			_ = alice.conn.Close()
			afterwards(t, c, bob, "early")
		})
	}
	for name, speaks := range map[string]string{
		"is available": "<presence><priority>-1</priority></presence>",
		"says":         say("bob", "hello"),
		"answers":      "<iq type='result' id='x' to='example.com'/>",
		"acknowledges": "<enable xmlns='urn:xmpp:sm:3'/><a xmlns='urn:xmpp:sm:3' h='0'/>",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, bob, alice := begin(t)
			alice.write(speaks)
			alice.syncWith(alice)
			_ = alice.conn.Close()
			afterwards(t, c, bob)
		})
	}
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("resumes, killed: ", killed), func(t *testing.T) {
			t.Parallel()
			c, bob, alice := begin(t)
			id := alice.resumable()
			if killed {
				c.die()
			} else {
				_ = alice.conn.Close()
			}
			again := c.returns(1, "alice")
			again.resumed(id, 0, 0)
			again.write("<presence/>")
			again.skipTo("^<presence ")
			bob.write(say("alice", "last"))
			if got := again.bodies("last"); len(got) > 0 {
				t.Errorf("%q comes again", got)
			}
		})
	}
}

// What was left to a session that goes on elsewhere waits for that also where another client of the user comes to it only then.
func TestLeftToWhoHasGoneOn(t *testing.T) {
	t.Parallel()
	var armed atomic.Bool
	reached, goOn := make(chan struct{}), make(chan struct{})
	c := newHookedCluster(t, 2, &hookedStore{fails: func(what string) error {
		if what == "head" && armed.CompareAndSwap(true, false) {
			close(reached)
			<-goOn
		}
		return nil
	}}, nil)
	bob := c.online(1, "bob", "desk")
	tab, phone := c.login(0, "alice", "tab"), c.online(0, "alice", "phone")
	id := phone.resumableAmid()
	armed.Store(true)
	tab.write("<presence/>")
	<-reached // what comes now waits for it
	bob.write("<message type='chat' to='alice@example.com/phone'><body>on its way</body></message>")
	phone.skipTo("<body>on its way</body>")
	again := c.returns(1, "alice")
	again.resume(id, 0)
	again.skipTo("<body>on its way</body>")
	close(goOn)
	bob.write(say("alice", "last"))
	if got := tab.bodies("last"); len(got) > 0 {
		t.Errorf("got %q before the last", got)
	}
}

// What was left to a session while the store failed just when it was resumed comes to the user's other clients in time.
func TestLeftToWhoCouldNotResume(t *testing.T) {
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
	}}, func(o *backend.Options) { o.Timeouts.Store = time.Second })
	bob, tab := c.online(2, "bob", "desk"), c.online(1, "alice", "tab")
	phone := c.login(0, "alice", "phone")
	id := phone.resumable()
	_ = phone.conn.Close()
	c.eventually("the session waits", func() bool { return c.counter(0, "imlb_node_sessions_parked", nil) == 1 })
	again := c.returns(1, "alice")
	armed.Store(true)
	again.resume(id, 0)
	<-reached
	bob.write("<message type='chat' to='alice@example.com/phone'><body>left</body></message>")
	bob.settled()
	tab.syncWith(tab) // it has left it
	close(goOn)
	again.end("internal-server-error")
	tab.skipTo("<body>left</body>")
}

// What comes while a client is away comes to it when it is back, whatever another client of the user has received meanwhile, what a third
// one has yet to receive, and what of that which is no entry it has not counted.
func TestComesToEachThatWasAway(t *testing.T) {
	t.Parallel()
	for _, node := range []int{0, 1} {
		t.Run(fmt.Sprint("node ", node), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 3, nil)
			bob, desk, phone := c.online(2, "bob", "desk"), c.online(0, "alice", "desk"), c.online(0, "alice", "phone")
			desk.write(smResumable)
			tab := c.login(0, "alice", "tab")
			tab.carbons("enable")
			tab.write("<presence/>")
			tab.skipTo("from='alice@example.com/phone'")
			tab.syncWith(tab)
			id := tab.resumableAmid()
			bob.write("<message type='chat' to='alice@example.com/desk'><body>held</body></message>")
			desk.skipTo("<body>held</body>") // and does not acknowledge it
			tab.write(fmt.Sprintf("<a xmlns='urn:xmpp:sm:3' h='%d'/>", tab.upTo("<body>held</body>")))
			tab.syncWith(tab)
			phone.write(say("bob", "hello"))
			tab.skipTo("<body>hello</body>")
			_ = tab.conn.Close()
			c.eventually("the session waits", func() bool { return c.counter(0, "imlb_node_sessions_parked", nil) == 1 })
			bob.write(say("alice", "one") + say("alice", "two"))
			phone.skipTo("<body>two</body>")
			phone.syncWith(phone)
			again := c.returns(node, "alice")
			again.resume(id, 1)
			for _, text := range []string{"hello", "one", "two"} {
				again.skipTo("<body>" + text + "</body>")
			}
		})
	}
}

// All counts as received when all clients have what is for them, whatever order they resume their sessions in and whether they are
// available then: what one of them has passed for another, which has it, is left to nobody.
func TestNothingIsLeftToNobody(t *testing.T) {
	t.Parallel()
	const gone, here = "<presence type='unavailable'/>", "<presence/>"
	for _, first := range []string{"phone", "tab"} {
		for i, states := range []map[string]string{{"phone": gone, "tab": gone}, {"phone": here, "tab": here}, {"phone": here, "tab": gone}} {
			t.Run(fmt.Sprint(first, " first, ", i), func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, 3, nil)
				bob := c.online(2, "bob", "desk")
				desk := c.online(0, "alice", "desk")
				desk.write(smResumable)
				desk.skipTo("^<enabled ")
				ids := make(map[string]string)
				heard := make(map[string]int)
				clients := map[string]*client{"phone": c.online(0, "alice", "phone"), "tab": c.online(0, "alice", "tab")}
				for name, cl := range clients {
					ids[name] = cl.resumableAmid()
				}
				bob.write("<message type='chat' to='alice@example.com/desk'><body>held</body></message>" +
					"<message type='chat' to='alice@example.com/phone'><body>own</body></message>" + say("alice", "two"))
				desk.skipTo("<body>two</body>") // and it acknowledges nothing
				for name, cl := range clients {
					n := len(cl.noted(nil, "<body>two</body>"))
					cl.write(fmt.Sprintf("<a xmlns='urn:xmpp:sm:3' h='%d'/>", n) + states[name] + smAsk)
					heard[name] = n + len(cl.noted(nil, "^<a "))
				}
				back := make(map[string]*client)
				for _, name := range []string{first, map[string]string{"phone": "tab", "tab": "phone"}[first]} {
					back[name] = c.returns(1, "alice")
					back[name].resume(ids[name], heard[name])
					back[name].skipTo("^<resumed ")
				}
				for name, cl := range back {
					cl.write("<presence/>" + smAsk)
					heard[name] += len(cl.noted(nil, "^<a "))
				}
				desk.close()
				bob.write(say("alice", "last"))
				for name, cl := range back {
					heard[name] += len(cl.noted(nil, "<body>last</body>"))
					cl.write(fmt.Sprintf("<a xmlns='urn:xmpp:sm:3' h='%d'/>", heard[name]))
				}
				c.eventually("all counts as received", func() bool { head, delivered := c.head("alice"); return delivered == head })
			})
		}
	}
}

// What has come to a client that says nothing, but keeps its connection alive, does not hold up for ever what its user has received.
func TestWhoNeverSpeaks(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, func(o *backend.Options) { o.Timeouts.Idle = 100 * time.Millisecond })
	bob, alice := c.login(1, "bob", "desk"), c.login(0, "alice", "phone")
	bob.write("<message type='chat' to='alice@example.com/phone'><body>one</body></message>")
	alice.skipTo("<body>one</body>")
	alice.skipTo("<ping ")
	alice.write(" ")
	c.eventually("it is received", func() bool { _, delivered := c.head("alice"); return delivered == 1 })
}

// Who had connected before a session was resumed for the last time, and whose request has waited since, does not take it from whoever
// has come later.
func TestResumeThatHasWaited(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	bob := c.online(2, "bob", "desk")
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	_ = alice.conn.Close()
	again := c.returnsOn(1, leg{more: []proxyproto.TLV{{Type: 0xE5, Value: []byte("60000")}}}, "alice") // nobody has resumed it meanwhile
	again.resumed(id, 0, 0)
	waited := c.returnsOn(2, leg{more: []proxyproto.TLV{{Type: 0xE5, Value: []byte("60000")}}}, "alice")
	waited.resume(id, 0)
	waited.end("internal-server-error")
	bob.write(say("alice", "one"))
	again.hears("one")
	later := c.returnsOn(2, leg{more: []proxyproto.TLV{{Type: 0xE5, Value: []byte("0")}}}, "alice")
	later.resumed(id, 1, 0)
	again.skipTo("^<stream:error.*<conflict ")
}

// Copies that a client has not counted come to it also when the node dies where it has resumed its session.
func TestCopiesComeAfterAKill(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	bob, phone := c.online(2, "bob", "desk"), c.online(0, "alice", "phone")
	tab := c.login(0, "alice", "tab")
	tab.carbons("enable")
	tab.write("<presence/>")
	tab.skipTo("from='alice@example.com/phone'")
	tab.syncWith(tab)
	id := tab.resumable()
	phone.write(say("bob", "hello"))
	bob.skipTo("<body>hello</body>")
	tab.skipTo("<sent .*<body>hello</body>")
	_ = tab.conn.Close()
	c.eventually("the session waits", func() bool { return c.counter(0, "imlb_node_sessions_parked", nil) == 1 })
	again := c.returns(1, "alice")
	again.resume(id, 0)
	again.skipTo("<sent .*<body>hello</body>")
	c.die()
	again = c.returns(2, "alice")
	again.resume(id, 0)
	again.skipTo("<sent .*<body>hello</body>")
}

// What waited for a client's address before its session began comes to it when it is available, also where it has resumed the session
// meanwhile.
func TestWaitsSinceBeforeTheSession(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	bob := c.online(2, "bob", "desk")
	before := c.login(0, "alice", "phone")
	before.counts()
	bob.write("<message type='chat' to='alice@example.com/phone'><body>waits</body></message>")
	before.skipTo("<body>waits</body>")
	_ = before.conn.Close() // without having acknowledged it
	c.gone("alice")
	alice := c.login(0, "alice", "phone")
	id := alice.resumable()
	_ = alice.conn.Close()
	again := c.returns(1, "alice")
	again.resumed(id, 0, 0)
	again.write("<presence/>")
	again.skipTo("<body>waits</body>")
}
