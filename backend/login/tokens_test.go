package login_test

import (
	"crypto/elliptic"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"imlb/backend/login"
)

func newTokens(tb testing.TB, o login.TokenOptions) *login.Tokens {
	tb.Helper()
	o.Issuer, o.Audience = issuer, []string{audience, "another name of it"}
	tokens, err := login.NewTokens(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = tokens.Close() })
	return tokens
}

func TestTokens(t *testing.T) {
	r, other := newRSA(t, "r", 2048), newRSA(t, "r", 2048)
	p256, p384, p521 := newEC(t, "p256", "P-256", elliptic.P256()), newEC(t, "p384", "P-384", elliptic.P384()), newEC(t, "p521", "P-521", elliptic.P521())
	ed, small := newEd(t, "ed"), newRSA(t, "small", 1024)
	file := keysFile(t, keySet(
		r.jwk, p256.jwk, p384.jwk, p521.jwk, ed.jwk, small.jwk,
		with(r.jwk, map[string]any{"kid": "r-ps", "alg": "PS256"}),
		with(r.jwk, map[string]any{"kid": "r-enc", "use": "enc"}),
		with(r.jwk, map[string]any{"kid": "r-wrong", "alg": "ES256"}),
		map[string]any{"kty": "oct", "kid": "shared", "k": encode([]byte("secret"))},
		map[string]any{"kty": "new", "kid": "future"},
	))
	tokens := newTokens(t, login.TokenOptions{KeysFile: file, Leeway: 30 * time.Second})
	kid := func(id string) map[string]any { return map[string]any{"kid": id} }
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).Unix() }
	modulus := []byte(r.jwk["n"].(string))
	tests := []struct {
		name  string
		token string
		user  string
		why   string
	}{
		{"RS256", sign(t, "RS256", kid("r"), nil, r.private), "alice", ""},
		{"PS512", sign(t, "PS512", kid("r"), nil, r.private), "alice", ""},
		{"ES256", sign(t, "ES256", kid("p256"), nil, p256.private), "alice", ""},
		{"ES384", sign(t, "ES384", kid("p384"), nil, p384.private), "alice", ""},
		{"ES512", sign(t, "ES512", kid("p521"), nil, p521.private), "alice", ""},
		{"EdDSA", sign(t, "EdDSA", kid("ed"), nil, ed.private), "alice", ""},
		{"no name of a key", sign(t, "ES384", nil, nil, p384.private), "alice", ""},
		{"one audience of several", sign(t, "RS256", kid("r"), map[string]any{"aud": []string{"x", "another name of it"}}, r.private), "alice", ""},
		{"a clock that is behind", sign(t, "RS256", kid("r"), map[string]any{"exp": ago(20 * time.Second)}, r.private), "alice", ""},

		{"nothing", "", "", "there is no token"},
		{"no token", "x.y.z", "", "malformed"},
		{"a long one", strings.Repeat("x", 20<<10), "", "there is no token"},
		{"signed by somebody else", sign(t, "RS256", kid("r"), nil, other.private), "", "signature is invalid"},
		{"not signed", sign(t, "none", kid("r"), nil, jwt.UnsafeAllowNoneSignatureType), "", `no key "r" for none`},
		{"the public key for a secret", sign(t, "HS256", kid("r"), nil, modulus), "", `no key "r" for HS256`},
		{"a shared secret", sign(t, "HS256", kid("shared"), nil, []byte("secret")), "", `no key "shared" for HS256`},
		{"an algorithm that the key is not for", sign(t, "RS256", kid("r-ps"), nil, r.private), "", `no key "r-ps" for RS256`},
		{"a key for encryption", sign(t, "RS256", kid("r-enc"), nil, r.private), "", `no key "r-enc" for RS256`},
		{"a key with a wrong algorithm", sign(t, "RS256", kid("r-wrong"), nil, r.private), "", `no key "r-wrong" for RS256`},
		{"a key that is too small", sign(t, "RS256", kid("small"), nil, small.private), "", `no key "small" for RS256`},
		{"another curve", sign(t, "ES256", kid("p384"), nil, p256.private), "", `no key "p384" for ES256`},
		{"a number for a key's name", sign(t, "RS256", map[string]any{"kid": 1}, nil, r.private), "", "the key's name is not a text"},
		{"an extension", sign(t, "RS256", map[string]any{"kid": "r", "crit": []string{"b64"}, "b64": true}, nil, r.private), "", "asks for an extension"},
		{"expired", sign(t, "RS256", kid("r"), map[string]any{"exp": ago(time.Minute)}, r.private), "", "token is expired"},
		{"for ever", sign(t, "RS256", kid("r"), map[string]any{"exp": nil}, r.private), "", "exp claim is required"},
		{"not yet", sign(t, "RS256", kid("r"), map[string]any{"nbf": ago(-time.Minute)}, r.private), "", "not valid yet"},
		{"another issuer", sign(t, "RS256", kid("r"), map[string]any{"iss": "https://evil.example"}, r.private), "", "invalid issuer"},
		{"no issuer", sign(t, "RS256", kid("r"), map[string]any{"iss": nil}, r.private), "", "iss claim is required"},
		{"another audience", sign(t, "RS256", kid("r"), map[string]any{"aud": "mail"}, r.private), "", "invalid audience"},
		{"no audience", sign(t, "RS256", kid("r"), map[string]any{"aud": nil}, r.private), "", "aud claim is required"},
		{"nobody", sign(t, "RS256", kid("r"), map[string]any{"sub": nil}, r.private), "", "no claim sub"},
		{"a number for a name", sign(t, "RS256", kid("r"), map[string]any{"sub": 7}, r.private), "", "no claim sub"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			user, why, err := tokens.Check(t.Context(), tt.token)
			if user != tt.user || err != nil || !strings.Contains(why, tt.why) || (why == "") != (tt.why == "") {
				t.Errorf("got %q, %q, %v; want %q, %q", user, why, err, tt.user, tt.why)
			}
		})
	}
}

