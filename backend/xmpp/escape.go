package xmpp

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// AppendEscaped appends s escaped for character data and for attribute values in quotes of
// either kind. Line ends and tabs become references, so that they survive in an
// attribute; what XML cannot carry becomes U+FFFD.
func AppendEscaped(dst []byte, s string) []byte {
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			dst = appendEscapedByte(dst, c)
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError || !isXMLChar(r) {
			dst = append(dst, "\uFFFD"...)
		} else {
			dst = append(dst, s[i:i+n]...)
		}
		i += n
	}
	return dst
}

func appendEscapedByte(dst []byte, c byte) []byte {
	switch c {
	case '<':
		return append(dst, "&lt;"...)
	case '>':
		return append(dst, "&gt;"...)
	case '&':
		return append(dst, "&amp;"...)
	case '\'':
		return append(dst, "&apos;"...)
	case '"':
		return append(dst, "&quot;"...)
	case '\t':
		return append(dst, "&#x9;"...)
	case '\n':
		return append(dst, "&#xA;"...)
	case '\r':
		return append(dst, "&#xD;"...)
	}
	if c < ' ' {
		return append(dst, "\uFFFD"...)
	}
	return append(dst, c)
}

// unescape returns what raw stands for: in an attribute value, literal whitespace is a
// space (XML 1.0 §3.3.3); in character data, a literal line end is a line feed (§2.11).
func unescape(raw []byte, value bool) string {
	stops := "&\r"
	if value {
		stops = "&\r\n\t"
	}
	if !bytes.ContainsAny(raw, stops) {
		return string(raw)
	}
	return string(appendUnescaped(nil, raw, value))
}

// unescapeString is unescape of an attribute's value, without an allocation where it can.
func unescapeString(raw string) string {
	if !strings.ContainsAny(raw, "&\r\n\t") {
		return raw
	}
	return string(appendUnescaped(nil, []byte(raw), true))
}

func appendUnescaped(dst, raw []byte, value bool) []byte {
	for len(raw) > 0 {
		n := bytes.IndexByte(raw, '&')
		if n < 0 {
			n = len(raw)
		}
		if value {
			dst = appendBlanks(dst, raw[:n])
		} else {
			dst = appendLines(dst, raw[:n])
		}
		raw = raw[n:]
		if len(raw) == 0 {
			break
		}
		end := bytes.IndexByte(raw, ';')
		r, ok := rune(0), false
		if end > 0 {
			r, ok = dereference(raw[1:end])
		}
		if !ok { // only if no Scanner has seen it
			return append(dst, raw...)
		}
		dst = utf8.AppendRune(dst, r)
		raw = raw[end+1:]
	}
	return dst
}

// appendBlanks appends raw with a space for each whitespace character.
func appendBlanks(dst, raw []byte) []byte {
	for i, c := range raw {
		switch {
		case c == '\n' && i > 0 && raw[i-1] == '\r':
		case class[c]&isBlank != 0:
			dst = append(dst, ' ')
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// appendLines appends raw with a line feed for each line end.
func appendLines(dst, raw []byte) []byte {
	for i, c := range raw {
		switch {
		case c == '\n' && i > 0 && raw[i-1] == '\r':
		case c == '\r':
			dst = append(dst, '\n')
		default:
			dst = append(dst, c)
		}
	}
	return dst
}
