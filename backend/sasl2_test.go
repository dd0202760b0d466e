package backend_test

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/xdg-go/scram"

	"imlb/backend"
)

const (
	nsSASL2     = "urn:xmpp:sasl:2"
	phoneID     = "d4565fa7-4d72-4749-b3d3-740edbf87770"
	phone       = "<user-agent id='" + phoneID + "'><software>T</software></user-agent>"
	desk        = "<user-agent id='11111111-4d72-4749-b3d3-740edbf87770'/>"
	aliceSecret = "\x00alice\x00pencil"
)

// authenticate is an <authenticate/> with an initial response.
func authenticate(mechanism, initial string, more ...string) string {
	return "<authenticate xmlns='" + nsSASL2 + "' mechanism='" + mechanism + "'><initial-response>" + b64(initial) +
		"</initial-response>" + strings.Join(more, "") + "</authenticate>"
}

func bind(inside ...string) string {
	return "<bind xmlns='urn:xmpp:bind:0'>" + strings.Join(inside, "") + "</bind>"
}

// failure2 is a pattern for a failed login.
func failure2(condition string) string {
	return "^<failure xmlns='urn:xmpp:sasl:2'><" + condition + " xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
}

// login2 logs a client in by SASL2, and returns what <success/> says.
func (cl *client) login2(auth string) string {
	cl.t.Helper()
	cl.open()
	cl.write(auth)
	success := cl.expect("^<success xmlns='urn:xmpp:sasl:2'>")
	cl.expect("^<stream:features>")
	cl.jid = between(success, "<authorization-identifier>", "</authorization-identifier>")
	return success
}

func TestSASL2Offered(t *testing.T) {
	c := newCluster(t, 1, nil)
	const head, tail = "<authentication xmlns='urn:xmpp:sasl:2'><mechanism>SCRAM-SHA-512</mechanism><mechanism>SCRAM-SHA-256</mechanism><mechanism>SCRAM-SHA-1</mechanism><mechanism>PLAIN</mechanism>" +
		"<inline><fast xmlns='urn:xmpp:fast:0'>",
		"<mechanism>HT-SHA-256-NONE</mechanism></fast><bind xmlns='urn:xmpp:bind:0'><inline><feature var='urn:xmpp:carbons:2'/>" +
			"<feature var='urn:xmpp:csi:0'/><feature var='urn:xmpp:sm:3'/></inline></bind><sm xmlns='urn:xmpp:sm:3'/></inline></authentication></stream:features>"
	const bound = "<mechanism>HT-SHA-256-EXPR</mechanism><mechanism>HT-SHA-256-ENDP</mechanism>"
	for _, tt := range []struct {
		name string
		leg  leg
		want string
	}{
		{"TLS", leg{}, head + tail},
		{"TLS that can be bound to", boundLeg("exported", "hash"), head + bound + tail},
		{"in clear", leg{insecure: true}, ""},
	} {
		cl := c.dial(0, tt.leg)
		features := cl.open()
		if _, got, _ := strings.Cut(features, "<authentication "); tt.want == "" && got != "" || !strings.HasSuffix(features, tt.want) {
			t.Errorf("%s: got %s, want %s", tt.name, features, tt.want)
		}
		_ = cl.conn.Close()
	}
}

