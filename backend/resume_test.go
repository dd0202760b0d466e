package backend_test

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/bus"
	"imlb/backend/store"
)

const smResumable = "<enable xmlns='urn:xmpp:sm:3' resume='true'/>"

// resumable has the client enable XEP-0198 with resumption, and returns the id.
func (cl *client) resumable() string {
	cl.t.Helper()
	cl.write(smResumable)
	return between(cl.expect("^<enabled xmlns='urn:xmpp:sm:3' id='[^']+' resume='true' max='300'/>"), "id='", "'")
}

// resumableAmid is resumable for a client that may have something to read before.
func (cl *client) resumableAmid() string {
	cl.t.Helper()
	cl.write(smResumable)
	return between(cl.skipTo("^<enabled "), "id='", "'")
}

func (cl *client) resume(id string, h int) {
	cl.t.Helper()
	cl.write(fmt.Sprintf("<resume xmlns='urn:xmpp:sm:3' previd='%s' h='%d'/>", id, h))
}

// resumed does it, and requires that the node has handled that many stanzas.
func (cl *client) resumed(id string, h, handled int) {
	cl.t.Helper()
	cl.resume(id, h)
	cl.expect(fmt.Sprintf("^<resumed xmlns='urn:xmpp:sm:3' previd='%s' h='%d'/>$", id, handled))
}

func say(to, text string) string {
	return "<message type='chat' to='" + to + "@example.com'><body>" + text + "</body></message>"
}

// hears requires that the next stanzas are these messages and no others.
func (cl *client) hears(texts ...string) {
	cl.t.Helper()
	for _, text := range texts {
		for {
			got := cl.next()
			if strings.HasPrefix(got, "<r ") {
				continue
			}
			if !strings.Contains(got, "<body>"+text+"</body>") {
				cl.t.Fatalf("%s: got\n\t%s\nwant %s", cl.jid, got, text)
			}
			break
		}
	}
}

// upTo reads until a stanza matches, and returns how many there were with it.
func (cl *client) upTo(pattern string) (stanzas int) {
	cl.t.Helper()
	for {
		got := cl.next()
		if !strings.HasPrefix(got, "<r ") {
			stanzas++
		}
		if regexp.MustCompile(pattern).MatchString(got) {
			return stanzas
		}
	}
}

// settled syncs, whatever acknowledgements are asked for meanwhile.
func (cl *client) settled() {
	cl.t.Helper()
	cl.write("<iq type='get' id='settled' to='example.com'><ping xmlns='urn:xmpp:ping'/></iq>")
	for {
		if got := cl.next(); strings.HasPrefix(got, "<iq type='result' id='settled'") {
			return
		} else if !strings.HasPrefix(got, "<r ") {
			cl.t.Fatalf("%s: got\n\t%s", cl.jid, got)
		}
	}
}

// How the connection of a session that is resumed ends, and where it is resumed.
func TestResume(t *testing.T) {
	for name, where := range map[string]struct {
		node int
		lose func(*client)
	}{
		"same node":                   {0, func(cl *client) { _ = cl.conn.Close() }},
		"same node, not yet noticed":  {0, func(*client) {}},
		"other node":                  {1, func(cl *client) { _ = cl.conn.Close() }},
		"other node, not yet noticed": {1, func(*client) {}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 2, nil)
			c.befriend("alice", "bob")
			bob := c.online(0, "bob", "desk")
			alice := c.online(0, "alice", "phone")
			bob.skipTo("^<presence [^>]*from='alice@example.com/phone'")
			alice.skipTo("^<presence [^>]*from='bob@example.com/desk'")
			id := alice.resumable()

			alice.write(say("bob", "to bob"))
			bob.hears("to bob")
			bob.write(say("alice", "one") + say("alice", "two") +
				composesTo)
			alice.hears("one", "two")
			alice.skipTo("<composing ")
			alice.write("<a xmlns='urn:xmpp:sm:3' h='1'/>")
			alice.settled()
			where.lose(alice)
			bob.write(say("alice", "three"))
			bob.settled()

			again := c.returns(where.node, "alice")
			again.resumed(id, 1, 2)
			again.hears("two")
			again.expect("<composing ")
			again.expect("^<iq type='result' id='settled'")
			again.hears("three")
			again.settled()
			bob.settled() // nothing was said about alice
			again.write(say("bob", "still there"))
			bob.hears("still there")
			if all := c.sessions("alice"); len(all) != 1 || all[0].Epoch != 2 || all[0].ID != id {
				t.Errorf("sessions: %+v", all)
			}

			// Once more, and this time all has arrived: six stanzas.
			_ = again.conn.Close()
			third := c.returns(1-where.node, "alice")
			third.resumed(id, 6, 4)
			third.settled()
			third.close()
			bob.skipTo("^<presence [^>]*type='unavailable'")
		})
	}
}

