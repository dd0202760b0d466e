package xmpp

import (
	"bytes"
	"slices"
	"sync"
	"unicode/utf8"
)

// work is what has to be known inside an element. It is borrowed from a pool for
// just so long, so that idle sessions do not pay for it.
//
// A tag is read in one pass. If that fails, which may be because the rest is still to come,
// its end is looked for, which can be resumed at any byte, and then it is read again: twice
// at most, however it comes in. All offsets count from the element's
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
	inTag                     // a tag that was not right at the first look
	inText                    // character data
	inCDATA                   // a CDATA section
	inDeclaration             // the XML declaration
	inProlog                  // whitespace after it
)

// progress says how it goes on after a step.
type progress uint8

const (
	onward progress = iota // with the next step
	short                  // when there are more bytes
	done                   // not at all: the element has ended
)

// keepBuffer is the largest buffer, in bytes, that goes back to the pool.
const keepBuffer = 64 << 10

// keepNames is how many names of open elements there is room for at most in what goes back.
const keepNames = 1024

var pool = sync.Pool{New: func() any { return new(work) }}

// borrow returns the work for an element of s.
func borrow(s *Scanner) *work {
	w, ok := pool.Get().(*work)
	if !ok {
		w = new(work)
	}
	w.limits, w.root, w.header, w.framed = s.limits, s.root, s.phase == beforeHeader && !s.framed, s.framed
	w.buf, w.pos, w.mode = w.buf[:0], 0, atMarkup
	w.names, w.bindings, w.attrs = w.names[:0], w.bindings[:0], w.attrs[:0]
	w.closing = false
	return w
}

func (w *work) giveBack() {
	if cap(w.buf) > keepBuffer {
		w.buf = nil
	}
	if cap(w.names) > keepNames {
		w.names = nil
	}
	pool.Put(w)
}

// scan goes on with the element whose bytes so far are b, and returns where it ends or
// 0 if it does not end in b.
func (w *work) scan(b []byte) (end int, err *StreamError) {
	window := b[:min(len(b), w.limits.MaxBytes)]
	now, err := w.run(window)
	switch {
	case err != nil:
		return 0, err
	case now == done:
		return w.pos, nil
	case len(b) > len(window):
		return 0, &StreamError{Condition: PolicyViolation, Text: "element too long"}
	default:
		return 0, nil
	}
}

// run takes one step after the other until the element is done or b has too little.
func (w *work) run(b []byte) (now progress, err *StreamError) {
	for now == onward && err == nil {
		if w.pos >= len(b) {
			return short, nil
		}
		switch w.mode {
		case atMarkup:
			now, err = w.markup(b)
		case inTag:
			now, err = w.pieces(b)
		case inText:
			now, err = w.text(b)
		case inCDATA:
			now, err = w.cdata(b)
		case inDeclaration:
			now, err = w.declaration(b)
		case inProlog:
			now, err = w.prolog(b)
		}
	}
	return now, err
}

// markup looks at what a '<' begins. Mostly that is a tag of which all is there: it is read
// in one pass.
func (w *work) markup(b []byte) (progress, *StreamError) {
	if len(b) < w.pos+2 {
		return short, nil
	}
	switch b[w.pos+1] {
	case '!':
		return w.exclamation(b)
	case '?':
		return w.question()
	case '/':
		if end := w.usualEndTag(b); end > 0 {
			return w.leave(end), nil
		}
	default:
		if n, end, err := w.startTag(b, w.pos); err == nil {
			return w.enter(b, n, end)
		}
	}
	w.mode, w.tag, w.open, w.pos = inTag, w.pos, 0, w.pos+1
	return onward, nil
}

// question lets an XML declaration pass that the stream begins with.
func (w *work) question() (progress, *StreamError) {
	if !w.header || w.pos > 0 {
		return onward, &StreamError{Condition: RestrictedXML, Text: "processing instruction"}
	}
	w.mode, w.pos = inDeclaration, len("<?")
	return onward, nil
}

// exclamation lets a CDATA section pass where character data may be, and nothing else.
func (w *work) exclamation(b []byte) (progress, *StreamError) {
	const start = "<![CDATA["
	at := b[w.pos:]
	n := min(len(at), len(start))
	switch {
	case len(w.names) == 0 || string(at[:n]) != start[:n]:
		return onward, &StreamError{Condition: RestrictedXML, Text: "comment or declaration"}
	case n < len(start):
		return short, nil
	}
	w.mode, w.pos = inCDATA, w.pos+n
	return onward, nil
}

// pieces looks for the end of a tag that was not right at the first look, which may be
// because it comes in pieces. When all of it is there, it is read again, and what is
// wrong now is wrong.
func (w *work) pieces(b []byte) (progress, *StreamError) {
	end, next, open := tagEnd(b, w.pos, w.open)
	w.pos, w.open = next, open
	switch {
	case end == 0:
		return short, nil
	case end < 0:
		return onward, malformed("< inside a tag")
	case b[w.tag+1] == '/':
		return w.endTag(b[:end])
	}
	n, end, err := w.startTag(b[:end], w.tag)
	if err != nil {
		return onward, err
	}
	return w.enter(b, n, end)
}

