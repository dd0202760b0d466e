package backend_test

import (
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"
	"github.com/xdg-go/scram"

	"imlb/backend"
	"imlb/backend/store"
)

// all are the mechanisms of SCRAM, the strongest first.
var allScram = []string{
	"SCRAM-SHA-512-PLUS", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-512", "SCRAM-SHA-256", "SCRAM-SHA-1",
}

// The data that tell one TLS connection from others, as a front sends them.
var (
	exporter = proxyproto.TLV{Type: 0xE1, Value: []byte("0123456789abcdef0123456789abcdef")}
	endPoint = proxyproto.TLV{Type: 0xE3, Value: []byte("fedcba9876543210fedcba9876543210")}
)

func binding(kind scram.ChannelBindingType, data string) scram.ChannelBinding {
	return scram.ChannelBinding{Type: kind, Data: []byte(data)}
}

// TestScramForms holds every form of SCRAM against an independent client.
func TestScramForms(t *testing.T) {
	hashes := map[string]scram.HashGeneratorFcn{"SCRAM-SHA-1": scram.SHA1, "SCRAM-SHA-256": scram.SHA256, "SCRAM-SHA-512": scram.SHA512}
	exported := binding(scram.ChannelBindingTLSExporter, string(exporter.Value))
	hashed := binding(scram.ChannelBindingTLSServerEndpoint, string(endPoint.Value))
	plain := func(c *scram.Client) *scram.ClientConversation { return c.NewConversation() }
	flagY := func(c *scram.Client) *scram.ClientConversation { return c.NewConversationAdvertisingChannelBinding() }
	bound := func(b scram.ChannelBinding) func(c *scram.Client) *scram.ClientConversation {
		return func(c *scram.Client) *scram.ClientConversation { return c.NewConversationWithChannelBinding(b) }
	}
	tests := []struct {
		name     string
		tlvs     []proxyproto.TLV
		suffix   string // of the mechanism
		password string
		begin    func(*scram.Client) *scram.ClientConversation
		want     string // in the answer to what the client says last, or first
	}{
		{"without binding", nil, "", password, plain, "<success "},
		{"without binding, wrong password", nil, "", "pen", plain, "<not-authorized/>"},
		{"without binding though offered", []proxyproto.TLV{exporter}, "", password, plain, "<success "},
		{"exporter", []proxyproto.TLV{exporter, endPoint}, "-PLUS", password, bound(exported), "<success "},
		{"end point", []proxyproto.TLV{exporter, endPoint}, "-PLUS", password, bound(hashed), "<success "},
		{"end point alone", []proxyproto.TLV{endPoint}, "-PLUS", password, bound(hashed), "<success "},
		{"exporter, wrong password", []proxyproto.TLV{exporter}, "-PLUS", "pen", bound(exported), "<not-authorized/>"},
		{
			"another connection", []proxyproto.TLV{exporter}, "-PLUS", password,
			bound(binding(scram.ChannelBindingTLSExporter, "that of the man in the middle")), "<not-authorized/>",
		},
		{
			"data of the other type", []proxyproto.TLV{exporter, endPoint}, "-PLUS", password,
			bound(binding(scram.ChannelBindingTLSServerEndpoint, string(exporter.Value))), "<not-authorized/>",
		},
		{
			"a type that is not there", []proxyproto.TLV{exporter}, "-PLUS", password,
			bound(hashed), "<not-authorized/><text xml:lang='en'>unsupported channel-binding type</text>",
		},
		{"a type that is too old", []proxyproto.TLV{exporter}, "-PLUS", password, bound(scram.NewTLSUniqueBinding([]byte("x"))), "<not-authorized/>"},
		{"downgraded", []proxyproto.TLV{exporter}, "", password, flagY, "<not-authorized/><text xml:lang='en'>channel binding was offered</text>"},
		{"not downgraded", nil, "", password, flagY, "<success "},
		{"PLUS without binding", []proxyproto.TLV{exporter}, "-PLUS", password, plain, "<malformed-request/>"},
		{"binding without PLUS", []proxyproto.TLV{exporter}, "", password, bound(exported), "<malformed-request/>"},
		{"PLUS without data", nil, "-PLUS", password, bound(exported), "<invalid-mechanism/>"},
	}
	c := newCluster(t, 1, func(o *backend.Options) { o.Mechanisms = allScram })
	for _, tt := range tests {
		for mechanism, hash := range hashes {
			t.Run(tt.name+"/"+mechanism, func(t *testing.T) {
				cl := c.dial(0, leg{more: tt.tlvs})
				cl.t = t
				cl.open()
				client, err := hash.NewClient("alice", tt.password, "")
				if err != nil {
					t.Fatal(err)
				}
				answer := exchange(cl, mechanism+tt.suffix, tt.begin(client))
				if !strings.Contains(answer, tt.want) {
					t.Errorf("got %s, want %s", answer, tt.want)
				}
				_ = cl.conn.Close()
			})
		}
	}
}

