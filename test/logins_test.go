package test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/xdg-go/scram"
)

const nsSASLCB = "urn:xmpp:sasl-cb:0"

// loginNode is a front and a node with a document of their own, on the accounts and the
// certificate of an earlier `imlb dev`.
type loginNode struct {
	*dev
	t       *testing.T
	clients tls.Certificate // for its user, signed by whom the front trusts
	signer  ed25519.PrivateKey
}

// startLogins starts both; sasl is the node's block of that name.
func startLogins(t *testing.T, sasl string) *loginNode {
	t.Helper()
	dir := t.TempDir()
	d := startDev(t, devOptions{dir: dir, names: []string{"alice", "bob"}})
	d.stop()
	l := &loginNode{dev: d, t: t}
	ca := l.authority(dir, "alice")
	keys := l.keys(dir)
	own := newDaemons(t, dir, particulars{
		node:  "sasl: " + strings.ReplaceAll(sasl, "KEYS", keys) + "\n",
		xmpps: `, client_auth: optional, client_ca_file: "` + ca + `"`,
	})
	own.start(t, d)
	return l
}

// authority makes who signs the clients' certificates, and one for a user.
func (l *loginNode) authority(dir, user string) (file string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		l.t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "users"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		l.t.Fatal(err)
	}
	client := &x509.Certificate{
		SerialNumber: big.NewInt(2), EmailAddresses: []string{user + "@localhost"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	clientDER, err := x509.CreateCertificate(rand.Reader, client, ca, key.Public(), key)
	if err != nil {
		l.t.Fatal(err)
	}
	l.clients = tls.Certificate{Certificate: [][]byte{clientDER}, PrivateKey: key}
	return document(l.t, dir, "users.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

// keys makes the key of an issuer of tokens.
func (l *loginNode) keys(dir string) (file string) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		l.t.Fatal(err)
	}
	l.signer = private
	set, err := json.Marshal(map[string]any{"keys": []map[string]string{
		{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(public)},
	}})
	if err != nil {
		l.t.Fatal(err)
	}
	return document(l.t, dir, "keys.json", string(set))
}

func (l *loginNode) token(user string, life time.Duration) string {
	l.t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": "tests", "aud": "xmpp", "sub": user, "exp": time.Now().Add(life).Unix(),
	}).SignedString(l.signer)
	if err != nil {
		l.t.Fatal(err)
	}
	return token
}

