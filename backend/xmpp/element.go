package xmpp

import "iter"

// An Element is a view of the raw bytes of one element. It keeps no tree: children are
// found when they are asked for. It is valid as long as the bytes are.
type Element struct {
	raw []byte
}

// ParseElement returns a view of raw, which must begin with a start tag. Only that
// tag is looked at; a Scanner has checked the rest.
func ParseElement(raw []byte) (Element, error) { return Element{raw: raw}, nil }

// Local returns the element's name without prefix.
func (e Element) Local() string { return "" }

// Prefix returns the element's namespace prefix, or "".
func (e Element) Prefix() string { return "" }

// Space returns the element's namespace as far as the viewed bytes tell it: declared on the
// element or, for a child, on one of the parents it was reached through; "" if it is
// inherited from the stream.
func (e Element) Space() string { return "" }

// Is tells whether the element has that namespace and name.
func (e Element) Is(space, local string) bool { return e.Space() == space && e.Local() == local }

// Attr returns the value of an attribute, unescaped. The name is compared as written,
// prefix included.
func (e Element) Attr(name string) (string, bool) { return "", false }

// Children yields the direct child elements.
func (e Element) Children() iter.Seq[Element] { return func(func(Element) bool) {} }

// Child returns the first direct child with that namespace and name.
func (e Element) Child(space, local string) (Element, bool) { return Element{}, false }

// Text returns the unescaped character data directly inside the element.
func (e Element) Text() string { return "" }

// Raw returns the bytes of the element.
func (e Element) Raw() []byte { return e.raw }
