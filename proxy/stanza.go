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

// kindOf returns the kind of an element, which begins with '<' and its name. It is asked
// about every stanza, so what can be told from the first bytes is; a prefix before the
// name is rare.
func kindOf(raw []byte) stanzaKind {
	switch {
	case beginsWith(raw, "<message"):
		return kindMessage
	case beginsWith(raw, "<presence"):
		return kindPresence
	case beginsWith(raw, "<iq"):
		return kindIQ
	}
	if i := bytes.IndexAny(raw[:min(len(raw), maxPrefix)], " \t\r\n/>:"); i >= 0 && raw[i] != ':' {
		return kindOther
	}
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

// beginsWith tells whether raw begins with a name, and with no longer one.
func beginsWith(raw []byte, name string) bool {
	return len(raw) > len(name) && string(raw[:len(name)]) == name && endsName(raw[len(name)])
}

// maxPrefix is within how many bytes the prefix of a name that is worth a look ends.
const maxPrefix = 64

// endsName tells whether a byte cannot be a part of a name.
func endsName(b byte) bool {
	return b == ' ' || b == '>' || b == '/' || b == '\t' || b == '\n' || b == '\r'
}

// told is what a message from a node tells at its end of its user's timeline; 0 is nothing, and any other
// stanza's.
//
//   - The number of an entry: <stanza-id xmlns='urn:xmpp:sid:0' by='user' id='number'/> (XEP-0359).
//     Whoever has the message has all that is for the user up to there.
//   - A place, with placeBit: <at xmlns='urn:imlb:front:0' entry='number'/>. The session is there, and its client
//     has what was for it before.
//   - A place with hadBit as well: <at xmlns='urn:imlb:front:0' had='number'/>. The client also has what was for
//     the user before, but for what is left to the user's other clients, and may be on its way to them.
//   - A place with copyBit: as these two, with the attribute copy or copied. The message is no entry, but a copy of one.
//   - No place, with placeBit and apartBit: <at xmlns='urn:imlb:front:0' apart='number'/>. The message is that entry, written
//     out of turn, and nothing is said of where the session is.
type told uint64

// These are no part of a number: nodes count to 2^63 at most, and there are no places beyond 2^60.
const (
	placeBit told = 1 << 63
	hadBit   told = 1 << 62
	copyBit  told = 1 << 61
	apartBit told = 1 << 60
	toldBits      = placeBit | hadBit | copyBit | apartBit
)

// entry is the number of an entry, or 0.
func (t told) entry() uint64 {
	if t&placeBit != 0 {
		return 0
	}
	return uint64(t)
}

// append appends t as it stands in a settle.
func (t told) append(dst []byte) []byte {
	if t&placeBit == 0 {
		return strconv.AppendUint(dst, uint64(t), 10)
	}
	switch t & toldBits {
	case placeBit:
		dst = append(dst, '@')
	case placeBit | hadBit:
		dst = append(dst, '+')
	case placeBit | copyBit:
		dst = append(dst, '~')
	case placeBit | apartBit:
		dst = append(dst, '!')
	default:
		dst = append(dst, '=')
	}
	return strconv.AppendUint(dst, uint64(t&^toldBits), 10)
}

// readTold reads it from the last child of a stanza.
func readTold(raw []byte, user string) told {
	end := bytes.LastIndex(raw, []byte("</message")) // as its sender wrote it, perhaps with a space
	if end < 0 || bytes.IndexByte(raw[end:], '>') != len(raw)-end-1 || !bytes.HasSuffix(raw[:end], []byte("/>")) {
		return 0 // an end before the last one is of what somebody sent in another stanza
	}
	raw = raw[:end]
	// No attribute value may hold a '<', so the last one begins the last child, or is in a CDATA section.
	start := bytes.LastIndexByte(raw, '<')
	if start < 0 {
		return 0
	}
	if n := usualNumber(raw[start:], user); n > 0 {
		return n
	}
	if place, ok := bytes.CutPrefix(raw[start:], []byte("<at xmlns='"+xmpp.NSFront+"' ")); ok {
		return readPlace(place)
	}
	if bytes.IndexByte(raw[start:], '>') != len(raw)-start-1 {
		return 0 // it begins no child, but stands in a CDATA section, whatever it looks like
	}
	e, err := xmpp.ParseElement(raw[start:])
	if err != nil || !e.Is(xmpp.NSStanzaID, "stanza-id") {
		return 0
	}
	if by, _ := e.Attr("by"); by != user {
		return 0
	}
	id, _ := e.Attr("id")
	n, err := strconv.ParseUint(id, 10, 63)
	if err != nil {
		return 0
	}
	return told(n)
}

// readPlace is readTold for the attribute that has a place, up to the end of the element.
func readPlace(raw []byte) told {
	for _, kind := range []struct {
		begins string
		bits   told
	}{
		{"entry='", placeBit}, {"had='", placeBit | hadBit}, {"copy='", placeBit | copyBit}, {"copied='", placeBit | hadBit | copyBit},
		{"apart='", placeBit | apartBit},
	} {
		if n, ok := number(raw, kind.begins); ok && n < apartBit {
			return n | kind.bits
		}
	}
	return 0
}

// usualNumber is readTold for a <stanza-id/> as our nodes write it, which need not be
// parsed; it is 0 for any other. An address holds nothing that is escaped.
func usualNumber(raw []byte, user string) told {
	raw, ok := bytes.CutPrefix(raw, []byte("<stanza-id xmlns='"+xmpp.NSStanzaID+"' by='"))
	if !ok || len(raw) < len(user) || string(raw[:len(user)]) != user {
		return 0
	}
	n, _ := number(raw[len(user):], "' id='")
	return n
}

// number reads what stands between a text and the end of an element.
func number(raw []byte, before string) (n told, ok bool) {
	if len(raw) < len(before) || string(raw[:len(before)]) != before {
		return 0, false
	}
	raw, ok = bytes.CutSuffix(raw[len(before):], []byte("'/>"))
	if !ok {
		return 0, false
	}
	value, err := strconv.ParseUint(string(raw), 10, 63)
	if err != nil || value == 0 {
		return 0, false
	}
	return told(value), true
}

// isStreamError tells whether an element is a stream error (RFC 6120 §4.9).
func isStreamError(raw []byte) bool { return bytes.HasPrefix(raw, []byte("<stream:error")) }
