package ws

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"iter"
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

// inflater reads messages that may be compressed. It can be left in the middle of one, when
// a deadline has passed or what has come is no more than a piece, and read on later. A
// flate.Reader cannot, so it runs in a coroutine, which waits where bytes lack, unless the
// last part of the message is at hand. Its methods are called under Conn.reading.
type inflater struct {
	conn *Conn

	buf  *[chunk]byte // nil while nothing was read
	in   []byte       // of buf, not taken apart
	part Part         // at hand
	out  []byte       // decompressed, not read

	// what decompresses: nothing if the message at hand is not compressed, or between two
	whole io.Reader             // where all of the message is there
	next  func() ([]byte, bool) // else the coroutine
	stop  func()

	// of the message that is decompressed, owned by the coroutine if there is one
	wait   func() bool // until there is more in; false: for no more
	tailed bool        // it has had tail
	isText bool
	text   text
	err    error // what it ends with
}

// read reads what there is, or waits once for more. It returns nothing, and no error, when
// that is no more than a ping, or a piece of something.
func (r *inflater) read(p []byte) (int, error) {
	if n, err := r.unpack(p); n > 0 || err != nil {
		return n, err
	}
	if r.buf == nil {
		r.buf = getChunk()
	}
	n, err := r.conn.Fill(r.buf[:])
	r.in = r.buf[:n]
	if err != nil {
		return 0, err
	}
	return r.unpack(p)
}

// close ends the coroutine.
func (r *inflater) close() {
	if r.stop != nil {
		r.stop()
		r.next, r.stop = nil, nil
	}
	if r.buf != nil {
		chunks.Put(r.buf)
	}
	r.buf, r.in, r.out, r.part, r.whole = nil, nil, nil, Part{}, nil
}

// unpack reads from what has come. It returns nothing, and no error, when there is nothing
// left of that.
func (r *inflater) unpack(p []byte) (int, error) {
	for {
		switch {
		case len(r.out) > 0:
			n := copy(p, r.out)
			r.out = r.out[n:]
			return n, nil
		case r.whole != nil:
			if n, err := r.direct(p); n > 0 || err != nil {
				return n, err
			}
		case r.next != nil:
			if more, err := r.resume(); !more || err != nil {
				return 0, err
			}
		case len(r.part.Payload) > 0:
			return r.take(p), nil
		default:
			if more, err := r.advance(); !more || err != nil {
				return 0, err
			}
			if r.part.Compressed {
				r.begin()
			}
		}
	}
}

// begin begins to decompress a message.
func (r *inflater) begin() {
	r.tailed, r.isText, r.text, r.err = false, r.part.Op == Text, text{}, nil
	if r.part.Last {
		r.whole = getReader(r)
		return
	}
	r.next, r.stop = iter.Pull(r.message)
}

// direct decompresses some of a message that is there as a whole. It returns nothing, and
// no error, at its end.
func (r *inflater) direct(p []byte) (int, error) {
	n, over := r.step(r.whole, p)
	if over {
		readers.Put(r.whole)
		r.whole, r.part = nil, Part{}
	}
	return n, r.err
}

// resume carries the decompression on. It returns false when that waits for more.
func (r *inflater) resume() (bool, error) {
	out, ok := r.next()
	if ok {
		r.out = out
		return len(out) > 0, nil
	}
	r.next, r.stop, r.part = nil, nil, Part{}
	return true, r.err
}

// take copies from the part at hand.
func (r *inflater) take(p []byte) int {
	n := copy(p, r.part.Payload)
	r.part.Payload = r.part.Payload[n:]
	return n
}

// advance gets the next part, if it has come.
func (r *inflater) advance() (bool, error) {
	part, rest, err := r.conn.Next(r.in)
	if r.in = rest; err != nil || part.Op == 0 {
		return false, err
	}
	r.part = part
	return true, nil
}

// message is the coroutine. It decompresses the message at hand, and yields nothing when it
// lacks bytes.
func (r *inflater) message(yield func([]byte) bool) {
	z, out := getReader(r), getChunk()
	defer readers.Put(z)
	defer chunks.Put(out)
	r.wait = func() bool { return yield(nil) }
	for over := false; !over; {
		var n int
		n, over = r.step(z, out[:])
		if n > 0 && !yield(out[:n]) {
			return
		}
	}
	r.skip()
}

// step decompresses some of the message at hand, and tells whether that is over, be it by
// an error.
func (r *inflater) step(z io.Reader, p []byte) (n int, over bool) {
	n, err := z.Read(p)
	over = err == io.EOF //nolint:errorlint // Read returns io.EOF itself
	switch {
	case errors.Is(r.err, errStopped):
		return 0, true
	case r.isText && !r.text.takes(p[:n], over):
		n, r.err = 0, errNotText
	case err != nil && !over && r.err == nil: // the decompressor has words of its own for others
		r.err = errPacked
	}
	if v := (*Violation)(nil); errors.As(r.err, &v) {
		r.conn.refuse(r.err) // or it was
	}
	return n, over || r.err != nil
}

// skip drops what a message has after the end of its DEFLATE stream.
func (r *inflater) skip() {
	for !r.part.Last && r.err == nil {
		r.err = r.await()
	}
}

// errStopped is what the decompressor gets that is to read no more.
var errStopped = errors.New("stopped")

// await gets the next part of the message at hand.
func (r *inflater) await() error {
	for {
		more, err := r.advance()
		switch {
		case more || err != nil:
			return err
		case !r.wait():
			return errStopped
		}
	}
}

// more gets more of the message at hand.
func (r *inflater) more() error {
	for len(r.part.Payload) == 0 && r.err == nil {
		switch {
		case !r.part.Last:
			r.err = r.await()
		case r.tailed:
			return io.EOF
		default:
			r.part.Payload, r.tailed = []byte(tail), true
		}
	}
	return r.err
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
