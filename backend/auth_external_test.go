package backend_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pires/go-proxyproto"

	"imlb/backend"
	"imlb/backend/store"
)

// certificate is a leg whose client has shown a verified certificate with those names.
func certificate(names ...string) leg {
	value := []byte(strings.Join(names, "\x00") + "\x00")
	return leg{cert: []proxyproto.TLV{}, more: []proxyproto.TLV{{Type: 0xE4, Value: value}}}
}

func commonName(name string) leg {
	return leg{cert: []proxyproto.TLV{{Type: proxyproto.PP2_SUBTYPE_SSL_CN, Value: []byte(name)}}}
}

// TestExternal holds the answers of XEP-0178 §3.
func TestExternal(t *testing.T) {
	const success = "^<success xmlns='" + nsSASL + "'/>"
	tests := []struct {
		name    string
		leg     leg
		initial string
		want    string
	}{
		{"one address", certificate("xalice@example.com"), "=", success},
		{"any case", certificate("xALICE@example.com"), "=", success},
		{"as oneself", certificate("xalice@example.com"), b64("alice@example.com"), success},
		{"as another", certificate("xalice@example.com"), b64("bob@example.com"), "<invalid-authzid/>"},
		{"with a resource", certificate("xalice@example.com"), b64("alice@example.com/phone"), "<invalid-authzid/>"},
		{"as nobody", certificate("xalice@example.com"), b64("@"), "<invalid-authzid/>"},
		{"malformed", certificate("xalice@example.com"), b64("alice@example.com\x00"), "<malformed-request/>"},
		{"one of two", certificate("xalice@example.com", "xbob@example.com"), b64("bob@example.com"), success},
		{"neither of two", certificate("xalice@example.com", "xbob@example.com"), "=", "<invalid-authzid/>"},
		{"the same twice", certificate("xalice@example.com", "xAlice@example.com"), "=", success},
		{"one of this domain", certificate("xalice@example.com", "xbob@example.net"), "=", success},
		{"of another domain", certificate("xalice@example.net"), "=", "<invalid-authzid/>"},
		{"the domain itself", certificate("xexample.com"), "=", "<invalid-authzid/>"},
		{"by e-mail", certificate("ealice@example.com", "cbob"), "=", success},
		{"not by e-mail", certificate("xalice@example.com", "ebob@example.com"), b64("bob@example.com"), "<invalid-authzid/>"},
		{"e-mail without an address", certificate("ealice"), "=", "<invalid-authzid/>"},
		{"by common name", certificate("calice"), "=", success},
		{"by a whole common name", certificate("calice@example.com"), "=", success},
		{"by a foreign common name", certificate("calice@example.net"), "=", "<invalid-authzid/>"},
		{"by an unknown kind", certificate("?alice@example.com"), "=", "<invalid-authzid/>"},
		{"no names", certificate(), "=", "<invalid-authzid/>"},
		{"without an account", certificate("xmallory@example.com"), "=", "<not-authorized/>"},
		{"another front's word", commonName("alice"), "=", success},
		{"asked for", certificate("xalice@example.com"), "", "^<challenge "},
	}
	c := newCluster(t, 1, func(o *backend.Options) { o.Mechanisms = []string{"EXTERNAL", "PLAIN"} })
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cl := c.dial(0, tt.leg)
			cl.t = t
			if features := cl.open(); !strings.Contains(features, "<mechanism>EXTERNAL</mechanism>") {
				t.Errorf("got %s", features)
			}
			cl.write(auth("EXTERNAL", tt.initial))
			cl.expect(tt.want)
			_ = cl.conn.Close()
		})
	}
}

// Without a verified certificate EXTERNAL is neither offered nor there.
func TestExternalNeedsCertificate(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Mechanisms = []string{"EXTERNAL", "PLAIN"} })
	for name, l := range map[string]leg{
		"no certificate": {},
		"names only":     {more: []proxyproto.TLV{{Type: 0xE4, Value: []byte("xalice@example.com\x00")}}},
		"in clear":       {insecure: true, more: []proxyproto.TLV{{Type: 0xE4, Value: []byte("xalice@example.com\x00")}}},
	} {
		cl := c.dial(0, l)
		if features := cl.open(); strings.Contains(features, "EXTERNAL") {
			t.Errorf("%s: got %s", name, features)
		}
		cl.write(auth("EXTERNAL", "="))
		cl.expect("<invalid-mechanism/>")
		_ = cl.conn.Close()
	}
}