// Pushes go on after a resumption (XEP-0191 §3.3), and the client is active (XEP-0352 §5.2).
func TestResumeActive(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	bob, alice := c.online(0, "bob", "desk"), c.online(0, "alice", "phone")
	alice.skipTo("^<presence [^>]*from='bob@example.com/desk'")
	id := alice.resumable()
	alice.write("<iq type='get' id='b'><blocklist xmlns='urn:xmpp:blocking'/></iq>" + csiInactive)
	alice.expect("^<iq [^>]*id='b'")
	alice.settled()
	bob.write("<presence><status>held</status></presence>")
	bob.skipTo("held")
	alice.settled()
	again := c.returns(1, "alice")
	again.resumed(id, 3, 3)
	again.expect("<status>held</status>")
	bob.write("<presence><status>news</status></presence>")
	again.expect("<status>news</status>")
	again.write("<iq type='set' id='c'><block xmlns='urn:xmpp:blocking'><item jid='carol@example.com'/></block></iq>")
	again.skipToAll("^<iq [^>]*id='c'", "^<iq type='set'.*<block ")
}

// A connection that is still there when its session is resumed on another one ends in order
// (XEP-0198 §5).
func TestResumeEndsTheOldStream(t *testing.T) {
	t.Parallel()
	for where := range 2 {
		c := newCluster(t, 2, nil)
		alice := c.online(0, "alice", "phone")
		id := alice.resumable()
		alice.settled()
		again := c.returns(where, "alice")
		again.resumed(id, 1, 1)
		alice.end("conflict")
		alice.gone()
		again.settled()
	}
}

// A client that claims a count which cannot be right is told so, and nothing comes of it for
// the session that it names: neither for a connection that is still there, nor for what is stored.
func TestResumeMiscounted(t *testing.T) {
	t.Parallel()
	for name, where := range map[string]struct {
		node, h int
		leave   func(*cluster, *client)
	}{
		"too much, same node":            {0, 3, nil},
		"too much, other node":           {1, 3, nil},
		"too little, same node":          {0, 0, nil},
		"too little, other node":         {1, 0, nil},
		"too much, connection lost":      {1, 3, func(_ *cluster, cl *client) { _ = cl.conn.Close() }},
		"too much, after a planned stop": {1, 3, func(c *cluster, _ *client) { c.stopNode(c.nodes[0]) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, nil)
			bob, alice := c.online(1, "bob", "desk"), c.online(0, "alice", "phone")
			id := alice.resumable()
			bob.write(say("alice", "one") + say("alice", "two"))
			alice.hears("one", "two")
			alice.write("<a xmlns='urn:xmpp:sm:3' h='1'/>" + say("bob", "hi") + smAsk)
			alice.skipTo("^<a [^>]*h='1'/>")
			bob.hears("hi")
			if where.leave != nil {
				where.leave(c, alice)
			}
			wrong := c.returns(where.node, "alice")
			wrong.resume(id, where.h)
			wrong.expect("^<failed xmlns='urn:xmpp:sm:3' h='1'><item-not-found ")
			if where.leave == nil {
				bob.write(say("alice", "three"))
				alice.hears("three")
				if s := c.sessions("alice"); len(s) != 1 || s[0].Epoch != 1 {
					t.Errorf("sessions: %+v", s)
				}
			}
			again := c.returns(1, "alice")
			again.resumed(id, 1, 1)
			again.hears("two")
		})
	}
}

