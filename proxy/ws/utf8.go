package ws

import "unicode/utf8"

// text tells whether a text that comes in parts is UTF-8 (RFC 6455 §8.1).
type text struct {
	split [utf8.UTFMax]byte // the beginning of a character of which the rest has not come
	n     int8
}

// takes tells whether the text with p may be UTF-8, and is so, if p is the last of it.
func (t *text) takes(p []byte, last bool) bool {
	for t.n > 0 && len(p) > 0 {
		t.split[t.n] = p[0]
		t.n++
		p = p[1:]
		if c := t.split[:t.n]; utf8.FullRune(c) {
			if !utf8.Valid(c) {
				return false
			}
			t.n = 0
		}
	}
	if t.n > 0 {
		return !last
	}
	whole := wholeRunes(p)
	t.n = int8(copy(t.split[:], p[whole:])) //nolint:gosec // G115: at most 3
	if last && t.n > 0 {
		return false
	}
	return utf8.Valid(p[:whole])
}

// wholeRunes is how much of p there is before a character that may go on after it.
func wholeRunes(p []byte) int {
	for i := len(p) - 1; i >= max(0, len(p)-(utf8.UTFMax-1)); i-- {
		if utf8.RuneStart(p[i]) {
			if !utf8.FullRune(p[i:]) {
				return i
			}
			break
		}
	}
	return len(p)
}
