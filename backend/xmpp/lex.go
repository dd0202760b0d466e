package xmpp

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// Classes of bytes, by who has to stop at them.
const (
	isNameStart = 1 << iota // ASCII letters and '_'
	isNameByte              // those, digits, '-' and '.'
	isBlank                 // space, tab, line feed, carriage return
	stopsTag                // what matters when the end of a tag is looked for
	stopsText               // what needs a look in character data and CDATA sections
	stopsValue              // what needs a look in an attribute value
)

// class maps each byte to its classes.
var class = classes()

func classes() (t [256]uint8) {
	for c := range 0x20 {
		t[c] |= stopsText | stopsValue
	}
	for _, c := range []byte(" \t\r\n") {
		t[c] = isBlank
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c] |= isNameStart | isNameByte
		t[c-'a'+'A'] |= isNameStart | isNameByte
	}
	t['_'] |= isNameStart | isNameByte
	for _, c := range []byte("0123456789-.") {
		t[c] |= isNameByte
	}
	for c := utf8.RuneSelf; c < len(t); c++ {
		t[c] |= stopsText | stopsValue
	}
	for _, c := range []byte("<>&") {
		t[c] |= stopsText
	}
	for _, c := range []byte("<&\"'") {
		t[c] |= stopsValue
	}
	for _, c := range []byte("<>\"'") {
		t[c] |= stopsTag
	}
	return t
}

// A span is a piece of an element's bytes. Offsets stay true when the bytes move.
type span struct{ from, to int }

func (s span) of(b []byte) []byte { return b[s.from:s.to] }

// A name is a qualified name (XML-NAMES §4): its bytes, and where the local part begins.
type name struct{ from, local, to int }

func (n name) of(b []byte) []byte      { return b[n.from:n.to] }
func (n name) localOf(b []byte) []byte { return b[n.local:n.to] }
func (n name) prefixed() bool          { return n.local > n.from }

// same tells whether both names are written the same.
func (n name) same(b []byte, other name) bool {
	return n.to-n.from == other.to-other.from && bytes.Equal(n.of(b), other.of(b))
}

func (n name) prefixOf(b []byte) []byte {
	if !n.prefixed() {
		return nil
	}
	return b[n.from : n.local-1]
}

// An attribute is one of a start tag; the value is what stands between the quotes.
type attribute struct {
	name  name
	value span
	bound int // the binding of its prefix, once a Scanner has looked it up
}

// declares returns the prefix that the attribute declares, empty for the default namespace.
func (a *attribute) declares(b []byte) (prefix []byte, ok bool) {
	if a.name.prefixed() {
		return a.name.localOf(b), string(a.name.prefixOf(b)) == "xmlns"
	}
	return nil, string(a.name.of(b)) == "xmlns"
}

func malformed(text string) *StreamError {
	return &StreamError{Condition: NotWellFormed, Text: text}
}

// skipBlank returns the position of the first byte from i on that is no whitespace.
func skipBlank(b []byte, i int) int {
	for i < len(b) && class[b[i]]&isBlank != 0 {
		i++
	}
	return i
}

// A stopSet is what skipPlain stops at: the bytes of a class. To find them in words, it says
// the same in other terms: control characters, what is not ASCII, '<', '>', and what equals mark
// when the bits of fold are set in it. That may be a few more.
type stopSet struct {
	class      uint8
	fold, mark uint64 // eight times
}

var (
	textStops  = stopSet{class: stopsText, mark: ones * '&'}
	valueStops = stopSet{class: stopsValue, fold: ones * ('\'' ^ '"'), mark: ones * '\''} // '"', '#', '&' and '\''
)

// What is eight times 1, and eight times the highest bit, in a word.
const (
	ones = 0x0101010101010101
	high = 0x8080808080808080
)

// skipPlain returns the position of the first byte from i on that may be of s, or the end. It
// looks at two words at a time.
func skipPlain(b []byte, i int, s stopSet) int {
	for ; i <= len(b)-16; i += 16 {
		p := (*[16]byte)(b[i:])
		x := s.in(binary.LittleEndian.Uint64(p[:8])) & high
		y := s.in(binary.LittleEndian.Uint64(p[8:])) & high
		switch {
		case x != 0:
			return i + bits.TrailingZeros64(x)/8
		case y != 0:
			return i + 8 + bits.TrailingZeros64(y)/8
		}
	}
	for i < len(b) && class[b[i]]&s.class == 0 {
		i++
	}
	return i
}