// The word that asks for a session comes to the node that goes on with it as well. When that is
// late, it does not end what has been resumed.
func TestResumeAskedForLate(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	var asked []bus.Signal // under the lock of the bus
	c.bus.lose(func(sig bus.Signal) bool {
		if strings.Contains(string(sig.Data), "yield") {
			asked = append(asked, sig)
		}
		return false
	})
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	again := c.returns(1, "alice")
	again.resumed(id, 0, 0)
	alice.skipTo("^<stream:error.*<conflict ")
	c.bus.lose(nil)
	for _, sig := range asked {
		c.nodes[1].Signal(sig)
	}
	again.settled()
}

// One that takes nothing does not keep its node from leaving the session.
func TestResumeWhileTheOldConnectionIsStuck(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, func(o *backend.Options) { o.Limits.QueueBytes = 64 << 20 })
	bob := c.online(0, "bob", "desk")
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	_ = alice.conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	headline := "<message type='headline' to='alice@example.com/phone'><body>" + strings.Repeat("x", 100<<10) + "</body></message>"
	stanzas := func() float64 {
		return c.counter(0, "imlb_node_stanzas_total", map[string]string{"direction": "out", "kind": "message"})
	}
	const many = 60 // more than fits into the kernel's buffers
	bob.write(strings.Repeat(headline, many))
	c.eventually("all is on its way", func() bool { return stanzas() >= many })
	again := c.returns(1, "alice")
	again.resume(id, 0)
	again.expect("^<resumed |^<failed ") // if that took too long, less is known
	c.eventually("the node has left it", func() bool { return strings.Contains(c.nodes[0].log.String(), "reason=moved") })
}

// A node that does not leave a session is taken for dead. Should it live, it does no
// harm: what its client says is not stored.
func TestResumeWithoutTheOldNode(t *testing.T) {
	for name, note := range map[string]struct {
		settle string // ID stands for the session's
		h      int
		want   []string
	}{
		"acknowledged":                {"", 1, []string{"two", "three", "four"}}, // and no more is known
		"front knows, all arrived":    {"alice@example.com\x000\x00ID\x004\x001,2,0,3", 4, []string{"four"}},
		"front knows, not all":        {"alice@example.com\x000\x00ID\x004\x001,2,0,3", 2, []string{"three", "four"}},
		"front knows only the end":    {"alice@example.com\x000\x00ID\x004\x000,3", 4, []string{"four"}},
		"front knows, and all proved": {"alice@example.com\x003\x00ID\x004\x001,2,0,3", 4, []string{"four"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newPointCluster(t, 2)
			c.bus.cut = func(sig bus.Signal) bool { return strings.Contains(string(sig.Data), "yield") }
			bob := c.online(1, "bob", "desk")
			alice := c.online(0, "alice", "phone")
			id := alice.resumable()
			bob.write(say("alice", "one"))
			alice.hears("one")
			alice.write("<a xmlns='urn:xmpp:sm:3' h='1'/>")
			for p := range c.points() {
				if p.Count == 1 && p.Pos == 1 {
					break
				}
			}
			bob.write(say("alice", "two") + composesTo + say("alice", "three"))
			alice.hears("two")
			alice.skipTo("<composing ")
			alice.hears("three")
			if note.settle != "" {
				c.dial(1, leg{settle: strings.ReplaceAll(note.settle, "ID", id)}).gone()
			}
			bob.write(say("alice", "four"))
			bob.settled()

			again := c.returns(1, "alice")
			again.resumed(id, note.h, 0)
			again.hears(note.want...)
			again.settled()
			alice.write(say("bob", "ghost"))
			alice.skipTo("^<stream:error.*<conflict ")
			bob.settled()
		})
	}
}

// A node that has no room for a session that it is asked to resume leaves it as it was, with what
// a front has noted of it.
func TestResumeWithoutRoom(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, func(o *backend.Options) {
		if o.Name == "node-2" {
			o.Limits.MaxSessions = 1
		}
	})
	bob := c.online(1, "bob", "desk")
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	bob.write(say("alice", "one") + say("alice", "two"))
	alice.hears("one", "two")
	c.bus.lose(func(sig bus.Signal) bool { return strings.Contains(string(sig.Data), "yield") })
	c.dial(2, leg{settle: "alice@example.com\x000\x00" + id + "\x002\x001,2"}).gone()
	full := c.returns(1, "alice")
	full.resume(id, 2)
	full.end("resource-constraint")
	again := c.returns(2, "alice")
	again.resumed(id, 2, 0)
	bob.write(say("alice", "three"))
	again.hears("three")
}

