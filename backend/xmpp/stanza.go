package xmpp

// StanzaKind says which of the three stanzas an element is.
type StanzaKind uint8

// The kinds of stanzas.
const (
	NotStanza StanzaKind = iota
	Message
	Presence
	IQ
)

// Header is the envelope of a stanza: the attributes of its start tag, unescaped.
type Header struct {
	Kind  StanzaKind
	Local string // name without prefix
	To    string
	From  string
	Type  string
	ID    string
	Lang  string // xml:lang
	NS    string // namespace declared on the element for its prefix, or ""
}

// ParseHeader reads the envelope of raw.
func ParseHeader(raw []byte) (Header, error) { return Header{}, nil }
