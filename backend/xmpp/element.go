package xmpp

import (
	"bytes"
	"iter"
)

// An Element is a view of the raw bytes of one element. It keeps no tree: attributes and
// children are found when they are asked for. It is valid as long as the bytes are.
type Element struct {
	raw   []byte
	name  name
	body  int    // where the start tag ends
	empty bool   // <name/>
	space []byte // default namespace inherited from viewed parents, as written
	outer *scope // prefixes declared by viewed parents
}

// A scope is the start tag of a parent that declares prefixes.
type scope struct {
	tag   []byte
	name  name
	outer *scope
}

// ParseElement returns a view of raw, which must begin with a start tag. Only that
// tag is looked at: a Scanner has checked the rest, and without that the view may
// be senseless but no method panics. The error is a *StreamError.
func ParseElement(raw []byte) (Element, error) {
	e, err := view(raw)
	if err != nil {
		return Element{}, err
	}
	return e, nil
}

// view checks the start tag of raw.
func view(raw []byte) (Element, *StreamError) {
	if len(raw) < 2 || raw[0] != '<' {
		return Element{}, malformed("start tag expected")
	}
	n, err := readName(raw, 1)
	if err != nil {
		return Element{}, err
	}
	var a attribute
	for i := n.to; ; {
		next, more, err := a.read(raw, i)
		if err != nil {
			return Element{}, err
		}
		if i = next; more {
			continue
		}
		end, err := startTagEnd(raw, i)
		if err != nil {
			return Element{}, err
		}
		return Element{raw: raw, name: n, body: end, empty: raw[i] == '/'}, nil
	}
}

// Raw returns the bytes of the element.
func (e Element) Raw() []byte { return e.raw }

// Local returns the element's name without prefix.
func (e Element) Local() string { return string(e.name.localOf(e.raw)) }

// Prefix returns the element's namespace prefix, or "".
func (e Element) Prefix() string { return string(e.name.prefixOf(e.raw)) }

// Space returns the element's namespace as far as the viewed bytes tell it: declared on the
// element or, for a child, on one of the parents it was reached through; "" if it is
// inherited from the stream.
func (e Element) Space() string {
	prefix := e.name.prefixOf(e.raw)
	if uri, ok := declared(e.raw[:e.body], e.name, prefix); ok {
		return knownSpace(uri)
	}
	if len(prefix) == 0 {
		return knownSpace(e.space)
	}
	for s := e.outer; s != nil; s = s.outer {
		if uri, ok := declared(s.tag, s.name, prefix); ok {
			return knownSpace(uri)
		}
	}
	if string(prefix) == "xml" {
		return NSXML
	}
	return ""
}

// Is tells whether the element has that namespace, in the sense of Space, and that name.
func (e Element) Is(space, local string) bool {
	return string(e.name.localOf(e.raw)) == local && e.Space() == space
}

// declared returns what the start tag of n declares for a prefix, "" being the default.
func declared(tag []byte, n name, prefix []byte) (uri []byte, ok bool) {
	for a := range attributes(tag, n) {
		if p, ok := a.declares(tag); ok && bytes.Equal(p, prefix) {
			return a.value.of(tag), true
		}
	}
	return nil, false
}

// knownSpace makes a string of a namespace, without an allocation if it is a usual one.
func knownSpace(uri []byte) string {
	switch string(uri) {
	case NSClient:
		return NSClient
	case NSStream:
		return NSStream
	case NSStreams:
		return NSStreams
	case NSStanzas:
		return NSStanzas
	case NSSASL:
		return NSSASL
	case NSBind:
		return NSBind
	case NSRoster:
		return NSRoster
	case NSSM:
		return NSSM
	case NSPing:
		return NSPing
	case NSStanzaID:
		return NSStanzaID
	case NSChatStates:
		return NSChatStates
	case NSReceipts:
		return NSReceipts
	case NSFraming:
		return NSFraming
	default:
		return unescape(uri, true)
	}
}

// attributes yields the attributes of the start tag of n, up to the first that is malformed.
func attributes(tag []byte, n name) iter.Seq[attribute] {
	return func(yield func(attribute) bool) {
		for i := n.to; ; {
			var a attribute
			next, more, err := a.read(tag, i)
			if err != nil || !more || !yield(a) {
				return
			}
			i = next
		}
	}
}

// Attr returns the value of an attribute, unescaped. The name is compared as written,
// prefix included.
func (e Element) Attr(name string) (string, bool) {
	for a := range attributes(e.raw[:e.body], e.name) {
		if string(a.name.of(e.raw)) == name {
			return unescape(a.value.of(e.raw), true), true
		}
	}
	return "", false
}