func TestTokenClaim(t *testing.T) {
	ed := newEd(t, "ed")
	token := sign(t, "EdDSA", nil, map[string]any{
		"xmpp": map[string]any{"local": "bob"}, "https://example.com/jid": "carol@example.com", "list": []string{"dave"},
	}, ed.private)
	for claim, want := range map[string]string{
		"": "alice", "xmpp.local": "bob", "https://example.com/jid": "carol@example.com", "xmpp": "", "list": "", "xmpp.local.x": "", "none.local": "",
	} {
		tokens := newTokens(t, login.TokenOptions{KeysFile: keysFile(t, keySet(ed.jwk)), Claim: claim})
		if got, _, err := tokens.Check(t.Context(), token); got != want || err != nil {
			t.Errorf("claim %q: got %q, %v; want %q", claim, got, err, want)
		}
	}
}

func TestTokenRefusal(t *testing.T) {
	for configuration, want := range map[string]string{
		"": `{"status":"invalid_token"}`,
		"https://issuer.example.com/.well-known/openid-configuration": `{"status":"invalid_token","openid-configuration":"https://issuer.example.com/.well-known/openid-configuration"}`,
	} {
		if got := string(newTokens(t, login.TokenOptions{Configuration: configuration}).Refusal()); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestKeySets: what no key can be read from is not taken for a refusal.
func TestKeySets(t *testing.T) {
	ed := newEd(t, "ed")
	p := newEC(t, "p", "P-256", elliptic.P256())
	token := sign(t, "EdDSA", map[string]any{"kid": "ed"}, nil, ed.private)
	many := make([]map[string]any, 101)
	for i := range many {
		many[i] = ed.jwk
	}
	tests := []struct {
		name string
		set  []byte
		want string // of the error
	}{
		{"good among bad", keySet(with(ed.jwk, map[string]any{"x": "!"}), ed.jwk), ""},
		{"nothing", nil, "unexpected end of JSON"},
		{"no keys", []byte("{}"), "none of it can verify"},
		{"too many", keySet(many...), "there are 101"},
		{"too large", []byte(`{"x":"` + strings.Repeat("x", 1<<20) + `"}`), "more than 1048576 bytes"},
		{"a short key", keySet(with(ed.jwk, map[string]any{"x": "AA"})), "none of Ed25519"},
		{"another curve", keySet(with(ed.jwk, map[string]any{"crv": "X25519"})), `curve "X25519"`},
		{"another curve of EC", keySet(with(p.jwk, map[string]any{"crv": "secp256k1"})), `curve "secp256k1"`},
		{"a point that is not on the curve", keySet(with(p.jwk, map[string]any{"y": p.jwk["x"]})), "not on"},
		{"half a point", keySet(with(p.jwk, map[string]any{"y": nil})), "coordinate"},
		{"no exponent", keySet(map[string]any{"kty": "RSA", "n": "AQAB"}), "base64url"},
		{"a small exponent", keySet(map[string]any{"kty": "RSA", "n": encode(make([]byte, 1)), "e": "AQ"}), "0 bits"},
		{"not for verifying", keySet(with(ed.jwk, map[string]any{"key_ops": []string{"sign"}})), "not for signatures"},
		{"not an object", []byte(`{"keys":[1]}`), "cannot unmarshal"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			user, why, err := newTokens(t, login.TokenOptions{KeysFile: keysFile(t, tt.set)}).Check(t.Context(), token)
			if tt.want == "" {
				if user != "alice" || err != nil {
					t.Errorf("got %q, %q, %v", user, why, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q, %q, %v; want %s", user, why, err, tt.want)
			}
		})
	}
}

// TestKeysByURL: keys are read once for all who wait, and not for each name that somebody
// makes up.
func TestKeysByURL(t *testing.T) {
	ed, next := newEd(t, "ed"), newEd(t, "next")
	var asked atomic.Int32
	url, ca := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = w.Write(keySet(ed.jwk))
	})
	tokens := newTokens(t, login.TokenOptions{KeysURL: url, CAFile: ca})
	token := sign(t, "EdDSA", map[string]any{"kid": "ed"}, nil, ed.private)
	var checks sync.WaitGroup
	for range 20 {
		checks.Go(func() {
			if user, why, err := tokens.Check(t.Context(), token); user != "alice" {
				t.Errorf("got %q, %q, %v", user, why, err)
			}
		})
	}
	checks.Wait()
	for _, id := range []string{"next", "a", "b", "c"} {
		user, why, err := tokens.Check(t.Context(), sign(t, "EdDSA", map[string]any{"kid": id}, nil, next.private))
		if user != "" || why == "" || err != nil {
			t.Errorf("got %q, %q, %v", user, why, err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("keys were read %d times, want once", n)
	}
}

func TestKeysAreAway(t *testing.T) {
	ed := newEd(t, "ed")
	token := sign(t, "EdDSA", nil, nil, ed.private)
	url, ca := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/keys", http.StatusFound)
			return
		}
		http.Error(w, "later", http.StatusServiceUnavailable)
	})
	for name, o := range map[string]login.TokenOptions{
		"error":       {KeysURL: url, CAFile: ca},
		"redirection": {KeysURL: url + "/moved", CAFile: ca},
		"authority":   {KeysURL: url},
		"no file":     {KeysFile: filepath.Join(t.TempDir(), "none")},
	} {
		tokens := newTokens(t, o)
		for range 2 {
			if user, why, err := tokens.Check(t.Context(), token); user != "" || why != "" || err == nil {
				t.Errorf("%s: got %q, %q, %v", name, user, why, err)
			}
		}
	}
	if _, err := login.NewTokens(login.TokenOptions{KeysURL: url, CAFile: "none"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file of authorities: got %v", err)
	}
}
