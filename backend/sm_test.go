package backend_test

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"

	"imlb/backend"
)

const (
	smEnable = "<enable xmlns='urn:xmpp:sm:3'/>"
	smAsk    = "<r xmlns='urn:xmpp:sm:3'/>"
)

func TestAcknowledgements(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	alice.write(smAsk) // too early: nothing
	alice.write(smEnable)
	alice.expect("^<enabled xmlns='urn:xmpp:sm:3'/>")
	alice.write(smEnable)
	alice.expect("^<failed .*<unexpected-request ")
	alice.write(smAsk)
	alice.expect("^<a xmlns='urn:xmpp:sm:3' h='0'/>")
	alice.write("<presence/><message to='bob@example.com'><body>x</body></message>")
	alice.skipTo("^<presence ")
	alice.write(smAsk)
	alice.expect("^<a [^>]*h='2'/>")
	alice.sync()
	alice.write(smAsk)
	alice.expect("^<a [^>]*h='3'/>")
	alice.write("<resume xmlns='urn:xmpp:sm:3' h='0' previd='x'/>")
	alice.expect("^<failed .*<unexpected-request ")
	// Three stanzas went to alice since: presence, and two answers.
	alice.write("<a xmlns='urn:xmpp:sm:3' h='2'/>")
	alice.sync()
	alice.write("<a xmlns='urn:xmpp:sm:3' h='17'/>") // of three
	alice.expect("^<a [^>]*h='4'/>")
	alice.expect("^<stream:error><undefined-condition [^>]*/><text [^>]*>h is 17, but 3 stanzas were sent, of which you had counted 2</text>" +
		"<handled-count-too-high xmlns='urn:xmpp:sm:3' h='17' send-count='3'/></stream:error>$")
	alice.end("")
}

// What was asked for while messages were on their way is answered when they are
// durable.
func TestAnswerWaitsForTheStore(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	alice.counts()
	const many = 500
	for i := range many {
		alice.write(fmt.Sprintf("<message to='bob@example.com'><body>%d</body></message>%s", i, smAsk))
	}
	last := uint64(0)
	for last < many {
		var h uint64
		if _, err := fmt.Sscanf(alice.expect("^<a "), "<a xmlns='urn:xmpp:sm:3' h='%d'/>", &h); err != nil {
			t.Fatal(err)
		}
		if h < last {
			t.Fatalf("h went from %d to %d", last, h)
		}
		if head, _ := c.head("bob"); h > head {
			t.Fatalf("h is %d, but only %d messages are stored", h, head)
		}
		last = h
	}
}

// counts has the client enable XEP-0198, without resumption.
func (cl *client) counts() {
	cl.t.Helper()
	cl.write(smEnable)
	cl.expect("^<enabled ")
}

// counted connects a client that has enabled XEP-0198 before it is online.
func (c *cluster) counted(node int, name, resource string) *client {
	c.t.Helper()
	cl := c.login(node, name, resource)
	cl.counts()
	cl.write("<presence/>")
	cl.expect("^<presence ")
	return cl
}

// A message that was written but not acknowledged is delivered at the next login; one
// that was acknowledged is not.
func TestUnacknowledgedIsDeliveredAgain(t *testing.T) {
	c := newCluster(t, 2, nil)
	alice := c.online(0, "alice", "phone")
	bob := c.counted(1, "bob", "desk")
	alice.write("<message to='bob@example.com' type='chat'><body>1</body></message>")
	bob.expect("<body>1</body>")
	bob.expect("^<r ")
	bob.write("<a xmlns='urn:xmpp:sm:3' h='2'/>")
	alice.write("<message to='bob@example.com' type='chat'><body>2</body></message>")
	bob.expect("<body>2</body>")
	_ = bob.conn.Close()
	c.gone("bob")
	bob = c.login(0, "bob", "desk")
	bob.write("<presence/>")
	bob.expectAll("<body>2</body><delay ", "^<presence ")
	bob.sync()
}

