package identify

import (
	"slices"
	"strings"
)

// MQTT finds the user in a CONNECT packet of MQTT 3.1, 3.1.1 or 5: the user name, or
// else the client identifier. A packet without either names nobody.
//
// It decides with the last byte of the name: a password is neither looked at nor
// waited for. What lies before the name is passed over by its length, so a
// call takes the same few steps whatever the packet holds, and a packet whose name
// lies further in than Max is given up as soon as a length says so.
//
// The packet is checked as far as the way to the name leads over it. Lengths have at
// most four bytes and stay inside the packet, reserved bits are as the version
// demands, the name is UTF-8 without U+0000 (MQTT 5 §1.5.4). Whether properties and
// will make sense is for the node to say.
//
// Where MQTT was agreed on, the CONNECT has to come first (MQTT 5 §3.1, MQTT-3.1.0-1): what is none,
// or a wrong one, is a breach.
type MQTT struct {
	ClientIDFirst bool // prefer the client identifier to the user name
	Max           int  // bytes of the packet to wait for; 0 means DefaultMax
	Agreed        bool // look for one only where client and front have agreed on MQTT
}

// Levels of the protocol (MQTT 5 §3.1.2.2).
const (
	mqtt31  = 3
	mqtt311 = 4
	mqtt5   = 5
)

// Bits of the connect flags (MQTT 5 §3.1.2.3).
const (
	mqttReserved   = 1 << 0
	mqttWill       = 1 << 2
	mqttWillQoS    = 3 << 3
	mqttWillRetain = 1 << 5
	mqttPassword   = 1 << 6
	mqttUserName   = 1 << 7
)

// mqttBridge is set in the level by the bridges of some brokers, in versions before 5.
const mqttBridge = 0x80

// Identify reads in.Sent.
func (m MQTT) Identify(in Input) Result {
	agreed := strings.HasPrefix(in.Agreed, "mqtt") // the one of 3.1 has its number in it
	if m.Agreed && !agreed {
		return none(Foreign)
	}
	p := packet{sent: in.Sent, limit: orDefault(m.Max, DefaultMax)}
	name, ok := p.connect(m.ClientIDFirst)
	switch {
	case p.why != More:
		return Result{Verdict: p.why, Breach: agreed && p.why != TooLong}
	case !ok:
		return more(p.need)
	default:
		return foundBytes(name)
	}
}

// A packet is read from the front. The first read that fails ends it: with need when
// the bytes are not there yet, with why when they never will be.
type packet struct {
	sent  []byte
	at    int // bytes read
	end   int // of the packet in sent; 0 before it is known
	limit int
	need  int
	why   Verdict

	unknown bool // the packet is of a version that nobody here knows
}

// fail ends the reading.
func (p *packet) fail(why Verdict) bool {
	p.why = why
	return false
}

// connect reads up to the name that is to be the key, which is empty if there is none.
func (p *packet) connect(clientIDFirst bool) ([]byte, bool) {
	level, flags, ok := p.header()
	if !ok || level == mqtt5 && !p.properties() {
		return nil, false
	}
	clientID, ok := p.binary()
	if !ok {
		return nil, false
	}
	if flags&mqttUserName == 0 || clientIDFirst && len(clientID) > 0 {
		return clientID, true
	}
	if flags&mqttWill != 0 && !p.will(level) {
		return nil, false
	}
	userName, ok := p.binary()
	if ok && len(userName) == 0 {
		userName = clientID
	}
	return userName, ok
}

// header reads the fixed and the variable header, without properties (MQTT 5 §3.1.1, §3.1.2).
func (p *packet) header() (level, flags byte, ok bool) {
	const connect = 0x10
	if !p.expect(connect) {
		return 0, 0, false
	}
	length, ok := p.varint()
	if !ok {
		return 0, 0, false
	}
	p.end = p.at + length
	if level, ok = p.version(); !ok {
		return 0, 0, false
	}
	raw, ok := p.bytes(1)
	if !ok {
		return 0, 0, false
	}
	if flags = raw[0]; !flagsValid(level, flags) {
		return 0, 0, p.fail(Malformed)
	}
	_, ok = p.bytes(2) // keep alive
	return level, flags, ok
}

