package backend_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"imlb/backend"
	"imlb/backend/store"
)

const (
	tokenNone = "HT-SHA-256-NONE"
	useFast   = "<fast xmlns='urn:xmpp:fast:0'/>"
)

func request(mechanism string) string {
	return "<request-token xmlns='urn:xmpp:fast:0' mechanism='" + mechanism + "'/>"
}

// hashed is what either side shows (draft-schmaus-kitten-sasl-ht §3).
func hashed(token, who, binding string) string {
	mac := hmac.New(sha256.New, []byte(token))
	mac.Write([]byte(who + binding))
	return string(mac.Sum(nil))
}

func proof(name, token, binding string) string {
	return name + "\x00" + hashed(token, "Initiator", binding)
}

// boundLeg is one of a client whose TLS connection is told apart by some data.
func boundLeg(exporter, endPoint string) leg {
	return leg{more: []proxyproto.TLV{{Type: 0xE1, Value: []byte(exporter)}, {Type: 0xE3, Value: []byte(endPoint)}}}
}

// tokenIn returns the token that came with a <success/>, "" if none did.
func tokenIn(t *testing.T, success string) string {
	t.Helper()
	element := between(success, "<token xmlns='urn:xmpp:fast:0'", "/>")
	if element == "" {
		return ""
	}
	expiry, err := time.Parse(time.RFC3339, between(element, "expiry='", "'"))
	if left := time.Until(expiry); err != nil || left < 20*24*time.Hour || left > 21*24*time.Hour {
		t.Errorf("the token expires in %v, %v", left, err)
	}
	return between(element, "token='", "'")
}

// newToken logs in with a password and gets a token.
func (c *cluster) newToken(t *testing.T, name, mechanism string, l leg) string {
	t.Helper()
	cl := c.dial(0, l)
	token := tokenIn(t, cl.login2(authenticate("PLAIN", "\x00"+name+"\x00"+password, phone, request(mechanism))))
	if len(token) < 22 { // 128 bits
		t.Fatalf("the token is %q", token)
	}
	_ = cl.conn.Close()
	return token
}

// answer begins a login and returns what the node says.
func (c *cluster) answer(node int, l leg, auth string) string {
	c.t.Helper()
	cl := c.dial(node, l)
	cl.open()
	cl.write(auth)
	defer cl.conn.Close()
	return cl.next()
}

// wants checks the answer to a login.
func (c *cluster) wants(node int, l leg, auth, want string) {
	c.t.Helper()
	if got := c.answer(node, l, auth); !strings.HasPrefix(got, strings.TrimPrefix(want, "^")) {
		c.t.Errorf("got %s, want %s", got, want)
	}
}

func TestFast(t *testing.T) {
	bound := boundLeg("exported", "hash of the certificate")
	for _, tt := range []struct{ mechanism, binding string }{
		{"HT-SHA-256-NONE", ""}, {"HT-SHA-256-EXPR", "exported"}, {"HT-SHA-256-ENDP", "hash of the certificate"},
	} {
		t.Run(tt.mechanism, func(t *testing.T) {
			c := newCluster(t, 2, nil)
			token := c.newToken(t, "alice", tt.mechanism, bound)
			for node := range 2 {
				cl := c.dial(node, bound)
				success := cl.login2(authenticate(tt.mechanism, proof("alice", token, tt.binding), phone, useFast, bind()))
				if got := payload(t, success[strings.Index(success, "<additional-data"):]); got != hashed(token, "Responder", tt.binding) {
					t.Error("the server did not prove that it knows the token")
				}
				if tokenIn(t, success) != "" {
					t.Error("a new token came without need")
				}
				cl.sync()
			}
			for name, login := range map[string]string{
				"another binding": authenticate(tt.mechanism, proof("alice", token, "another"), phone, useFast),
				"another user":    authenticate(tt.mechanism, proof("bob", token, tt.binding), phone, useFast),
				"nobody":          authenticate(tt.mechanism, proof("mallory", token, tt.binding), phone, useFast),
				"another client":  authenticate(tt.mechanism, proof("alice", token, tt.binding), desk, useFast),
				"another token":   authenticate(tt.mechanism, proof("alice", token+"x", tt.binding), phone, useFast),
				"the answer":      authenticate(tt.mechanism, "alice\x00"+hashed(token, "Responder", tt.binding), phone, useFast),
			} {
				t.Run(name, func(t *testing.T) {
					c.t = t
					c.wants(0, bound, login, failure2("not-authorized"))
				})
			}
		})
	}
}

// A token is for one mechanism, so that nobody can make its client do with less.
func TestFastMechanismIsPinned(t *testing.T) {
	l := boundLeg("exported", "hash")
	c := newCluster(t, 1, nil)
	token := c.newToken(t, "alice", "HT-SHA-256-EXPR", l)
	c.wants(0, l, authenticate(tokenNone, proof("alice", token, ""), phone, useFast), failure2("not-authorized"))
	c.wants(0, l, authenticate("HT-SHA-256-ENDP", proof("alice", token, "hash"), phone, useFast), failure2("not-authorized"))
	// A connection of which nothing is known binds nothing, and not to nothing.
	c.wants(0, leg{}, authenticate("HT-SHA-256-EXPR", proof("alice", token, ""), phone, useFast), failure2("invalid-mechanism"))
	c.wants(0, boundLeg("", "hash"), authenticate("HT-SHA-256-EXPR", proof("alice", token, ""), phone, useFast), failure2("invalid-mechanism"))
	c.wants(0, l, authenticate("HT-SHA-256-EXPR", proof("alice", token, "exported"), phone, useFast), "^<success ")
}