// SASL2 is not offered without a mechanism (XEP-0388 §2).
func TestNoEmptyOfferOfSASL2(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(o *backend.Options) { o.Mechanisms = []string{"EXTERNAL"} })
	cl := c.dial(0, leg{})
	if features := cl.open(); strings.Contains(features, "<authentication ") {
		t.Errorf("without a certificate: %s", features)
	}
	_ = cl.conn.Close()
	cl = c.dial(0, certificate("xalice@example.com"))
	if features := cl.open(); !strings.Contains(features, "<authentication xmlns='urn:xmpp:sasl:2'><mechanism>EXTERNAL<") {
		t.Errorf("with one: %s", features)
	}
	_ = cl.conn.Close()
}

// tokens takes a token for its user's name, but for some.
type tokens struct{}

func (tokens) Check(_ context.Context, token string) (name, why string, err error) {
	switch token {
	case "":
		return "", "there is none", nil
	case "expired":
		return "", "token is expired", nil
	case "later":
		return "", "", errors.New("issuer is away")
	}
	return token, "", nil
}

func (tokens) Refusal() []byte { return []byte(`{"status":"invalid_token"}`) }

func bearer(gs2, token string) string {
	return auth("OAUTHBEARER", b64(gs2+"\x01auth=Bearer "+token+"\x01\x01"))
}

// TestOAuthBearer holds the exchanges of RFC 7628 §4.
func TestOAuthBearer(t *testing.T) {
	refusal := "^<challenge xmlns='" + nsSASL + "'>" + b64(`{"status":"invalid_token"}`) + "</challenge>"
	noted := "<response xmlns='" + nsSASL + "'>" + b64("\x01") + "</response>"
	tests := []struct {
		name  string
		steps []string // write, expect, write, expect …
	}{
		{"localpart", []string{bearer("n,,", "alice"), "^<success "}},
		{"address", []string{bearer("n,,", "alice@example.com"), "^<success "}},
		{"as oneself", []string{bearer("n,a=alice@example.com,", "alice"), "^<success "}},
		{"as another", []string{bearer("n,a=bob@example.com,", "alice"), "<invalid-authzid/>"}},
		{"as nobody", []string{bearer("n,a=@,", "alice"), "<invalid-authzid/>"}},
		{"expired", []string{bearer("n,,", "expired"), refusal, noted, "<not-authorized/>", bearer("n,,", "alice"), "^<success "}},
		{"expired, and given up", []string{bearer("n,,", "expired"), refusal, "<abort xmlns='" + nsSASL + "'/>", "<aborted/>"}},
		{"no token", []string{auth("OAUTHBEARER", b64("n,,\x01auth=\x01\x01")), refusal, noted, "<not-authorized/>"}},
		{"of another domain", []string{bearer("n,,", "alice@example.net"), refusal, noted, "<not-authorized/>"}},
		{"a name that no user has", []string{bearer("n,,", "example.com/alice"), refusal, noted, "<not-authorized/>"}},
		{"a session's address", []string{bearer("n,,", "alice@example.com/phone"), refusal, noted, "<not-authorized/>"}},
		{"nobody's", []string{bearer("n,,", "mallory"), "<not-authorized/>"}},
		{"the issuer is away", []string{bearer("n,,", "later"), "<temporary-auth-failure/>"}},
		{"malformed", []string{auth("OAUTHBEARER", b64("alice")), "<malformed-request/>"}},
	}
	c := newCluster(t, 1, func(o *backend.Options) { o.Tokens = tokens{} })
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cl := c.dial(0, leg{})
			cl.t = t
			if features := cl.open(); !strings.Contains(features, "<mechanism>OAUTHBEARER</mechanism>") {
				t.Errorf("got %s", features)
			}
			for i := 0; i < len(tt.steps); i += 2 {
				cl.write(tt.steps[i])
				cl.expect(tt.steps[i+1])
			}
			_ = cl.conn.Close()
		})
	}
	cl := c.dial(0, leg{insecure: true})
	if features := cl.open(); strings.Contains(features, "OAUTHBEARER") {
		t.Errorf("in clear got %s", features)
	}
	cl.write(bearer("n,,", "alice"))
	cl.expect("<encryption-required/>")
	if log := c.nodes[0].log.String(); !strings.Contains(log, "token is expired") || !strings.Contains(log, "issuer is away") {
		t.Errorf("the log does not say why: %s", log)
	}
}

