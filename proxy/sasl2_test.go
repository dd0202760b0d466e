package proxy_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"imlb/proxy"
)

const (
	sasl2NS    = " xmlns='urn:xmpp:sasl:2'"
	sasl2Offer = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms>" +
		"<authentication" + sasl2NS + "><mechanism>PLAIN</mechanism><mechanism>SCRAM-SHA-1</mechanism>" +
		"<inline><fast xmlns='urn:xmpp:fast:0'><mechanism>HT-SHA-256-NONE</mechanism></fast>" +
		"<bind xmlns='urn:xmpp:bind:0'/><sm xmlns='urn:xmpp:sm:3'/></inline></authentication></stream:features>"
	userAgent    = "<user-agent id='d4565fa7-4d72-4749-b3d3-740edbf87770'><software>T</software></user-agent>"
	bind2        = "<bind xmlns='urn:xmpp:bind:0'><tag>T</tag><enable xmlns='urn:xmpp:sm:3'/></bind>"
	boundSuccess = "<success" + sasl2NS + "><authorization-identifier>alice@example.com/T.1</authorization-identifier><bound xmlns='urn:xmpp:bind:0'/></success>"
	afterSASL2   = "<stream:features><sm xmlns='urn:xmpp:sm:3'/></stream:features>"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// authenticate is an <authenticate/>.
func authenticate(mechanism, initial, more string) string {
	return "<authenticate" + sasl2NS + " mechanism='" + mechanism + "'><initial-response>" + b64(initial) + "</initial-response>" + more + "</authenticate>"
}

func failure2(condition string) string {
	return "<failure" + sasl2NS + "><" + condition + " xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></failure>"
}

// sasl2Front starts a front whose nodes are known to offer SASL2.
func sasl2Front(t *testing.T) (*front, *node) {
	t.Helper()
	n, pick := onlyNode(t)
	f := startFront(t, pick, func(o *proxy.Options) {
		o.Mechanisms = nil
		o.Limits.MaxPreAuth, o.Limits.MaxStanza = 1<<10, 100<<10
	})
	if err := f.Learn("nodes", "example.com", sasl2Offer); err != nil {
		t.Fatal(err)
	}
	return f, n
}

// begin2 opens a client's stream, sends its first login, and opens the node's.
func begin2(f *front, n *node, auth string) (client, leg *peer) {
	f.t.Helper()
	client = f.dialTLS()
	client.send(streamOpen)
	client.expect(frontHeader + sasl2Offer)
	client.send(auth)
	leg = n.accept()
	leg.open()
	leg.send(nodeHeader + sasl2Offer)
	leg.expect(auth)
	return client, leg
}

// relays2 shows that the streams went on after a SASL2 login, with the limits that hold
// then.
func relays2(f *front, client, leg *peer) map[string]string {
	f.t.Helper()
	long := "<message><body>" + strings.Repeat("x", 50<<10) + "</body></message>"
	client.send(long)
	leg.expect(long)
	leg.send(long + streamEnd)
	client.expect(long + streamEnd)
	client.send(streamEnd)
	client.close()
	leg.close()
	return f.ended("node-closed")
}

// One round trip logs a client in and binds its resource, and the same streams go on.
func TestSASL2(t *testing.T) {
	t.Parallel()
	f, n := sasl2Front(t)
	client, leg := begin2(f, n, authenticate("PLAIN", "\x00alice\x00secret", userAgent+bind2))
	leg.send(boundSuccess + afterSASL2)
	client.expect(boundSuccess + afterSASL2)
	if r := relays2(f, client, leg); r["user"] != "alice@example.com" || r["mechanism"] != "PLAIN" || r["logged_in"] != "true" {
		t.Errorf("logged %v", r)
	}
}

// Challenges, tasks and whatever belongs to them pass through as they are.
func TestSASL2Steps(t *testing.T) {
	t.Parallel()
	f, n := sasl2Front(t)
	client, leg := begin2(f, n, authenticate("SCRAM-SHA-1", "n,,n=alice,r=abc", userAgent+"<upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-256</upgrade>"))
	for _, step := range []struct{ node, client string }{
		{"<challenge" + sasl2NS + ">cj1hYmM=</challenge>", "<response" + sasl2NS + ">Yz0=</response>"},
		{"<continue" + sasl2NS + "><additional-data>dj0=</additional-data><tasks><task>UPGR-SCRAM-SHA-256</task></tasks></continue>", "<next" + sasl2NS + " task='UPGR-SCRAM-SHA-256'/>"},
		{"<task-data" + sasl2NS + "><salt xmlns='urn:xmpp:scram-upgrade:0' iterations='4096'>QQ==</salt></task-data>", "<task-data" + sasl2NS + "><hash xmlns='urn:xmpp:scram-upgrade:0'>QQ==</hash></task-data>"},
	} {
		leg.send(step.node)
		client.expect(step.node)
		client.send(step.client)
		leg.expect(step.client)
	}
	leg.send(boundSuccess + afterSASL2)
	client.expect(boundSuccess + afterSASL2)
	relays2(f, client, leg)
}

// A client that fails may try again, in either way, on the same leg.
func TestSASL2Failure(t *testing.T) {
	t.Parallel()
	f, n := sasl2Front(t)
	client, leg := begin2(f, n, authenticate("PLAIN", "\x00alice\x00wrong", ""))
	leg.send(failure2("not-authorized"))
	client.expect(failure2("not-authorized"))
	client.send(authenticate("X", "x", ""))
	client.expect(failure2("invalid-mechanism"))
	client.send(authenticate("PLAIN", "x", ""))
	client.expect("<failure" + sasl2NS + "><malformed-request xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/><text>not PLAIN data</text></failure>")
	client.send("<abort" + sasl2NS + "/>")
	client.expect(failure2("aborted"))
	client.send(plain("alice", "secret"))
	leg.letsIn(client, plain("alice", "secret"))
	if r := f.leaves(client, leg); r["auth_failures"] != "4" || r["logged_in"] != "true" {
		t.Errorf("logged %v", r)
	}
}

// A client without an initial response is asked for it, and the node gets it where it
// would have been.
func TestSASL2NoInitialResponse(t *testing.T) {
	t.Parallel()
	f, n := sasl2Front(t)
	client := f.dialTLS()
	client.send(streamOpen)
	client.expect(frontHeader + sasl2Offer)
	client.send("<authenticate" + sasl2NS + " mechanism='PLAIN'>" + bind2 + "</authenticate>")
	client.expect("<challenge" + sasl2NS + "/>")
	client.send("<response" + sasl2NS + ">AGFsaWNlAHNlY3JldA==</response>")
	leg := n.accept()
	leg.open()
	leg.send(nodeHeader + sasl2Offer)
	leg.expect("<authenticate" + sasl2NS + " mechanism='PLAIN'><initial-response" + sasl2NS + ">AGFsaWNlAHNlY3JldA==</initial-response>" + bind2 + "</authenticate>")
	leg.send(boundSuccess + afterSASL2)
	client.expect(boundSuccess + afterSASL2)
	relays2(f, client, leg)
}

// A token of an earlier login names the user, and a stream that is resumed has no
// features any more.
func TestSASL2Fast(t *testing.T) {
	t.Parallel()
	f, n := sasl2Front(t)
	client, leg := begin2(f, n, authenticate("HT-SHA-256-NONE", "alice\x00\xff\x00\xfe", userAgent+"<fast xmlns='urn:xmpp:fast:0' count='3'/><resume xmlns='urn:xmpp:sm:3' previd='p' h='1'/>"))
	resumed := "<success" + sasl2NS + "><authorization-identifier>alice@example.com</authorization-identifier><resumed xmlns='urn:xmpp:sm:3' previd='p' h='2'/></success>"
	leg.send(resumed)
	client.expect(resumed)
	relays2(f, client, leg)
}

// Who has really logged in is recorded; the session stays where it is.
func TestSASL2AnotherUser(t *testing.T) {
	t.Parallel()
	f, n := sasl2Front(t)
	client, leg := begin2(f, n, authenticate("PLAIN", "\x00alice\x00secret", ""))
	success := "<success" + sasl2NS + "><authorization-identifier>Alice.Real@example.org/x</authorization-identifier></success>"
	leg.send(success + afterSASL2)
	client.expect(success + afterSASL2)
	if r := relays2(f, client, leg); r["user"] != "alice.real@example.org" || r["node"] != "one" {
		t.Errorf("logged %v", r)
	}
}

// On a WebSocket it is the same, one element a message.
func TestSASL2WebSocket(t *testing.T) {
	t.Parallel()
	f, n := sasl2Front(t)
	client := f.dialWS()
	client.send(wsOpen)
	client.expect(wsHeader + wsElement(sasl2Offer))
	auth := authenticate("PLAIN", "\x00alice\x00secret", bind2)
	client.send(auth)
	leg := n.accept()
	leg.open()
	leg.send(nodeHeader + sasl2Offer)
	leg.expect(auth)
	leg.send(boundSuccess + afterSASL2)
	client.expect(boundSuccess + wsElement(afterSASL2))
	long := "<message xmlns='jabber:client'><body>" + strings.Repeat("x", 20<<10) + "</body></message>"
	client.send(long)
	leg.expect(long)
	f.leaves(client, leg)
}

// Neither side may answer in the other way, nor with what is no answer.
func TestSASL2Broken(t *testing.T) {
	t.Parallel()
	f, n := sasl2Front(t)
	for name, answer := range map[string]string{
		"SASL":            saslSuccess,
		"a stanza":        "<message/>",
		"a client's word": "<next" + sasl2NS + " task='x'/>",
	} {
		t.Run("node answers with "+name, func(t *testing.T) {
			client, leg := begin2(f, n, authenticate("PLAIN", "\x00alice\x00secret", ""))
			leg.send(answer)
			client.expect(streamError("internal-server-error") + streamEnd)
			client.close()
			f.ended("node-error")
		})
	}
	for name, tt := range map[string]struct{ answer, condition string }{
		"SASL":        {"<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", "unsupported-stanza-type"},
		"a new login": {authenticate("PLAIN", "\x00bob\x00secret", ""), "unsupported-stanza-type"},
		"a stanza":    {"<iq/>", "not-authorized"},
	} {
		t.Run("client answers with "+name, func(t *testing.T) {
			client, leg := begin2(f, n, authenticate("PLAIN", "\x00alice\x00secret", ""))
			leg.send("<challenge" + sasl2NS + "/>")
			client.expect("<challenge" + sasl2NS + "/>")
			client.send(tt.answer)
			client.expect(streamError(tt.condition) + streamEnd)
			client.close()
			f.ended("protocol-error")
		})
	}
}