// in sets the highest bit of each byte of x that is of s, and says nothing with the others. In
// ASCII, subtracting sets that bit where it borrows, in what is less than the subtrahend; the
// byte that was borrowed from may have it, too, but stands behind one of s. '<' and '>' differ
// in one bit.
func (s stopSet) in(x uint64) uint64 {
	angle := (x | ones*('<'^'>')) ^ ones*'>'
	mark := (x | s.fold) ^ s.mark
	return x | (x - ones*' ') | (angle - ones) | (mark - ones)
}

// readName reads the qualified name at i.
func readName(b []byte, i int) (name, *StreamError) {
	end := skipName(b, i)
	if end > i && end < len(b) && b[end] < utf8.RuneSelf && b[end] != ':' && class[b[i]]&isNameStart != 0 {
		return name{from: i, local: i, to: end}, nil // as most are
	}
	to, err := readPart(b, i)
	if err != nil || to == len(b) || b[to] != ':' {
		return name{from: i, local: i, to: to}, err
	}
	local := to + 1
	to, err = readPart(b, local)
	return name{from: i, local: local, to: to}, err
}

// skipName returns the end of the ASCII that may be part of a name at i.
func skipName(b []byte, i int) int {
	for i < len(b) && class[b[i]]&isNameByte != 0 {
		i++
	}
	return i
}

// readPart returns the end of the name without colon (NCName) at i.
func readPart(b []byte, i int) (int, *StreamError) {
	from := i
	for i < len(b) {
		c := b[i]
		if class[c]&isNameByte != 0 {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			break
		}
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i, errUTF8
		}
		if !isNameRune(r) || i == from && !isNameStartRune(r) {
			return i, errNameChar
		}
		i += n
	}
	if i == from || b[from] < utf8.RuneSelf && class[b[from]]&isNameStart == 0 {
		return i, errName
	}
	return i, nil
}

// isNameStartRune and isNameRune are the non-ASCII ranges of NameStartChar and NameChar
// (XML 1.0 fifth edition §2.3).
func isNameStartRune(r rune) bool {
	switch {
	case r >= 0xC0 && r <= 0x2FF:
		return r != 0xD7 && r != 0xF7
	case r >= 0x370 && r <= 0x1FFF:
		return r != 0x37E
	default:
		return r == 0x200C || r == 0x200D || r >= 0x2070 && r <= 0x218F || r >= 0x2C00 && r <= 0x2FEF ||
			r >= 0x3001 && r <= 0xD7FF || r >= 0xF900 && r <= 0xFDCF || r >= 0xFDF0 && r <= 0xFFFD ||
			r >= 0x10000 && r <= 0xEFFFF
	}
}

func isNameRune(r rune) bool {
	return isNameStartRune(r) || r == 0xB7 || r >= 0x300 && r <= 0x36F || r == 0x203F || r == 0x2040
}

// What is found wrong with a tag may be only that the rest is still to come, so it costs no
// allocation.
var (
	errUTF8      = &StreamError{Condition: UnsupportedEncoding, Text: "invalid UTF-8"}
	errChar      = malformed("character not allowed in XML")
	errName      = malformed("name expected")
	errNameChar  = malformed("character not allowed in a name")
	errNoSpace   = malformed("space expected between attributes")
	errNoValue   = malformed("attribute without a value")
	errNoQuote   = malformed("attribute value without quotes")
	errValueEnd  = malformed("attribute value without an end")
	errValueChar = malformed("character not allowed in an attribute value")
	errSlash     = malformed("/ inside a tag")
)

// read reads the attribute after position i of a start tag, and returns where it ends. more is
// false when there is none, and next is then the position of the tag's ">" or "/>".
func (a *attribute) read(b []byte, i int) (next int, more bool, err *StreamError) {
	at := skipBlank(b, i)
	if at < len(b) && (b[at] == '>' || b[at] == '/') {
		return at, false, nil
	}
	if at == i {
		return i, false, errNoSpace
	}
	if a.name, err = readName(b, at); err != nil {
		return i, false, err
	}
	at = skipBlank(b, a.name.to)
	if at >= len(b) || b[at] != '=' {
		return i, false, errNoValue
	}
	at = skipBlank(b, at+1)
	if at >= len(b) || b[at] != '"' && b[at] != '\'' {
		return i, false, errNoQuote
	}
	a.value.from = at + 1
	if a.value.to, err = valueEnd(b, at+1, b[at]); err != nil {
		return i, false, err
	}
	return a.value.to + 1, true, nil
}

// startTagEnd returns where the start tag ends whose ">" or "/>" is at i.
func startTagEnd(b []byte, i int) (end int, err *StreamError) {
	if b[i] == '/' {
		i++
	}
	if i == len(b) || b[i] != '>' {
		return 0, errSlash
	}
	return i + 1, nil
}

