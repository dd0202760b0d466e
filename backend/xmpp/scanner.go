package xmpp

// Limits bound what one first-level element (or the stream header) may be. Zero
// means the default.
type Limits struct {
	MaxBytes int // length in bytes; default 256 KiB
	MaxDepth int // nested elements, the first-level element being 1; default 64
	MaxAttrs int // attributes of one tag, and prefixes in scope; default 64
}

// Kind says what a Token is.
type Kind uint8

// The kinds of tokens.
const (
	KindNone    Kind = iota // nothing yet: more input is needed
	KindOpen                // a stream header with a leading XML declaration, or <open/> in framed mode
	KindElement             // one whole first-level element
	KindClose               // </stream:stream>, or <close/> in framed mode
	KindSpace               // whitespace between elements (keepalive)
)

// A Token is one unit of a stream. Raw holds its exact bytes and is valid until the next
// call of Next: it is part of the input when the token was in one chunk, else
// of a buffer that the scanner takes back.
type Token struct {
	Kind Kind
	Raw  []byte
}

// A Scanner cuts a stream into tokens.
//
//	for {
//		tok, p, err = s.Next(p)
//		if err != nil || tok.Kind == KindNone { break }
//		…
//	}
//
// The call that returns KindNone also gives back the buffer of the last token, so a
// scanner between elements holds nothing.
type Scanner struct {
	limits Limits
	framed bool
}

// NewScanner returns a scanner that expects a stream header.
func NewScanner(l Limits) *Scanner { return &Scanner{limits: l} }

// NewFrameScanner returns a scanner for RFC 7395: each call of Next is given one whole
// message, which must hold exactly one element.
func NewFrameScanner(l Limits) *Scanner { return &Scanner{limits: l, framed: true} }

// Next returns the next token of p and what follows it. The error is a *StreamError,
// after which the scanner is dead and returns the same error for ever.
func (s *Scanner) Next(p []byte) (tok Token, rest []byte, err error) { return Token{}, nil, nil }

// Reset makes the scanner expect a new stream header (after STARTTLS and SASL).
func (s *Scanner) Reset() {}

// Idle tells whether the scanner is between elements and holds no bytes.
func (s *Scanner) Idle() bool { return true }

// SetLimits sets the limits of the elements that begin from now on.
func (s *Scanner) SetLimits(l Limits) { s.limits = l }
