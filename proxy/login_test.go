package proxy_test

import (
	"net"
	"reflect"
	"strings"
	"testing"

	"imlb/proxy"
)

// begin opens a client's stream and sends its first login.
func begin(f *front, auth string) *peer {
	f.t.Helper()
	client := f.dialTLS()
	client.send(streamOpen)
	client.expect(frontHeader + frontOffer)
	client.send(auth)
	return client
}

// A SASL exchange passes through unchanged, one element at a time, and the front
// tells the node nothing but what the client said.
func TestChallenges(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, nil)
	first := "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'>biwsbj1hbGljZSxyPWFiYw==</auth>" // n,,n=alice,r=abc
	client := begin(f, first)
	leg := n.accept()
	if h := leg.open(); !strings.Contains(h, " to='example.com'") || !strings.Contains(h, " from='alice@example.com'") {
		t.Errorf("stream header for the node %s", h)
	}
	leg.send(nodeHeader + nodeOffer)
	leg.expect(first)
	for _, step := range []struct{ challenge, response string }{
		{"<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>cj1hYmM=</challenge>", "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>Yz0=</response>"},
		{"<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"},
	} {
		leg.send(step.challenge)
		client.expect(step.challenge)
		client.send(step.response)
		leg.expect(step.response)
	}
	leg.send(saslSuccess)
	client.expect(saslSuccess)
	if r := f.leaves(client, leg); r["mechanism"] != "SCRAM-SHA-1" || r["user"] != "alice@example.com" {
		t.Errorf("logged %v", r)
	}
}

// The node learns the language of the client's stream (RFC 6120 §4.7.4), of which it hears no
// more when the stream does not begin anew after the login.
func TestNodeLearnsTheLanguage(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, nil)
	client := f.dialTLS()
	client.send(strings.Replace(streamOpen, " to=", " xml:lang='de' to=", 1))
	client.expect(frontHeader + frontOffer)
	client.send(plain("alice", "secret"))
	leg := n.accept()
	if h := leg.open(); !strings.Contains(h, " xml:lang='de'") {
		t.Errorf("stream header for the node %s", h)
	}
	leg.send(nodeHeader + nodeOffer)
	leg.letsIn(client, plain("alice", "secret"))
	f.leaves(client, leg)
}

// A client without an initial response is asked for it, and the node gets the
// <auth/> that would have held it.
func TestNoInitialResponse(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, nil)
	client := begin(f, "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'/>")
	client.expect("<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
	client.send("<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>AGFsaWNlAHNlY3JldA==</response>")
	leg := n.accept().offer()
	leg.letsIn(client, plain("alice", "secret"))
	f.leaves(client, leg)
}

// A second login of the same user uses the same leg; another user may live on
// another node, so that the leg is closed and a new one opened.
func TestAnotherUser(t *testing.T) {
	t.Parallel()
	one, two := startNode(t, "one"), startNode(t, "two")
	pick := &picker{nodes: map[string][]proxy.Node{
		"alice@example.com": {one.at()},
		"bob@example.com":   {two.at()},
	}}
	f := startFront(t, pick, nil)
	client := begin(f, plain("alice", "wrong"))
	atOne := one.accept().offer()
	atOne.expect(plain("alice", "wrong"))
	atOne.send(failure("not-authorized"))
	client.expect(failure("not-authorized"))

	client.send(plain("Alice", "wrong again")) // the same user in canonical form
	atOne.expect(plain("Alice", "wrong again"))
	atOne.send(failure("not-authorized"))
	client.expect(failure("not-authorized"))

	client.send(plain("bob", "secret"))
	atOne.eof()
	atTwo := two.accept().offer()
	atTwo.letsIn(client, plain("bob", "secret"))
	if r := f.leaves(client, atTwo); r["node"] != "two" || r["auth_failures"] != "2" || r["user"] != "bob@example.com" {
		t.Errorf("logged %v", r)
	}
	if pick.live != 0 {
		t.Errorf("%d choices were not released", pick.live)
	}
}