// The last acknowledgement counts, although the session has ended.
func TestLastWords(t *testing.T) {
	c := newCluster(t, 2, nil)
	alice := c.online(0, "alice", "phone")
	bob := c.counted(1, "bob", "desk")
	alice.write("<message to='bob@example.com' type='chat'><body>1</body></message>")
	bob.expect("<body>1</body>")
	bob.expect("^<r ")
	drained := make(chan error, 1)
	go func() { drained <- c.nodes[1].Drain(t.Context()) }()
	bob.expect("^<a ")
	bob.end("system-shutdown")
	bob.write("<a xmlns='urn:xmpp:sm:3' h='2'/></stream:stream>")
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	if _, delivered := c.head("bob"); delivered != 1 {
		t.Errorf("delivered %d, want 1", delivered)
	}
}

// A client that acknowledges nothing is not written to for ever.
func TestTooManyUnacknowledged(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.Unacked = 10 })
	alice := c.online(0, "alice", "phone")
	bob := c.counted(0, "bob", "desk")
	for range 12 {
		alice.write("<message to='bob@example.com' type='chat'><body>x</body></message>")
	}
	bob.skipTo("^<stream:error.*<policy-violation ")
}

// More may wait for a user than its client may leave unacknowledged: it comes as fast as the client
// takes it, and what comes meanwhile after it.
func TestMoreWaitsThanMayBeUnacknowledged(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.Unacked = 50 })
	const waits, comes = 500, 100
	alice := c.online(0, "alice", "phone")
	send := func(i int) {
		alice.write(fmt.Sprintf("<message to='bob@example.com' type='chat'><body>%d</body></message>", i))
	}
	for i := range waits {
		send(i)
	}
	alice.sync()
	bob := c.login(0, "bob", "desk")
	bob.counts()
	bob.write("<presence/>")
	for counted, got := 0, 0; got < waits+comes; {
		raw := bob.next()
		switch {
		case strings.HasPrefix(raw, "<r "):
			bob.write(fmt.Sprintf("<a xmlns='urn:xmpp:sm:3' h='%d'/>", counted))
		case strings.HasPrefix(raw, "<message"):
			counted++
			if body := between(raw, "<body>", "</body>"); body != strconv.Itoa(got) {
				t.Fatalf("message %s comes after %d others", body, got)
			}
			if got++; got <= comes {
				send(waits + got - 1)
			}
		case strings.HasPrefix(raw, "<presence"):
			counted++
		default:
			t.Fatalf("after %d messages comes %s", got, raw)
		}
	}
}

// Before XEP-0198 has begun there is nothing to acknowledge.
func TestAckTooEarly(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	for _, h := range []string{"0", "1"} {
		alice.write("<a xmlns='urn:xmpp:sm:3' h='" + h + "'/>")
		alice.expect("^<failed xmlns='urn:xmpp:sm:3'><unexpected-request ")
	}
	alice.sync()
}

// A client whose front stops is told what its session has handled, like any whose stream ends (XEP-0198 §4).
func TestLastCountAtTheEndOfTheConnection(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	alice.write("<message to='bob@example.com'><body>x</body></message>" + smAsk)
	alice.expect("^<a [^>]*h='1'/>")
	if err := alice.conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	alice.expect("^<a [^>]*h='1'/>")
	alice.gone()
	c.returns(1, "alice").resumed(id, 0, 1)
}

// A client that ends its stream right behind its messages is answered when they are stored, and told that they are: else it
// would send them again, or overtake them elsewhere.
func TestLastCountAtTheEndOfTheStream(t *testing.T) {
	for name, enable := range map[string]func(*client){
		"counted": (*client).counts, "resumable": func(cl *client) { cl.resumable() },
	} {
		t.Run(name, func(t *testing.T) {
			slow := &slowStore{asked: make(chan struct{}, 10), let: make(chan struct{})}
			c := newCluster(t, 1, func(o *backend.Options) { slow.Store, o.Store = o.Store, slow })
			alice := c.online(0, "alice", "phone")
			enable(alice)
			alice.write("<message to='bob@example.com'><body>1</body></message></stream:stream>")
			<-slow.asked
			close(slow.let)
			alice.expect("^<a [^>]*h='1'/>")
			alice.end("")
		})
	}
}