// Attrs yields the attributes, declarations of namespaces included: names as written, values
// unescaped.
func (e Element) Attrs() iter.Seq[Attr] {
	return func(yield func(Attr) bool) {
		for a := range attributes(e.raw[:e.body], e.name) {
			if !yield(Attr{string(a.name.of(e.raw)), unescape(a.value.of(e.raw), true)}) {
				return
			}
		}
	}
}

// Children yields the direct child elements.
func (e Element) Children() iter.Seq[Element] {
	return func(yield func(Element) bool) {
		for _, child := range e.placedChildren() {
			if !yield(child) {
				return
			}
		}
	}
}

// placedChildren yields the direct child elements with the places where they stand.
func (e Element) placedChildren() iter.Seq2[span, Element] {
	return func(yield func(span, Element) bool) {
		inside, known := Element{}, false
		for n := range e.nodes() {
			if n.kind != elementNode {
				continue
			}
			child, err := view(n.raw)
			if err != nil {
				return
			}
			if !known {
				inside, known = e.scopeInside(), true
			}
			child.space, child.outer = inside.space, inside.outer
			if !yield(n.span, child) {
				return
			}
		}
	}
}

// scopeInside returns the default namespace and the scope that e's children inherit.
func (e Element) scopeInside() Element {
	in := Element{space: e.space, outer: e.outer}
	tag := e.raw[:e.body]
	if uri, ok := declared(tag, e.name, nil); ok {
		in.space = uri
	}
	if bytes.Contains(tag, []byte("xmlns:")) {
		in.outer = &scope{tag: tag, name: e.name, outer: e.outer}
	}
	return in
}

// Child returns the first direct child with that namespace, in the sense of Space, and
// that name.
func (e Element) Child(space, local string) (Element, bool) {
	for child := range e.Children() {
		if child.Is(space, local) {
			return child, true
		}
	}
	return Element{}, false
}

// Text returns the unescaped character data directly inside the element.
func (e Element) Text() string {
	var out []byte
	for n := range e.nodes() {
		switch n.kind {
		case elementNode:
		case textNode:
			out = appendUnescaped(out, n.raw, false)
		case cdataNode:
			out = appendLines(out, n.raw)
		}
	}
	return string(out)
}

// A node is a piece of an element's content. The raw bytes of a CDATA section are those
// between its marks.
type node struct {
	kind nodeKind
	span span // in the element, marks included
	raw  []byte
}

type nodeKind uint8

const (
	textNode nodeKind = iota
	cdataNode
	elementNode
)

// nodes yields the content of e, up to its end tag or to the first thing that makes no sense.
func (e Element) nodes() iter.Seq[node] {
	return func(yield func(node) bool) {
		for i := e.body; !e.empty && i < len(e.raw); {
			n, ok := e.nodeAt(i)
			if !ok || !yield(n) {
				return
			}
			i = n.span.to
		}
	}
}

// nodeAt returns the node that begins at i.
func (e Element) nodeAt(i int) (node, bool) {
	const start, end = "<![CDATA[", "]]>"
	at := e.raw[i:]
	switch {
	case at[0] != '<':
		n := bytes.IndexByte(at, '<')
		if n < 0 {
			n = len(at)
		}
		return node{textNode, span{i, i + n}, at[:n]}, true
	case bytes.HasPrefix(at, []byte("</")):
		return node{}, false
	case bytes.HasPrefix(at, []byte(start)):
		n := bytes.Index(at, []byte(end))
		if n < 0 {
			return node{}, false
		}
		return node{cdataNode, span{i, i + n + len(end)}, at[len(start):n]}, true
	default:
		n := elementEnd(at)
		return node{elementNode, span{i, i + n}, at[:n]}, n > 0
	}
}

// elementEnd returns the length of the element that b begins with, or 0.
func elementEnd(b []byte) int {
	depth := 0
	for i := 0; ; {
		n := bytes.IndexByte(b[i:], '<')
		if n < 0 || i+n+1 >= len(b) {
			return 0
		}
		i += n
		next := b[i+1]
		if next == '!' {
			n = bytes.Index(b[i:], []byte("]]>"))
			if n < 0 {
				return 0
			}
			i += n + len("]]>")
			continue
		}
		end, _, _ := tagEnd(b, i+1, 0)
		switch {
		case end <= 0:
			return 0
		case next == '/':
			depth--
		case b[end-2] != '/':
			depth++
		}
		if i = end; depth <= 0 {
			return i
		}
	}
}