// A node that cannot be reached, or refuses the stream, is passed over.
func TestNextNode(t *testing.T) {
	t.Parallel()
	dead, err := net.Listen("tcp", ownHost()+":0")
	if err != nil {
		t.Fatal(err)
	}
	draining, good := startNode(t, "draining"), startNode(t, "good")
	pick := &picker{nodes: map[string][]proxy.Node{"": {
		{Name: "dead", Addr: dead.Addr().String()}, draining.at(), good.at(),
	}}}
	f := startFront(t, pick, nil)
	dead.Close() // not before the front has its ports
	client := begin(f, plain("alice", "secret"))
	refuses := draining.accept()
	refuses.open()
	refuses.send(nodeHeader + streamError("system-shutdown") + streamEnd)
	leg := good.accept().offer()
	leg.letsIn(client, plain("alice", "secret"))
	f.leaves(client, leg)
	want := []string{"dead: refused", "draining: refused", "good: connected"}
	if !reflect.DeepEqual(pick.outcomes, want) {
		t.Errorf("reported %v, want %v", pick.outcomes, want)
	}
}

// A client that no node takes is told so: try later, or our fault.
func TestNowhere(t *testing.T) {
	t.Parallel()
	t.Run("no node", func(t *testing.T) {
		f := startFront(t, &picker{}, nil)
		client := begin(f, plain("alice", "secret"))
		client.expect(streamError("resource-constraint") + streamEnd)
		client.close()
		f.ended("no-node")
	})
	t.Run("none reachable", func(t *testing.T) {
		dead, pick := onlyNode(t)
		f := startFront(t, pick, nil)
		dead.ln.Close() // not before the front has its ports
		client := begin(f, plain("alice", "secret"))
		client.expect(streamError("internal-server-error") + streamEnd)
		client.close()
		f.ended("dial-failed")
	})
}

// A node that has closed the leg of a failed login is asked anew, unless it has
// said that it will have no more logins.
func TestLegLeftBehind(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(*peer){
		"closed":  (*peer).close,
		"broken":  (*peer).reset,
		"stopped": func(p *peer) { p.send(streamError("system-shutdown") + streamEnd); p.close() },
		"ended":   func(p *peer) { p.send(streamEnd) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, pick := onlyNode(t)
			f := startFront(t, pick, nil)
			client := begin(f, plain("alice", "wrong"))
			leg := n.accept().offer()
			leg.expect(plain("alice", "wrong"))
			leg.send(failure("not-authorized"))
			client.expect(failure("not-authorized"))
			leave(leg)
			client.send(plain("alice", "secret"))
			leg = n.accept().offer()
			leg.letsIn(client, plain("alice", "secret"))
			f.leaves(client, leg)
			if pick.live != 0 {
				t.Errorf("%d choices were not released", pick.live)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		n, pick := onlyNode(t)
		f := startFront(t, pick, nil)
		client := begin(f, plain("alice", "wrong"))
		leg := n.accept().offer()
		leg.expect(plain("alice", "wrong"))
		leg.send(failure("not-authorized") + streamError("policy-violation") + streamEnd)
		client.expect(failure("not-authorized"))
		client.send(plain("alice", "secret"))
		client.expect(streamError("policy-violation") + streamEnd)
		client.close()
		f.ended("auth-failed")
	})
}

// What goes wrong between <auth/> and its answer.
func TestBrokenLogin(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T) (*front, *peer, *peer) {
		n, pick := onlyNode(t)
		f := startFront(t, pick, nil)
		client := begin(f, plain("alice", "secret"))
		leg := n.accept().offer()
		leg.expect(plain("alice", "secret"))
		return f, client, leg
	}
	t.Run("node dies", func(t *testing.T) {
		f, client, leg := start(t)
		leg.reset()
		client.expect(streamError("system-shutdown") + streamEnd)
		client.close()
		f.ended("node-lost")
	})
	t.Run("node ends the stream", func(t *testing.T) {
		f, client, leg := start(t)
		leg.send(streamError("system-shutdown") + streamEnd)
		client.expect(streamError("system-shutdown") + streamEnd)
		client.close()
		f.ended("node-closed")
	})
	t.Run("node answers nonsense", func(t *testing.T) {
		f, client, leg := start(t)
		leg.send("<message/>")
		client.expect(streamError("internal-server-error") + streamEnd)
		client.close()
		f.ended("node-error")
	})
	t.Run("client sends a stanza", func(t *testing.T) {
		f, client, leg := start(t)
		leg.send("<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
		client.expect("<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
		client.send("<message/>")
		client.expect(streamError("not-authorized") + streamEnd)
		leg.eof()
		client.close()
		f.ended("protocol-error")
	})
	t.Run("client aborts", func(t *testing.T) {
		f, client, leg := start(t)
		leg.send("<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
		client.expect("<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
		client.send("<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
		leg.expect("<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
		leg.send(failure("aborted"))
		client.expect(failure("aborted"))
		client.close()
		f.ended("auth-failed")
	})
}