// TestSASL2Answers holds the answers of XEP-0388 §2.
func TestSASL2Answers(t *testing.T) {
	const success = "^<success xmlns='urn:xmpp:sasl:2'><authorization-identifier>alice@example.com</authorization-identifier></success>$"
	unfinished := "<authenticate xmlns='" + nsSASL2 + "' mechanism='PLAIN'/>"
	answers(t, []dialogue{
		{name: "plain", steps: []string{authenticate("PLAIN", aliceSecret, phone), success}},
		{name: "as oneself", steps: []string{authenticate("PLAIN", "Alice@example.com"+aliceSecret), success}},
		{name: "asked for", steps: []string{
			unfinished, "^<challenge xmlns='urn:xmpp:sasl:2'/>$",
			"<response xmlns='" + nsSASL2 + "'>" + b64(aliceSecret) + "</response>", success,
		}},
		{name: "wrong password", steps: []string{authenticate("PLAIN", "\x00alice\x00pen", bind()), failure2("not-authorized")}},
		{name: "as another user", steps: []string{authenticate("PLAIN", "bob@example.com"+aliceSecret), failure2("invalid-authzid")}},
		{name: "malformed", steps: []string{authenticate("PLAIN", "alice"), failure2("malformed-request")}},
		{name: "no base64", steps: []string{strings.Replace(authenticate("PLAIN", aliceSecret), b64(aliceSecret), "?", 1), failure2("incorrect-encoding")}},
		{name: "no mechanism", steps: []string{"<authenticate xmlns='" + nsSASL2 + "'/>", failure2("invalid-mechanism")}},
		{name: "unknown mechanism", steps: []string{authenticate("X", "x"), failure2("invalid-mechanism")}},
		{name: "in clear", insecure: true, steps: []string{authenticate("SCRAM-SHA-1", "n,,n=alice,r=x"), failure2("encryption-required")}},
		{name: "bad inline element", steps: []string{authenticate("PLAIN", aliceSecret, "<fast xmlns='urn:xmpp:fast:0' count='0'/>"), failure2("malformed-request")}},
		{name: "abort", steps: []string{
			authenticate("SCRAM-SHA-1", "n,,n=alice,r=nonce"), "^<challenge xmlns='urn:xmpp:sasl:2'>",
			"<abort xmlns='" + nsSASL2 + "'><text>no</text></abort>", failure2("aborted"),
		}},
		{name: "abort of nothing", steps: []string{"<abort xmlns='" + nsSASL2 + "'/>", failure2("aborted")}},
		{name: "a task", steps: []string{"<next xmlns='" + nsSASL2 + "' task='x'/>", failure2("malformed-request")}},
		{name: "unknown element", steps: []string{"<x xmlns='" + nsSASL2 + "'/>", failure2("malformed-request")}},
		{name: "again in both ways", steps: []string{
			authenticate("PLAIN", "\x00alice\x00pen"), failure2("not-authorized"),
			auth("PLAIN", b64("\x00alice\x00pen")), "^<failure xmlns='" + nsSASL + "'><not-authorized/></failure>$",
			authenticate("PLAIN", aliceSecret), success,
		}},
		{name: "the other way after all", steps: []string{
			authenticate("PLAIN", "\x00alice\x00pen"), failure2("not-authorized"),
			auth("PLAIN", b64(aliceSecret)), "^<success xmlns='" + nsSASL + "'/>$",
		}},
		{name: "answered in the other way", steps: []string{
			unfinished, "^<challenge xmlns='urn:xmpp:sasl:2'/>$",
			"<response xmlns='" + nsSASL + "'>" + b64(aliceSecret) + "</response>", "^<stream:error><not-authorized ",
		}},
	})
}

// Whom the stream's header names and whom the client wants to be are one (XEP-0388 §2.3).
func TestSASL2From(t *testing.T) {
	c := newCluster(t, 1, nil)
	for _, tt := range []struct{ from, authzid, want string }{
		{"Alice@example.com/x", "alice@example.com", "^<success "},
		{"bob@example.com", "", "^<success "}, // it names nobody itself
		{"bob@example.com", "alice@example.com", failure2("invalid-authzid")},
		{"@", "alice@example.com", failure2("invalid-authzid")},
	} {
		cl := c.dial(0, leg{})
		cl.write(strings.Replace(streamHeader, " to=", " from='"+tt.from+"' to=", 1))
		cl.opened()
		cl.write(authenticate("PLAIN", tt.authzid+aliceSecret))
		cl.expect(tt.want)
		_ = cl.conn.Close()
	}
}

