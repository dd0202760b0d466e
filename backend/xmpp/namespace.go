package xmpp

import "bytes"

// checkNamespaces takes in the declarations of the start tag that was read last, of the
// element n, and checks that all prefixes of the tag are declared (XML-NAMES §5 and §6).
func (w *work) checkNamespaces(b []byte, n name) *StreamError {
	prefixed := 0
	for _, a := range w.attrs {
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
	if n.prefixed() {
		if _, ok := w.lookup(b, n.prefixOf(b)); !ok {
			return errPrefix
		}
	}
	if prefixed == 0 {
		return nil
	}
	return w.checkPrefixes(b, prefixed)
}

var errPrefix = &StreamError{Condition: BadNamespacePrefix, Text: "prefix that is not declared"}

// bind takes in the declaration a of a prefix, which is empty for the default namespace.
func (w *work) bind(b, prefix []byte, a attribute) *StreamError {
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
	if _, ok := w.lookup(b, n.prefixOf(b)); !ok {
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

// lookup returns the namespace of a prefix, as written.
func (w *work) lookup(b, prefix []byte) (uri []byte, ok bool) {
	for i := len(w.bindings) - 1; i >= 0; i-- {
		at := w.bindings[i]
		switch {
		case !bytes.Equal(at.prefix.of(b), prefix):
		case at.uri == span{}:
			return nsStream, true
		default:
			return at.uri.of(b), true
		}
	}
	return nsXML, string(prefix) == "xml"
}

var (
	nsStream = []byte(NSStream)
	nsXML    = []byte(NSXML)
)

// checkPrefixes checks the prefixes of attributes. If there are several, no two may
// be the same attribute by way of different prefixes (XML-NAMES §6.3).
func (w *work) checkPrefixes(b []byte, prefixed int) *StreamError {
	for i, a := range w.attrs {
		if _, declares := a.declares(b); declares || !a.name.prefixed() {
			continue
		}
		uri, ok := w.lookup(b, a.name.prefixOf(b))
		if !ok {
			return errPrefix
		}
		if prefixed > 1 && w.sameBefore(b, i, uri) {
			return malformed("attribute given twice")
		}
	}
	return nil
}

// sameBefore tells whether an attribute before number i has its expanded name.
func (w *work) sameBefore(b []byte, i int, uri []byte) bool {
	for _, a := range w.attrs[:i] {
		if _, declares := a.declares(b); declares || !a.name.prefixed() ||
			!bytes.Equal(a.name.localOf(b), w.attrs[i].name.localOf(b)) {
			continue
		}
		if other, ok := w.lookup(b, a.name.prefixOf(b)); ok && bytes.Equal(other, uri) {
			return true
		}
	}
	return false
}