// dial opens a stream, and returns the features and the state of its TLS connection.
func (l *loginNode) dial(t *testing.T, certs ...tls.Certificate) (*stream, element, *tls.ConnectionState) {
	t.Helper()
	config := l.tls(t, "xmpp-client")
	config.Certificates = certs
	conn := tls.Client(dial(t, l.Front.XMPPS), config)
	if err := conn.HandshakeContext(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	state := conn.ConnectionState()
	s := newStream(t, conn)
	return s, s.open(l.Domain), &state
}

func offered(features element) string {
	var all []string
	for _, m := range features.child(nsSASL, "mechanisms").Children {
		all = append(all, m.Text)
	}
	return strings.Join(all, " ")
}

// bindsAs ends a login as that user.
func (l *loginNode) bindsAs(s *stream, answer element, user string) {
	s.t.Helper()
	if !answer.is(nsSASL, "success") {
		s.t.Fatalf("want <success/>, got %+v", answer)
	}
	s.open(l.Domain)
	s.write("<iq type='set' id='b1'><bind xmlns='%s'/></iq>", nsBind)
	result := s.readUntil("the result of binding", func(e element) bool { return e.attr("id") == "b1" })
	if jid := result.child(nsBind, "bind").child(nsBind, "jid").Text; !strings.HasPrefix(jid, user+"@localhost/") {
		s.t.Errorf("bound to %q, want a resource of %s", jid, user)
	}
	s.close()
}

// TestLogins: what a node is told by its front makes logins with channel binding and with
// certificates, and what it reads of an issuer makes those with tokens.
func TestLogins(t *testing.T) {
	t.Parallel()
	const mechanisms = "SCRAM-SHA-512-PLUS, SCRAM-SHA-256-PLUS, SCRAM-SHA-1-PLUS, SCRAM-SHA-512, SCRAM-SHA-1, OAUTHBEARER, PLAIN"
	l := startLogins(t, "{mechanisms: [EXTERNAL, "+mechanisms+"], oauth: {keys: KEYS, issuer: tests, audience: [xmpp], create_accounts: true}}")
	alice := account{name: "alice", password: "pw-alice"}

	t.Run("binding", func(t *testing.T) { l.testBinding(t, alice, strings.ReplaceAll(mechanisms, ",", "")) })
	t.Run("certificate", func(t *testing.T) {
		s, features, _ := l.dial(t, l.clients)
		if got, want := offered(features), "EXTERNAL "+strings.ReplaceAll(mechanisms, ",", ""); got != want {
			t.Errorf("offered %s, want %s", got, want)
		}
		wantFailure(t, s.auth("EXTERNAL", "bob@localhost"), "invalid-authzid")
		s.write("<auth xmlns='%s' mechanism='EXTERNAL'>=</auth>", nsSASL)
		l.bindsAs(s, s.read(), "alice")
	})
	t.Run("token", func(t *testing.T) {
		s, _, _ := l.dial(t)
		refused := s.auth("OAUTHBEARER", "n,,\x01auth=Bearer "+l.token("carol", -time.Hour)+"\x01\x01")
		if got := s.decode(refused.Text); !refused.is(nsSASL, "challenge") || got != `{"status":"invalid_token"}` {
			t.Errorf("an old token: got %+v", refused)
		}
		s.write("<response xmlns='%s'>AQ==</response>", nsSASL)
		wantFailure(t, s.read(), "not-authorized")
		l.bindsAs(s, s.auth("OAUTHBEARER", "n,,\x01auth=Bearer "+l.token("carol", time.Hour)+"\x01\x01"), "carol")
	})
}

func (l *loginNode) testBinding(t *testing.T, alice account, mechanisms string) {
	s, features, _ := l.dial(t)
	if got := offered(features); got != mechanisms {
		t.Errorf("offered %s, want %s", got, mechanisms)
	}
	var types []string
	for _, b := range features.child(nsSASLCB, "sasl-channel-binding").Children {
		types = append(types, b.attr("type"))
	}
	if got := strings.Join(types, " "); got != "tls-exporter tls-server-end-point" {
		t.Errorf("channel bindings %q", got)
	}
	s.close()
	for name, make := range map[string]func(*tls.ConnectionState) (scram.ChannelBinding, error){
		"tls-exporter": scram.NewTLSExporterBinding, "tls-server-end-point": scram.NewTLSServerEndpointBinding,
	} {
		for _, mechanism := range []string{"SCRAM-SHA-512-PLUS", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS"} {
			s, _, state := l.dial(t)
			binding, err := make(state)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			begin := func(c *scram.Client) *scram.ClientConversation { return c.NewConversationWithChannelBinding(binding) }
			l.bindsAs(s, s.scramBound(mechanism, alice, alice.password, begin), "alice")
		}
	}
	s, _, _ = l.dial(t)
	_, _, another := l.dial(t)
	binding, err := scram.NewTLSExporterBinding(another)
	if err != nil {
		t.Fatal(err)
	}
	begin := func(c *scram.Client) *scram.ClientConversation { return c.NewConversationWithChannelBinding(binding) }
	wantFailure(t, s.scramBound("SCRAM-SHA-256-PLUS", alice, alice.password, begin), "not-authorized")
	wantFailure(t, s.scramBound("SCRAM-SHA-512", alice, alice.password, (*scram.Client).NewConversationAdvertisingChannelBinding), "not-authorized")
	l.bindsAs(s, s.scram("SCRAM-SHA-512", alice, alice.password), "alice")
}

// TestAccountsElsewhere: who is known to a service only logs in, with a client of Debian's
// too, and has an account from then on.
func TestAccountsElsewhere(t *testing.T) {
	t.Parallel()
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q map[string]string
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q["domain"] != "localhost" {
			w.WriteHeader(http.StatusBadRequest)
		} else if q["password"] != "theirs-"+q["user"] {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer service.Close()
	l := startLogins(t, fmt.Sprintf("{accounts: {http: {url: %q}}}", service.URL))
	s, features, _ := l.dial(t)
	if got := offered(features); got != "PLAIN" {
		t.Errorf("offered %s, want PLAIN", got)
	}
	dave := account{name: "dave", password: "theirs-dave", jid: "dave@localhost"}
	wantFailure(t, s.plain(dave, "pw-dave"), "not-authorized")
	l.bindsAs(s, s.plain(dave, dave.password), "dave")

	path, args, env := goSendxmpp(t, l.dev, account{name: "erin", password: "theirs-erin", jid: "erin@localhost"}, dave.jid)
	if out, code := runs(t, "hello from elsewhere\n", path, args, env); code != 0 {
		t.Fatalf("go-sendxmpp ended with %d:\n%s", code, out)
	}
	s, _, _ = l.dial(t)
	if answer := s.plain(dave, dave.password); !answer.is(nsSASL, "success") {
		t.Fatalf("want <success/>, got %+v", answer)
	}
	s.open(l.Domain)
	s.write("<iq type='set' id='b1'><bind xmlns='%s'/></iq><presence/>", nsBind)
	if got := strings.TrimSpace(s.message().body()); got != "hello from elsewhere" {
		t.Errorf("received %q", got)
	}
	s.close()
}