// version reads the name and the level of the protocol. Bytes that are not a CONNECT
// are recognised at the first that differs.
func (p *packet) version() (byte, bool) {
	if !p.expect(0) {
		return 0, false
	}
	raw, ok := p.bytes(1)
	if !ok {
		return 0, false
	}
	switch raw[0] {
	case 4:
		return p.level("MQTT", mqtt311, mqtt5, mqtt311|mqttBridge)
	case 6:
		return p.level("MQIsdp", mqtt31, mqtt31|mqttBridge)
	default:
		return 0, p.fail(Foreign)
	}
}

// level reads the rest of a name, and one of the levels that go with it.
func (p *packet) level(name string, levels ...byte) (byte, bool) {
	for i := range len(name) {
		if !p.expect(name[i]) {
			return 0, false
		}
	}
	raw, ok := p.bytes(1)
	if !ok {
		return 0, false
	}
	if !slices.Contains(levels, raw[0]) {
		p.unknown = true
		return 0, p.fail(Malformed)
	}
	return raw[0] &^ mqttBridge, true
}

// flagsValid checks the connect flags. Version 3.1 says nothing about combinations.
func flagsValid(level, flags byte) bool {
	if level == mqtt31 {
		return true
	}
	willless := flags&mqttWill == 0 && flags&(mqttWillQoS|mqttWillRetain) != 0
	nameless := level == mqtt311 && flags&mqttUserName == 0 && flags&mqttPassword != 0 // MQTT-3.1.2-22
	return flags&mqttReserved == 0 && flags&mqttWillQoS != mqttWillQoS && !willless && !nameless
}

// will passes over the will: properties, topic and payload (MQTT 5 §3.1.3.2).
func (p *packet) will(level byte) bool {
	if level == mqtt5 && !p.properties() {
		return false
	}
	if _, ok := p.binary(); !ok {
		return false
	}
	_, ok := p.binary()
	return ok
}

// properties passes over properties.
func (p *packet) properties() bool {
	n, ok := p.varint()
	if !ok {
		return false
	}
	_, ok = p.bytes(n)
	return ok
}

// binary reads what comes with its length in two bytes before it.
func (p *packet) binary() ([]byte, bool) {
	length, ok := p.bytes(2)
	if !ok {
		return nil, false
	}
	return p.bytes(int(length[0])<<8 | int(length[1]))
}

// varint reads a variable byte integer (MQTT 5 §1.5.5).
func (p *packet) varint() (int, bool) {
	n := 0
	for shift := 0; shift < 28; shift += 7 {
		raw, ok := p.bytes(1)
		if !ok {
			return 0, false
		}
		n |= int(raw[0]&0x7F) << shift
		if raw[0] < 0x80 {
			return n, true
		}
	}
	return 0, p.fail(Malformed)
}

// expect reads one byte, which tells whether this is MQTT at all.
func (p *packet) expect(b byte) bool {
	raw, ok := p.bytes(1)
	if ok && raw[0] != b {
		return p.fail(Foreign)
	}
	return ok
}

// bytes reads n bytes.
func (p *packet) bytes(n int) ([]byte, bool) {
	next := p.at + n
	switch {
	case p.end > 0 && next > p.end:
		return nil, p.fail(Malformed)
	case next > p.limit:
		return nil, p.fail(TooLong)
	case next > len(p.sent):
		p.need = next
		return nil, false
	}
	raw := p.sent[p.at:next]
	p.at = next
	return raw, true
}

// MQTTVersion returns the protocol level of the CONNECT that sent begins with: 3 for MQTT
// 3.1, 4 for 3.1.1, 5 for 5; 0 when it begins with none, or with too little of it.
func MQTTVersion(sent []byte) byte {
	p := packet{sent: sent, limit: len(sent)}
	level, _, ok := p.header()
	if !ok {
		return 0
	}
	return level
}

// MQTTUnknown tells whether sent begins with a CONNECT of another version than these.
func MQTTUnknown(sent []byte) bool {
	p := packet{sent: sent, limit: len(sent)}
	p.header()
	return p.unknown
}

// MQTTUnfinished tells whether sent begins a CONNECT and does not hold all of it.
func MQTTUnfinished(sent []byte) bool {
	const connect = 0x10
	p := packet{sent: sent, limit: len(sent) + 1}
	if len(sent) == 0 || !p.expect(connect) {
		return false
	}
	length, ok := p.varint()
	if !ok {
		return p.why == More
	}
	return len(sent) < p.at+length
}
