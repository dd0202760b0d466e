package identify

// MQTTAnswer is what an MQTT server's answer to a CONNECT says of the login.
type MQTTAnswer uint8

// The answers.
const (
	MQTTPending  MQTTAnswer = iota // it has not all come
	MQTTAccepted                   // the client is in
	MQTTDenied                     // its credentials are bad, or do not let it in
	MQTTRefused                    // it is refused for another reason
	MQTTNone                       // the server does not speak MQTT
)

// Connack watches what an MQTT server sends for its answer to a CONNECT: a CONNACK
// (MQTT 5 §3.2), which is the first packet unless the login takes several steps; then
// packets of AUTH come before (§4.12). It keeps a few bytes, however the answer is split.
// The zero value is ready.
type Connack struct {
	head [7]byte // of the packet at hand: type, length, flags, code
	n    int     // bytes in head
	skip int     // bytes of an AUTH that have not come yet
}

// Begun tells whether a packet has come in part.
func (c *Connack) Begun() bool { return c.n > 0 || c.skip > 0 }

// Version is that of MQTT which a CONNACK that has come is of: 5 if it says which properties there are,
// and else 4, for 3.1.1, which 3.1 does not differ from.
func (c *Connack) Version() byte {
	if c.head[1] > 2 {
		return 5
	}
	return 4
}

// Read takes the server's next bytes. After an answer it must not be called again.
func (c *Connack) Read(p []byte) MQTTAnswer {
	for len(p) > 0 {
		if c.skip > 0 {
			n := min(c.skip, len(p))
			c.skip -= n
			p = p[n:]
			continue
		}
		c.head[c.n] = p[0]
		c.n++
		p = p[1:]
		if a := c.answer(); a != MQTTPending {
			return a
		}
	}
	return MQTTPending
}

// answer looks at what there is of a packet.
func (c *Connack) answer() MQTTAnswer {
	const connack, auth = 0x20, 0xF0
	kind := c.head[0]
	if kind != connack && kind != auth {
		return MQTTNone
	}
	p := packet{sent: c.head[:c.n], at: 1, limit: len(c.head)}
	length, ok := p.varint()
	switch {
	case p.why != More || ok && kind == connack && length < 2:
		return MQTTNone
	case !ok:
		return MQTTPending
	case kind == auth:
		c.n, c.skip = 0, length
		return MQTTPending
	}
	if raw, ok := p.bytes(2); ok {
		return answerOf(raw[1])
	}
	return MQTTPending
}

// answerOf says what a code means: a return code (MQTT 3.1.1 §3.2.2.3) or a reason code
// (MQTT 5 §3.2.2.2). No number means one thing in one and another in the other.
func answerOf(code byte) MQTTAnswer {
	switch code {
	case 0:
		return MQTTAccepted
	case 4, 5, // bad user name or password, not authorized
		0x86, 0x87, 0x8A, 0x8C: // the same, banned, bad authentication method
		return MQTTDenied
	default:
		return MQTTRefused
	}
}
