package bosh_test

import (
	"crypto/sha1" //nolint:gosec // G505: as §15 has it
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"imlb/proxy/bosh"
)

const (
	ns    = "xmlns='http://jabber.org/protocol/httpbind'"
	empty = "<body " + ns + "/>"
	gone  = "<body " + ns + " type='terminate' condition='item-not-found'/>"
	end   = "<body " + ns + " type='terminate'/>"
)

// talk is a session with its client. What a request is answered with is known by its name.
type talk struct {
	t    *testing.T
	s    *bosh.Session
	now  time.Time
	sent map[*bosh.Request]string
	got  []string // name: answer
}

// begin begins a session with rid 100, whose first answer is the empty features.
func begin(t *testing.T, attrs string) *talk {
	t.Helper()
	c := &talk{t: t, now: time.Unix(1000, 0), sent: make(map[*bosh.Request]string)}
	r := c.parse("100", "<body "+ns+" rid='100' to='example.com' "+attrs+"/>")
	s, err := bosh.New(c.now, "S", r, bosh.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	c.s = s
	return c
}

// opened begins one and has its first answer given out.
func opened(t *testing.T, attrs string) *talk {
	t.Helper()
	c := begin(t, attrs)
	c.takes("open example.com")
	c.sends("<f/>")
	c.got = nil
	return c
}

func (c *talk) parse(name, raw string) *bosh.Request {
	c.t.Helper()
	r, err := bosh.Parse([]byte(raw), 0)
	if err != nil {
		c.t.Fatal(err)
	}
	c.sent[r] = name
	return r
}

// asks has the client send a request of that rid.
func (c *talk) asks(name string, rid int, attrs string, payload ...string) *bosh.Request {
	c.t.Helper()
	r := c.parse(name, fmt.Sprintf("<body %s xmlns:xmpp='urn:xmpp:xbosh' sid='S' rid='%d' %s>%s</body>", ns, rid, attrs, strings.Join(payload, "")))
	c.s.Receive(c.now, r)
	c.collect()
	return r
}

// sends has the server send elements.
func (c *talk) sends(raw ...string) (last int) {
	for _, r := range raw {
		last = c.s.Send([]byte(r))
	}
	c.s.Flush(c.now)
	c.collect()
	return last
}

// ticks lets time pass.
func (c *talk) ticks(d time.Duration) {
	c.now = c.now.Add(d)
	if by := c.s.Deadline(); !by.IsZero() && !c.now.Before(by) {
		c.s.Tick(c.now)
	}
	c.collect()
}

func (c *talk) collect() {
	for _, a := range c.s.Answers() {
		c.got = append(c.got, c.sent[a.To]+": "+string(a.Body))
		delete(c.sent, a.To)
	}
}

// answered checks what was answered since the last call.
func (c *talk) answered(want ...string) {
	c.t.Helper()
	if fmt.Sprint(c.got) != fmt.Sprint(want) {
		c.t.Errorf("answered\n%q\nwant\n%q", c.got, want)
	}
	c.got = nil
}

// takes checks what the client has brought.
func (c *talk) takes(want ...string) {
	c.t.Helper()
	var got []string
	for {
		e, ok := c.s.Next(c.now)
		if !ok {
			break
		}
		switch e.Kind {
		case bosh.Opened:
			got = append(got, "open "+e.Request.To)
		case bosh.Payload:
			got = append(got, string(e.Raw))
		case bosh.Closed:
			got = append(got, "close")
		case bosh.Failed:
			got = append(got, "failed "+e.Condition)
		}
	}
	c.collect()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		c.t.Errorf("took %q, want %q", got, want)
	}
}

func body(payload string) string { return "<body " + ns + ">" + payload + "</body>" }

func failed(condition string) string {
	return "<body " + ns + " type='terminate' condition='" + condition + "'/>"
}

