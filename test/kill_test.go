package test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestKill kills node after node under conversations that go on in both
// directions. Clients log in again when they lose the connection. No message
// that was acknowledged may be lost, none may come twice, none out of order.
func TestKill(t *testing.T) {
	t.Parallel()
	converseThrough(t, syscall.SIGKILL)
}

// TestStopNodes does the same with nodes that have the time to stop in order.
func TestStopNodes(t *testing.T) {
	t.Parallel()
	converseThrough(t, syscall.SIGTERM)
}

// converseThrough ends all nodes but one under three conversations.
func converseThrough(t *testing.T, end syscall.Signal) {
	t.Helper()
	d := startDev(t, devOptions{users: 6, args: []string{"--nodes", "4"}})
	c := startChat(t)
	var pairs [][2]*talker
	var all []*talker
	for i := range 3 {
		a := newTalker(d, c, fmt.Sprintf("a%d", i), login{sm: true})
		b := newTalker(d, c, fmt.Sprintf("b%d", i), login{sm: true})
		pairs, all = append(pairs, [2]*talker{a, b}), append(all, a, b)
	}
	for _, p := range pairs {
		p[0].talkTo(p[1])
		p[1].talkTo(p[0])
	}
	endAllButOne(t, d, all, end, func() {
		for _, p := range pairs {
			p[0].hears(p[1])
			p[1].hears(p[0])
		}
	})
	for _, p := range pairs {
		p[0].finish(p[1])
		p[1].finish(p[0])
		p[0].logout()
		p[1].logout()
		conversation(p[0].client, p[1].client, p[0].name).check(t, p[0].name+" to "+p[1].name)
		conversation(p[1].client, p[0].client, p[1].name).check(t, p[1].name+" to "+p[0].name)
		wantNothingStored(t, d, p[0].account)
		wantNothingStored(t, d, p[1].account)
	}
	wantServing(t, d)
}

// TestKillWithoutAcks does the same to a receiver that acknowledges nothing:
// what has reached it is known from the connection alone.
func TestKillWithoutAcks(t *testing.T) {
	t.Parallel()
	d := startDev(t, devOptions{users: 2, args: []string{"--nodes", "4"}})
	c := startChat(t)
	a := newTalker(d, c, "a", login{sm: true})
	b := newTalker(d, c, "b", login{})
	a.talkTo(b)
	endAllButOne(t, d, []*talker{a, b}, syscall.SIGKILL, func() { b.hears(a) })
	a.finish(b)
	a.logout()
	b.logout()
	conversation(a.client, b.client, a.name).check(t, "a to b")
	wantNothingStored(t, d, b.account)
	wantServing(t, d)
}

// talker is a client in a conversation, online for as long as it can. What it
// says is its name and a number.
type talker struct {
	*client
	account account
}

func newTalker(d *dev, c *chat, name string, l login) *talker {
	d.t.Helper()
	x := &talker{client: c.client(name), account: d.account(d.t)}
	x.login(d, x.account, l)
	x.do("stay", map[string]any{"attempts": 100})
	return x
}

func (x *talker) talkTo(y *talker) {
	x.t.Helper()
	x.do("talk", map[string]any{"to": y.account.jid, "prefix": x.name, "every": 0.01})
}

// hears waits until x has received thirty more messages of y.
func (x *talker) hears(y *talker) {
	x.t.Helper()
	for range 30 {
		x.await("message", func(m event) bool { return strings.HasPrefix(m.Body, y.name+"-") })
	}
}

// finish ends the talk and waits until all of it that will arrive has: what one
// session sends to one user arrives in order, so the last word comes last.
func (x *talker) finish(y *talker) {
	x.t.Helper()
	x.do("hush", nil)
	x.await("talked", nil)
	last := "the last word of " + x.name
	x.send(y.account.jid, last)
	y.awaitBody(last)
}

// endAllButOne ends the nodes that have the most sessions, one after the other,
// and waits each time until everybody is back and traffic flows.
func endAllButOne(t *testing.T, d *dev, all []*talker, end syscall.Signal, traffic func()) {
	t.Helper()
	logins := func() (n int) {
		for _, x := range all {
			n += len(x.history("online"))
		}
		return n
	}
	for range len(d.Nodes) - 1 {
		traffic()
		victim := d.busiest(t)
		hosted, before := d.sessionsOn(t, victim), logins()
		d.end(t, victim, end)
		eventually(t, "new logins after the end of "+victim, func(context.Context) (bool, string) {
			return logins() >= before+hosted, fmt.Sprintf("%d of %d", logins()-before, hosted)
		})
		if extra := logins() - before - hosted; extra > 0 {
			t.Errorf("the end of %s, with %d sessions, ended %d sessions of other nodes", victim, hosted, extra)
		}
	}
	traffic()
}