func TestTokensMakeAccounts(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Tokens, o.TokensMakeAccounts = tokens{}, true })
	for range 2 {
		cl := c.dial(0, leg{})
		cl.open()
		cl.write(bearer("n,,", "dave"))
		cl.expect("^<success ")
	}
	if _, err := c.store.Account(t.Context(), "dave@"+domain); err != nil {
		t.Error(err)
	}
}

// passwords knows one for all, and counts.
type passwords struct {
	away  atomic.Bool
	asked atomic.Int32
}

func (p *passwords) Check(_ context.Context, user, pass string) (bool, error) {
	p.asked.Add(1)
	if p.away.Load() {
		return false, errors.New("directory is away")
	}
	return user != "mallory" && pass == "from elsewhere", nil
}

// Where passwords are checked elsewhere, accounts are made at the first login, and no
// mechanism is offered that needs keys.
func TestPasswordsElsewhere(t *testing.T) {
	p := new(passwords)
	c := newCluster(t, 1, func(o *backend.Options) { o.Passwords = p })
	try := func(name, pass, want string) {
		t.Helper()
		cl := c.dial(0, leg{})
		if features := cl.open(); !strings.Contains(features, "'><mechanism>PLAIN</mechanism></mechanisms>") {
			t.Errorf("got %s", features)
		}
		cl.write(auth("PLAIN", b64("\x00"+name+"\x00"+pass)))
		cl.expect(want)
		_ = cl.conn.Close()
	}
	try("mallory", "from elsewhere", "<not-authorized/>")
	try("dave", password, "<not-authorized/>")
	try("alice", password, "<not-authorized/>") // the keys that it has are not used
	for _, name := range []string{"mallory", "dave"} {
		if _, err := c.store.Account(t.Context(), name+"@"+domain); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("an account for %s: %v", name, err)
		}
	}
	try("Dave", "from elsewhere", "^<success ")
	try("dave", "from elsewhere", "^<success ")
	try("alice", "from elsewhere", "^<success ")
	if _, err := c.store.Account(t.Context(), "dave@"+domain); err != nil {
		t.Error(err)
	}
	before := p.asked.Load()
	try("dave", "", "<malformed-request/>")
	if p.asked.Load() != before {
		t.Error("an empty password was tried")
	}
	p.away.Store(true)
	try("dave", "from elsewhere", "<temporary-auth-failure/>")
	if log := c.nodes[0].log.String(); !strings.Contains(log, "directory is away") {
		t.Errorf("the log does not say why: %s", log)
	}
}

func TestImpossibleMechanisms(t *testing.T) {
	for want, change := range map[string]func(*backend.Options){
		`SASL mechanism "X" is not known`: func(o *backend.Options) { o.Mechanisms = []string{"PLAIN", "X"} },
		"SCRAM-SHA-1-PLUS needs keys in the store, but passwords are checked elsewhere": func(o *backend.Options) {
			o.Passwords, o.Mechanisms = new(passwords), []string{"PLAIN", "SCRAM-SHA-1-PLUS"}
		},
		"OAUTHBEARER needs something that checks tokens": func(o *backend.Options) { o.Mechanisms = []string{"OAUTHBEARER"} },
	} {
		o := backend.Options{
			Name: "node-1", Domain: domain, Store: newCluster(t, 0, nil).store, Bus: &memBusNode{}, Partition: partition,
			TrustedFronts: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		}
		change(&o)
		if _, err := backend.New(o); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
