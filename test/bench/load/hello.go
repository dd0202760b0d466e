//go:build linux

package load

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// mode is what a client wants of the backend.
type mode byte

const (
	echo mode = 'e' // all that is sent comes back, the hello included
	sink mode = 's' // the pattern is sent; at the end the count of good bytes comes back
	pour mode = 'd' // the pattern comes
)

// helloSize is the length of what a connection begins with.
const helloSize = 16

// hello says what a connection is for, and where in the pattern it begins.
type hello struct {
	mode mode
	seed uint64
}

var helloMark = [4]byte{'i', 'm', 'l', 'b'} //nolint:gochecknoglobals // a constant

func (h hello) bytes() []byte {
	b := make([]byte, 0, helloSize)
	b = append(b, helloMark[:]...)
	b = append(b, byte(h.mode), 0, 0, 0)
	return binary.BigEndian.AppendUint64(b, h.seed)
}

var errHello = errors.New("a connection does not begin as one of the generator's")

func parseHello(b []byte) (h hello, err error) {
	if len(b) != helloSize || [4]byte(b) != helloMark {
		return h, fmt.Errorf("%w: %q", errHello, b)
	}
	h = hello{mode: mode(b[4]), seed: binary.BigEndian.Uint64(b[8:])}
	switch h.mode {
	case echo, sink, pour:
		return h, nil
	}
	return h, fmt.Errorf("%w: mode %q", errHello, h.mode)
}
