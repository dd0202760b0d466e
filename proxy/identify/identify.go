package identify

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"net/http"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxKey is the length of the longest key, in bytes.
const MaxKey = 1023

// DefaultMax is how many bytes an identifier waits for unless it is told otherwise.
const DefaultMax = 16 << 10

// A Verdict says how far an identifier has come. Those after Found name nobody, each
// for a reason of its own; the next identifier may find someone.
type Verdict uint8

// The verdicts. Their order is not part of the interface; use [Verdict.None].
const (
	More      Verdict = iota // undecided: more bytes may tell
	Found                    // the key is the user's
	Foreign                  // the bytes are of another protocol
	Malformed                // of this protocol, against its rules
	TooLong                  // more bytes would be needed than are allowed
	Nobody                   // well-formed, and names no user
	BadKey                   // names a user in a way that cannot be a key
	Late                     // undecided when the caller's time or room was up
)

// None says whether the verdict is that these bytes or facts name nobody.
func (v Verdict) None() bool { return v > Found }

// String returns a fixed name, for logs and metrics.
func (v Verdict) String() string {
	switch v {
	case More:
		return "more"
	case Found:
		return "found"
	case Foreign:
		return "foreign"
	case Malformed:
		return "malformed"
	case TooLong:
		return "too-long"
	case Nobody:
		return "nobody"
	case BadKey:
		return "bad-key"
	case Late:
		return "late"
	default:
		return "unknown"
	}
}

// A Result is what an identifier answers.
type Result struct {
	Verdict Verdict
	Key     string // the user's, when Found
	By      string // the step of the Chain that decided, or that is undecided
	Need    int    // when More: the least length of what was sent at which it can decide
	Breach  bool   // what was sent breaks the protocol that was agreed on, so that no other step may find a user
}

// Facts are what is known of a connection besides what the client sends. All that
// will ever be known is there when the first identifier is asked.
type Facts struct {
	Source      netip.Addr        // the client's address, after PROXY headers
	TLVs        []TLV             // of the PROXY v2 header, if there was one
	ServerName  string            // of the TLS that the front has ended
	Certificate *x509.Certificate // the client's, in TLS that the front has ended
	Request     *http.Request     // the WebSocket upgrade
	Agreed      string            // the listener's protocol, the WebSocket's subprotocol, or what ALPN has agreed on here; "" for none
}

// Input is what an identifier is asked about.
type Input struct {
	Facts
	Sent []byte // all that the client has sent so far; not retained

	// Tried is the length of Sent in the call before, which answered More; 0 at first.
	// It spares an identifier from looking at the same bytes twice.
	Tried int
}

// An Identifier learns the user from facts or from bytes. Those that look at facts
// only never answer More.
type Identifier interface {
	Identify(in Input) Result
}

func more(need int) Result    { return Result{Verdict: More, Need: need} }
func none(why Verdict) Result { return Result{Verdict: why} }

// found makes a key of what was found.
func found(key string) Result {
	switch {
	case key == "":
		return none(Nobody)
	case !utf8.ValidString(key) || strings.ContainsFunc(key, unprintable):
		return none(BadKey)
	case len(key) > MaxKey:
		sum := sha256.Sum256([]byte(key))
		return Result{Verdict: Found, Key: digestPrefix + hex.EncodeToString(sum[:])}
	default:
		return Result{Verdict: Found, Key: key}
	}
}

// digestPrefix begins the key of a name that is too long to be one, like a token.
const digestPrefix = "sha256:"

// unprintable says whether a character could break a line of a log or command a terminal.
func unprintable(r rune) bool {
	return unicode.IsControl(r) || r == '\u2028' || r == '\u2029'
}

// foundBytes is found for bytes that are not to be retained.
func foundBytes(key []byte) Result { return found(string(key)) }

// orDefault returns a limit, or the default in place of none.
func orDefault(limit, fallback int) int {
	if limit <= 0 {
		return fallback
	}
	return limit
}
