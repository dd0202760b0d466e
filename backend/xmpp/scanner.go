package xmpp

import (
	"bytes"
	"sync"
)

// Limits bound what one first-level element (or the stream header) may be. Zero
// means the default. What exceeds them is a policy-violation (RFC 6120 §13.12).
type Limits struct {
	MaxBytes int // length in bytes; default 256 KiB
	MaxDepth int // nested elements, the first-level element being 1; default 64
	MaxAttrs int // attributes of one tag, and prefixes declared at one place; default 64
}

func (l Limits) withDefaults() Limits {
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
func NewScanner(l Limits) *Scanner { return &Scanner{limits: l.withDefaults()} }

// NewFrameScanner returns a scanner for RFC 7395: each call of Next is given one whole
// message, which must hold exactly one element that declares its namespaces itself.
// <open/> and <close/> of the framing namespace are KindOpen and KindClose.
func NewFrameScanner(l Limits) *Scanner { return &Scanner{limits: l.withDefaults(), framed: true} }

// Reset makes the scanner expect a new stream header (after STARTTLS and SASL). Bytes of
// an element that has begun are forgotten.
func (s *Scanner) Reset() {
	s.giveBack()
	*s = Scanner{limits: s.limits, framed: s.framed}
}

// Idle tells whether the scanner is between elements and holds no bytes.
func (s *Scanner) Idle() bool { return s.w == nil || s.lent }

// SetLimits sets the limits of the elements that begin from now on.
func (s *Scanner) SetLimits(l Limits) { s.limits = l.withDefaults() }

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

// work is what has to be known inside an element. It is borrowed from a pool for
// just so long, so that idle sessions do not pay for it.
//
// A tag is checked when it is there as a whole: first its end is found, which can be
// resumed at any byte, then it is read at once. All offsets count from the element's
// first byte, so they stay true when the bytes move from the input to buf.
type work struct {
	limits Limits
	root   string // the header's name, if an end tag may close the stream
	header bool   // this is the stream header
	framed bool

	buf  []byte // the bytes so far, if they came in several chunks
	pos  int    // scanned up to here
	mode mode
	tag  int  // where the tag begins that is being looked at
	open byte // its quote that is open, or 0

	names    []name      // of the open elements
	bindings []binding   // the prefixes in scope
	attrs    []attribute // of the tag being checked

	name    name // of the element itself
	empty   bool // it was <name/>
	closing bool // it was the stream's end tag
}

// A binding is a prefix declared on the open element number depth.
type binding struct {
	depth       int
	prefix, uri span
}

// mode says what the next byte is part of.
type mode uint8

const (
	atMarkup      mode = iota // a '<'
	inTag                     // a start or end tag
	inText                    // character data
	inCDATA                   // a CDATA section
	inDeclaration             // the XML declaration
	inProlog                  // whitespace after it
)

// keepBuffer is the largest buffer, in bytes, that goes back to the pool.
const keepBuffer = 64 << 10

var pool = sync.Pool{New: func() any { return new(work) }}

// borrow returns the work for an element of s.
func borrow(s *Scanner) *work {
	w, ok := pool.Get().(*work)
	if !ok {
		w = new(work)
	}
	*w = work{
		limits: s.limits, root: s.root, header: s.phase == beforeHeader && !s.framed, framed: s.framed,
		buf: w.buf[:0], names: w.names[:0], bindings: w.bindings[:0], attrs: w.attrs[:0],
	}
	return w
}

func (w *work) giveBack() {
	if cap(w.buf) > keepBuffer {
		w.buf = nil
	}
	pool.Put(w)
}

// scan goes on with the element whose bytes so far are b, and returns where it ends or
// 0 if it does not end in b.
func (w *work) scan(b []byte) (end int, err *StreamError) {
	window := b[:min(len(b), w.limits.MaxBytes)]
	done, err := w.run(window)
	switch {
	case err != nil:
		return 0, err
	case done:
		return w.pos, nil
	case len(b) > len(window):
		return 0, &StreamError{Condition: PolicyViolation, Text: "element too long"}
	default:
		return 0, nil
	}
}

// run takes one step after the other until the element is done or b has too little.
func (w *work) run(b []byte) (done bool, err *StreamError) {
	for w.pos < len(b) {
		var more bool
		switch w.mode {
		case atMarkup:
			more, err = w.markup(b)
		case inTag:
			done, more, err = w.findTag(b)
		case inText:
			more, err = w.text(b)
		case inCDATA:
			more, err = w.cdata(b)
		case inDeclaration:
			more, err = w.declaration(b)
		case inProlog:
			more, err = w.prolog(b)
		}
		if done || more || err != nil {
			return done, err
		}
	}
	return false, nil
}

// markup looks at what a '<' begins.
func (w *work) markup(b []byte) (more bool, err *StreamError) {
	if len(b) < w.pos+2 {
		return true, nil
	}
	switch b[w.pos+1] {
	case '!':
		return w.exclamation(b)
	case '?':
		if !w.header || w.pos > 0 {
			return false, &StreamError{Condition: RestrictedXML, Text: "processing instruction"}
		}
		w.mode, w.pos = inDeclaration, 2
	default:
		w.mode, w.tag, w.open, w.pos = inTag, w.pos, 0, w.pos+1
	}
	return false, nil
}

// exclamation lets a CDATA section pass where character data may be, and nothing else.
func (w *work) exclamation(b []byte) (more bool, err *StreamError) {
	const start = "<![CDATA["
	at := b[w.pos:]
	n := min(len(at), len(start))
	switch {
	case len(w.names) == 0 || string(at[:n]) != start[:n]:
		return false, &StreamError{Condition: RestrictedXML, Text: "comment or declaration"}
	case n < len(start):
		return true, nil
	}
	w.mode, w.pos = inCDATA, w.pos+n
	return false, nil
}

// findTag looks for the end of a tag and then checks the whole tag.
func (w *work) findTag(b []byte) (done, more bool, err *StreamError) {
	end, next, open := tagEnd(b, w.pos, w.open)
	w.pos, w.open = next, open
	switch {
	case end == 0:
		return false, true, nil
	case end < 0:
		return false, false, malformed("< inside a tag")
	}
	w.mode = inText
	if b[w.tag+1] == '/' {
		done, err = w.endTag(b[:end])
	} else {
		done, err = w.startTag(b[:end])
	}
	return done, false, err
}

// endTag checks the end tag that b ends with.
func (w *work) endTag(b []byte) (done bool, err *StreamError) {
	n, err := readName(b, w.tag+2)
	if err != nil {
		return false, err
	}
	if skipBlank(b, n.to) != len(b)-1 {
		return false, malformed("end tag with more than a name")
	}
	depth := len(w.names)
	if depth == 0 {
		w.closing = true
		if w.root == "" || string(n.of(b)) != w.root {
			return false, malformed("end tag without a start tag")
		}
		return true, nil
	}
	if !bytes.Equal(w.names[depth-1].of(b), n.of(b)) {
		return false, malformed("end tag of another element")
	}
	w.names = w.names[:depth-1]
	w.unbind()
	return depth == 1, nil
}

// startTag checks the start tag that b ends with. It is done with the element if that is all
// there is of it, and with the stream's header in any case.
func (w *work) startTag(b []byte) (done bool, err *StreamError) {
	if len(w.names) == w.limits.MaxDepth {
		return false, &StreamError{Condition: PolicyViolation, Text: "elements nested too deep"}
	}
	n, err := readName(b, w.tag+1)
	if err != nil {
		return false, err
	}
	at, err := w.readAttrs(b, n.to)
	if err != nil {
		return false, err
	}
	empty := b[at] == '/'
	if at+1 != len(b) && (!empty || at+2 != len(b)) {
		return false, malformed("/ inside a tag")
	}
	w.names = append(w.names, n)
	if err := w.checkNamespaces(b, n); err != nil {
		return false, err
	}
	if len(w.names) == 1 {
		w.name, w.empty = n, empty
	}
	if empty {
		w.names = w.names[:len(w.names)-1]
		w.unbind()
	}
	return len(w.names) == 0 || w.header, nil
}

// readAttrs reads the attributes of a start tag, none of which may come twice, and
// returns where they end.
func (w *work) readAttrs(b []byte, i int) (end int, err *StreamError) {
	w.attrs = w.attrs[:0]
	for {
		a, next, more, err := nextAttr(b, i)
		if err != nil || !more {
			return next, err
		}
		if len(w.attrs) == w.limits.MaxAttrs {
			return 0, &StreamError{Condition: PolicyViolation, Text: "too many attributes"}
		}
		for _, other := range w.attrs {
			if bytes.Equal(a.name.of(b), other.name.of(b)) {
				return 0, malformed("attribute given twice")
			}
		}
		w.attrs = append(w.attrs, a)
		i = next
	}
}

// text passes over character data.
func (w *work) text(b []byte) (more bool, err *StreamError) {
	i := w.pos
	for i < len(b) {
		c := b[i]
		if class[c]&stopsText == 0 {
			i++
			continue
		}
		w.pos = i
		n := 1
		switch {
		case c == '<':
			w.mode = atMarkup
			return false, nil
		case c == ']':
			n, err = bracket(b[i:])
		case c < ' ':
			return false, errChar
		default:
			n, err = escapedOrWide(b[i:])
		}
		if n == 0 || err != nil {
			return true, err
		}
		i += n
	}
	w.pos = i
	return false, nil
}

var errChar = malformed("character not allowed in XML")

// bracket checks that b, which begins with ']', does not begin with "]]>" (XML 1.0 §2.4).
// It returns 0 if b ends too early to tell.
func bracket(b []byte) (int, *StreamError) {
	switch {
	case len(b) > 1 && b[1] != ']', len(b) > 2 && b[2] != '>':
		return 1, nil
	case len(b) > 2:
		return 0, errBracket
	default:
		return 0, nil
	}
}

var errBracket = malformed("]]> in character data")

// cdata passes over a CDATA section.
func (w *work) cdata(b []byte) (more bool, err *StreamError) {
	i := w.pos
	for i < len(b) {
		c := b[i]
		if class[c]&stopsCDATA == 0 {
			i++
			continue
		}
		w.pos = i
		n := 1
		switch {
		case c == ']':
			if n, err = bracket(b[i:]); err != nil {
				w.mode, w.pos = inText, i+len("]]>")
				return false, nil
			}
		case c < ' ':
			return false, errChar
		default:
			n, err = escapedOrWide(b[i:])
		}
		if n == 0 || err != nil {
			return true, err
		}
		i += n
	}
	w.pos = i
	return false, nil
}

// maxDeclaration is the length, in bytes, of the longest XML declaration that is read.
const maxDeclaration = 256

// declaration finds and checks the XML declaration that the stream begins with.
func (w *work) declaration(b []byte) (more bool, err *StreamError) {
	window := b[:min(len(b), maxDeclaration)]
	n := bytes.Index(window, []byte("?>"))
	switch {
	case n >= 0:
		w.mode, w.pos = inProlog, n+len("?>")
		return false, checkDeclaration(b[:n+1])
	case len(window) == maxDeclaration:
		return false, malformed("XML declaration without an end")
	default:
		return true, nil
	}
}

// checkDeclaration checks b, which is the XML declaration (XML 1.0 §2.8) up to its last '?'.
func checkDeclaration(b []byte) *StreamError {
	n, err := readName(b, len("<?"))
	if err != nil {
		return err
	}
	if string(n.of(b)) != "xml" {
		return &StreamError{Condition: RestrictedXML, Text: "processing instruction"}
	}
	// With a '>' for its '?' it reads as a start tag.
	tag := append(bytes.Clone(b[:len(b)-1]), '>')
	wanted := []string{"version", "encoding", "standalone"}
	for i := n.to; ; {
		a, next, more, err := nextAttr(tag, i)
		switch {
		case err != nil:
			return err
		case !more && (next != len(tag)-1 || len(wanted) == 3):
			return malformed("XML declaration without a version")
		case !more:
			return nil
		}
		if wanted, err = checkPseudo(string(a.name.of(tag)), string(a.value.of(tag)), wanted); err != nil {
			return err
		}
		i = next
	}
}

// checkPseudo checks one pseudo-attribute of the XML declaration and returns those that
// may follow it. XML is of version 1.0 (RFC 6120 §11.5), in UTF-8 (§11.6).
func checkPseudo(key, value string, wanted []string) ([]string, *StreamError) {
	for len(wanted) > 0 && wanted[0] != key && wanted[0] != "version" {
		wanted = wanted[1:]
	}
	switch {
	case len(wanted) == 0 || wanted[0] != key:
		return nil, malformed("XML declaration with " + key)
	case key == "encoding" && !equalFold(value, "utf-8"):
		return nil, &StreamError{Condition: UnsupportedEncoding}
	case key == "version" && value != "1.0":
		return nil, malformed("XML version is not 1.0")
	case key == "standalone" && value != "yes" && value != "no":
		return nil, malformed("standalone is neither yes nor no")
	}
	return wanted[1:], nil
}

// equalFold compares an ASCII string to a lower-case one.
func equalFold(s, lower string) bool {
	if len(s) != len(lower) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// prolog passes over the whitespace between XML declaration and stream header.
func (w *work) prolog(b []byte) (more bool, err *StreamError) {
	w.pos = skipBlank(b, w.pos)
	if w.pos == len(b) {
		return true, nil
	}
	if b[w.pos] != '<' {
		return false, malformed("stream header expected")
	}
	w.mode = atMarkup
	return false, nil
}