// valueEnd returns the position of the quote that ends the attribute value at i.
func valueEnd(b []byte, i int, quote byte) (int, *StreamError) {
	for {
		if i = skipPlain(b, i, valueStops); i == len(b) {
			return i, errValueEnd
		}
		switch c := b[i]; {
		case c == quote:
			return i, nil
		case class[c]&stopsValue == 0 || c == '"' || c == '\'':
			i++
		case c == '&' || c >= utf8.RuneSelf:
			n, err := escapedOrWide(b[i:])
			if err != nil {
				return i, err
			}
			if n == 0 {
				return i, errValueEnd
			}
			i += n
		default:
			return i, errValueChar
		}
	}
}

// escapedOrWide checks the reference or the non-ASCII character that b begins with
// and returns its length, or 0 if b ends too early to tell.
func escapedOrWide(b []byte) (int, *StreamError) {
	if b[0] == '&' {
		return reference(b)
	}
	if b[0] >= 0xC2 && b[0] < 0xE0 && len(b) > 1 && b[1]&0xC0 == 0x80 {
		return 2, nil // most alphabets
	}
	r, n := utf8.DecodeRune(b)
	switch {
	case r == utf8.RuneError && n == 1 && utf8.FullRune(b):
		return 0, errUTF8
	case r == utf8.RuneError && n == 1:
		return 0, nil
	case r == 0xFFFE || r == 0xFFFF:
		return 0, errChar
	}
	return n, nil
}

// maxReference is the length of the longest reference that is read, far over what a
// character needs, so that leading zeros do no harm.
const maxReference = 24

// reference checks the reference that b begins with and returns its length, or 0
// if b ends too early to tell. Only the five predefined entities and characters may be
// referred to (RFC 6120 §11.1).
func reference(b []byte) (int, *StreamError) {
	for i := 1; i < len(b); i++ {
		c := b[i]
		switch {
		case c == ';':
			if _, ok := dereference(b[1:i]); ok {
				return i + 1, nil
			}
			return 0, badReference(b)
		case i > maxReference:
			return 0, badReference(b)
		case class[c]&isNameByte == 0 && c < utf8.RuneSelf && (c != '#' || i != 1):
			return 0, malformed("& that begins no reference")
		}
	}
	return 0, nil
}

func badReference(b []byte) *StreamError {
	if b[1] == '#' || b[1] == ';' {
		return malformed("reference to no character")
	}
	return &StreamError{Condition: RestrictedXML, Text: "entity reference"}
}

// dereference returns the character that the text between '&' and ';' stands for.
func dereference(ref []byte) (rune, bool) {
	switch string(ref) {
	case "lt":
		return '<', true
	case "gt":
		return '>', true
	case "amp":
		return '&', true
	case "apos":
		return '\'', true
	case "quot":
		return '"', true
	}
	if len(ref) < 2 || ref[0] != '#' {
		return 0, false
	}
	r, ok := number(ref[1:])
	return r, ok && isXMLChar(r)
}

// number reads the decimal or x-hexadecimal number of a character reference.
func number(digits []byte) (rune, bool) {
	base := rune(10)
	if digits[0] == 'x' {
		base, digits = 16, digits[1:]
	}
	r := rune(0)
	for _, c := range digits {
		d := rune(c) - '0'
		switch {
		case c >= '0' && c <= '9':
		case c >= 'a' && c <= 'f' && base == 16:
			d = rune(c) - 'a' + 10
		case c >= 'A' && c <= 'F' && base == 16:
			d = rune(c) - 'A' + 10
		default:
			return 0, false
		}
		if r = r*base + d; r > utf8.MaxRune {
			return 0, false
		}
	}
	return r, len(digits) > 0
}

// isXMLChar is the production Char (XML 1.0 §2.2).
func isXMLChar(r rune) bool {
	switch {
	case r < 0x20:
		return r == '\t' || r == '\n' || r == '\r'
	case r >= 0xD800 && r <= 0xDFFF:
		return false
	default:
		return r <= utf8.MaxRune && r != 0xFFFE && r != 0xFFFF
	}
}

// tagEnd returns the position after the '>' that ends the tag which begins before i, where
// quote is the quote that is open there or 0. The position is 0 if the tag does not end
// in b (next and open are then where to go on), and -1 if a '<' comes first.
func tagEnd(b []byte, i int, quote byte) (end, next int, open byte) {
	for i < len(b) {
		if quote != 0 {
			n := bytes.IndexByte(b[i:], quote)
			if n < 0 {
				break
			}
			i, quote = i+n+1, 0
			continue
		}
		c := b[i]
		i++
		if class[c]&stopsTag == 0 {
			continue
		}
		switch c {
		case '>':
			return i, i, 0
		case '<':
			return -1, i, 0
		default:
			quote = c
		}
	}
	return 0, len(b), quote
}
