package login

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// TokenOptions say which tokens are good.
type TokenOptions struct {
	KeysFile string // a JWK Set (RFC 7517) of the issuer, or
	KeysURL  string // where to get it
	CAFile   string // who has signed its certificate; empty: one of the system's authorities

	Issuer   string   // that a token must name
	Audience []string // of which it must name one
	Claim    string   // that names the user; sub

	Leeway  time.Duration // for clocks that differ
	Refresh time.Duration // after which the keys are read again; 10 min
	Timeout time.Duration // for reading them; 5 s

	Configuration string // told to clients: where the issuer says how to get a token (OpenID Connect Discovery)
}

// maxToken bounds a token, in bytes; no login carries more.
const maxToken = 16 << 10

// staleKeys is how long an issuer may be away before its keys are not believed any more.
const staleKeys = 24 * time.Hour

// keysAgain is the shortest time between one reading of keys and the next.
const keysAgain = 10 * time.Second

// Tokens verifies tokens that are JWTs (RFC 7519, RFC 8725), by the keys of their issuer.
type Tokens struct {
	o       TokenOptions
	keys    *keyring
	parser  *jwt.Parser
	refusal []byte
	close   func()
}

// NewTokens returns a verifier that has no keys yet.
func NewTokens(o TokenOptions) (*Tokens, error) {
	o.Claim = cmp.Or(o.Claim, "sub")
	o.Refresh = cmp.Or(o.Refresh, 10*time.Minute)
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	t := &Tokens{
		o: o,
		keys: &keyring{
			read: fromFile(o.KeysFile), timeout: o.Timeout, fresh: o.Refresh,
			stale: max(staleKeys, o.Refresh), again: min(keysAgain, o.Refresh),
		},
		parser: jwt.NewParser(jwt.WithIssuer(o.Issuer), jwt.WithAudience(o.Audience...), jwt.WithLeeway(o.Leeway),
			jwt.WithExpirationRequired(), jwt.WithStrictDecoding()),
		close: func() {},
	}
	if o.KeysURL != "" {
		client, err := newClient(o.CAFile, 1, o.Timeout)
		if err != nil {
			return nil, err
		}
		t.keys.read, t.close = fromURL(client, o.KeysURL), client.CloseIdleConnections
	}
	var err error
	t.refusal, err = json.Marshal(struct {
		Status        string `json:"status"`
		Configuration string `json:"openid-configuration,omitempty"`
	}{"invalid_token", o.Configuration})
	if err != nil {
		return nil, fmt.Errorf("word the refusal of tokens: %w", err)
	}
	return t, nil
}

// Close closes the connections.
func (t *Tokens) Close() error {
	t.close()
	return nil
}

// Refusal is what a client is told whose token is not good (RFC 7628 §3.2.2).
func (t *Tokens) Refusal() []byte { return t.refusal }

// errKeys marks that a token could not be verified for want of keys.
var errKeys = errors.New("no keys")

// Check returns how a token names its user. Without a name, why says what is wrong with the
// token.
func (t *Tokens) Check(ctx context.Context, token string) (name, why string, err error) {
	if token == "" || len(token) > maxToken {
		return "", "there is no token", nil
	}
	claims := jwt.MapClaims{}
	_, err = t.parser.ParseWithClaims(token, claims, func(parsed *jwt.Token) (any, error) { return t.keyFor(ctx, parsed) })
	switch {
	case errors.Is(err, errKeys):
		return "", "", fmt.Errorf("verify a token: %w", err)
	case err != nil:
		return "", err.Error(), nil //nolint:nilerr // That a token is not good is an answer.
	}
	if name = claim(claims, t.o.Claim); name == "" {
		return "", "the token has no claim " + t.o.Claim + " that names somebody", nil
	}
	return name, "", nil
}

// claim returns a claim that is a text. A name with dots may be the way to one inside
// another.
func claim(claims map[string]any, name string) string {
	if text, ok := claims[name].(string); ok {
		return text
	}
	outer, rest, ok := strings.Cut(name, ".")
	if inner, is := claims[outer].(map[string]any); ok && is {
		return claim(inner, rest)
	}
	return ""
}

// keyFor returns the keys that may have signed a token: those that it names, if they are
// good for the algorithm that it says.
func (t *Tokens) keyFor(ctx context.Context, token *jwt.Token) (any, error) {
	id, ok := token.Header["kid"].(string)
	if _, given := token.Header["kid"]; given && !ok {
		return nil, errors.New("the key's name is not a text")
	}
	if _, given := token.Header["crit"]; given { // there is no extension that is known here (RFC 7515 §4.1.11)
		return nil, errors.New("the token asks for an extension")
	}
	keys, err := t.keys.find(ctx, id)
	if err != nil {
		return nil, errors.Join(errKeys, err)
	}
	var set jwt.VerificationKeySet
	for _, k := range keys {
		if slices.Contains(k.algorithms, token.Method.Alg()) {
			set.Keys = append(set.Keys, k.public)
		}
	}
	if len(set.Keys) == 0 {
		return nil, fmt.Errorf("no key %q for %s", id, token.Method.Alg())
	}
	return set, nil
}
