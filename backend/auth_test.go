package backend_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/xdg-go/scram"

	"imlb/backend"
)

const nsSASL = "urn:ietf:params:xml:ns:xmpp-sasl"

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func auth(mechanism, initial string) string {
	return "<auth xmlns='" + nsSASL + "' mechanism='" + mechanism + "'>" + initial + "</auth>"
}

// dialogue is what a client writes before it has logged in, and patterns of what comes next.
type dialogue struct {
	name     string
	insecure bool
	steps    []string // write, expect, write, expect …
}

// answers has a client of its own hold each dialogue.
func answers(t *testing.T, dialogues []dialogue) {
	t.Helper()
	c := newCluster(t, 1, nil)
	for _, d := range dialogues {
		t.Run(d.name, func(t *testing.T) {
			cl := c.dial(0, leg{insecure: d.insecure})
			cl.t = t
			cl.open()
			for i := 0; i < len(d.steps); i += 2 {
				cl.write(d.steps[i])
				cl.expect(d.steps[i+1])
			}
			_ = cl.conn.Close()
		})
	}
}

// TestAuthAnswers holds the answers of RFC 6120 §6.5.
func TestAuthAnswers(t *testing.T) {
	answers(t, []dialogue{
		{name: "plain", steps: []string{auth("PLAIN", b64("\x00alice\x00pencil")), "^<success "}},
		{name: "plain as oneself", steps: []string{auth("PLAIN", b64("alice@example.com\x00alice\x00pencil")), "^<success "}},
		{name: "plain, any case", steps: []string{auth("PLAIN", b64("\x00ALICE\x00pencil")), "^<success "}},
		{name: "plain, asked for", steps: []string{
			auth("PLAIN", ""), "^<challenge ",
			"<response xmlns='" + nsSASL + "'>" + b64("\x00alice\x00pencil") + "</response>", "^<success ",
		}},
		{name: "wrong password", steps: []string{auth("PLAIN", b64("\x00alice\x00pen")), "<not-authorized/>"}},
		{name: "unknown user", steps: []string{auth("PLAIN", b64("\x00mallory\x00pencil")), "<not-authorized/>"}},
		{name: "no possible user", steps: []string{auth("PLAIN", b64("\x00a@b\x00pencil")), "<not-authorized/>"}},
		{name: "as another user", steps: []string{auth("PLAIN", b64("bob@example.com\x00alice\x00pencil")), "<invalid-authzid/>"}},
		{name: "malformed plain", steps: []string{auth("PLAIN", b64("alice")), "<malformed-request/>"}},
		{name: "no base64", steps: []string{auth("PLAIN", "&#33;&#33;"), "<incorrect-encoding/>"}},
		{name: "unknown mechanism", steps: []string{auth("X-OAUTH", "="), "<invalid-mechanism/>"}},
		{name: "plain in clear", insecure: true, steps: []string{auth("PLAIN", b64("\x00alice\x00pencil")), "<encryption-required/>"}},
		{name: "abort", steps: []string{
			auth("SCRAM-SHA-1", b64("n,,n=alice,r=nonce")), "^<challenge ",
			"<abort xmlns='" + nsSASL + "'/>", "<aborted/>",
		}},
		{name: "scram, malformed proof", steps: []string{
			auth("SCRAM-SHA-256", b64("n,,n=alice,r=nonce")), "^<challenge ",
			"<response xmlns='" + nsSASL + "'>" + b64("whatever") + "</response>", "<malformed-request/>",
		}},
		{name: "scram, malformed start", steps: []string{auth("SCRAM-SHA-256", b64("n=alice")), "<malformed-request/>"}},
		{name: "scram, as another user", steps: []string{
			auth("SCRAM-SHA-256", b64("n,a=bob@example.com,n=alice,r=nonce")), "<invalid-authzid/>",
		}},
		{name: "response to nothing", steps: []string{"<response xmlns='" + nsSASL + "'/>", "<malformed-request/>"}},
		{name: "again after a failure", steps: []string{
			auth("PLAIN", b64("\x00alice\x00pen")), "<not-authorized/>",
			auth("PLAIN", b64("\x00bob\x00pencil")), "^<success ",
		}},
	})
}

func TestMechanismsOffered(t *testing.T) {
	c := newCluster(t, 1, nil)
	for _, tt := range []struct {
		insecure bool
		want     string
	}{
		{false, "<mechanism>SCRAM-SHA-256</mechanism><mechanism>SCRAM-SHA-1</mechanism><mechanism>PLAIN</mechanism>"},
		{true, "<mechanism>SCRAM-SHA-256</mechanism><mechanism>SCRAM-SHA-1</mechanism></mechanisms>"},
	} {
		cl := c.dial(0, leg{insecure: tt.insecure})
		if features := cl.open(); !strings.Contains(features, tt.want) {
			t.Errorf("insecure %t: got %s, want %s", tt.insecure, features, tt.want)
		}
		_ = cl.conn.Close()
	}
}

