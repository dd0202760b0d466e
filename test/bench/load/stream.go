//go:build linux

package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// stream is a connection, or a stream of one, on which messages go and come.
type stream interface {
	io.ReadWriteCloser
	SetDeadline(t time.Time) error
}

// talk is one stream's conversation with the backend.
type talk struct {
	stream
	pattern *Pattern
	seed    uint64
	pos     uint64 // in the pattern: the next byte to send, and to come back
	buf     []byte
}

func newTalk(s stream, p *Pattern, seed uint64, size int) *talk {
	return &talk{stream: s, pattern: p, seed: seed, pos: origin(seed), buf: make([]byte, size)}
}

// greet says what the stream is for, and has it echoed if it is for that.
func (t *talk) greet(m mode) error {
	h := hello{m, t.seed}.bytes()
	if _, err := t.Write(h); err != nil || m != echo {
		return err
	}
	var got [helloSize]byte
	if _, err := io.ReadFull(t, got[:]); err != nil {
		return fmt.Errorf("echo of the hello: %w", err)
	}
	if string(got[:]) != string(h) {
		return fmt.Errorf("the echo of the hello is %q", got)
	}
	return nil
}

// roundTrip has the next message echoed.
func (t *talk) roundTrip() error {
	if _, err := t.Write(t.pattern.At(t.pos, len(t.buf))); err != nil {
		return err
	}
	if _, err := io.ReadFull(t, t.buf); err != nil {
		return err
	}
	if err := t.pattern.Check(t.pos, t.buf); err != nil {
		return err
	}
	t.pos += uint64(len(t.buf))
	return nil
}

// ask sends a hello with a message behind it, at once, and has both echoed.
func (t *talk) ask() error {
	request := append(hello{echo, t.seed}.bytes(), t.pattern.At(t.pos, len(t.buf)-helloSize)...)
	if _, err := t.Write(request); err != nil {
		return err
	}
	if _, err := io.ReadFull(t, t.buf); err != nil {
		return err
	}
	if string(t.buf[:helloSize]) != string(request[:helloSize]) {
		return fmt.Errorf("the echo of the hello is %q", t.buf[:helloSize])
	}
	return t.pattern.Check(t.pos, t.buf[helloSize:])
}

// take reads and checks what comes next of what is poured.
func (t *talk) take() (int, error) {
	n, err := t.Read(t.buf)
	if err != nil {
		return n, err
	}
	err = t.pattern.Check(t.pos, t.buf[:n])
	t.pos += uint64(n) //nolint:gosec // a length
	return n, err
}

// streamBackend is what tcpBackend is, for connections that are a goroutine's each.
type streamBackend struct {
	pattern *Pattern
	log     io.Writer
}

func (b *streamBackend) serve(conn net.Conn) {
	err := b.answer(conn)
	var wrong *MismatchError
	if errors.As(err, &wrong) || errors.Is(err, errHello) {
		fmt.Fprintln(b.log, "backend:", err)
	}
}

func (b *streamBackend) answer(conn net.Conn) error {
	buf := make([]byte, 16<<10)
	if _, err := io.ReadFull(conn, buf[:helloSize]); err != nil {
		return err
	}
	h, err := parseHello(buf[:helloSize])
	if err != nil {
		return err
	}
	switch h.mode {
	case echo:
		return b.echo(conn, buf)
	case pour:
		return b.pour(conn, origin(h.seed))
	case sink:
		return b.sink(conn, origin(h.seed), buf)
	}
	return nil
}

// echo sends back what comes; the hello is in the buffer.
func (b *streamBackend) echo(conn net.Conn, buf []byte) error {
	n := helloSize
	for {
		if _, err := conn.Write(buf[:n]); err != nil {
			return err
		}
		var err error
		if n, err = conn.Read(buf); err != nil {
			return err
		}
	}
}

func (b *streamBackend) pour(conn net.Conn, pos uint64) error {
	for {
		n, err := conn.Write(b.pattern.At(pos, patternMost))
		if err != nil {
			return err
		}
		pos += uint64(n) //nolint:gosec // a length
	}
}

func (b *streamBackend) sink(conn net.Conn, pos uint64, buf []byte) error {
	start := pos
	for {
		n, err := conn.Read(buf)
		if err := b.pattern.Check(pos, buf[:n]); err != nil {
			return err
		}
		pos += uint64(n) //nolint:gosec // a length
		if errors.Is(err, io.EOF) {
			_, err := conn.Write(binary.BigEndian.AppendUint64(nil, pos-start))
			return err
		}
		if err != nil {
			return err
		}
	}
}
