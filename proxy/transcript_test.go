package proxy_test

import (
	"strings"
	"testing"
	"time"

	"imlb/proxy"
)

const (
	streamEnd = "</stream:stream>"
	tlsOffer  = "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>"
)

func streamError(condition string) string {
	return "<stream:error><" + condition + " xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"
}

func failure(condition string) string {
	return "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><" + condition + "/></failure>"
}

// exchange is what a client sends, and what it must get before it goes on.
type exchange struct{ send, want string }

// What the front answers by itself, before there is a node.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	open := exchange{streamOpen, frontHeader + frontOffer}
	auth := func(mechanism, payload string) string {
		return "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='" + mechanism + "'>" + payload + "</auth>"
	}
	tests := []struct {
		name   string
		clear  bool // on the STARTTLS port
		steps  []exchange
		reason string
	}{
		{
			"no to", false,
			[]exchange{{strings.Replace(streamOpen, " to='example.com'", "", 1), frontHeader + "<stream:error><improper-addressing xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>the stream header has no &apos;to&apos;</text></stream:error></stream:stream>"}},
			"protocol-error",
		},
		{
			"unknown host", false,
			[]exchange{{strings.Replace(streamOpen, "example.com", "example.net", 1), frontHeader + streamError("host-unknown") + streamEnd}},
			"host-unknown",
		},
		{
			"stanza before login", false,
			[]exchange{open, {"<message/>", streamError("not-authorized") + streamEnd}},
			"protocol-error",
		},
		{
			"no stanza before login", false,
			[]exchange{open, {"<enable xmlns='urn:xmpp:sm:3'/>", streamError("unsupported-stanza-type") + streamEnd}},
			"protocol-error",
		},
		{
			"whitespace, and a plain end", false,
			[]exchange{open, {" \n </stream:stream>", streamEnd}},
			"client-closed",
		},
		{
			"mechanism not offered", false,
			[]exchange{open, {auth("CRAM-MD5", ""), failure("invalid-mechanism")}, {streamEnd, streamEnd}},
			"auth-failed",
		},
		{
			"no base64", false,
			[]exchange{open, {auth("PLAIN", "!!!"), failure("incorrect-encoding")}, {streamEnd, streamEnd}},
			"auth-failed",
		},
		{
			"PLAIN without its parts", false,
			[]exchange{open, {auth("PLAIN", "YWxpY2U="), "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><malformed-request/><text xml:lang='en'>not PLAIN data</text></failure>"}, {streamEnd, streamEnd}},
			"auth-failed",
		},
		{
			"abort", false,
			[]exchange{open, {"<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", failure("aborted")}, {streamEnd, streamEnd}},
			"auth-failed",
		},
		{
			"no localpart", false,
			[]exchange{open, {plain("no@name", "x"), failure("not-authorized")}, {streamEnd, streamEnd}},
			"auth-failed",
		},
		{
			"abort after the challenge for a missing initial response", false,
			[]exchange{open, {auth("PLAIN", ""), "<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"}, {"<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", failure("aborted")}, {streamEnd, streamEnd}},
			"auth-failed",
		},
		{
			"too many failures", false,
			[]exchange{
				open,
				{auth("X", ""), failure("invalid-mechanism")},
				{auth("X", ""), failure("invalid-mechanism")},
				{auth("X", ""), failure("invalid-mechanism") + "<stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>too many failed logins</text></stream:error>" + streamEnd},
			},
			"auth-failed",
		},
		{
			"starttls inside TLS", false,
			[]exchange{open, {"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>" + streamEnd}},
			"protocol-error",
		},
		{
			"login before TLS", true,
			[]exchange{{streamOpen, frontHeader + tlsOffer}, {plain("alice", "x"), failure("encryption-required")}, {streamEnd, streamEnd}},
			"auth-failed",
		},
		{
			"stanza before TLS", true,
			[]exchange{{streamOpen, frontHeader + tlsOffer}, {"<iq/>", streamError("not-authorized") + streamEnd}},
			"protocol-error",
		},
	}
	f := startFront(t, &picker{}, func(o *proxy.Options) { o.Limits.AuthAttempts = 3 })
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var client *peer
			if tt.clear {
				client = f.dialTCP("xmpp")
			} else {
				client = f.dialTLS()
			}
			client.t = t
			for _, step := range tt.steps {
				client.send(step.send)
				client.expect(step.want)
			}
			client.eof()
			client.close()
			f.ended(tt.reason)
		})
	}
}

// Input that RFC 6120 forbids ends the stream with the condition that says so.
func TestBadInput(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, send, condition string }{
		{"garbage", "GET / HTTP/1.0\r\n\r\n", "not-well-formed"},
		{"wrong namespace", strings.Replace(streamOpen, "http://etherx.jabber.org/streams", "urn:x", 1), "invalid-namespace"},
		{"version", strings.Replace(streamOpen, "version='1.0'>", "version='0.9'>", 1), "unsupported-version"},
		{"comment", streamOpen + "<!-- -->", "restricted-xml"},
		{"mismatch", streamOpen + "<a></b>", "not-well-formed"},
		{"too long before login", streamOpen + "<a b='" + strings.Repeat("x", 20000), "policy-violation"},
	}
	f := startFront(t, &picker{}, nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client := f.dialTLS()
			client.t = t
			client.send(tt.send)
			client.open()
			e := client.element()
			if strings.HasPrefix(e, "<stream:features") {
				e = client.element()
			}
			if !strings.Contains(e, "<"+tt.condition+" ") {
				t.Errorf("got %s, want %s", e, tt.condition)
			}
			client.expect(streamEnd)
			client.close()
			f.ended("protocol-error")
		})
	}
}

// What waits too long is ended, and says so.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	f := startFront(t, &picker{}, func(o *proxy.Options) {
		o.Timeouts.Handshake, o.Timeouts.Identify = 2*time.Second, time.Second // who identifies has made a handshake in time
	})
	t.Run("handshake", func(t *testing.T) {
		client := f.dialTCP("xmpps")
		client.send("\x16\x03\x01") // the beginning of a ClientHello
		client.eof()
		f.ended("handshake-timeout")
	})
	t.Run("identify", func(t *testing.T) {
		client := f.dialTLS()
		client.send(streamOpen)
		client.expect(frontHeader + frontOffer + streamError("connection-timeout") + streamEnd)
		client.close()
		f.ended("identify-timeout")
	})
}

// Who connects and leaves is counted, and nothing else.
func TestProbe(t *testing.T) {
	t.Parallel()
	f := startFront(t, &picker{}, nil)
	for _, name := range []string{"xmpp", "xmpps", "wss"} {
		t.Run(name, func(t *testing.T) {
			f.dialTCP(name).close()
			f.ended("probe")
			f.dialTCP(name).reset()
			f.ended("probe")
		})
	}
}

func TestTLSGarbage(t *testing.T) {
	t.Parallel()
	f := startFront(t, &picker{}, nil)
	client := f.dialTCP("xmpps")
	client.send(streamOpen)
	client.close()
	f.ended("tls-failed")
}

// RFC 6120 §5.4.3.3: what follows <starttls/> in the clear must not be taken for
// what the client says in TLS.
func TestStartTLSInjection(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, nil)
	client := f.dialTCP("xmpp")
	client.send(streamOpen)
	client.expect(frontHeader + tlsOffer)
	client.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>" + streamOpen + plain("mallory", "x"))
	client.expect("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
	secured := f.secure(client)
	leg := login(secured, n, "alice")
	if r := f.leaves(secured, leg); r["user"] != "alice@example.com" {
		t.Errorf("logged in as %q", r["user"])
	}
}