func TestFastMalformed(t *testing.T) {
	c := newCluster(t, 1, nil)
	token := c.newToken(t, "alice", tokenNone, leg{})
	good := proof("alice", token, "")
	for name, tt := range map[string]struct{ auth, want string }{
		"no <fast/>":       {authenticate(tokenNone, good, phone), failure2("malformed-request")},
		"no client":        {authenticate(tokenNone, good, useFast), failure2("malformed-request")},
		"a client's name":  {authenticate(tokenNone, good, "<user-agent id='phone'/>", useFast), failure2("malformed-request")},
		"no proof":         {authenticate(tokenNone, "alice\x00", phone, useFast), failure2("malformed-request")},
		"no name":          {authenticate(tokenNone, good[len("alice"):], phone, useFast), failure2("malformed-request")},
		"SASL":             {auth(tokenNone, b64(good)), "<failure xmlns='" + nsSASL + "'><invalid-mechanism/>"},
		"unknown":          {authenticate("HT-SHA-512-NONE", good, phone, useFast), failure2("invalid-mechanism")},
		"a password login": {authenticate("PLAIN", aliceSecret, phone, useFast), "<success "},
	} {
		t.Run(name, func(t *testing.T) {
			c.t = t
			c.wants(0, leg{}, tt.auth, tt.want)
		})
	}
	c.t = t
	cl := c.dial(0, leg{}) // one that sends its proof when it is asked for it
	cl.open()
	cl.write("<authenticate xmlns='" + nsSASL2 + "' mechanism='" + tokenNone + "'>" + phone + useFast + "</authenticate>")
	cl.expect("^<challenge xmlns='urn:xmpp:sasl:2'/>")
	cl.write("<response xmlns='" + nsSASL2 + "'>" + b64(good) + "</response>")
	cl.expect("^<success ")
}

// Who asks for a token that cannot be had is logged in without.
func TestFastNoToken(t *testing.T) {
	c := newCluster(t, 1, nil)
	for name, more := range map[string]string{
		"unknown mechanism":  phone + request("HT-SHA-512-NONE"),
		"password mechanism": phone + request("PLAIN"),
		"no mechanism":       phone + "<request-token xmlns='urn:xmpp:fast:0'/>",
		"no client":          request(tokenNone),
	} {
		cl := c.dial(0, leg{})
		if token := tokenIn(t, cl.login2(authenticate("PLAIN", aliceSecret, more))); token != "" {
			t.Errorf("%s: got a token", name)
		}
		_ = cl.conn.Close()
	}
	cl := c.dial(0, leg{})
	if token := tokenIn(t, cl.login2(authenticate("PLAIN", aliceSecret, phone, request("HT-SHA-256-EXPR")))); token != "" {
		t.Error("got a token that is bound to an unknown connection")
	}
}

// Counts grow, whichever node sees them.
func TestFastCount(t *testing.T) {
	c := newCluster(t, 2, nil)
	token := c.newToken(t, "alice", tokenNone, leg{})
	login := func(count string) string {
		return authenticate(tokenNone, proof("alice", token, ""), phone, "<fast xmlns='urn:xmpp:fast:0' count='"+count+"'/>")
	}
	c.wants(0, leg{}, login("3"), "^<success ")
	c.wants(1, leg{}, login("3"), failure2("not-authorized"))
	c.wants(0, leg{}, login("2"), failure2("not-authorized"))
	c.wants(1, leg{}, login("4"), "^<success ")
	c.wants(0, leg{}, login("0"), failure2("malformed-request"))
}

// addToken gives alice's phone a token of another age.
func (c *cluster) addToken(secret string, age, left time.Duration) {
	c.t.Helper()
	a, err := c.store.Account(c.t.Context(), "alice@"+domain)
	if err != nil {
		c.t.Fatal(err)
	}
	now := time.Now()
	token := store.Token{Secret: []byte(secret), Mechanism: tokenNone, Issued: now.Add(-age), Expires: now.Add(left)}
	if err := c.store.AddToken(c.t.Context(), a.Owner, phoneID, token, now); err != nil {
		c.t.Fatal(err)
	}
}

func TestFastExpired(t *testing.T) {
	c := newCluster(t, 1, nil)
	c.addToken("secret", 48*time.Hour, -time.Minute)
	c.wants(0, leg{}, authenticate(tokenNone, proof("alice", "secret", ""), phone, useFast), failure2("credentials-expired"))
	c.wants(0, leg{}, authenticate(tokenNone, proof("alice", "guess", ""), phone, useFast), failure2("not-authorized"))
}

