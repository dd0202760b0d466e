package proxy

import (
	"crypto/rand"
	"encoding/hex"
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

// ids makes IDs out of random bytes that it gets for many at a time, which is most of what
// one costs. The zero value is ready.
type ids struct {
	mu   sync.Mutex
	pool [64 * len(ID{})]byte
	left int // bytes of pool that were not used, at its end
}

// next returns an ID.
func (s *ids) next() (id ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == 0 {
		_, _ = rand.Read(s.pool[:]) // never fails
		s.left = len(s.pool)
	}
	unused := s.pool[len(s.pool)-s.left:]
	n := copy(id[:], unused)
	s.left -= n
	clear(unused[:n]) // nobody is to find it in memory later
	return id
}