// nodeStatus is what a node says of itself.
type nodeStatus struct {
	Node     string `json:"node"`
	Sessions int    `json:"sessions"`
	Draining bool   `json:"draining"`
	Ready    bool   `json:"ready"`
}

func (d *dev) sessionsOn(t *testing.T, name string) int {
	t.Helper()
	_, body, err := get(within(t, patience), d.node(t, name).Admin, "/status")
	if err != nil {
		t.Fatalf("/status of %s: %v", name, err)
	}
	var s nodeStatus
	if err := json.Unmarshal([]byte(body), &s); err != nil || s.Node != name {
		t.Fatalf("/status of %s: %q: %v", name, body, err)
	}
	return s.Sessions
}

// busiest returns the living node that has the most sessions; there must be one.
func (d *dev) busiest(t *testing.T) string {
	t.Helper()
	living := make([]string, 0, len(d.Nodes))
	sessions := make(map[string]int)
	for name := range d.admins() {
		if name != "front" {
			living = append(living, name)
			sessions[name] = d.sessionsOn(t, name)
		}
	}
	slices.Sort(living)
	name := slices.MaxFunc(living, func(x, y string) int { return sessions[x] - sessions[y] })
	if sessions[name] == 0 {
		t.Fatalf("no node has a session: %v", sessions)
	}
	return name
}

// TestKillMidStanza kills a node while it sends a client long messages: what
// the client reads is well-formed to the end, and ends with the stream error
// that tells it to come back.
func TestKillMidStanza(t *testing.T) {
	t.Parallel()
	d := startDev(t, devOptions{users: 30})
	alice, bob := apart(t, d)
	receiver, sender := d.dialTLS(t), d.dialTLS(t)
	receiver.session(d.Domain, "PLAIN", bob)
	home := placement(t, d, bob)
	receiver.write("<presence/>")
	sender.session(d.Domain, "PLAIN", alice)
	sender.sync(d)

	text := make([]byte, 60_000)
	for i := range text {
		text[i] = 'a' + byte(i%26)
	}
	go func() {
		// More than the receiver takes before the node dies; the end of the
		// test ends it.
		for i := range 10_000 {
			if _, err := fmt.Fprintf(sender.conn, "<message to='%s' type='chat' id='m%d'><body>%d %s</body></message>", bob.jid, i, i, text); err != nil {
				return
			}
		}
	}()
	for range 5 {
		receiver.message()
	}
	d.kill(t, home)
	receiver.wantShutdown()
	r := d.awaitRecord(t, "of "+bob.jid+" on the killed node", func(r record) bool {
		return r.text("user") == bob.jid && r.text("reason") == "node-lost"
	})
	if r.text("node") != home {
		t.Errorf("session record %v: want node %s", r, home)
	}
	if got := placement(t, d, bob); got == home {
		t.Errorf("the next login landed on the dead node")
	}
}

// TestKillTransports: clients on every transport are told in the same way that
// their node is gone, and can log in again at once.
func TestKillTransports(t *testing.T) {
	t.Parallel()
	d := startDev(t, devOptions{users: 30})
	alice, bob := apart(t, d)
	direct, quic, web := d.dialTLS(t), quicStream(t, d.dialQUIC(t)), d.dialWebSocket(t)
	for _, s := range []*stream{direct, quic} {
		s.session(d.Domain, "SCRAM-SHA-256", bob)
		s.write("<presence/>")
		s.sync(d)
	}
	web.session(d.Domain, bob)
	home := placement(t, d, bob)
	sender := d.dialTLS(t)
	sender.session(d.Domain, "PLAIN", alice)
	sender.write("<message to='%s' type='chat'><body>to all</body></message>", bob.jid)
	for _, s := range []*stream{direct, quic} {
		if got := s.message().body(); got != "to all" {
			t.Errorf("received %q", got)
		}
	}
	if got := web.message().body(); got != "to all" {
		t.Errorf("received %q", got)
	}

	d.kill(t, home)
	direct.wantShutdown()
	quic.wantShutdown()
	for e := web.read(); !e.is(nsStreams, "error"); e = web.read() {
		if !e.is("jabber:client", "presence") {
			t.Errorf("before the stream error: %+v", e)
		}
	}
	web.wantClosed()
	sender.sync(d)
	sender.close()
	if got := placement(t, d, bob); got == home {
		t.Error("the next login landed on the dead node")
	}
	wantNothingStored(t, d, bob)
}
