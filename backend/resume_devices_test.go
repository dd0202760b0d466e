package backend_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"imlb/backend"
	"imlb/backend/bus"
)

// How a session is resumed whose user has other clients as well.

// die makes the nodes look dead to those who resume their sessions elsewhere.
func (c *cluster) die() {
	c.bus.lose(func(sig bus.Signal) bool { return strings.Contains(string(sig.Data), "yield") })
}

// markOf is what a front notes of a message to alice: the number at its end, or the place on the timeline
// where its session is.
func markOf(stanza string) string {
	stanza, ok := strings.CutSuffix(stanza, "'/></message>")
	start := stanza[strings.LastIndexByte(stanza, '<')+1:]
	number := start[strings.LastIndexByte(start, '\'')+1:]
	switch {
	case ok && strings.HasPrefix(start, "stanza-id xmlns='urn:xmpp:sid:0' by='alice@example.com' id='"):
		return number
	case ok && strings.HasPrefix(start, "at xmlns='urn:imlb:front:0' entry='"):
		return "@" + number
	case ok && strings.HasPrefix(start, "at xmlns='urn:imlb:front:0' had='"):
		return "+" + number
	case ok && strings.HasPrefix(start, "at xmlns='urn:imlb:front:0' copy='"):
		return "~" + number
	case ok && strings.HasPrefix(start, "at xmlns='urn:imlb:front:0' copied='"):
		return "=" + number
	case ok && strings.HasPrefix(start, "at xmlns='urn:imlb:front:0' apart='"):
		return "!" + number
	}
	return "0"
}

// settles has a front tell a node what it has noted of all that was written to a client of alice, whose session it has lost.
func (c *cluster) settles(node int, id string, tail []string) {
	c.t.Helper()
	c.dial(node, leg{settle: fmt.Sprintf("alice@example.com\x000\x00%s\x00%d\x00%s", id, len(tail), strings.Join(tail, ","))}).gone()
}

// Copies of what the user's other clients send come once, in their place among the messages,
// whatever the client has of them when it resumes, and whether its node could leave the session
// in order.
func TestResumeCopies(t *testing.T) {
	t.Parallel()
	texts := []string{"one", "two", "three"}
	for _, killed := range []bool{false, true} {
		for h := range len(texts) + 1 {
			t.Run(fmt.Sprintf("%d, killed %t", h, killed), func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, 3, nil)
				bob, phone := c.online(2, "bob", "desk"), c.online(2, "alice", "phone")
				alice := c.login(0, "alice", "tab")
				alice.carbons("enable")
				alice.write("<presence/>")
				alice.skipTo("from='alice@example.com/phone'")
				alice.syncWith(alice)
				id := alice.resumable()

				bob.write(say("alice", "one"))
				phone.skipTo("<body>one</body>")
				phone.write(say("bob", "two"))
				bob.skipTo("<body>two</body>")
				bob.write(say("alice", "three"))
				var tail []string
				for _, text := range texts {
					tail = append(tail, markOf(alice.skipTo("<body>"+text+"</body>")))
				}
				if killed {
					c.die()
					c.dial(1, leg{settle: "alice@example.com\x000\x00" + id + "\x003\x00" + strings.Join(tail, ",")}).gone()
				}
				bob.write(say("alice", "four"))
				bob.settled()
				again := c.returns(1, "alice")
				again.resumed(id, h, 0)
				want := append(slices.Clone(texts[h:]), "four")
				for _, text := range want {
					if got := again.skipTo("<body>"); !strings.Contains(got, "<body>"+text+"</body>") {
						t.Fatalf("got %s\nwant %s", got, text)
					}
				}
				again.syncWith(again)
			})
		}
	}
}

// What was on its way to one client, or waits for it, is not received because another one of the user
// goes on elsewhere: whichever is there gets it.
func TestResumeLeavesOthersTheirs(t *testing.T) {
	t.Parallel()
	for name, killed := range map[string]bool{"planned": false, "killed": true} {
		for carbons, want := range map[string]int{"disable": 1, "enable": 0} {
			t.Run(name+", carbons "+carbons, func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, 3, nil)
				bob := c.online(2, "bob", "desk")
				phone := c.online(0, "alice", "phone")
				phone.counts()
				tab := c.login(0, "alice", "tab")
				tab.carbons(carbons)
				tab.write("<presence/>")
				tab.skipTo("from='alice@example.com/phone'")
				tab.syncWith(tab)
				id := tab.resumable()

				bob.write("<message type='chat' to='alice@example.com/phone'><body>one</body></message>")
				phone.skipTo("<body>one</body>")
				bob.write(say("alice", "two"))
				var tail []string
				if carbons == "enable" {
					tail = append(tail, markOf(tab.skipTo("<body>one</body>")))
				}
				tail = append(tail, markOf(tab.skipTo("<body>two</body>")))
				phone.skipTo("<body>two</body>")
				if killed {
					c.die()
					c.settles(1, id, tail)
				}
				again := c.returns(1, "alice")
				again.resumed(id, len(tail), 0)
				bob.write(say("alice", "three"))
				got := 0
				for {
					if heard := again.skipTo("<body>"); strings.Contains(heard, "<body>three</body>") {
						break
					} else if !strings.Contains(heard, "<body>one</body>") {
						t.Fatalf("got %s", heard)
					}
					got++
				}
				if got != want {
					t.Errorf("the other client got what was on its way %d times, want %d", got, want)
				}
			})
		}
	}
}

// What waits for one client does not have another one get again, at its next login, what it has.
func TestLoginAgainBesideWaiting(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	bob := c.online(1, "bob", "desk")
	phone := c.online(0, "alice", "phone")
	phone.counts()
	bob.write("<message type='chat' to='alice@example.com/phone'><body>waits</body></message>")
	phone.hears("waits")
	tab := c.online(0, "alice", "tab")
	bob.write(say("alice", "one") + say("alice", "two"))
	tab.skipTo("<body>one</body>")
	tab.skipTo("<body>two</body>")
	tab.close()
	tab = c.online(0, "alice", "tab")
	bob.write(say("alice", "three"))
	if got := tab.skipTo("<body>"); !strings.Contains(got, "<body>three</body>") {
		t.Errorf("got %s", got)
	}
}

// Who writes to a client that is away is told when somebody else takes its resource, or its session ends.
func TestTheRestIsSentBack(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]func(c *cluster){
		"bound anew":           func(c *cluster) { c.online(0, "alice", "phone") },
		"bound anew elsewhere": func(c *cluster) { c.online(1, "alice", "phone") },
		"too many sessions": func(c *cluster) {
			c.online(0, "alice", "tab")
			c.login(0, "alice", "desk") // which hears of the end of the phone when it likes
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, func(o *backend.Options) { o.Limits.PerUser = 2 })
			bob := c.online(1, "bob", "desk")
			alice := c.online(0, "alice", "phone")
			alice.resumable()
			_ = alice.conn.Close()
			c.eventually("the session waits", func() bool { return c.counter(0, "imlb_node_sessions_parked", nil) == 1 })
			const to = " to='alice@example.com/phone'"
			bob.write("<message type='chat' id='live'" + to + "><body>x</body><no-store xmlns='urn:xmpp:hints'/></message>" +
				"<message type='groupchat' id='room'" + to + "><body>x</body></message>" +
				"<iq type='get' id='ask'" + to + "><ping xmlns='urn:xmpp:ping'/></iq>")
			bob.settled()
			ends(c)
			for range 3 {
				bob.expect("^<(message|iq) [^>]*type='error'.*<service-unavailable ")
			}
		})
	}
}
