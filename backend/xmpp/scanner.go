package xmpp

// Limits bound what one first-level element (or the stream header) may be. Zero
// means the default. What exceeds them is a policy-violation (RFC 6120 §13.12).
type Limits struct {
	MaxBytes int // length in bytes; default 256 KiB
	MaxDepth int // nested elements, the first-level element being 1; default 64
	MaxAttrs int // attributes of one tag, and prefixes declared at one place; default 64
}

// WithDefaults returns the limits that hold.
func (l Limits) WithDefaults() Limits {
	if l.MaxBytes <= 0 {
		l.MaxBytes = 256 << 10
	}
	if l.MaxDepth <= 0 {
		l.MaxDepth = 64
	}
	if l.MaxAttrs <= 0 {
		l.MaxAttrs = 64
	}
	return l
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

// A Scanner cuts a stream into tokens. It is given the input in chunks of any size and
// accepts only what RFC 6120 §11 allows: well-formed XML in UTF-8 with all prefixes
// declared in the element (but "stream", which the header declares, on the first level), no
// DTD, processing instruction, comment, or reference to an entity that is not predefined.
//
//	for {
//		tok, p, err = s.Next(p)
//		if err != nil || tok.Kind == KindNone { break }
//		…
//	}
//
// The call that returns KindNone also takes back the buffer of the last token, so a
// scanner between elements holds nothing but itself.
//
// It is not for use by several goroutines at once.
type Scanner struct {
	limits Limits
	framed bool
	lent   bool // the last token lives in w.buf
	phase  phase
	root   string       // name of the stream header, as written
	err    *StreamError // what the scanner died of
	w      *work        // nil between elements
}

// phase says what may come next between elements.
type phase uint8

const (
	beforeHeader phase = iota
	inStream
	afterClose
)

// gatherStep is how much is copied at once, in bytes, when an element that began in
// an earlier chunk goes on: what follows its end is copied in vain.
const gatherStep = 2 << 10

// NewScanner returns a scanner that expects a stream header.
func NewScanner(l Limits) *Scanner { return &Scanner{limits: l.WithDefaults()} }

// NewFrameScanner returns a scanner for RFC 7395: each call of Next is given one whole
// message, which must hold exactly one element that declares its namespaces itself.
// <open/> and <close/> of the framing namespace are KindOpen and KindClose.
func NewFrameScanner(l Limits) *Scanner { return &Scanner{limits: l.WithDefaults(), framed: true} }

// Reset makes the scanner expect a new stream header (after STARTTLS and SASL). Bytes of
// an element that has begun are forgotten.
func (s *Scanner) Reset() {
	s.giveBack()
	*s = Scanner{limits: s.limits, framed: s.framed}
}

// Idle tells whether the scanner is between elements and holds no bytes.
func (s *Scanner) Idle() bool { return s.w == nil || s.lent }

// SetLimits sets the limits of the elements that begin from now on.
func (s *Scanner) SetLimits(l Limits) { s.limits = l.WithDefaults() }

// Next returns the next token of p and what follows it. The error is a *StreamError,
// after which the scanner is dead and returns the same error until Reset.
func (s *Scanner) Next(p []byte) (tok Token, rest []byte, err error) {
	if s.lent {
		s.giveBack()
	}
	switch {
	case s.err != nil:
		return Token{}, nil, s.err
	case s.w != nil:
		return s.gather(p)
	case len(p) == 0:
		return Token{}, nil, nil
	case s.framed:
		return s.frame(p)
	case class[p[0]]&isBlank != 0:
		n := skipBlank(p, 0)
		return Token{Kind: KindSpace, Raw: p[:n]}, p[n:], nil
	default:
		return s.begin(p)
	}
}

// begin scans the token that starts with p. Only if it does not end there are its
// bytes copied.
func (s *Scanner) begin(p []byte) (Token, []byte, error) {
	if err := s.mayBegin(p[0]); err != nil {
		return s.die(err)
	}
	s.w = borrow(s)
	end, err := s.w.scan(p)
	switch {
	case err != nil:
		return s.die(err)
	case end == 0:
		s.w.buf = append(s.w.buf[:0], p...)
		return Token{}, nil, nil
	}
	tok := s.token(p[:end])
	s.giveBack()
	if tok.Kind == KindNone {
		return s.die(errEmptyHeader)
	}
	return tok, p[end:], nil
}

// mayBegin checks the first byte of what stands between elements.
func (s *Scanner) mayBegin(c byte) *StreamError {
	switch {
	case s.phase == afterClose:
		return malformed("data after the end of the stream")
	case c == '<':
		return nil
	case s.phase == beforeHeader:
		return malformed("stream header expected")
	default:
		return &StreamError{Condition: BadFormat, Text: "text between elements"}
	}
}

// gather goes on with a token that began in an earlier chunk.
func (s *Scanner) gather(p []byte) (Token, []byte, error) {
	for len(p) > 0 {
		n, held := min(len(p), gatherStep), len(s.w.buf)
		s.w.buf = append(s.w.buf, p[:n]...)
		end, err := s.w.scan(s.w.buf)
		if err != nil {
			return s.die(err)
		}
		if end == 0 {
			p = p[n:]
			continue
		}
		tok := s.token(s.w.buf[:end])
		if tok.Kind == KindNone {
			return s.die(errEmptyHeader)
		}
		s.lent = true
		return tok, p[end-held:], nil
	}
	return Token{}, nil, nil
}

var errEmptyHeader = &StreamError{Condition: BadFormat, Text: "stream header without a stream"}

// token says what raw is, which work has found to end where it does, and moves
// to the next phase. It returns KindNone for a stream that ends in its header.
func (s *Scanner) token(raw []byte) Token {
	switch {
	case s.phase == beforeHeader:
		if s.w.empty {
			return Token{}
		}
		s.phase, s.root = inStream, rootName(s.w.name.of(raw))
		return Token{Kind: KindOpen, Raw: raw}
	case s.w.closing:
		s.phase = afterClose
		return Token{Kind: KindClose, Raw: raw}
	default:
		return Token{Kind: KindElement, Raw: raw}
	}
}

// rootName saves the usual name an allocation.
func rootName(b []byte) string {
	if string(b) == "stream:stream" {
		return "stream:stream"
	}
	return string(b)
}

// frame scans a message that has to be one element.
func (s *Scanner) frame(p []byte) (Token, []byte, error) {
	if p[0] != '<' {
		return s.die(&StreamError{Condition: BadFormat, Text: "frame that does not begin with an element"})
	}
	s.w = borrow(s)
	end, err := s.w.scan(p)
	s.giveBack()
	switch {
	case err != nil:
		return s.die(err)
	case end == 0:
		return s.die(malformed("frame that ends inside an element"))
	case skipBlank(p, end) < len(p):
		return s.die(&StreamError{Condition: BadFormat, Text: "frame with more than one element"})
	}
	return Token{Kind: frameKind(p[:end]), Raw: p[:end]}, nil, nil
}

// frameKind tells the two elements of the framing from all others.
func frameKind(raw []byte) Kind {
	e, err := ParseElement(raw)
	switch {
	case err != nil:
		return KindElement
	case e.Is(NSFraming, "open"):
		return KindOpen
	case e.Is(NSFraming, "close"):
		return KindClose
	default:
		return KindElement
	}
}

func (s *Scanner) die(err *StreamError) (Token, []byte, error) {
	s.giveBack()
	s.err = err
	return Token{}, nil, err
}

// giveBack returns what was borrowed for the element that has ended.
func (s *Scanner) giveBack() {
	if s.w != nil {
		s.w.giveBack()
		s.w, s.lent = nil, false
	}
}
