package proxy

import (
	"bytes"
	"strconv"

	"imlb/backend/xmpp"
)

// stanzaKind sorts elements for the counters.
type stanzaKind uint8

const (
	kindMessage stanzaKind = iota
	kindPresence
	kindIQ
	kindOther // not a stanza: features, SASL, acknowledgements …
	stanzaKinds
)

func (k stanzaKind) String() string {
	switch k {
	case kindMessage:
		return "message"
	case kindPresence:
		return "presence"
	case kindIQ:
		return "iq"
	case kindOther, stanzaKinds:
		return "other"
	}
	return "other"
}

// kindOf returns the kind of an element.
func kindOf(raw []byte) stanzaKind {
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		return kindOther
	}
	switch e.Local() {
	case "message":
		return kindMessage
	case "presence":
		return kindPresence
	case "iq":
		return kindIQ
	}
	return kindOther
}

// entryNumber returns the number of the timeline entry that a message from a
// node is, or 0 if it comes from no timeline of user. The node ends such a
// message with <stanza-id xmlns='urn:xmpp:sid:0' by='user' id='number'/>
// (XEP-0359) as its last child.
func entryNumber(raw []byte, user string) uint64 {
	const end = "</message>"
	if !bytes.HasSuffix(raw, []byte("/>"+end)) {
		return 0
	}
	raw = raw[:len(raw)-len(end)]
	// No attribute value may hold a '<', so the last one begins the last child.
	start := bytes.LastIndexByte(raw, '<')
	if start < 0 {
		return 0
	}
	e, err := xmpp.ParseElement(raw[start:])
	if err != nil || !e.Is(xmpp.NSStanzaID, "stanza-id") {
		return 0
	}
	if by, _ := e.Attr("by"); by != user {
		return 0
	}
	id, _ := e.Attr("id")
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// isStreamError tells whether an element is a stream error (RFC 6120 §4.9).
func isStreamError(raw []byte) bool { return bytes.HasPrefix(raw, []byte("<stream:error")) }