// What the node before had written is of no use any more when a session has been resumed once:
// the next one that dies has written other stanzas, in another order.
func TestResumeTwice(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		first int    // what the client has of "one" and <composing/> when it resumes for the first time
		tail  string // what the front has seen of what was written then, and of "two" and "three"
		h     int
		want  []string
	}{
		"all arrived":                        {2, "2,3", 4, []string{"four"}},
		"nothing arrived the second time":    {2, "2,3", 2, []string{"two", "three", "four"}},
		"front knows nothing":                {2, "", 4, []string{"two", "three", "four"}},
		"what was written again has arrived": {0, "1,0,2,3", 4, []string{"four"}},
		"written in another order":           {0, "1,0,2,3", 2, []string{"two", "three", "four"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 3, nil)
			bob := c.online(2, "bob", "desk")
			alice := c.online(0, "alice", "phone")
			id := alice.resumable()
			bob.write(say("alice", "one") + composesTo)
			alice.hears("one")
			alice.skipTo("<composing ")
			again := c.returns(1, "alice")
			again.resumed(id, r.first, 0)
			if r.first == 0 {
				again.hears("one")
				again.expect("<composing ")
			}
			bob.write(say("alice", "two") + say("alice", "three"))
			again.hears("two", "three")

			c.bus.lose(func(sig bus.Signal) bool { return strings.Contains(string(sig.Data), "yield") })
			if r.tail != "" {
				c.dial(2, leg{settle: "alice@example.com\x000\x00" + id + "\x004\x00" + r.tail}).gone()
			}
			bob.write(say("alice", "four"))
			bob.settled()
			third := c.returns(2, "alice")
			third.resumed(id, r.h, 0)
			third.hears(r.want...)
			third.settled()
		})
	}
}

// What a contact has said comes in its order, whether it is stored or not, and whether it was written
// before the connection broke.
func TestResumeKeepsOrder(t *testing.T) {
	t.Parallel()
	const noStore = "<message type='chat' to='alice@example.com/phone'><body>%s</body><no-store xmlns='urn:xmpp:hints'/></message>"
	said := []string{
		say("alice", "one"), fmt.Sprintf(noStore, "two"), say("alice", "three"), fmt.Sprintf(noStore, "four"),
		say("alice", "five"), "<presence type='unavailable' to='alice@example.com/phone'><status>six</status></presence>",
	}
	for name, written := range map[string]int{"written": len(said), "in part": 3, "not written": 0} {
		for where, node := range map[string]int{"same node": 0, "other node": 1} {
			t.Run(name+", "+where, func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, 3, nil)
				bob := c.online(2, "bob", "desk")
				bob.write("<presence to='alice@example.com/phone'/>")
				alice := c.online(0, "alice", "phone")
				alice.write("<presence to='bob@example.com/desk'/>")
				bob.skipTo("from='alice@example.com/phone'")
				id := alice.resumable()
				heard := func(cl *client, from, to int) {
					t.Helper()
					for i := from; i < to; i++ {
						want := []string{"one", "two", "three", "four", "five", "six"}[i]
						if got := cl.skipTo("<body>|<status>"); !strings.Contains(got, ">"+want+"<") {
							t.Fatalf("got %s\nwant %q", got, want)
						}
					}
				}
				bob.write(strings.Join(said[:written], ""))
				heard(alice, 0, written)
				_ = alice.conn.Close()
				c.eventually("the session waits", func() bool { return c.counter(0, "imlb_node_sessions_parked", nil) == 1 })
				bob.write(strings.Join(said[written:], ""))
				bob.settled()
				again := c.returns(node, "alice")
				again.resumed(id, 0, 0)
				heard(again, 0, len(said))
				again.syncWith(again)
			})
		}
	}
}

