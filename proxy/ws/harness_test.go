package ws_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"time"

	"imlb/proxy/ws"
)

// errAgain is what a connection that does not block says when nothing is there.
var errAgain = errors.New("nothing there")

// script is a connection that has been sent certain bytes, and notes what is written.
type script struct {
	net.Conn // nil: nothing else is called
	in       []byte
	cut      int   // how many bytes a read gives at most
	end      error // after in
	out      bytes.Buffer
	pending  int
	awaited  int // how often the peer's answer was
	writes   int
	ended    bool
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.in) == 0 {
		return 0, s.end
	}
	n := copy(p[:min(len(p), s.cut)], s.in)
	s.in = s.in[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error)      { s.writes++; return s.out.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) CloseWrite() error                { s.ended = true; return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
func (s *script) Pending() int                     { return s.pending }
func (s *script) Await()                           { s.awaited++ }

// key is what the frames of tests are masked with.
var key = []byte{0x12, 0x34, 0x56, 0x78} //nolint:gochecknoglobals // a constant in all but syntax

// frame is a client's frame. first are the bits and the opcode.
func frame(first byte, payload string) string {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	b = append(b, key...)
	for i := range len(payload) {
		b = append(b, payload[i]^key[i%4])
	}
	return string(b)
}

// First bytes of frames.
const (
	more    = 0x00 // a continuation that is not the last
	last    = 0x80
	text    = 0x81
	data    = 0x82
	closing = 0x88
	ping    = 0x89
	pong    = 0x8a
	noFin   = 0x7f // to take the bit off
)

// readAll reads until the connection ends, with a buffer of some size.
func readAll(c *ws.Conn, size int) (string, error) {
	var got []byte
	for buf := make([]byte, size); ; {
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			return string(got), err
		}
	}
}

// readOn is readAll, after deadlines too.
func readOn(c *ws.Conn, size int) (string, error) {
	var got string
	for {
		read, err := readAll(c, size)
		if got += read; !errors.Is(err, os.ErrDeadlineExceeded) {
			return got, err
		}
	}
}

// interrupted is a connection on which a deadline passes before each read that gives
// something.
type interrupted struct {
	*script
	passed bool
}

func (i *interrupted) Read(p []byte) (int, error) {
	if i.passed = !i.passed; i.passed {
		return 0, os.ErrDeadlineExceeded
	}
	return i.script.Read(p)
}

// status is the payload of a close frame.
func status(code ws.Status, reason string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(code))) + reason
}