// exchange runs a conversation and returns what the node says last. A success has to
// prove that the node knows the keys.
func exchange(cl *client, mechanism string, conv *scram.ClientConversation) string {
	cl.t.Helper()
	first, err := conv.Step("")
	if err != nil {
		cl.t.Fatal(err)
	}
	cl.write(auth(mechanism, b64(first)))
	answer := cl.next()
	if !strings.HasPrefix(answer, "<challenge ") {
		return answer
	}
	final, err := conv.Step(payload(cl.t.(*testing.T), answer))
	if err != nil {
		cl.t.Fatal(err)
	}
	cl.write("<response xmlns='" + nsSASL + "'>" + b64(final) + "</response>")
	answer = cl.next()
	if strings.HasPrefix(answer, "<success ") {
		if _, err := conv.Step(payload(cl.t.(*testing.T), answer)); err != nil || !conv.Valid() {
			cl.t.Errorf("the node did not prove that it knows the password: %v", err)
		}
	}
	return answer
}

// TestBindingsOffered: what is offered is what the front has told data for (XEP-0440).
func TestBindingsOffered(t *testing.T) {
	const head, tail = "<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'>", "</sasl-channel-binding>"
	const byExporter, byEndPoint = "<channel-binding type='tls-exporter'/>", "<channel-binding type='tls-server-end-point'/>"
	tests := []struct {
		name string
		leg  leg
		want string // after the mechanisms
		plus bool
	}{
		{"both", leg{more: []proxyproto.TLV{endPoint, exporter}}, head + byExporter + byEndPoint + tail, true},
		{"exporter", leg{more: []proxyproto.TLV{exporter}}, head + byExporter + tail, true},
		{"end point", leg{more: []proxyproto.TLV{endPoint}}, head + byEndPoint + tail, true},
		{"none", leg{}, "<settle ", false},
		{"empty", leg{more: []proxyproto.TLV{{Type: 0xE1}}}, "<settle ", false},
		{"in clear", leg{insecure: true, more: []proxyproto.TLV{exporter}}, "<settle ", false},
	}
	c := newCluster(t, 1, func(o *backend.Options) { o.Mechanisms = allScram })
	for _, tt := range tests {
		cl := c.dial(0, tt.leg)
		features := cl.open()
		if !strings.Contains(features, "</mechanisms>"+tt.want) {
			t.Errorf("%s: got %s, want %s", tt.name, features, tt.want)
		}
		for _, m := range allScram {
			if offered := strings.Contains(features, "<mechanism>"+m+"</mechanism>"); offered != (tt.plus || !strings.HasSuffix(m, "-PLUS")) {
				t.Errorf("%s: %s is offered: %t", tt.name, m, offered)
			}
		}
		_ = cl.conn.Close()
	}
}

