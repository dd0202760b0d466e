package identify

import "strings"

// A Hello is what a TLS ClientHello says about whom it is for.
type Hello struct {
	// ServerName is in lower case without a trailing dot; empty if there is none.
	ServerName string
	// ALPN are the client's protocols in its order; any bytes, GREASE (RFC 8701) included.
	ALPN []string
	// ECH says that the client has encrypted its real hello (Encrypted Client Hello):
	// the names are those of the front that is to decrypt it.
	ECH bool
}

const (
	recordHeader    = 5
	recordMax       = 1 << 14 // bytes of a plain record (RFC 8446 §5.1)
	recordsMax      = 64      // over which a ClientHello may be spread
	handshakeHeader = 4
	serverNameMax   = 253
)

// Types of records, messages and extensions.
const (
	typeHandshake   = 22
	typeClientHello = 1
	extServerName   = 0
	extALPN         = 16
	extECH          = 0xFE0D
	typeHostName    = 0
	typeECHOuter    = 0
)

// ParseClientHello reads the ClientHello that a TLS client begins with, from one record
// or several; limit is the length of the longest to accept, 0 means [DefaultMax]. With
// More, need is the least length of sent at which it may decide. An SSLv2 hello is
// Foreign. It decides when the hello is whole; what follows is not looked at.
//
// The extensions that are not wanted are passed over, but their lengths must add up.
func ParseClientHello(sent []byte, limit int) (h Hello, need int, v Verdict) {
	view, need, v := readHello(sent, orDefault(limit, DefaultMax))
	if v != Found {
		return Hello{}, need, v
	}
	return Hello{ServerName: hostName(view.name), ALPN: view.protocols.strings(), ECH: view.ech}, 0, Found
}

// SNI finds the user in the server name of a TLS ClientHello that passes through: the
// name is the key.
type SNI struct {
	Max int // bytes of the ClientHello; 0 means DefaultMax
}

// Identify reads in.Sent.
func (s SNI) Identify(in Input) Result {
	h, need, v := readHello(in.Sent, orDefault(s.Max, DefaultMax))
	switch v {
	case More:
		return more(need)
	case Found:
		return found(hostName(h.name))
	default:
		return none(v)
	}
}

// helloView is a Hello that shares the memory of what was sent.
type helloView struct {
	name      []byte
	protocols protocols
	ech       bool
	seen      [3]bool // server name, ALPN, ECH
}

// protocols is a list of ALPN, as on the wire and checked.
type protocols fields

func (p protocols) strings() []string {
	var list []string
	rest := fields(p)
	for name, ok := rest.vector(1); ok; name, ok = rest.vector(1) {
		list = append(list, string(name))
	}
	return list
}

func readHello(sent []byte, limit int) (h helloView, need int, v Verdict) {
	message, need, v := handshakeMessage(sent, limit)
	if v != Found {
		return h, need, v
	}
	if !h.parse(message[handshakeHeader:]) {
		return h, 0, Malformed
	}
	return h, 0, Found
}

// handshakeMessage returns the first handshake message, which must be a ClientHello. It
// is part of sent when it was in one record, else a copy.
func handshakeMessage(sent []byte, limit int) (message []byte, need int, v Verdict) {
	var head [handshakeHeader]byte
	size, got, at := 0, 0, 0 // size is 0 before head is whole
	for records := 0; ; records++ {
		length, v := record(sent[at:], at == 0)
		if v == More {
			return nil, len(sent) + 1, More
		}
		if v == Found && records == recordsMax {
			v = TooLong
		}
		if v != Found {
			return nil, 0, v
		}
		body := sent[at+recordHeader : min(at+recordHeader+length, len(sent))]
		if got < handshakeHeader {
			copy(head[got:], body)
		}
		if got += len(body); got > 0 && head[0] != typeClientHello {
			return nil, 0, Malformed
		}
		if size == 0 && got >= handshakeHeader {
			size = handshakeHeader + int(head[1])<<16 + int(head[2])<<8 + int(head[3])
		}
		switch {
		case size > limit:
			return nil, 0, TooLong
		case size > 0 && got >= size:
			return join(sent, size), 0, Found
		case len(body) < length:
			return nil, len(sent) + missing(length-len(body), size, got), More
		}
		at += recordHeader + length
	}
}

// missing returns how many bytes of a record that has rest to come must come before
// anything can be decided about the message in it.
func missing(rest, size, got int) int {
	switch {
	case got == 0:
		return 1
	case size == 0:
		return min(rest, handshakeHeader-got)
	default:
		return min(rest, size-got)
	}
}

