package xmpp

// StanzaKind says which of the three stanzas an element is.
type StanzaKind uint8

// The kinds of stanzas (RFC 6120 §8.2).
const (
	NotStanza StanzaKind = iota
	Message
	Presence
	IQ
)

// String returns the element's name, or "other".
func (k StanzaKind) String() string {
	switch k {
	case Message:
		return "message"
	case Presence:
		return "presence"
	case IQ:
		return "iq"
	case NotStanza:
	}
	return "other"
}

// Header is the envelope of a stanza (RFC 6120 §8.1): the attributes of its start
// tag, unescaped, "" for those it does not have.
type Header struct {
	Kind  StanzaKind
	Local string // name without prefix
	To    string
	From  string
	Type  string
	ID    string
	Lang  string // xml:lang
	NS    string // namespace declared on the element for its prefix, or ""

	Addressed bool // it has a to; an empty one is no address (RFC 7622 §3.2)
}

// ParseHeader reads the envelope of an element. An element that declares a
// namespace other than jabber:client (or jabber:server), or that it is in none, is
// NotStanza, whatever its name. So is one with a prefix: stanzas are passed on as they
// were written, and those that are written have none (RFC 6120 §4.8.5). The error is a
// *StreamError.
func ParseHeader(raw []byte) (Header, error) {
	e, err := view(raw)
	if err != nil {
		return Header{}, err
	}
	tag := string(raw[:e.body]) // one copy for all fields
	h := Header{Local: tag[e.name.local:e.name.to]}
	declares := false
	for a := range attributes(raw[:e.body], e.name) {
		if field := h.field(raw, e.name, a); field != nil {
			*field = unescapeString(tag[a.value.from:a.value.to])
			declares = declares || field == &h.NS
			h.Addressed = h.Addressed || field == &h.To
		}
	}
	if !e.name.prefixed() && (h.NS != "" || !declares) {
		h.Kind = stanzaKind(h.Local, h.NS)
	}
	return h, nil
}

// field returns where the value of an attribute belongs, or nil.
func (h *Header) field(raw []byte, n name, a attribute) *string {
	switch string(a.name.of(raw)) {
	case "to":
		return &h.To
	case "from":
		return &h.From
	case "type":
		return &h.Type
	case "id":
		return &h.ID
	case "xml:lang":
		return &h.Lang
	}
	if prefix, ok := a.declares(raw); ok && string(prefix) == string(n.prefixOf(raw)) {
		return &h.NS
	}
	return nil
}

// stanzaKind tells a stanza by name and namespace, "" being that of the stream.
func stanzaKind(local, space string) StanzaKind {
	if space != NSClient && space != NSServer && space != "" {
		return NotStanza
	}
	switch local {
	case "message":
		return Message
	case "presence":
		return Presence
	case "iq":
		return IQ
	default:
		return NotStanza
	}
}