// A token whose life is half over is followed by another, and stays good until that
// was used (XEP-0484 §3.5).
func TestFastRotation(t *testing.T) {
	c := newCluster(t, 1, nil)
	c.addToken("old", 48*time.Hour, 24*time.Hour)
	login := func(token string) string {
		cl := c.dial(0, leg{})
		defer cl.conn.Close()
		return tokenIn(t, cl.login2(authenticate(tokenNone, proof("alice", token, ""), phone, useFast)))
	}
	lost, second := login("old"), login("old")
	if lost == "" || second == "" {
		t.Fatalf("no new token: %q, %q", lost, second)
	}
	c.wants(0, leg{}, authenticate(tokenNone, proof("alice", lost, ""), phone, useFast), failure2("not-authorized"))
	if third := login(second); third != "" {
		t.Error("a fresh token is replaced")
	}
	c.wants(0, leg{}, authenticate(tokenNone, proof("alice", "old", ""), phone, useFast), failure2("not-authorized"))
	cl := c.dial(0, leg{})
	asked := tokenIn(t, cl.login2(authenticate(tokenNone, proof("alice", second, ""), phone, useFast, request(tokenNone))))
	if asked == "" || asked == second || login(asked) != "" {
		t.Error("no new token on request")
	}
}

// Who was removed where passwords or tokens are checked is out when the last token is over: a
// token brings no other.
func TestFastEndsElsewhere(t *testing.T) {
	for name, elsewhere := range map[string]func(*backend.Options){
		"passwords": func(o *backend.Options) { o.Passwords = new(passwords) },
		"tokens":    func(o *backend.Options) { o.Tokens = tokens{} },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 1, elsewhere)
			c.addToken("old", 48*time.Hour, 24*time.Hour)
			for _, more := range []string{"", request(tokenNone)} {
				cl := c.dial(0, leg{})
				if token := tokenIn(t, cl.login2(authenticate(tokenNone, proof("alice", "old", ""), phone, useFast, more))); token != "" {
					t.Errorf("a token brings another, asked for by %q", more)
				}
				_ = cl.conn.Close()
			}
		})
	}
	c := newCluster(t, 1, func(o *backend.Options) { o.Passwords = new(passwords) })
	cl := c.dial(0, leg{})
	if token := tokenIn(t, cl.login2(authenticate("PLAIN", "\x00alice\x00from elsewhere", phone, request(tokenNone)))); token == "" {
		t.Error("a password brings none")
	}
}

func TestFastInvalidate(t *testing.T) {
	const last = "<fast xmlns='urn:xmpp:fast:0' invalidate='true'/>"
	c := newCluster(t, 1, nil)
	c.addToken("old", 48*time.Hour, 24*time.Hour)
	cl := c.dial(0, leg{})
	if token := tokenIn(t, cl.login2(authenticate(tokenNone, proof("alice", "old", ""), phone, last))); token != "" {
		t.Error("a token that was given back is replaced")
	}
	c.wants(0, leg{}, authenticate(tokenNone, proof("alice", "old", ""), phone, useFast), failure2("not-authorized"))

	token := c.newToken(t, "alice", tokenNone, leg{})
	cl = c.dial(0, leg{})
	next := tokenIn(t, cl.login2(authenticate(tokenNone, proof("alice", token, ""), phone, last, request(tokenNone))))
	c.wants(0, leg{}, authenticate(tokenNone, proof("alice", token, ""), phone, useFast), failure2("not-authorized"))
	c.wants(0, leg{}, authenticate(tokenNone, proof("alice", next, ""), phone, useFast), "^<success ")
}

// A new password, and the end of the account, revoke tokens.
func TestFastRevoked(t *testing.T) {
	c := newCluster(t, 1, nil)
	token := c.newToken(t, "alice", tokenNone, leg{})
	creds, err := backend.DeriveCredentials("new", 4096)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.store.SetCredentials(t.Context(), "alice@"+domain, creds); err != nil {
		t.Fatal(err)
	}
	login := authenticate(tokenNone, proof("alice", token, ""), phone, useFast)
	c.wants(0, leg{}, login, failure2("not-authorized"))

	token = c.newToken(t, "bob", tokenNone, leg{})
	if err := c.store.DeleteAccount(t.Context(), "bob@"+domain); err != nil {
		t.Fatal(err)
	}
	login = authenticate(tokenNone, proof("bob", token, ""), phone, useFast)
	c.wants(0, leg{}, login, failure2("not-authorized"))
	c.account("bob")
	c.wants(0, leg{}, login, failure2("not-authorized"))
}

// A password that is changed while a login with the old one goes on: the login gets no
// token.
func TestFastNewPasswordMeanwhile(t *testing.T) {
	c := newCluster(t, 1, nil)
	cl := c.dial(0, leg{})
	cl.open()
	creds, err := credentials()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.store.SetCredentials(t.Context(), "alice@"+domain, creds); err != nil {
		t.Fatal(err)
	}
	cl.write(authenticate("PLAIN", aliceSecret, phone, request(tokenNone)))
	if token := tokenIn(t, cl.expect("^<success ")); token != "" {
		t.Error("got a token")
	}
}
