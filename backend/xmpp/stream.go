package xmpp

// StreamEnd closes a stream (RFC 6120 §4.4).
const StreamEnd = "</stream:stream>"

// StreamHeader holds the attributes of a stream header (RFC 6120 §4.7).
type StreamHeader struct {
	To      string
	From    string
	ID      string
	Version string // "1.0"; Append writes that for ""
	Lang    string // xml:lang
	NS      string // content namespace; Append writes jabber:client for ""
}

// ParseStreamHeader reads a token of KindOpen. The error is a *StreamError.
func ParseStreamHeader(raw []byte) (StreamHeader, error) { return StreamHeader{}, nil }

// Append appends the header with an XML declaration.
func (h StreamHeader) Append(dst []byte) []byte { return dst }

// ParseFramingOpen reads an <open/> frame (RFC 7395 §3.4). The error is a *StreamError.
func ParseFramingOpen(raw []byte) (StreamHeader, error) { return StreamHeader{}, nil }

// AppendFramingOpen appends the header as an <open/> frame.
func (h StreamHeader) AppendFramingOpen(dst []byte) []byte { return dst }

// IsFramingClose tells whether raw is a <close/> frame.
func IsFramingClose(raw []byte) bool { return false }

// AppendFramingClose appends a <close/> frame (RFC 7395 §3.6).
func AppendFramingClose(dst []byte) []byte { return dst }
