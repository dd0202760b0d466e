package login_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// signer is a key of an issuer.
type signer struct {
	private crypto.Signer
	jwk     map[string]any
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func newRSA(tb testing.TB, id string, bits int) signer {
	tb.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		tb.Fatal(err)
	}
	return signer{k, map[string]any{"kty": "RSA", "kid": id, "use": "sig", "n": encode(k.N.Bytes()), "e": "AQAB"}}
}

func newEC(tb testing.TB, id, name string, curve elliptic.Curve) signer {
	tb.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	point, err := k.PublicKey.Bytes()
	if err != nil {
		tb.Fatal(err)
	}
	half := len(point) / 2
	return signer{k, map[string]any{"kty": "EC", "kid": id, "crv": name, "x": encode(point[1 : 1+half]), "y": encode(point[1+half:])}}
}

func newEd(tb testing.TB, id string) signer {
	tb.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return signer{private, map[string]any{"kty": "OKP", "kid": id, "crv": "Ed25519", "x": encode(public)}}
}

func keySet(keys ...map[string]any) []byte {
	data, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		panic(err)
	}
	return data
}

// with returns a copy of a key with changes; nil takes a member out.
func with(key map[string]any, changes map[string]any) map[string]any {
	out := maps.Clone(key)
	maps.Copy(out, changes)
	maps.DeleteFunc(out, func(_ string, v any) bool { return v == nil })
	return out
}

const (
	issuer   = "https://issuer.example.com"
	audience = "xmpp:example.com"
)

func good() jwt.MapClaims {
	return jwt.MapClaims{"iss": issuer, "aud": audience, "sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
}

// sign makes a token; claims of nil are taken out.
func sign(tb testing.TB, algorithm string, header map[string]any, change map[string]any, key any) string {
	tb.Helper()
	claims := jwt.MapClaims(with(good(), change))
	token := jwt.NewWithClaims(jwt.GetSigningMethod(algorithm), claims)
	maps.Copy(token.Header, header)
	text, err := token.SignedString(key)
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

func keysFile(tb testing.TB, data []byte) string {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "keys.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		tb.Fatal(err)
	}
	return file
}