// An entry that its client got before it was available, and has not acknowledged, comes again
// when the session is resumed, whatever the client has said about its presence since.
func TestResumeWhatWasOutOfTurn(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]string{
		"available":     "<presence/>",
		"not any more":  "<presence/><presence type='unavailable'/>",
		"not available": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 3, nil)
			bob := c.online(2, "bob", "desk")
			alice := c.login(0, "alice", "phone")
			id := alice.resumable()
			bob.write("<message type='chat' to='alice@example.com/phone'><body>one</body></message>")
			alice.hears("one")
			alice.write(after + "<iq type='get' id='last' to='example.com'><ping xmlns='urn:xmpp:ping'/></iq>")
			alice.skipTo("^<iq [^>]*id='last'")
			again := c.returns(1, "alice")
			again.resumed(id, 0, 1+strings.Count(after, "<presence"))
			again.skipTo("<body>one</body>")
			c.bus.lose(func(sig bus.Signal) bool { return strings.Contains(string(sig.Data), "yield") })
			third := c.returns(2, "alice")
			third.resumed(id, 0, 1+strings.Count(after, "<presence"))
			third.skipTo("<body>one</body>")
			third.settledBut("^<r |^<iq [^>]*id='last'")
		})
	}
}

// A client whose node died learns who has gone since.
func TestResumeTellsWhoHasGone(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	c.bus.cut = func(sig bus.Signal) bool { return strings.Contains(string(sig.Data), "yield") }
	c.befriend("alice", "bob")
	c.befriend("alice", "carol")
	bob := c.online(1, "bob", "desk")
	c.online(1, "carol", "pad")
	alice := c.online(0, "alice", "phone")
	alice.skipToAll("^<presence [^>]*from='bob@example.com/desk'", "^<presence [^>]*from='carol@example.com/pad'")
	id := alice.resumable()
	alice.write("<presence/>" + smAsk)
	alice.skipTo("^<a [^>]*h='1'/>")
	bob.close()
	again := c.returns(1, "alice") // the first node is cut off
	again.resumed(id, 0, 1)
	again.skipTo("^<presence type='unavailable' from='bob@example.com' to='alice@example.com/phone'/>$")
	again.skipTo("^<presence [^>]*from='carol@example.com/pad'")
}

// However many they are, the client is told of all.
func TestResumeTellsOfManyWhoHaveGone(t *testing.T) {
	t.Parallel()
	const many = 1000
	c := newCluster(t, 2, func(o *backend.Options) { o.Limits.QueueBytes = 64 << 10 })
	c.bus.cut = func(sig bus.Signal) bool { return strings.Contains(string(sig.Data), "yield") }
	for i := range many {
		c.subscribed("alice", fmt.Sprintf("contact-%d", i), store.SubscriptionTo)
	}
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	alice.write("<presence/>" + smAsk)
	alice.skipTo("^<a [^>]*h='1'/>")
	again := c.returns(1, "alice") // the first node is cut off
	again.resumed(id, 0, 1)
	for range many {
		again.skipTo("^<presence type='unavailable' from='contact-[0-9]+@example.com'")
	}
	again.settled()
}

const composesTo = "<message type='chat' to='alice@example.com/phone'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>"

// pointStore tells of the resume points that are stored.
type pointStore struct {
	store.Store
	points chan store.ResumePoint
}

func (s *pointStore) SetResumePoints(ctx context.Context, points []store.ResumePoint) error {
	err := s.Store.SetResumePoints(ctx, points)
	for _, p := range points {
		s.points <- p
	}
	return err
}

// A client that comes too late learns what its session had handled.
func TestResumeTooLate(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Timeouts.Resume = 50 * time.Millisecond })
	c.befriend("alice", "bob")
	bob := c.online(0, "bob", "desk")
	alice := c.login(0, "alice", "phone")
	alice.write(smResumable)
	id := between(alice.expect("^<enabled .* max='0'/>"), "id='", "'")
	alice.write("<presence/>" + say("bob", "hello"))
	bob.skipTo("^<presence [^>]*from='alice@example.com/phone'")
	bob.hears("hello")
	_ = alice.conn.Close()
	bob.expect("^<presence [^>]*type='unavailable'")
	c.gone("alice")
	again := c.returns(0, "alice")
	again.resume(id, 0)
	again.expect("^<failed xmlns='urn:xmpp:sm:3' h='2'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>$")
}