// Nobody of another domain can log in (XEP-0388 §2.1).
func TestForeignFrom(t *testing.T) {
	c := newCluster(t, 1, nil)
	cl := c.dial(0, leg{})
	cl.write(strings.Replace(streamHeader, " to=", " from='alice@example.org' to=", 1))
	cl.token()
	cl.end("invalid-from")
}

// The stream goes on after a login, and a resource can be bound as ever.
func TestSASL2ThenBind(t *testing.T) {
	c := newCluster(t, 1, nil)
	cl := c.dial(0, leg{})
	cl.open()
	cl.write(authenticate("PLAIN", aliceSecret) +
		"<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>desk</resource></bind></iq>")
	cl.expect("^<success .*>alice@example.com<")
	cl.expect("^<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>.*<sm xmlns='urn:xmpp:sm:3'/>")
	cl.expect("^<iq type='result' id='b'.*<jid>alice@example.com/desk</jid>")
	cl.write("<message to='alice@example.com/desk'><body>" + strings.Repeat("x", 20_000) + "</body></message>") // the limits of a login are over
	cl.expect("^<message .*xxx")
	cl.close()
}

// The server's proof comes with <success/>.
func TestSASL2Scram(t *testing.T) {
	c := newCluster(t, 1, nil)
	sc, err := scram.SHA256.NewClient("alice", password, "")
	if err != nil {
		t.Fatal(err)
	}
	conv := sc.NewConversation()
	step := func(challenge string) string {
		answer, err := conv.Step(challenge)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	cl := c.dial(0, leg{})
	cl.open()
	cl.write(authenticate("SCRAM-SHA-256", step(""), bind()))
	challenge := payload(t, cl.expect("^<challenge xmlns='urn:xmpp:sasl:2'>"))
	cl.write("<response xmlns='" + nsSASL2 + "'>" + b64(step(challenge)) + "</response>")
	success := cl.expect("^<success xmlns='urn:xmpp:sasl:2'><additional-data>.*<authorization-identifier>alice@example.com/[^/]*</auth.*<bound ")
	step(payload(t, success[strings.Index(success, "<additional-data"):]))
	if !conv.Valid() {
		t.Error("the server did not prove that it knows the password")
	}
	_ = cl.conn.Close()
}

func TestSASL2TooManyFailures(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.AuthTries = 2 })
	cl := c.dial(0, leg{})
	cl.open()
	cl.write(authenticate("PLAIN", "\x00alice\x00pen"))
	cl.expect(failure2("not-authorized"))
	cl.write(authenticate("HT-SHA-256-NONE", "alice\x00pen"))
	cl.expect(failure2("malformed-request"))
	cl.end("policy-violation")
}

// turns counts how often a client has to wait for an answer.
type turns struct {
	net.Conn

	wrote bool
	count int
}

func (c *turns) Write(p []byte) (int, error) {
	c.wrote = true
	return c.Conn.Write(p)
}

func (c *turns) Read(p []byte) (int, error) {
	if c.wrote {
		c.count++
	}
	c.wrote = false
	return c.Conn.Read(p)
}

// A client that knows the server is online after one round trip: its header and its
// login go out together, before the features have come.
func TestOneRoundTrip(t *testing.T) {
	c := newCluster(t, 2, nil)
	cl := c.dial(0, leg{})
	token := tokenIn(t, cl.login2(authenticate("PLAIN", aliceSecret, phone, request(tokenNone), bind())))
	cl.close()
	const resume = "<resume xmlns='urn:xmpp:sm:3' previd='gone' h='1'/>"
	for i, more := range []string{bind("<tag>T</tag>", smEnable), resume + bind("<tag>T</tag>", smEnable)} {
		cl := c.dial(i, leg{})
		counted := &turns{Conn: cl.conn}
		cl.conn = counted
		cl.write(streamHeader + authenticate(tokenNone, proof("alice", token, ""), phone, useFast, more) + "<presence/>")
		cl.opened()
		success := cl.expect("^<success .*<authorization-identifier>alice@example.com/T/.*<bound xmlns='urn:xmpp:bind:0'>.*<enabled ")
		if i == 1 && !strings.Contains(success, "<failed xmlns='urn:xmpp:sm:3'") {
			t.Errorf("<resume/> was not answered: %s", success)
		}
		cl.expect("^<stream:features>")
		cl.expect("^<presence ")
		if counted.count != 1 {
			t.Errorf("%d round trips", counted.count)
		}
		cl.close()
	}
}

