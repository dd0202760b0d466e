package xmpp

// An Attr is an attribute to be set; an empty Value removes it.
type Attr struct {
	Name  string // as written, prefix included
	Value string // unescaped
}

// AppendWithAttrs appends raw with attributes of its start tag set, replaced or removed.
func AppendWithAttrs(dst, raw []byte, attrs ...Attr) []byte { return append(dst, raw...) }

// AppendWithChild appends raw with child, an element, as its last child.
func AppendWithChild(dst, raw, child []byte) []byte { return append(dst, raw...) }

// AppendWithout appends raw without the direct children for which drop returns true.
func AppendWithout(dst, raw []byte, drop func(Element) bool) []byte { return append(dst, raw...) }

// AppendSelfContained appends raw with the namespaces declared that it inherits from the
// stream: the default one (jabber:client), and that of the prefix stream if it has that
// prefix (RFC 7395 §3.3.3).
func AppendSelfContained(dst, raw []byte) []byte { return append(dst, raw...) }

// AppendEscaped appends s escaped for character data and for attribute values.
func AppendEscaped(dst []byte, s string) []byte { return append(dst, s...) }

func appendReplyTag(dst []byte, e Element, kind string) []byte { return dst }

func appendEndTag(dst []byte, e Element) []byte { return dst }