func TestResumeRefused(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	for name, r := range map[string]struct{ user, resume, want string }{
		"nothing":     {"alice", "previd='none' h='0'", "<failed xmlns='urn:xmpp:sm:3'><item-not-found "},
		"no id":       {"alice", "h='0'", "<failed .*<bad-request "},
		"no count":    {"alice", "previd='" + id + "'", "<failed .*<bad-request "},
		"bad count":   {"alice", "previd='" + id + "' h='-1'", "<failed .*<bad-request "},
		"other count": {"alice", "previd='" + id + "' h='1'", "<failed xmlns='urn:xmpp:sm:3' h='0'><item-not-found "},
		"not hers":    {"bob", "previd='" + id + "' h='0'", "<failed xmlns='urn:xmpp:sm:3'><item-not-found "},
	} {
		t.Run(name, func(t *testing.T) {
			cl := c.returns(0, r.user)
			cl.write("<resume xmlns='urn:xmpp:sm:3' " + r.resume + "/>")
			cl.expect(r.want)
			cl.write("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>") // still possible
			cl.expect("^<iq type='result' id='b'")
			cl.close()
		})
	}
}

// What waits for a client that does not come is given back.
func TestParkedRequests(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(o *backend.Options) { o.Timeouts.Resume = 2 * time.Second }) // it comes within it
	bob := c.online(0, "bob", "desk")
	alice := c.online(0, "alice", "phone")
	alice.write(smResumable)
	alice.expect("^<enabled ")
	_ = alice.conn.Close()
	bob.write("<iq type='get' id='q1' to='alice@example.com/phone'><query xmlns='jabber:iq:version'/></iq>")
	bob.expect("^<iq [^>]*type='error'.*<service-unavailable ")
}

// Strangers cannot end a session that waits for its client by filling what waits for that.
func TestParkedSessionOutlivesStrangers(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, func(o *backend.Options) { o.Limits.QueueBytes = 100 << 10 })
	c.befriend("alice", "bob")
	bob, carol := c.online(0, "bob", "desk"), c.online(1, "carol", "pad")
	alice := c.online(0, "alice", "phone")
	bob.skipTo("^<presence [^>]*from='alice@example.com/phone'")
	alice.skipTo("^<presence [^>]*from='bob@example.com/desk'")
	id := alice.resumable()
	alice.settled()
	_ = alice.conn.Close()
	c.eventually("the session waits", func() bool { return c.counter(0, "imlb_node_sessions_parked", nil) == 1 })
	big := strings.Repeat("x", 10<<10)
	send := func(stanzas string) { carol.write(strings.Repeat(stanzas, 15)) }
	send("<message type='headline' to='alice@example.com'><body>" + big + "</body></message>")
	send("<message type='chat' to='alice@example.com/phone'><composing xmlns='http://jabber.org/protocol/chatstates'/><x xmlns='x'>" +
		big + "</x><no-store xmlns='urn:xmpp:hints'/></message>")
	send("<presence to='alice@example.com'><status>" + big + "</status></presence>")
	carol.sync() // nobody is told that these do not arrive
	carol.write("<iq type='get' id='q' to='alice@example.com/phone'><query xmlns='x'>" + big + "</query></iq>")
	carol.expect("^<iq [^>]*type='error'.*<service-unavailable ")
	carol.write("<message type='chat' to='alice@example.com'><body>" + big + "</body><no-store xmlns='urn:xmpp:hints'/></message>")
	carol.expect("^<message [^>]*type='error'.*<service-unavailable ")
	bob.write("<presence><status>news</status></presence>")
	bob.skipTo("news")
	bob.settled() // alice has not gone
	again := c.returns(1, "alice")
	again.resumed(id, 1, 1)
	again.skipTo("<status>news</status>")
}

// A planned stop leaves sessions to other nodes.
func TestResumeAfterDrain(t *testing.T) {
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	bob := c.online(1, "bob", "desk")
	alice := c.online(0, "alice", "phone")
	bob.skipTo("^<presence [^>]*from='alice@example.com/phone'")
	alice.skipTo("^<presence [^>]*from='bob@example.com/desk'")
	id := alice.resumable()
	bob.write(say("alice", "one"))
	alice.hears("one")
	c.stopNode(c.nodes[0])
	bob.write(say("alice", "two"))
	bob.settled()
	again := c.returns(1, "alice")
	again.resumed(id, 1, 0)
	again.skipToAll("<body>two</body>", "^<presence [^>]*from='bob@example.com/desk'") // who may have left meanwhile
	again.settled()
	bob.missed()
}