// The same round trip resumes a session on another node, and what is missing follows at
// once: no features, and no new resource though one was asked for (XEP-0198 §9.2).
func TestOneRoundTripResumes(t *testing.T) {
	const resumable = "<enable xmlns='urn:xmpp:sm:3' resume='true'/>"
	c := newCluster(t, 2, nil)
	alice := c.dial(0, leg{})
	success := alice.login2(authenticate("PLAIN", aliceSecret, phone, request(tokenNone), bind(enableCarbons, resumable)))
	token, id := tokenIn(t, success), between(between(success, "<enabled ", ">"), "id='", "'")
	alice.write("<presence/>")
	alice.expect("^<presence ")
	bob := c.online(1, "bob", "desk")
	_ = alice.conn.Close()
	bob.write("<message to='alice@example.com' type='chat'><body>meanwhile</body></message>")
	bob.sync()

	cl := c.dial(1, leg{})
	counted := &turns{Conn: cl.conn}
	cl.conn = counted
	cl.write(streamHeader + authenticate(tokenNone, proof("alice", token, ""), phone, useFast,
		"<resume xmlns='urn:xmpp:sm:3' previd='"+id+"' h='1'/>", bind("<tag>T</tag>", resumable)))
	cl.opened()
	success = cl.expect("^<success .*<authorization-identifier>" + alice.jid + "</auth.*<resumed xmlns='urn:xmpp:sm:3' previd='" + id + "' h='1'/></success>$")
	if strings.Contains(success, "<bound ") {
		t.Errorf("a resumed session was bound: %s", success)
	}
	cl.expect("^<message .*meanwhile")
	if counted.count != 1 {
		t.Errorf("%d round trips", counted.count)
	}
	cl.write("<iq type='get' id='sync' to='" + domain + "'><ping xmlns='urn:xmpp:ping'/></iq>")
	cl.skipTo("^<iq type='result' id='sync'")
	if all := c.sessions("alice"); len(all) != 1 || all[0].ID != id || all[0].Node != "node-2" {
		t.Errorf("sessions %+v", all)
	}
}

// FuzzLogin writes anything before login. The node must answer or end the stream, and
// nobody is logged in who does not know a secret.
func FuzzLogin(f *testing.F) {
	for _, seed := range []string{
		authenticate("PLAIN", "\x00alice\x00pen", phone, bind("<tag>x</tag>", smEnable)),
		authenticate("HT-SHA-256-NONE", "alice\x00x", phone, useFast, request(tokenNone)),
		authenticate("SCRAM-SHA-1", "n,,n=alice,r=nonce") + "<response xmlns='" + nsSASL2 + "'>eA==</response>",
		auth("PLAIN", b64("\x00alice\x00pen")), "<abort xmlns='" + nsSASL2 + "'/>", "<authenticate xmlns='" + nsSASL2 + "'/>",
	} {
		f.Add(seed)
	}
	c := newCluster(f, 1, nil)
	f.Fuzz(func(t *testing.T, input string) {
		c.t = t
		defer func() { c.t = f }()
		cl := c.dial(0, leg{})
		cl.open()
		cl.write(input + "</stream:stream>")
		if err := cl.conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		for {
			tok, err := cl.read()
			var timeout net.Error
			switch {
			case errors.As(err, &timeout) && timeout.Timeout():
				t.Fatal("the node does not end the stream")
			case strings.HasPrefix(string(tok.Raw), "<success"):
				t.Fatalf("%q is a login", input)
			}
			if err != nil {
				break
			}
		}
		_ = cl.conn.Close()
	})
}
