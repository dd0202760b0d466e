package xmpp

import (
	"bytes"
	"sync"
)

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
		var n int
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

// cdataEnd is bracket for a CDATA section, which ends with what is an error in text.
func cdataEnd(b []byte) (n int, ended bool) {
	n, err := bracket(b)
	return n, err != nil
}

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
		var n int
		switch {
		case c == ']':
			var ended bool
			if n, ended = cdataEnd(b[i:]); ended {
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
