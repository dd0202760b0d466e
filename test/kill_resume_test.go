package test

import (
	"fmt"
	"slices"
	"strconv"
	"syscall"
	"testing"
)

const nsSM = "urn:xmpp:sm:3"

// TestKillResumed kills the node of a client that resumes its session at the next one. It
// gets what it has not counted, and nothing that it has, although nothing of either was
// acknowledged: only the front knows which messages its count stands for.
func TestKillResumed(t *testing.T) {
	t.Parallel()
	d := startDev(t, devOptions{users: 16, args: []string{"--nodes", "3"}})
	alice, bob := apart(t, d)
	a, id := d.resumable(t, alice)
	b := d.dialTLS(t)
	b.session(d.Domain, "PLAIN", bob)
	b.says(alice, 0, 10)
	a.hears(0, 10)
	for i := range 3 {
		a.write("<message to='%s' type='chat'><body>from alice %d</body></message>", bob.jid, i)
	}
	a.write("<r xmlns='%s'/>", nsSM)
	a.readUntil("what was handled", func(e element) bool { return e.is(nsSM, "a") && e.attr("h") == "3" })

	d.end(t, placement(t, d, alice), syscall.SIGKILL)
	a.readUntil("the stream's error", func(e element) bool { return e.is(nsStreams, "error") })
	next := d.resumes(t, alice, id, 7, 3) // the old connection is still there
	next.hears(7, 10)
	b.says(alice, 10, 12)
	next.hears(10, 12)
	b.close()

	d.end(t, d.busiest(t), syscall.SIGKILL)
	next.readUntil("the stream's error", func(e element) bool { return e.is(nsStreams, "error") })
	last := d.resumes(t, alice, id, 12, 3)
	b = d.dialTLS(t)
	b.session(d.Domain, "PLAIN", bob)
	b.says(alice, 12, 13)
	last.hears(12, 13)
	last.write("<a xmlns='%s' h='13'/>", nsSM)
	last.close()
	b.close()
	wantNothingStored(t, d, alice)
}

// TestKillResumedRoster has another client of the user change the roster between the death of a node and the
// resumption of a session there, whose client gets the pushes then (RFC 6121 §2.1.6).
func TestKillResumedRoster(t *testing.T) {
	t.Parallel()
	d := startDev(t, devOptions{users: 16, args: []string{"--nodes", "2"}})
	alice, bob := apart(t, d)
	set := func(s *stream, item string) {
		s.write("<iq type='set' id='set'><query xmlns='jabber:iq:roster'><item %s/></query></iq>", item)
		s.readUntil("the answer", func(e element) bool { return e.attr("id") == "set" })
	}
	a, id := d.resumable(t, alice)
	a.write("<iq type='get' id='get'><query xmlns='jabber:iq:roster'/></iq>")
	a.readUntil("the roster", func(e element) bool { return e.attr("id") == "get" })
	set(a, "jid='"+bob.jid+"'")
	set(a, "jid='other@"+d.Domain+"'")
	a.write("<r xmlns='%s'/>", nsSM)
	a.readUntil("what was handled", func(e element) bool { return e.is(nsSM, "a") && e.attr("h") == "3" })
	const counted = 5 // two pushes among them

	d.end(t, placement(t, d, alice), syscall.SIGKILL)
	a.readUntil("the stream's error", func(e element) bool { return e.is(nsStreams, "error") })
	other := d.dialTLS(t)
	other.session(d.Domain, "PLAIN", alice)
	set(other, "jid='other@"+d.Domain+"' subscription='remove'")
	set(other, "jid='"+bob.jid+"' name='Bob'")
	other.close()
	next := d.resumes(t, alice, id, counted, 3)
	var pushed []string
	next.readUntil("the last push", func(e element) bool {
		if query := e.child("jabber:iq:roster", "query"); e.attr("type") == "set" {
			item := query.child("jabber:iq:roster", "item")
			pushed = append(pushed, item.attr("jid")+" "+item.attr("name")+item.attr("subscription"))
		}
		return len(pushed) > 0 && pushed[len(pushed)-1] == bob.jid+" Bobnone"
	})
	if !slices.Contains(pushed, "other@"+d.Domain+" remove") {
		t.Errorf("pushed: %q", pushed)
	}
	next.write("<a xmlns='%s' h='%d'/>", nsSM, counted+len(pushed))
	next.close()
}

