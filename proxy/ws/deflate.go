package ws

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"sync"
)

// deflateMin is from how many bytes on a message is compressed.
const deflateMin = 512

// flush is the end of what a flate.Writer flushes, which is not sent (RFC 7692 §7.2.1).
const flush = "\x00\x00\xff\xff"

// tail is what a message lacks to be a whole DEFLATE stream: that, and an empty last block.
const tail = flush + "\x01\x00\x00\xff\xff"

//nolint:gochecknoglobals // they are large, and shared by all sessions of the process
var (
	writers sync.Pool
	readers sync.Pool
)

// deflated returns p as the payload of a compressed message.
func deflated(p []byte) []byte {
	var buf bytes.Buffer
	w, ok := writers.Get().(*flate.Writer)
	if ok {
		w.Reset(&buf)
	} else {
		w, _ = flate.NewWriter(&buf, flate.BestSpeed) // which is a level that there is
	}
	_, _ = w.Write(p) // a bytes.Buffer takes all
	_ = w.Flush()
	writers.Put(w)
	return bytes.TrimSuffix(buf.Bytes(), []byte(flush))
}

// getReader returns what decompresses from.
func getReader(from io.Reader) io.Reader {
	r, ok := readers.Get().(interface {
		io.Reader
		flate.Resetter
	})
	if !ok || r.Reset(from, nil) != nil {
		return flate.NewReader(from)
	}
	return r
}

// ErrTooLong is what comes of a message that holds more than it may.
var ErrTooLong = errors.New("message too long")

// Inflate returns what a compressed message holds, if that is limit bytes at most.
func Inflate(message []byte, limit int) ([]byte, error) {
	r := getReader(io.MultiReader(bytes.NewReader(message), bytes.NewReader([]byte(tail))))
	defer readers.Put(r)
	p, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	switch {
	case err != nil:
		return nil, errPacked
	case len(p) > limit:
		return nil, ErrTooLong
	}
	return p, nil
}

// inflater reads messages that may be compressed. It waits in the middle of one, so it
// is for connections that block.
type inflater struct {
	conn   *Conn
	buf    [chunk]byte
	in     []byte    // of buf, not taken apart
	part   Part      // at hand
	open   io.Reader // decompresses the message at hand; nil if it is not compressed, or between two
	tailed bool      // and has had tail
	isText bool
	text   text
	err    error // why there are no more parts
}

// inflated is Read where messages may be compressed.
func (c *Conn) inflated(p []byte) (int, error) {
	if c.inflate == nil {
		c.inflate = &inflater{conn: c}
	}
	return c.inflate.read(p)
}

func (r *inflater) read(p []byte) (int, error) {
	for {
		switch {
		case r.open != nil:
			if n, err := r.unpack(p); n > 0 || err != nil {
				return n, err
			}
		case len(r.part.Payload) > 0:
			return r.take(p), nil
		default:
			if err := r.next(); err != nil {
				return 0, err
			}
			if r.part.Compressed {
				r.open, r.tailed, r.isText = getReader(r), false, r.part.Op == Text
			}
		}
	}
}

// take copies from the part at hand.
func (r *inflater) take(p []byte) int {
	n := copy(p, r.part.Payload)
	r.part.Payload = r.part.Payload[n:]
	return n
}

// unpack reads what the message at hand holds, which is over when it returns nothing.
func (r *inflater) unpack(p []byte) (int, error) {
	n, err := r.open.Read(p)
	over := err == io.EOF //nolint:errorlint // Read returns io.EOF itself
	switch {
	case r.isText && !r.text.takes(p[:n], over):
		r.conn.refuse(errNotText)
		return 0, errNotText
	case err != nil && r.err != nil: // the decompressor has words of its own for that
		return n, r.err
	case err != nil && !over:
		r.conn.refuse(errPacked)
		return n, errPacked
	case over:
		readers.Put(r.open)
		r.open = nil
		err = r.skip()
	}
	return n, err
}

// skip drops what a message has after the end of its DEFLATE stream.
func (r *inflater) skip() error {
	for !r.part.Last {
		if err := r.next(); err != nil {
			return err
		}
	}
	r.part = Part{}
	return nil
}

// next gets the next part.
func (r *inflater) next() error {
	for r.err == nil {
		part, rest, err := r.conn.Next(r.in)
		if r.in = rest; err == nil && part.Op != 0 {
			r.part = part
			return nil
		}
		n := 0
		if err == nil {
			n, err = r.conn.Fill(r.buf[:])
		}
		r.in, r.err = r.buf[:n], err
	}
	err := r.err
	if r.open == nil {
		r.err = nil // between two messages it may be read on after a deadline
	}
	return err
}

// more gets more of the message at hand, for who decompresses it.
func (r *inflater) more() error {
	for len(r.part.Payload) == 0 {
		switch {
		case !r.part.Last:
			if err := r.next(); err != nil {
				return err
			}
		case r.tailed:
			return io.EOF
		default:
			r.part.Payload, r.tailed = []byte(tail), true
		}
	}
	return nil
}

// Read is what the decompressor reads the message at hand with.
func (r *inflater) Read(p []byte) (int, error) {
	if err := r.more(); err != nil {
		return 0, err
	}
	return r.take(p), nil
}

// ReadByte is, too. Without it, the decompressor would have a buffer of its own.
func (r *inflater) ReadByte() (byte, error) {
	if err := r.more(); err != nil {
		return 0, err
	}
	b := r.part.Payload[0]
	r.part.Payload = r.part.Payload[1:]
	return b, nil
}