// startTag reads the start tag at i, and returns its name and where it ends.
func (w *work) startTag(b []byte, i int) (n name, end int, err *StreamError) {
	if len(w.names) == w.limits.MaxDepth {
		return name{}, 0, &StreamError{Condition: PolicyViolation, Text: "elements nested too deep"}
	}
	if n, err = readName(b, i+1); err != nil {
		return name{}, 0, err
	}
	if end, err = w.readAttrs(b, n.to); err != nil {
		return name{}, 0, err
	}
	end, err = startTagEnd(b, end)
	return n, end, err
}

// enter goes on behind the start tag of n, which startTag has read. The element is done if
// that is all there is of it, and the stream's header in any case.
func (w *work) enter(b []byte, n name, end int) (progress, *StreamError) {
	w.mode, w.pos = inText, end
	w.names = append(w.names, n)
	if err := w.checkNamespaces(b, n); err != nil {
		return onward, err
	}
	empty := b[end-2] == '/'
	if len(w.names) == 1 {
		w.name, w.empty = n, empty
	}
	switch {
	case empty:
		return w.leave(end), nil
	case w.header:
		return done, nil
	}
	return onward, nil
}

// usualEndTag returns where the end tag at w.pos ends if it is that of the innermost element,
// with nothing in it but the name, as it mostly is; else 0.
func (w *work) usualEndTag(b []byte) int {
	if len(w.names) == 0 {
		return 0
	}
	open := w.names[len(w.names)-1].of(b)
	tag := b[w.pos+len("</"):]
	if len(tag) <= len(open) || tag[len(open)] != '>' || !bytes.Equal(tag[:len(open)], open) {
		return 0
	}
	return w.pos + len("</") + len(open) + len(">")
}

// endTag reads the end tag that b ends with. It has to be that of the innermost element, or
// of the stream.
func (w *work) endTag(b []byte) (progress, *StreamError) {
	n, err := readName(b, w.tag+len("</"))
	if err != nil {
		return onward, err
	}
	depth := len(w.names)
	switch {
	case skipBlank(b, n.to) != len(b)-1:
		return onward, malformed("end tag with more than a name")
	case depth > 0 && n.same(b, w.names[depth-1]):
		return w.leave(len(b)), nil
	case depth > 0:
		return onward, malformed("end tag of another element")
	case w.root == "" || string(n.of(b)) != w.root:
		return onward, malformed("end tag without a start tag")
	}
	w.closing, w.pos = true, len(b)
	return done, nil
}

// leave goes on behind the innermost element, which ends at end.
func (w *work) leave(end int) progress {
	w.mode, w.pos = inText, end
	w.names = w.names[:len(w.names)-1]
	w.unbind()
	if len(w.names) == 0 {
		return done
	}
	return onward
}

// readAttrs reads the attributes of a start tag, none of which may come twice, and
// returns where they end.
func (w *work) readAttrs(b []byte, i int) (end int, err *StreamError) {
	w.attrs = w.attrs[:0]
	for {
		n := len(w.attrs)
		w.attrs = slices.Grow(w.attrs, 1)[:n+1]
		a := &w.attrs[n]
		next, more, err := a.read(b, i)
		switch {
		case err != nil:
			return 0, err
		case !more:
			w.attrs = w.attrs[:n]
			return next, nil
		case n == w.limits.MaxAttrs:
			return 0, &StreamError{Condition: PolicyViolation, Text: "too many attributes"}
		}
		for j := range w.attrs[:n] {
			if a.name.same(b, w.attrs[j].name) {
				return 0, malformed("attribute given twice")
			}
		}
		i = next
	}
}

// text passes over character data.
func (w *work) text(b []byte) (now progress, err *StreamError) {
	i := w.pos
	for i < len(b) {
		c := b[i]
		if class[c]&stopsText == 0 {
			i = skipPlain(b, i+1, textStops)
			continue
		}
		w.pos = i
		n := 1
		switch {
		case c == '<':
			w.mode = atMarkup
			return w.markup(b)
		case c == '>':
			if afterBrackets(b, i) {
				return onward, malformed("]]> in character data")
			}
		case c < ' ':
			return onward, errChar
		default:
			n, err = escapedOrWide(b[i:])
		}
		if n == 0 || err != nil {
			return short, err
		}
		i += n
	}
	w.pos = i
	return onward, nil
}

// afterBrackets tells whether the '>' at i ends "]]>", which ends a CDATA section and may not
// stand in other character data (XML 1.0 §2.4). What stands before either holds no ']'.
func afterBrackets(b []byte, i int) bool { return i >= 2 && b[i-1] == ']' && b[i-2] == ']' }

// cdata passes over a CDATA section.
func (w *work) cdata(b []byte) (now progress, err *StreamError) {
	i := w.pos
	for i < len(b) {
		c := b[i]
		if class[c]&stopsText == 0 {
			i = skipPlain(b, i+1, textStops)
			continue
		}
		w.pos = i
		n := 1
		switch {
		case c == '>' && afterBrackets(b, i):
			w.mode, w.pos = inText, i+1
			return onward, nil
		case c < ' ':
			return onward, errChar
		case c >= utf8.RuneSelf:
			n, err = escapedOrWide(b[i:])
		}
		if n == 0 || err != nil {
			return short, err
		}
		i += n
	}
	w.pos = i
	return onward, nil
}