// Sessions that wait for clients which do not come back keep nobody out.
func TestParkedMakeRoom(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.PerUser, o.Limits.MaxSessions = 2, 2 })
	var ids []string
	for i := range 4 {
		alice := c.login(0, "alice", fmt.Sprintf("phone-%d", i))
		ids = append(ids, alice.resumable())
		_ = alice.conn.Close()
		c.eventually("the sessions wait", func() bool { return c.counter(0, "imlb_node_sessions_parked", nil) == float64(min(i+1, 2)) })
	}
	if left := c.sessions("alice"); len(left) != 2 || left[0].ID != ids[2] || left[1].ID != ids[3] {
		t.Errorf("left: %+v", left)
	}
	c.returns(0, "alice").resumed(ids[3], 0, 0)
}

// A message that the store refuses is handled, and the store knows before the client is told.
func TestRefusedCountIsDurable(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, func(o *backend.Options) { o.Limits.Waiting = 1 })
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	for i := range 3 {
		alice.write(say("bob", "m") + smAsk)
		if i > 0 {
			alice.expect("^<message [^>]*type='error'")
		}
		alice.expect(fmt.Sprintf("^<a [^>]*h='%d'/>", i+1))
		if got := c.sessions("alice")[0].Handled; got != uint32(i+1) {
			t.Errorf("the store has %d, want %d", got, i+1)
		}
	}
	again := c.returns(1, "alice")
	again.resumed(id, 0, 3)
}

// Who cannot resume because of what it has not received is told what of its own has arrived.
func TestResumeCountTellsHandled(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	alice.write(say("bob", "m") + smAsk)
	alice.expect("^<a [^>]*h='1'/>")
	_ = alice.conn.Close()
	again := c.returns(0, "alice")
	again.resume(id, 1000)
	again.expect("^<failed xmlns='urn:xmpp:sm:3' h='1'><item-not-found ")
}

// Live messages that somebody has written, and nobody has got when the client does not come, are
// given back. Those that were written to the connection may have arrived.
func TestParkedMessages(t *testing.T) {
	t.Parallel()
	const noStore = "<body>x</body><no-store xmlns='urn:xmpp:hints'/>"
	user, client := "to='alice@example.com'", "to='ALICE@example.com/phone'"
	messages := []string{
		"<message id='chat' type='chat' " + client + ">" + noStore + "</message>",
		"<message id='room' type='groupchat' " + client + "><body>x</body></message>",
		"<message id='state' type='chat' " + client + "><composing xmlns='http://jabber.org/protocol/chatstates'/></message>",
		"<message id='headline' type='headline' " + client + "><body>x</body></message>",
		"<message id='error' type='error' " + client + "><body>x</body></message>",
		"<message id='user' type='chat' " + user + ">" + noStore + "</message>",
	}
	for name, others := range map[string][]int{"alone": nil, "with another": {0}, "with another elsewhere": {1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, func(o *backend.Options) { o.Timeouts.Resume = 2 * time.Second }) // all comes within it
			bob := c.online(0, "bob", "desk")
			alice := c.online(0, "alice", "phone")
			for _, node := range others {
				c.online(node, "alice", "tab")
			}
			alice.write(smResumable)
			alice.skipTo("^<enabled ")
			bob.write(messages[0])
			alice.skipTo("^<message id='chat'")
			_ = alice.conn.Close() // without having acknowledged it
			c.eventually("the session waits", func() bool { return strings.Contains(c.nodes[0].log.String(), "reason=client-lost") })
			for _, m := range messages {
				bob.write(m)
			}
			bob.write("<iq type='get' id='request' " + client + "><query xmlns='jabber:iq:version'/></iq>")
			answers := []string{"^<iq [^>]*type='error'"}
			for _, id := range []string{"chat", "chat", "room"} {
				answers = append(answers, "^<message [^>]*id='"+id+"'[^>]*type='error'|^<message [^>]*type='error'[^>]*id='"+id+"'")
			}
			if len(others) == 0 {
				answers = append(answers, "^<message [^>]*id='user'[^>]*type='error'|^<message [^>]*type='error'[^>]*id='user'")
			}
			bob.expectAll(answers...)
			c.eventually("the session is over", func() bool { return len(c.sessions("alice")) == len(others) })
			bob.sync()
		})
	}
}