// TestKillResumedUnacknowledged kills the node of a client that has acknowledged nothing of much. It gets what it has not counted.
func TestKillResumedUnacknowledged(t *testing.T) {
	t.Parallel()
	const much = 1500
	d := startDev(t, devOptions{users: 16, args: []string{"--nodes", "2"}})
	alice, bob := apart(t, d)
	a, id := d.resumable(t, alice)
	b := d.dialTLS(t)
	b.session(d.Domain, "PLAIN", bob)
	b.says(alice, 0, much)
	a.hears(0, much)
	d.end(t, placement(t, d, alice), syscall.SIGKILL)
	a.readUntil("the stream's error", func(e element) bool { return e.is(nsStreams, "error") })
	next := d.resumes(t, alice, id, much-2, 0)
	next.hears(much-2, much)
	b.says(alice, much, much+1)
	next.hears(much, much+1)
	b.close()
}

// TestKillResumedUnderTraffic does the same in the middle of a stream of messages, of which
// each arrives once, in order.
func TestKillResumedUnderTraffic(t *testing.T) {
	t.Parallel()
	const count = 1000
	d := startDev(t, devOptions{users: 16, args: []string{"--nodes", "2"}})
	alice, bob := apart(t, d)
	a, id := d.resumable(t, alice)
	home := placement(t, d, alice)
	b := d.dialTLS(t)
	b.session(d.Domain, "PLAIN", bob)
	b.says(alice, 0, count)
	a.hears(0, count/10)
	d.end(t, home, syscall.SIGKILL)
	heard := count / 10
	a.readUntil("the stream's error", func(e element) bool {
		if e.XMLName.Local != "message" {
			return e.is(nsStreams, "error")
		}
		if want := fmt.Sprint("number ", heard); e.body() != want {
			t.Errorf("received %q, want %q", e.body(), want)
		}
		heard++
		return false
	})
	next := d.resumes(t, alice, id, heard, 0)
	if heard < count {
		next.hears(heard, count)
	}
	t.Logf("the node was killed after %d of %d messages", heard, count)
	b.says(alice, count, count+1)
	next.hears(count, count+1)
	b.close()
}

