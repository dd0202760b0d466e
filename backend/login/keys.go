package login

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// key is a public key that tokens are signed with.
type key struct {
	id         string
	algorithms []string // of RFC 7518 §3.1 and RFC 8037 §3.1, that it may be used with
	public     crypto.PublicKey
}

// jwk is a key as RFC 7517 and RFC 7518 §6 write it.
type jwk struct {
	Kty string   `json:"kty"`
	Use string   `json:"use"`
	Ops []string `json:"key_ops"`
	Alg string   `json:"alg"`
	Kid string   `json:"kid"`
	Crv string   `json:"crv"`
	N   string   `json:"n"`
	E   string   `json:"e"`
	X   string   `json:"x"`
	Y   string   `json:"y"`
}

// maxKeys bounds a set of keys.
const maxKeys = 100

// parseKeys reads a JWK Set (RFC 7517 §5). Keys that no token can be verified with are
// passed over, as §5 wants it: secret ones, those for encryption, and those of types that are
// not known. A set without any that can is an error.
func parseKeys(data []byte) ([]key, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("read a set of keys: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("read a set of keys: there are %d; at most %d are read", len(set.Keys), maxKeys)
	}
	var keys []key
	var last error
	for _, raw := range set.Keys {
		var j jwk
		if last = json.Unmarshal(raw, &j); last != nil {
			continue
		}
		var k key
		if k, last = j.key(); last == nil {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, errors.Join(errors.New("read a set of keys: none of it can verify a token"), last)
	}
	return keys, nil
}

// key returns the key, with the algorithms that its type allows: whoever signs does
// not choose freely among all (RFC 8725 §3.1).
func (j jwk) key() (key, error) {
	if j.Use != "" && j.Use != "sig" || j.Ops != nil && !slices.Contains(j.Ops, "verify") {
		return key{}, errors.New("a key is not for signatures")
	}
	k := key{id: j.Kid}
	var err error
	switch j.Kty {
	case "RSA":
		k.algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
		k.public, err = j.rsa()
	case "EC":
		k.algorithms, k.public, err = j.ec()
	case "OKP":
		k.algorithms = []string{"EdDSA"}
		k.public, err = j.ed25519()
	default: // "oct" is a secret that the issuer would share with everybody who verifies
		err = fmt.Errorf("keys of type %q are of no use", j.Kty)
	}
	if err == nil && j.Alg != "" {
		if !slices.Contains(k.algorithms, j.Alg) {
			return key{}, fmt.Errorf("algorithm %q is none of a key of type %q", j.Alg, j.Kty)
		}
		k.algorithms = []string{j.Alg}
	}
	return k, err
}

// The sizes of RSA keys that are taken, in bits: RFC 7518 §3.3 asks for the least, and the
// cost of verifying for the most.
const (
	leastRSA = 2048
	mostRSA  = 8192
)

func (j jwk) rsa() (crypto.PublicKey, error) {
	n, err := number(j.N)
	if err != nil {
		return nil, err
	}
	e, err := number(j.E)
	if err != nil {
		return nil, err
	}
	if n.BitLen() < leastRSA || n.BitLen() > mostRSA {
		return nil, fmt.Errorf("an RSA key has %d bits; %d to %d are taken", n.BitLen(), leastRSA, mostRSA)
	}
	if e.BitLen() > 31 || e.Int64() < 3 || e.Bit(0) == 0 {
		return nil, errors.New("an RSA key has an exponent that none has")
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

func (j jwk) ec() ([]string, crypto.PublicKey, error) {
	var curve elliptic.Curve
	var algorithm string
	switch j.Crv {
	case "P-256":
		curve, algorithm = elliptic.P256(), "ES256"
	case "P-384":
		curve, algorithm = elliptic.P384(), "ES384"
	case "P-521":
		curve, algorithm = elliptic.P521(), "ES512"
	default:
		return nil, nil, fmt.Errorf("curve %q is not known", j.Crv)
	}
	size := (curve.Params().BitSize + 7) / 8
	point := []byte{4} // uncompressed: both coordinates follow
	for _, text := range []string{j.X, j.Y} {
		coordinate, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil || len(coordinate) != size {
			return nil, nil, errors.New("a key's coordinate is none of its curve")
		}
		point = append(point, coordinate...)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	return []string{algorithm}, public, err
}

func (j jwk) ed25519() (crypto.PublicKey, error) {
	if j.Crv != "Ed25519" {
		return nil, fmt.Errorf("curve %q is not known", j.Crv)
	}
	x, err := base64.RawURLEncoding.DecodeString(j.X)
	if err != nil || len(x) != ed25519.PublicKeySize {
		return nil, errors.New("a key is none of Ed25519")
	}
	return ed25519.PublicKey(x), nil
}

func number(text string) (*big.Int, error) {
	data, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(data) == 0 {
		return nil, errors.New("a key's number is not written in base64url")
	}
	return new(big.Int).SetBytes(data), nil
}
