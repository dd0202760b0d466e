package xmpp

import "bytes"

// checkNamespaces takes in the declarations of the start tag that was read last, of the
// element n, and checks that all prefixes of the tag are declared (XML-NAMES §5 and §6).
func (w *work) checkNamespaces(b []byte, n name) *StreamError {
	prefixed := 0
	for i := range w.attrs {
		a := &w.attrs[i]
		switch prefix, declares := a.declares(b); {
		case declares:
			if err := w.bind(b, prefix, a); err != nil {
				return err
			}
		case a.name.prefixed():
			prefixed++
		}
	}
	w.bindStream(b, n)
	if n.prefixed() && w.lookup(b, n.prefixOf(b)) == unbound {
		return errPrefix
	}
	if prefixed == 0 {
		return nil
	}
	return w.checkPrefixes(b)
}

var errPrefix = &StreamError{Condition: BadNamespacePrefix, Text: "prefix that is not declared"}

// bind takes in the declaration a of a prefix, which is empty for the default namespace.
func (w *work) bind(b, prefix []byte, a *attribute) *StreamError {
	uri := a.value.of(b)
	isXML := string(prefix) == "xml"
	switch {
	case string(prefix) == "xmlns", string(uri) == NSXMLNS, isXML != (string(uri) == NSXML):
		return malformed("declaration of a reserved prefix or namespace")
	case len(prefix) == 0:
		return nil
	case len(uri) == 0:
		return malformed("prefix declared for no namespace")
	case len(w.bindings) >= w.limits.MaxAttrs:
		return &StreamError{Condition: PolicyViolation, Text: "too many prefixes"}
	}
	w.bindings = append(w.bindings, binding{
		depth: len(w.names), prefix: span{a.name.local, a.name.to}, uri: a.value,
	})
	return nil
}

// bindStream binds the prefix "stream" for an element of the first level that has it: the
// stream's header has declared it. The binding is known by its empty uri.
func (w *work) bindStream(b []byte, n name) {
	if len(w.names) != 1 || w.header || w.framed || string(n.prefixOf(b)) != "stream" {
		return
	}
	if w.lookup(b, n.prefixOf(b)) == unbound {
		w.bindings = append(w.bindings, binding{depth: 1, prefix: span{n.from, n.local - 1}})
	}
}

// unbind forgets the prefixes that were declared on the element that has just ended.
func (w *work) unbind() {
	n := len(w.bindings)
	for n > 0 && w.bindings[n-1].depth > len(w.names) {
		n--
	}
	w.bindings = w.bindings[:n]
}

// What lookup returns instead of a number.
const (
	unbound  = -1
	xmlBound = -2 // the prefix xml, which is bound everywhere
)

// lookup returns the number of the binding of a prefix.
func (w *work) lookup(b, prefix []byte) int {
	for i := len(w.bindings) - 1; i >= 0; i-- {
		if bytes.Equal(w.bindings[i].prefix.of(b), prefix) {
			return i
		}
	}
	if string(prefix) == "xml" {
		return xmlBound
	}
	return unbound
}

// uri returns the namespace of a binding, as written.
func (w *work) uri(b []byte, bound int) []byte {
	switch {
	case bound == xmlBound:
		return nsXML
	case w.bindings[bound].uri == span{}:
		return nsStream
	default:
		return w.bindings[bound].uri.of(b)
	}
}

var (
	nsStream = []byte(NSStream)
	nsXML    = []byte(NSXML)
)

// checkPrefixes checks the prefixes of attributes: no two may be the same attribute by
// way of different prefixes (XML-NAMES §6.3).
func (w *work) checkPrefixes(b []byte) *StreamError {
	qualified := w.attrs[:0] // the others are not needed any more
	for i := range w.attrs {
		a := &w.attrs[i]
		if _, declares := a.declares(b); declares || !a.name.prefixed() {
			continue
		}
		if a.bound = w.lookup(b, a.name.prefixOf(b)); a.bound == unbound {
			return errPrefix
		}
		for j := range qualified {
			other := &qualified[j]
			if bytes.Equal(a.name.localOf(b), other.name.localOf(b)) && bytes.Equal(w.uri(b, a.bound), w.uri(b, other.bound)) {
				return malformed("attribute given twice")
			}
		}
		qualified = append(qualified, *a)
	}
	return nil
}
