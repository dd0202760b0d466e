package xmpp

import "bytes"

// maxDeclaration is the length, in bytes, of the longest XML declaration that is read.
const maxDeclaration = 256

// declaration finds and checks the XML declaration that the stream begins with.
func (w *work) declaration(b []byte) (progress, *StreamError) {
	window := b[:min(len(b), maxDeclaration)]
	n := bytes.Index(window, []byte("?>"))
	switch {
	case n >= 0:
		w.mode, w.pos = inProlog, n+len("?>")
		return onward, checkDeclaration(b[:n+1])
	case len(window) == maxDeclaration:
		return onward, malformed("XML declaration without an end")
	default:
		return short, nil
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
	var a attribute
	for i := n.to; ; {
		next, more, err := a.read(tag, i)
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
// may follow it. XML is of version 1.0 (RFC 6120 §11.8), in UTF-8 (§11.6).
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
func (w *work) prolog(b []byte) (progress, *StreamError) {
	w.pos = skipBlank(b, w.pos)
	if w.pos == len(b) {
		return short, nil
	}
	if b[w.pos] != '<' {
		return onward, malformed("stream header expected")
	}
	w.mode = atMarkup
	return onward, nil
}