// Where no mechanism binds there is nothing to bind to, and no downgrade.
func TestNoBinding(t *testing.T) {
	c := newCluster(t, 1, nil)
	cl := c.dial(0, leg{more: []proxyproto.TLV{exporter}})
	if features := cl.open(); strings.Contains(features, "PLUS") || strings.Contains(features, "channel-binding") {
		t.Errorf("by default got %s", features)
	}
	client, err := scram.SHA512.NewClient("alice", password, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := exchange(cl, "SCRAM-SHA-512", client.NewConversationAdvertisingChannelBinding()); !strings.HasPrefix(got, "<success ") {
		t.Errorf("got %s", got)
	}
}

// An account of another server may have the keys of one mechanism only. Its user logs in with a
// password whichever it is, and stronger ones are not offered as long as there is such an account.
func TestImportedKeys(t *testing.T) {
	creds, err := credentials()
	if err != nil {
		t.Fatal(err)
	}
	for _, cred := range creds {
		c := newCluster(t, 0, nil)
		if err := c.store.SetCredentials(t.Context(), "alice@"+domain, []store.Credential{cred}); err != nil {
			t.Fatal(err)
		}
		c.startNode("after")
		cl := c.dial(0, leg{})
		features := cl.open()
		for _, mechanism := range []string{"SCRAM-SHA-512", "SCRAM-SHA-256", "SCRAM-SHA-1"} {
			want := mechanism == cred.Mechanism || mechanism == "SCRAM-SHA-1"
			if strings.Contains(features, "<mechanism>"+mechanism+"</mechanism>") != want {
				t.Errorf("keys for %s: %s is to be offered: %t; got %s", cred.Mechanism, mechanism, want, features)
			}
		}
		cl.write(auth("PLAIN", b64("\x00alice\x00not "+password)))
		cl.expect("<not-authorized/>")
		cl.write(auth("PLAIN", b64("\x00alice\x00"+password)))
		cl.expect("<success ")
	}
}

// Accounts of an older version have no keys for SCRAM-SHA-512. They log in with what they
// have, and it is not offered as long as there is one.
func TestOldAccounts(t *testing.T) {
	c := newCluster(t, 0, nil)
	creds, err := credentials()
	if err != nil {
		t.Fatal(err)
	}
	var old []store.Credential
	for _, cred := range creds {
		if cred.Mechanism != "SCRAM-SHA-512" {
			old = append(old, cred)
		}
	}
	c.startNode("before")
	c.dial(0, leg{}).open() // it has looked for such accounts
	if err := c.store.SetCredentials(t.Context(), "alice@"+domain, old); err != nil {
		t.Fatal(err)
	}
	c.startNode("after")
	for node, offered := range []bool{true, false} {
		cl := c.dial(node, leg{})
		if features := cl.open(); strings.Contains(features, "<mechanism>SCRAM-SHA-512</mechanism>") != offered {
			t.Errorf("SCRAM-SHA-512 offered: got %s, want %t", features, offered)
		}
		if _, ok := scramLogin(t, cl, scram.SHA256, "SCRAM-SHA-256", "alice", password); !ok {
			t.Error("an old account cannot log in with the keys that it has")
		}
	}
	// Who knows of SCRAM-SHA-512 from earlier sees nothing but a wrong password.
	for _, user := range []string{"alice", "nobody"} {
		cl := c.dial(0, leg{})
		cl.open()
		challenge, ok := scramLogin(t, cl, scram.SHA512, "SCRAM-SHA-512", user, password)
		if _, salt, _ := strings.Cut(challenge, ",s="); ok || len(salt) != len("0123456789abcdef01234w==,i=4096") {
			t.Errorf("%s: logged in: %t, challenge %s", user, ok, challenge)
		}
	}
	cl := c.dial(1, leg{})
	cl.open()
	cl.write(auth("SCRAM-SHA-512", b64("n,,n=alice,r=x")))
	cl.expect("<invalid-mechanism/>")
}
