package xmpp

import "bytes"

// The functions of this file append a changed copy of an element that a Scanner has let
// through; they never alter it. An element whose start tag is malformed is appended as it is.

// An Attr is an attribute to be set; an empty Value removes it.
type Attr struct {
	Name  string // as written, prefix included
	Value string // unescaped
}

// AppendWithAttrs appends raw with attributes of its start tag set, replaced or removed. A
// replaced one keeps its place, new ones come last. No name may be given twice.
func AppendWithAttrs(dst, raw []byte, attrs ...Attr) []byte {
	e, err := view(raw)
	if err != nil {
		return append(dst, raw...)
	}
	copied := 0
	for a := range attributes(raw[:e.body], e.name) {
		set, ok := findAttr(attrs, a.name.of(raw))
		if !ok {
			continue
		}
		dst = append(dst, bytes.TrimRight(raw[copied:a.name.from], " \t\r\n")...)
		dst = appendAttr(dst, set)
		copied = a.value.to + 1
	}
	inside := e.tagInside()
	dst = append(dst, raw[copied:inside]...)
	for _, set := range attrs {
		if !e.hasAttr(set.Name) {
			dst = appendAttr(dst, set)
		}
	}
	return append(dst, raw[inside:]...)
}

func findAttr(attrs []Attr, name []byte) (Attr, bool) {
	for _, a := range attrs {
		if a.Name == string(name) {
			return a, true
		}
	}
	return Attr{}, false
}

// appendAttr appends a space and the attribute, unless it is to be removed.
func appendAttr(dst []byte, a Attr) []byte {
	if a.Value == "" {
		return dst
	}
	dst = append(dst, ' ')
	dst = append(dst, a.Name...)
	dst = append(dst, "='"...)
	dst = AppendEscaped(dst, a.Value)
	return append(dst, '\'')
}

func (e Element) hasAttr(name string) bool {
	for a := range attributes(e.raw[:e.body], e.name) {
		if string(a.name.of(e.raw)) == name {
			return true
		}
	}
	return false
}

// tagInside returns the position after the last attribute of the start tag.
func (e Element) tagInside() int {
	end := e.name.to
	for a := range attributes(e.raw[:e.body], e.name) {
		end = a.value.to + 1
	}
	return end
}

// AppendWithChild appends raw with child, a whole element, as its last child. The
// child has to declare its namespace unless it is that of raw.
func AppendWithChild(dst, raw, child []byte) []byte {
	e, err := view(raw)
	if err != nil {
		return append(dst, raw...)
	}
	if e.empty {
		dst = append(dst, raw[:e.body-len("/>")]...)
		dst = append(dst, '>')
		dst = append(dst, child...)
		return appendEndTag(dst, e)
	}
	end := bytes.LastIndex(raw, []byte("</"))
	if end < e.body {
		return append(dst, raw...)
	}
	dst = append(dst, raw[:end]...)
	dst = append(dst, child...)
	return append(dst, raw[end:]...)
}

// AppendWithout appends raw without the direct children for which drop returns true.
func AppendWithout(dst, raw []byte, drop func(Element) bool) []byte {
	e, err := view(raw)
	if err != nil {
		return append(dst, raw...)
	}
	copied := 0
	for at, child := range e.placedChildren() {
		if drop(child) {
			dst = append(dst, raw[copied:at.from]...)
			copied = at.to
		}
	}
	return append(dst, raw[copied:]...)
}

// AppendSelfContained appends raw with the namespaces declared that it inherits from the
// stream: the default one (jabber:client), and that of the prefix stream if it has that
// prefix. So it can stand alone, as a WebSocket message has to (RFC 7395 §3.3.3).
func AppendSelfContained(dst, raw []byte) []byte {
	e, err := view(raw)
	if err != nil {
		return append(dst, raw...)
	}
	dst = append(dst, raw[:e.name.to]...)
	if !e.hasAttr("xmlns") {
		dst = appendAttr(dst, Attr{"xmlns", NSClient})
	}
	if string(e.name.prefixOf(raw)) == "stream" && !e.hasAttr("xmlns:stream") {
		dst = appendAttr(dst, Attr{"xmlns:stream", NSStream})
	}
	return append(dst, raw[e.name.to:]...)
}

// AppendResult appends the result of the request raw, an IQ: the same id, the addresses
// exchanged, and child inside, a whole element or nothing (RFC 6120 §8.2.3).
func AppendResult(dst, raw, child []byte) []byte {
	in, err := view(raw)
	if err != nil {
		return dst
	}
	dst = appendReplyTag(dst, in, "result")
	dst = append(dst, child...)
	return appendEndTag(dst, in)
}

// appendReplyTag appends the start tag of a reply to e: name, namespace and id are the
// same, the addresses are exchanged.
func appendReplyTag(dst []byte, e Element, kind string) []byte {
	dst = append(dst, '<')
	dst = append(dst, e.name.of(e.raw)...)
	for a := range attributes(e.raw[:e.body], e.name) {
		_, declares := a.declares(e.raw)
		switch n := string(a.name.of(e.raw)); {
		case declares || n == "id":
			dst = appendAsWritten(dst, e.raw, n, a)
		case n == "from":
			dst = appendAsWritten(dst, e.raw, "to", a)
		case n == "to" && a.value.from < a.value.to: // what is empty is no address
			dst = appendAsWritten(dst, e.raw, "from", a)
		}
	}
	dst = appendAttr(dst, Attr{"type", kind})
	return append(dst, '>')
}

// appendAsWritten appends the attribute a of raw under another name.
func appendAsWritten(dst, raw []byte, name string, a attribute) []byte {
	dst = append(dst, ' ')
	dst = append(dst, name...)
	dst = append(dst, '=')
	return append(dst, raw[a.value.from-1:a.value.to+1]...)
}

func appendEndTag(dst []byte, e Element) []byte {
	dst = append(dst, "</"...)
	dst = append(dst, e.name.of(e.raw)...)
	return append(dst, '>')
}