// record reads the header of a record and returns the length of what is in it.
// Empty records of handshake messages are not allowed (RFC 8446 §5.1).
func record(b []byte, first bool) (length int, v Verdict) {
	wrong := Malformed
	if first {
		wrong = Foreign
	}
	if len(b) > 0 && b[0] != typeHandshake || len(b) > 1 && b[1] != 3 {
		return 0, wrong
	}
	if len(b) < recordHeader {
		return 0, More
	}
	length = int(b[3])<<8 | int(b[4])
	if length == 0 || length > recordMax {
		return 0, Malformed
	}
	return length, Found
}

// join returns the first size bytes of what is in records, which are there.
func join(sent []byte, size int) []byte {
	var message []byte
	for {
		length := int(sent[3])<<8 | int(sent[4])
		body := sent[recordHeader:min(recordHeader+length, len(sent))]
		if message == nil && len(body) >= size {
			return body[:size]
		}
		if message == nil {
			message = make([]byte, 0, size)
		}
		message = append(message, body[:min(len(body), size-len(message))]...)
		if len(message) == size {
			return message
		}
		sent = sent[recordHeader+length:]
	}
}

// parse reads a ClientHello (RFC 8446 §4.1.2).
func (h *helloView) parse(body fields) bool {
	const versionAndRandom = 2 + 32
	if _, ok := body.take(versionAndRandom); !ok {
		return false
	}
	if id, ok := body.vector(1); !ok || len(id) > 32 {
		return false
	}
	if suites, ok := body.vector(2); !ok || len(suites)%2 != 0 {
		return false
	}
	if _, ok := body.vector(1); !ok { // compression methods
		return false
	}
	if len(body) == 0 {
		return true // before TLS 1.3 there need be no extensions
	}
	extensions, ok := body.vector(2)
	return ok && len(body) == 0 && h.parseExtensions(extensions)
}

func (h *helloView) parseExtensions(list fields) bool {
	for len(list) > 0 {
		kind, ok := list.number(2)
		if !ok {
			return false
		}
		data, ok := list.vector(2)
		if !ok || !h.parseExtension(kind, data) {
			return false
		}
	}
	return true
}

// parseExtension reads an extension if it is wanted. None may come twice.
func (h *helloView) parseExtension(kind int, data fields) bool {
	switch kind {
	case extServerName:
		return h.once(0) && h.parseServerNames(data)
	case extALPN:
		return h.once(1) && h.parseALPN(data)
	case extECH:
		h.ech = len(data) > 0 && data[0] == typeECHOuter
		return h.once(2)
	default:
		return true
	}
}

func (h *helloView) once(extension int) bool {
	first := !h.seen[extension]
	h.seen[extension] = true
	return first
}

// parseServerNames reads the extension of RFC 6066 §3; there is one name of a type.
func (h *helloView) parseServerNames(data fields) bool {
	list, ok := data.vector(2)
	if !ok || len(data) > 0 || len(list) == 0 {
		return false
	}
	for len(list) > 0 {
		kind, _ := list.number(1)
		name, ok := list.vector(2)
		if !ok || len(name) == 0 {
			return false
		}
		if kind != typeHostName {
			continue
		}
		if h.name != nil || !isHostName(name) {
			return false
		}
		h.name = name
	}
	return true
}

// parseALPN reads the extension of RFC 7301 §3.1.
func (h *helloView) parseALPN(data fields) bool {
	list, ok := data.vector(2)
	if !ok || len(data) > 0 || len(list) == 0 {
		return false
	}
	h.protocols = protocols(list)
	for len(list) > 0 {
		if name, ok := list.vector(1); !ok || len(name) == 0 {
			return false
		}
	}
	return true
}

// IsServerName says whether a name that a client asks for in TLS can be one. The TLS library
// takes anything, up to the length of a handshake.
func IsServerName(name string) bool { return isHostName(name) }

// isHostName says whether a name has only what server names are made of. Names in
// other scripts come as A-labels.
func isHostName[T ~string | ~[]byte](name T) bool {
	if n := len(name); n > serverNameMax && !(n == serverNameMax+1 && name[n-1] == '.') {
		return false
	}
	for i := range len(name) {
		b := name[i]
		letter := 'a' <= b|0x20 && b|0x20 <= 'z'
		if !letter && (b < '0' || b > '9') && b != '-' && b != '.' && b != '_' {
			return false
		}
	}
	return true
}

// hostName returns a name as it is compared.
func hostName[T ~string | ~[]byte](name T) string {
	return strings.TrimSuffix(strings.ToLower(string(name)), ".")
}
