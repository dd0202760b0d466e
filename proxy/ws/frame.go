package ws

import "encoding/binary"

// Op is what a frame is (RFC 6455 §5.2).
type Op uint8

// The kinds of messages.
const (
	Text   Op = 1
	Binary Op = 2
)

const (
	opContinuation Op = 0
	opClose        Op = 8
	opPing         Op = 9
	opPong         Op = 10
)

func (o Op) control() bool { return o >= opClose }

const (
	finBit  = 0x80
	rsv1Bit = 0x40 // of the first frame of a compressed message (RFC 7692 §6)
	rsvBits = 0x70
	opBits  = 0x0f
	maskBit = 0x80
	lenBits = 0x7f

	len16 = 126 // the length follows in two bytes
	len64 = 127 // and in eight

	maskLen    = 4
	maxControl = 125 // bytes of payload (RFC 6455 §5.5)
)

// headerRoom is how long the header of a frame may be that is not masked.
const headerRoom = 2 + 8

// Part is a part of a message.
type Part struct {
	Op         Op     // of the message; 0 when there is no part
	Payload    []byte // unmasked
	Last       bool   // ends the message
	Compressed bool   // the payloads of the whole message are
}

// decoder takes a client's bytes apart, however they are cut.
type decoder struct {
	deflate bool // messages may be compressed
	binary  bool // and must not be text

	head   [2 + 8 + maskLen]byte // of a frame, until it is whole
	have   uint8                 // bytes of it
	inside bool                  // in the payload of a frame
	op     Op                    // of that frame
	fin    bool                  // it ends its message
	key    uint32                // for the next byte of it
	left   uint64                // bytes of it

	message Op     // at hand; 0 between two
	packed  bool   // it is compressed
	text    text   // its characters
	control []byte // what has come of a control frame that is not whole
}

// Next returns the next part of a message, or a control frame, that begins in, and what
// follows. There is no part if none is there yet; all of in has been taken then. Payload
// is a piece of in, which is overwritten. After an error, which is a *Violation, there is
// nothing more to decode.
func (d *decoder) Next(in []byte) (part Part, rest []byte, err error) {
	if !d.inside {
		in, err = d.header(in)
		if err != nil || !d.inside {
			return Part{}, nil, err
		}
	}
	n := len(in)
	if uint64(n) > d.left {
		n = int(d.left) //nolint:gosec // G115: less than an int
	}
	payload, rest := in[:n:n], in[n:]
	d.key = mask(d.key, payload)
	d.left -= uint64(n) //nolint:gosec // G115: a length
	d.inside = d.left > 0
	if d.op.control() {
		return d.controlled(payload), rest, nil
	}
	if n == 0 && d.inside {
		return Part{}, nil, nil
	}
	part = Part{Op: d.message, Payload: payload, Last: d.fin && !d.inside, Compressed: d.packed}
	if part.Op == Text && !d.packed && !d.text.takes(payload, part.Last) {
		return Part{}, nil, errNotText
	}
	if part.Last {
		d.message = 0
	}
	return part, rest, nil
}

// controlled returns a control frame, if it is whole.
func (d *decoder) controlled(payload []byte) Part {
	if d.inside {
		d.control = append(d.control, payload...)
		return Part{}
	}
	if d.control != nil {
		payload = append(d.control, payload...)
		d.control = nil
	}
	return Part{Op: d.op, Payload: payload, Last: true}
}

// header takes the header of a frame. The first two bytes are looked at as soon as they
// are there: who does not mask may not send more.
func (d *decoder) header(in []byte) (rest []byte, err error) {
	if in = d.gather(in, 2); d.have < 2 {
		return nil, nil
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	size := d.size()
	if in = d.gather(in, size); d.have < size {
		return nil, nil
	}
	return in, d.begin()
}

// gather takes bytes until n of the header are there.
func (d *decoder) gather(in []byte, n uint8) []byte {
	if d.have >= n {
		return in
	}
	took := copy(d.head[d.have:n], in)
	d.have += uint8(took) //nolint:gosec // G115: at most 14
	return in[took:]
}

// size is how long the header is.
func (d *decoder) size() uint8 {
	switch d.head[1] & lenBits {
	case len16:
		return 2 + 2 + maskLen
	case len64:
		return 2 + 8 + maskLen
	default:
		return 2 + maskLen
	}
}

// check checks the first two bytes of a header.
func (d *decoder) check() error {
	op, fin := Op(d.head[0]&opBits), d.head[0]&finBit != 0
	rsv := d.head[0] & rsvBits
	if d.deflate && (op == Text || op == Binary) {
		rsv &^= rsv1Bit
	}
	switch {
	case rsv != 0:
		return violation("a reserved bit") // §5.2
	case d.head[1]&maskBit == 0:
		return violation("a frame that is not masked") // §5.1
	case op.control() && !fin:
		return violation("a control frame in parts") // §5.5
	case op.control() && d.head[1]&lenBits > maxControl:
		return violation("a control frame that is too long")
	}
	switch op {
	case opContinuation:
		if d.message == 0 {
			return violation("a continuation of nothing") // §5.4
		}
	case Text, Binary:
		if d.message != 0 {
			return violation("a message inside another") // §5.4
		}
		if op == Text && d.binary {
			return errText
		}
	case opClose, opPing, opPong:
	default:
		return violation("a reserved opcode") // §5.2
	}
	return nil
}

// begin begins the payload of a frame whose header is whole.
func (d *decoder) begin() error {
	size := d.size()
	switch n := d.head[1] & lenBits; n {
	case len16:
		d.left = uint64(binary.BigEndian.Uint16(d.head[2:]))
	case len64:
		if d.left = binary.BigEndian.Uint64(d.head[2:]); d.left>>63 != 0 {
			return violation("a frame of more than 2^63 bytes") // §5.2
		}
	default:
		d.left = uint64(n)
	}
	d.key = binary.LittleEndian.Uint32(d.head[size-maskLen:])
	d.op, d.fin = Op(d.head[0]&opBits), d.head[0]&finBit != 0
	if d.op == Text || d.op == Binary {
		d.message, d.packed = d.op, d.head[0]&rsv1Bit != 0
	}
	d.inside, d.have = true, 0
	return nil
}

// appendHeader appends the header of a frame that is whole, and not masked (§5.1).
func appendHeader(dst []byte, op Op, compressed bool, n int) []byte {
	first := finBit | byte(op)
	if compressed {
		first |= rsv1Bit
	}
	switch {
	case n <= maxControl:
		return append(dst, first, byte(n)) //nolint:gosec // G115: checked
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(dst, first, len16), uint16(n)) //nolint:gosec // G115: checked
	default:
		return binary.BigEndian.AppendUint64(append(dst, first, len64), uint64(n)) //nolint:gosec // G115: a length
	}
}