// TestKillResumedDevices kills the node of a user's two clients, of which one gets copies of what is
// written to the other. Each gets every message once, although none of it was acknowledged.
func TestKillResumedDevices(t *testing.T) {
	t.Parallel()
	d := startDev(t, devOptions{users: 16, args: []string{"--nodes", "3"}})
	alice, bob := apart(t, d)
	phone, tab := d.resumer(t, alice), d.resumer(t, alice)
	tab.write("<iq type='set' id='carbons'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
	tab.handled++
	phone.awaitHandled()
	tab.awaitHandled()
	b := d.dialTLS(t)
	b.session(d.Domain, "PLAIN", bob)
	toPhone := account{jid: phone.jid}
	for end := 10; end <= 30; end += 10 {
		b.says(toPhone, end-10, end-5)
		b.says(alice, end-5, end)
		phone.hears(end)
		tab.hears(end)
		if end == 30 {
			break
		}
		home := d.busiest(t)
		b.sync(d)
		b.close()
		d.end(t, home, syscall.SIGKILL)
		for _, v := range []*resumer{phone, tab} {
			v.readUntil("the stream's error", func(e element) bool { return e.is(nsStreams, "error") })
			v.stream = d.resumes(t, alice, v.id, v.counted, v.handled)
		}
		b = d.dialTLS(t)
		b.session(d.Domain, "PLAIN", bob)
	}
	b.close()
}

// resumer is a client whose session can be resumed, and which reckons what it has heard.
type resumer struct {
	*stream
	jid, id string
	counted int      // stanzas that it has received
	handled int      // that it has sent
	texts   []string // of messages, and of those that it got copies of
}

// resumer logs a client in that is there.
func (d *dev) resumer(t *testing.T, a account) *resumer {
	t.Helper()
	v := &resumer{stream: d.dialTLS(t), handled: 1}
	v.jid = v.session(d.Domain, "PLAIN", a)
	v.write("<enable xmlns='%s' resume='true'/><presence/>", nsSM)
	v.id = v.readUntil("the answer to <enable/>", func(e element) bool { return e.is(nsSM, "enabled") }).attr("id")
	v.readUntil("own presence", func(e element) bool { return v.count(e) && e.attr("from") == v.jid })
	return v
}

// count reckons with an element, and tells whether it is a stanza.
func (v *resumer) count(e element) bool {
	switch {
	case e.XMLName.Space != "jabber:client":
		return false
	case e.XMLName.Local == "message":
		if copied := e.child("urn:xmpp:carbons:2", "received"); copied.XMLName.Local != "" {
			e = copied.child("urn:xmpp:forward:0", "forwarded").child("jabber:client", "message")
		}
		v.texts = append(v.texts, e.body())
	}
	v.counted++
	return true
}

// awaitHandled reads until the server has handled, for good, all that was sent.
func (v *resumer) awaitHandled() {
	v.t.Helper()
	v.write("<r xmlns='%s'/>", nsSM)
	v.readUntil("what was handled", func(e element) bool {
		return !v.count(e) && e.is(nsSM, "a") && e.attr("h") == strconv.Itoa(v.handled)
	})
}

// hears reads the message of the last of a number of numbers: it and those before it have come by
// then, each once, in order.
func (v *resumer) hears(end int) {
	v.t.Helper()
	v.readUntil("the last message", func(e element) bool { return v.count(e) && len(v.texts) >= end })
	for i, text := range v.texts {
		if want := fmt.Sprint("number ", i); text != want {
			v.t.Fatalf("%s received %q, want %q next", v.jid, v.texts, want)
		}
	}
}

// resumable is a session of a user who is there, and its id.
func (d *dev) resumable(t *testing.T, a account) (s *stream, id string) {
	t.Helper()
	s = d.dialTLS(t)
	s.session(d.Domain, "PLAIN", a)
	s.write("<presence/>")
	s.readUntil("own presence", func(e element) bool { return e.XMLName.Local == "presence" })
	s.write("<enable xmlns='%s' resume='true'/>", nsSM)
	return s, s.readUntil("the answer to <enable/>", func(e element) bool { return e.is(nsSM, "enabled") }).attr("id")
}

// resumes goes on with a session of which the client has counted h stanzas, and the server
// has to have handled some.
func (d *dev) resumes(t *testing.T, a account, id string, h, handled int) *stream {
	t.Helper()
	s := d.dialTLS(t)
	s.open(d.Domain)
	if got := s.plain(a, a.password); !got.is(nsSASL, "success") {
		t.Fatalf("login: %+v", got)
	}
	s.open(d.Domain)
	s.write("<resume xmlns='%s' previd='%s' h='%d'/>", nsSM, id, h)
	got := s.read()
	if !got.is(nsSM, "resumed") || got.attr("previd") != id || got.attr("h") != strconv.Itoa(handled) {
		t.Fatalf("the answer to <resume/> is %+v, want <resumed/> with h='%d'", got, handled)
	}
	return s
}

// says sends messages that are called by numbers.
func (s *stream) says(to account, from, end int) {
	s.t.Helper()
	for i := from; i < end; i++ {
		s.write("<message to='%s' type='chat'><body>number %d</body></message>", to.jid, i)
	}
}

// hears reads the messages of these numbers, and no others, up to the last of them.
func (s *stream) hears(from, end int) {
	s.t.Helper()
	var want, got []string
	for i := from; i < end; i++ {
		want = append(want, fmt.Sprintf("number %d", i))
	}
	for len(got) == 0 || got[len(got)-1] != want[len(want)-1] {
		got = append(got, s.message().body())
	}
	if !slices.Equal(got, want) {
		s.t.Fatalf("received %q, want %q", got, want)
	}
}
