package proxy

import (
	"crypto/rand"
	"encoding/hex"
	"sync"
)

// idBytes is of how many bytes an ID is made.
const idBytes = 16

// ids makes IDs out of random bytes that it gets for many at a time, which is most of what
// one costs. The zero value is ready.
type ids struct {
	mu   sync.Mutex
	pool [64 * idBytes]byte
	left int // bytes of pool that were not used, at its end
}

// next returns 32 hexadecimal digits that nobody can guess.
func (s *ids) next() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == 0 {
		_, _ = rand.Read(s.pool[:]) // never fails
		s.left = len(s.pool)
	}
	unused := s.pool[len(s.pool)-s.left:][:idBytes]
	s.left -= idBytes
	var id [2 * idBytes]byte
	hex.Encode(id[:], unused)
	clear(unused) // nobody is to find it in memory later
	return string(id[:])
}
