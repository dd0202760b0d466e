package backend

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"fmt"
	"hash"

	"github.com/xdg-go/scram"

	"imlb/backend/store"
)

// DefaultScramIterations is the work in a derived key. RFC 7677 §4 asks for at
// least 4096; each PLAIN login costs the server as much as this.
const DefaultScramIterations = 10_000

const saltBytes = 16

// DeriveCredentials makes the keys from which a password is verified, for each
// mechanism that needs its own. The password is prepared with SASLprep (RFC 4013);
// one that it forbids is an error.
func DeriveCredentials(password string, iterations int) ([]store.Credential, error) {
	var creds []store.Credential
	for _, mechanism := range []string{MechanismScramSHA512, MechanismScramSHA256, MechanismScramSHA1} {
		salt := make([]byte, saltBytes)
		_, _ = rand.Read(salt) // never fails
		cred, err := deriveCredential(mechanism, password, salt, iterations)
		if err != nil {
			return nil, fmt.Errorf("derive keys for %s: %w", mechanism, err)
		}
		creds = append(creds, cred)
	}
	return creds, nil
}

func deriveCredential(mechanism, password string, salt []byte, iterations int) (store.Credential, error) {
	client, err := scramHash(mechanism).NewClient("", password, "")
	if err != nil {
		return store.Credential{}, err
	}
	keys, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: iterations})
	if err != nil {
		return store.Credential{}, err
	}
	return store.Credential{
		Mechanism: mechanism, Salt: salt, Iterations: iterations,
		StoredKey: keys.StoredKey, ServerKey: keys.ServerKey,
	}, nil
}

// matches derives the key of password as cred was derived, and compares.
func matches(cred store.Credential, password string) bool {
	derived, err := deriveCredential(cred.Mechanism, password, cred.Salt, cred.Iterations)
	if err != nil {
		return false
	}
	return subtle.ConstantTimeCompare(derived.StoredKey, cred.StoredKey) == 1
}

// fakeCredential is what a name without an account has: a salt that is always
// the same and keys that no password makes. So nobody can tell by the exchange
// whether an account exists.
func fakeCredential(secret []byte, mechanism, user string, iterations int) store.Credential {
	draw := func(h func() hash.Hash, what string) []byte {
		mac := hmac.New(h, secret)
		_, _ = fmt.Fprintf(mac, "%s\x00%s\x00%s", what, mechanism, user)
		return mac.Sum(nil)
	}
	size := scramHash(mechanism)().Size()
	return store.Credential{
		Mechanism: mechanism, Salt: draw(sha256.New, "salt")[:saltBytes], Iterations: iterations,
		StoredKey: draw(sha512.New, "stored key")[:size], ServerKey: draw(sha512.New, "server key")[:size],
	}
}

// scramHash returns the hash of a SCRAM mechanism.
func scramHash(mechanism string) scram.HashGeneratorFcn { return scramHashes[keysOf(mechanism)] }