// A front of ours is told that it may settle; nobody else is.
func TestSettleOffered(t *testing.T) {
	c := newCluster(t, 1, nil)
	for _, foreign := range []bool{false, true} {
		cl := c.dial(0, leg{foreign: foreign})
		if features := cl.open(); strings.Contains(features, "</mechanisms><settle xmlns='urn:imlb:front:0'/>") == foreign {
			t.Errorf("foreign %t: got %s", foreign, features)
		}
		_ = cl.conn.Close()
	}
}

// scramLogin runs a whole exchange with an independent client.
func scramLogin(t *testing.T, cl *client, hash scram.HashGeneratorFcn, mechanism, user, pass string) (challenge string, ok bool) {
	t.Helper()
	sc, err := hash.NewClient(user, pass, "")
	if err != nil {
		t.Fatal(err)
	}
	conv := sc.NewConversation()
	first, err := conv.Step("")
	if err != nil {
		t.Fatal(err)
	}
	cl.write(auth(mechanism, b64(first)))
	challenge = payload(t, cl.expect("^<challenge "))
	final, err := conv.Step(challenge)
	if err != nil {
		t.Fatal(err)
	}
	cl.write("<response xmlns='" + nsSASL + "'>" + b64(final) + "</response>")
	answer := cl.next()
	if strings.HasPrefix(answer, "<failure ") {
		if !strings.Contains(answer, "<not-authorized/>") {
			t.Errorf("got %s", answer)
		}
		return challenge, false
	}
	if _, err := conv.Step(payload(t, answer)); err != nil || !conv.Valid() {
		t.Errorf("the server did not prove that it knows the password: %v", err)
	}
	return challenge, true
}

// payload decodes the data of a SASL element.
func payload(t *testing.T, element string) string {
	t.Helper()
	data, err := base64.StdEncoding.DecodeString(between(element, ">", "<"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestScram(t *testing.T) {
	c := newCluster(t, 1, nil)
	for mechanism, hash := range map[string]scram.HashGeneratorFcn{"SCRAM-SHA-1": scram.SHA1, "SCRAM-SHA-256": scram.SHA256} {
		cl := c.dial(0, leg{insecure: true})
		cl.open()
		if _, ok := scramLogin(t, cl, hash, mechanism, "alice", "pen"); ok {
			t.Errorf("%s: logged in with the wrong password", mechanism)
		}
		if _, ok := scramLogin(t, cl, hash, mechanism, "alice", password); !ok {
			t.Errorf("%s: not logged in", mechanism)
		}
		_ = cl.conn.Close()
	}
}

// Whoever asks for a user that is none must not be able to tell.
func TestUnknownUsersLookLikeUsers(t *testing.T) {
	c := newCluster(t, 2, func(o *backend.Options) { o.Secret = []byte("shared") })
	salt := func(node int, user string) string {
		cl := c.dial(node, leg{})
		defer cl.conn.Close()
		cl.open()
		challenge, ok := scramLogin(t, cl, scram.SHA256, "SCRAM-SHA-256", user, "pen")
		if ok {
			t.Errorf("%s is logged in", user)
		}
		_, salt, _ := strings.Cut(challenge, ",s=")
		return salt
	}
	if a, b := salt(0, "mallory"), salt(1, "mallory"); a != b {
		t.Errorf("the salt changes from %q to %q", a, b)
	}
	if a, b := salt(0, "mallory"), salt(0, "trudy"); a == b {
		t.Errorf("two users have the salt %q", a)
	}
	if a, b := salt(0, "mallory"), salt(0, "alice"); len(a) != len(b) {
		t.Errorf("salts differ in length: %q, %q", a, b)
	}
}

func TestTooManyFailures(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.AuthTries = 2 })
	cl := c.dial(0, leg{})
	cl.open()
	for range 2 {
		cl.write(auth("PLAIN", b64("\x00alice\x00pen")))
		cl.expect("<not-authorized/>")
	}
	cl.end("policy-violation")
}

func TestStanzaBeforeLogin(t *testing.T) {
	c := newCluster(t, 1, nil)
	cl := c.dial(0, leg{})
	cl.open()
	cl.write("<message to='bob@example.com'><body>psst</body></message>")
	cl.end("not-authorized")
}

func TestForbiddenPassword(t *testing.T) {
	if _, err := backend.DeriveCredentials("a\u0007b", 4096); err == nil {
		t.Error("SASLprep forbids control characters")
	}
}