// §7: what a session begins with.
func TestCreation(t *testing.T) {
	t.Parallel()
	const common = "<body " + ns + " sid='S' "
	for attrs, want := range map[string]string{
		"":                                     common + "wait='60' hold='1' requests='2' inactivity='60' maxpause='120' ver='1.11'",
		"wait='30' hold='1' ver='1.6'":         common + "wait='30' hold='1' requests='2' inactivity='60' maxpause='120' ver='1.6'",
		"wait='3000' hold='5' ver='2.0'":       common + "wait='60' hold='1' requests='2' inactivity='60' maxpause='120' ver='1.11'",
		"ack='1' ver='x'":                      common + "wait='60' hold='1' requests='2' inactivity='60' maxpause='120' ver='1.11'",
		"hold='0'":                             common + "wait='60' hold='0' requests='1' inactivity='120' polling='5' maxpause='120' ver='1.11'",
		"wait='0' hold='1' content='text/xml'": common + "wait='0' hold='1' requests='2' inactivity='120' polling='5' maxpause='120' ver='1.11'",
	} {
		c := begin(t, attrs)
		c.takes("open example.com")
		c.s.Hello("example.com", "id")
		c.sends("<stream:features/>")
		hello := " xmlns:stream='http://etherx.jabber.org/streams' xmlns:xmpp='urn:xmpp:xbosh' xmpp:version='1.0' xmpp:restartlogic='true' from='example.com' authid='id'"
		switch {
		case strings.Contains(attrs, "'0'"): // such a client has to ask for the features
			c.answered("100: " + want + "/>")
			c.asks("101", 101, "")
			c.answered("101: <body " + ns + hello + "><stream:features/></body>")
			continue
		case strings.Contains(attrs, "ack"):
			hello += " ack='100'"
		}
		c.answered("100: " + want + hello + "><stream:features/></body>")
	}
	for _, attrs := range []string{"content='text/html'", "content='text/xml; charset=latin1'", "content='a\u0001'"} {
		r, err := bosh.Parse([]byte("<body "+ns+" rid='1' "+strings.ReplaceAll(attrs, "\u0001", "&#9;b")+"/>"), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bosh.New(time.Now(), "S", r, bosh.Limits{}); err == nil {
			t.Errorf("%s is agreed on", attrs)
		}
	}
}

// A client that asks for what there is not gets what there is, and learns so from the first answer; what
// it says of several streams is ignored (§16.3).
func TestLeftOut(t *testing.T) {
	t.Parallel()
	c := begin(t, "hold='3' wait='60' ver='1.11' route='xmpp:other.example:9999' secure='true'")
	c.takes("open example.com")
	c.sends("<f/>")
	c.answered("100: <body " + ns + " sid='S' wait='60' hold='1' requests='2' inactivity='60' maxpause='120' ver='1.11'><f/></body>")
	c.asks("101", 101, "to='other.example' route='xmpp:other.example:9999' xml:lang='de'")
	c.takes()
	c.asks("102", 102, "stream='second' hold='2' wait='5'", "<a/>")
	c.takes("<a/>")
	c.answered("101: " + empty)
	c.ticks(59 * time.Second)
	c.answered()
	c.sends("<b/>")
	c.answered("102: " + body("<b/>"))
}

// §8: a request is held until there is something, another one comes, or it is time.
func TestHold(t *testing.T) {
	t.Parallel()
	c := opened(t, "wait='30' hold='1'")
	c.asks("a", 101, "")
	c.answered()
	c.sends("<m/>", "<n/>")
	c.answered("a: " + body("<m/><n/>"))
	c.sends("<o/>") // waits for the next request
	c.answered()
	c.asks("b", 102, "", "<iq/>")
	c.takes("<iq/>")
	c.answered("b: " + body("<o/>"))
	c.asks("c", 103, "")
	c.asks("d", 104, "", "<p/>")
	c.takes("<p/>")
	c.answered("c: " + empty)
	c.ticks(29 * time.Second)
	c.answered()
	c.ticks(time.Second)
	c.answered("d: " + empty)
}

// §14.2: requests are taken and answered in their order.
func TestOrder(t *testing.T) {
	t.Parallel()
	c := opened(t, "")
	c.asks("b", 102, "", "<b/>")
	c.takes()
	c.sends("<m/>")
	c.answered()
	c.asks("a", 101, "", "<a/>")
	c.takes("<a/>", "<b/>")
	c.answered("a: " + body("<m/>"))
	c.sends("<n/>")
	c.answered("b: " + body("<n/>"))

	c.asks("too far", 105, "")
	c.answered("too far: " + gone)
	c.takes("failed item-not-found")
}

// The others of a session that fails are told that it was another one.
func TestOtherRequest(t *testing.T) {
	t.Parallel()
	c := opened(t, "")
	c.asks("a", 101, "")
	c.asks("x", 110, "")
	c.answered("x: "+gone, "a: "+failed("other-request"))
	c.asks("y", 102, "")
	c.answered("y: " + gone)
}

// §14.3: who asks again gets the same.
func TestRepeat(t *testing.T) {
	t.Parallel()
	c := opened(t, "")
	c.asks("a", 101, "", "<a/>")
	c.takes("<a/>")
	c.sends("<m/>")
	c.asks("a again", 101, "", "<a/>")
	c.takes()
	c.answered("a: "+body("<m/>"), "a again: "+body("<m/>"))
	c.asks("b", 102, "", "<b/>")
	c.asks("b again", 102, "", "<b/>")
	c.takes("<b/>")
	c.answered("b: <body " + ns + " type='error'/>")
	c.sends("<n/>")
	c.answered("b again: " + body("<n/>"))
	c.asks("c", 103, "")
	c.sends("<o/>")
	c.asks("a, too late", 101, "", "<a/>")
	c.answered("c: "+body("<o/>"), "a, too late: "+gone)
}

// Nothing is given to a connection that has broken.
func TestGone(t *testing.T) {
	t.Parallel()
	c := opened(t, "")
	a := c.asks("a", 101, "")
	c.s.Gone(c.now, a)
	c.sends("<m/>")
	c.answered()
	c.asks("a again", 101, "")
	c.answered("a again: " + body("<m/>"))

	b := c.asks("b", 102, "")
	c.s.Gone(c.now, b)
	c.asks("c", 103, "")
	c.sends("<n/>")
	c.answered("c: " + body("<n/>"))
	c.asks("b again", 102, "")
	c.answered("b again: " + empty)

	early := c.asks("early", 105, "")
	c.s.Gone(c.now, early)
	c.asks("d", 104, "")
	c.asks("early again", 105, "")
	c.answered("d: " + empty)
}

// What a client has received is known by its later requests alone.
func TestReceived(t *testing.T) {
	t.Parallel()
	check := func(c *talk, want int) {
		t.Helper()
		if got := c.s.Received(); got != want {
			t.Errorf("received %d of what was sent, want %d", got, want)
		}
	}
	for _, acks := range []bool{true, false} {
		attrs := ""
		if acks {
			attrs = "ack='1'"
		}
		c := opened(t, attrs) // element 1
		check(c, 0)
		c.asks("a", 101, "") // brings nothing, so nothing else is under way
		check(c, 1)
		c.sends("<m/>")
		check(c, 1)
		c.asks("b", 102, "ack='100'", "<c/>") // may have crossed the answer
		check(c, 1)
		c.takes("<c/>")
		c.sends("<n/>")
		c.asks("c", 103, "ack='101'", "<c/>") // may have crossed that one, for which there was no room before
		check(c, 2)
		c.asks("d", 104, "ack='102'")
		check(c, 3)
		c.takes("<c/>")
		c.sends("<o/>")
		check(c, 3)
		c.s.End(c.now, "system-shutdown", nil)
		c.asks("e", 105, "")
		check(c, 4)
	}
}

// A client that acknowledges may ask again for what it has not.
func TestAcknowledged(t *testing.T) {
	t.Parallel()
	c := opened(t, "ack='1'")
	c.asks("a", 101, "")
	c.sends("<m/>")
	c.asks("b", 102, "ack='100'")
	c.asks("a again", 101, "")
	c.answered("a: "+body("<m/>"), "a again: "+body("<m/>"))
	c.asks("c", 103, "ack='101'")
	c.answered("b: <body " + ns + " ack='103'/>")
	c.asks("a, too late", 101, "")
	c.answered("a, too late: "+gone, "c: "+failed("other-request"))
}

// §10: a client that asks for nothing is gone, without a word.
func TestInactivity(t *testing.T) {
	t.Parallel()
	c := opened(t, "")
	c.sends("<m/>")
	c.ticks(59 * time.Second)
	if c.s.Inactive() {
		t.Error("too early")
	}
	c.asks("a", 101, "")
	c.answered("a: " + body("<m/>"))
	b := c.asks("b", 102, "")
	c.ticks(50 * time.Second)
	c.s.Gone(c.now, b)
	c.ticks(59 * time.Second)
	if c.s.Inactive() {
		t.Error("too early")
	}
	early := c.asks("early", 104, "")
	_ = early
	c.ticks(61 * time.Second)
	if !c.s.Inactive() || c.s.Received() != 2 {
		t.Errorf("inactive: %v; received %d", c.s.Inactive(), c.s.Received())
	}
	c.answered("early: " + gone)
	if !c.s.Deadline().IsZero() {
		t.Error("it is still waited for")
	}
}

// §10: who asks for a pause gets one, and no payload.
func TestPause(t *testing.T) {
	t.Parallel()
	c := opened(t, "")
	c.asks("a", 101, "")
	c.asks("pause", 102, "pause='120'")
	c.answered("a: "+empty, "pause: "+empty)
	c.sends("<m/>")
	c.ticks(119 * time.Second)
	c.asks("b", 103, "")
	c.answered("b: " + body("<m/>"))
	c.ticks(60 * time.Second)
	if !c.s.Inactive() {
		t.Error("the pause goes on")
	}

	c = opened(t, "")
	c.asks("too long", 101, "pause='121'")
	c.answered()
	c.sends("<m/>")
	c.answered("too long: " + body("<m/>"))
	c.asks("much too long", 102, "pause='18446744073'")
	c.answered()
	c.sends("<m/>")
	c.answered("much too long: " + body("<m/>"))
}

// §13: the client ends the session, and hears of the end when the server has.
func TestTerminate(t *testing.T) {
	t.Parallel()
	c := opened(t, "")
	c.asks("a", 101, "")
	c.asks("end", 102, "type='terminate'", "<presence type='unavailable'/>")
	c.answered("a: " + empty)
	c.takes("<presence type='unavailable'/>", "close")
	c.ticks(time.Hour)
	c.answered()
	c.s.Send([]byte("<m/>"))
	c.s.End(c.now, "remote-stream-error", []byte("<e/>"))
	c.collect()
	c.answered("end: <body " + ns + " type='terminate'><m/></body>")
	if !c.s.Told() {
		t.Error("it goes on")
	}

	c = opened(t, "") // as a page that is closed does it
	r := c.asks("end", 101, "type='terminate'")
	c.s.Gone(c.now, r)
	c.takes("close")
	c.s.End(c.now, "", nil)
	if !c.s.Told() {
		t.Error("it waits for a client that asks no more")
	}
}

// §17.2: the server ends the session; what was sent before comes first.
func TestEnd(t *testing.T) {
	t.Parallel()
	const shutdown = "<body " + ns + " type='terminate' condition='system-shutdown'/>"
	c := opened(t, "")
	c.asks("a", 101, "")
	c.s.Send([]byte("<m/>"))
	c.s.End(c.now, "system-shutdown", nil)
	c.collect()
	c.answered("a: " + body("<m/>"))
	if c.s.Told() {
		t.Error("the client does not know yet")
	}
	c.asks("b", 102, "", "<iq/>")
	c.answered("b: " + shutdown)
	c.takes()
	c.asks("c", 103, "")
	c.answered("c: " + gone)

	c = begin(t, "")
	c.s.End(c.now, "host-unknown", nil)
	c.collect()
	c.answered("100: " + failed("host-unknown"))
}

// §11: no more requests than were agreed on, but for an end.
func TestOveractivity(t *testing.T) {
	t.Parallel()
	c := opened(t, "")
	c.asks("a", 101, "", "<a/>")
	c.asks("b", 102, "", "<b/>") // neither was taken
	c.answered()
	c.asks("c", 103, "", "<c/>")
	c.answered("c: "+failed("policy-violation"), "a: "+failed("other-request"), "b: "+failed("other-request"))
	c.takes("<a/>", "<b/>", "failed policy-violation")
	if c.sends("<m/>") <= c.s.Received() {
		t.Error("what came too late counts as received")
	}

	c = opened(t, "")
	c.asks("a", 101, "", "<a/>")
	c.sends("<m/>") // who waits for the client to read does not wait for ever
	c.answered("a: " + body("<m/>"))
	much := "<b>" + strings.Repeat("b", 70<<10) + "</b>"
	c.asks("b", 102, "", much)
	c.sends("<m/>")
	c.answered()
	c.takes("<a/>", much)
	c.answered("b: " + body("<m/>"))

	c = opened(t, "")
	c.asks("a", 101, "", "<a/>")
	c.asks("b", 102, "", "<b/>")
	c.asks("end", 103, "type='terminate'")
	c.takes("<a/>", "<b/>", "close")
	c.answered("a: "+empty, "b: "+empty)
}

// A broken connection does not make room for more.
func TestOveractivityGone(t *testing.T) {
	t.Parallel()
	c := opened(t, "")
	for rid := 101; rid < 103; rid++ {
		c.s.Gone(c.now, c.asks("gone", rid, "", "<a/>"))
	}
	c.asks("c", 103, "", "<c/>")
	c.answered("c: " + failed("policy-violation"))
}

// §12: a client that polls does so in peace.
func TestPolling(t *testing.T) {
	t.Parallel()
	c := begin(t, "hold='0'")
	c.takes("open example.com")
	c.asks("a", 101, "")
	c.ticks(5 * time.Second)
	c.asks("b", 102, "")
	c.sends("<m/>")
	c.ticks(5 * time.Second)
	c.asks("c", 103, "") // brings something
	c.asks("d", 104, "")
	c.asks("e", 105, "", "<iq/>")
	c.takes("<iq/>")
	c.got = c.got[1:]
	c.answered("a: "+empty, "b: "+empty, "c: "+body("<m/>"), "d: "+empty, "e: "+empty)
	c.asks("f", 106, "")
	c.ticks(4 * time.Second)
	c.asks("g", 107, "")
	c.answered("f: "+empty, "g: "+failed("policy-violation"))
}

// §15: a sequence of keys.
func TestKeys(t *testing.T) {
	t.Parallel()
	sequence := func(seed string, n int) []string {
		keys := []string{seed}
		for range n {
			sum := sha1.Sum([]byte(keys[0])) //nolint:gosec // G401: see the import
			keys = append([]string{hex.EncodeToString(sum[:])}, keys...)
		}
		return keys
	}
	one, two := sequence("one", 3), sequence("two", 3)
	c := opened(t, "newkey='"+one[0]+"'")
	c.asks("a", 101, "key='"+one[1]+"'")
	c.asks("b", 102, "key='"+one[2]+"' newkey='"+two[0]+"'")
	c.asks("c", 103, "key='"+two[1]+"'")
	c.answered("a: "+empty, "b: "+empty)
	c.asks("stolen", 104, "", "<iq/>")
	c.answered("stolen: "+gone, "c: "+failed("other-request"))
	c.takes("failed item-not-found")

	c = opened(t, "newkey='"+one[0]+"'")
	c.asks("a", 101, "key='"+one[1]+"'")
	c.asks("a again", 101, "key='x'")
	c.answered("a again: "+gone, "a: "+failed("other-request"))
}

// XEP-0206 §5: a stream is opened anew.
func TestRestart(t *testing.T) {
	t.Parallel()
	c := opened(t, "")
	c.asks("a", 101, "xmpp:restart='true'")
	c.takes("open example.com")
	c.s.Hello("example.com", "two")
	c.sends("<f/>")
	c.asks("b", 102, "to='example.org' xmpp:restart='1'", "<iq/>")
	c.takes("open example.org", "<iq/>")
	c.got = c.got[1:]
	c.answered()
}
