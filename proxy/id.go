package proxy

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync"
)

// ID names a session in the log, at its node and to who asks for the sessions. Nobody can guess it.
type ID [16]byte

// String returns 32 hexadecimal digits.
func (id ID) String() string {
	var text [2 * len(id)]byte
	hex.Encode(text[:], id[:])
	return string(text[:])
}

// ParseID reads what String has returned.
func ParseID(text string) (id ID, err error) {
	if len(text) != 2*len(id) {
		return id, fmt.Errorf("%q is no session's id: want %d hexadecimal digits", text, 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(text)); err != nil {
		return ID{}, fmt.Errorf("%q is no session's id: %w", text, err)
	}
	return id, nil
}

// ids makes IDs out of random bytes that it gets for many at a time, which is most of what
// one costs. Each processor has some of its own. The zero value is ready.
type ids struct {
	blocks sync.Pool // of *idBlock
}

// idBlock is random bytes.
type idBlock struct {
	bytes [64 * len(ID{})]byte
	left  int // how many were not used, at the end
}

// next returns an ID.
func (s *ids) next() ID {
	b, _ := s.blocks.Get().(*idBlock)
	if b == nil {
		b = new(idBlock)
	}
	defer s.blocks.Put(b)
	return b.next()
}

func (b *idBlock) next() (id ID) {
	if b.left == 0 {
		_, _ = rand.Read(b.bytes[:]) // never fails
		b.left = len(b.bytes)
	}
	unused := b.bytes[len(b.bytes)-b.left:]
	n := copy(id[:], unused)
	b.left -= n
	clear(unused[:n]) // nobody is to find it in memory later
	return id
}
